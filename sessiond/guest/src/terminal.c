/* The sandbox has a devpts of its own: /dev/ptmx makes a terminal that nobody outside of it can open. */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

bool terminal_open(uint16_t rows, uint16_t columns, int *master, int *slave) {
    *slave = -1;
    *master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (*master < 0)
        return false;
    char path[32];
    if (unlockpt(*master) != 0 || ptsname_r(*master, path, sizeof path) != 0)
        return false;
    *slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios modes;
    if (*slave < 0 || tcgetattr(*slave, &modes) != 0)
        return false;
    modes.c_iflag |= IUTF8; /* backspace takes a whole character away */
    if (tcsetattr(*slave, TCSANOW, &modes) != 0)
        return false;
    terminal_resize(*master, rows, columns);
    return true;
}

void terminal_resize(int master, uint16_t rows, uint16_t columns) {
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    ioctl(master, TIOCSWINSZ, &size);
}

bool terminal_type_end(int master) {
    struct termios modes;
    if (tcgetattr(master, &modes) != 0 || modes.c_cc[VEOF] == _POSIX_VDISABLE)
        return true;
    return write(master, &modes.c_cc[VEOF], 1) == 1 || errno != EAGAIN;
}
