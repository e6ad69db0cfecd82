/* How often the kernel's out-of-memory killer has struck in the sandbox. */
#ifndef OOM_H
#define OOM_H

#include <stdint.h>

void oom_open(void);

/* The counter's value; 0 for ever where it cannot be seen. */
uint64_t oom_count(void);

#endif
