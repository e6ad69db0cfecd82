/* From a frame's type to what acts on it. */
#ifndef DISPATCH_H
#define DISPATCH_H

#include "frame.h"

enum refusal dispatch(const struct frame *frame);

#endif
