/* SPDX-License-Identifier: Apache-2.0 */
/*
 * posix_spawn rather than fork: it neither copies the page tables of a process that may hold
 * gigabytes nor runs the handlers that libraries leave for fork. The limits are set on the child
 * from here, a moment after it has begun.
 */
#include "spoke/process.h"

#include "tier/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_FREE 16 /* above all that the program is given */
#define OUTPUT_STEP (UINT64_C(1) << 16)

static enum tier_status no_start(int code, const char *program, struct tier_err *err) {
    errno = code;
    if (code == ENOENT)
        return tier_fail(err, TIER_ENOTFOUND, "the program %s is not installed", program);
    return tier_fail_errno(err, TIER_EIO, "the program %s does not start", program);
}

/* Copies of the files above what they become, for one must not be written over by another. */
static bool lift(const struct spoke_process *p, int pipe_in, int *lifted) {
    bool ok = true;
    for (size_t i = 0; i <= p->files_count; i++) {
        lifted[i] = fcntl(i < p->files_count ? p->files[i] : pipe_in, F_DUPFD_CLOEXEC, FIRST_FREE);
        ok = ok && lifted[i] >= 0;
    }
    return ok;
}

static int spawn(const struct spoke_process *p, const int *lifted, pid_t *pid_out) {
    char locale[] = "LC_ALL=C";
    char *environment[] = {locale, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int code;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, lifted[p->files_count], 1);
    for (size_t i = 0; i < p->files_count; i++)
        posix_spawn_file_actions_adddup2(&actions, lifted[i], (int)(3 + i));
    posix_spawn_file_actions_addclosefrom_np(&actions, (int)(3 + p->files_count));
    /* argv is not written to: the type is POSIX's. */
    code = posix_spawnp(pid_out, p->argv[0], &actions, &attributes,
                        (char *const *)(uintptr_t)p->argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return code;
}

static void set_limits(const struct spoke_process *p, pid_t pid) {
    const struct rlimit file = {p->file_max, p->file_max}, core = {0, 0};
    const struct rlimit memory = {p->memory_max, p->memory_max};
    const struct rlimit seconds = {p->timeout_ms / 1000 + 1, p->timeout_ms / 1000 + 2};

    /* One that has ended already has no limits, and needs none. */
    prlimit(pid, RLIMIT_FSIZE, &file, NULL);
    prlimit(pid, RLIMIT_CORE, &core, NULL);
    prlimit(pid, RLIMIT_AS, &memory, NULL);
    prlimit(pid, RLIMIT_CPU, &seconds, NULL);
}

struct output {
    uint8_t *at;
    size_t bytes, cap;
};

/* Until a descriptor has something to say. */
static enum tier_status wait_for(const struct spoke_process *p, int fd, uint64_t until,
                                 struct tier_err *err) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};

    for (;;) {
        uint64_t now = tier_clock_ms();
        if (now >= until)
            return tier_fail(err, TIER_ELIMIT, "%s took longer than %u ms", p->argv[0],
                             p->timeout_ms);
        if (poll(&wait, 1, (int)(until - now)) > 0)
            return TIER_OK;
    }
}

/* Until the program closes its end, or has gone too far. */
static enum tier_status take_output(const struct spoke_process *p, int from, uint64_t until,
                                    struct output *o, struct tier_err *err) {
    for (;;) {
        TIER_TRY(wait_for(p, from, until, err));
        if (o->cap - o->bytes < OUTPUT_STEP) {
            size_t cap = o->cap + o->cap / 2 + 2 * OUTPUT_STEP;
            uint8_t *more = realloc(o->at, cap);
            if (!more)
                return tier_fail(err, TIER_ENOMEM, "no memory for what %s writes", p->argv[0]);
            o->at = more;
            o->cap = cap;
        }
        ssize_t n = read(from, o->at + o->bytes, OUTPUT_STEP);
        if (n == 0)
            return TIER_OK;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return tier_fail_errno(err, TIER_EIO, "what %s writes", p->argv[0]);
        o->bytes += n > 0 ? (size_t)n : 0;
        if (o->bytes > p->output_max)
            return tier_fail(err, TIER_ELIMIT, "%s wrote more than %zu bytes", p->argv[0],
                             p->output_max);
    }
}

/* Its output closed, it may still have to end. */
static enum tier_status wait_for_end(const struct spoke_process *p, pid_t pid, uint64_t until,
                                     struct tier_err *err) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return tier_fail_errno(err, TIER_EIO, "the end of %s", p->argv[0]);
    enum tier_status st = wait_for(p, fd, until, err);
    close(fd);
    return st;
}

enum tier_status spoke_process_run(const struct spoke_process *p, int *code_out,
                                   uint8_t **output_out, size_t *bytes_out, struct tier_err *err) {
    int ends[2], lifted[SPOKE_PROCESS_FILES_MAX + 1] = {-1, -1, -1, -1, -1};
    struct output o = {0};
    enum tier_status st;
    uint64_t until = tier_clock_ms() + p->timeout_ms;
    pid_t pid = -1;
    int status = 0;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return tier_fail_errno(err, TIER_EIO, "a pipe");
    bool ready = lift(p, ends[1], lifted);
    int failed = ready ? spawn(p, lifted, &pid) : errno;
    for (size_t i = 0; i <= p->files_count; i++)
        if (lifted[i] >= 0)
            close(lifted[i]);
    close(ends[1]);
    if (failed) {
        close(ends[0]);
        return no_start(failed, p->argv[0], err);
    }
    set_limits(p, pid);
    st = take_output(p, ends[0], until, &o, err);
    close(ends[0]);
    if (st == TIER_OK)
        st = wait_for_end(p, pid, until, err);
    if (st != TIER_OK)
        kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (st == TIER_OK && !WIFEXITED(status))
        st = tier_fail(err, TIER_EIO, "a signal ended %s", p->argv[0]);
    if (st != TIER_OK) {
        free(o.at);
        return st;
    }
    *code_out = WEXITSTATUS(status);
    *output_out = o.at;
    *bytes_out = o.bytes;
    return TIER_OK;
}
