/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/resource.h>
#include <unistd.h>

#define WATCH_MS 10

double bench_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t n) {
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

json_t *bench_spread(double *values, size_t n) {
    double median = bench_median(values, n);
    return json_pack("{s:f, s:f, s:f}", "min", values[0], "median", median, "max", values[n - 1]);
}

void bench_bar(struct bench_result *result, const char *name, double ratio, double at_most) {
    json_t *bars = json_object_get(result->detail, "bars");

    if (!bars) {
        bars = json_object();
        json_object_set_new(result->detail, "bars", bars);
    }
    json_object_set_new(bars, name,
                        json_pack("{s:o, s:f, s:s}", "ratio",
                                  isnan(ratio) ? json_null() : json_real(ratio), "at_most", at_most,
                                  "verdict", ratio <= at_most ? "met" : "short"));
}

uint64_t bench_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void bench_deltas(float *out, size_t n, double sigma, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        /* The sum of four uniforms: near enough to normal for the packing of sums. */
        uint64_t r = bench_random(&seed);
        double sum = 0;
        for (int k = 0; k < 4; k++)
            sum += (double)(r >> (16 * k) & 0xffff) * 0x1p-16 - 0.5;
        out[i] = (float)(sum * sigma * sqrt(3));
    }
}

void bench_many_files(void) {
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

void *bench_alloc(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p)
        abort();
    return p;
}

/* ---- processes ---- */

static bool read_proc(int pid, const char *file, char *text, size_t size) {
    char path[64];
    if (pid)
        snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    else
        snprintf(path, sizeof path, "/proc/self/%s", file);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    size_t n = fread(text, 1, size - 1, f);
    fclose(f);
    text[n] = '\0';
    return n > 0;
}

static uint64_t kib_of(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

bool bench_usage(int pid, struct bench_usage *out) {
    char text[4096];
    unsigned long long user = 0, system = 0;

    if (!read_proc(pid, "stat", text, sizeof text))
        return false;
    const char *after_name = strrchr(text, ')');
    /* Fields 14 and 15 of proc(5); the name is field 2. */
    if (!after_name ||
        sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
               &system) != 2)
        return false;
    if (!read_proc(pid, "status", text, sizeof text))
        return false;
    out->cpu_s = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    out->anon_bytes = kib_of(text, "RssAnon:") + kib_of(text, "RssShmem:");
    return true;
}

uint64_t bench_resident_peak(int pid) {
    char text[4096];
    return read_proc(pid, "status", text, sizeof text) ? kib_of(text, "VmHWM:") : 0;
}

struct bench_watch {
    int pid;
    pthread_t thread;
    atomic_bool stop;
    atomic_uint_fast64_t peak;
};

static void *watch_main(void *arg) {
    struct bench_watch *w = arg;
    struct bench_usage now;

    while (!atomic_load(&w->stop) && bench_usage(w->pid, &now)) {
        if (now.anon_bytes > atomic_load(&w->peak))
            atomic_store(&w->peak, now.anon_bytes);
        nanosleep(&(struct timespec){.tv_nsec = WATCH_MS * 1000000L}, NULL);
    }
    return NULL;
}

struct bench_watch *bench_watch_new(int pid) {
    struct bench_watch *w = bench_alloc(1, sizeof *w);
    w->pid = pid;
    if (pthread_create(&w->thread, NULL, watch_main, w) != 0)
        abort();
    return w;
}

uint64_t bench_watch_peak(struct bench_watch *w) {
    return atomic_exchange(&w->peak, 0);
}

void bench_watch_free(struct bench_watch *w) {
    if (!w)
        return;
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
    free(w);
}
