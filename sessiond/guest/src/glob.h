/* Patterns for paths. Pure, and fuzzed (tests/fuzz/guest). */
#ifndef GLOB_H
#define GLOB_H

#include <stdbool.h>

/* Whether the path fits, component by component: `*` is any characters, `?` one, `[a-z]` and `[!a-z]` one of these bytes or none of them;
 * a component `**` is any number of components. */
bool glob_match(const char *pattern, const char *path);

#endif
