/* Spawning. The child borrows the guest's memory until it execs, so a spawn costs the same however large the guest is, and a failure
 * needs no pipe to come back: the child stores it in `struct spawn`. Between clone and exec it makes system calls only. */
#include "spawn.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define NO_SANITIZE __attribute__((no_sanitize("address"))) /* it would judge the child's stack by the guest's */
#else
#define NO_SANITIZE
#endif

/* The child's stack, and where it puts program paths together. Static: the guest waits, so there is one child at a time. */
static _Alignas(16) char child_stack[32 * 1024];
static char path[PATH_MAX];

static const char fallback_path[] = "/usr/local/bin:/usr/bin:/bin";

/* execve along the PATH of the command's own environment, as execvp would. Returns the errno to report. */
NO_SANITIZE static int execute(char **argv, char **envp) {
    const char *name = argv[0];
    if (*name == '\0')
        return ENOENT;
    if (strchr(name, '/') != NULL) {
        execve(name, argv, envp);
        return errno;
    }
    const char *directories = fallback_path;
    for (char **entry = envp; *entry != NULL; entry++)
        if (strncmp(*entry, "PATH=", 5) == 0)
            directories = *entry + 5;

    size_t length = strlen(name);
    int error = ENOENT;
    for (const char *at = directories;; at++) {
        size_t directory = strcspn(at, ":");
        if (directory + length + 2 <= sizeof path) {
            memcpy(path, at, directory);
            if (directory > 0) /* an empty entry is the working directory */
                path[directory] = '/';
            memcpy(path + directory + (directory > 0), name, length + 1);
            execve(path, argv, envp);
            if (errno == EACCES)
                error = EACCES; /* found but not allowed: worth more than "not found" further on */
            else if (errno != ENOENT && errno != ENOTDIR)
                return errno;
        }
        at += directory;
        if (*at == '\0')
            return error;
    }
}

/* Marks descriptors 3 and up as closed: cwd is resolved after this, so that /proc/self/fd/7 names nothing of the guest's. */
NO_SANITIZE static void close_others(void) {
    if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0)
        return;
    /* Before Linux 5.9, and in gVisor: the guest has at most a channel, and three pipes a command. */
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}

NO_SANITIZE static int child(void *argument) {
    struct spawn *spawn = argument;
    const struct start *start = spawn->start;

    /* The guest blocks the signals that it reads from its signalfd, and SIGPIPE; it handles and ignores none. */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid(); /* a session and a process group of its own: what kill(-pid) and the tree scan go by */

    if (spawn->in >= 0)
        dup2(spawn->in, STDIN_FILENO);
    dup2(spawn->out, STDOUT_FILENO);
    dup2(spawn->err, STDERR_FILENO);
    close_others();

    spawn->stage = STAGE_RESOURCES;
    if (spawn->terminal && ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0)
        goto failed;
    spawn->stage = STAGE_CWD;
    if (chdir(start->cwd) == 0) {
        spawn->stage = STAGE_RLIMIT;
        for (size_t i = 0; i < start->limit_count; i++) {
            struct rlimit limit = {start->limits[i].value, start->limits[i].value};
            if (prlimit(0, (int)start->limits[i].resource, &limit, NULL) != 0)
                goto failed;
        }
        spawn->stage = STAGE_EXEC;
        errno = execute(start->argv, (char **)start->envp);
    }
failed:
    spawn->error = errno;
    _exit(127);
}

bool spawn(struct spawn *spawn) {
    spawn->error = 0;
    spawn->pid = clone(child, child_stack + sizeof child_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, spawn);
    if (spawn->pid < 0) {
        spawn->error = errno;
        spawn->stage = STAGE_FORK;
        return false;
    }
    if (spawn->error == 0)
        return true;
    waitpid(spawn->pid, NULL, 0); /* it is on its way out: this does not wait */
    return false;
}
