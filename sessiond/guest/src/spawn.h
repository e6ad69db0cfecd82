/* The one way in which a process is made: clone(CLONE_VM | CLONE_VFORK), then exec. */
#ifndef SPAWN_H
#define SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "frame.h"

struct spawn {
    const struct start *start;
    int in, out, err; /* what the child has as 0, 1 and 2; `in` < 0 keeps the guest's, which is /dev/null */
    bool terminal;    /* `in` is one, to be the controlling terminal of the child's session */
    pid_t pid;
    int error; /* errno and stage of a failure */
    enum stage stage;
};

/* Returns when the child runs its program (pid is set) or has failed and is reaped (stage is set; false). */
bool spawn(struct spawn *spawn);

#endif
