/* Paths within a directory that untrusted code changes at the same time: a check before the use would come too early. */
#include "beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

/* From linux/openat2.h, which is not everywhere. */
struct how {
    uint64_t flags, mode, resolve;
};
enum { NO_MAGICLINKS = 0x02, NO_SYMLINKS = 0x04, BENEATH = 0x08 };

enum { RACES = 1000 }; /* tries while somebody renames what is being walked */

/* A step at a time: each is taken from an open directory, so it cannot be led elsewhere afterwards. */
static int walk(int root, const char *path, bool create) {
    char name[NAME_MAX + 1];
    int at = openat(root, ".", DIRECTORY);
    while (at >= 0 && *path != '\0') {
        size_t length = strcspn(path, "/");
        if (length > NAME_MAX) {
            close(at);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(name, path, length);
        name[length] = '\0';
        path += length + (path[length] == '/');
        int next = openat(at, name, DIRECTORY);
        if (next < 0 && errno == ENOENT && create && (mkdirat(at, name, 0755) == 0 || errno == EEXIST))
            next = openat(at, name, DIRECTORY);
        int error = errno;
        close(at);
        errno = error;
        at = next;
    }
    return at;
}

int open_beneath(int root, const char *path, bool create) {
    struct how how = {.flags = DIRECTORY, .resolve = NO_SYMLINKS | BENEATH};
    int fd = (int)syscall(SYS_openat2, root, *path == '\0' ? "." : path, &how, sizeof how);
    /* Missing directories are made by the walk; it also serves kernels before 5.6, gVisor, and paths beyond PATH_MAX. */
    if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == ENAMETOOLONG || errno == EAGAIN || (errno == ENOENT && create)))
        fd = walk(root, path, create);
    return fd;
}

/* Where the kernel cannot say that a link stays beneath, none is followed. */
static int open_without_links(int root, const char *path, int flags, mode_t mode) {
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - path);
    if (length >= sizeof parent) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, path, length);
    parent[length] = '\0';
    int directory = open_beneath(root, parent, false);
    if (directory < 0)
        return -1;
    const char *leaf = slash == NULL ? path : slash + 1;
    int fd = openat(directory, *leaf == '\0' ? "." : leaf, flags | O_NOFOLLOW | O_CLOEXEC, mode);
    int error = errno;
    close(directory);
    errno = error;
    return fd;
}

int open_inside(int root, const char *path, int flags, mode_t mode) {
    struct how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .mode = mode, .resolve = NO_MAGICLINKS | BENEATH};
    int fd = -1;
    for (int i = 0; i < RACES; i++) {
        fd = (int)syscall(SYS_openat2, root, *path == '\0' ? "." : path, &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        fd = open_without_links(root, path, flags, mode);
    return fd;
}

bool led_astray(int error) {
    return error == ELOOP || error == ENOTDIR || error == EXDEV;
}
