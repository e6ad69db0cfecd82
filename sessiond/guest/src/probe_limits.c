/* Probes of limits: each uses a thing up until it is refused, or until more was had than was promised. What was used is given back. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"

enum {
    MEBIBYTE = 1024 * 1024,
    SLACK_MIB = 64, /* beyond the limit: far enough that rounding is no excuse */
    FILE_MIB = 8,   /* size of one file when a file system is filled: below any sensible limit on one file's size */
    SPIN_MS = 1500, /* many of the scheduler's accounting periods */
};

#define CPU_TOLERANCE 1.25 /* the scheduler lets a group overdraw a little */

/* Forks a helper that dies with this process. */
static pid_t helper(void) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return child;
}

static bool pids_limit(double limit) {
    pid_t first = 0;
    long made = 0;
    int error = 0;
    while (made < (long)limit) {
        pid_t child = helper();
        if (child == 0)
            for (;;)
                pause();
        if (child < 0) {
            error = errno;
            break;
        }
        if (first == 0)
            first = child;
        setpgid(child, first); /* one group, to be ended at once */
        made++;
    }
    if (first != 0)
        kill(-first, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0)
        ;
    return say(error == EAGAIN, "%ld processes, then: %s", made, error != 0 ? strerror(error) : "no end");
}

static bool memory_limit(double limit) {
    size_t size = ((size_t)limit + SLACK_MIB) * MEBIBYTE;
    int status = 0;
    pid_t child = helper();
    if (child == 0) {
        int mark = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (mark >= 0 && write(mark, "1000", 4) != 4) /* let it be this process that pays */
            _exit(2);
        volatile char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            _exit(1);
        for (size_t at = 0; at < size; at += 4096)
            memory[at] = 1;
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return say(false, "could not be tried: %s", strerror(errno));
    if (WIFSIGNALED(status))
        return say(true, "killed by signal %d before it had %zu MiB", WTERMSIG(status), size / MEBIBYTE);
    return say(WEXITSTATUS(status) == 1, WEXITSTATUS(status) == 1 ? "refused %zu MiB" : "had %zu MiB", size / MEBIBYTE);
}

static bool nofile_limit(double limit) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files); /* the hard limit is the one that holds */
    long open_now = 3;
    while (open_now <= (long)limit && dup(STDOUT_FILENO) >= 0)
        open_now++;
    return say(open_now <= (long)limit, "%ld descriptors, then: %s", open_now, open_now <= (long)limit ? strerror(errno) : "no end");
}

/* Grows an empty file by truncation: the limit counts, the disk is not touched. */
static bool file_size_limit(double limit) {
    char path[] = "/tmp/.sessiond-probe-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        return say(false, "no file in /tmp: %s", strerror(errno));
    unlink(path);
    signal(SIGXFSZ, SIG_IGN);
    return refused("a file larger than the limit", ftruncate(fd, (off_t)limit + 1));
}

static bool cpu_limit(double limit) {
    int spinners = (int)ceil(limit) + 1;
    uint64_t began = clock_now();
    for (int i = 0; i < spinners; i++) {
        pid_t child = helper();
        if (child == 0) {
            while (clock_now() - began < MILLISECONDS(SPIN_MS))
                ;
            _exit(0);
        }
    }
    while (waitpid(-1, NULL, 0) > 0)
        ;
    double wall = (double)(clock_now() - began) / 1e9;
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    double used = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                  (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    return say(used / wall <= limit * CPU_TOLERANCE, "%d spinners had %.2f processors", spinners, used / wall);
}

struct filled {
    long mebibytes;
    int error;
};

/* Fills the file system at `directory` with unlinked files, which go with the helper. Its memory may well be the limit that strikes. */
static bool fill(const char *directory, double limit) {
    static char block[MEBIBYTE];
    long most = (long)limit + SLACK_MIB;
    int report[2], status = 0, error = 0;
    if (pipe(report) != 0)
        return say(false, "could not be tried: %s", strerror(errno));
    memset(block, 'x', sizeof block); /* holes would cost nothing */
    pid_t child = helper();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        size_t written = 0, in_file = FILE_MIB * MEBIBYTE;
        for (int fd = -1; error == 0 && written < (size_t)most * MEBIBYTE;) {
            if (in_file >= FILE_MIB * MEBIBYTE) {
                char path[128];
                snprintf(path, sizeof path, "%s/.sessiond-probe-XXXXXX", directory);
                fd = mkstemp(path);
                unlink(path);
                in_file = 0;
            }
            ssize_t got = fd < 0 ? -1 : write(fd, block, sizeof block);
            if (got > 0) {
                written += (size_t)got;
                in_file += (size_t)got;
            } else if (got < 0 && errno == EFBIG && in_file > 0) {
                in_file = FILE_MIB * MEBIBYTE; /* one file's limit is another probe's: go on in the next */
            } else {
                error = got < 0 ? errno : ENOSPC;
            }
        }
        struct filled result = {(long)(written / MEBIBYTE), error};
        _exit(write(report[1], &result, sizeof result) != (ssize_t)sizeof result);
    }
    close(report[1]);
    struct filled result = {0, 0};
    ssize_t got = child < 0 ? 0 : read(report[0], &result, sizeof result);
    close(report[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return say(false, "could not be tried: %s", strerror(errno));
    if (WIFSIGNALED(status))
        return say(WTERMSIG(status) == SIGKILL, "killed by signal %d before it had %ld MiB", WTERMSIG(status), most);
    bool held = got == (ssize_t)sizeof result && (result.error == ENOSPC || result.error == EDQUOT);
    return say(held, "%ld MiB in %s, then: %s", result.mebibytes, directory, result.error != 0 ? strerror(result.error) : "no end");
}

static bool tmp_size(double limit) {
    return fill("/tmp", limit);
}

static bool workspace_size(double limit) {
    return fill("/workspace", limit);
}

static bool shm_size(double limit) {
    return fill("/dev/shm", limit);
}

const struct probe limit_probes[] = {
    {"pids_limit", "processes", pids_limit},
    {"memory_limit", "MiB", memory_limit},
    {"nofile_limit", "descriptors", nofile_limit},
    {"file_size_limit", "bytes", file_size_limit},
    {"cpu_limit", "processors", cpu_limit},
    {"tmp_size", "MiB", tmp_size},
    {"workspace_size", "MiB", workspace_size},
    {"shm_size", "MiB", shm_size},
    {0},
};
