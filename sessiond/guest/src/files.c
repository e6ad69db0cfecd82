/* What all modes for files have in common: paths, errors, records. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "beneath.h"
#include "tar.h"

void fail(int error) {
    fprintf(stderr, "%d %s\n", error, strerror(error));
    exit(FILE_FAILED);
}

_Noreturn static void escape(const char *why) {
    fprintf(stderr, "%d %s\n", EXDEV, why);
    exit(FILE_ESCAPES);
}

void fail_on_the_way(void) {
    if (errno == EXDEV)
        escape("it leads out of the directory");
    fail(errno);
}

/* Cuts a directory off an absolute path; false when it does not begin with it. */
static bool cut(char *path, const char *directory) {
    size_t length = strlen(directory);
    if (strncmp(path, directory, length) != 0 || (path[length] != '/' && path[length] != '\0'))
        return false;
    while (path[length] == '/')
        length++;
    memmove(path, path + length, strlen(path + length) + 1);
    return true;
}

int file_root(char *path, const char **inside) {
    char workspace[PATH_MAX];
    const char *root = ".";
    if (path[0] == '/' && (getcwd(workspace, sizeof workspace) == NULL || !cut(path, workspace))) {
        if (!cut(path, "/tmp"))
            escape("it is neither in the workspace nor in /tmp");
        root = "/tmp";
    }
    const char *problem = tar_normalise(path);
    if (problem != NULL)
        escape(problem);
    *inside = path;
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        fail(errno);
    return fd;
}

int file_open(char *path, int flags) {
    const char *inside;
    int root = file_root(path, &inside);
    int fd = open_inside(root, inside, flags, 0);
    if (fd < 0)
        fail_on_the_way();
    close(root);
    return fd;
}

int file_parent(char *path, const char **leaf) {
    const char *inside;
    int root = file_root(path, &inside);
    char *slash = strrchr(path, '/');
    if (*inside == '\0')
        fail(EBUSY);
    if (slash != NULL)
        *slash = '\0';
    *leaf = slash != NULL ? slash + 1 : inside;
    if (strlen(*leaf) > NAME_MAX)
        fail(ENAMETOOLONG);
    int fd = open_inside(root, slash != NULL ? inside : "", O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        fail_on_the_way();
    close(root);
    return fd;
}

int file_regular(int fd) {
    struct stat stat;
    if (fstat(fd, &stat) != 0)
        fail(errno);
    if (!S_ISREG(stat.st_mode))
        fail(S_ISDIR(stat.st_mode) ? EISDIR : EOPNOTSUPP);
    return fd;
}

bool file_is_temporary(const char *leaf) {
    static const char prefix[] = ".sessiond-";
    return strncmp(leaf, prefix, sizeof prefix - 1) == 0 && strlen(leaf) == sizeof prefix - 1 + 16;
}

uint64_t file_number(const char *text, int base, uint64_t most) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, base);
    if (errno != 0 || *end != '\0' || *text < '0' || *text > '9' || value > most) {
        fputs("guest: not a number, or too large a one\n", stderr);
        exit(2);
    }
    return value;
}

void file_put(const void *data, size_t size) {
    if (fwrite(data, 1, size, stdout) != size)
        exit(FILE_FAILED); /* nobody reads: there is nobody to tell */
}

static char kind(mode_t mode) {
    return S_ISREG(mode) ? 'f' : S_ISDIR(mode) ? 'd' : S_ISLNK(mode) ? 'l' : S_ISSOCK(mode) ? 's' : S_ISFIFO(mode) ? 'p' : 'x';
}

void file_put_entry(const char *path, const struct stat *stat, int directory, const char *leaf) {
    char target[PATH_MAX];
    ssize_t length = S_ISLNK(stat->st_mode) ? readlinkat(directory, leaf, target, sizeof target) : 0;
    printf("%c %o %llu %lld.%09ld ", kind(stat->st_mode), (unsigned)stat->st_mode & 07777, (unsigned long long)stat->st_size,
           (long long)stat->st_mtim.tv_sec, (long)stat->st_mtim.tv_nsec);
    file_put(path, strlen(path) + 1);
    file_put(target, length > 0 ? (size_t)length : 0);
    file_put("", 1);
}

int file_done(int code) {
    if (fflush(stdout) != 0)
        exit(FILE_FAILED);
    return code;
}
