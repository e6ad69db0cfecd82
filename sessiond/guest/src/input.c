/* Stdin goes to the pipe or terminal directly as long as that takes it, and waits in a buffer of the window's size when not. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "terminal.h"

enum {
    ACK_PATIENCE_MS = 20,   /* an acknowledgement waits this long for output to travel with */
    ACK_URGENT = 64 * 1024, /* unless so much of the window is at stake */
};

static void close_pipe(struct input *input) {
    loop_close(&input->watch);
    if (input->buffer != NULL)
        munmap(input->buffer, STDIN_WINDOW);
    input->buffer = NULL;
}

void input_hang_up(struct command *command) {
    command->input.gone = true;
    close_pipe(&command->input);
    command_owes(command, DUE_STDIN_ACK, 0);
}

static void advance(struct command *command, ssize_t written) {
    struct input *input = &command->input;
    if (written < 0) {
        if (errno != EAGAIN && errno != EINTR)
            input_hang_up(command); /* EPIPE, and EIO of a terminal */
        return;
    }
    input->written += (uint64_t)written;
    command_owes(command, DUE_STDIN_ACK, input->written - input->acknowledged < ACK_URGENT ? ACK_PATIENCE_MS : 0);
}

/* Asks for the events that fit what is left to do, and closes the pipe when nothing is. A terminal's end is a character. */
static void settle(struct input *input) {
    if (input->watch.fd < 0)
        return;
    bool over = input->written == input->length;
    if (over && (!input->terminal || terminal_type_end(input->watch.fd)))
        close_pipe(input);
    else
        loop_watch(&input->watch, over || input->written < input->received ? EPOLLOUT : EPOLLERR);
}

static void write_buffered(struct command *command) {
    struct input *input = &command->input;
    size_t at = input->written % STDIN_WINDOW, length = (size_t)(input->received - input->written);
    size_t piece = STDIN_WINDOW - at < length ? STDIN_WINDOW - at : length;
    struct iovec pieces[] = {{input->buffer + at, piece}, {input->buffer, length - piece}};
    advance(command, writev(input->watch.fd, pieces, 2));
}

static void on_ready(void *owner, struct watch *watch, uint32_t events) {
    struct command *command = owner;
    struct input *input = &command->input;
    (void)watch;
    if (events & (EPOLLERR | EPOLLHUP)) {
        input_hang_up(command);
        return;
    }
    if (input->written < input->received)
        write_buffered(command);
    settle(input);
}

void input_open(struct command *command, int fd, bool terminal) {
    command->input = (struct input){
        .watch = {.fd = fd, .ready = on_ready, .owner = command},
        .piped = fd >= 0,
        .terminal = terminal,
        .length = UINT64_MAX,
    };
    if (fd < 0)
        return;
    fcntl(fd, F_SETFL, O_NONBLOCK); /* a command that does not read must not stop the guest */
    settle(&command->input);
}

void input_release(struct command *command) {
    close_pipe(&command->input);
}

static bool buffer(struct input *input, const uint8_t *data, size_t length) {
    if (input->buffer == NULL) {
        void *memory = mmap(NULL, STDIN_WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return false;
        input->buffer = memory;
    }
    size_t at = input->received % STDIN_WINDOW;
    size_t piece = STDIN_WINDOW - at < length ? STDIN_WINDOW - at : length;
    memcpy(input->buffer + at, data, piece);
    memcpy(input->buffer, data + piece, length - piece);
    input->received += length;
    return true;
}

enum refusal input_data(struct command *command, uint64_t offset, const uint8_t *data, size_t length) {
    struct input *input = &command->input;
    if (command->state == REFUSED || command->forgotten || input->gone)
        return FINE; /* the frame crossed the news */
    if (!input->piped)
        return BAD_ORDER;
    if (offset > input->received || length > UINT64_MAX - offset || offset + length > input->length ||
        (offset + length > input->received && offset + length - input->written > STDIN_WINDOW))
        return BAD_OFFSET;
    if (offset + length <= input->received)
        return FINE; /* all of it was here before the redial */
    data += input->received - offset;
    length -= (size_t)(input->received - offset);

    if (input->written == input->received) {
        ssize_t written = write(input->watch.fd, data, length);
        advance(command, written);
        if (input->gone)
            return FINE;
        size_t direct = written > 0 ? (size_t)written : 0;
        input->received += direct;
        data += direct;
        length -= direct;
    }
    if (length > 0 && !buffer(input, data, length))
        input_hang_up(command); /* no memory: for the daemon the same as a reader that is gone, the stream cannot go on */
    settle(input);
    return FINE;
}

enum refusal input_close(struct command *command, uint64_t length) {
    struct input *input = &command->input;
    if (command->state == REFUSED || command->forgotten || input->gone)
        return FINE;
    if (!input->piped)
        return BAD_ORDER;
    if (length != input->received || (input->length != UINT64_MAX && input->length != length))
        return BAD_OFFSET;
    input->length = length;
    settle(input);
    return FINE;
}
