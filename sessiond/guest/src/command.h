/* The commands that the guest remembers, from START to the end of their records. */
#ifndef COMMAND_H
#define COMMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "channel.h"
#include "frame.h"
#include "loop.h"
#include "ring.h"
#include "tree.h"

/* Each record costs up to a ring of memory that counts as the sandbox's own; this many at once is beyond what agents do. */
enum { COMMANDS_MOST = 256 };

/* What has yet to be said of a command besides its output. Repeated from the start after each redial. */
enum due { DUE_START = 1, DUE_STDOUT_EOF = 2, DUE_STDERR_EOF = 4, DUE_STDIN_ACK = 8, DUE_EXIT = 16 };

enum state {
    FREE = 0, /* the record is not in use */
    REFUSED,  /* it could not be started: FAILED */
    RUNNING,
    DRAINING, /* its process has ended, but not all that it wrote has been read */
    ENDED,    /* EXITED may be said */
};

struct output {
    struct watch watch; /* a pipe's reading end or a terminal's master */
    uint8_t stream;
    bool terminal;
    int owed;     /* bytes that were there when the process ended, still to be read before EXITED; of a terminal a bound for them */
    uint64_t end; /* length of the command's output when the end of this stream was reached */
};

struct input {
    struct watch watch;    /* the writing end; -1 when closed or never opened */
    bool piped;            /* stdin is a pipe, or a terminal */
    bool terminal;
    bool gone;             /* nobody can read it any more */
    uint64_t length;       /* where STDIN_CLOSE ends it; UINT64_MAX until then */
    uint64_t received;     /* the offset that the daemon goes on at */
    uint64_t written;      /* to the pipe; the rest is in the buffer */
    uint64_t acknowledged; /* told to the daemon */
    uint8_t *buffer;       /* STDIN_WINDOW bytes, circular by offset; NULL while nothing had to wait */
};

struct exit_record {
    uint32_t code, signal, flags;
    uint64_t output, wall_ns, user_us, system_us, rss_kib;
};

struct command {
    struct command *older, *newer; /* in the order of START */
    enum state state;
    struct tree tree; /* its handle, and the leader of its session and group */
    pid_t pid;
    int error; /* of a refusal */
    enum stage stage;

    uint64_t began, deadline; /* deadline: of the timeout, then of the grace */
    uint64_t grace;
    bool killing; /* the tree is being killed; look again at kill_at, after kill_pause */
    uint64_t kill_at, kill_pause;
    uint64_t signals_requested; /* bit n - 1: the daemon sent signal n */
    uint64_t oom_before;

    struct ring ring;
    uint64_t sent; /* output below it is on its way to the daemon */
    struct output outputs[2];
    struct input input;
    struct exit_record exit;

    unsigned due;        /* enum due, or-ed */
    uint64_t due_by;     /* when it is sent even without company */
    uint64_t replay_to;  /* output below it belongs before SYNCED */
    uint64_t ring_quiet; /* when the empty ring's memory is given back */
    bool forgotten;      /* by the daemon */
};

struct command *command_find(uint32_t handle);

/* Whether a program was ever run. */
bool commands_started(void);

enum refusal command_start(const struct frame *frame);
enum refusal command_signal(struct command *command, uint32_t signal, uint32_t scope);
enum refusal command_forget(struct command *command);

/* Gives the command's terminal another size; one without a terminal is left alone. */
void command_resize(struct command *command, uint16_t rows, uint16_t columns);

/* Notes that something must be said, and how long it may wait for company: a write costs both sides more than the bytes in it. */
void command_owes(struct command *command, enum due due, uint64_t patience_ms);

/* Something about the command changed that lets its record move on: to the end of draining, or away. */
void command_settle(struct command *command);

/* A child was reaped; it may be some command's own process, or an orphan. */
void commands_reaped(pid_t pid, int status, const struct rusage *usage);

/* Replays all commands, oldest first, and then says SYNCED. */
void commands_replay(void);

/* Adds what is due to the batch. False when there is nothing. */
bool commands_emit(struct batch *batch);

void commands_tick(void);
uint64_t commands_deadline(void);

#endif
