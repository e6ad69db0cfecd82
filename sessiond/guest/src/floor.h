/* The floor: what a bare spawn and wait costs, to measure everything else against. */
#ifndef FLOOR_H
#define FLOOR_H

int floor_main(int argc, char **argv);

#endif
