/* A command's whole tree of processes, however it tried to get away: found through /proc. */
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MARK_NAME "SESSIOND_COMMAND="

struct tree {
    uint32_t command; /* the mark in the environment; 0 stands for everything that the guest has started */
    pid_t leader;     /* leader of the session and process group; 0 when that number has become another's */
};

enum scope { SCOPE_GROUP, SCOPE_TREE };

/* Sends the signal, once, to each process of the tree, or to those in its leader's process group. */
void tree_signal(const struct tree *tree, enum scope scope, int signal);

/* Stops, then kills the tree. True when nothing was left of it to begin with: call again later until it is. */
bool tree_kill(const struct tree *tree);

#endif
