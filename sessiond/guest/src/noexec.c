/* bwrap 0.8 has no option for it. Its namespaces are nested so that the guest's capabilities do not reach the jail's own mounts: they
 * reach a copy of them, which the guest makes and stays in. */
#include "noexec.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CAPABILITIES_MOST = 64 };

static bool remount(const char *path) {
    struct statvfs now;
    if (statvfs(path, &now) != 0)
        return false;
    /* What is set must be said again. These ST_ bits have the values of their MS_ namesakes; relatime stays by itself. */
    unsigned long kept = now.f_flag & (ST_RDONLY | ST_NOSUID | ST_NODEV | ST_NOATIME | ST_NODIRATIME);
    return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_NOEXEC | kept, NULL) == 0;
}

static bool drop_capabilities(void) {
    for (int capability = 0; capability < CAPABILITIES_MOST; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EINVAL) /* EINVAL: the kernel has no more */
            return false;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0 && syscall(SYS_capset, &header, none) == 0;
}

bool noexec_apply(char *const *paths, int count) {
    if (unshare(CLONE_NEWNS) != 0)
        return false;
    for (int i = 0; i < count; i++)
        if (!remount(paths[i]))
            return false;
    return drop_capabilities();
}
