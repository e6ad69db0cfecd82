/* PID 1's life: one loop until it is told to end. */
#ifndef INIT_H
#define INIT_H

#include <stdbool.h>
#include <stdnoreturn.h>

noreturn void init_run(const char *socket_path, bool with_seccomp);

/* Kills everything, says goodbye and exits. */
noreturn void shut_down(void);

#endif
