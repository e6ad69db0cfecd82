/* What is where: one entry, a listing, and changes to names and modes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "beneath.h"
#include "files.h"
#include "glob.h"
#include "walk.h"

static const char *wanted;
static bool recursive;
static struct walk tree;

int file_stat_main(int argc, char **argv) {
    struct stat stat;
    if (argc != 1) {
        fputs("usage: guest file-stat PATH\n", stderr);
        return 2;
    }
    int fd = file_open(argv[0], O_PATH | O_NOFOLLOW);
    if (fstat(fd, &stat) != 0)
        fail(errno);
    file_put_entry(argv[0], &stat, fd, "");
    return file_done(0);
}

static bool list_entry(struct walk *walk, int directory, const char *leaf, const struct stat *stat) {
    if (*wanted == '\0' || glob_match(wanted, walk->path))
        file_put_entry(walk->path, stat, directory, leaf);
    return recursive;
}

int file_list_main(int argc, char **argv) {
    if (argc != 3 || (strcmp(argv[1], "flat") != 0 && strcmp(argv[1], "recursive") != 0)) {
        fputs("usage: guest file-list PATH flat|recursive PATTERN\n", stderr);
        return 2;
    }
    recursive = argv[1][0] == 'r';
    wanted = argv[2];
    tree.enter = list_entry;
    walk_all(&tree, file_open(argv[0], O_RDONLY | O_DIRECTORY));
    if (tree.error != 0)
        fprintf(stderr, "%d %s\n", tree.error, strerror(tree.error));
    return file_done(tree.error != 0 ? FILE_INCOMPLETE : 0);
}

int file_mkdir_main(int argc, char **argv) {
    const char *leaf, *inside;
    if (argc != 2 || (strcmp(argv[1], "one") != 0 && strcmp(argv[1], "parents") != 0)) {
        fputs("usage: guest file-mkdir PATH one|parents\n", stderr);
        return 2;
    }
    umask(0);
    if (argv[1][0] == 'o') {
        int directory = file_parent(argv[0], &leaf);
        if (mkdirat(directory, leaf, 0755) != 0)
            fail(errno);
        return 0;
    }
    int root = file_root(argv[0], &inside);
    if (open_inside(root, inside, O_RDONLY | O_DIRECTORY, 0) >= 0)
        return 0;
    if (errno == EXDEV || open_beneath(root, inside, true) < 0)
        fail_on_the_way();
    return 0;
}

int file_rename_main(int argc, char **argv) {
    const char *from, *to;
    if (argc != 2) {
        fputs("usage: guest file-rename FROM TO\n", stderr);
        return 2;
    }
    int source = file_parent(argv[0], &from), target = file_parent(argv[1], &to);
    if (renameat(source, from, target, to) != 0)
        fail(errno);
    return 0;
}

int file_chmod_main(int argc, char **argv) {
    char link[32];
    if (argc != 2) {
        fputs("usage: guest file-chmod PATH MODE\n", stderr);
        return 2;
    }
    mode_t mode = (mode_t)file_number(argv[1], 8, 0777);
    int fd = file_open(argv[0], O_PATH);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd); /* fchmod does not take such a descriptor, which needs no right to read */
    if (chmod(link, mode) != 0)
        fail(errno);
    return 0;
}

static void unlink_or_miss(struct walk *walk, int directory, const char *leaf, int flags) {
    if (unlinkat(directory, leaf, flags) != 0 && errno != ENOENT && walk->error == 0)
        walk->error = errno;
}

static bool remove_entry(struct walk *walk, int directory, const char *leaf, const struct stat *stat) {
    if (!S_ISDIR(stat->st_mode))
        unlink_or_miss(walk, directory, leaf, 0);
    return true;
}

static void remove_directory(struct walk *walk, int directory, const char *leaf) {
    unlink_or_miss(walk, directory, leaf, AT_REMOVEDIR);
}

int file_remove_main(int argc, char **argv) {
    const char *leaf;
    struct stat stat;
    if (argc != 2 || (strcmp(argv[1], "one") != 0 && strcmp(argv[1], "recursive") != 0)) {
        fputs("usage: guest file-remove PATH one|recursive\n", stderr);
        return 2;
    }
    int parent = file_parent(argv[0], &leaf);
    if (fstatat(parent, leaf, &stat, AT_SYMLINK_NOFOLLOW) != 0)
        fail(errno);
    if (S_ISDIR(stat.st_mode) && argv[1][0] == 'r') {
        int fd = openat(parent, leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            fail(errno);
        tree.enter = remove_entry;
        tree.leave = remove_directory;
        walk_all(&tree, fd);
        if (tree.error != 0)
            fail(tree.error);
    }
    if (unlinkat(parent, leaf, S_ISDIR(stat.st_mode) ? AT_REMOVEDIR : 0) != 0)
        fail(errno);
    return 0;
}
