/* Dialing, receiving and sending. The state of what must be said lives with the commands; here are only the bytes on their way. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"
#include "dispatch.h"
#include "loop.h"
#include "restrict.h"

enum {
    REDIAL_FIRST_MS = 10,
    REDIAL_MOST_MS = 1000,
    /* What a write left over: a batch of less than OUTPUT_MOST and one more output frame, and then small frames of which one received
     * frame may cause one. When it is nearly full nothing is read from the daemon until it has taken some. */
    BACKLOG = 192 * 1024,
    BACKLOG_RESERVE = 512,
    GOODBYE_MS = 1000, /* for a daemon that does not read */
    QUIET_MS = 1000,   /* after which the buffers' memory is given back */
    KEPT_BYTES = 16 * 1024,
    PAGE_MOST = 64 * 1024, /* the largest page that Linux uses: buffers are whole pages, so that madvise reaches nothing else */
    RECEIVED = (FRAME_MOST + PAGE_MOST - 1) / PAGE_MOST * PAGE_MOST,
};

/* Static and large, but memory only as far as they have been filled. */
static _Alignas(PAGE_MOST) uint8_t received[RECEIVED];
static _Alignas(PAGE_MOST) uint8_t backlog[BACKLOG];
static size_t received_size, backlog_start, backlog_end;

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static uint8_t boot_id[16];
static bool welcomed, blocked, buffers_used;
static uint64_t redial_at, quiet_at;
static unsigned redial_ms = REDIAL_FIRST_MS;

static void on_ready(void *owner, struct watch *watch, uint32_t events);
static struct watch connection = {.fd = -1, .turn = TURN_CHANNEL, .ready = on_ready};

bool batch_has_room(const struct batch *batch) {
    return batch->bytes < OUTPUT_MOST && batch->count + 4 <= BATCH_PIECES && batch->small_used + 256 <= BATCH_SMALL;
}

static void batch_piece(struct batch *batch, const uint8_t *data, size_t length) {
    struct iovec *last = batch->count > 0 ? &batch->pieces[batch->count - 1] : NULL;
    if (last != NULL && (const uint8_t *)last->iov_base + last->iov_len == data)
        last->iov_len += length;
    else
        batch->pieces[batch->count++] = (struct iovec){(void *)(uintptr_t)data, length};
    batch->bytes += length;
}

uint8_t *batch_frame(struct batch *batch, uint32_t length, enum frame_type type, uint8_t stream, uint32_t command) {
    uint8_t *at = batch->small + batch->small_used;
    batch->small_used += FRAME_HEADER + length;
    batch_piece(batch, at, FRAME_HEADER + length);
    return put_header(at, length, type, stream, command);
}

void batch_output(struct batch *batch, uint32_t command, uint8_t stream, uint64_t offset, const uint8_t *data, size_t length) {
    uint8_t *at = batch->small + batch->small_used;
    put_u64(put_header(at, (uint32_t)(8 + length), OUTPUT, stream, command), offset);
    batch->small_used += FRAME_HEADER + 8;
    batch_piece(batch, at, FRAME_HEADER + 8);
    batch_piece(batch, data, length);
}

static bool has_room(void) {
    return backlog_end + BACKLOG_RESERVE <= BACKLOG;
}

void channel_put(enum frame_type type, uint32_t command, const uint8_t *payload, uint32_t length) {
    uint8_t *at = put_header(backlog + backlog_end, length, type, 0, command);
    if (length > 0)
        memcpy(at, payload, length);
    backlog_end += FRAME_HEADER + length;
}

static void hang_up(void) {
    loop_close(&connection);
    received_size = backlog_start = backlog_end = 0;
    welcomed = blocked = false;
    redial_at = loop_time() + MILLISECONDS(redial_ms);
    redial_ms = redial_ms * 2 < REDIAL_MOST_MS ? redial_ms * 2 : REDIAL_MOST_MS;
}

/* Keeps what a write of `pieces` did not take. */
static void keep_rest(const struct batch *batch, size_t taken) {
    for (int i = 0; i < batch->count; i++) {
        size_t length = batch->pieces[i].iov_len, skip = taken < length ? taken : length;
        memcpy(backlog + backlog_end, (const uint8_t *)batch->pieces[i].iov_base + skip, length - skip);
        backlog_end += length - skip;
        taken -= skip;
    }
    buffers_used = true;
    quiet_at = loop_time() + MILLISECONDS(QUIET_MS);
}

/* What a write says: whether the connection can go on. Sets `blocked` when the daemon takes no more for now. */
static bool survived(ssize_t written) {
    if (written >= 0)
        return true;
    blocked = errno == EAGAIN;
    return errno == EAGAIN || errno == EINTR;
}

static bool flush_backlog(void) {
    ssize_t written = write(connection.fd, backlog + backlog_start, backlog_end - backlog_start);
    if (!survived(written))
        return false;
    backlog_start += written > 0 ? (size_t)written : 0;
    if (backlog_start == backlog_end)
        backlog_start = backlog_end = 0;
    return true;
}

void channel_flush(void) {
    while (connection.fd >= 0 && !blocked) {
        bool alive = true;
        if (backlog_end > 0) {
            alive = flush_backlog();
        } else {
            struct batch batch;
            batch.count = 0;
            batch.bytes = batch.small_used = 0;
            if (!welcomed || !commands_emit(&batch))
                return;
            ssize_t written = writev(connection.fd, batch.pieces, batch.count);
            alive = survived(written);
            if (alive && (size_t)(written > 0 ? written : 0) < batch.bytes)
                keep_rest(&batch, written > 0 ? (size_t)written : 0);
        }
        if (!alive)
            hang_up();
        else if (blocked)
            loop_watch(&connection, connection.events | EPOLLOUT);
    }
}

/* Ends the connection because of what the daemon sent, telling it why if it listens. */
static void refuse(enum refusal why) {
    uint8_t payload[4 + 200];
    const char *text = refusal_text(why);
    uint32_t length = (uint32_t)strlen(text);
    put_u32(payload, why);
    memcpy(payload + 4, text, length);
    if (!blocked) {
        channel_put(ERROR, 0, payload, 4 + length);
        flush_backlog();
    }
    hang_up();
}

static enum refusal take(const struct frame *frame) {
    if (welcomed)
        return frame->type == WELCOME ? BAD_ORDER : dispatch(frame);
    if (frame->type != WELCOME)
        return BAD_ORDER;
    if (get_u16(frame->payload) != PROTOCOL_VERSION)
        return BAD_VERSION;
    welcomed = true;
    redial_ms = REDIAL_FIRST_MS;
    commands_replay();
    return FINE;
}

/* Acts on the frames that are complete, as long as there is room for what they make the guest say. */
static void take_frames(void) {
    size_t at = 0, taken = 1;
    while (taken > 0) {
        if (!has_room())
            channel_flush();
        if (connection.fd < 0)
            return;
        if (!has_room())
            break;
        struct frame frame;
        enum refusal why = frame_parse(received + at, received_size - at, &frame, &taken);
        if (why == FINE && taken > 0)
            why = take(&frame);
        if (why != FINE) {
            refuse(why);
            return;
        }
        at += taken;
    }
    if (at > 0 && received_size > at)
        memmove(received, received + at, received_size - at);
    received_size -= at;
}

static void on_ready(void *owner, struct watch *watch, uint32_t events) {
    (void)owner;
    if (events & EPOLLOUT) {
        blocked = false;
        channel_flush();
        take_frames(); /* that waited for room */
    }
    if (watch->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR) && received_size < sizeof received) {
        ssize_t got = read(watch->fd, received + received_size, sizeof received - received_size);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            hang_up();
            return;
        }
        received_size += got > 0 ? (size_t)got : 0;
        if (received_size > KEPT_BYTES) {
            buffers_used = true;
            quiet_at = loop_time() + MILLISECONDS(QUIET_MS);
        }
        take_frames();
    }
    if (watch->fd >= 0)
        loop_watch(watch, (received_size < sizeof received ? EPOLLIN : 0u) | (blocked ? EPOLLOUT : 0u));
}

static void dial(void) {
    connection.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connection.fd < 0 || connect(connection.fd, (struct sockaddr *)&address, sizeof address) != 0) {
        hang_up();
        return;
    }
    loop_watch(&connection, EPOLLIN);
    uint8_t payload[32];
    uint16_t features = FEATURE_PTY | (landlock_abi() > 0 ? FEATURE_LANDLOCK : 0);
    uint8_t *at = put_u16(put_u16(put_u32(payload, HELLO_MAGIC), PROTOCOL_VERSION), features);
    memcpy(at, boot_id, sizeof boot_id);
    put_u32(put_u32(at + sizeof boot_id, RING_BYTES), COMMANDS_MOST);
    channel_put(HELLO, 0, payload, sizeof payload);
}

void channel_open(const char *path) {
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    while (getrandom(boot_id, sizeof boot_id, 0) != sizeof boot_id)
        ;
}

void channel_tick(void) {
    if (connection.fd < 0 && loop_time() >= redial_at)
        dial();
    if (buffers_used && loop_time() >= quiet_at && received_size == 0 && backlog_end == 0) {
        madvise(received, sizeof received, MADV_DONTNEED);
        madvise(backlog, sizeof backlog, MADV_DONTNEED);
        buffers_used = false;
    }
}

uint64_t channel_deadline(void) {
    uint64_t quiet = buffers_used && received_size == 0 && backlog_end == 0 ? quiet_at : NEVER;
    return connection.fd < 0 && redial_at < quiet ? redial_at : quiet;
}

void channel_goodbye(void) {
    if (!welcomed || !has_room())
        return;
    channel_put(GOODBYE, 0, NULL, 0);
    uint64_t deadline = clock_now() + MILLISECONDS(GOODBYE_MS);
    while (backlog_end > 0 && clock_now() < deadline && flush_backlog())
        if (backlog_end > 0)
            poll(&(struct pollfd){.fd = connection.fd, .events = POLLOUT}, 1, GOODBYE_MS);
}
