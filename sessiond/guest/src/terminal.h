/* Terminals of commands: a pseudoterminal's master is the guest's, its slave is the command's stdin, stdout and stderr. */
#ifndef TERMINAL_H
#define TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

enum { TERMINAL_HELD = 128 * 1024 }; /* more than the kernel keeps of a terminal's output: 64 KiB, and 4 KiB in the line discipline */

/* Makes a terminal of this size, for UTF-8. False with errno. */
bool terminal_open(uint16_t rows, uint16_t columns, int *master, int *slave);

void terminal_resize(int master, uint16_t rows, uint16_t columns);

/* Types the end-of-file character, if the terminal has one now. False when there is no room for it yet. */
bool terminal_type_end(int master);

#endif
