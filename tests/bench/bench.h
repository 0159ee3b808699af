/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the benches share: options, one result each, clocks and medians. A bench is one function; it
 * runs in a process of its own (main.c) that may fork further ones, below a folder that is removed
 * behind it. Whatever it compares with is measured in the same run, on the same machine.
 *
 * Threads: the calling thread's. A bench that forks does so before it starts gRPC or a thread.
 */
#ifndef CONSILIUM_BENCH_H
#define CONSILIUM_BENCH_H

#include "tier/err.h"

#include <jansson.h>
#include <stdint.h>

#define BENCH_CHILDREN_MAX 256
#define BENCH_SPOKES_MAX 16384
#define BENCH_REPEATS_MAX 64

struct bench_options {
    uint64_t children, bytes, rounds, seed, trees, spokes, cases;
    uint64_t limit_s;
    uint64_t uploaders;                          /* at a time, at the hub; 0: 64 */
    uint64_t keepalive_ms, keepalive_timeout_ms; /* 0: the nodes' default */
    bool tls;
    const char *name; /* what follows the bench's, or NULL */
    const char *work; /* an empty folder of this run's own */
};

struct bench_result {
    double value;        /* NAN: not measured */
    const char *unit;    /* static text */
    const char *against; /* what `ratio` compares with; static text, NULL: nothing */
    double ratio;        /* ours / reference; NAN: none */
    json_t *detail;      /* an object, owned by the caller */
};

/* On an error nothing was measured, and err says why. */
typedef enum tier_status bench_fn(const struct bench_options *options, struct bench_result *result,
                                  struct tier_err *err);

bench_fn bench_round, bench_uplink, bench_fold, bench_ingest, bench_same_bits, bench_scale,
    bench_codecs, bench_crowd, bench_kill, bench_attacks, bench_merge, bench_collective, bench_mask,
    bench_train, bench_vault;

/* Seconds, monotonic. */
double bench_now_s(void);
/* What is asked of a ratio, judged: detail.bars.NAME has it, what it may be at most, and the
 * verdict, "met" or "short". A ratio that is no number is short. */
void bench_bar(struct bench_result *result, const char *name, double ratio, double at_most);
/* Of n >= 1 values; sorts them. */
double bench_median(double *values, size_t n);
/* "min", "median", "max" of n values as a JSON object; sorts them. */
json_t *bench_spread(double *values, size_t n);
/* splitmix64 (Steele, Lea, Flood 2014). */
uint64_t bench_random(uint64_t *state);
/* n values shaped like the deltas of a training round: normal, of that standard deviation. */
void bench_deltas(float *out, size_t n, double sigma, uint64_t seed);
/* As many open files as this process may have. */
void bench_many_files(void);
/* calloc that ends the process where it fails. */
void *bench_alloc(size_t n, size_t size);

/* ---- what a process costs: from /proc ---- */

struct bench_usage {
    double cpu_s;        /* user and system */
    uint64_t anon_bytes; /* RssAnon + RssShmem, now */
};
/* False where the process is gone. `pid` 0 is this one. */
bool bench_usage(int pid, struct bench_usage *out);
/* VmHWM: the peak of all that was resident, pages of mapped files too. 0: the process is gone. */
uint64_t bench_resident_peak(int pid);

/* A thread that looks at a process every few milliseconds and keeps the peak of its memory. */
struct bench_watch;
struct bench_watch *bench_watch_new(int pid);
/* The peak since the last call (or the start). */
uint64_t bench_watch_peak(struct bench_watch *watch);
void bench_watch_free(struct bench_watch *watch);

#endif
