/* The wire's letters: constants, and parsing of what the daemon sends. Pure: no system calls. See docs/guest.md. */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 1
#define HELLO_MAGIC 0x444e5353u /* "SSND" */
#define FEATURE_PTY 1
#define FEATURE_LANDLOCK 8

enum {
    FRAME_HEADER = 12,
    FRAME_DATA = 256 * 1024,         /* most bytes of a stream in one frame */
    FRAME_PAYLOAD = FRAME_DATA + 64, /* most payload: the data and the fields before it */
    FRAME_MOST = FRAME_HEADER + FRAME_PAYLOAD,
    STDIN_WINDOW = 256 * 1024, /* bytes of stdin that the daemon may have on the way */
};

enum frame_type {
    WELCOME = 0x01,
    START = 0x02,
    STDIN = 0x03,
    STDIN_CLOSE = 0x04,
    SIGNAL = 0x05,
    RESIZE = 0x06,
    OUTPUT_ACK = 0x07,
    FORGET = 0x08,
    PING = 0x09,
    SHUTDOWN = 0x0a,
    RESTRICT = 0x40,

    HELLO = 0x81,
    STARTED = 0x82,
    FAILED = 0x83,
    OUTPUT = 0x84,
    OUTPUT_EOF = 0x85,
    EXITED = 0x86,
    STDIN_ACK = 0x87,
    SYNCED = 0x88,
    PONG = 0x89,
    GOODBYE = 0x8a,
    ERROR = 0x8b,
    RESTRICTED = 0xc0,
};

enum start_flag { START_STDIN = 1, START_MERGE = 2, START_PTY = 4, START_FLAGS = 7 };
enum stage { STAGE_TOO_MANY = 1, STAGE_RESOURCES, STAGE_FORK, STAGE_RLIMIT, STAGE_CWD, STAGE_EXEC, STAGE_UNSUPPORTED };
enum exit_flag {
    EXIT_TIMED_OUT = 1,
    EXIT_OOM = 2,
    EXIT_ON_REQUEST = 4,
    EXIT_STDOUT_EOF = 8, /* in place of that stream's OUTPUT_EOF */
    EXIT_STDERR_EOF = 16,
};

/* What RESTRICT asks to be restricted, and RESTRICTED says is. */
enum restriction {
    RESTRICT_EXECUTE = 1,
    RESTRICT_READ = 2,
    RESTRICT_WRITE = 4,
    RESTRICT_TCP = 8,
    RESTRICT_SCOPE = 16, /* abstract unix sockets and signals */
    RESTRICT_IOCTL = 32,
    RESTRICT_FLAGS = 63,
};

/* What RESTRICT allows on one path. */
enum access {
    ACCESS_READ = 1,
    ACCESS_WRITE = 2,
    ACCESS_EXECUTE = 4,
    ACCESS_IOCTL = 8,
    ACCESS_PROGRAM = 16, /* reading and executing it, and what it needs to run */
    ACCESS_BITS = 31,
};
enum { GRANTS_MOST = 4096 };

/* Why a frame is refused: the code of ERROR. */
enum refusal {
    FINE = 0,
    BAD_HEADER,  /* length, stream or reserved field */
    BAD_TYPE,    /* no such frame */
    BAD_PAYLOAD, /* its fields do not add up, or have no meaning */
    BAD_ORDER,   /* not now */
    BAD_OFFSET,  /* a hole in stdin, more than was allowed, or an acknowledgement of what was never sent */
    BAD_VERSION,
};

struct frame {
    uint8_t type;
    uint32_t command;
    uint32_t length;
    uint8_t *payload; /* points into the caller's buffer */
};

struct limit {
    uint32_t resource;
    uint64_t value;
};

/* A parsed START. The vectors and strings are borrowed until the next start_parse. */
struct start {
    uint32_t timeout_ms, grace_ms, flags;
    uint16_t rows, columns; /* of the terminal, with START_PTY */
    size_t limit_count;
    struct limit limits[UINT8_MAX];
    const char *cwd;
    char **argv, **envp;
};

struct grant {
    uint8_t access;
    const char *path;
};

/* A parsed RESTRICT. The strings are borrowed from the frame, the grants until the next restrict_parse. */
struct restrict_frame {
    uint32_t flags;
    const char *search; /* PATH, for programs by their bare names */
    size_t count;
    const struct grant *grants;
};

/* Takes one frame off the front of `size` bytes at `bytes`: sets *taken to its length, or to 0 when more bytes are needed. */
enum refusal frame_parse(uint8_t *bytes, size_t size, struct frame *frame, size_t *taken);

/* Takes START's payload apart; `mark` becomes the first entry of the environment, in place of any of the same name. */
enum refusal start_parse(const struct frame *frame, char *mark, struct start *start);

/* Takes RESTRICT's payload apart. */
enum refusal restrict_parse(const struct frame *frame, struct restrict_frame *restriction);

const char *refusal_text(enum refusal why);

uint16_t get_u16(const uint8_t *at);
uint32_t get_u32(const uint8_t *at);
uint64_t get_u64(const uint8_t *at);
uint8_t *put_u16(uint8_t *at, uint16_t value);
uint8_t *put_u32(uint8_t *at, uint32_t value);
uint8_t *put_u64(uint8_t *at, uint64_t value);
uint8_t *put_header(uint8_t *at, uint32_t length, enum frame_type type, uint8_t stream, uint32_t command);

#endif
