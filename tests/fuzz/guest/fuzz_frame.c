/* libFuzzer target: whatever a daemon sends, the parsers stay within the bytes that came, and agree with themselves. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

/* Every string must lie, with its NUL, inside the payload or be the mark itself. */
static void check_string(const struct frame *frame, const char *mark, const char *string) {
    if (string == mark)
        return;
    const uint8_t *at = (const uint8_t *)string, *end = frame->payload + frame->length;
    assert(at >= frame->payload && at < end && memchr(at, 0, (size_t)(end - at)) != NULL);
}

static void check_start(const struct frame *frame) {
    static struct start start;
    char mark[] = "SESSIOND_COMMAND=1";
    if (start_parse(frame, mark, &start) != FINE)
        return;
    check_string(frame, mark, start.cwd);
    assert(start.argv[0] != NULL && start.envp[0] == mark);
    for (char **word = start.argv; *word != NULL; word++)
        check_string(frame, mark, *word);
    for (char **entry = start.envp; *entry != NULL; entry++) {
        check_string(frame, mark, *entry);
        assert(strchr(*entry, '=') != NULL);
        assert(entry == start.envp || strncmp(*entry, mark, strcspn(mark, "=") + 1) != 0);
    }
}

static void check_restrict(const struct frame *frame) {
    struct restrict_frame wanted;
    if (restrict_parse(frame, &wanted) != FINE)
        return;
    check_string(frame, NULL, wanted.search);
    assert(wanted.flags != 0 && wanted.count <= GRANTS_MOST);
    for (size_t i = 0; i < wanted.count; i++) {
        const struct grant *grant = &wanted.grants[i];
        check_string(frame, NULL, grant->path);
        assert(grant->access != 0 && grant->path[0] != '\0' && (grant->path[0] == '/' || grant->access == ACCESS_PROGRAM));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *bytes = malloc(size); /* of exactly this size, so that the sanitizer sees one byte too many */
    if (bytes == NULL && size > 0)
        return 0;
    if (size > 0)
        memcpy(bytes, data, size);
    size_t at = 0, taken = 1, early;
    while (taken > 0) {
        struct frame frame;
        if (frame_parse(bytes + at, size - at, &frame, &taken) != FINE)
            break;
        assert(taken <= size - at);
        if (taken > 0) {
            assert(taken == FRAME_HEADER + frame.length && taken <= FRAME_MOST);
            struct frame shorter; /* one byte less must ask for more, not decide otherwise */
            assert(frame_parse(bytes + at, taken - 1, &shorter, &early) == FINE && early == 0);
            if (frame.type == START)
                check_start(&frame);
            if (frame.type == RESTRICT)
                check_restrict(&frame);
        }
        at += taken;
    }
    free(bytes);
    return 0;
}
