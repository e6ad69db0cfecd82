/* Headers of tar archives, read and written. */
#include "tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { /* offsets and sizes of a header's fields */
    NAME = 0, NAME_SIZE = 100,
    MODE = 100, UID = 108, GID = 116, ID_SIZE = 8,
    SIZE = 124, TIME = 136, NUMBER_SIZE = 12,
    SUM = 148, SUM_SIZE = 8,
    TYPE = 156,
    LINK = 157, LINK_SIZE = 100,
    MAGIC = 257, MAGIC_SIZE = 8,
    PREFIX = 345, PREFIX_SIZE = 155,
};

#define MOST_OCTAL 077777777777LL /* what 11 digits hold: 8 GiB - 1, and the year 2242 */
#define MOST_SIZE ((uint64_t)1 << 60)
#define MOST_SECONDS ((int64_t)1 << 55) /* before and after 1970 */
#define NANO 1000000000u

void tar_begin(struct tar_member *member) {
    member->has_name = member->has_link = member->has_size = member->has_time = false;
    member->name[0] = '\0';
}

bool tar_is_zero(const uint8_t *block) {
    for (size_t i = 0; i < TAR_BLOCK; i++)
        if (block[i] != 0)
            return false;
    return true;
}

static unsigned checksum(const uint8_t *block) {
    unsigned sum = 0;
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i >= SUM && i < SUM + SUM_SIZE ? ' ' : block[i];
    return sum;
}

/* A number in octal digits, or in base 256 when the first bit says so (GNU). */
static bool read_number(const uint8_t *field, size_t size, int64_t *value) {
    uint64_t number = 0;
    if (field[0] & 0x80) {
        bool negative = field[0] == 0xff;
        if (!negative && field[0] != 0x80)
            return false;
        number = negative ? UINT64_MAX : 0;
        for (size_t i = 1; i < size; i++) {
            if (number >> 55 != (negative ? 0x1ff : 0))
                return false;
            number = number << 8 | field[i];
        }
        *value = (int64_t)number;
        return true;
    }
    size_t at = 0;
    while (at < size && field[at] == ' ')
        at++;
    for (; at < size && field[at] != ' ' && field[at] != '\0'; at++) {
        if (field[at] < '0' || field[at] > '7')
            return false;
        number = number << 3 | (unsigned)(field[at] - '0');
    }
    *value = (int64_t)number; /* at most 12 digits, 36 bits */
    return true;
}

/* Copies a field that ends at its NUL or at its size; returns its length. */
static size_t read_text(const uint8_t *field, size_t size, char *text) {
    size_t length = strnlen((const char *)field, size);
    memcpy(text, field, length);
    text[length] = '\0';
    return length;
}

const char *tar_read_header(const uint8_t *block, struct tar_member *member) {
    int64_t sum, mode, size, seconds;
    if (!read_number(block + SUM, SUM_SIZE, &sum) || sum != checksum(block))
        return block[0] == 0x1f && block[1] == 0x8b ? "it is compressed: send the plain tar archive"
                                                    : "a header's checksum is wrong: this is no tar archive, or a damaged one";
    if (!read_number(block + MODE, ID_SIZE, &mode) || !read_number(block + SIZE, NUMBER_SIZE, &size) ||
        !read_number(block + TIME, NUMBER_SIZE, &seconds))
        return "a header holds a number that is none";
    if (size < 0 || (uint64_t)size > MOST_SIZE)
        return "a header tells a size that cannot be";
    if (seconds > MOST_SECONDS || seconds < -MOST_SECONDS)
        return "a header tells a time that cannot be";

    member->type = block[TYPE] == '\0' || block[TYPE] == '7' ? TAR_FILE : (char)block[TYPE];
    bool extends = strchr("xgLK", member->type) != NULL;
    if (extends) {
        member->extended = (uint64_t)size;
        return NULL;
    }
    if (!member->has_size)
        member->size = (uint64_t)size;
    member->mode = (uint32_t)mode & 0777;
    if (!member->has_time) {
        member->seconds = seconds;
        member->nanoseconds = 0;
    }
    if (!member->has_name) {
        size_t length = 0;
        if (memcmp(block + MAGIC, "ustar\0", 6) == 0 && block[PREFIX] != '\0') {
            length = read_text(block + PREFIX, PREFIX_SIZE, member->name);
            member->name[length++] = '/';
        }
        read_text(block + NAME, NAME_SIZE, member->name + length);
    }
    if (!member->has_link)
        read_text(block + LINK, LINK_SIZE, member->link);

    size_t length = strlen(member->name);
    if (member->type == TAR_FILE && length > 0 && member->name[length - 1] == '/')
        member->type = TAR_DIRECTORY; /* as before POSIX */
    if (member->type != TAR_FILE)
        member->size = 0; /* some say the file's size for a link, or what a directory may grow to */
    return NULL;
}

/* Decimal seconds with a fraction, as pax has them. */
static bool read_time(const char *text, size_t size, int64_t *seconds, uint32_t *nanoseconds) {
    bool negative = size > 0 && *text == '-';
    size_t at = negative;
    uint64_t whole = 0;
    uint32_t fraction = 0, scale = NANO;
    size_t digits = 0;
    for (; at < size && text[at] >= '0' && text[at] <= '9'; at++, digits++) {
        if (whole > MOST_SIZE / 10)
            return false;
        whole = whole * 10 + (unsigned)(text[at] - '0');
    }
    if (at < size && text[at] == '.')
        for (at++; at < size && text[at] >= '0' && text[at] <= '9'; at++, digits++) {
            scale /= 10;
            fraction += scale * (unsigned)(text[at] - '0');
        }
    if (at != size || digits == 0 || whole > (uint64_t)MOST_SECONDS)
        return false;
    *seconds = negative ? -(int64_t)whole : (int64_t)whole;
    if (negative && fraction > 0) {
        *seconds -= 1;
        fraction = NANO - fraction;
    }
    *nanoseconds = fraction;
    return true;
}

static bool read_decimal(const char *text, size_t size, uint64_t *value) {
    *value = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || *value > MOST_SIZE / 10)
            return false;
        *value = *value * 10 + (unsigned)(text[i] - '0');
    }
    return size > 0 && *value <= MOST_SIZE;
}

static bool is(const char *key, size_t size, const char *wanted) {
    return size == strlen(wanted) && memcmp(key, wanted, size) == 0;
}

/* One record's key and value. */
static const char *read_record(const char *key, size_t key_size, const char *value, size_t size, bool global,
                               struct tar_member *member) {
    bool name = is(key, key_size, "path"), link = is(key, key_size, "linkpath"), long_size = is(key, key_size, "size");
    if (key_size >= 11 && memcmp(key, "GNU.sparse.", 11) == 0)
        return "it holds a sparse file in GNU's own format: archive without --sparse";
    if (global)
        return name || link || long_size ? "a global header names one member" : NULL;
    if (name || link)
        return tar_read_long(value, size, member, link);
    if (long_size) {
        if (!read_decimal(value, size, &member->size))
            return "an extended header tells a size that cannot be";
        member->has_size = true;
    } else if (is(key, key_size, "mtime")) {
        if (!read_time(value, size, &member->seconds, &member->nanoseconds))
            return "an extended header tells a time that is none";
        member->has_time = true;
    }
    return NULL;
}

const char *tar_read_pax(const char *text, size_t size, bool global, struct tar_member *member) {
    static const char bad[] = "an extended header is malformed";
    for (size_t at = 0; at < size;) { /* "LENGTH KEY=VALUE\n", the length that of all of it */
        size_t length = 0, start = at;
        while (at < size && text[at] >= '0' && text[at] <= '9' && length < TAR_EXTENDED)
            length = length * 10 + (size_t)(text[at++] - '0');
        if (at == start || at == size || text[at] != ' ' || length > size - start || length < at - start + 3)
            return bad;
        const char *key = text + at + 1, *end = text + start + length - 1;
        const char *equals = memchr(key, '=', (size_t)(end - key));
        if (*end != '\n' || equals == NULL || equals == key)
            return bad;
        const char *problem =
            read_record(key, (size_t)(equals - key), equals + 1, (size_t)(end - equals - 1), global, member);
        if (problem != NULL)
            return problem;
        at = start + length;
    }
    return NULL;
}

const char *tar_read_long(const char *text, size_t size, struct tar_member *member, bool link) {
    size_t length = strnlen(text, size);
    if (length >= TAR_NAME)
        return "a name is longer than 32 KiB";
    if (memchr(text + length, '\0', size - length) != NULL && length + 1 < size)
        return "a name holds a NUL";
    char *into = link ? member->link : member->name;
    memcpy(into, text, length);
    into[length] = '\0';
    *(link ? &member->has_link : &member->has_name) = true;
    return NULL;
}

const char *tar_normalise(char *path) {
    if (*path == '/')
        return "its name is absolute";
    char *to = path;
    for (const char *from = path; *from != '\0';) {
        size_t length = strcspn(from, "/");
        if (length == 2 && from[0] == '.' && from[1] == '.')
            return "its name has .. in it";
        bool keep = length > 0 && !(length == 1 && from[0] == '.');
        if (keep) {
            if (to != path)
                *to++ = '/';
            memmove(to, from, length);
            to += length;
        }
        from += length;
        from += *from == '/';
    }
    *to = '\0';
    return NULL;
}

/* Where a name can be cut so that both parts fit in the header; 0 when it fits whole, SIZE_MAX when it cannot. */
static size_t split(const char *name, size_t length) {
    if (length <= NAME_SIZE)
        return 0;
    for (size_t at = length - NAME_SIZE - 1; at < length && at <= PREFIX_SIZE; at++)
        if (name[at] == '/' && at > 0 && at + 1 < length)
            return at;
    return SIZE_MAX;
}

static bool is_ascii(const char *text) {
    for (; *text != '\0'; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

static bool is_utf8(const char *text) {
    const uint8_t *at = (const uint8_t *)text;
    while (*at != '\0') {
        unsigned more = *at < 0x80 ? 0 : *at >= 0xc2 && *at < 0xe0 ? 1 : *at >= 0xe0 && *at < 0xf0 ? 2 : *at >= 0xf0 && *at < 0xf5 ? 3 : 4;
        if (more == 4 || (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] >= 0xa0) || (*at == 0xf0 && at[1] < 0x90) ||
            (*at == 0xf4 && at[1] >= 0x90))
            return false;
        for (at++; more > 0; more--, at++)
            if ((*at & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static bool name_is_long(const struct tar_member *member) {
    return !is_ascii(member->name) || split(member->name, strlen(member->name)) == SIZE_MAX;
}

static bool link_is_long(const struct tar_member *member) {
    return !is_ascii(member->link) || strlen(member->link) > LINK_SIZE;
}

static bool time_is_long(const struct tar_member *member) {
    return member->nanoseconds != 0 || member->seconds < 0 || member->seconds > MOST_OCTAL;
}

bool tar_needs_pax(const struct tar_member *member) {
    return name_is_long(member) || link_is_long(member) || time_is_long(member) || member->size > MOST_OCTAL;
}

static size_t add_record(char *text, const char *key, const char *value) {
    size_t length = strlen(key) + strlen(value) + 3; /* blank, equals sign, line feed */
    size_t digits = 1;
    for (size_t bound = 10; length + digits >= bound; bound *= 10)
        digits++;
    return (size_t)sprintf(text, "%zu %s=%s\n", length + digits, key, value);
}

size_t tar_write_pax(const struct tar_member *member, char *text) {
    char number[64];
    size_t size = 0;
    if (!is_utf8(member->name) || !is_utf8(member->link))
        size += add_record(text + size, "hdrcharset", "BINARY");
    if (name_is_long(member))
        size += add_record(text + size, "path", member->name);
    if (link_is_long(member))
        size += add_record(text + size, "linkpath", member->link);
    if (member->size > MOST_OCTAL) {
        snprintf(number, sizeof number, "%llu", (unsigned long long)member->size);
        size += add_record(text + size, "size", number);
    }
    if (time_is_long(member)) {
        bool borrow = member->seconds < 0 && member->nanoseconds > 0;
        long long whole = (long long)member->seconds + borrow;
        uint32_t fraction = borrow ? NANO - member->nanoseconds : member->nanoseconds;
        snprintf(number, sizeof number, "%s%llu.%09u", member->seconds < 0 ? "-" : "", (unsigned long long)llabs(whole), fraction);
        size += add_record(text + size, "mtime", number);
    }
    return size;
}

static void write_number(uint8_t *field, size_t size, uint64_t value) {
    for (size_t i = size - 1; i-- > 0; value >>= 3)
        field[i] = (uint8_t)('0' + (value & 7));
}

void tar_write_header(const struct tar_member *member, uint8_t *block) {
    memset(block, 0, TAR_BLOCK);
    size_t length = strlen(member->name), cut = split(member->name, length);
    if (cut == 0 || cut == SIZE_MAX) {
        memcpy(block + NAME, member->name, length < NAME_SIZE ? length : NAME_SIZE);
    } else {
        memcpy(block + PREFIX, member->name, cut);
        memcpy(block + NAME, member->name + cut + 1, length - cut - 1);
    }
    length = strlen(member->link);
    memcpy(block + LINK, member->link, length < LINK_SIZE ? length : LINK_SIZE);
    write_number(block + MODE, ID_SIZE, member->mode);
    write_number(block + UID, ID_SIZE, 0);
    write_number(block + GID, ID_SIZE, 0);
    write_number(block + SIZE, NUMBER_SIZE, member->size > MOST_OCTAL ? 0 : member->size);
    write_number(block + TIME, NUMBER_SIZE, member->seconds < 0 || member->seconds > MOST_OCTAL ? 0 : (uint64_t)member->seconds);
    block[TYPE] = (uint8_t)member->type;
    memcpy(block + MAGIC, "ustar\00000", MAGIC_SIZE);
    write_number(block + SUM, SUM_SIZE - 1, checksum(block));
    block[SUM + SUM_SIZE - 1] = ' ';
}
