/* Writes a directory as a tar archive to standard output: regular files, directories and symbolic links, which stay links. What is
 * none of these is skipped with a note; what could not be read makes the export incomplete, and its exit code says so. */
#include "tar_modes.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "beneath.h"
#include "tar.h"

enum {
    BUFFER = 64 * 1024,
    MOST_NOTES = 100, /* lines on standard error */
};

static struct tar_member member; /* its name is the path of what is being looked at */
static uint8_t output[BUFFER];
static size_t used;
static unsigned notes;
static bool incomplete;

static void say(const char *what, const char *why) {
    if (notes++ < MOST_NOTES)
        tar_say("tar-export", what, member.name, why);
}

static void miss(const char *why) {
    incomplete = true;
    say("left out", why);
}

static void flush(void) {
    for (size_t done = 0; done < used;) {
        ssize_t written = write(STDOUT_FILENO, output + done, used - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            exit(TAR_FAILED); /* nobody reads: there is nobody to tell */
        done += (size_t)written;
    }
    used = 0;
}

/* Room for some bytes, at most BUFFER, to be filled by the caller. */
static uint8_t *room(size_t size) {
    if (size > BUFFER - used)
        flush();
    used += size;
    return output + used - size;
}

static void pad(uint64_t size) {
    size_t rest = (size_t)(-size & (TAR_BLOCK - 1));
    memset(room(rest), 0, rest);
}

static void put_header(void) {
    if (tar_needs_pax(&member)) {
        static char records[TAR_EXTENDED];
        static struct tar_member extended; /* filled here: as a constant its 64 KiB would be in the binary */
        extended.type = TAR_PAX;
        extended.mode = 0644;
        memcpy(extended.name, "pax", 4);
        extended.size = tar_write_pax(&member, records);
        tar_write_header(&extended, room(TAR_BLOCK));
        for (size_t at = 0; at < extended.size; at += TAR_BLOCK) {
            size_t size = extended.size - at < TAR_BLOCK ? (size_t)extended.size - at : TAR_BLOCK;
            memcpy(room(size), records + at, size);
        }
        pad(extended.size);
    }
    tar_write_header(&member, room(TAR_BLOCK));
}

static void describe(const struct stat *stat, char type) {
    member.type = type;
    member.mode = stat->st_mode & 0777;
    member.size = type == TAR_FILE ? (uint64_t)stat->st_size : 0;
    member.seconds = stat->st_mtim.tv_sec;
    member.nanoseconds = (uint32_t)stat->st_mtim.tv_nsec;
    if (type != TAR_SYMLINK)
        member.link[0] = '\0';
}

/* A file that another process changes meanwhile keeps the size that its header said: it is cut, or filled up with zeros. */
static void export_file(int directory, const char *leaf) {
    struct stat stat;
    int fd = openat(directory, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) {
        miss(fd < 0 ? strerror(errno) : "it was replaced meanwhile");
        if (fd >= 0)
            close(fd);
        return;
    }
    describe(&stat, TAR_FILE);
    put_header();
    uint64_t left = member.size;
    while (left > 0) {
        if (used == BUFFER)
            flush();
        size_t size = left < BUFFER - used ? (size_t)left : BUFFER - used;
        ssize_t got = read(fd, output + used, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            incomplete = true;
            say("filled up with zeros", got < 0 ? strerror(errno) : "it became shorter meanwhile");
            break;
        }
        used += (size_t)got;
        left -= (uint64_t)got;
    }
    for (; left > 0; left -= left < TAR_BLOCK ? left : TAR_BLOCK) {
        size_t size = left < TAR_BLOCK ? (size_t)left : TAR_BLOCK;
        memset(room(size), 0, size);
    }
    pad(member.size);
    close(fd);
}

static void export_link(int directory, const char *leaf, const struct stat *stat) {
    ssize_t length = readlinkat(directory, leaf, member.link, sizeof member.link - 1);
    if (length < 0) {
        miss(strerror(errno));
        return;
    }
    member.link[length] = '\0';
    describe(stat, TAR_SYMLINK);
    put_header();
}

static void export_entries(int fd, size_t length, unsigned depth);

static void export_directory(int parent, const char *leaf, const struct stat *stat, size_t length, unsigned depth) {
    int fd = openat(parent, leaf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int error = errno;
    member.name[length++] = '/';
    member.name[length] = '\0';
    describe(stat, TAR_DIRECTORY);
    put_header();
    if (fd < 0) {
        miss(strerror(error));
    } else if (depth >= TAR_DEPTH) {
        miss("there are more than 256 directories within each other");
    } else {
        export_entries(fd, length, depth);
    }
    if (fd >= 0)
        close(fd);
}

static void export_entry(int fd, const char *leaf, size_t length, unsigned depth) {
    struct stat stat;
    size_t size = strlen(leaf);
    if (length + size + 2 > sizeof member.name) {
        miss("its name is longer than 32 KiB");
        return;
    }
    memcpy(member.name + length, leaf, size + 1);
    if (fstatat(fd, leaf, &stat, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno != ENOENT) /* removed meanwhile: as if it had never been */
            miss(strerror(errno));
    } else if (S_ISREG(stat.st_mode)) {
        export_file(fd, leaf);
    } else if (S_ISDIR(stat.st_mode)) {
        export_directory(fd, leaf, &stat, length + size, depth + 1);
    } else if (S_ISLNK(stat.st_mode)) {
        export_link(fd, leaf, &stat);
    } else {
        say("skipped", S_ISSOCK(stat.st_mode) ? "it is a socket" : S_ISFIFO(stat.st_mode) ? "it is a fifo" : "it is a device");
    }
}

/* What the directory holds; its own path is the first `length` bytes of the name. */
static void export_entries(int fd, size_t length, unsigned depth) {
    struct entry { /* struct linux_dirent64, which musl does not declare */
        uint64_t inode, offset;
        uint16_t length;
        uint8_t type;
        char name[];
    };
    _Alignas(struct entry) char entries[4096];
    long size;
    while ((size = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < size;) {
            const struct entry *entry = (const void *)(entries + at);
            at += entry->length;
            if (strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0)
                export_entry(fd, entry->name, length, depth);
        }
    member.name[length] = '\0';
    if (size < 0)
        miss(strerror(errno));
}

int tar_export_main(int argc, char **argv) {
    if (argc != 1) {
        fputs("usage: guest tar-export DIRECTORY, relative to the working directory\n", stderr);
        return 2;
    }
    const char *problem = tar_normalise(argv[0]);
    int fd = problem == NULL ? open_beneath(AT_FDCWD, argv[0], false) : -1;
    if (fd < 0) {
        bool refused = problem != NULL || led_astray(errno);
        tar_say("tar-export", refused ? "refused" : "failed", argv[0],
                problem != NULL ? problem : refused ? "it leads over a link, or is no directory" : strerror(errno));
        return refused ? TAR_REFUSED : TAR_FAILED;
    }
    signal(SIGPIPE, SIG_IGN);
    export_entries(fd, 0, 0);
    memset(room(2 * TAR_BLOCK), 0, 2 * TAR_BLOCK);
    flush();
    if (notes > MOST_NOTES)
        fprintf(stderr, "guest: tar-export: and %u more of these\n", notes - MOST_NOTES);
    return incomplete ? TAR_INCOMPLETE : 0;
}
