/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must agree bit for bit: the fold on a device against the definition in integers, moving
 * memory, and a second run of a reduction against the first.
 */
#include "tests/parity/bench.h"

#include <math.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define Q_MAX (INT64_C(1) << 30)

/* Round half even of m / 2^s; m may be negative. */
static __int128 round_shift(__int128 m, int s) {
    if (s <= 0) {
        return m * ((__int128)1 << -s);
    }
    if (s > 120) {
        return 0;
    }
    __int128 size = m < 0 ? -m : m, unit = (__int128)1 << s;
    __int128 whole = size / unit, rest = size % unit * 2;
    if (rest > unit || (rest == unit && (whole & 1) != 0)) {
        whole++;
    }
    return m < 0 ? -whole : whole;
}

bool parity_quantise(float x, int frac_bits, int64_t *q_out, int64_t *r_out) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23 & 0xff);
    __int128 m = (__int128)(bits & 0x7fffff) + (exponent != 0 ? 0x800000 : 0);
    if (exponent == 0xff) {
        return false;
    }
    m = bits >> 31 != 0 ? -m : m;
    int s = 150 - (exponent != 0 ? exponent : 1) - frac_bits; /* x * 2^f = m / 2^s */
    if (s < -31 && m != 0) {
        return false;
    }
    __int128 q = m == 0 ? 0 : round_shift(m, s);
    if (q > Q_MAX || q < -Q_MAX) {
        return false;
    }
    __int128 rest = 0; /* (x * 2^f - q) * 2^30 = rest / 2^s; nothing is left where s <= 0 */
    if (s > 0) {
        rest = m * Q_MAX - (q == 0 ? 0 : q * ((__int128)Q_MAX << s));
    }
    *q_out = (int64_t)q;
    *r_out = (int64_t)round_shift(rest, s);
    return true;
}

/* Values around every edge of the fold at f fraction bits, then ordinary ones. */
static void fold_values(float *x, size_t n, int f, uint64_t *seed) {
    static const float quarter[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.25f, 0.75f, 3.5f, -2.5f};
    for (size_t i = 0; i < n; i++) {
        uint64_t r = parity_next(seed);
        float unit = (float)((double)(r >> 40) * 0x1p-23 - 1);
        x[i] = ldexpf(unit, (int)(r % 31) - f);
        if (i % 7 == 3) {
            x[i] = ldexpf(quarter[i / 7 % COUNT(quarter)], -f);
        }
    }
    const float edge[] = {ldexpf(1, 30 - f),
                          ldexpf(-1, 30 - f),
                          nextafterf(ldexpf(1, 30 - f), INFINITY),
                          nextafterf(ldexpf(-1, 30 - f), -INFINITY),
                          nextafterf(ldexpf(1, 30 - f), 0),
                          NAN,
                          INFINITY,
                          -INFINITY,
                          0x1p-149f,
                          -0x1p-140f,
                          3.4028235e38f,
                          -0.0f};
    for (size_t i = 0; i < COUNT(edge) && n > 40; i++) {
        x[(i * 37 + 5) % n] = edge[i];
    }
}

static void fold_once(struct bench *b, size_t n, int f, uint32_t w) {
    float *x = bench_host(b, n, sizeof *x);
    int64_t *acc = bench_host(b, n, sizeof *acc), q = 0, r = 0;
    uint64_t refused = 11, want_refused = 11;
    fold_values(x, n, f, &b->seed);
    for (size_t i = 0; i < n; i++) {
        acc[i] = (int64_t)(parity_next(&b->seed) >> 4) - (INT64_C(1) << 59);
    }
    struct kern_vec va = bench_put(b, acc, n, 8), vx = bench_put(b, x, n, 4);
    struct kern_vec vr = bench_put(b, &refused, 1, 8);
    BENCH_OK(b, kern_fold_f32_dev(va, vx, vr, n, f, w));
    const int64_t *got = bench_get(b, va, n, 8);
    for (size_t i = 0; i < n; i++) {
        if (!parity_quantise(x[i], f, &q, &r)) {
            want_refused++;
            q = 0;
        }
        if (got[i] != acc[i] + (int64_t)w * q) {
            bench_fail(b, "fold of %.9g at %d bits, weight %u: %lld instead of %lld", (double)x[i],
                       f, w, (long long)(got[i] - acc[i]), (long long)((int64_t)w * q));
        }
    }
    const uint64_t *count = bench_get(b, vr, 1, 8);
    if (*count != want_refused) {
        bench_fail(b, "fold refused %llu instead of %llu", (unsigned long long)*count,
                   (unsigned long long)want_refused);
    }
}

static bool fold_case(struct kern_device *dev, char *why, size_t why_bytes) {
    static const int bits[] = {-100, -7, 0, 24, 30, 100};
    static const uint32_t weights[] = {1, 977, INT32_MAX};
    static const size_t sizes[] = {1, 33, 300, 4097};
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(bits) * COUNT(sizes); i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        b.seed += i;
        fold_once(&b, sizes[i % COUNT(sizes)], bits[i / COUNT(sizes)], weights[i % COUNT(weights)]);
        ok = bench_end(&b);
    }
    return ok;
}

static bool memory_case(struct kern_device *dev, char *why, size_t why_bytes) {
    struct bench b;
    bench_begin(&b, dev, why, why_bytes);
    size_t n = 1000;
    float *x = bench_random(&b, n, -1, 1), *want = bench_host(&b, n, sizeof *want);
    memcpy(want, x, n * sizeof *want);
    struct kern_vec v = bench_put(&b, x, n, sizeof *x);
    memmove(want + 100, want, 400 * sizeof *want);
    BENCH_OK(&b, kern_copy(v.buf, (v.at + 100) * 4, v.buf, v.at * 4, 400 * 4));
    memset((char *)want + 2001, 0, 777);
    BENCH_OK(&b, kern_zero(v.buf, v.at * 4 + 2001, 777));
    memcpy(want + 990, x, 10 * sizeof *want);
    BENCH_OK(&b, kern_upload(v.buf, (v.at + 990) * 4, x, 10 * 4));
    if (memcmp(bench_get(&b, v, n, 4), want, n * 4) != 0) {
        bench_fail(&b, "copy, zero and upload left other bytes");
    }
    struct kern_buf *fresh = NULL;
    unsigned char *bytes = bench_host(&b, 5000, 1), *zeros = bench_host(&b, 5000, 1);
    BENCH_OK(&b, kern_buf_new(dev, 5000, &fresh));
    memset(bytes, 1, 5000);
    if (fresh != NULL) {
        BENCH_OK(&b, kern_download(bytes, fresh, 0, 5000));
    }
    if (memcmp(bytes, zeros, 5000) != 0) {
        bench_fail(&b, "a new buffer is not zero");
    }
    kern_buf_free(fresh);
    return bench_end(&b);
}

/* Many elements, so that every part and block of a reduction has some. */
static void reduce_twice(struct bench *b, float loss[2], float *grad[2]) {
    size_t rows = 3000, cols = 6, n = rows * cols;
    float *z = bench_random(b, n, -4, 4), zero = 0;
    int32_t *label = bench_host(b, rows, sizeof *label);
    for (size_t i = 0; i < rows; i++) {
        label[i] = (int32_t)(i % cols);
    }
    struct kern_vec vz = bench_put(b, z, n, 4), vl = bench_put(b, label, rows, 4);
    for (int k = 0; k < 2; k++) {
        struct kern_vec sum = bench_put(b, &zero, 1, 4);
        struct kern_vec dz = bench_put(b, z, n, 4), db = bench_put(b, z, cols, 4);
        BENCH_OK(b, kern_softmax_ce(sum, dz, vz, vl, rows, cols));
        BENCH_OK(b, kern_bias_grad(db, vz, rows, cols));
        BENCH_OK(b, kern_bce_logits(sum, (struct kern_vec){NULL, 0}, vz, vz, n));
        loss[k] = *(float *)bench_get(b, sum, 1, 4);
        grad[k] = bench_get(b, db, cols, 4);
    }
}

static bool repeat_case(struct kern_device *dev, char *why, size_t why_bytes) {
    struct bench b;
    float loss[2] = {0, 0}, *grad[2] = {NULL, NULL};
    bench_begin(&b, dev, why, why_bytes);
    reduce_twice(&b, loss, grad);
    if (memcmp(&loss[0], &loss[1], sizeof loss[0]) != 0 ||
        memcmp(grad[0], grad[1], 6 * sizeof(float)) != 0) {
        bench_fail(&b, "the same reduction gave other bits the second time");
    }
    return bench_end(&b);
}

const struct parity_case parity_exact_cases[] = {
    {"fold_f32", fold_case, false},
    {"memory", memory_case, false},
    {"the same bits twice", repeat_case, false},
};
const size_t parity_exact_count = COUNT(parity_exact_cases);
