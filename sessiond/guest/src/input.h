/* A command's stdin, from the daemon to the pipe. */
#ifndef INPUT_H
#define INPUT_H

#include "command.h"

/* Takes over the writing end of a new command's pipe, or a master of its terminal; -1 when nothing is to be written. */
void input_open(struct command *command, int fd, bool terminal);
void input_release(struct command *command);

/* Nobody can read it any more. */
void input_hang_up(struct command *command);

enum refusal input_data(struct command *command, uint64_t offset, const uint8_t *data, size_t length);
enum refusal input_close(struct command *command, uint64_t length);

#endif
