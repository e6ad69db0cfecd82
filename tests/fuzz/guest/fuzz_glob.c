/* libFuzzer target: whatever a pattern and a path hold, matching stays within them; what any path must fit, it fits. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "glob.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *pattern = malloc(size + 1), *path; /* each of its own size, so that a step beyond it is seen */
    memcpy(pattern, data, size);
    pattern[size] = '\0';
    size_t length = strlen(pattern);
    path = length < size ? strdup(pattern + length + 1) : strdup("");
    char *exact = strdup(pattern);
    free(pattern);
    glob_match(exact, path);
    assert(*path == '\0' || glob_match("**", path));
    assert(*path == '\0' || strstr(path, "//") != NULL || *path == '/' || path[strlen(path) - 1] == '/' || strpbrk(path, "[*?") != NULL ||
           glob_match(path, path));
    free(exact);
    free(path);
    return 0;
}
