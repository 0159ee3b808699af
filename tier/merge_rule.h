/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a merge rule is: one table of functions in a file of its own. A rule of the house is listed
 * in merge_rules.c; an operator's own rule is a shared object that includes this header and nothing
 * else of ours, and is named in the hub's configuration (never by a plan or a peer).
 *
 * There are two kinds. A *block* rule sees the updates coordinate by coordinate and gives each
 * coordinate of the result. A *Gram* rule sees the updates' inner products only and gives one
 * coefficient for each; the hub combines the updates with the coefficients in exact integers.
 * What a rule never sees (how many coordinates, how they are stored) it cannot depend on, so
 * memory stays bounded and the result is the same for every way of cutting the work.
 *
 * An update's value is the float32 mean delta it carries. Every update counts once, whatever its
 * weight: a weight is a child's own word, and one liar must not outvote the others. A rule that
 * trusts weights finds them beside the values.
 *
 * A rule is a pure function of what it is given: no state, no clock, no randomness, no threads, no
 * libm beyond + - * / and sqrt, built with -ffp-contract=off. Then the same updates give the same
 * bits on every machine. Updates come sorted by the hash of what they hold: their order says
 * nothing, and is the same wherever and whenever they are merged.
 *
 * Threads: functions of a rule are called by many threads at once, each with scratch of its own.
 */
#ifndef CONSILIUM_TIER_MERGE_RULE_H
#define CONSILIUM_TIER_MERGE_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TIER_MERGE_ABI 1u
#define TIER_MERGE_WHY_BYTES 256

/* The plan's numbers (tiers.*.merge), resolved for the updates at hand. */
struct tier_merge_params {
    uint64_t byzantine;  /* so many of the updates may be an attacker's */
    uint64_t select;     /* updates to choose; 0: as many as the rule can answer for */
    double radius;       /* a norm; 0: the median of this round's own */
    uint64_t iterations; /* of an iterative rule */
    double smoothing;    /* the least distance that counts */
};

/* Which of them a rule takes; a plan that sets another is refused. */
enum {
    TIER_MERGE_BYZANTINE = 1,
    TIER_MERGE_SELECT = 2,
    TIER_MERGE_RADIUS = 4,
    TIER_MERGE_ITERATIONS = 8,
    TIER_MERGE_SMOOTHING = 16,
};

/* A block of coordinates: x[update * stride + coordinate], finite, without negative zeros. */
struct tier_merge_block {
    size_t count; /* updates, at least 1 */
    size_t n;     /* coordinates */
    size_t stride;
    const float *x;
    const uint64_t *weights;
    const struct tier_merge_params *params;
    void *scratch; /* scratch_bytes(count), aligned to 64 */
};

/*
 * Inner products in double: g[i * (count + 1) + j] = <x_i, x_j>, symmetric. Index `count` is the
 * previous round's result, the zero vector where there is none.
 */
struct tier_merge_gram {
    size_t count;
    const double *g;
    const uint64_t *weights;
    const struct tier_merge_params *params;
    void *scratch;
};

struct tier_merge_ops {
    uint32_t abi;   /* TIER_MERGE_ABI */
    uint32_t bytes; /* sizeof(struct tier_merge_ops) where the rule was compiled */
    const char *name;
    unsigned params;   /* TIER_MERGE_* */
    bool has_previous; /* a Gram rule that uses the previous round's result */

    /* May be NULL: none. */
    size_t (*scratch_bytes)(size_t count);
    /* Can so many updates be merged? False with the reason, for a person. May be NULL: always. */
    bool (*ready)(size_t count, const struct tier_merge_params *params, char *why,
                  size_t why_bytes);
    /* Exactly one of the two. */
    void (*block)(const struct tier_merge_block *in, float *out);
    /* coefficient[count + 1], with magnitudes that add up to at most 1 (else the merge fails). */
    void (*gram)(const struct tier_merge_gram *in, double *coefficient);
};

/* The one symbol a shared object exports. NULL where it does not speak this ABI. */
#define TIER_MERGE_SYMBOL "consilium_merge_ops_v1"
typedef const struct tier_merge_ops *(*tier_merge_entry)(uint32_t abi);

#endif
