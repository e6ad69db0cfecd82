/* Tells of changes below a directory, as they happen. A directory that appears is watched, then looked into: what was put there before it
 * was watched is told of as new. What the kernel could not keep is told of as an overflow, and all is watched anew. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "beneath.h"
#include "files.h"
#include "walk.h"

enum {
    BATCH = 64 * 1024, /* bytes of events taken at once */
    SEEN = 8192,       /* places for what a batch has told already: more than it can hold, a power of two */
    MOST = 65536,      /* directories */
    PAUSE_MS = 20,     /* for what belongs together to come together */
    WANTED = IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR | IN_DONT_FOLLOW |
             IN_EXCL_UNLINK,
};

static int queue, root;
static char *paths[MOST]; /* by watch descriptor, which the kernel counts up: NULL when nothing is watched, else "" or with a slash at the end */
static bool lost;
static struct walk tree;
static bool quietly; /* whether what a look finds is told of */

/* One record: "KIND PATH" NUL. */
static void tell(const char *kind, const char *directory, const char *name) {
    file_put(kind, strlen(kind));
    file_put(" ", 1);
    file_put(directory, strlen(directory));
    file_put(name, strlen(name) + 1);
}

/* By a descriptor, so that nobody can put a link in its place in between. */
static void watch(int directory, const char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d/.", directory);
    int number = inotify_add_watch(queue, link, WANTED);
    if (number < 0 || number >= MOST) {
        lost = lost || errno != ENOENT;
        return;
    }
    free(paths[number]);
    paths[number] = strdup(path);
    if (paths[number] == NULL)
        fail(ENOMEM);
}

static void look_into(int directory);

static bool meet(struct walk *walk, int directory, const char *leaf, const struct stat *stat) {
    if (!quietly && !file_is_temporary(leaf))
        tell("created", walk->path, "");
    if (!S_ISDIR(stat->st_mode))
        return false;
    int below = openat(directory, leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (below >= 0) {
        size_t length = strlen(walk->path);
        if (length + 2 < sizeof walk->path) {
            memcpy(walk->path + length, "/", 2);
            watch(below, walk->path);
            walk->path[length] = '\0';
        }
        close(below);
    }
    return true;
}

/* Watches a directory and all below it; `tree.path` is its own path. First watched, then looked into: nothing falls in between. */
static void look_into(int directory) {
    watch(directory, tree.path);
    tree.enter = meet;
    tree.error = 0;
    walk_all(&tree, directory);
    lost = lost || (tree.error != 0 && tree.error != ENOENT && tree.error != EACCES);
}

static void look_at_new(const char *directory, const char *name) {
    int length = snprintf(tree.path, sizeof tree.path, "%s%s", directory, name);
    if (length < 0 || (size_t)length + 2 > sizeof tree.path) {
        lost = true;
        return;
    }
    int fd = open_beneath(root, tree.path, false);
    if (fd < 0)
        return; /* gone again: that is told of, too */
    memcpy(tree.path + length, "/", 2);
    quietly = false;
    look_into(fd);
    close(fd);
}

/* A directory was moved: what is below it goes by other names from now on, or is elsewhere. */
static void forget(const char *directory, const char *name) {
    char prefix[WALK_PATH];
    int length = snprintf(prefix, sizeof prefix, "%s%s/", directory, name);
    for (int i = 0; length > 0 && i < MOST; i++)
        if (paths[i] != NULL && strncmp(paths[i], prefix, (size_t)length) == 0) {
            inotify_rm_watch(queue, i);
            free(paths[i]);
            paths[i] = NULL;
        }
}

static const char *kind_of(uint32_t mask) {
    if (mask & IN_CREATE)
        return "created";
    if (mask & IN_DELETE)
        return "removed";
    if (mask & IN_MOVED_FROM)
        return "moved_from";
    if (mask & IN_MOVED_TO)
        return "moved_to";
    if (mask & IN_MODIFY)
        return "modified";
    if (mask & IN_CLOSE_WRITE)
        return "written";
    return mask & IN_ATTRIB ? "attributes" : NULL;
}

/* Whether the same was told before in this batch, with nothing else about the name in between: only the latest of a name counts. */
static bool repeated(const struct inotify_event *event, const struct inotify_event **seen) {
    uint32_t hash = 2166136261u ^ (uint32_t)event->wd;
    for (const char *at = event->name; *at != '\0'; at++)
        hash = (hash ^ (uint8_t)*at) * 16777619u;
    for (uint32_t i = hash;; i++) {
        const struct inotify_event **place = &seen[i & (SEEN - 1)];
        if (*place == NULL || ((*place)->wd == event->wd && strcmp((*place)->name, event->name) == 0)) {
            bool same = *place != NULL && (*place)->mask == event->mask;
            *place = event;
            return same;
        }
    }
}

static void overflow(void) {
    lost = false;
    tell("overflow", "", "");
    quietly = true;
    tree.path[0] = '\0';
    lseek(root, 0, SEEK_SET); /* it has been read to its end before */
    look_into(root);
    lost = false; /* what cannot be watched was told of already */
}

static void take_batch(void) {
    static _Alignas(struct inotify_event) char batch[BATCH];
    static const struct inotify_event *seen[SEEN];
    ssize_t size = read(queue, batch, sizeof batch);
    if (size < 0 && errno != EINTR && errno != EAGAIN)
        fail(errno);
    memset(seen, 0, sizeof seen);
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const void *)(batch + at);
        at += (ssize_t)(sizeof *event + event->len);
        if (event->mask & IN_Q_OVERFLOW)
            lost = true;
        if (event->wd < 0 || event->wd >= MOST || paths[event->wd] == NULL)
            continue;
        if (event->mask & IN_IGNORED) {
            free(paths[event->wd]);
            paths[event->wd] = NULL;
            continue;
        }
        const char *kind = kind_of(event->mask);
        if (kind == NULL || event->len == 0 || file_is_temporary(event->name) || repeated(event, seen))
            continue;
        const char *directory = paths[event->wd];
        tell(kind, directory, event->name);
        if (event->mask & IN_ISDIR && event->mask & IN_MOVED_FROM)
            forget(directory, event->name);
        if (event->mask & IN_ISDIR && event->mask & (IN_CREATE | IN_MOVED_TO))
            look_at_new(directory, event->name);
    }
    if (lost)
        overflow();
    file_done(0);
}

int file_watch_main(int argc, char **argv) {
    if (argc != 1) {
        fputs("usage: guest file-watch PATH\n", stderr);
        return 2;
    }
    root = file_open(argv[0], O_RDONLY | O_DIRECTORY);
    queue = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (queue < 0)
        fail(errno);
    quietly = true;
    look_into(root);
    tell("ready", "", "");
    if (lost)
        overflow();
    file_done(0);
    for (;;) {
        struct pollfd waits = {.fd = queue, .events = POLLIN};
        if (poll(&waits, 1, -1) < 0 && errno != EINTR)
            fail(errno);
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
        take_batch();
    }
}
