/* Spawns and waits for a program many times, just as a command is spawned, and prints how long it took. */
#include "floor.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop.h"
#include "spawn.h"

enum { MOST = 100000 };

static int compare(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

int floor_main(int argc, char **argv) {
    static uint64_t took[MOST];
    long count = argc >= 2 ? strtol(argv[0], NULL, 10) : 0;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (count < 1 || count > MOST || null < 0) {
        fprintf(stderr, "usage: guest floor COUNT PROGRAM [ARG...] (COUNT up to %d)\n", MOST);
        return 2;
    }
    struct start start = {.cwd = "/", .argv = argv + 1, .envp = environ};
    struct spawn made = {.start = &start, .in = null, .out = null, .err = null};
    for (long i = 0; i < count; i++) {
        uint64_t began = clock_now();
        if (!spawn(&made)) {
            fprintf(stderr, "guest: %s: %s (stage %d)\n", argv[1], strerror(made.error), made.stage);
            return 1;
        }
        waitpid(made.pid, NULL, 0);
        took[i] = clock_now() - began;
    }
    qsort(took, (size_t)count, sizeof *took, compare);
    printf("{\"count\":%ld,\"min_ns\":%llu,\"p50_ns\":%llu,\"p99_ns\":%llu}\n", count, (unsigned long long)took[0],
           (unsigned long long)took[count / 2], (unsigned long long)took[count * 99 / 100]);
    return 0;
}
