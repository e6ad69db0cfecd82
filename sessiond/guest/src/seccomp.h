/* The system call filter that commands inherit from the guest. */
#ifndef SECCOMP_H
#define SECCOMP_H

#include <stdbool.h>

/* Applies the filter made of seccomp.toml. For good. */
bool seccomp_apply(void);

#endif
