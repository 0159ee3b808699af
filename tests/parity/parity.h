/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One list of cases for every backend: each runs an operation of kern.h on a device and compares
 * with a naive reference in double, or bit for bit where the operation promises bits. The same list
 * runs on the CPU backends, on the CUDA backend over the SIMT engine, and on a real GPU; so this
 * folder needs a C compiler and nothing else.
 *
 * Threads: one. Ownership: a case frees what it makes.
 */
#ifndef CONSILIUM_PARITY_H
#define CONSILIUM_PARITY_H

#include "kernels/group.h"

#include <stdio.h>

struct parity_case {
    const char *name;
    /* True where the device agrees; false with a sentence in why. */
    bool (*run)(struct kern_device *dev, char *why, size_t why_bytes);
};

extern const struct parity_case parity_nn_cases[], parity_exact_cases[];
extern const size_t parity_nn_count, parity_exact_count;

/* Every case on `dev`; one line for each that fails, and a last line that counts. Number that
 * failed. */
int parity_run(struct kern_device *dev, FILE *to);
/* Every operation of a group of these devices (kernels/group.h), 1 to PARITY_GROUP_MAX. */
#define PARITY_GROUP_MAX 8
bool parity_group(struct kern_device **devs, size_t count, char *why, size_t why_bytes);

/*
 * The fold's definition in integers, from the bits of x: q = round half even of x * 2^f and
 * r = round half even of (x * 2^f - q) * 2^30. False where x is refused. No floating point.
 */
bool parity_quantise(float x, int frac_bits, int64_t *q_out, int64_t *r_out);

/* A small generator, so that every machine tests the same values. */
static inline uint64_t parity_next(uint64_t *seed) {
    uint64_t z = (*seed += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

#endif
