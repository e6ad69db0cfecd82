/* Walking a directory and all below it, as the tree is at each step: no link is followed. */
#ifndef WALK_H
#define WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

enum { WALK_PATH = 32 * 1024, WALK_DEPTH = 256 };

struct walk {
    /* Told of each entry: whether it is to be walked as well, if it is a directory. */
    bool (*enter)(struct walk *walk, int directory, const char *leaf, const struct stat *stat);
    /* Told after a directory has been walked; may be NULL. */
    void (*leave)(struct walk *walk, int directory, const char *leaf);
    bool stopped;          /* set it to end the walk */
    int error;             /* errno of the first thing that could not be walked, 0 without one */
    char path[WALK_PATH];  /* of the entry, relative to where the walk began */
};

/* Walks what the directory holds. `path` holds the beginning of all paths: "" or one that ends with a slash. */
void walk_all(struct walk *walk, int directory);

#endif
