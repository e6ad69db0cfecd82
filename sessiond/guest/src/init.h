/* PID 1's life: one loop until it is told to end. */
#ifndef INIT_H
#define INIT_H

#include <stdbool.h>
#include <stdnoreturn.h>

enum { NOEXEC_MOST = 16 };

struct init {
    const char *socket_path;
    bool with_seccomp;
    char *noexec[NOEXEC_MOST]; /* paths to remount */
    int noexec_count;
};

noreturn void init_run(const struct init *init);

/* Kills everything, says goodbye and exits. */
noreturn void shut_down(void);

#endif
