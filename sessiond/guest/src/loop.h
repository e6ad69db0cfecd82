/* The event loop's register of descriptors, and its clock. */
#ifndef LOOP_H
#define LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

#define NEVER UINT64_MAX
#define MILLISECONDS(n) ((uint64_t)(n)*1000000)

/* Within one round pipes come first: what a process wrote before it ended is then read before its end is noticed. The channel comes
 * last: only what the daemon says makes new commands, so no event of this round can reach a command that took an old one's place. */
enum turn { TURN_PIPE, TURN_SIGNAL, TURN_CHANNEL, TURNS };

struct watch {
    int fd;          /* -1 when closed */
    uint32_t events; /* that epoll has been asked for; 0: not registered */
    enum turn turn;
    void (*ready)(void *owner, struct watch *watch, uint32_t events);
    void *owner;
};

void loop_open(void);

/* Asks for these events of the descriptor, 0 for none. EPOLLERR alone tells of errors only. */
void loop_watch(struct watch *watch, uint32_t events);

/* Closes the descriptor, if it is open. */
void loop_close(struct watch *watch);

/* Waits until the deadline for events and hands them out. */
void loop_round(uint64_t deadline);

/* Nanoseconds on the monotonic clock: now, and as of when the round began. */
uint64_t clock_now(void);
uint64_t loop_time(void);

#endif
