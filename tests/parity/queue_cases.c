/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue of a device: what is copied beside its work is what it was sent as, and what is
 * recorded gives the bits of what is called. A device without recordings refuses them, and there
 * the steps are called.
 */
#include "kernels/nn.h"
#include "tests/parity/bench.h"

#include <string.h>

#define F32 sizeof(float)
#define SIDE 24
#define N ((size_t)SIDE * SIDE)
#define COPIES 12

/* Each copy is used at once and its source changed as soon as that is allowed. */
static void beside_once(struct bench *b, size_t i) {
    size_t n = i == 0 ? 3 : 70000;
    float *x = bench_random(b, n, -1, 1), *sum = bench_host(b, n, F32);
    double *want = bench_host(b, n, sizeof *want);
    struct kern_vec vx = bench_put(b, x, n, F32), vs = bench_put(b, sum, n, F32);
    void *host = NULL;
    BENCH_OK(b, kern_host_new(b->dev, n * F32, &host));
    for (size_t c = 1; host != NULL && vx.buf != NULL && c <= COPIES; c++) {
        size_t part = c % 3 == 0 ? n : n / 3 * (c % 3); /* the room for them grows meanwhile */
        BENCH_OK(b, kern_upload_wait(b->dev));
        for (size_t k = 0; k < part; k++) {
            ((float *)host)[k] = x[k] * (float)c;
        }
        BENCH_OK(b, kern_upload_beside(vx.buf, vx.at * F32, host, part * F32));
        BENCH_OK(b, kern_add(vs, vs, vx, part));
        for (size_t k = 0; k < part; k++) {
            want[k] += (double)x[k] * (double)c;
        }
    }
    bench_near(b, "sums of what was copied", bench_get(b, vs, n, F32), want, n, 1e-5);
    kern_host_free(b->dev, host);
}
BENCH_CASE(beside_case, beside_once, 2)

struct step {
    struct kern_vec y, a, x, sum;
};

static enum kern_status make(const struct step *s, uint64_t seed) {
    enum kern_status st = kern_gemm(s->y, s->a, s->x, SIDE, SIDE, SIDE, false, true, 0.25f, 0);
    st = st == KERN_OK ? kern_square_sum(s->sum, s->y, N) : st;
    st = st == KERN_OK ? kern_dropout(s->y, s->y, N, 0.25f, seed) : st;
    return st == KERN_OK ? kern_axpby(s->a, s->y, N, 0.5f, 0.75f) : st;
}

/* Three steps, of these seeds, recorded ones from the second on. */
static void run_steps(struct bench *b, const struct step *s, const float *a, bool recorded) {
    static const uint64_t seeds[3] = {11, UINT64_C(1) << 63 | 5, 12345678901};
    struct kern_recording *r = NULL;
    const float zero = 0;
    BENCH_OK(b, kern_upload(s->a.buf, s->a.at * F32, a, N * F32));
    BENCH_OK(b, kern_upload(s->sum.buf, s->sum.at * F32, &zero, F32));
    BENCH_OK(b, make(s, seeds[0]));
    if (recorded) {
        BENCH_OK(b, kern_record_begin(b->dev));
        BENCH_OK(b, make(s, seeds[0]));
        BENCH_REFUSED(b, kern_sync, b->dev);
        BENCH_REFUSED(b, kern_upload, s->a.buf, 0, a, F32);
        BENCH_OK(b, kern_record_end(b->dev, &r));
    }
    for (size_t i = 1; i < 3; i++) {
        BENCH_OK(b, r != NULL ? kern_replay(r, seeds[0] ^ seeds[i]) : make(s, seeds[i]));
    }
    kern_recording_free(r);
}

static void recording_once(struct bench *b, size_t i) {
    static const enum kern_products products[] = {KERN_EXACT, KERN_TF32, KERN_F16};
    float *a = bench_random(b, N, -1, 1);
    struct step s = {bench_put(b, a, N, F32), bench_put(b, a, N, F32),
                     bench_put(b, bench_random(b, N, -1, 1), N, F32), bench_put(b, a, 1, F32)};
    BENCH_OK(b, kern_device_products(b->dev, products[i]));
    run_steps(b, &s, a, false);
    const float *called = bench_get(b, s.a, N, F32), *sum = bench_get(b, s.sum, 1, F32);
    if (kern_device_records(b->dev)) {
        run_steps(b, &s, a, true);
    } else {
        BENCH_REFUSED(b, kern_record_begin, b->dev);
        run_steps(b, &s, a, false);
    }
    if (memcmp(called, bench_get(b, s.a, N, F32), N * F32) != 0 ||
        memcmp(sum, bench_get(b, s.sum, 1, F32), F32) != 0) {
        bench_fail(b, "steps that were recorded have other bits than steps that were called");
    }
    BENCH_OK(b, kern_device_products(b->dev, KERN_EXACT));
}
BENCH_CASE(recording_case, recording_once, 3)

const struct parity_case parity_queue_cases[] = {
    {"upload_beside", beside_case, false},
    {"recording", recording_case, false},
};
const size_t parity_queue_count = sizeof parity_queue_cases / sizeof parity_queue_cases[0];
