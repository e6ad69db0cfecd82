/* Mounts from which nothing is executed or mapped as code, where the engine cannot make them so. */
#ifndef NOEXEC_H
#define NOEXEC_H

#include <stdbool.h>

/* Remounts each path noexec, in a mount namespace of the guest's own, and gives up all capabilities for ever. bwrap leaves the guest
 * CAP_SYS_ADMIN and CAP_SETPCAP of the jail's user namespace for this. False with errno. */
bool noexec_apply(char *const *paths, int count);

#endif
