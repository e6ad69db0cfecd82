/* The whole tree of a command is every process that descends from it, shares its session or process group, or carries its mark.
 *
 * Only descendants of the guest are looked at. As PID 1 that is everyone; elsewhere (the guest is then a child subreaper, so that
 * orphans stay its descendants) it keeps the machine's other processes out of harm's way, whatever numbers they have. */
#include "tree.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    PROCESSES = 32768, /* the most that one scan sees; pids limits are far below */
    ROUNDS = 16,       /* scans in one go: a stop takes effect within microseconds, unless the process waits for a device */
};

enum mark {
    OURS = 1,   /* descends from the guest */
    MEMBER = 2, /* of the tree that is looked for */
    STOPPED = 4,
};

struct process {
    pid_t pid, parent, group, session;
    unsigned marks; /* enum mark, or-ed */
};

struct scan {
    int proc;                  /* /proc */
    struct process *processes; /* by pid, ascending */
    size_t count;
};

#define SCAN_BYTES (PROCESSES * sizeof(struct process))

/* One file of /proc/PID into `text`, NUL-terminated. Returns its length, 0 when the process is gone or will not be read. */
static size_t read_file(int proc, pid_t pid, const char *name, char *text, size_t size) {
    char path[32];
    snprintf(path, sizeof path, "%d/%s", (int)pid, name);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0 ? (size_t)length : 0;
}

static bool read_process(int proc, pid_t pid, struct process *process) {
    char stat[512];
    if (read_file(proc, pid, "stat", stat, sizeof stat) == 0)
        return false;
    /* "pid (name) state ppid pgrp session ...": the name may hold anything, parentheses too. */
    char *at = strrchr(stat, ')');
    if (at == NULL || strlen(at) < 4)
        return false;
    char state = at[2];
    at += 3;
    *process = (struct process){.pid = pid, .marks = state == 'T' || state == 't' ? STOPPED : 0};
    process->parent = (pid_t)strtol(at, &at, 10);
    process->group = (pid_t)strtol(at, &at, 10);
    process->session = (pid_t)strtol(at, &at, 10);
    return state != 'Z' && state != 'X'; /* the dead need no killing */
}

/* Whether NAME=value is an entry of the process's environment as it was at its exec. */
static bool carries_mark(int proc, pid_t pid, const char *mark, size_t length) {
    static char text[16 * 1024];
    snprintf(text, sizeof text, "%d/environ", (int)pid);
    int fd = openat(proc, text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false; /* gone, or undumpable: then only its parent, group and session tell */
    /* Entries end with NUL. What may be the beginning of the mark is kept in front of the next piece. */
    bool found = false;
    size_t kept = 1;
    text[0] = '\0';
    ssize_t got;
    while (!found && (got = read(fd, text + kept, sizeof text - kept)) > 0) {
        size_t size = kept + (size_t)got;
        found = memmem(text, size, mark, length) != NULL;
        kept = size < length ? size : length;
        memmove(text, text + size - kept, kept);
    }
    close(fd);
    return found;
}

static const struct process *find_process(const struct scan *scan, pid_t pid) {
    size_t low = 0, high = scan->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (scan->processes[middle].pid == pid)
            return &scan->processes[middle];
        if (scan->processes[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Gives the mark to every process whose parent has it, until no more get it. Children mostly follow their parents: few passes. */
static void spread(const struct scan *scan, enum mark mark) {
    for (bool grew = true; grew;) {
        grew = false;
        for (size_t i = 0; i < scan->count; i++) {
            struct process *process = &scan->processes[i];
            const struct process *parent = process->marks & mark ? NULL : find_process(scan, process->parent);
            if (parent != NULL && parent->marks & mark) {
                process->marks |= mark;
                grew = true;
            }
        }
    }
}

static void list_processes(struct scan *scan) {
    struct entry { /* struct linux_dirent64, which musl does not declare */
        uint64_t inode, offset;
        uint16_t length;
        uint8_t type;
        char name[];
    };
    static _Alignas(struct entry) char entries[4096];
    long size;
    scan->count = 0;
    lseek(scan->proc, 0, SEEK_SET);
    while ((size = syscall(SYS_getdents64, scan->proc, entries, sizeof entries)) > 0)
        for (long at = 0; at < size;) {
            const struct entry *entry = (const void *)(entries + at);
            at += entry->length;
            pid_t pid = atoi(entry->name);
            /* procfs lists processes in ascending order, which find_process relies on */
            if (pid > 0 && scan->count < PROCESSES && read_process(scan->proc, pid, &scan->processes[scan->count]))
                scan->count++;
        }
}

static void find_members(struct scan *scan, const struct tree *tree, enum scope scope) {
    char mark[32] = "\0" MARK_NAME; /* preceded by the end of another entry */
    size_t length = 1 + strlen(mark + 1);
    length += (size_t)snprintf(mark + length, sizeof mark - length, "%u", (unsigned)tree->command) + 1;

    list_processes(scan);
    pid_t guest = getpid();
    for (size_t i = 0; i < scan->count; i++)
        if (scan->processes[i].parent == guest)
            scan->processes[i].marks |= OURS;
    spread(scan, OURS);

    for (size_t i = 0; i < scan->count; i++) {
        struct process *process = &scan->processes[i];
        bool in_group = tree->leader != 0 && process->group == tree->leader;
        bool in_session = tree->leader != 0 && process->session == tree->leader;
        if (process->marks & OURS && (tree->command == 0 || in_group || (in_session && scope == SCOPE_TREE)))
            process->marks |= MEMBER;
    }
    if (scope == SCOPE_GROUP)
        return;
    spread(scan, MEMBER);
    for (size_t i = 0; i < scan->count; i++) {
        struct process *process = &scan->processes[i];
        if (process->marks & OURS && !(process->marks & MEMBER) && carries_mark(scan->proc, process->pid, mark, length))
            process->marks |= MEMBER;
    }
    spread(scan, MEMBER); /* children of members descend from the guest, too */
}

/* Sends each member of the tree the signal. Returns how many there were, and in *running how many of them were not stopped. */
static size_t signal_members(struct scan *scan, const struct tree *tree, enum scope scope, int signal, size_t *running) {
    size_t members = 0;
    *running = 0;
    find_members(scan, tree, scope);
    for (size_t i = 0; i < scan->count; i++) {
        const struct process *process = &scan->processes[i];
        if (!(process->marks & MEMBER))
            continue;
        members++;
        *running += !(process->marks & STOPPED);
        if (!(process->marks & STOPPED) || signal != SIGSTOP)
            kill(process->pid, signal);
    }
    return members;
}

/* The memory for a scan is there only meanwhile. */
static bool scan_open(struct scan *scan) {
    scan->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scan->processes =
        mmap(NULL, SCAN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return scan->proc >= 0 && scan->processes != MAP_FAILED;
}

static void scan_close(struct scan *scan) {
    if (scan->processes != MAP_FAILED)
        munmap(scan->processes, SCAN_BYTES);
    if (scan->proc >= 0)
        close(scan->proc);
}

void tree_signal(const struct tree *tree, enum scope scope, int signal) {
    struct scan scan;
    size_t running;
    if (scan_open(&scan))
        signal_members(&scan, tree, scope, signal, &running);
    scan_close(&scan);
}

bool tree_kill(const struct tree *tree) {
    struct scan scan;
    size_t members = 0, running = 1;
    if (scan_open(&scan)) {
        /* A stopped process cannot fork: once a scan finds nobody running the tree cannot grow any more. */
        for (int round = 0; round < ROUNDS && running > 0; round++)
            members = signal_members(&scan, tree, SCOPE_TREE, SIGSTOP, &running);
        if (members > 0)
            signal_members(&scan, tree, SCOPE_TREE, SIGKILL, &running);
    } else if (tree->leader != 0) {
        kill(-tree->leader, SIGKILL); /* a sandbox without /proc: its group is all that can be known of a tree */
    }
    scan_close(&scan);
    return members == 0;
}
