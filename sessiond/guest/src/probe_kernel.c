/* Probes of the kernel's dangerous doors. The calls are such that they do no harm, or are undone, where they work. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static bool mount_probe(double limit) {
    (void)limit;
    bool held = refused("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
    if (!held)
        umount2("/tmp", MNT_DETACH);
    held &= refused("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    held &= refused("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    return held & refused("chroot", chroot("/"));
}

/* Each in a process of its own, which it would otherwise stay in. */
static bool unshare_probe(double limit) {
    (void)limit;
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {
        {"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID},       {"network", CLONE_NEWNET},
        {"ipc", CLONE_NEWIPC},   {"uts", CLONE_NEWUTS},  {"cgroup", CLONE_NEWCGROUP},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int status = -1;
        pid_t child = fork();
        if (child == 0)
            _exit(unshare(kinds[i].flag) == 0);
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return say(false, "a %s namespace was made by unshare, or could not be tried", kinds[i].name);
        long clone = syscall(SYS_clone, kinds[i].flag | SIGCHLD, NULL, NULL, NULL, NULL);
        if (clone == 0)
            _exit(0);
        if (clone > 0) {
            waitpid((pid_t)clone, NULL, 0);
            return say(false, "a %s namespace was made by clone", kinds[i].name);
        }
    }
    uint64_t arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long clone = syscall(SYS_clone3, arguments, sizeof arguments);
    if (clone == 0)
        _exit(0);
    return refused("clone3, last of all ways", clone);
}

static bool setns_probe(double limit) {
    (void)limit;
    static const char *const kinds[] = {"/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/uts"};
    bool held = true;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int fd = open(kinds[i], O_RDONLY | O_CLOEXEC);
        held &= fd < 0 || refused(kinds[i], setns(fd, 0));
    }
    return held;
}

static bool bpf(double limit) {
    (void)limit;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = attributes.value_size = sizeof(uint32_t);
    attributes.max_entries = 1;
    return refused("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
}

static bool keyctl(double limit) {
    (void)limit;
    bool held = refused("add_key", syscall(SYS_add_key, "user", "probe", "x", 1, -2 /* the process's keyring */));
    held &= refused("request_key", syscall(SYS_request_key, "user", "probe", NULL, 0));
    return held & refused("keyctl", syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* the session's */, 1));
}

static bool io_uring(double limit) {
    (void)limit;
    uint32_t parameters[30] = {0};
    return refused("io_uring_setup", syscall(SYS_io_uring_setup, 1, parameters));
}

static bool perf_event_open(double limit) {
    (void)limit;
    /* type software, size, CPU clock: the most harmless event there is, of the process itself */
    uint32_t attributes[32] = {1, 128};
    return refused("perf_event_open", syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0));
}

static bool userfaultfd(double limit) {
    (void)limit;
    return refused("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
}

static bool memfd_exec(double limit) {
    (void)limit;
    return refused("memfd_create", syscall(SYS_memfd_create, "probe", 0));
}

static bool kernel_module(double limit) {
    (void)limit;
    bool held = refused("init_module", syscall(SYS_init_module, "", 0, ""));
    held &= refused("finit_module", syscall(SYS_finit_module, 0, "", 0));
    return held & refused("delete_module", syscall(SYS_delete_module, "probe", O_NONBLOCK));
}

static bool raw_socket(double limit) {
    (void)limit;
    bool held = refused("IPv4", socket(AF_INET, SOCK_RAW, 1));
    held &= refused("IPv6", socket(AF_INET6, SOCK_RAW, 58));
    return held & refused("packet", socket(AF_PACKET, SOCK_RAW, 0));
}

static bool vsock(double limit) {
    (void)limit;
    return refused("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
}

/* Typing into a terminal; where there is none to try it on, "not a terminal" shows that the call was let through. */
static bool tiocsti(double limit) {
    (void)limit;
    int terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    return refused("TIOCSTI", ioctl(terminal >= 0 ? terminal : STDIN_FILENO, TIOCSTI, "x"));
}

static bool mknod_probe(double limit) {
    (void)limit;
    static const char path[] = "/tmp/.sessiond-probe";
    bool held = refused("character device", mknod(path, S_IFCHR | 0600, makedev(1, 3)));
    held &= refused("block device", mknod(path, S_IFBLK | 0600, makedev(7, 0)));
    unlink(path);
    return held;
}

static bool ptrace_pid1(double limit) {
    (void)limit;
    bool held = refused("attach", ptrace(PTRACE_ATTACH, 1, NULL, NULL));
    held &= refused("seize", ptrace(PTRACE_SEIZE, 1, NULL, NULL));
    ptrace(PTRACE_DETACH, 1, NULL, NULL);
    return held;
}

const struct probe kernel_probes[] = {
    {"mount", NULL, mount_probe},
    {"unshare", NULL, unshare_probe},
    {"setns", NULL, setns_probe},
    {"ptrace_pid1", NULL, ptrace_pid1},
    {"bpf", NULL, bpf},
    {"keyctl", NULL, keyctl},
    {"io_uring", NULL, io_uring},
    {"perf_event_open", NULL, perf_event_open},
    {"userfaultfd", NULL, userfaultfd},
    {"memfd_exec", NULL, memfd_exec},
    {"kernel_module", NULL, kernel_module},
    {"raw_socket", NULL, raw_socket},
    {"vsock", NULL, vsock},
    {"tiocsti", NULL, tiocsti},
    {"mknod", NULL, mknod_probe},
    {0},
};
