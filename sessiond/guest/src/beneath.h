/* Opening directories strictly beneath another, whoever changes the tree meanwhile. */
#ifndef BENEATH_H
#define BENEATH_H

#include <stdbool.h>
#include <sys/types.h>

/* A descriptor of the directory `path` beneath `root`; `path` as tar_normalise leaves it, "" is the root. No symbolic link is followed,
 * not the last one either. With `create` what is missing is made. -1 and errno when it cannot be. */
int open_beneath(int root, const char *path, bool create);

/* Opens anything beneath `root`, by a path as above. Links that stay beneath are followed, but for the last one with O_NOFOLLOW; one that
 * leads out is EXDEV. `mode` is 0 unless something is made. */
int open_inside(int root, const char *path, int flags, mode_t mode);

/* Whether this errno says that the path led over a link or a file. */
bool led_astray(int error);

#endif
