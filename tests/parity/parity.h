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
    bool threads_show; /* other bits with another number of CPU threads are allowed */
};

extern const struct parity_case parity_nn_cases[], parity_step_cases[], parity_exact_cases[],
    parity_loss_cases[];
extern const size_t parity_nn_count, parity_step_count, parity_exact_count, parity_loss_count;
/* Of kernels/nn.h, which a backend may be without. */
extern const struct parity_case parity_conv_cases[], parity_norm_cases[], parity_deep_cases[],
    parity_refused_cases[], parity_queue_cases[];
extern const size_t parity_conv_count, parity_norm_count, parity_deep_count, parity_refused_count,
    parity_queue_count;

/* Every case that `dev` has the operations for; one line for each that fails, one for those left
 * out, and a last line that counts. Number that failed. */
int parity_run(struct kern_device *dev, FILE *to);
/* The bits of everything that each case downloads, as a digest; in the list's order. */
#define PARITY_CASES_MAX 128
struct parity_bits {
    size_t count;
    const struct parity_case *of[PARITY_CASES_MAX];
    uint64_t digest[PARITY_CASES_MAX];
};
void parity_bits_of(struct kern_device *dev, struct parity_bits *out);
/* Number of cases that ended with other bits, those left out that may show another number of
 * threads where it is another; `what` says what was compared. */
int parity_bits_compare(const struct parity_bits *a, const struct parity_bits *b,
                        bool threads_differ, const char *what, FILE *to);
/* A digest of all that cases downloaded since the last call. */
uint64_t parity_digest_take(void);
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
