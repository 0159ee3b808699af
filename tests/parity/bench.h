/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a parity case works on: arrays placed on the device between guard elements and at odd
 * offsets, so that a kernel that assumes alignment or runs over an edge shows. The first failure is
 * kept, with where it was; later steps of the case then do nothing that matters.
 *
 * Ownership: a bench owns every host and device array made through it; bench_end frees them and
 * checks the guards.
 */
#ifndef CONSILIUM_PARITY_BENCH_H
#define CONSILIUM_PARITY_BENCH_H

#include "tests/parity/parity.h"

#define BENCH_ARRAYS_MAX 64

struct bench_array {
    struct kern_buf *buf;
    size_t at, n, total, elem_bytes;
};

struct bench {
    struct kern_device *dev;
    char *why;
    size_t why_bytes;
    bool failed;
    uint64_t seed;
    struct bench_array array[BENCH_ARRAYS_MAX];
    size_t arrays;
    void *host[BENCH_ARRAYS_MAX];
    size_t hosts;
};

void bench_begin(struct bench *b, struct kern_device *dev, char *why, size_t why_bytes);
/* True where nothing failed and no guard was touched. */
bool bench_end(struct bench *b);
void bench_fail(struct bench *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Fails unless the call gave `want`. */
void bench_status(struct bench *b, const char *call, enum kern_status got, enum kern_status want);
#define BENCH_OK(b, call) bench_status(b, #call, call, KERN_OK)
/* Fails unless the call is refused with KERN_EARG and a sentence that begins with the operation's
 * name. */
#define BENCH_REFUSED(b, op, ...) bench_refused(b, #op, op(__VA_ARGS__))
void bench_refused(struct bench *b, const char *op, enum kern_status got);

/* fn(b, i) for each i below count, each with a bench and a seed of its own, until one fails. */
typedef void (*bench_fn)(struct bench *b, size_t i);
bool bench_each(struct kern_device *dev, char *why, size_t why_bytes, bench_fn fn, size_t count);
/* A parity case of that. */
#define BENCH_CASE(name, fn, count)                                                                \
    static bool name(struct kern_device *dev, char *why, size_t why_bytes) {                       \
        return bench_each(dev, why, why_bytes, fn, count);                                         \
    }

/* Host memory, zeroed. */
void *bench_host(struct bench *b, size_t n, size_t elem_bytes);
/* n floats between low and high. */
float *bench_random(struct bench *b, size_t n, float low, float high);
/* On the device, guarded. */
struct kern_vec bench_put(struct bench *b, const void *data, size_t n, size_t elem_bytes);
/* Back to the host, and into the case's digest. */
void *bench_get(struct bench *b, struct kern_vec v, size_t n, size_t elem_bytes);
/* |got - want| <= tol * (1 + |want|) for all; NaN equals NaN, an infinity itself. */
void bench_near(struct bench *b, const char *what, const float *got, const double *want, size_t n,
                double tol);

/* Sets what the device's products may round; false for bfloat16 on a device that has none. */
bool bench_products(struct bench *b, enum kern_products products);
/* The nearest numbers that a half precision has, in double: binary16's, or bfloat16's. */
void bench_halve(double *out, const float *x, size_t n, bool f16);

#endif
