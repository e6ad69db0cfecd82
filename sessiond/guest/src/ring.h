/* A command's unacknowledged output: bytes of both streams in the order read, addressed by offset. */
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    RING_BYTES = 1024 * 1024, /* a power of two; at 1 GB/s a millisecond's worth, about one acknowledgement's way */
    RING_SEGMENTS = 1024,     /* changes of stream that a ring remembers; when they are used up it counts as full */
};

struct segment {
    uint64_t end;
    uint8_t stream;
};

struct ring {
    uint8_t *data;            /* NULL while closed */
    struct segment *segments; /* circular, behind the data in the same mapping */
    uint64_t base;            /* the offset that sits at data[0]: an empty ring starts at its first page again */
    uint64_t start, end;      /* offsets of the oldest byte kept and of the next one */
    uint32_t first, count;    /* segments in use */
    uint32_t touched;         /* bytes of data that may have become memory */
};

/* Reserves the address space; memory comes with use. False with errno. */
bool ring_open(struct ring *ring);
void ring_close(struct ring *ring);

bool ring_full(const struct ring *ring);

/* One read(2) of as much as fits into the ring, which is not full. */
ssize_t ring_read(struct ring *ring, int fd, uint8_t stream);

/* The longest run of one stream that lies in one piece at `offset` (below end). */
size_t ring_peek(const struct ring *ring, uint64_t offset, const uint8_t **data, uint8_t *stream);

/* Forgets everything below `offset` (start to end). */
void ring_drop(struct ring *ring, uint64_t offset);

/* Gives the memory of an empty ring back. */
void ring_trim(struct ring *ring);

#endif
