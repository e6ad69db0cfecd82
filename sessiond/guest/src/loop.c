/* One epoll instance, level-triggered: a descriptor that has more to say is simply reported again. */
#include "loop.h"

#include <limits.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 64 }; /* a round; more wait for the next */

static int epoll = -1;
static uint64_t round_began;

void loop_open(void) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        abort(); /* without it there is nothing to do in life */
    round_began = clock_now();
}

void loop_watch(struct watch *watch, uint32_t events) {
    if (events == watch->events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    int operation = watch->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll, operation, watch->fd, &event) == 0)
        watch->events = events;
}

void loop_close(struct watch *watch) {
    if (watch->fd < 0)
        return;
    loop_watch(watch, 0); /* epoll would remember a terminal's master by its other descriptor */
    close(watch->fd);
    watch->fd = -1;
    watch->events = 0;
}

void loop_round(uint64_t deadline) {
    struct epoll_event events[EVENTS];
    uint64_t now = clock_now();
    uint64_t wait = deadline <= now ? 0 : (deadline - now - 1) / MILLISECONDS(1) + 1;
    int timeout = deadline == NEVER ? -1 : wait > INT_MAX ? INT_MAX : (int)wait;
    int count = epoll_wait(epoll, events, EVENTS, timeout);
    round_began = clock_now();
    for (enum turn turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < count; i++) {
            struct watch *watch = events[i].data.ptr;
            if (watch->turn == turn && watch->fd >= 0)
                watch->ready(watch->owner, watch, events[i].events);
        }
}

uint64_t clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t loop_time(void) {
    return round_began;
}
