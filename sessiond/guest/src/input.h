/* A command's stdin, from the daemon to the pipe. */
#ifndef INPUT_H
#define INPUT_H

#include "command.h"

/* Takes over the writing end of a new command's pipe; -1 when its stdin is /dev/null. */
void input_open(struct command *command, int fd);
void input_release(struct command *command);

enum refusal input_data(struct command *command, uint64_t offset, const uint8_t *data, size_t length);
enum refusal input_close(struct command *command, uint64_t length);

#endif
