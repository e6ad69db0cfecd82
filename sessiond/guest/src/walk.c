/* Walks a tree with one open directory a level, and one path for all. */
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void miss(struct walk *walk, int error) {
    if (walk->error == 0)
        walk->error = error;
}

static void walk_entries(struct walk *walk, int fd, size_t length, unsigned depth);

static void walk_entry(struct walk *walk, int fd, const char *leaf, size_t length, unsigned depth) {
    struct stat stat;
    size_t size = strlen(leaf);
    if (length + size + 2 > sizeof walk->path) {
        miss(walk, ENAMETOOLONG);
        return;
    }
    memcpy(walk->path + length, leaf, size + 1);
    if (fstatat(fd, leaf, &stat, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno != ENOENT) /* removed meanwhile: as if it had never been */
            miss(walk, errno);
        return;
    }
    if (!walk->enter(walk, fd, leaf, &stat) || !S_ISDIR(stat.st_mode) || walk->stopped)
        return;
    int below = depth < WALK_DEPTH ? openat(fd, leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (below < 0) {
        if (depth >= WALK_DEPTH)
            miss(walk, ELOOP);
        else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) /* replaced meanwhile */
            miss(walk, errno);
        return;
    }
    walk->path[length + size] = '/';
    walk_entries(walk, below, length + size + 1, depth + 1);
    close(below);
    walk->path[length + size] = '\0';
    if (walk->leave != NULL)
        walk->leave(walk, fd, leaf);
}

static void walk_entries(struct walk *walk, int fd, size_t length, unsigned depth) {
    struct entry { /* struct linux_dirent64, which musl does not declare */
        uint64_t inode, offset;
        uint16_t length;
        uint8_t type;
        char name[];
    };
    _Alignas(struct entry) char entries[4096];
    long size;
    while (!walk->stopped && (size = syscall(SYS_getdents64, fd, entries, sizeof entries)) != 0) {
        if (size < 0) {
            miss(walk, errno);
            return;
        }
        for (long at = 0; at < size && !walk->stopped;) {
            const struct entry *entry = (const void *)(entries + at);
            at += entry->length;
            if (strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0)
                walk_entry(walk, fd, entry->name, length, depth);
        }
    }
}

void walk_all(struct walk *walk, int directory) {
    walk_entries(walk, directory, strlen(walk->path), 0);
}
