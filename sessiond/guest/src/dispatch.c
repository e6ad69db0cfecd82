/* The one switch. Files (0x20-0x2f) and tunnels (0x30-0x3f) get their cases here. */
#include "dispatch.h"

#include "channel.h"
#include "command.h"
#include "init.h"
#include "input.h"
#include "output.h"
#include "restrict.h"

enum refusal dispatch(const struct frame *frame) {
    struct command *command = command_find(frame->command);
    switch (frame->type) {
    case PING:
        channel_put(PONG, 0, frame->payload, frame->length);
        return FINE;
    case SHUTDOWN:
        shut_down();
    case START:
        return command_start(frame);
    case RESTRICT:
        return restrict_session(frame);
    }
    if (command == NULL)
        return FINE; /* it is gone: the frame crossed its end */
    switch (frame->type) {
    case STDIN:
        return input_data(command, get_u64(frame->payload), frame->payload + 8, frame->length - 8);
    case STDIN_CLOSE:
        return input_close(command, get_u64(frame->payload));
    case SIGNAL:
        return command_signal(command, get_u32(frame->payload), get_u32(frame->payload + 4));
    case OUTPUT_ACK:
        return output_acknowledge(command, get_u64(frame->payload));
    case FORGET:
        return command_forget(command);
    case RESIZE:
        command_resize(command, get_u16(frame->payload), get_u16(frame->payload + 2));
        return FINE;
    }
    return BAD_TYPE;
}
