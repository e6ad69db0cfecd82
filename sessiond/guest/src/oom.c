/* The oom_kill counter of the guest's own memory cgroup, kept open: reading it is one system call. */
#include "oom.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int counter = -1;

static bool try_open(const char *mount, const char *group, size_t length, const char *file) {
    char path[1024];
    snprintf(path, sizeof path, "%s%.*s/%s", mount, (int)length, group, file);
    counter = open(path, O_RDONLY | O_CLOEXEC);
    return counter >= 0;
}

void oom_open(void) {
    char groups[2048];
    int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, groups, sizeof groups - 1);
    if (fd >= 0)
        close(fd);
    groups[length > 0 ? length : 0] = '\0';

    /* Lines are "hierarchy:controllers:path". Where the container sees its own cgroup as the root of the mount (Docker with v1, or a
     * cgroup namespace) the path leads nowhere, and the mount's root is the one. */
    for (char *line = groups; *line != '\0'; line += strcspn(line, "\n"), line += *line == '\n') {
        char *controllers = strchr(line, ':');
        char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (path == NULL)
            return;
        *path++ = '\0';
        size_t end = strcspn(path, "\n");
        if (strcmp(controllers, ":memory") == 0 &&
            (try_open("/sys/fs/cgroup/memory", path, end, "memory.oom_control") ||
             try_open("/sys/fs/cgroup/memory", "", 0, "memory.oom_control")))
            return;
        if (strcmp(controllers, ":") == 0 && (try_open("/sys/fs/cgroup", path, end, "memory.events") ||
                                              try_open("/sys/fs/cgroup", "", 0, "memory.events")))
            return;
        line = path;
    }
}

uint64_t oom_count(void) {
    char text[512];
    ssize_t length = counter < 0 ? 0 : pread(counter, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = '\0';
    const char *found = strstr(text, "oom_kill ");
    return found == NULL ? 0 : strtoull(found + strlen("oom_kill "), NULL, 10);
}
