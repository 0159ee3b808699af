/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes, as two servers of one spoke are, each with half of this machine's GPUs, in one
 * group of NCCL: the id goes through a pipe, sums must be right on every rank and float32 sums the
 * same bits in both processes. Then one process leaves, and the other's abort must let it go.
 * Exit 0, 1 (failed), or 77 where there are fewer than two GPUs or no NCCL.
 */
#include "kernels/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N ((size_t)100003)

struct side {
    const char *name;
    size_t ranks, first, count;
    struct kern_device *dev[KERN_GROUP_RANKS_MAX];
    struct kern_vec part[KERN_GROUP_RANKS_MAX];
    struct kern_group *group;
    int to_other, from_other;
};

static void fail(const struct side *s, const char *what, enum kern_status st) {
    fprintf(stderr, "servers: FAILED %s, %s: %s: %s\n", s->name, what, kern_status_text(st),
            s->dev[0] != NULL ? kern_device_error(s->dev[0]) : kern_device_error(NULL));
    exit(1);
}

static void need(const struct side *s, const char *what, enum kern_status st) {
    if (st != KERN_OK) {
        fail(s, what, st);
    }
}

static void give(const struct side *s, const void *bytes, size_t n) {
    if (write(s->to_other, bytes, n) != (ssize_t)n) {
        fail(s, "the other process is gone", KERN_EGROUP);
    }
}

static void take(const struct side *s, void *bytes, size_t n) {
    for (size_t got = 0; got < n;) {
        ssize_t r = read(s->from_other, (char *)bytes + got, n - got);
        if (r <= 0) {
            fail(s, "the other process is gone", KERN_EGROUP);
        }
        got += (size_t)r;
    }
}

/* Rank r's element i. */
static int64_t whole(size_t r, size_t i) {
    return (int64_t)((r + 1) * UINT64_C(0x9e3779b97f4a7c15) * (i + 1));
}

static float real(size_t r, size_t i) {
    return (float)(whole(r, i) >> 40) * 1e-3f;
}

static void open_side(struct side *s) {
    char name[32];
    for (size_t i = 0; i < s->count; i++) {
        snprintf(name, sizeof name, "cuda:%zu", s->first + i);
        need(s, "opening a GPU", kern_device_open(name, 1, &s->dev[i]));
        need(s, "memory", kern_buf_new(s->dev[i], N * sizeof(int64_t), &s->part[i].buf));
    }
}

static void whole_sums(struct side *s, int64_t *x) {
    for (size_t d = 0; d < s->count; d++) {
        for (size_t i = 0; i < N; i++) {
            x[i] = whole(s->first + d, i);
        }
        need(s, "an upload", kern_upload(s->part[d].buf, 0, x, N * sizeof *x));
    }
    need(s, "all-reduce", kern_group_all_reduce(s->group, s->part, N, KERN_I64));
    for (size_t d = 0; d < s->count; d++) {
        need(s, "a download", kern_download(x, s->part[d].buf, 0, N * sizeof *x));
        for (size_t i = 0; i < N; i++) {
            uint64_t sum = 0;
            for (size_t r = 0; r < s->ranks; r++) {
                sum += (uint64_t)whole(r, i);
            }
            if (x[i] != (int64_t)sum) {
                fail(s, "a sum is wrong", KERN_EDEVICE);
            }
        }
    }
}

/* Every rank of both processes holds the bits of the other's first. */
static void real_sums(struct side *s, float *x, float *theirs) {
    for (size_t d = 0; d < s->count; d++) {
        for (size_t i = 0; i < N; i++) {
            x[i] = real(s->first + d, i);
        }
        need(s, "an upload", kern_upload(s->part[d].buf, 0, x, N * sizeof *x));
    }
    need(s, "all-reduce", kern_group_all_reduce(s->group, s->part, N, KERN_F32));
    need(s, "a download", kern_download(x, s->part[0].buf, 0, N * sizeof *x));
    /* One writes first: a pipe does not hold as much. */
    if (s->first == 0) {
        give(s, x, N * sizeof *x);
        take(s, theirs, N * sizeof *x);
    } else {
        take(s, theirs, N * sizeof *x);
        give(s, x, N * sizeof *x);
    }
    for (size_t d = 0; d < s->count; d++) {
        need(s, "a download", kern_download(x, s->part[d].buf, 0, N * sizeof *x));
        if (memcmp(x, theirs, N * sizeof *x) != 0) {
            fail(s, "float32 sums have other bits there", KERN_EDEVICE);
        }
    }
}

static void run_side(struct side *s, struct kern_group_id *id) {
    int64_t *x = malloc(N * sizeof *x), *theirs = malloc(N * sizeof *x);
    if (x == NULL || theirs == NULL) {
        fail(s, "memory", KERN_ENOMEM);
    }
    need(s, "joining", kern_group_join(id, s->ranks, s->first, s->dev, s->count, &s->group));
    for (int again = 0; again < 3; again++) {
        whole_sums(s, x);
        real_sums(s, (float *)x, (float *)theirs);
    }
    free(x);
    free(theirs);
}

/* The other process is gone: a call that it would have to make is called off. */
static void be_left(struct side *s) {
    char byte;
    if (read(s->from_other, &byte, 1) != 0) {
        fail(s, "the other process is still there", KERN_EGROUP);
    }
    (void)kern_group_all_reduce(s->group, s->part, N, KERN_I64); /* enqueued: nobody answers it */
    kern_group_abort(s->group);
    if (kern_group_all_reduce(s->group, s->part, N, KERN_I64) != KERN_EGROUP) {
        fail(s, "a group that was aborted goes on", KERN_OK);
    }
    kern_group_close(s->group);
    need(s, "the GPU lives on", kern_zero(s->part[0].buf, 0, 8));
    need(s, "the GPU lives on", kern_sync(s->dev[0]));
}

/* CUDA must not be begun before the processes part: a child counts. */
static int count_gpus(void) {
    int pipe_fd[2], count = 0;
    if (pipe(pipe_fd) != 0) {
        return 0;
    }
    pid_t child = fork();
    if (child == 0) {
        kern_init(NULL);
        count = kern_cuda_device_count();
        _exit(write(pipe_fd[1], &count, sizeof count) == (ssize_t)sizeof count ? 0 : 1);
    }
    close(pipe_fd[1]);
    if (child < 0 || read(pipe_fd[0], &count, sizeof count) != (ssize_t)sizeof count) {
        count = 0;
    }
    close(pipe_fd[0]);
    waitpid(child, NULL, 0);
    return count;
}

int main(void) {
    int there[2], back[2], status = 1, gpus = count_gpus();
    struct kern_group_id id;
    struct side s = {.name = "the first server", .ranks = gpus < 64 ? (size_t)gpus : 64};
    if (gpus < 2) {
        printf("servers: skipped, two processes need two GPUs and here %s %d\n",
               gpus == 1 ? "is" : "are", gpus);
        return 77;
    }
    if (pipe(there) != 0 || pipe(back) != 0) {
        return 1;
    }
    pid_t child = fork();
    if (child < 0) {
        return 1;
    }
    s.count = s.ranks / 2;
    s.to_other = child == 0 ? back[1] : there[1];
    s.from_other = child == 0 ? there[0] : back[0];
    close(child == 0 ? there[1] : there[0]);
    close(child == 0 ? back[0] : back[1]);
    kern_init(NULL);
    if (child == 0) {
        s.name = "the second server";
        s.first = s.count;
        s.count = s.ranks - s.count;
        if (read(s.from_other, &id, sizeof id) != (ssize_t)sizeof id) {
            _exit(77); /* no NCCL there: it says so */
        }
        open_side(&s);
        run_side(&s, &id);
        _exit(0); /* without a word to the group, as when it is killed */
    }
    open_side(&s);
    enum kern_status st = kern_group_id_new(s.dev[0], &id);
    if (st == KERN_ENODEV) {
        printf("servers: skipped, %s\n", kern_device_error(s.dev[0]));
        return 77; /* the other one reads the end of the pipe and leaves */
    }
    need(&s, "an id", st);
    give(&s, &id, sizeof id);
    run_side(&s, &id);
    be_left(&s);
    waitpid(child, &status, 0);
    printf("servers: two processes with %zu GPUs, %s\n", s.ranks, status == 0 ? "right" : "FAILED");
    return status == 0 ? 0 : 1;
}
