/* Rings: their memory comes page by page as output fills it, and goes when they are empty. */
#include "ring.h"

#include <stddef.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum {
    MAPPING = RING_BYTES + RING_SEGMENTS * sizeof(struct segment),
    KEPT_BYTES = 16 * 1024, /* memory that a spare or trimmed mapping may hold on to: what a short command prints fits */
};

/* One mapping is kept for the next command, which saves it mmap, page faults and munmap. */
static uint8_t *spare;

bool ring_open(struct ring *ring) {
    void *memory = spare;
    if (spare == NULL)
        memory = mmap(NULL, MAPPING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    spare = NULL;
    if (memory == MAP_FAILED)
        return false;
    *ring = (struct ring){.data = memory, .segments = (struct segment *)(void *)((uint8_t *)memory + RING_BYTES)};
    return true;
}

void ring_trim(struct ring *ring) {
    if (ring->touched > KEPT_BYTES)
        madvise(ring->data + KEPT_BYTES, MAPPING - KEPT_BYTES, MADV_DONTNEED);
    ring->touched = 0;
}

void ring_close(struct ring *ring) {
    if (ring->data == NULL)
        return;
    if (spare == NULL) {
        ring_trim(ring);
        spare = ring->data;
    } else {
        munmap(ring->data, MAPPING);
    }
    ring->data = NULL;
}

bool ring_full(const struct ring *ring) {
    return ring->end - ring->start == RING_BYTES || ring->count == RING_SEGMENTS;
}

static struct segment *segment_at(const struct ring *ring, uint32_t index) {
    return &ring->segments[(ring->first + index) % RING_SEGMENTS];
}

ssize_t ring_read(struct ring *ring, int fd, uint8_t stream) {
    size_t at = (ring->end - ring->base) % RING_BYTES;
    size_t space = RING_BYTES - (size_t)(ring->end - ring->start);
    size_t piece = RING_BYTES - at < space ? RING_BYTES - at : space;
    struct iovec pieces[] = {{ring->data + at, piece}, {ring->data, space - piece}};
    ssize_t got = readv(fd, pieces, piece < space ? 2 : 1);
    if (got <= 0)
        return got;

    uint32_t reached = at + (size_t)got < RING_BYTES ? (uint32_t)(at + (size_t)got) : RING_BYTES;
    if (ring->touched < reached)
        ring->touched = reached;
    ring->end += (uint64_t)got;
    if (ring->count == 0 || segment_at(ring, ring->count - 1)->stream != stream)
        segment_at(ring, ring->count++)->stream = stream;
    segment_at(ring, ring->count - 1)->end = ring->end;
    return got;
}

size_t ring_peek(const struct ring *ring, uint64_t offset, const uint8_t **data, uint8_t *stream) {
    uint32_t low = 0, high = ring->count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (segment_at(ring, middle)->end > offset)
            high = middle;
        else
            low = middle + 1;
    }
    size_t at = (offset - ring->base) % RING_BYTES;
    size_t length = (size_t)(segment_at(ring, low)->end - offset);
    *data = ring->data + at;
    *stream = segment_at(ring, low)->stream;
    return length < RING_BYTES - at ? length : RING_BYTES - at;
}

void ring_drop(struct ring *ring, uint64_t offset) {
    ring->start = offset;
    while (ring->count > 0 && segment_at(ring, 0)->end <= offset) {
        ring->first = (ring->first + 1) % RING_SEGMENTS;
        ring->count--;
    }
    if (ring->start == ring->end) {
        ring->base = ring->end;
        ring->first = 0;
    }
}
