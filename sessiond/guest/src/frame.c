/* Parsing of what the daemon sends, and the few stores that building a frame takes. Pure, and fuzzed (tests/fuzz/guest). */
#include "frame.h"

#include <string.h>

/* What START may hold at most follows from its counts being u16. Only the pages that are used become memory. */
static char *argv_vector[UINT16_MAX + 1];
static char *envp_vector[UINT16_MAX + 2];
static struct grant grants[GRANTS_MOST];

static const struct {
    uint8_t type;
    bool of_command; /* names a command, or the sandbox itself */
    uint32_t least, most;
} shapes[] = {
    {WELCOME, false, 2, 2},
    {START, true, 20 + 2, FRAME_PAYLOAD},
    {STDIN, true, 8 + 1, 8 + FRAME_DATA},
    {STDIN_CLOSE, true, 8, 8},
    {SIGNAL, true, 8, 8},
    {RESIZE, true, 4, 4},
    {OUTPUT_ACK, true, 8, 8},
    {FORGET, true, 0, 0},
    {PING, false, 8, 8},
    {SHUTDOWN, false, 0, 0},
    {RESTRICT, false, 8 + 1, FRAME_PAYLOAD},
};

enum refusal frame_parse(uint8_t *bytes, size_t size, struct frame *frame, size_t *taken) {
    *taken = 0;
    if (size < FRAME_HEADER)
        return FINE;
    frame->length = get_u32(bytes);
    frame->type = bytes[4];
    frame->command = get_u32(bytes + 8);
    frame->payload = bytes + FRAME_HEADER;
    if (frame->length > FRAME_PAYLOAD || bytes[5] != 0 || get_u16(bytes + 6) != 0)
        return BAD_HEADER;

    size_t shape = 0;
    while (shapes[shape].type != frame->type)
        if (++shape == sizeof shapes / sizeof *shapes)
            return BAD_TYPE;
    if (shapes[shape].of_command != (frame->command != 0))
        return BAD_HEADER;
    if (frame->length < shapes[shape].least || frame->length > shapes[shape].most)
        return BAD_PAYLOAD;
    if (size - FRAME_HEADER >= frame->length)
        *taken = FRAME_HEADER + frame->length;
    return FINE;
}

/* Points at the string at *at and moves *at behind its NUL; NULL when the payload ends first. */
static char *take_string(uint8_t **at, const uint8_t *end) {
    uint8_t *nul = memchr(*at, 0, (size_t)(end - *at));
    if (nul == NULL)
        return NULL;
    char *string = (char *)*at;
    *at = nul + 1;
    return string;
}

enum refusal start_parse(const struct frame *frame, char *mark, struct start *start) {
    uint8_t *at = frame->payload;
    const uint8_t *end = at + frame->length;
    start->timeout_ms = get_u32(at);
    start->grace_ms = get_u32(at + 4);
    start->flags = get_u32(at + 8);
    start->limit_count = at[12];
    size_t argc = get_u16(at + 14), envc = get_u16(at + 16);
    bool terminal = start->flags & START_PTY;
    if ((start->flags & ~(uint32_t)START_FLAGS) != 0 || at[13] != 0 || get_u16(at + 18) != 0 || argc == 0 ||
        (terminal && start->flags & START_MERGE))
        return BAD_PAYLOAD;
    at += 20;

    if ((size_t)(end - at) < start->limit_count * 16)
        return BAD_PAYLOAD;
    for (size_t i = 0; i < start->limit_count; i++, at += 16) {
        if (get_u32(at + 4) != 0)
            return BAD_PAYLOAD;
        start->limits[i] = (struct limit){.resource = get_u32(at), .value = get_u64(at + 8)};
    }
    if (terminal) {
        if (end - at < 4)
            return BAD_PAYLOAD;
        start->rows = get_u16(at);
        start->columns = get_u16(at + 2);
        at += 4;
    }

    start->cwd = take_string(&at, end);
    if (start->cwd == NULL)
        return BAD_PAYLOAD;
    for (size_t i = 0; i < argc; i++)
        if ((argv_vector[i] = take_string(&at, end)) == NULL)
            return BAD_PAYLOAD;
    argv_vector[argc] = NULL;

    size_t name = strcspn(mark, "=") + 1, kept = 0;
    envp_vector[kept++] = mark;
    for (size_t i = 0; i < envc; i++) {
        char *entry = take_string(&at, end);
        if (entry == NULL || strchr(entry, '=') == NULL)
            return BAD_PAYLOAD;
        if (strncmp(entry, mark, name) != 0)
            envp_vector[kept++] = entry;
    }
    envp_vector[kept] = NULL;

    start->argv = argv_vector;
    start->envp = envp_vector;
    return at == end ? FINE : BAD_PAYLOAD;
}

/* A program may be a bare name; all else is an absolute path. */
static bool is_grant(const struct grant *grant) {
    bool program = grant->access == ACCESS_PROGRAM;
    if (grant->access == 0 || (grant->access & ~ACCESS_BITS) != 0 || (!program && (grant->access & ACCESS_PROGRAM)))
        return false;
    return grant->path[0] == '/' || (program && grant->path[0] != '\0' && strchr(grant->path, '/') == NULL);
}

enum refusal restrict_parse(const struct frame *frame, struct restrict_frame *restriction) {
    uint8_t *at = frame->payload;
    const uint8_t *end = at + frame->length;
    restriction->flags = get_u32(at);
    restriction->count = get_u16(at + 4);
    restriction->grants = grants;
    bool sound = restriction->flags != 0 && (restriction->flags & ~(uint32_t)RESTRICT_FLAGS) == 0;
    if (!sound || restriction->count > GRANTS_MOST || get_u16(at + 6) != 0)
        return BAD_PAYLOAD;
    at += 8;

    restriction->search = take_string(&at, end);
    if (restriction->search == NULL)
        return BAD_PAYLOAD;
    for (size_t i = 0; i < restriction->count; i++) {
        if (at == end)
            return BAD_PAYLOAD;
        grants[i].access = *at++;
        grants[i].path = take_string(&at, end);
        if (grants[i].path == NULL || !is_grant(&grants[i]))
            return BAD_PAYLOAD;
    }
    return at == end ? FINE : BAD_PAYLOAD;
}

const char *refusal_text(enum refusal why) {
    switch (why) {
    case FINE: return "fine";
    case BAD_HEADER: return "a frame's length, stream, reserved field or command breaks the rules";
    case BAD_TYPE: return "a frame of unknown type";
    case BAD_PAYLOAD: return "a frame's payload does not fit its type";
    case BAD_ORDER: return "a frame that may not come now";
    case BAD_OFFSET: return "an offset with a hole before it, or beyond what was allowed or sent";
    case BAD_VERSION: return "a protocol version that this guest does not know";
    }
    return "unknown";
}

uint16_t get_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t get_u32(const uint8_t *at) {
    return get_u16(at) | (uint32_t)get_u16(at + 2) << 16;
}

uint64_t get_u64(const uint8_t *at) {
    return get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

uint8_t *put_u16(uint8_t *at, uint16_t value) {
    *at++ = (uint8_t)value;
    *at++ = (uint8_t)(value >> 8);
    return at;
}

uint8_t *put_u32(uint8_t *at, uint32_t value) {
    return put_u16(put_u16(at, (uint16_t)value), (uint16_t)(value >> 16));
}

uint8_t *put_u64(uint8_t *at, uint64_t value) {
    return put_u32(put_u32(at, (uint32_t)value), (uint32_t)(value >> 32));
}

uint8_t *put_header(uint8_t *at, uint32_t length, enum frame_type type, uint8_t stream, uint32_t command) {
    at = put_u32(at, length);
    *at++ = (uint8_t)type;
    *at++ = stream;
    at = put_u16(at, 0);
    return put_u32(at, command);
}
