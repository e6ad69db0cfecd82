/* What is in a file: reading it, writing it, its checksum. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "beneath.h"
#include "files.h"
#include "sha256.h"

enum { BUFFER = 128 * 1024, DEFAULT_MODE = 0644 };

static uint8_t buffer[BUFFER];

static size_t get(int fd, size_t most) {
    for (;;) {
        ssize_t got = read(fd, buffer, most < BUFFER ? most : BUFFER);
        if (got >= 0)
            return (size_t)got;
        if (errno != EINTR)
            fail(errno);
    }
}

static void put(int fd, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t written = write(fd, buffer + done, size - done);
        if (written < 0 && errno != EINTR)
            fail(errno);
        if (written > 0)
            done += (size_t)written;
    }
}

int file_read_main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: guest file-read PATH OFFSET LENGTH|-\n", stderr);
        return 2;
    }
    uint64_t offset = file_number(argv[1], 10, INT64_MAX);
    uint64_t left = strcmp(argv[2], "-") == 0 ? UINT64_MAX : file_number(argv[2], 10, INT64_MAX);
    int fd = file_regular(file_open(argv[0], O_RDONLY | O_NONBLOCK | O_NOCTTY));
    if (offset > 0 && lseek(fd, (off_t)offset, SEEK_SET) < 0)
        fail(errno);
    for (size_t got; left > 0 && (got = get(fd, left < BUFFER ? (size_t)left : BUFFER)) > 0; left -= got)
        put(STDOUT_FILENO, got);
    return 0;
}

int file_checksum_main(int argc, char **argv) {
    struct sha256 sum;
    char hex[SHA256_HEX];
    if (argc != 1) {
        fputs("usage: guest file-checksum PATH\n", stderr);
        return 2;
    }
    int fd = file_regular(file_open(argv[0], O_RDONLY | O_NONBLOCK | O_NOCTTY));
    sha256_begin(&sum);
    for (size_t got; (got = get(fd, BUFFER)) > 0;)
        sha256_add(&sum, buffer, got);
    sha256_end(&sum, hex);
    puts(hex);
    return file_done(0);
}

/* Standard input into the file, and what came on standard output: "SIZE SHA256". */
static void fill(int fd) {
    struct sha256 sum;
    char hex[SHA256_HEX];
    uint64_t size = 0;
    sha256_begin(&sum);
    for (size_t got; (got = get(STDIN_FILENO, BUFFER)) > 0; size += got) {
        put(fd, got);
        sha256_add(&sum, buffer, got);
    }
    sha256_end(&sum, hex);
    printf("%llu %s\n", (unsigned long long)size, hex);
}

static void draw_name(char *name, size_t size) {
    uint64_t chance;
    if (getrandom(&chance, sizeof chance, 0) != sizeof chance)
        fail(errno);
    snprintf(name, size, ".sessiond-%016llx", (unsigned long long)chance);
}

static int draft_directory = -1; /* of a draft that must not stay */
static char draft[32];

static void remove_draft(void) {
    if (draft_directory >= 0)
        unlinkat(draft_directory, draft, 0);
}

/* A file without a name gets one only when it is complete, so that nothing is left of a write that is killed. Where the file system does
 * not know such files, one with a name of its own has to do. */
static void replace(int directory, const char *leaf, mode_t mode, bool keep_mode) {
    char link[32];
    struct stat old;
    if (fstatat(directory, leaf, &old, AT_SYMLINK_NOFOLLOW) == 0) {
        if (S_ISDIR(old.st_mode))
            fail(EISDIR);
        if (keep_mode && S_ISREG(old.st_mode))
            mode = old.st_mode & 0777;
    }
    draw_name(draft, sizeof draft);
    atexit(remove_draft);
    int fd = openat(directory, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, mode);
    bool named = fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT);
    if (named)
        fd = openat(directory, draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        fail(errno);
    if (named)
        draft_directory = directory;
    fill(fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (!named && linkat(AT_FDCWD, link, directory, draft, AT_SYMLINK_FOLLOW) != 0)
        fail(errno);
    draft_directory = directory;
    if (close(fd) != 0 || renameat(directory, draft, directory, leaf) != 0)
        fail(errno);
    draft_directory = -1;
}

int file_write_main(int argc, char **argv) {
    const char *leaf;
    if (argc != 4) {
        fputs("usage: guest file-write PATH replace|append|create|at OFFSET MODE|-\n", stderr);
        return 2;
    }
    const char *how = argv[1];
    off_t offset = (off_t)file_number(argv[2], 10, INT64_MAX);
    bool keep_mode = strcmp(argv[3], "-") == 0;
    mode_t mode = keep_mode ? DEFAULT_MODE : (mode_t)file_number(argv[3], 8, 0777);
    signal(SIGXFSZ, SIG_IGN); /* so that a file that is too large is an error like others */
    umask(0);
    int directory = file_parent(argv[0], &leaf);
    if (strcmp(how, "replace") == 0) {
        replace(directory, leaf, mode, keep_mode);
        return file_done(0);
    }
    bool append = strcmp(how, "append") == 0, create = strcmp(how, "create") == 0;
    int flags = O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | (append ? O_APPEND : 0) | (create ? O_EXCL : 0);
    int fd = openat(directory, leaf, flags | O_CLOEXEC, mode);
    if (fd < 0)
        fail(errno);
    file_regular(fd);
    if (!keep_mode && fchmod(fd, mode) != 0)
        fail(errno);
    if (!append && offset > 0 && lseek(fd, offset, SEEK_SET) < 0)
        fail(errno);
    fill(fd);
    if (close(fd) != 0)
        fail(errno);
    return file_done(0);
}
