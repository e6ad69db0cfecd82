/* Only the last star has to be tried again, of those within a component as of those that are one: what fitted before it can never fit
 * better. So the time is at most the product of both lengths. */
#include "glob.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The end of a class such as [a-z], whose bracket is at `at`; `at` itself when it has none, so that it stands for itself. */
static const char *class_end(const char *at, const char *end) {
    const char *to = at + 1;
    to += to < end && (*to == '!' || *to == '^');
    to += to < end; /* a bracket that comes first is in the class */
    while (to < end && *to != ']')
        to++;
    return to < end ? to + 1 : at;
}

static bool in_class(const char *at, const char *end, uint8_t byte) {
    bool inverted = at[1] == '!' || at[1] == '^', found = false;
    at += 1 + inverted;
    end--;
    while (at < end) {
        uint8_t low = (uint8_t)*at, high = low;
        if (end - at > 2 && at[1] == '-') {
            high = (uint8_t)at[2];
            at += 2;
        }
        at++;
        found = found || (low <= byte && byte <= high);
    }
    return found != inverted;
}

static bool component_fits(const char *at, const char *at_end, const char *name, const char *name_end) {
    const char *again = NULL, *from = NULL;
    while (name < name_end) {
        const char *class = at < at_end && *at == '[' ? class_end(at, at_end) : at;
        if (at < at_end && *at == '*') {
            again = ++at;
            from = name;
        } else if (at < at_end && *at == '?') {
            at++;
            do
                name++;
            while (name < name_end && ((uint8_t)*name & 0xc0) == 0x80); /* the rest of a character of UTF-8 */
        } else if (class > at && in_class(at, class, (uint8_t)*name)) {
            at = class;
            name++;
        } else if (at < at_end && class == at && *at == *name) {
            at++;
            name++;
        } else if (again != NULL) {
            at = again;
            name = ++from;
        } else {
            return false;
        }
    }
    while (at < at_end && *at == '*')
        at++;
    return at == at_end;
}

static const char *end_of(const char *text) {
    return text + strcspn(text, "/");
}

static const char *after(const char *text) {
    text = end_of(text);
    return *text == '/' ? text + 1 : text;
}

static bool is_any(const char *pattern) {
    return end_of(pattern) - pattern == 2 && pattern[0] == '*' && pattern[1] == '*';
}

bool glob_match(const char *pattern, const char *path) {
    const char *again = NULL, *from = NULL;
    while (*path != '\0') {
        if (is_any(pattern)) {
            again = pattern = after(pattern);
            from = path;
            if (*pattern == '\0')
                return true;
        } else if (*pattern != '\0' && component_fits(pattern, end_of(pattern), path, end_of(path))) {
            pattern = after(pattern);
            path = after(path);
        } else if (again != NULL) {
            pattern = again;
            path = from = after(from);
        } else {
            return false;
        }
    }
    while (is_any(pattern))
        pattern = after(pattern);
    return *pattern == '\0';
}
