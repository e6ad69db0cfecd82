/* The format of tar archives: ustar (POSIX.1-1988) with pax extended headers (POSIX.1-2001), and GNU's long names when reading. Pure,
 * and fuzzed (tests/fuzz/guest). Parsers return NULL, or what is wrong in words. */
#ifndef TAR_H
#define TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TAR_BLOCK = 512,
    TAR_NAME = 32 * 1024,      /* longest name of a member, NUL included */
    TAR_EXTENDED = 256 * 1024, /* longest extended header: what one archive can make us remember */
    TAR_DEPTH = 256,           /* directories within each other */
};

/* How tar-export and tar-import end, beside 0 and usage's 2. */
enum tar_exit {
    TAR_FAILED = 1,     /* the system refused something */
    TAR_REFUSED = 3,    /* a name or link leads out of the directory */
    TAR_MALFORMED = 4,  /* not an archive, or one that ends too early */
    TAR_INCOMPLETE = 5, /* an export that is a good archive without all that should be in it */
};

enum tar_type {
    TAR_FILE = '0',
    TAR_HARD_LINK = '1',
    TAR_SYMLINK = '2',
    TAR_CHARACTER_DEVICE = '3',
    TAR_BLOCK_DEVICE = '4',
    TAR_DIRECTORY = '5',
    TAR_FIFO = '6',
    TAR_PAX = 'x',
    TAR_PAX_GLOBAL = 'g',
    TAR_GNU_NAME = 'L',
    TAR_GNU_LINK = 'K',
};

struct tar_member {
    char type; /* enum tar_type, or one that is not known */
    uint32_t mode;
    uint64_t size;     /* of the contents that follow the header */
    uint64_t extended; /* of those of an extended header */
    int64_t seconds; /* of its modification */
    uint32_t nanoseconds;
    char name[TAR_NAME], link[TAR_NAME];
    bool has_name, has_link, has_size, has_time; /* said by extended headers, so that the header's own do not count */
};

/* Forgets what extended headers said: before the first header of each member. */
void tar_begin(struct tar_member *member);

/* Whether the block is one of those that end an archive. */
bool tar_is_zero(const uint8_t *block);

/* Reads a header into `member`, which keeps what extended headers said before. Those themselves
 * only set type and `extended`. */
const char *tar_read_header(const uint8_t *block, struct tar_member *member);

/* Reads the records of an extended header. A global one may say nothing that matters here. */
const char *tar_read_pax(const char *text, size_t size, bool global, struct tar_member *member);

/* Reads the contents of GNU's headers for long names. */
const char *tar_read_long(const char *text, size_t size, struct tar_member *member, bool link);

/* Takes "." and empty components out of a path; "" is the directory itself. Refuses what is absolute or holds "..". */
const char *tar_normalise(char *path);

/* Whether a header alone can say it; else `tar_write_pax` comes first. */
bool tar_needs_pax(const struct tar_member *member);

/* Writes the records of an extended header, and returns their size: at most TAR_EXTENDED. */
size_t tar_write_pax(const struct tar_member *member, char *text);

/* Writes a header. What does not fit is cut: an extended header says it. */
void tar_write_header(const struct tar_member *member, uint8_t *block);

#endif
