/* The guest's modes for files. They run as the sandbox's user, in the workspace: the kernel decides what may be read and written. A path
 * is relative to the working directory, or absolute and within it or /tmp. Each ends with 0, or says why not (fail, escape). */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum file_exit {
    FILE_FAILED = 1,     /* the system refused: standard error begins with its errno */
    FILE_ESCAPES = 3,    /* the path leads out of the directory */
    FILE_INCOMPLETE = 5, /* done but for what standard error names */
};

int file_read_main(int argc, char **argv);
int file_write_main(int argc, char **argv);
int file_checksum_main(int argc, char **argv);
int file_mkdir_main(int argc, char **argv);
int file_rename_main(int argc, char **argv);
int file_remove_main(int argc, char **argv);
int file_chmod_main(int argc, char **argv);
int file_stat_main(int argc, char **argv);
int file_list_main(int argc, char **argv);
int file_search_main(int argc, char **argv);
int file_watch_main(int argc, char **argv);

/* Ends with FILE_FAILED: "ERRNO WORDS" on standard error. */
_Noreturn void fail(int error);

/* The same for the errno of a path that was walked: EXDEV is FILE_ESCAPES. */
_Noreturn void fail_on_the_way(void);

/* Where a path begins: an open directory. What is left of the path is normalised in place. */
int file_root(char *path, const char **inside);

/* Opens what a path names; see open_inside. */
int file_open(char *path, int flags);

/* Opens the directory that holds what a path names, which must not be a root. */
int file_parent(char *path, const char **leaf);

/* A file that must be a regular one, open. */
int file_regular(int fd);

/* Whether it is the name that a file has for a moment before it replaces another. */
bool file_is_temporary(const char *leaf);

/* A number from an argument, at most `most`; ends with usage's 2. */
uint64_t file_number(const char *text, int base, uint64_t most);

/* All of it to standard output. */
void file_put(const void *data, size_t size);

/* One record of a listing on standard output: "KIND MODE SIZE SECONDS.NANOSECONDS PATH" NUL, and a link's target NUL. */
void file_put_entry(const char *path, const struct stat *stat, int directory, const char *leaf);

/* What was written is out, or this fails. The exit code of a mode that went through its end. */
int file_done(int code);

#endif
