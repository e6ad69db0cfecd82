/* Landlock's part of the kernel's ABI, up to version 6 (linux/landlock.h, security/landlock). Here because the build machine's headers
 * may be older than the kernel that the guest meets. */
#ifndef LANDLOCK_H
#define LANDLOCK_H

#include <stdint.h>
#include <sys/syscall.h>

enum {
    CREATE_RULESET = 444, /* the same numbers on every architecture */
    ADD_RULE = 445,
    RESTRICT_SELF = 446,
    CREATE_RULESET_VERSION = 1,
    RULE_PATH_BENEATH = 1,
};

/* The version from which a right can be asked for. */
enum { ABI_REFER = 2, ABI_TRUNCATE = 3, ABI_TCP = 4, ABI_IOCTL = 5, ABI_SCOPE = 6 };

enum fs_right {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_CHANGE_ENTRIES = 0x1ff0, /* remove and make directories, files, devices, sockets, fifos and links */
    FS_REFER = 1 << 13,         /* rename and link into another directory */
    FS_TRUNCATE = 1 << 14,
    FS_IOCTL_DEV = 1 << 15,
    FS_OF_A_FILE = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV,
};
enum { NET_TCP = 3, SCOPE_ABSTRACT_AND_SIGNAL = 3 };

/* Older kernels know less of it, and take the rest if it is zero. */
struct ruleset {
    uint64_t fs, net, scope;
};

struct path_beneath {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

#endif
