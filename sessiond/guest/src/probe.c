/* Runs one probe and prints one line of JSON: {"probe": name, "held": true or false, "detail": what happened}. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct probe *const groups[] = {identity_probes, kernel_probes, reach_probes, limit_probes};
enum { GROUPS = sizeof groups / sizeof *groups };

static char detail[512];

bool say(bool held, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    return held;
}

bool refused(const char *what, long result) {
    /* Any other error means that the call was let in and merely did not like its arguments. */
    static const int refusals[] = {EPERM, EACCES, EROFS, ENOSYS, EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EIO, EFBIG};
    bool held = false;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        held |= result < 0 && errno == refusals[i];
    size_t used = strlen(detail);
    snprintf(detail + used, sizeof detail - used, "%s%s: %s", used > 0 ? "; " : "", what,
             result < 0 ? strerror(errno) : "not refused");
    return held;
}

const char *file_text(const char *path) {
    static char text[8192];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
    return text;
}

const char *status_field(const char *name) {
    static char value[64];
    value[0] = '\0';
    const char *line = file_text("/proc/self/status");
    size_t length = strlen(name);
    while (*line != '\0') {
        size_t end = strcspn(line, "\n");
        if (strncmp(line, name, length) == 0 && line[length] == ':') {
            const char *start = line + length + 1 + strspn(line + length + 1, "\t ");
            snprintf(value, sizeof value, "%.*s", (int)(line + end - start), start);
            break;
        }
        line += end + (line[end] == '\n');
    }
    return value;
}

static void print_json(const char *name, bool held) {
    printf("{\"probe\":\"%s\",\"held\":%s,\"detail\":\"", name, held ? "true" : "false");
    for (const char *at = detail; *at != '\0'; at++)
        if (*at == '"' || *at == '\\')
            printf("\\%c", *at);
        else
            putchar((unsigned char)*at < ' ' ? ' ' : *at);
    puts("\"}");
}

int probe_main(int argc, char **argv) {
    const char *wanted = argc >= 1 ? argv[0] : "";
    bool list = strcmp(wanted, "list") == 0;
    for (int group = 0; group < GROUPS; group++)
        for (const struct probe *probe = groups[group]; probe->name != NULL; probe++) {
            if (list) {
                printf("%s%s%s\n", probe->name, probe->unit != NULL ? " " : "", probe->unit != NULL ? probe->unit : "");
                continue;
            }
            if (strcmp(probe->name, wanted) != 0)
                continue;
            double limit = argc >= 2 ? strtod(argv[1], NULL) : 0;
            if (probe->unit != NULL && !(limit > 0)) {
                fprintf(stderr, "guest: probe %s needs its limit, in %s\n", wanted, probe->unit);
                return 2;
            }
            /* With root's powers a probe of what must not work could do what must not be done. */
            bool tried = geteuid() != 0 || groups[group] == identity_probes;
            bool held = tried ? probe->held(limit) : say(false, "not tried as root");
            print_json(wanted, held);
            return held ? 0 : 1;
        }
    if (list)
        return 0;
    fprintf(stderr, "guest: no probe is called '%s'; see: guest probe list\n", wanted);
    return 2;
}
