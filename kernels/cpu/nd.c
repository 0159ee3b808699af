/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arrays of many dimensions with strides. Dimensions that lie side by side in every operand are
 * first taken for one, so that the usual cases end as a few long inner loops; the outer dimensions
 * are counted through like an odometer.
 */
#include "kernels/cpu/nn.h"

#include <string.h>

#define OPERANDS 3

struct plan {
    unsigned rank;
    size_t dims[KERN_RANK_MAX];
    ptrdiff_t s[OPERANDS][KERN_RANK_MAX];
};

/* Leaves out dimensions of 1 and joins neighbours that every operand walks through as one. */
static struct plan plan_of(const struct kern_nd *nd, const ptrdiff_t *const s[OPERANDS],
                           unsigned operands) {
    struct plan p = {.rank = 0};
    for (unsigned i = 0; i < nd->rank; i++) {
        if (nd->dims[i] == 1) {
            continue;
        }
        bool joins = p.rank > 0;
        for (unsigned o = 0; o < operands && joins; o++) {
            joins = p.s[o][p.rank - 1] == s[o][i] * (ptrdiff_t)nd->dims[i];
        }
        unsigned at = joins ? p.rank - 1 : p.rank++;
        p.dims[at] = joins ? p.dims[at] * nd->dims[i] : nd->dims[i];
        for (unsigned o = 0; o < operands; o++) {
            p.s[o][at] = s[o][i];
        }
    }
    if (p.rank == 0) {
        p.rank = 1;
        p.dims[0] = 1;
    }
    return p;
}

struct nd_job {
    struct plan p;
    enum kern_binary op;
    bool add;
    float *y;
    const float *a, *b;
};

/* Where the operands of outer index `at` (all dimensions but the last) begin. */
static void begin_at(const struct plan *p, size_t at, unsigned operands,
                     ptrdiff_t place[OPERANDS]) {
    for (unsigned o = 0; o < operands; o++) {
        place[o] = 0;
    }
    for (unsigned i = p->rank - 1; i-- > 0;) {
        ptrdiff_t index = (ptrdiff_t)(at % p->dims[i]);
        at /= p->dims[i];
        for (unsigned o = 0; o < operands; o++) {
            place[o] += index * p->s[o][i];
        }
    }
}

static size_t outer_count(const struct plan *p) {
    size_t n = 1;
    for (unsigned i = 0; i + 1 < p->rank; i++) {
        n *= p->dims[i];
    }
    return n;
}

static void copy_line(float *restrict y, ptrdiff_t ys, const float *restrict x, ptrdiff_t xs,
                      size_t n, bool add) {
    if (ys == 1 && xs == 1 && !add) {
        memcpy(y, x, n * sizeof *y);
    } else if (ys == 1 && xs == 1) {
        for (size_t i = 0; i < n; i++) {
            y[i] += x[i];
        }
    } else if (add) {
        for (ptrdiff_t i = 0; i < (ptrdiff_t)n; i++) {
            y[i * ys] += x[i * xs];
        }
    } else {
        for (ptrdiff_t i = 0; i < (ptrdiff_t)n; i++) {
            y[i * ys] = x[i * xs];
        }
    }
}

#define TILE 16

/* The last two dimensions by tiles, where y runs along one of them and x along the other: both are
 * read and written a cache line at a time. */
static void transpose_plane(const struct nd_job *j, float *y, const float *x) {
    const struct plan *p = &j->p;
    unsigned r = p->rank - 2, c = p->rank - 1;
    for (size_t i0 = 0; i0 < p->dims[r]; i0 += TILE) {
        size_t i1 = i0 + TILE < p->dims[r] ? i0 + TILE : p->dims[r];
        for (size_t k0 = 0; k0 < p->dims[c]; k0 += TILE) {
            size_t k1 = k0 + TILE < p->dims[c] ? k0 + TILE : p->dims[c];
            for (size_t i = i0; i < i1; i++) {
                copy_line(y + (ptrdiff_t)i * p->s[0][r] + (ptrdiff_t)k0 * p->s[0][c], p->s[0][c],
                          x + (ptrdiff_t)i * p->s[1][r] + (ptrdiff_t)k0 * p->s[1][c], p->s[1][c],
                          k1 - k0, j->add);
            }
        }
    }
}

static void copy_range(const void *job, size_t begin, size_t end) {
    const struct nd_job *j = job;
    ptrdiff_t place[OPERANDS];
    for (size_t at = begin; at < end; at++) {
        begin_at(&j->p, at, 2, place);
        copy_line(j->y + place[0], j->p.s[0][j->p.rank - 1], j->a + place[1],
                  j->p.s[1][j->p.rank - 1], j->p.dims[j->p.rank - 1], j->add);
    }
}

static void plane_range(const void *job, size_t begin, size_t end) {
    const struct nd_job *j = job;
    for (size_t at = begin; at < end; at++) {
        ptrdiff_t y = 0, x = 0;
        size_t rest = at;
        for (unsigned i = j->p.rank - 2; i-- > 0;) {
            y += (ptrdiff_t)(rest % j->p.dims[i]) * j->p.s[0][i];
            x += (ptrdiff_t)(rest % j->p.dims[i]) * j->p.s[1][i];
            rest /= j->p.dims[i];
        }
        transpose_plane(j, j->y + y, j->a + x);
    }
}

enum kern_status NN(nd_copy)(struct kern_ctx *ctx, float *y, const kern_strides ys, const float *x,
                             const kern_strides xs, const struct kern_nd *nd, bool add) {
    const ptrdiff_t *const s[OPERANDS] = {ys, xs, NULL};
    struct nd_job j = {.p = plan_of(nd, s, 2), .add = add, .y = y, .a = x};
    size_t last = j.p.dims[j.p.rank - 1], outer = outer_count(&j.p);
    if (j.p.rank >= 2 && j.p.s[0][j.p.rank - 1] != j.p.s[1][j.p.rank - 1]) {
        size_t plane = last * j.p.dims[j.p.rank - 2];
        return kern_cpu_each(ctx, plane_range, &j, outer / j.p.dims[j.p.rank - 2], plane);
    }
    if (outer == 1 && last > KERN_CPU_GRAIN) { /* one long line: cut it */
        j.p.rank = 2;
        size_t cut = last / KERN_CPU_GRAIN;
        while (last % cut != 0) {
            cut--;
        }
        j.p.dims[0] = cut;
        j.p.dims[1] = last / cut;
        for (unsigned o = 0; o < 2; o++) {
            j.p.s[o][1] = j.p.s[o][0];
            j.p.s[o][0] *= (ptrdiff_t)j.p.dims[1];
        }
        return kern_cpu_each(ctx, copy_range, &j, cut, j.p.dims[1]);
    }
    return kern_cpu_each(ctx, copy_range, &j, outer, last);
}

/* ---- two operands ---------------------------------------------------------------------------- */

#define BINARY_LOOP(expression)                                                                    \
    for (size_t i = 0; i < n; i++) {                                                               \
        y[i] = expression;                                                                         \
    }

#define BINARY_CASES(u, v)                                                                         \
    switch (op) {                                                                                  \
    case KERN_ADD:                                                                                 \
        BINARY_LOOP(u + v) break;                                                                  \
    case KERN_SUB:                                                                                 \
        BINARY_LOOP(u - v) break;                                                                  \
    case KERN_MUL:                                                                                 \
        BINARY_LOOP(u *v) break;                                                                   \
    case KERN_DIV:                                                                                 \
        BINARY_LOOP(u / v) break;                                                                  \
    }

static void binary_line(enum kern_binary op, float *y, const float *a, ptrdiff_t as, const float *b,
                        ptrdiff_t bs, size_t n) {
    if (as == 1 && bs == 1) {
        BINARY_CASES(a[i], b[i])
    } else if (as == 1 && bs == 0) {
        float v = b[0];
        BINARY_CASES(a[i], v)
    } else if (as == 0 && bs == 1) {
        float u = a[0];
        BINARY_CASES(u, b[i])
    } else {
        BINARY_CASES(a[(ptrdiff_t)i * as], b[(ptrdiff_t)i * bs])
    }
}

static void binary_range(const void *job, size_t begin, size_t end) {
    const struct nd_job *j = job;
    size_t n = j->p.dims[j->p.rank - 1];
    ptrdiff_t place[OPERANDS];
    for (size_t at = begin; at < end; at++) {
        begin_at(&j->p, at, 3, place);
        binary_line(j->op, j->y + at * n, j->a + place[1], j->p.s[1][j->p.rank - 1],
                    j->b + place[2], j->p.s[2][j->p.rank - 1], n);
    }
}

/* Where everything is one long line: any cut of it will do. */
static void flat_range(const void *job, size_t begin, size_t end) {
    const struct nd_job *j = job;
    ptrdiff_t as = j->p.s[1][0], bs = j->p.s[2][0];
    binary_line(j->op, j->y + begin, j->a + (ptrdiff_t)begin * as, as, j->b + (ptrdiff_t)begin * bs,
                bs, end - begin);
}

enum kern_status NN(nd_binary)(struct kern_ctx *ctx, enum kern_binary op, float *y, const float *a,
                               const kern_strides as, const float *b, const kern_strides bs,
                               const struct kern_nd *nd) {
    kern_strides ys;
    kern_nd_dense(nd, ys);
    const ptrdiff_t *const s[OPERANDS] = {ys, as, bs};
    struct nd_job j = {.p = plan_of(nd, s, 3), .op = op, .y = y, .a = a, .b = b};
    if (j.p.rank == 1) {
        return kern_cpu_each(ctx, flat_range, &j, j.p.dims[0], 1);
    }
    return kern_cpu_each(ctx, binary_range, &j, outer_count(&j.p), j.p.dims[j.p.rank - 1]);
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* x as [lines][n]: which dimensions are kept and which are summed, side by side ones joined. */
struct reduce_job {
    unsigned kept, summed;
    size_t kept_dims[KERN_RANK_MAX], sum_dims[KERN_RANK_MAX];
    ptrdiff_t kept_s[KERN_RANK_MAX], sum_s[KERN_RANK_MAX];
    size_t sum_count;
    float *y;
    const float *x;
    float scale;
    bool add;
};

static double sum_line(const float *x, ptrdiff_t s, size_t n) {
    double lane[4] = {0, 0, 0, 0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (size_t l = 0; l < 4; l++) {
            lane[l] += (double)x[(ptrdiff_t)(i + l) * s];
        }
    }
    for (size_t l = 0; i < n; i++, l++) {
        lane[l] += (double)x[(ptrdiff_t)i * s];
    }
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static ptrdiff_t place_of(size_t at, const size_t *dims, const ptrdiff_t *s, unsigned rank) {
    ptrdiff_t place = 0;
    for (unsigned i = rank; i-- > 0;) {
        place += (ptrdiff_t)(at % dims[i]) * s[i];
        at /= dims[i];
    }
    return place;
}

static void put(const struct reduce_job *j, size_t at, double sum) {
    float v = (float)(sum * (double)j->scale);
    j->y[at] = j->add ? j->y[at] + v : v;
}

static void reduce_range(const void *job, size_t begin, size_t end) {
    const struct reduce_job *j = job;
    size_t n = j->summed == 0 ? 1 : j->sum_dims[j->summed - 1], outer = j->sum_count / n;
    ptrdiff_t s = j->summed == 0 ? 0 : j->sum_s[j->summed - 1];
    for (size_t at = begin; at < end; at++) {
        const float *x = j->x + place_of(at, j->kept_dims, j->kept_s, j->kept);
        double sum = 0;
        for (size_t o = 0; o < outer; o++) {
            sum += sum_line(
                x + place_of(o, j->sum_dims, j->sum_s, j->summed == 0 ? 0 : j->summed - 1), s, n);
        }
        put(j, at, sum);
    }
}

#define COLUMNS 64

/* The last dimension is kept: COLUMNS neighbours are summed together, so that memory is read as it
 * lies. A task is one block of neighbours of one outer place. */
static void columns_range(const void *job, size_t begin, size_t end) {
    const struct reduce_job *j = job;
    size_t last = j->kept_dims[j->kept - 1], blocks = (last + COLUMNS - 1) / COLUMNS;
    for (size_t task = begin; task < end; task++) {
        size_t outer = task / blocks, first = task % blocks * COLUMNS;
        size_t n = last - first < COLUMNS ? last - first : COLUMNS;
        const float *x = j->x + first + place_of(outer, j->kept_dims, j->kept_s, j->kept - 1);
        double sum[COLUMNS] = {0};
        for (size_t o = 0; o < j->sum_count; o++) {
            const float *restrict row = x + place_of(o, j->sum_dims, j->sum_s, j->summed);
            for (size_t c = 0; c < n; c++) {
                sum[c] += (double)row[c];
            }
        }
        for (size_t c = 0; c < n; c++) {
            put(j, outer * last + first + c, sum[c]);
        }
    }
}

enum kern_status NN(nd_reduce)(struct kern_ctx *ctx, float *y, const float *x,
                               const struct kern_nd *nd, unsigned axes, float scale, bool add) {
    struct reduce_job j = {.sum_count = 1, .y = y, .x = x, .scale = scale, .add = add};
    size_t kept = 1;
    ptrdiff_t stride[KERN_RANK_MAX], at = 1;
    bool before = false; /* the dimension before this one is summed */
    for (unsigned i = nd->rank; i-- > 0;) {
        stride[i] = at;
        at *= (ptrdiff_t)nd->dims[i];
    }
    for (unsigned i = 0; i < nd->rank; i++) {
        bool sums = (axes >> i & 1) != 0;
        unsigned *rank = sums ? &j.summed : &j.kept;
        size_t *dims = sums ? j.sum_dims : j.kept_dims;
        ptrdiff_t *s = sums ? j.sum_s : j.kept_s;
        if (nd->dims[i] == 1) {
            continue;
        }
        bool joins = *rank > 0 && sums == before;
        unsigned to = joins ? *rank - 1 : (*rank)++;
        dims[to] = joins ? dims[to] * nd->dims[i] : nd->dims[i];
        s[to] = stride[i];
        *(sums ? &j.sum_count : &kept) *= nd->dims[i];
        before = sums;
    }
    if (j.kept > 0 && j.kept_s[j.kept - 1] == 1) {
        size_t last = j.kept_dims[j.kept - 1], blocks = (last + COLUMNS - 1) / COLUMNS;
        return kern_cpu_each(ctx, columns_range, &j, kept / last * blocks, j.sum_count * COLUMNS);
    }
    return kern_cpu_each(ctx, reduce_range, &j, kept, j.sum_count);
}
