/* The guest's two modes that carry a workspace out of a sandbox and into it. They run as the sandbox's user, so that the kernel decides
 * what may be read and written. */
#ifndef TAR_MODES_H
#define TAR_MODES_H

int tar_export_main(int argc, char **argv);
int tar_import_main(int argc, char **argv);

/* One line on standard error: what was done about which member, and why. Names are shown without characters that steer a terminal. */
void tar_say(const char *mode, const char *what, const char *name, const char *why);

#endif
