/* libFuzzer target: whatever an archive holds, its parsers stay within the bytes that came and within their own buffers; and what they
 * read is written again so that they read the same. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tar.h"

static struct tar_member member, again;

static void check_path(const char *path) {
    static char copy[TAR_NAME];
    memcpy(copy, path, strlen(path) + 1);
    if (tar_normalise(copy) != NULL)
        return;
    assert(strlen(copy) <= strlen(path) && *copy != '/');
    for (const char *at = copy; *at != '\0';) {
        size_t length = strcspn(at, "/");
        assert(length > 0 && !(length == 1 && *at == '.') && !(length == 2 && memcmp(at, "..", 2) == 0));
        at += length;
        assert(*at == '\0' || at[1] != '\0');
        at += *at == '/';
    }
}

/* What a member says comes back from what is written of it. */
static void check_round_trip(void) {
    static char text[TAR_EXTENDED];
    uint8_t block[TAR_BLOCK];
    if (member.nanoseconds >= 1000000000 || *member.name == '\0')
        return;
    tar_begin(&again);
    if (tar_needs_pax(&member)) {
        size_t size = tar_write_pax(&member, text);
        assert(size > 0 && size <= sizeof text && tar_read_pax(text, size, false, &again) == NULL);
    }
    tar_write_header(&member, block);
    assert(tar_read_header(block, &again) == NULL);
    assert(again.type == member.type && again.mode == member.mode && again.size == member.size);
    assert(again.seconds == member.seconds && again.nanoseconds == member.nanoseconds);
    assert(strcmp(again.name, member.name) == 0 && strcmp(again.link, member.link) == 0);
}

/* The sum made good, so that the fuzzer gets past it. */
static void put_sum(uint8_t *block) {
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += block[i];
    for (size_t i = 0; i < 6; i++, sum >>= 3)
        block[153 - i] = (uint8_t)('0' + (sum & 7));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    unsigned kind = *data++;
    size--;
    char *bytes = malloc(size + 1); /* of exactly this size, so that the sanitizer sees one byte too many */
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data, size);
    tar_begin(&member);
    member.nanoseconds = 0;
    if (size >= TAR_BLOCK) {
        uint8_t block[TAR_BLOCK];
        memcpy(block, bytes, TAR_BLOCK);
        if (kind & 1)
            put_sum(block);
        tar_is_zero(block);
        /* The rest is what extended headers said before. */
        char *text = realloc(bytes, size);
        size_t left = size - TAR_BLOCK;
        memmove(text, text + TAR_BLOCK, left);
        bytes = realloc(text, left > 0 ? left : 1);
        if (kind & 2)
            tar_read_pax(bytes, left, kind & 4, &member);
        else
            tar_read_long(bytes, left, &member, kind & 4);
        if (tar_read_header(block, &member) == NULL && strchr("xgLK", member.type) == NULL) {
            check_path(member.name);
            check_path(member.link);
            check_round_trip();
        }
    } else {
        tar_read_pax(bytes, size, kind & 4, &member);
        tar_read_long(bytes, size, &member, kind & 8);
    }
    free(bytes);
    return 0;
}
