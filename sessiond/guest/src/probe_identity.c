/* Probes of what a command is: its user, its powers, its marks. */
#include "probe.h"

#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static bool identity(double limit) {
    (void)limit;
    uid_t user[3];
    gid_t group[3], groups[64];
    bool root = getresuid(&user[0], &user[1], &user[2]) != 0 || getresgid(&group[0], &group[1], &group[2]) != 0;
    for (int i = 0; i < 3; i++)
        root |= user[i] == 0 || group[i] == 0;
    int count = getgroups(64, groups);
    for (int i = 0; i < count; i++)
        root |= groups[i] == 0;
    return say(!root && count >= 0, "uid %u, gid %u, %d supplementary groups", user[1], group[1], count);
}

static bool capabilities(double limit) {
    (void)limit;
    static const char *const sets[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        const char *value = status_field(sets[i]);
        if (value[0] == '\0' || value[strspn(value, "0")] != '\0')
            return say(false, "%s is %s", sets[i], value[0] != '\0' ? value : "unknown");
    }
    return say(true, "all five sets are empty");
}

static bool no_new_privs(double limit) {
    (void)limit;
    int set = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    return say(set == 1, "no_new_privs is %d", set);
}

static bool seccomp(double limit) {
    (void)limit;
    int mode = prctl(PR_GET_SECCOMP);
    return say(mode == SECCOMP_MODE_FILTER, "seccomp mode is %d", mode);
}

/* A setuid program cannot be watched from here as it runs; what makes it harmless can: the mark, and that no id can be changed. */
static bool setuid_gain(double limit) {
    (void)limit;
    bool changed = setresgid(0, 0, 0) == 0;
    changed |= setresuid(0, 0, 0) == 0;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return say(false, "no_new_privs is not set: a setuid program would gain its owner's powers");
    return say(!changed, changed ? "became root" : "ids cannot be changed, and setuid programs gain nothing");
}

static bool core_limit(double limit) {
    (void)limit;
    struct rlimit core;
    bool known = getrlimit(RLIMIT_CORE, &core) == 0;
    return say(known && core.rlim_max == 0, "a core file may have %llu bytes", known ? (unsigned long long)core.rlim_max : 0);
}

const struct probe identity_probes[] = {
    {"identity", NULL, identity},
    {"capabilities", NULL, capabilities},
    {"no_new_privs", NULL, no_new_privs},
    {"seccomp", NULL, seccomp},
    {"setuid_gain", NULL, setuid_gain},
    {"core_limit", NULL, core_limit},
    {0},
};
