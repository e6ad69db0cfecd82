/* What must not work inside a sandbox, tried from inside. */
#ifndef PROBE_H
#define PROBE_H

int probe_main(int argc, char **argv);

#endif
