/* Text in files: lines that hold some words. Files with a NUL near their beginning are no text. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "glob.h"
#include "walk.h"

enum {
    LINE = 64 * 1024, /* a longer one is looked at in pieces of this size */
    SHOWN = 1000,     /* bytes of a line in a record */
    LOOKED_AT = 8192, /* bytes in which a NUL means that it is no text */
};

static const char *words, *wanted;
static bool any_case; /* of ASCII letters */
static uint64_t most;
static struct walk tree;

static char fold(char c) {
    return any_case && c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
}

/* Where in a line the words are; -1 when they are not there. */
static long find(const char *line, size_t size) {
    size_t length = strlen(words);
    if (!any_case) {
        const char *at = memmem(line, size, words, length);
        return at == NULL ? -1 : (long)(at - line);
    }
    for (size_t at = 0; at + length <= size; at++) {
        size_t same = 0;
        while (same < length && fold(line[at + same]) == fold(words[same]))
            same++;
        if (same == length)
            return (long)at;
    }
    return -1;
}

/* One record: the path NUL, "LINE COLUMN" NUL, the line NUL. */
static void tell(uint64_t number, long column, const char *line) {
    file_put(tree.path, strlen(tree.path) + 1);
    printf("%llu %ld", (unsigned long long)number, column + 1);
    file_put("", 1);
    file_put(line, strnlen(line, SHOWN));
    file_put("", 1);
    tree.stopped = --most == 0;
}

static void search_file(int fd) {
    static char text[LINE + 1];
    size_t filled = 0;
    uint64_t number = 1;
    for (bool first = true, last = false; !last && !tree.stopped; first = false) {
        ssize_t got = read(fd, text + filled, LINE - filled);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            tree.error = tree.error != 0 ? tree.error : errno;
            return;
        }
        filled += (size_t)got;
        last = got == 0;
        if (first && memchr(text, '\0', filled < LOOKED_AT ? filled : LOOKED_AT) != NULL)
            return;
        size_t at = 0;
        while (at < filled && !tree.stopped) {
            char *end = memchr(text + at, '\n', filled - at);
            size_t size = end != NULL ? (size_t)(end - text) - at : filled - at;
            if (end == NULL && !last && size < LINE)
                break;
            text[at + size] = '\0';
            long column = find(text + at, size);
            if (column >= 0)
                tell(number, column, text + at);
            number += end != NULL;
            at += size + (end != NULL);
        }
        memmove(text, text + at, filled - at);
        filled -= at;
    }
}

static bool search_entry(struct walk *walk, int directory, const char *leaf, const struct stat *stat) {
    if (S_ISREG(stat->st_mode) && (*wanted == '\0' || glob_match(wanted, walk->path))) {
        int fd = openat(directory, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0) {
            search_file(fd);
            close(fd);
        } else if (errno != ENOENT && walk->error == 0) {
            walk->error = errno;
        }
    }
    return strcmp(leaf, ".git") != 0;
}

int file_search_main(int argc, char **argv) {
    if (argc != 5 || (strcmp(argv[1], "exact") != 0 && strcmp(argv[1], "any-case") != 0) || argv[2][0] == '\0') {
        fputs("usage: guest file-search PATH exact|any-case WORDS PATTERN MOST\n", stderr);
        return 2;
    }
    any_case = argv[1][0] == 'a';
    words = argv[2];
    wanted = argv[3];
    most = file_number(argv[4], 10, UINT64_MAX);
    if (most == 0)
        return 0;
    tree.enter = search_entry;
    walk_all(&tree, file_open(argv[0], O_RDONLY | O_DIRECTORY));
    if (tree.error != 0)
        fprintf(stderr, "%d %s\n", tree.error, strerror(tree.error));
    return file_done(tree.error != 0 ? FILE_INCOMPLETE : 0);
}
