/* The channel to the daemon: dialing, receiving frames, and sending. */
#ifndef CHANNEL_H
#define CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "frame.h"

enum {
    OUTPUT_MOST = 64 * 1024, /* data in one OUTPUT frame: what a pipe holds, so what one read mostly gives */
    BATCH_PIECES = 64,
    BATCH_SMALL = 4096,
};

/* What goes out in one write: small frames and headers are built in `small`, output is sent from where it lies. */
struct batch {
    struct iovec pieces[BATCH_PIECES];
    int count;
    size_t bytes;
    uint8_t small[BATCH_SMALL];
    size_t small_used;
};

/* Whether everything that one command may add in one go still fits. */
bool batch_has_room(const struct batch *batch);

/* Room for a small frame's `length` payload bytes behind a header made of the rest. */
uint8_t *batch_frame(struct batch *batch, uint32_t length, enum frame_type type, uint8_t stream, uint32_t command);

/* An OUTPUT frame. The data must stay where it is until the batch is written. */
void batch_output(struct batch *batch, uint32_t command, uint8_t stream, uint64_t offset, const uint8_t *data, size_t length);

void channel_open(const char *path);

/* Puts a small frame behind what waits to be written. */
void channel_put(enum frame_type type, uint32_t command, const uint8_t *payload, uint32_t length);

/* Writes what there is to say, as far as the daemon takes it. */
void channel_flush(void);

void channel_tick(void);
uint64_t channel_deadline(void);

/* Sends GOODBYE and waits a moment for the daemon to take everything. */
void channel_goodbye(void);

#endif
