/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/parity/bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 8
#define GUARD_BYTE 0x5b

void bench_begin(struct bench *b, struct kern_device *dev, char *why, size_t why_bytes) {
    memset(b, 0, sizeof *b);
    b->dev = dev;
    b->why = why;
    b->why_bytes = why_bytes;
    b->seed = 42;
}

static void keep(struct bench *b, const char *fmt, va_list args) {
    if (!b->failed) {
        b->failed = true;
        vsnprintf(b->why, b->why_bytes, fmt, args);
    }
}

void bench_fail(struct bench *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    keep(b, fmt, args);
    va_end(args);
}

void bench_status(struct bench *b, const char *call, enum kern_status got, enum kern_status want) {
    if (got != want) {
        bench_fail(b, "%.60s gave \"%s\" instead of \"%s\" (%s)", call, kern_status_text(got),
                   kern_status_text(want), kern_device_error(b->dev));
    }
}

void bench_refused(struct bench *b, const char *op, enum kern_status got) {
    const char *said = kern_device_error(b->dev);
    bench_status(b, op, got, KERN_EARG);
    if (strncmp(said, op, strlen(op)) != 0) {
        bench_fail(b, "%.60s was refused with \"%s\"", op, said);
    }
}

bool bench_each(struct kern_device *dev, char *why, size_t why_bytes, bench_fn fn, size_t count) {
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        b.seed += i;
        fn(&b, i);
        ok = bench_end(&b);
        if (!ok) {
            size_t used = strlen(why);
            snprintf(why + used, why_bytes - used, " (number %zu of %zu)", i, count);
        }
    }
    return ok;
}

void *bench_host(struct bench *b, size_t n, size_t elem_bytes) {
    void *p = b->hosts < BENCH_ARRAYS_MAX ? calloc(n, elem_bytes) : NULL;
    if (p == NULL) {
        fprintf(stderr, "parity: no host memory for %zu elements\n", n);
        abort();
    }
    b->host[b->hosts++] = p;
    return p;
}

float *bench_random(struct bench *b, size_t n, float low, float high) {
    float *x = bench_host(b, n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        float unit = (float)(parity_next(&b->seed) >> 40) * 0x1p-24f;
        x[i] = low + (high - low) * unit;
    }
    return x;
}

struct kern_vec bench_put(struct bench *b, const void *data, size_t n, size_t elem_bytes) {
    size_t at = GUARD + parity_next(&b->seed) % 5, total = at + n + GUARD;
    struct bench_array *a = &b->array[b->arrays];
    if (b->arrays == BENCH_ARRAYS_MAX) {
        fprintf(stderr, "parity: a case with more than %d arrays\n", BENCH_ARRAYS_MAX);
        abort();
    }
    if (kern_buf_new(b->dev, total * elem_bytes, &a->buf) != KERN_OK) {
        bench_fail(b, "no device memory: %s", kern_device_error(b->dev));
        return (struct kern_vec){NULL, 0};
    }
    b->arrays++;
    a->at = at;
    a->n = n;
    a->total = total;
    a->elem_bytes = elem_bytes;
    char *all = bench_host(b, total, elem_bytes);
    memset(all, GUARD_BYTE, total * elem_bytes);
    memcpy(all + at * elem_bytes, data, n * elem_bytes);
    BENCH_OK(b, kern_upload(a->buf, 0, all, total * elem_bytes));
    return (struct kern_vec){a->buf, at};
}

static uint64_t digest;

uint64_t parity_digest_take(void) {
    uint64_t was = digest;
    digest = 0;
    return was;
}

void *bench_get(struct bench *b, struct kern_vec v, size_t n, size_t elem_bytes) {
    unsigned char *out = bench_host(b, n, elem_bytes);
    if (v.buf != NULL) {
        BENCH_OK(b, kern_download(out, v.buf, v.at * elem_bytes, n * elem_bytes));
    }
    for (size_t i = 0; i < n * elem_bytes; i++) {
        digest = (digest ^ out[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
    }
    return out;
}

bool bench_products(struct bench *b, enum kern_products products) {
    enum kern_status st = kern_device_products(b->dev, products);
    if (st == KERN_ENODEV && products == KERN_BF16) {
        return false;
    }
    bench_status(b, "kern_device_products", st, KERN_OK);
    return true;
}

/* By the definition: a whole multiple of the unit that numbers of this size have. */
void bench_halve(double *out, const float *x, size_t n, bool f16) {
    for (size_t i = 0; i < n; i++) {
        int exponent = 0, digits = f16 ? 11 : 8, least = f16 ? -24 : -133;
        (void)frexp((double)x[i], &exponent);
        int unit = exponent - digits > least ? exponent - digits : least;
        out[i] = ldexp(nearbyint(ldexp((double)x[i], -unit)), unit);
        out[i] = f16 && fabs(out[i]) > 65504 ? copysign((double)INFINITY, out[i]) : out[i];
    }
}

void bench_near(struct bench *b, const char *what, const float *got, const double *want, size_t n,
                double tol) {
    for (size_t i = 0; i < n; i++) {
        bool same = isnan(want[i]) ? isnan(got[i]) != 0
                                   : (double)got[i] == want[i] || fabs((double)got[i] - want[i]) <=
                                                                      tol * (1 + fabs(want[i]));
        if (!same || (isinf(want[i]) && (double)got[i] != want[i])) {
            bench_fail(b, "%s: element %zu of %zu is %.9g instead of %.9g", what, i, n,
                       (double)got[i], want[i]);
            return;
        }
    }
}

static void check_guards(struct bench *b, const struct bench_array *a) {
    unsigned char *all = bench_host(b, a->total, a->elem_bytes);
    BENCH_OK(b, kern_download(all, a->buf, 0, a->total * a->elem_bytes));
    size_t begin = a->at * a->elem_bytes, end = (a->at + a->n) * a->elem_bytes;
    for (size_t i = 0; !b->failed && i < a->total * a->elem_bytes; i++) {
        if ((i < begin || i >= end) && all[i] != GUARD_BYTE) {
            bench_fail(b, "a guard byte %s an array of %zu elements was overwritten",
                       i < begin ? "before" : "behind", a->n);
        }
    }
}

bool bench_end(struct bench *b) {
    for (size_t i = 0; i < b->arrays && !b->failed && b->hosts < BENCH_ARRAYS_MAX; i++) {
        check_guards(b, &b->array[i]);
        free(b->host[--b->hosts]);
    }
    for (size_t i = 0; i < b->arrays; i++) {
        kern_buf_free(b->array[i].buf);
    }
    for (size_t i = 0; i < b->hosts; i++) {
        free(b->host[i]);
    }
    return !b->failed;
}
