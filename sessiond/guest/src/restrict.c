/* Turns RESTRICT into a Landlock domain that the guest enters. It and all that it starts are then in one domain, so the commands of a
 * session may still signal each other, a command costs nothing more, and nobody can get out: the kernel has no call for that. */
#include "restrict.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel.h"
#include "command.h"
#include "landlock.h"
#include "program.h"

enum {
    NEEDS_DEPTH = 4,      /* a script's interpreter may be a script; the kernel itself goes no deeper */
    PATTERN_MOST = 4096,  /* paths that one pattern may stand for */
    ENTRIES_BYTES = 8192, /* of a directory, read at once */
};

/* The ruleset while it is made. */
struct making {
    int fd;
    uint64_t handled;           /* rights of files that it is about */
    const char *search;         /* PATH */
    char interpreter[PATH_MAX]; /* that was allowed last: mostly all programs have the same loader */
    uint32_t rules, missing;
    int error; /* of the first rule that the kernel refused */
};

/* A directory's entry as getdents64(2) gives it. */
struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

static bool answered; /* a session is restricted once */

unsigned landlock_abi(void) {
    long abi = syscall(CREATE_RULESET, NULL, 0, CREATE_RULESET_VERSION);
    return abi > 0 ? (unsigned)abi : 0;
}

/* What of the flags this kernel can do. */
static uint32_t possible(uint32_t flags, unsigned abi) {
    if (abi < ABI_TCP)
        flags &= ~(uint32_t)RESTRICT_TCP;
    if (abi < ABI_IOCTL)
        flags &= ~(uint32_t)RESTRICT_IOCTL;
    if (abi < ABI_SCOPE)
        flags &= ~(uint32_t)RESTRICT_SCOPE;
    return abi == 0 ? 0 : flags;
}

static uint64_t rights(uint32_t access) {
    uint64_t rights = 0;
    if (access & ACCESS_READ)
        rights |= FS_READ_FILE | FS_READ_DIR;
    if (access & ACCESS_WRITE)
        rights |= FS_WRITE_FILE | FS_CHANGE_ENTRIES | FS_REFER | FS_TRUNCATE;
    if (access & ACCESS_EXECUTE)
        rights |= FS_EXECUTE;
    if (access & ACCESS_IOCTL)
        rights |= FS_IOCTL_DEV;
    return rights;
}

static struct ruleset ruleset(uint32_t flags, unsigned abi) {
    uint32_t access = 0;
    access |= flags & RESTRICT_READ ? ACCESS_READ : 0u;
    access |= flags & RESTRICT_WRITE ? ACCESS_WRITE : 0u;
    access |= flags & RESTRICT_EXECUTE ? ACCESS_EXECUTE : 0u;
    access |= flags & RESTRICT_IOCTL ? ACCESS_IOCTL : 0u;
    struct ruleset set = {.fs = rights(access)};
    if (set.fs != 0)
        set.fs |= FS_REFER; /* every ruleset about files forbids it, unless it is handled and allowed */
    if (abi < ABI_REFER)
        set.fs &= ~(uint64_t)FS_REFER;
    if (abi < ABI_TRUNCATE)
        set.fs &= ~(uint64_t)FS_TRUNCATE;
    set.net = flags & RESTRICT_TCP ? NET_TCP : 0;
    set.scope = flags & RESTRICT_SCOPE ? SCOPE_ABSTRACT_AND_SIGNAL : 0;
    return set;
}

/* Allows it on the file, or on the directory and all below. */
static void allow(struct making *making, const char *path, uint64_t allowed) {
    int fd = openat(AT_FDCWD, path, O_PATH | O_CLOEXEC); /* not open(): musl's makes a second call for O_CLOEXEC */
    struct stat file;
    if (fd < 0 || fstat(fd, &file) != 0) {
        making->missing++;
        if (fd >= 0)
            close(fd);
        return;
    }
    allowed &= making->handled & (S_ISDIR(file.st_mode) ? ~UINT64_C(0) : (uint64_t)FS_OF_A_FILE);
    struct path_beneath rule = {.allowed = allowed, .parent = fd};
    if (allowed != 0 && syscall(ADD_RULE, making->fd, RULE_PATH_BENEATH, &rule, 0) == 0)
        making->rules++;
    else if (allowed != 0 && making->error == 0)
        making->error = errno;
    close(fd);
}

/* Whether the name is what the pattern stands for: * is any characters, ? is one. */
static bool matches(const char *pattern, const char *name) {
    const char *star = NULL, *from = NULL; /* the last *, and where in the name it ends for now */
    while (*name != '\0') {
        if (*pattern == '*') {
            star = ++pattern;
            from = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star != NULL) {
            pattern = star;
            name = ++from;
        } else {
            return false;
        }
    }
    return pattern[strspn(pattern, "*")] == '\0';
}

/* Allows it on all of a directory's entries that the last part of `path` stands for. */
static void allow_pattern(struct making *making, const char *path, uint64_t allowed) {
    static _Alignas(struct entry) char entries[ENTRIES_BYTES];
    char directory[PATH_MAX], found[PATH_MAX];
    const char *pattern = strrchr(path, '/') + 1;
    int fd = -1, matched = 0;
    if (snprintf(directory, sizeof directory, "%.*s", (int)(pattern - path), path) < PATH_MAX)
        fd = openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long size;
    while (fd >= 0 && (size = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < size;) {
            const struct entry *entry = (const void *)(entries + at);
            at += entry->length;
            if (entry->name[0] == '.' || !matches(pattern, entry->name) || matched == PATTERN_MOST)
                continue;
            matched++;
            if (snprintf(found, sizeof found, "%s%s", directory, entry->name) < PATH_MAX)
                allow(making, found, allowed);
        }
    if (fd >= 0)
        close(fd);
    making->missing += matched == 0;
}

static void allow_program(struct making *making, const char *name, int depth) {
    char path[PATH_MAX], interpreter[PATH_MAX], then[NAME_MAX + 1];
    if (!program_find(name, making->search, path)) {
        making->missing++;
        return;
    }
    allow(making, path, FS_READ_FILE | FS_EXECUTE);
    if (depth == NEEDS_DEPTH || !program_needs(path, interpreter, then))
        return;
    if (strcmp(interpreter, making->interpreter) != 0)
        allow_program(making, interpreter, depth + 1);
    strcpy(making->interpreter, interpreter);
    if (then[0] != '\0')
        allow_program(making, then, depth + 1);
}

static void allow_all(struct making *making, const struct restrict_frame *wanted) {
    for (size_t i = 0; i < wanted->count; i++) {
        const struct grant *grant = &wanted->grants[i];
        if (grant->access == ACCESS_PROGRAM)
            allow_program(making, grant->path, 0);
        else if (strpbrk(grant->path, "*?") != NULL)
            allow_pattern(making, grant->path, rights(grant->access));
        else
            allow(making, grant->path, rights(grant->access));
    }
    allow(making, "/proc", FS_READ_FILE | FS_READ_DIR); /* where the guest finds the processes of a command */
    if (!(wanted->flags & RESTRICT_WRITE))
        allow(making, "/", FS_REFER);
}

static enum refusal answer(unsigned abi, uint32_t applied, const struct making *making) {
    uint8_t payload[20], *at = put_u32(put_u32(payload, abi), applied);
    put_u32(put_u32(put_u32(at, making->rules), making->missing), (uint32_t)making->error);
    channel_put(RESTRICTED, 0, payload, sizeof payload);
    return FINE;
}

enum refusal restrict_session(const struct frame *frame) {
    struct restrict_frame wanted;
    enum refusal why = restrict_parse(frame, &wanted);
    if (why != FINE)
        return why;
    if (answered || commands_started())
        return BAD_ORDER;
    answered = true;

    unsigned abi = landlock_abi();
    uint32_t flags = possible(wanted.flags, abi);
    struct making making = {.search = wanted.search};
    if (flags == 0)
        return answer(abi, 0, &making);
    struct ruleset set = ruleset(flags, abi);
    making.handled = set.fs;
    making.fd = (int)syscall(CREATE_RULESET, &set, sizeof set, 0);
    if (making.fd < 0) {
        making.error = errno;
        return answer(abi, 0, &making);
    }
    if (set.fs != 0)
        allow_all(&making, &wanted);
    if (making.error == 0 && syscall(RESTRICT_SELF, making.fd, 0) != 0)
        making.error = errno;
    close(making.fd);
    return answer(abi, making.error == 0 ? flags : 0, &making);
}
