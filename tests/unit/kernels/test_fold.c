/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/fold.h"
#include "kernels/kern.h"
#include "tests/parity/parity.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROOM 700

static float any_float(uint64_t *seed, int f) {
    uint64_t r = parity_next(seed);
    if (r % 16 == 0) { /* any bits at all: NaN, infinity, denormal, huge */
        uint32_t bits = (uint32_t)parity_next(seed);
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    float half = (float)(int64_t)(r >> 45) * 0.5f; /* ties are frequent */
    return ldexpf(r % 2 == 0 ? half : -half * 1.37f, (int)(r >> 8 & 15) - f - 4);
}

/* What the definition in integers gives. */
static uint64_t defined(int64_t *hi, int64_t *lo, const float *x, size_t n, int f, uint32_t w,
                        size_t *first) {
    uint64_t refused = 0;
    *first = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        int64_t q = 0, r = 0;
        if (!parity_quantise(x[i], f, &q, &r)) {
            *first = refused++ == 0 ? i : *first;
            continue;
        }
        hi[i] += (int64_t)w * q;
        lo[i] += (int64_t)w * r;
    }
    return refused;
}

struct trial {
    float x[ROOM];
    int64_t hi[ROOM], lo[ROOM], want_hi[ROOM], want_lo[ROOM], start[ROOM], one[ROOM], two[ROOM];
};

static void check_isa(enum kern_isa isa, struct trial *t, size_t at, size_t n, int f, uint32_t w,
                      uint64_t refused, size_t first) {
    const struct kern_fold_ops *ops = kern_fold_ops_for(isa);
    if (ops == NULL) {
        return;
    }
    struct kern_refusal r = {0, SIZE_MAX};
    memcpy(t->one, t->start, sizeof t->one);
    memcpy(t->two, t->start, sizeof t->two);
    ops->f32(t->one + at, t->x + at, 0, n, ldexp(1, f), w, &r);
    cr_assert(eq(u64, r.count, refused), "isa %d", isa);
    cr_assert(eq(sz, r.first, first), "isa %d", isa);
    cr_assert(memcmp(t->one, t->want_hi, sizeof t->one) == 0, "isa %d f %d n %zu", isa, f, n);
    memcpy(t->one, t->start, sizeof t->one);
    r = (struct kern_refusal){0, SIZE_MAX};
    ops->f32_wide(t->one + at, t->two + at, t->x + at, 0, n, ldexp(1, f), w, &r);
    cr_assert(eq(u64, r.count, refused), "isa %d", isa);
    cr_assert(eq(sz, r.first, first), "isa %d", isa);
    cr_assert(memcmp(t->one, t->want_hi, sizeof t->one) == 0, "isa %d f %d n %zu", isa, f, n);
    cr_assert(memcmp(t->two, t->want_lo, sizeof t->two) == 0, "isa %d f %d n %zu", isa, f, n);
}

Test(kern_fold, every_instruction_set_gives_the_bits_of_the_definition) {
    struct trial *t = malloc(sizeof *t);
    uint64_t seed = 7;
    for (int round = 0; round < 1500; round++) {
        size_t at = parity_next(&seed) % 9, n = parity_next(&seed) % (ROOM - 32), first;
        int f = (int)(parity_next(&seed) % 201) - 100;
        uint32_t w = (uint32_t)(parity_next(&seed) % INT32_MAX) + 1;
        for (size_t i = 0; i < ROOM; i++) {
            t->x[i] = any_float(&seed, f);
            t->start[i] = (int64_t)parity_next(&seed) >> 4;
        }
        memcpy(t->want_hi, t->start, sizeof t->start);
        memcpy(t->want_lo, t->start, sizeof t->start);
        uint64_t refused = defined(t->want_hi + at, t->want_lo + at, t->x + at, n, f, w, &first);
        for (int isa = 0; isa < KERN_ISA_COUNT; isa++) {
            check_isa((enum kern_isa)isa, t, at, n, f, w, refused, first);
        }
    }
    free(t);
}

/* Groups, and what is left of one, of every length, against one update at a time. */
static void check_many(enum kern_isa isa, size_t count, uint64_t *seed) {
    static float x[3 * KERN_FOLD_GROUP][ROOM];
    static int64_t one[ROOM], many[ROOM];
    const struct kern_fold_ops *ops = kern_fold_ops_for(isa);
    const float *at[3 * KERN_FOLD_GROUP];
    uint32_t w[3 * KERN_FOLD_GROUP];
    int f = (int)(parity_next(seed) % 201) - 100;
    size_t skip = parity_next(seed) % 9, n = parity_next(seed) % (ROOM - 32);
    struct kern_refusal want = {0, SIZE_MAX};
    uint64_t refused = 0;

    for (size_t i = 0; i < ROOM; i++) {
        one[i] = many[i] = (int64_t)parity_next(seed) >> 4;
    }
    for (size_t k = 0; k < count; k++) {
        at[k] = x[k] + skip;
        w[k] = (uint32_t)(parity_next(seed) % INT32_MAX) + 1;
        for (size_t i = 0; i < ROOM; i++) {
            x[k][i] = any_float(seed, f);
        }
        kern_fold_scalar.f32(one + skip, at[k], 0, n, ldexp(1, f), w[k], &want);
    }
    if (isa == KERN_ISA_COUNT) {
        refused = kern_fold_f32_many(many + skip, at, w, count, n, f);
    } else if (ops != NULL) {
        refused = ops->f32_group(many + skip, at, w, n, ldexp(1, f));
    } else {
        return;
    }
    cr_assert(eq(u64, refused, want.count), "isa %d", isa);
    cr_assert(memcmp(one, many, sizeof one) == 0, "isa %d f %d n %zu", isa, f, n);
}

Test(kern_fold, several_updates_in_a_pass_give_what_one_at_a_time_gives) {
    uint64_t seed = 11;
    for (int round = 0; round < 400; round++) {
        for (int isa = 0; isa < KERN_ISA_COUNT; isa++) {
            check_many((enum kern_isa)isa, KERN_FOLD_GROUP, &seed);
        }
        check_many(KERN_ISA_COUNT, (size_t)round % (3 * KERN_FOLD_GROUP + 1), &seed);
    }
}

Test(kern_fold, one_weight_out_of_range_refuses_every_update_of_a_pass) {
    const float a[2] = {1, 2};
    const float *x[2] = {a, a};
    int64_t acc[2] = {0};
    cr_assert(eq(u64, kern_fold_f32_many(acc, x, (uint32_t[]){1, 0}, 2, 2, 0), 4));
    cr_assert(eq(u64, kern_fold_f32_many(acc, x, (uint32_t[]){1, 1}, 2, 2, 101), 4));
    cr_assert(eq(i64, acc[0] | acc[1], 0));
    cr_assert(eq(u64, kern_fold_f32_many(acc, NULL, NULL, 0, 2, 0), 0));
}

Test(kern_fold, ties_go_to_the_even_neighbour) {
    const float x[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 0.75f, -0.25f};
    const int64_t want[] = {0, 2, 2, 0, -2, -2, 1, 0};
    int64_t acc[8] = {0};
    cr_assert(eq(u64, kern_fold_f32(acc, x, 8, 0, 1, NULL), 0));
    for (size_t i = 0; i < 8; i++) {
        cr_assert(eq(i64, acc[i], want[i]), "element %zu", i);
    }
}

Test(kern_fold, the_clip_itself_is_folded_and_the_next_float_is_refused) {
    const float x[] = {1.0f, -1.0f, 1.0000001f, -1.0000001f};
    int64_t acc[4] = {0};
    size_t first = 99;
    cr_assert(eq(u64, kern_fold_f32(acc, x, 4, 30, 3, &first), 2));
    cr_assert(eq(sz, first, 2));
    cr_assert(eq(i64, acc[0], INT64_C(3) << 30));
    cr_assert(eq(i64, acc[1], -(INT64_C(3) << 30)));
    cr_assert(eq(i64, acc[2], 0));
    cr_assert(eq(i64, acc[3], 0));
}

Test(kern_fold, what_is_no_number_is_refused_and_nothing_else_disturbed) {
    float x[40];
    int64_t acc[40];
    for (size_t i = 0; i < 40; i++) {
        x[i] = 1;
        acc[i] = 5;
    }
    x[17] = NAN;
    x[18] = INFINITY;
    x[39] = -INFINITY;
    size_t first = 0;
    cr_assert(eq(u64, kern_fold_f32(acc, x, 40, 4, 2, &first), 3));
    cr_assert(eq(sz, first, 17));
    for (size_t i = 0; i < 40; i++) {
        bool out = i == 17 || i == 18 || i == 39;
        cr_assert(eq(i64, acc[i], out ? 5 : 37), "element %zu", i);
    }
}

Test(kern_fold, nothing_to_fold_is_fine_and_leaves_first_alone) {
    size_t first = 4;
    cr_assert(eq(u64, kern_fold_f32(NULL, NULL, 0, 0, 1, &first), 0));
    cr_assert(eq(sz, first, 4));
}

Test(kern_fold, a_weight_or_scale_out_of_range_refuses_everything) {
    const float x[3] = {1, 2, 3};
    int64_t acc[3] = {0}, lo[3] = {0};
    size_t first = 9;
    cr_assert(eq(u64, kern_fold_f32(acc, x, 3, 0, 0, &first), 3));
    cr_assert(eq(sz, first, 0));
    cr_assert(eq(u64, kern_fold_f32(acc, x, 3, 0, UINT32_C(1) << 31, NULL), 3));
    cr_assert(eq(u64, kern_fold_f32(acc, x, 3, 101, 1, NULL), 3));
    cr_assert(eq(u64, kern_fold_f32_wide(acc, lo, x, 3, -101, 1, NULL), 3));
    cr_assert(eq(u64, kern_fold_i64(acc, lo, 3, 0, NULL), 3));
    cr_assert(eq(u64, kern_fold_i64(acc, lo, 3, (UINT64_C(1) << 32) + 1, NULL), 3));
    cr_assert(eq(i64, acc[0] | acc[1] | acc[2], 0));
}

Test(kern_fold, a_childs_sum_within_its_weight_is_added_by_every_instruction_set) {
    uint64_t seed = 3, weight = 1000;
    int64_t limit = (int64_t)weight << 30;
    for (int isa = 0; isa < KERN_ISA_COUNT; isa++) {
        const struct kern_fold_ops *ops = kern_fold_ops_for((enum kern_isa)isa);
        for (size_t n = 0; ops != NULL && n < 70; n++) {
            int64_t s[70], acc[70];
            uint64_t bad = 0;
            size_t first = SIZE_MAX;
            for (size_t i = 0; i < n; i++) {
                const int64_t pick[] = {limit, -limit, limit + 1, -limit - 1, INT64_MIN, INT64_MAX};
                uint64_t k = parity_next(&seed) % 24;
                s[i] = k < 6 ? pick[k] : (int64_t)parity_next(&seed) % limit;
                acc[i] = 100;
                if (k >= 2 && k < 6) {
                    first = bad++ == 0 ? i : first;
                }
            }
            struct kern_refusal r = {0, SIZE_MAX};
            ops->i64(acc, s, 0, n, limit, &r);
            cr_assert(eq(u64, r.count, bad));
            cr_assert(eq(sz, r.first, first));
            for (size_t i = 0; i < n; i++) {
                bool fits = s[i] <= limit && s[i] >= -limit;
                cr_assert(eq(i64, acc[i], fits ? 100 + s[i] : 100));
            }
        }
    }
}

Test(kern_fold, a_childs_sum_beyond_its_weight_is_refused) {
    const int64_t s[2] = {(INT64_C(5) << 30) + 1, -(INT64_C(5) << 30)};
    int64_t acc[2] = {0};
    size_t first = 7;
    cr_assert(eq(u64, kern_fold_i64(acc, s, 2, 5, &first), 1));
    cr_assert(eq(sz, first, 0));
    cr_assert(eq(i64, acc[0], 0));
    cr_assert(eq(i64, acc[1], s[1]));
}

Test(kern_apply, the_mean_of_two_updates_is_theirs_to_the_last_bit) {
    const float a[3] = {0.5f, -0.25f, 0.125f}, b[3] = {0.25f, 0.75f, -0.5f}, x[3] = {1, 2, 3};
    int64_t hi[3] = {0}, lo[3] = {0}, wide[3] = {0};
    float y[3], z[3];
    kern_fold_f32(hi, a, 3, 30, 1, NULL);
    kern_fold_f32(hi, b, 3, 30, 3, NULL);
    kern_fold_f32_wide(wide, lo, a, 3, 30, 1, NULL);
    kern_fold_f32_wide(wide, lo, b, 3, 30, 3, NULL);
    kern_apply_mean(y, x, hi, NULL, 3, 30, 4);
    kern_apply_mean(z, x, wide, lo, 3, 30, 4);
    for (size_t i = 0; i < 3; i++) {
        float want = (float)((double)x[i] + ((double)a[i] + 3 * (double)b[i]) / 4);
        cr_assert(eq(flt, y[i], want));
        cr_assert(eq(flt, z[i], want));
    }
}

Test(kern_apply, the_second_limb_keeps_what_the_first_rounds_away) {
    const float tiny = 0x1p-45f, x = 0;
    int64_t hi = 0, lo = 0;
    float narrow, wide;
    kern_fold_f32_wide(&hi, &lo, &tiny, 1, 30, 7, NULL);
    kern_apply_mean(&narrow, &x, &hi, NULL, 1, 30, 7);
    kern_apply_mean(&wide, &x, &hi, &lo, 1, 30, 7);
    cr_assert(eq(flt, narrow, 0));
    cr_assert(eq(flt, wide, tiny));
}
