/* Reads a tar archive from standard input into a directory. Every member lands strictly beneath it, over no symbolic link, as a file of
 * its own under a temporary name that then replaces what was there. The first member that cannot be taken ends it. */
#include "tar_modes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "beneath.h"
#include "tar.h"

enum {
    BUFFER = 64 * 1024, /* whole blocks */
    MOST_NOTES = 100,   /* lines on standard error */
    MOST_SHOWN = 256,   /* characters of a name there */
};

/* A directory whose own mode and time wait until nothing more is put into it. */
struct pending {
    size_t length; /* of its path, the beginning of `path` */
    uint32_t mode;
    struct timespec time;
};

static struct tar_member member;
static int root;
static uint8_t input[BUFFER];
static size_t at, filled;
static char path[TAR_NAME]; /* of the innermost pending directory; the others are on the way to it */
static struct pending pending[TAR_DEPTH];
static size_t pending_count;
static int unfinished = -1; /* directory of a temporary file that must not stay */
static char temporary[32];
static unsigned notes;

void tar_say(const char *mode, const char *what, const char *name, const char *why) {
    fprintf(stderr, "guest: %s: %s: ", mode, what);
    if (*name == '\0') {
        fprintf(stderr, "%s\n", why);
        return;
    }
    fputc('\'', stderr);
    for (size_t i = 0; name[i] != '\0' && i < MOST_SHOWN; i++)
        fputc((unsigned char)name[i] < ' ' || name[i] == 0x7f ? '?' : name[i], stderr);
    fprintf(stderr, "%s': %s\n", strlen(name) > MOST_SHOWN ? "..." : "", why);
}

_Noreturn static void stop(enum tar_exit code, const char *why) {
    if (unfinished >= 0)
        unlinkat(unfinished, temporary, 0);
    const char *what = code == TAR_REFUSED ? "refused" : code == TAR_MALFORMED ? "malformed" : "failed";
    tar_say("tar-import", what, member.name, why);
    exit((int)code);
}

_Noreturn static void stop_with_errno(void) {
    if (led_astray(errno))
        stop(TAR_REFUSED, "its way leads over a link or a file");
    stop(TAR_FAILED, strerror(errno));
}

/* At least one block in the buffer, or the archive has ended in the middle. */
static void need_block(void) {
    if (at < filled)
        return;
    at = filled = 0;
    while (filled == 0 || filled % TAR_BLOCK != 0) {
        ssize_t got = read(STDIN_FILENO, input + filled, BUFFER - filled);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            stop_with_errno();
        if (got == 0)
            stop(TAR_MALFORMED, "the archive ends too early");
        filled += (size_t)got;
    }
}

static const uint8_t *next_block(void) {
    need_block();
    at += TAR_BLOCK;
    return input + at - TAR_BLOCK;
}

/* Passes a member's contents on in pieces, and what fills its last block. */
static void take(uint64_t size, void (*use)(const uint8_t *data, size_t size, void *context), void *context) {
    while (size > 0) {
        need_block();
        size_t piece = filled - at;
        if (piece > size)
            piece = (size_t)size;
        use(input + at, piece, context);
        at += piece + (-piece & (TAR_BLOCK - 1));
        size -= piece;
    }
}

static void append(const uint8_t *data, size_t size, void *context) {
    char **end = context;
    memcpy(*end, data, size);
    *end += size;
}

static void write_all(const uint8_t *data, size_t size, void *context) {
    while (size > 0) {
        ssize_t written = write(*(int *)context, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            stop_with_errno();
        data += written;
        size -= (size_t)written;
    }
}

static struct timespec member_time(void) {
    return (struct timespec){.tv_sec = (time_t)member.seconds, .tv_nsec = (long)member.nanoseconds};
}

/* Gives the innermost pending directory its mode and time. */
static void finish_directory(void) {
    const struct pending *last = &pending[--pending_count];
    path[last->length] = '\0';
    int fd = open_beneath(root, path, false);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, last->time};
    if (fd < 0 || futimens(fd, times) != 0 || fchmod(fd, last->mode) != 0) {
        if (errno != ENOENT) /* somebody removed it meanwhile */
            stop_with_errno();
    }
    if (fd >= 0)
        close(fd);
}

/* Finishes the pending directories that are not on the way to `name`. */
static void leave_for(const char *name) {
    while (pending_count > 0) {
        size_t length = pending[pending_count - 1].length;
        if (strncmp(path, name, length) == 0 && name[length] == '/')
            return;
        finish_directory();
    }
}

static void begin_temporary(int directory) {
    uint64_t chance;
    if (getrandom(&chance, sizeof chance, 0) != sizeof chance)
        stop_with_errno();
    snprintf(temporary, sizeof temporary, ".sessiond-%016llx", (unsigned long long)chance);
    unfinished = directory;
}

static void finish_temporary(int directory, const char *leaf) {
    if (renameat(directory, temporary, directory, leaf) != 0)
        stop_with_errno();
    unlinkat(directory, temporary, 0); /* still there when both were links to the same file */
    unfinished = -1;
}

static void import_file(int directory, const char *leaf) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, member_time()};
    begin_temporary(directory);
    int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        stop_with_errno();
    take(member.size, write_all, &fd);
    if (fchmod(fd, member.mode) != 0 || futimens(fd, times) != 0 || close(fd) != 0)
        stop_with_errno();
    finish_temporary(directory, leaf);
}

static void import_symlink(int directory, const char *leaf) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, member_time()};
    begin_temporary(directory);
    if (symlinkat(member.link, directory, temporary) != 0 ||
        utimensat(directory, temporary, times, AT_SYMLINK_NOFOLLOW) != 0)
        stop_with_errno();
    finish_temporary(directory, leaf);
}

/* Splits a normalised path in place; its directory is opened and its last name returned. */
static int open_parent(char *name, const char **leaf, bool create) {
    char *slash = strrchr(name, '/');
    if (slash != NULL)
        *slash = '\0';
    int fd = open_beneath(root, slash != NULL ? name : "", create);
    if (slash != NULL)
        *slash = '/';
    *leaf = slash != NULL ? slash + 1 : name;
    if (fd < 0)
        stop_with_errno();
    if (strlen(*leaf) > NAME_MAX) {
        errno = ENAMETOOLONG;
        stop_with_errno();
    }
    return fd;
}

static void import_hard_link(int directory, const char *leaf) {
    const char *problem = tar_normalise(member.link), *target;
    if (problem != NULL || member.link[0] == '\0')
        stop(TAR_REFUSED, "it is a hard link to a file outside");
    int other = open_parent(member.link, &target, false);
    begin_temporary(directory);
    if (linkat(other, target, directory, temporary, 0) != 0)
        stop_with_errno();
    finish_temporary(directory, leaf);
    close(other);
}

static void import_directory(int parent, const char *leaf) {
    size_t length = strlen(member.name);
    if (pending_count == TAR_DEPTH)
        stop(TAR_FAILED, "there are more than 256 directories within each other");
    if (mkdirat(parent, leaf, 0700) != 0 && errno != EEXIST)
        stop_with_errno();
    int fd = open_beneath(parent, leaf, false);
    if (fd < 0 || fchmod(fd, 0700) != 0) /* until it is finished, its contents must be let in */
        stop_with_errno();
    close(fd);
    pending[pending_count++] = (struct pending){.length = length, .mode = member.mode, .time = member_time()};
    memcpy(path, member.name, length + 1);
}

static void import_member(void) {
    const char *leaf, *problem = tar_normalise(member.name);
    if (problem != NULL)
        stop(TAR_REFUSED, problem);
    leave_for(member.name);
    if (member.name[0] == '\0') {
        if (member.type != TAR_DIRECTORY)
            stop(TAR_REFUSED, "it has the name of the directory itself");
        return;
    }
    if (strchr("0123456", member.type) == NULL)
        stop(TAR_MALFORMED, "it is of a kind that is not known");
    if (strchr("346", member.type) != NULL) {
        if (notes++ < MOST_NOTES)
            tar_say("tar-import", "skipped", member.name, "it is a device or a fifo");
        return;
    }
    int directory = open_parent(member.name, &leaf, true);
    if (member.type == TAR_FILE)
        import_file(directory, leaf);
    else if (member.type == TAR_DIRECTORY)
        import_directory(directory, leaf);
    else if (member.type == TAR_SYMLINK)
        import_symlink(directory, leaf);
    else
        import_hard_link(directory, leaf);
    close(directory);
}

/* Reads an extended header's contents and what they say. */
static void extend(void) {
    static char text[TAR_EXTENDED + 1];
    char *end = text;
    if (member.extended > TAR_EXTENDED)
        stop(TAR_MALFORMED, "an extended header is larger than 256 KiB");
    take(member.extended, append, &end);
    *end = '\0';
    size_t size = (size_t)(end - text);
    const char *problem = member.type == TAR_PAX || member.type == TAR_PAX_GLOBAL
                              ? tar_read_pax(text, size, member.type == TAR_PAX_GLOBAL, &member)
                              : tar_read_long(text, size, &member, member.type == TAR_GNU_LINK);
    if (problem != NULL)
        stop(TAR_MALFORMED, problem);
}

static void import_all(void) {
    tar_begin(&member);
    for (;;) {
        const uint8_t *block = next_block();
        if (tar_is_zero(block))
            break;
        const char *problem = tar_read_header(block, &member);
        if (problem != NULL)
            stop(TAR_MALFORMED, problem);
        if (strchr("xgLK", member.type) != NULL) {
            extend();
            continue;
        }
        import_member();
        tar_begin(&member);
    }
    leave_for("");
    while (read(STDIN_FILENO, input, sizeof input) > 0) /* what fills the last record of a tape */
        continue;
}

int tar_import_main(int argc, char **argv) {
    if (argc != 1) {
        fputs("usage: guest tar-import DIRECTORY, relative to the working directory\n", stderr);
        return 2;
    }
    signal(SIGXFSZ, SIG_IGN); /* so that a file that is too large is an error like others */
    snprintf(member.name, sizeof member.name, "%s", argv[0]);
    const char *problem = tar_normalise(argv[0]);
    if (problem != NULL)
        stop(TAR_REFUSED, problem);
    root = open_beneath(AT_FDCWD, argv[0], true);
    if (root < 0)
        stop_with_errno();
    import_all();
    if (notes > MOST_NOTES)
        fprintf(stderr, "guest: tar-import: and %u more of these\n", notes - MOST_NOTES);
    return 0;
}
