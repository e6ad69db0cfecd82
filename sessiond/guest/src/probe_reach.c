/* Probes of what a command can reach: files, processes, networks and sockets that are not its own. */
#include "probe.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MS = 300 }; /* an address without a route fails at once; one with a route gets this long */

static bool rootfs_readonly(double limit) {
    (void)limit;
    static const char *const directories[] = {"/", "/usr", "/etc"};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/.sessiond-probe", directories[i]);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        int error = errno;
        if (fd >= 0) {
            close(fd);
            unlink(path);
            return say(false, "a file was made in %s", directories[i]);
        }
        if (error != EROFS && error != ENOENT)
            return say(false, "%s refuses a file, but not as a read-only file system: %s", directories[i], strerror(error));
    }
    return say(true, "/, /usr and /etc are read-only");
}

/* Lines of a table below /proc/net, without those that start with `known`; -1 when there is no such table. */
static int lines_besides(const char *path, int headers, const char *known) {
    const char *line = file_text(path);
    if (*line == '\0')
        return -1;
    int count = -headers;
    while (*line != '\0') {
        const char *word = line + strspn(line, " ");
        count += strncmp(word, known, strlen(known)) != 0;
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return count;
}

static bool answers(const char *address, unsigned short port) {
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &target.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    int error = connect(fd, (struct sockaddr *)&target, sizeof target) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
        socklen_t size = sizeof error;
        /* Silence means that the packet found a way out. */
        if (poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, ANSWER_MS) != 1 ||
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
            error = 0;
    }
    close(fd);
    return error == 0;
}

static bool network(double limit) {
    (void)limit;
    if (lines_besides("/proc/net/dev", 2, "lo:") > 0)
        return say(false, "there is an interface besides lo");
    if (lines_besides("/proc/net/route", 1, "lo") > 0)
        return say(false, "there is a route");
    static const char *const outside[] = {"169.254.169.254", "1.1.1.1", "10.0.0.1", "172.17.0.1", "192.168.0.1"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (answers(outside[i], 80))
            return say(false, "%s can be reached", outside[i]);
    static const unsigned short ports[] = {22, 53, 80, 443, 2375, 2376, 5432, 6443, 8080, 10250};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
        if (answers("127.0.0.1", ports[i]))
            return say(false, "127.0.0.1:%u answers", ports[i]);
    return say(true, "only lo, no route, nothing answers");
}

static bool proc1_fd(double limit) {
    (void)limit;
    bool held = refused("/proc/1/fd", open("/proc/1/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    held &= refused("/proc/1/fd/3", open("/proc/1/fd/3", O_RDONLY | O_CLOEXEC));
    held &= refused("/proc/1/root", open("/proc/1/root/", O_RDONLY | O_CLOEXEC));
    return held & refused("pidfd_getfd", syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, 1, 0), 0, 0));
}

static bool proc1_mem(double limit) {
    (void)limit;
    char byte;
    struct iovec local = {&byte, 1}, remote = {(void *)0x400000, 1};
    bool held = refused("/proc/1/mem", open("/proc/1/mem", O_RDWR | O_CLOEXEC));
    held &= refused("/proc/1/environ", open("/proc/1/environ", O_RDONLY | O_CLOEXEC));
    /* maps may sometimes be opened: then reading gives nothing */
    int maps = open("/proc/1/maps", O_RDONLY | O_CLOEXEC);
    long got = maps < 0 ? -1 : read(maps, &byte, 1);
    held &= got == 0 || refused("/proc/1/maps", got);
    return held & refused("process_vm_readv", process_vm_readv(1, &local, 1, &remote, 1, 0));
}

static bool kill_pid1(double limit) {
    (void)limit;
    if (getpid() == 1)
        return say(false, "this probe is process 1 itself");
    kill(1, SIGSTOP);
    kill(1, SIGKILL);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    const char *stat = file_text("/proc/1/stat"), *name_end = strrchr(stat, ')');
    char state = name_end != NULL && strlen(name_end) > 2 ? name_end[2] : '?';
    return say(strchr("SRD", state) != NULL, "after STOP and KILL process 1 is in state %c", state);
}

/* Limits of another process of the same user may be set by anyone: PID 1 without descriptors or CPU time would be at an end. */
static bool prlimit_pid1(double limit) {
    (void)limit;
    struct rlimit old;
    return refused("prlimit", prlimit(1, RLIMIT_NOFILE, NULL, &old));
}

static bool host_pids(double limit) {
    (void)limit;
    const char *stat = file_text("/proc/1/stat"), *name_end = strrchr(stat, ')');
    if (name_end == NULL || strlen(name_end) < 4 || atoi(name_end + 3) != 0)
        return say(false, "process 1 has a parent, or is not visible");
    if (strncmp(file_text("/proc/2/comm"), "kthreadd", 8) == 0)
        return say(false, "the machine's own processes are visible");
    char self[32] = "";
    if (readlink("/proc/self", self, sizeof self - 1) < 0 || atoi(self) != getpid())
        return say(false, "/proc belongs to another namespace");
    int count = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc != NULL && (entry = readdir(proc)) != NULL;)
        count += atoi(entry->d_name) > 0;
    return say(proc != NULL, "%d processes are visible, all of this namespace", count);
}

static bool docker_sock(double limit) {
    (void)limit;
    static const char *const sockets[] = {
        "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
        "/run/crio/crio.sock",  "/run/dbus/system_bus_socket", "/run/systemd/private",
    };
    for (size_t i = 0; i < sizeof sockets / sizeof *sockets; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, sockets[i], sizeof address.sun_path - 1);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return say(false, "%s answers", sockets[i]);
        close(fd);
    }
    return say(true, "no such socket can be reached");
}

static bool proc_sys_write(double limit) {
    (void)limit;
    static const char *const files[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",  "/proc/sys/vm/drop_caches",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger",        "/proc/1/oom_score_adj",
        "/sys/kernel/uevent_helper",     "/sys/power/state",           "/sys/kernel/mm/transparent_hugepage/enabled",
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (open(files[i], O_WRONLY | O_CLOEXEC) >= 0) /* opened, not written: that would be enough */
            return say(false, "%s can be opened for writing", files[i]);
    return say(true, "none can be opened for writing");
}

static bool cgroup_write(double limit) {
    (void)limit;
    static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids",
                                        "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/rdma"};
    static const char *const files[] = {"release_agent", "cgroup.procs", "tasks", "memory.max", "memory.limit_in_bytes",
                                        "pids.max", "cgroup.kill"};
    char path[128];
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        snprintf(path, sizeof path, "%s/sessiond-probe", roots[i]);
        if (mkdir(path, 0700) == 0) {
            rmdir(path);
            return say(false, "a group was made in %s", roots[i]);
        }
        for (size_t j = 0; j < sizeof files / sizeof *files; j++) {
            snprintf(path, sizeof path, "%s/%s", roots[i], files[j]);
            if (open(path, O_WRONLY | O_CLOEXEC) >= 0)
                return say(false, "%s can be opened for writing", path);
        }
    }
    return say(true, "no group can be made or changed");
}

const struct probe reach_probes[] = {
    {"rootfs_readonly", NULL, rootfs_readonly},
    {"network", NULL, network},
    {"proc1_fd", NULL, proc1_fd},
    {"proc1_mem", NULL, proc1_mem},
    {"kill_pid1", NULL, kill_pid1},
    {"prlimit_pid1", NULL, prlimit_pid1},
    {"host_pids", NULL, host_pids},
    {"docker_sock", NULL, docker_sock},
    {"proc_sys_write", NULL, proc_sys_write},
    {"cgroup_write", NULL, cgroup_write},
    {0},
};
