/* Standard input into a socket, and what comes from it to standard output, each way until its own end. That the connection stands is said
 * in a line on standard error. */
#include "dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "files.h"

enum { BUFFER = 64 * 1024, MOST_PORT = 65535 };

/* One way of the two. */
struct way {
    int from, to;
    size_t at, filled;
    bool ended; /* nothing more comes, and all that came has gone */
    uint8_t data[BUFFER];
};

static int reach(int family, const void *address, socklen_t size) {
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, address, size) == 0)
        return fd;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

static int reach_port(uint16_t port) {
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = reach(AF_INET, &four, sizeof four);
    if (fd < 0 && errno == ECONNREFUSED) {
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        fd = reach(AF_INET6, &six, sizeof six);
        if (fd < 0)
            errno = ECONNREFUSED;
    }
    return fd;
}

/* By a descriptor: the path is walked strictly beneath, and may be longer than an address can hold. */
static int reach_path(char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = file_open(path, O_PATH);
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", fd);
    return reach(AF_UNIX, &address, sizeof address);
}

static bool goes_on(int error) {
    return error == EINTR || error == EAGAIN;
}

static void end(struct way *way) {
    way->ended = true;
    if (way->to == STDOUT_FILENO)
        close(STDOUT_FILENO);
    else
        shutdown(way->to, SHUT_WR);
}

static void pull(struct way *way) {
    ssize_t got = read(way->from, way->data, BUFFER);
    if (got > 0) {
        way->at = 0;
        way->filled = (size_t)got;
    } else if (got == 0) {
        end(way);
    } else if (!goes_on(errno)) {
        fail(errno);
    }
}

static void push(struct way *way) {
    ssize_t put = way->to == STDOUT_FILENO ? write(way->to, way->data + way->at, way->filled - way->at)
                                           : send(way->to, way->data + way->at, way->filled - way->at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put > 0)
        way->at += (size_t)put;
    else if (put < 0 && errno == EPIPE)
        end(way); /* it reads no more, and may still have something to say */
    else if (put < 0 && !goes_on(errno))
        fail(errno);
}

static void carry(int peer) {
    static struct way ways[2];
    ways[0].from = STDIN_FILENO;
    ways[0].to = ways[1].from = peer;
    ways[1].to = STDOUT_FILENO;
    while (!ways[1].ended) { /* who hears no more needs not be sent more */
        struct pollfd waits[2];
        for (int i = 0; i < 2; i++) {
            bool full = ways[i].at < ways[i].filled;
            waits[i] = (struct pollfd){.fd = ways[i].ended ? -1 : full ? ways[i].to : ways[i].from, .events = full ? POLLOUT : POLLIN};
        }
        if (poll(waits, 2, -1) < 0 && errno != EINTR)
            fail(errno);
        for (int i = 0; i < 2; i++)
            if (waits[i].fd >= 0 && waits[i].revents != 0)
                (waits[i].events == POLLOUT ? push : pull)(&ways[i]);
    }
}

int dial_main(int argc, char **argv) {
    int peer;
    if (argc != 2 || (strcmp(argv[0], "tcp") != 0 && strcmp(argv[0], "unix") != 0)) {
        fputs("usage: guest dial tcp PORT | unix PATH\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    peer = argv[0][0] == 't' ? reach_port((uint16_t)file_number(argv[1], 10, MOST_PORT)) : reach_path(argv[1]);
    if (peer < 0)
        fail(errno);
    fputs("connected\n", stderr);
    carry(peer);
    return 0;
}
