/* The table of commands and their lives: start, timeout, signals, end, and what is said of all that. */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "input.h"
#include "oom.h"
#include "output.h"
#include "spawn.h"
#include "terminal.h"

enum {
    START_PATIENCE_MS = 2, /* a start waits this long for an end to travel with: to say it alone costs a short command a tenth */
    KILL_PAUSE_FIRST_MS = 5, /* between looks at whether a killed tree is gone */
    KILL_PAUSE_MOST_MS = 1000,
    DESCRIPTORS_KEPT = 8, /* that commands leave to the guest, for dialing and for looking into /proc */
};

static struct command table[COMMANDS_MOST];
static struct command *oldest, *newest;
static struct command *next_turn; /* whom the next batch begins with */
static bool replaying;            /* SYNCED has yet to be said */
static bool started;              /* a START came */

struct command *command_find(uint32_t handle) {
    struct command *command = newest;
    while (command != NULL && command->tree.command != handle)
        command = command->older;
    return command;
}

bool commands_started(void) {
    return started;
}

void command_owes(struct command *command, enum due due, uint64_t patience_ms) {
    uint64_t by = loop_time() + MILLISECONDS(patience_ms);
    if (command->due == 0 || by < command->due_by)
        command->due_by = by;
    command->due |= due;
}

static struct command *remember(uint32_t handle) {
    struct command *command = table;
    while (command->state != FREE)
        if (++command == table + COMMANDS_MOST)
            return NULL;
    *command = (struct command){.older = newest, .tree.command = handle, .deadline = NEVER};
    command->outputs[0].watch.fd = command->outputs[1].watch.fd = command->input.watch.fd = -1;
    *(newest != NULL ? &newest->newer : &oldest) = command;
    newest = command;
    return command;
}

static void drop(struct command *command) {
    input_release(command);
    ring_close(&command->ring);
    *(command->older != NULL ? &command->older->newer : &oldest) = command->newer;
    *(command->newer != NULL ? &command->newer->older : &newest) = command->older;
    if (next_turn == command)
        next_turn = command->newer;
    command->state = FREE;
}

/* The daemon is new, or asks again: all of the command is said once more. */
static void replay(struct command *command) {
    command->sent = command->ring.start;
    command->replay_to = command->ring.end;
    command_owes(command, DUE_START, 0);
    if (command->state == REFUSED)
        return;
    for (int i = 0; i < 2; i++)
        if (command->outputs[i].stream != 0 && command->outputs[i].watch.fd < 0)
            command_owes(command, i == 0 ? DUE_STDOUT_EOF : DUE_STDERR_EOF, 0);
    if (command->input.piped && !command->forgotten)
        command_owes(command, DUE_STDIN_ACK, 0);
    if (command->state == ENDED && !command->forgotten)
        command_owes(command, DUE_EXIT, 0);
}

/* What stdin, stdout and stderr are on both sides; -1: not there. */
struct ends {
    int theirs[3], ours[3];
};

static void close_all(const int descriptors[3]) {
    for (int i = 0; i < 3; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
}

static bool make_pipes(struct ends *ends, uint32_t flags) {
    bool wanted[3] = {flags & START_STDIN, true, !(flags & START_MERGE)};
    for (int i = 0; i < 3; i++) {
        int pair[2];
        if (!wanted[i])
            continue;
        if (pipe2(pair, O_CLOEXEC) != 0)
            return false;
        ends->theirs[i] = pair[i != 0];
        ends->ours[i] = pair[i == 0];
    }
    return true;
}

/* The master is there twice, since reading and writing wait for events of their own. */
static bool make_terminal(struct ends *ends, const struct start *start) {
    if (!terminal_open(start->rows, start->columns, &ends->ours[1], &ends->theirs[1]))
        return false;
    if (start->flags & START_STDIN)
        ends->ours[0] = fcntl(ends->ours[1], F_DUPFD_CLOEXEC, 0);
    return !(start->flags & START_STDIN) || ends->ours[0] >= 0;
}

/* Whether one of these descriptors, the highest that are open, is one of the last that there can be. */
static bool is_scarce(const struct ends *ends) {
    int highest = -1;
    for (int i = 0; i < 3; i++) {
        highest = ends->ours[i] > highest ? ends->ours[i] : highest;
        highest = ends->theirs[i] > highest ? ends->theirs[i] : highest;
    }
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)highest + DESCRIPTORS_KEPT >= limit.rlim_cur;
}

/* Makes the pipes or the terminal, runs the program, and sets the command up as RUNNING. False with the reason in `spawn`. */
static bool run(struct command *command, const struct start *start, struct spawn *made) {
    struct ends ends = {{-1, -1, -1}, {-1, -1, -1}};
    bool terminal = start->flags & START_PTY;
    made->stage = STAGE_RESOURCES;
    bool ready = ring_open(&command->ring) && (terminal ? make_terminal(&ends, start) : make_pipes(&ends, start->flags));
    if (ready && is_scarce(&ends)) {
        ready = false;
        errno = EMFILE;
    }
    if (!ready) {
        made->error = errno;
        close_all(ends.theirs);
        close_all(ends.ours);
        return false;
    }

    made->terminal = terminal;
    made->out = ends.theirs[1];
    made->in = terminal ? made->out : ends.theirs[0];
    made->err = ends.theirs[2] >= 0 ? ends.theirs[2] : made->out;
    command->oom_before = oom_count();
    command->began = clock_now();
    bool spawned = spawn(made);
    close_all(ends.theirs);
    if (!spawned) {
        close_all(ends.ours);
        return false;
    }

    /* A number comes back only when no process, group or session has it any more: it means nothing of an older command now. */
    for (struct command *other = oldest; other != NULL; other = other->newer)
        if (other->tree.leader == made->pid)
            other->tree.leader = 0;
    command->pid = command->tree.leader = made->pid;
    command->state = RUNNING;
    output_open(command, &command->outputs[0], 1, ends.ours[1], terminal);
    output_open(command, &command->outputs[1], 2, ends.ours[2], false);
    input_open(command, ends.ours[0], terminal);
    if (ends.ours[2] < 0)
        command->outputs[1].stream = 0; /* it has no end of its own to report */
    return true;
}

static void refuse(struct command *command, int error, enum stage stage) {
    ring_close(&command->ring);
    command->ring = (struct ring){0};
    command->state = REFUSED;
    command->error = error;
    command->stage = stage;
}

enum refusal command_start(const struct frame *frame) {
    static struct start start; /* of some size, because of the limits */
    static char mark[32];
    snprintf(mark, sizeof mark, MARK_NAME "%u", (unsigned)frame->command);
    enum refusal why = start_parse(frame, mark, &start);
    if (why != FINE)
        return why;
    started = true;

    struct command *command = command_find(frame->command);
    if (command != NULL) {
        replay(command);
        return FINE;
    }
    command = remember(frame->command);
    if (command == NULL) {
        /* Cannot be remembered either: a daemon that does not hear of it starts it again, or takes it for lost. */
        uint8_t payload[8];
        put_u32(put_u32(payload, EAGAIN), STAGE_TOO_MANY);
        channel_put(FAILED, frame->command, payload, sizeof payload);
        return FINE;
    }

    struct spawn made = {.start = &start};
    if (!run(command, &start, &made))
        refuse(command, made.error, made.stage);
    command->grace = MILLISECONDS(start.grace_ms);
    if (command->state == RUNNING && start.timeout_ms != 0)
        command->deadline = command->began + MILLISECONDS(start.timeout_ms);
    command_owes(command, DUE_START, command->state == REFUSED ? 0 : START_PATIENCE_MS);
    return FINE;
}

static void kill_tree(struct command *command) {
    if (!command->killing)
        command->kill_pause = MILLISECONDS(KILL_PAUSE_FIRST_MS);
    command->killing = !tree_kill(&command->tree);
    command->kill_at = clock_now() + command->kill_pause;
    if (command->kill_pause < MILLISECONDS(KILL_PAUSE_MOST_MS))
        command->kill_pause *= 2;
    command_settle(command);
}

enum refusal command_signal(struct command *command, uint32_t signal, uint32_t scope) {
    if (signal < 1 || signal > 64 || scope > SCOPE_TREE)
        return BAD_PAYLOAD;
    if (command->state == REFUSED)
        return FINE;
    if (command->state == RUNNING)
        command->signals_requested |= UINT64_C(1) << (signal - 1);

    if (scope == SCOPE_TREE && signal == SIGKILL)
        kill_tree(command);
    else if (scope == SCOPE_GROUP && command->state == RUNNING)
        kill(-command->tree.leader, (int)signal);
    else
        tree_signal(&command->tree, scope, (int)signal);
    return FINE;
}

enum refusal command_forget(struct command *command) {
    if (command->state != REFUSED && command->state != ENDED)
        return BAD_ORDER;
    command->forgotten = true;
    command->due &= DUE_STDOUT_EOF | DUE_STDERR_EOF;
    input_release(command);
    command_settle(command);
    return FINE;
}

void command_resize(struct command *command, uint16_t rows, uint16_t columns) {
    const struct output *output = &command->outputs[0];
    if (output->terminal && output->watch.fd >= 0)
        terminal_resize(output->watch.fd, rows, columns);
}

void command_settle(struct command *command) {
    bool open = false;
    int owed = 0;
    for (int i = 0; i < 2; i++)
        owed += command->outputs[i].owed;
    if (command->state == DRAINING && owed == 0) {
        command->state = ENDED;
        command->exit.output = command->ring.end;
        output_hang_up(command);
        if (command->input.terminal && command->input.watch.fd >= 0)
            input_hang_up(command);
        command_owes(command, DUE_EXIT, 0);
    }
    for (int i = 0; i < 2; i++)
        open |= command->outputs[i].watch.fd >= 0;
    bool acknowledged = command->ring.start == command->ring.end;
    if (command->forgotten && acknowledged && !open && command->due == 0 && !command->killing && command->deadline == NEVER)
        drop(command);
}

void commands_reaped(pid_t pid, int status, const struct rusage *usage) {
    struct command *command = newest;
    while (command != NULL && (command->pid != pid || command->state != RUNNING))
        command = command->older;
    if (command == NULL)
        return;

    struct exit_record *record = &command->exit;
    record->code = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 0;
    record->signal = WIFSIGNALED(status) ? (uint32_t)WTERMSIG(status) : 0;
    record->wall_ns = clock_now() - command->began;
    record->user_us = (uint64_t)usage->ru_utime.tv_sec * 1000000 + (uint64_t)usage->ru_utime.tv_usec;
    record->system_us = (uint64_t)usage->ru_stime.tv_sec * 1000000 + (uint64_t)usage->ru_stime.tv_usec;
    record->rss_kib = (uint64_t)usage->ru_maxrss;
    if (status != 0 && oom_count() > command->oom_before)
        record->flags |= EXIT_OOM;
    if (record->signal != 0 && command->signals_requested >> (record->signal - 1) & 1)
        record->flags |= EXIT_ON_REQUEST;

    if (!(record->flags & EXIT_TIMED_OUT))
        command->deadline = NEVER; /* otherwise the rest of its tree still has the grace */
    command->state = DRAINING;
    output_owe(command);
    command_settle(command);
}

void commands_replay(void) {
    replaying = true;
    next_turn = oldest;
    for (struct command *command = oldest; command != NULL; command = command->newer)
        replay(command);
}

static bool has_news(const struct command *command) {
    return command->sent < command->ring.end || (command->due != 0 && command->due_by <= loop_time());
}

/* Adds a small frame if it is due. Its payload is for the caller to fill; NULL when it is not due. */
static uint8_t *emit_due(struct command *command, enum due due, struct batch *batch, uint32_t length, enum frame_type type,
                         uint8_t stream) {
    if (!(command->due & due))
        return NULL;
    command->due &= ~due;
    return batch_frame(batch, length, type, stream, command->tree.command);
}

/* Adds what is to be said of one command: everything that is due, and up to one frame of output. */
static void emit(struct command *command, struct batch *batch) {
    uint8_t *at;
    if (command->state == REFUSED && (at = emit_due(command, DUE_START, batch, 8, FAILED, 0)))
        put_u32(put_u32(at, (uint32_t)command->error), command->stage);
    if ((at = emit_due(command, DUE_START, batch, 8, STARTED, 0)))
        put_u32(put_u32(at, (uint32_t)command->pid), 0);

    output_emit(command, batch);
    const struct exit_record *record = &command->exit;
    bool ends = command->due & DUE_EXIT && command->sent >= record->output;
    uint32_t flags = record->flags;
    for (int i = 0; i < 2; i++) {
        enum due due = i == 0 ? DUE_STDOUT_EOF : DUE_STDERR_EOF;
        if (command->sent < command->outputs[i].end)
            continue;
        if (ends && command->due & due) { /* EXITED says it too, and a frame less to read is a tenth of reading them all */
            command->due &= ~due;
            flags |= i == 0 ? EXIT_STDOUT_EOF : EXIT_STDERR_EOF;
        } else if ((at = emit_due(command, due, batch, 8, OUTPUT_EOF, (uint8_t)(i + 1)))) {
            put_u64(at, command->outputs[i].end);
        }
    }

    struct input *input = &command->input;
    if ((at = emit_due(command, DUE_STDIN_ACK, batch, 8, STDIN_ACK, 0))) {
        put_u64(at, input->gone ? UINT64_MAX : input->written);
        input->acknowledged = input->written;
    }

    if (ends && (at = emit_due(command, DUE_EXIT, batch, 56, EXITED, 0))) {
        at = put_u32(put_u32(put_u32(put_u32(at, record->code), record->signal), flags), 0);
        at = put_u64(put_u64(put_u64(at, record->output), record->wall_ns), record->user_us);
        put_u64(put_u64(at, record->system_us), record->rss_kib);
    }
    command_settle(command);
}

bool commands_emit(struct batch *batch) {
    while (replaying && batch_has_room(batch)) {
        struct command *command = next_turn;
        if (command == NULL) {
            batch_frame(batch, 0, SYNCED, 0, 0);
            replaying = false;
            break;
        }
        emit(command, batch);
        if (next_turn == command && command->sent >= command->replay_to) /* it is another's already if the record went away */
            next_turn = command->newer;
    }

    /* Everyone in turn, until all have been passed over without news. */
    struct command *command = next_turn != NULL ? next_turn : oldest, *since = NULL;
    while (!replaying && command != NULL && command != since && batch_has_room(batch)) {
        struct command *newer = command->newer;
        if (has_news(command)) {
            emit(command, batch);
            since = NULL;
        } else if (since == NULL) {
            since = command;
        }
        command = newer != NULL ? newer : oldest;
    }
    if (!replaying)
        next_turn = command;
    return batch->count > 0;
}

void commands_tick(void) {
    uint64_t now = loop_time();
    for (struct command *command = oldest, *newer; command != NULL; command = newer) {
        newer = command->newer;
        if (command->deadline <= now && !(command->exit.flags & EXIT_TIMED_OUT)) {
            command->exit.flags |= EXIT_TIMED_OUT;
            kill(-command->tree.leader, SIGTERM);
            command->deadline = now + command->grace;
        }
        if (command->ring.touched > 0 && command->ring_quiet <= now && command->ring.start == command->ring.end)
            ring_trim(&command->ring);
        if (command->deadline <= now) {
            command->deadline = NEVER;
            kill_tree(command);
        } else if (command->killing && command->kill_at <= now) {
            kill_tree(command);
        }
    }
}

static uint64_t sooner(uint64_t one, uint64_t other) {
    return one < other ? one : other;
}

uint64_t commands_deadline(void) {
    uint64_t deadline = NEVER;
    for (struct command *command = oldest; command != NULL; command = command->newer) {
        deadline = sooner(deadline, command->deadline);
        if (command->killing)
            deadline = sooner(deadline, command->kill_at);
        if (command->ring.touched > 0 && command->ring.start == command->ring.end)
            deadline = sooner(deadline, command->ring_quiet);
        if (command->due != 0 && command->due_by > loop_time())
            deadline = sooner(deadline, command->due_by); /* what is due already waits for the channel, not for time */
    }
    return deadline;
}
