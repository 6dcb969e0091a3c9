/*
 * The floor under an OCI runtime's `run`: one program that does for one fixed container what the
 * kernel has to do anyway, and nothing else. No JSON, no state, no checks: not a runtime.
 *
 *   bare ROOTFS CGROUP PROGRAM [ARG...]
 *
 * It makes the cgroup CGROUP (a directory of a cgroup2 hierarchy, or "-" for none), clones into it with the namespaces
 * of the default specification, makes that specification's mounts, devices, links, masked and read-only paths, pivots,
 * executes the program, waits for it and removes the cgroup.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
    _exit(125);
}
#define MUST(call) ((call) == -1 ? die(#call) : (void)0)

static const struct { const char *type, *target; unsigned long flags; const char *data; } mounts[] = {
    {"proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"},
    {"devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"tmpfs", "dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"},
    {"mqueue", "dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", "sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL},
};
static const struct { const char *path; unsigned major, minor; } devices[] = {
    {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
    {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
};
static const char *links[][2] = {
    {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
    {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}, {"/proc/kcore", "dev/core"},
};
static const char *masked[] = {
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
};
static const char *readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void fill(int cgroup) {
    for (size_t i = 0; i < COUNT(mounts); i++) {
        mkdir(mounts[i].target, 0755);
        MUST(mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].data));
    }
    if (cgroup)
        MUST(mount("cgroup", "sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL));
    umask(0);
    for (size_t i = 0; i < COUNT(devices); i++)
        MUST(mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
    umask(022);
    for (size_t i = 0; i < COUNT(links); i++)
        MUST(symlink(links[i][0], links[i][1]));
}

static void mask(void) {
    for (size_t i = 0; i < COUNT(readonly); i++) {
        if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL) == -1)
            continue;
        MUST(mount(NULL, readonly[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    }
    for (size_t i = 0; i < COUNT(masked); i++)
        if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) == -1 && errno == ENOTDIR)
            MUST(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL));
}

static void contain(const char *rootfs, int cgroup, char **program) {
    if (cgroup)
        MUST(unshare(CLONE_NEWCGROUP));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    MUST(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL));
    MUST(chdir(rootfs));
    fill(cgroup);
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(umount2(".", MNT_DETACH));
    MUST(chdir("/"));
    MUST(sethostname("bare", 4));
    mask();
    MUST(mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    MUST(setsid());
    execv(program[0], program);
    die(program[0]);
}

int main(int argc, char **argv) {
    if (argc < 4)
        return fprintf(stderr, "usage: bare ROOTFS CGROUP|- PROGRAM [ARG...]\n"), 2;
    int cgroup = strcmp(argv[2], "-") != 0;
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
        .exit_signal = SIGCHLD,
    };
    if (cgroup) {
        MUST(mkdir(argv[2], 0755));
        int fd = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC);
        MUST(fd);
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)fd;
    }
    long pid = syscall(SYS_clone3, &args, sizeof args);
    MUST(pid);
    if (pid == 0)
        contain(argv[1], cgroup, argv + 3);
    int status;
    MUST(waitpid((pid_t)pid, &status, 0));
    if (cgroup)
        MUST(rmdir(argv[2]));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
