/* The guest's mode that connects its standard streams with a socket inside the sandbox. */
#ifndef DIAL_H
#define DIAL_H

int dial_main(int argc, char **argv);

#endif
