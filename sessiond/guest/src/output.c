/* Output is read into the ring only as far as the daemon acknowledges, so a full ring blocks the producer. */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "terminal.h"

enum {
    RING_QUIET_MS = 1000,
    EOF_PATIENCE_MS = 20, /* an end of stream waits this long for an exit to travel with: most commands end right after */
};

static void reached_end(struct command *command, struct output *output) {
    loop_close(&output->watch);
    output->owed = 0;
    output->end = command->ring.end;
    command_owes(command, output->stream == 1 ? DUE_STDOUT_EOF : DUE_STDERR_EOF, EOF_PATIENCE_MS);
}

static void take(struct command *command, struct output *output, uint32_t events) {
    struct watch *watch = &output->watch;
    bool more = true;
    while (more && !ring_full(&command->ring)) {
        ssize_t got = ring_read(&command->ring, watch->fd, output->stream);
        if (got > 0)
            output->owed -= got < output->owed ? (int)got : output->owed;
        else if (got == 0 || errno == EIO) /* EIO: nobody has the terminal open any more */
            reached_end(command, output);
        else if (errno == EAGAIN)
            output->owed = 0; /* a terminal has no more; of a pipe someone else has a reading end, by /proc/self/fd/1, and took it */
        /* Without writers, or after the process, the end is near; otherwise epoll tells when there is more. */
        more = got > 0 && (events & EPOLLHUP || output->owed > 0);
    }
    command->ring_quiet = loop_time() + MILLISECONDS(RING_QUIET_MS);
    if (watch->fd >= 0 && ring_full(&command->ring))
        loop_watch(watch, 0); /* until an acknowledgement makes room */
}

static void on_ready(void *owner, struct watch *watch, uint32_t events) {
    struct command *command = owner;
    take(command, &command->outputs[watch == &command->outputs[1].watch], events);
    command_settle(command);
}

void output_open(struct command *command, struct output *output, uint8_t stream, int fd, bool terminal) {
    *output = (struct output){
        .watch = {.fd = fd, .ready = on_ready, .owner = command},
        .stream = stream,
        .terminal = terminal,
    };
    if (fd < 0)
        return;
    /* A command can open a reading end of its own pipe (/proc/self/fd/1) and take data that epoll has announced: never block on it. */
    fcntl(fd, F_SETFL, O_NONBLOCK);
    loop_watch(&output->watch, EPOLLIN);
}

void output_owe(struct command *command) {
    for (int i = 0; i < 2; i++) {
        struct output *output = &command->outputs[i];
        if (output->watch.fd < 0)
            continue;
        if (output->terminal) { /* how much there is only reading tells: the kernel moves it up in the background */
            output->owed = TERMINAL_HELD;
            take(command, output, 0);
        } else if (ioctl(output->watch.fd, FIONREAD, &output->owed) != 0) {
            output->owed = 0;
        }
    }
}

void output_hang_up(struct command *command) {
    for (int i = 0; i < 2; i++) {
        struct output *output = &command->outputs[i];
        if (output->terminal && output->watch.fd >= 0)
            reached_end(command, output);
    }
}

enum refusal output_acknowledge(struct command *command, uint64_t offset) {
    if (offset > command->ring.end)
        return BAD_OFFSET;
    if (offset <= command->ring.start)
        return FINE;
    ring_drop(&command->ring, offset);
    if (command->sent < offset)
        command->sent = offset; /* it had come through before the redial */
    for (int i = 0; i < 2; i++) {
        struct output *output = &command->outputs[i];
        if (output->watch.fd < 0)
            continue;
        loop_watch(&output->watch, EPOLLIN);
        if (output->owed > 0)
            take(command, output, 0); /* a terminal that has nothing more does not say so by itself */
    }
    command_settle(command);
    return FINE;
}

void output_emit(struct command *command, struct batch *batch) {
    if (command->sent == command->ring.end)
        return;
    const uint8_t *data;
    uint8_t stream;
    size_t length = ring_peek(&command->ring, command->sent, &data, &stream);
    if (length > OUTPUT_MOST)
        length = OUTPUT_MOST;
    batch_output(batch, command->tree.command, stream, command->sent, data, length);
    command->sent += length;
}
