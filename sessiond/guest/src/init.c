/* PID 1: what it makes of itself before anything of the outside can reach it, its signals, and its end. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "command.h"
#include "loop.h"
#include "noexec.h"
#include "oom.h"
#include "seccomp.h"
#include "tree.h"

enum {
    SHUTDOWN_MS = 2000,       /* for what was killed to be gone; a process in the hands of a device may take for ever */
    SHUTDOWN_PAUSE_MS = 20,
};

static noreturn void give_up(const char *what) {
    fprintf(stderr, "guest: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void reap(void) {
    int status;
    struct rusage usage;
    pid_t pid;
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0)
        commands_reaped(pid, status, &usage);
}

/* As PID 1 the guest is asked to end by the container's runtime alone: kill(2) from outside shows no sender, which cannot be forged,
 * while a command's `kill 1` shows the command and is not heard. */
static bool may_stop_us(const struct signalfd_siginfo *info) {
    return getpid() != 1 || (info->ssi_code == SI_USER && info->ssi_pid == 0);
}

static void on_signal(void *owner, struct watch *watch, uint32_t events) {
    (void)owner;
    (void)events;
    struct signalfd_siginfo infos[4];
    ssize_t size = read(watch->fd, infos, sizeof infos);
    for (ssize_t i = 0; i < size / (ssize_t)sizeof *infos; i++)
        if (infos[i].ssi_signo == SIGTERM && may_stop_us(&infos[i]))
            shut_down();
    reap();
}

/* Descriptors: 0 is /dev/null, so a command without stdin simply inherits it; 1 and 2 are whatever they were; nothing else is open. */
static void tidy_descriptors(void) {
    if (syscall(SYS_close_range, 3u, ~0u, 0u) != 0)
        for (int fd = 3; fd < 1024; fd++)
            close(fd);
    int null;
    do
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (null >= 0 && null <= STDERR_FILENO);
    if (null < 0)
        give_up("/dev/null");
    dup2(null, STDIN_FILENO);
    close(null);
}

/* No handlers and nothing ignored, so a child has only the mask to reset. SIGPIPE is blocked rather than ignored for that reason. */
static void tidy_signals(struct watch *watch) {
    /* The kernel's struct (handler, flags, restorer, mask) and call: sigaction() refuses libc's own signals, which a parent that uses
     * glibc's posix_spawn leaves ignored. Stopped children are no news. */
    unsigned long normal[4] = {(unsigned long)SIG_DFL, SA_NOCLDSTOP, 0, 0};
    for (int signal = 1; signal < NSIG; signal++)
        syscall(SYS_rt_sigaction, signal, normal, NULL, sizeof(uint64_t)); /* KILL and STOP refuse, and need it least */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    watch->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (watch->fd < 0)
        give_up("signalfd");
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_SETMASK, &set, NULL);
}

noreturn void init_run(const struct init *init) {
    static struct watch signals = {.turn = TURN_SIGNAL, .ready = on_signal};
    prctl(PR_SET_DUMPABLE, 0); /* commands have the same uid: no ptrace, no /proc/1/fd, no /proc/1/mem for them */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) /* a setuid program gains nothing; and a filter needs it */
        give_up("no_new_privs");
    if (init->noexec_count > 0 && !noexec_apply(init->noexec, init->noexec_count))
        give_up("noexec");
    if (init->with_seccomp && !seccomp_apply())
        give_up("seccomp");
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* where it is not PID 1, orphans still become its children */
    umask(022);
    tidy_descriptors();
    tidy_signals(&signals);
    loop_open();
    loop_watch(&signals, EPOLLIN);
    oom_open();
    channel_open(init->socket_path);
    for (;;) {
        commands_tick();
        channel_tick();
        channel_flush();
        uint64_t channel = channel_deadline(), commands = commands_deadline();
        loop_round(channel < commands ? channel : commands);
    }
}

noreturn void shut_down(void) {
    const struct tree everything = {0};
    const struct timespec pause = {.tv_nsec = SHUTDOWN_PAUSE_MS * 1000000L};
    uint64_t deadline = clock_now() + MILLISECONDS(SHUTDOWN_MS);
    for (bool left = true; left && clock_now() < deadline;) {
        /* -1 reaches all at once, so that no fork escapes; outside a sandbox it would reach the whole machine */
        if (getpid() == 1)
            kill(-1, SIGKILL);
        else
            tree_kill(&everything);
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        left = pid == 0; /* children, not yet dead */
        if (left) {
            sigset_t child;
            sigemptyset(&child);
            sigaddset(&child, SIGCHLD);
            sigtimedwait(&child, NULL, &pause);
        }
    }
    channel_goodbye();
    exit(0);
}
