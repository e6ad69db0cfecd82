/* What must not work inside a sandbox, tried from inside: each probe does one forbidden or limited thing and says whether it was held. */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>

struct probe {
    const char *name;
    const char *unit;          /* of the limit that it takes; NULL: it takes none */
    bool (*held)(double limit); /* says the detail with `say` or `refused` */
};

extern const struct probe identity_probes[], kernel_probes[], reach_probes[], limit_probes[];

/* Sets the detail, and returns `held`. */
__attribute__((format(printf, 2, 3))) bool say(bool held, const char *format, ...);

/* Whether a call with this result was refused; adds to the detail what happened. */
bool refused(const char *what, long result);

/* The value of a line "NAME:\tvalue" of /proc/self/status; empty when there is none. */
const char *status_field(const char *name);

/* The whole of a small file, NUL-terminated; empty when it cannot be read. */
const char *file_text(const char *path);

int probe_main(int argc, char **argv);

#endif
