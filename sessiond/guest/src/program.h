/* Finding a program as execvp would, and what the kernel opens beside it when it is run. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <limits.h>
#include <stdbool.h>

/* Finds the program that `name` means along `search` (PATH; an absolute path is taken as it is). Nothing relative is looked at. */
bool program_find(const char *name, const char *search, char path[PATH_MAX]);

/* What else must be executable for `path` to run: an ELF file's loader, a script's interpreter. Where that is env, `then` is what env is
 * to run, else it is empty. False when there is nothing. */
bool program_needs(const char *path, char interpreter[PATH_MAX], char then[NAME_MAX + 1]);

#endif
