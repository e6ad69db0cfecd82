/* A command's stdout and stderr, from the pipes over its ring to the daemon. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "command.h"

/* Takes over the reading end of a new command's pipe, or the master of its terminal. */
void output_open(struct command *command, struct output *output, uint8_t stream, int fd, bool terminal);

/* The command's process has ended: what is in the pipes now was written before. */
void output_owe(struct command *command);

/* Nothing is owed any more: a terminal goes with its command's own process, and whoever else has it open is told by the kernel. */
void output_hang_up(struct command *command);

enum refusal output_acknowledge(struct command *command, uint64_t offset);

/* Adds up to one OUTPUT frame to the batch. */
void output_emit(struct command *command, struct batch *batch);

#endif
