/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arrays of many dimensions with strides. The host first takes dimensions that lie side by side in
 * every operand for one; then a thread takes an element, in row-major order, and divides its number
 * up into coordinates, in 32 bits where they suffice. Sums are in double and in two passes where
 * one would leave the GPU idle: parts, then the parts in order.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nn_kernels.h"

#define OPERANDS 3

/* Where elements lie: dims row-major, s the strides of each operand. */
struct walk {
    unsigned rank;
    size_t n;
    size_t dims[KERN_RANK_MAX];
    ptrdiff_t s[OPERANDS][KERN_RANK_MAX];
};

/* Leaves out dimensions of 1 and joins neighbours that every operand walks through as one. */
static struct walk walk_of(const struct kern_nd *nd, const ptrdiff_t *const s[OPERANDS]) {
    struct walk w = {0, 1, {0}, {{0}}};
    for (unsigned i = 0; i < nd->rank; i++) {
        if (nd->dims[i] == 1) {
            continue;
        }
        bool joins = w.rank > 0;
        for (unsigned o = 0; o < OPERANDS && joins; o++) {
            joins = w.s[o][w.rank - 1] == s[o][i] * (ptrdiff_t)nd->dims[i];
        }
        unsigned at = joins ? w.rank - 1 : w.rank++;
        w.dims[at] = joins ? w.dims[at] * nd->dims[i] : nd->dims[i];
        w.n *= nd->dims[i];
        for (unsigned o = 0; o < OPERANDS; o++) {
            w.s[o][at] = s[o][i];
        }
    }
    return w;
}

static bool is_small(const struct walk *w) {
    return w->n <= UINT32_MAX;
}

/* The places of element i. I is a type that holds every element's number. */
template <class I>
__device__ static inline void places(const struct walk &w, size_t i, ptrdiff_t at[OPERANDS]) {
    I rest = (I)i;
    at[0] = at[1] = at[2] = 0;
    for (unsigned d = w.rank; d-- > 0;) {
        I up = d == 0 ? 0 : rest / (I)w.dims[d];
        ptrdiff_t k = (ptrdiff_t)(rest - up * (I)w.dims[d]);
        for (unsigned o = 0; o < OPERANDS; o++) {
            at[o] += k * w.s[o][d];
        }
        rest = up;
    }
}

static unsigned each_grid(size_t n) {
    return kern_grid(n, KERN_BLOCK, KERN_GRID_MAX);
}

/* 8 bytes an element, 12 where it adds; a transpose reads 32 bytes for each 4 where cache does not
 * help. */
template <class I>
__global__ static void nd_copy_kernel(float *y, const float *x, struct walk w, bool add) {
    KERN_EACH(i, w.n) {
        ptrdiff_t at[OPERANDS];
        places<I>(w, i, at);
        float v = x[at[1]];
        y[at[0]] = add ? y[at[0]] + v : v;
    }
}

int kern_cu_nd_copy(float *y, const ptrdiff_t *ys, const float *x, const ptrdiff_t *xs,
                    const struct kern_nd *nd, bool add, cudaStream_t stream) {
    const ptrdiff_t *const s[OPERANDS] = {ys, xs, xs};
    struct walk w = walk_of(nd, s);
    return is_small(&w) ? KERN_LAUNCH(nd_copy_kernel<uint32_t>, each_grid(w.n), KERN_BLOCK, stream,
                                      y, x, w, add)
                        : KERN_LAUNCH(nd_copy_kernel<size_t>, each_grid(w.n), KERN_BLOCK, stream, y,
                                      x, w, add);
}

/* 12 bytes an element, less where an operand is broadcast. y is dense: its place is the element's
 * number. */
template <class I>
__global__ static void nd_binary_kernel(enum kern_binary op, float *y, const float *a,
                                        const float *b, struct walk w) {
    KERN_EACH(i, w.n) {
        ptrdiff_t at[OPERANDS];
        places<I>(w, i, at);
        float u = a[at[1]], v = b[at[2]];
        y[i] = op == KERN_ADD ? u + v : op == KERN_SUB ? u - v : op == KERN_MUL ? u * v : u / v;
    }
}

int kern_cu_nd_binary(enum kern_binary op, float *y, const float *a, const ptrdiff_t *as,
                      const float *b, const ptrdiff_t *bs, const struct kern_nd *nd,
                      cudaStream_t stream) {
    const ptrdiff_t *const s[OPERANDS] = {as, as, bs};
    struct walk w = walk_of(nd, s);
    return is_small(&w) ? KERN_LAUNCH(nd_binary_kernel<uint32_t>, each_grid(w.n), KERN_BLOCK,
                                      stream, op, y, a, b, w)
                        : KERN_LAUNCH(nd_binary_kernel<size_t>, each_grid(w.n), KERN_BLOCK, stream,
                                      op, y, a, b, w);
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* What is kept and what is summed, neighbours of a kind joined; `parts` sums to each that is
 * kept. */
struct reduction {
    struct walk kept, summed; /* operand 0 is x */
    size_t parts;
    bool columns; /* x's last dimension is kept */
};

static struct reduction reduction_of(const struct kern_nd *nd, unsigned axes) {
    struct reduction r = {{0, 1, {0}, {{0}}}, {0, 1, {0}, {{0}}}, 1, false};
    ptrdiff_t stride[KERN_RANK_MAX], at = 1;
    bool before = false;
    for (unsigned i = nd->rank; i-- > 0;) {
        stride[i] = at;
        at *= (ptrdiff_t)nd->dims[i];
    }
    for (unsigned i = 0; i < nd->rank; i++) {
        bool sums = (axes >> i & 1) != 0;
        struct walk *w = sums ? &r.summed : &r.kept;
        if (nd->dims[i] == 1) {
            continue;
        }
        bool joins = w->rank > 0 && sums == before;
        unsigned to = joins ? w->rank - 1 : w->rank++;
        w->dims[to] = joins ? w->dims[to] * nd->dims[i] : nd->dims[i];
        w->s[0][to] = stride[i];
        w->n *= nd->dims[i];
        before = sums;
    }
    r.columns = r.kept.rank > 0 && r.kept.s[0][r.kept.rank - 1] == 1;
    /* A thread to a column's part of 64 elements at the least, or a warp to a row's of 1024. */
    size_t busy = r.columns ? 131072 : 8192, least = r.columns ? 64 : 1024;
    size_t want = (busy - 1) / r.kept.n + 1, most = (r.summed.n - 1) / least + 1;
    r.parts = want < most ? want : most;
    r.parts = r.parts < 256 ? r.parts : 256;
    return r;
}

size_t kern_cu_nd_reduce_bytes(const struct kern_nd *nd, unsigned axes) {
    struct reduction r = reduction_of(nd, axes);
    return r.kept.n * r.parts * sizeof(double);
}

/* First and one behind the last of the elements that part p sums. */
__device__ static inline size_t part_begin(const struct reduction &r, size_t p) {
    size_t per = r.summed.n / r.parts, more = r.summed.n % r.parts;
    return per * p + (p < more ? p : more);
}

/* part[parts][kept], a thread to each: 4 bytes an element of x, a warp's reads side by side. */
template <class I>
__global__ static void sum_columns_kernel(double *part, const float *x, struct reduction r) {
    KERN_EACH(t, r.kept.n * r.parts) {
        ptrdiff_t at[OPERANDS];
        size_t p = t / r.kept.n, end = part_begin(r, p + 1);
        double sum = 0;
        places<I>(r.kept, t - p * r.kept.n, at);
        const float *column = x + at[0];
        for (size_t i = part_begin(r, p); i < end; i++) {
            places<I>(r.summed, i, at);
            sum += (double)column[at[0]];
        }
        part[t] = sum;
    }
}

__device__ static inline double warp_sum(double v) {
    for (int d = KERN_WARP / 2; d > 0; d /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, d);
    }
    return v;
}

/* part[parts][kept], a warp to each, its lanes side by side along what is summed: 4 bytes an
 * element of x. */
template <class I>
__global__ static void sum_rows_kernel(double *part, const float *x, struct reduction r) {
    for (size_t t = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP;
         t < r.kept.n * r.parts; t += (size_t)gridDim.x * KERN_WARPS) {
        ptrdiff_t at[OPERANDS];
        size_t p = t / r.kept.n, end = part_begin(r, p + 1);
        double sum = 0;
        places<I>(r.kept, t - p * r.kept.n, at);
        const float *row = x + at[0];
        for (size_t i = part_begin(r, p) + threadIdx.x % KERN_WARP; i < end; i += KERN_WARP) {
            places<I>(r.summed, i, at);
            sum += (double)row[at[0]];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % KERN_WARP == 0) {
            part[t] = sum;
        }
    }
}

/* y[kept] from the parts in order: 8 bytes a part. */
__global__ static void sum_parts_kernel(float *y, const double *part, size_t n, size_t parts,
                                        float scale, bool add) {
    KERN_EACH(i, n) {
        double sum = 0;
        for (size_t p = 0; p < parts; p++) {
            sum += part[p * n + i];
        }
        float v = (float)(sum * (double)scale);
        y[i] = add ? y[i] + v : v;
    }
}

int kern_cu_nd_reduce(float *y, const float *x, const struct kern_nd *nd, unsigned axes,
                      float scale, bool add, double *part, cudaStream_t stream) {
    struct reduction r = reduction_of(nd, axes);
    size_t n = r.kept.n * r.parts;
    bool fits = r.kept.n <= UINT32_MAX && r.summed.n <= UINT32_MAX;
    int st;
    if (r.columns) {
        st = fits ? KERN_LAUNCH(sum_columns_kernel<uint32_t>, each_grid(n), KERN_BLOCK, stream,
                                part, x, r)
                  : KERN_LAUNCH(sum_columns_kernel<size_t>, each_grid(n), KERN_BLOCK, stream, part,
                                x, r);
    } else {
        unsigned grid = kern_grid(n, KERN_WARPS, KERN_GRID_MAX);
        st = fits ? KERN_LAUNCH(sum_rows_kernel<uint32_t>, grid, KERN_BLOCK, stream, part, x, r)
                  : KERN_LAUNCH(sum_rows_kernel<size_t>, grid, KERN_BLOCK, stream, part, x, r);
    }
    return st != 0 ? st
                   : KERN_LAUNCH(sum_parts_kernel, each_grid(r.kept.n), KERN_BLOCK, stream, y, part,
                                 r.kept.n, r.parts, scale, add);
}
