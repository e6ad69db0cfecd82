/* guest: PID 1 of a sandbox, and the tools that come in the same file because it is in every sandbox anyway. */
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "dial.h"
#include "files.h"
#include "floor.h"
#include "frame.h"
#include "init.h"
#include "probe.h"
#include "tar_modes.h"

#ifndef GUEST_VERSION
#error "build.py gives the version"
#endif

static int usage(void) {
    fputs("usage: guest init --dial SOCKET [--seccomp] [--noexec PATH]...   be PID 1\n"
          "       guest floor COUNT PROGRAM [ARG...]     measure a bare spawn\n"
          "       guest probe NAME [LIMIT] | list        try what must not work\n"
          "       guest tar-export DIRECTORY             as a tar archive, to standard output\n"
          "       guest tar-import DIRECTORY             of one from standard input\n"
          "       guest file-...                         each says what it takes\n"
          "       guest dial tcp PORT | unix PATH        standard streams to a socket\n"
          "       guest version\n",
          stderr);
    return 2;
}

static int init_main(int argc, char **argv) {
    struct init init = {0};
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--seccomp") == 0)
            init.with_seccomp = true;
        else if (strcmp(argv[i], "--dial") == 0 && i + 1 < argc)
            init.socket_path = argv[++i];
        else if (strcmp(argv[i], "--noexec") == 0 && i + 1 < argc && init.noexec_count < NOEXEC_MOST)
            init.noexec[init.noexec_count++] = argv[++i];
        else
            return usage();
    if (init.socket_path == NULL || strlen(init.socket_path) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return usage();
    init_run(&init);
}

static const struct mode {
    const char *name;
    int (*run)(int argc, char **argv);
} modes[] = {
    {"floor", floor_main},
    {"probe", probe_main},
    {"tar-export", tar_export_main},
    {"tar-import", tar_import_main},
    {"file-read", file_read_main},
    {"file-write", file_write_main},
    {"file-checksum", file_checksum_main},
    {"file-stat", file_stat_main},
    {"file-list", file_list_main},
    {"file-search", file_search_main},
    {"file-mkdir", file_mkdir_main},
    {"file-rename", file_rename_main},
    {"file-remove", file_remove_main},
    {"file-chmod", file_chmod_main},
    {"file-watch", file_watch_main},
    {"dial", dial_main},
};

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "init") == 0)
        return init_main(argc - 2, argv + 2);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode, modes[i].name) == 0)
            return modes[i].run(argc - 2, argv + 2);
    if (strcmp(mode, "version") == 0) {
        printf("{\"version\":\"%s\",\"protocol\":%d}\n", GUEST_VERSION, PROTOCOL_VERSION);
        return 0;
    }
    return usage();
}
