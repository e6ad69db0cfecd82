/* Landlock: what the kernel lets this session's programs execute, read, write and reach. */
#ifndef RESTRICT_H
#define RESTRICT_H

#include "frame.h"

/* Landlock's version, 0 where the kernel has none or refuses to say. */
unsigned landlock_abi(void);

/* Acts on RESTRICT: the guest restricts itself, and with that all that it will start, and answers RESTRICTED. Refused after the first
 * START and the second time: whoever runs already would not be bound. */
enum refusal restrict_session(const struct frame *frame);

#endif
