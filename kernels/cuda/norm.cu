/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Normalisations. All are one thing: sets of places with a mean and a deviation of their own,
 * sample n's spots of group g's channels; BatchNorm is one sample whose groups are its channels.
 *
 * Two ways. Where a sample has few spots (LayerNorm), a warp takes a set. Otherwise columns: a
 * block takes some channels of a part of a sample's spots, so that memory is read as it lies, and
 * leaves sums per channel; a warp to a set joins them in their order. Sums are in double, of
 * differences from the set's first element, which no large mean can spoil; every order follows from
 * the sizes alone.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nn_kernels.h"

#define ROWS_MAX 16 /* spots of a sample up to which a warp takes a set */
#define PARTS_MAX 64
#define BATCH_GRID 4096

__device__ static inline double warp_sum(double v) {
    for (int d = KERN_WARP / 2; d > 0; d /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, d);
    }
    return v;
}

/* How a grid lies over [batch][spots][channels]: x over blocks of `width` channels, y over `parts`
 * of the spots, z over samples, strided. A block is KERN_BLOCK / width rows of width threads. */
struct columns {
    size_t batch, spots, channels;
    unsigned width, parts, blocks;
};

static struct columns columns_of(size_t batch, size_t spots, size_t channels) {
    struct columns q = {batch, spots, channels, 1, 1, 1};
    while (q.width < KERN_WARP && q.width < channels) {
        q.width *= 2;
    }
    q.blocks = (unsigned)((channels - 1) / q.width + 1);
    size_t others = q.blocks * (batch < BATCH_GRID ? batch : BATCH_GRID);
    size_t want = (2048 - 1) / others + 1, most = (spots - 1) / (8 * (KERN_BLOCK / q.width)) + 1;
    want = want < most ? want : most;
    q.parts = (unsigned)(want < PARTS_MAX ? want : PARTS_MAX);
    return q;
}

static dim3 columns_grid(const struct columns *q) {
    return dim3(q->blocks, q->parts, (unsigned)(q->batch < BATCH_GRID ? q->batch : BATCH_GRID));
}

static struct columns norm_columns(const struct kern_cu_sets *norm) {
    return columns_of(norm->batch, norm->spots, norm->channels);
}

/* The parameters' gradient where warps take the sets: all samples' rows are one column each. */
static struct columns flat_columns(const struct kern_cu_sets *norm) {
    return columns_of(1, norm->batch * norm->spots, norm->channels);
}

static bool by_rows(const struct kern_cu_sets *norm) {
    return norm->spots <= ROWS_MAX && norm->groups < norm->channels;
}

static size_t sums_of(const struct columns *q) {
    return q->batch * q->parts * 2 * q->channels;
}

size_t kern_cu_norm_bytes(const struct kern_cu_sets *norm) {
    struct columns whole = norm_columns(norm), flat = flat_columns(norm);
    size_t terms = 2 * norm->batch * norm->groups;
    return ((by_rows(norm) ? sums_of(&flat) : sums_of(&whole)) + terms) * sizeof(double);
}

/* The spots of this block's part, this thread's first and its step; and its channel. */
struct span {
    size_t c, row, end, step;
};

__device__ static inline struct span span_of(const struct columns &q) {
    size_t per = q.spots / q.parts, more = q.spots % q.parts, p = blockIdx.y;
    struct span s;
    s.c = (size_t)blockIdx.x * q.width + threadIdx.x % q.width;
    s.row = per * p + (p < more ? p : more) + threadIdx.x / q.width;
    s.end = s.c < q.channels ? per * (p + 1) + (p + 1 < more ? p + 1 : more) : 0;
    s.step = KERN_BLOCK / q.width;
    return s;
}

/* Adds up what the block's threads of a channel hold, in the order of the rows, into
 * part[sample][parts][2][channels]. */
__device__ static inline void put_sums(double *part, const struct columns &q, const struct span &s,
                                       size_t sample, double first, double second) {
    __shared__ double held[2][KERN_BLOCK];
    __syncthreads(); /* the sample before has been read */
    held[0][threadIdx.x] = first;
    held[1][threadIdx.x] = second;
    __syncthreads();
    if (threadIdx.x < q.width && s.c < q.channels) {
        for (unsigned i = threadIdx.x + q.width; i < KERN_BLOCK; i += q.width) {
            first += held[0][i];
            second += held[1][i];
        }
        double *to = part + ((sample * gridDim.y + blockIdx.y) * 2) * q.channels + s.c;
        to[0] = first;
        to[q.channels] = second;
    }
}

/* A set's shift: its first element. */
__device__ static inline double shift_of(const float *x, const struct columns &q, size_t sample,
                                         size_t group_width, size_t c) {
    return (double)x[sample * q.spots * q.channels + c / group_width * group_width];
}

/* Sums of x - shift and of its square, to each channel of each part: 4 bytes an element. */
__global__ static void norm_sums_kernel(double *part, const float *x, struct columns q,
                                        size_t group_width) {
    struct span s = span_of(q);
    for (size_t sample = blockIdx.z; sample < q.batch; sample += gridDim.z) {
        double sum = 0, squares = 0;
        double shift = s.c < q.channels ? shift_of(x, q, sample, group_width, s.c) : 0;
        for (size_t r = s.row; r < s.end; r += s.step) {
            double d = (double)x[(sample * q.spots + r) * q.channels + s.c] - shift;
            sum += d;
            squares += d * d;
        }
        put_sums(part, q, s, sample, sum, squares);
    }
}

struct running {
    float *mean, *var; /* or NULL */
    float keep;
};

__device__ static inline float inverse_of(double var, float epsilon) {
    return (float)(1.0 / sqrt(var + (double)epsilon));
}

/* mean and inv_std of each set, a warp to a set: 16 bytes a channel of a part. */
__global__ static void norm_stats_kernel(float *mean, float *inv_std, const double *part,
                                         const float *x, struct columns q, size_t groups,
                                         float epsilon, struct running run) {
    size_t width = q.channels / groups;
    for (size_t set = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP;
         set < q.batch * groups; set += (size_t)gridDim.x * KERN_WARPS) {
        size_t sample = set / groups, g = set - sample * groups;
        double sum = 0, squares = 0, n = (double)(q.spots * width);
        for (size_t i = threadIdx.x % KERN_WARP; i < q.parts * width; i += KERN_WARP) {
            size_t p = i / width, c = g * width + (i - p * width);
            const double *from = part + (sample * q.parts + p) * 2 * q.channels + c;
            sum += from[0];
            squares += from[q.channels];
        }
        sum = warp_sum(sum);
        squares = warp_sum(squares) - sum * (sum / n);
        squares = squares < 0 ? 0 : squares; /* by rounding; NaN stays */
        if (threadIdx.x % KERN_WARP == 0) {
            float m = (float)(shift_of(x, q, sample, width, g * width) + sum / n);
            mean[set] = m;
            inv_std[set] = inverse_of(squares / n, epsilon);
            if (run.mean != nullptr) {
                double unbiased = n > 1 ? squares / (n - 1) : squares;
                run.mean[set] = run.keep * run.mean[set] + (1.0f - run.keep) * m;
                run.var[set] = run.keep * run.var[set] + (1.0f - run.keep) * (float)unbiased;
            }
        }
    }
}

/* y from given statistics; `var` in place of inv_std where it is not NULL: 8 bytes an element. */
__global__ static void norm_apply_kernel(float *y, const float *x, const float *scale,
                                         const float *bias, const float *mean, const float *inv_std,
                                         const float *var, float epsilon, struct columns q,
                                         size_t groups, bool relu) {
    struct span s = span_of(q);
    size_t width = q.channels / groups;
    for (size_t sample = blockIdx.z; s.c < q.channels && sample < q.batch; sample += gridDim.z) {
        size_t set = sample * groups + s.c / width;
        float inv = var != nullptr ? inverse_of((double)var[set], epsilon) : inv_std[set];
        float m = mean[set], a = scale != nullptr ? inv * scale[s.c] : inv;
        float b = bias != nullptr ? bias[s.c] : 0;
        for (size_t r = s.row; r < s.end; r += s.step) {
            size_t i = (sample * q.spots + r) * q.channels + s.c;
            float v = (x[i] - m) * a + b;
            y[i] = relu && v < 0 ? 0 : v;
        }
    }
}

/* A set to a warp: statistics and y. x is read twice, from cache the second time: 8 bytes an
 * element. */
__global__ static void norm_rows_kernel(float *y, float *mean, float *inv_std, const float *x,
                                        const float *scale, const float *bias,
                                        struct kern_cu_sets q) {
    size_t width = q.channels / q.groups, per = q.spots * width;
    for (size_t set = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP;
         set < q.batch * q.groups; set += (size_t)gridDim.x * KERN_WARPS) {
        size_t sample = set / q.groups, first = (set - sample * q.groups) * width;
        const float *in = x + sample * q.spots * q.channels;
        float *to = y + sample * q.spots * q.channels;
        double shift = (double)in[first], sum = 0, squares = 0, n = (double)per;
        for (size_t i = threadIdx.x % KERN_WARP; i < per; i += KERN_WARP) {
            size_t spot = i / width;
            double d = (double)in[spot * q.channels + first + (i - spot * width)] - shift;
            sum += d;
            squares += d * d;
        }
        sum = warp_sum(sum);
        squares = warp_sum(squares) - sum * (sum / n);
        squares = squares < 0 ? 0 : squares;
        float m = (float)(shift + sum / n), inv = inverse_of(squares / n, q.epsilon);
        if (threadIdx.x % KERN_WARP == 0) {
            mean[set] = m;
            inv_std[set] = inv;
        }
        for (size_t i = threadIdx.x % KERN_WARP; i < per; i += KERN_WARP) {
            size_t spot = i / width, c = first + (i - spot * width);
            float a = scale != nullptr ? inv * scale[c] : inv;
            float v = (in[spot * q.channels + c] - m) * a + (bias != nullptr ? bias[c] : 0);
            to[spot * q.channels + c] = q.relu && v < 0 ? 0 : v;
        }
    }
}

static unsigned sets_grid(const struct kern_cu_sets *norm) {
    return kern_grid(norm->batch * norm->groups, KERN_WARPS, KERN_GRID_MAX);
}

int kern_cu_norm(float *y, float *mean, float *inv_std, float *run_mean, float *run_var,
                 float momentum, const float *x, const float *scale, const float *bias,
                 const struct kern_cu_sets *norm, double *part, cudaStream_t stream) {
    struct columns q = norm_columns(norm);
    struct running run = {run_mean, run_var, momentum};
    if (by_rows(norm)) {
        return KERN_LAUNCH(norm_rows_kernel, sets_grid(norm), KERN_BLOCK, stream, y, mean, inv_std,
                           x, scale, bias, *norm);
    }
    int st = KERN_LAUNCH(norm_sums_kernel, columns_grid(&q), KERN_BLOCK, stream, part, x, q,
                         norm->channels / norm->groups);
    st = st != 0 ? st
                 : KERN_LAUNCH(norm_stats_kernel, sets_grid(norm), KERN_BLOCK, stream, mean,
                               inv_std, part, x, q, norm->groups, norm->epsilon, run);
    const float *no_var = nullptr;
    return st != 0 ? st
                   : KERN_LAUNCH(norm_apply_kernel, columns_grid(&q), KERN_BLOCK, stream, y, x,
                                 scale, bias, mean, inv_std, no_var, norm->epsilon, q, norm->groups,
                                 norm->relu);
}

int kern_cu_norm_apply(float *y, const float *x, const float *scale, const float *bias,
                       const float *mean, const float *var, const struct kern_cu_sets *norm,
                       cudaStream_t stream) {
    struct columns q = norm_columns(norm);
    return KERN_LAUNCH(norm_apply_kernel, columns_grid(&q), KERN_BLOCK, stream, y, x, scale, bias,
                       mean, mean, var, norm->epsilon, q, norm->groups, norm->relu);
}

/* ---- the gradient ---------------------------------------------------------------------------- */

struct slopes {
    const float *dy, *x, *y; /* y NULL where not relu */
    const float *scale;      /* or NULL */
    const float *mean, *inv_std;
    size_t groups, spots; /* of the normalisation, whatever the columns are */
};

__device__ static inline float slope_at(const struct slopes &g, size_t i) {
    return g.y == nullptr || g.y[i] > 0 ? g.dy[i] : 0;
}

/* Sums of dy and of dy * (x - mean) / deviation, to each channel of each part, a row's set being
 * its own: 8 to 12 bytes an element. */
__global__ static void norm_grad_sums_kernel(double *part, struct slopes g, struct columns q) {
    struct span s = span_of(q);
    size_t width = q.channels / g.groups;
    for (size_t sample = blockIdx.z; sample < q.batch; sample += gridDim.z) {
        double sum = 0, dot = 0;
        for (size_t r = s.row; r < s.end; r += s.step) {
            size_t row = sample * q.spots + r, i = row * q.channels + s.c;
            size_t of = g.spots == q.spots ? sample : g.spots == 1 ? row : row / g.spots;
            size_t set = of * g.groups + s.c / width;
            float slope = slope_at(g, i);
            sum += (double)slope;
            dot += (double)(slope * (g.x[i] - g.mean[set])) * (double)g.inv_std[set];
        }
        put_sums(part, q, s, sample, sum, dot);
    }
}

/* dscale, dbias += a channel's sums of all samples and parts in order, a thread to a channel: 16
 * bytes a channel of a part. */
__global__ static void norm_params_kernel(float *dscale, float *dbias, const double *part,
                                          struct columns q) {
    KERN_EACH(c, q.channels) {
        double sum = 0, dot = 0;
        for (size_t i = 0; i < q.batch * q.parts; i++) {
            sum += part[i * 2 * q.channels + c];
            dot += part[(i * 2 + 1) * q.channels + c];
        }
        if (dbias != nullptr) {
            dbias[c] += (float)sum;
        }
        if (dscale != nullptr) {
            dscale[c] += (float)dot;
        }
    }
}

/* terms[set] = the means of scale * dy and of scale * dy * (x - mean) / deviation over a set, a
 * warp to a set: 16 bytes a channel of a part. */
__global__ static void norm_terms_kernel(double *terms, const double *part, const float *scale,
                                         struct columns q, size_t groups) {
    size_t width = q.channels / groups;
    for (size_t set = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP;
         set < q.batch * groups; set += (size_t)gridDim.x * KERN_WARPS) {
        size_t sample = set / groups, g = set - sample * groups;
        double sum = 0, dot = 0, n = (double)(q.spots * width);
        for (size_t i = threadIdx.x % KERN_WARP; i < q.parts * width; i += KERN_WARP) {
            size_t p = i / width, c = g * width + (i - p * width);
            const double *from = part + (sample * q.parts + p) * 2 * q.channels + c;
            double w = scale != nullptr ? (double)scale[c] : 1;
            sum += w * from[0];
            dot += w * from[q.channels];
        }
        sum = warp_sum(sum);
        dot = warp_sum(dot);
        if (threadIdx.x % KERN_WARP == 0) {
            terms[2 * set] = sum / n;
            terms[2 * set + 1] = dot / n;
        }
    }
}

/* dx = inv * (w * dy - k - (x - mean) * b) of one element: what may cancel does before it is
 * scaled, so that no rounding of the scale shows. */
__device__ static inline float dx_at(const struct slopes &g, size_t i, float w, float mean,
                                     double inv, double sum, double dot) {
    float b = (float)(inv * dot), k = (float)sum;
    return (float)inv * ((w * slope_at(g, i) - k) - (g.x[i] - mean) * b);
}

/* 12 to 16 bytes an element. */
__global__ static void norm_dx_kernel(float *dx, struct slopes g, const double *terms,
                                      struct columns q) {
    struct span s = span_of(q);
    size_t width = q.channels / g.groups;
    for (size_t sample = blockIdx.z; s.c < q.channels && sample < q.batch; sample += gridDim.z) {
        size_t set = sample * g.groups + s.c / width;
        float w = g.scale != nullptr ? g.scale[s.c] : 1, mean = g.mean[set];
        double inv = (double)g.inv_std[set], sum = terms[2 * set], dot = terms[2 * set + 1];
        for (size_t r = s.row; r < s.end; r += s.step) {
            size_t i = (sample * q.spots + r) * q.channels + s.c;
            dx[i] = dx_at(g, i, w, mean, inv, sum, dot);
        }
    }
}

/* A set to a warp; what it reads twice comes from cache: 12 to 16 bytes an element. */
__global__ static void norm_rows_grad_kernel(float *dx, struct slopes g, struct kern_cu_sets q) {
    size_t width = q.channels / q.groups, per = q.spots * width;
    for (size_t set = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP;
         set < q.batch * q.groups; set += (size_t)gridDim.x * KERN_WARPS) {
        size_t sample = set / q.groups, first = (set - sample * q.groups) * width;
        size_t base = sample * q.spots * q.channels;
        float mean = g.mean[set];
        double inv = (double)g.inv_std[set], sum = 0, dot = 0, n = (double)per;
        for (size_t i = threadIdx.x % KERN_WARP; i < per; i += KERN_WARP) {
            size_t spot = i / width, c = first + (i - spot * width);
            size_t at = base + spot * q.channels + c;
            float slope = slope_at(g, at);
            double w = g.scale != nullptr ? (double)g.scale[c] : 1;
            sum += w * (double)slope;
            dot += w * (double)(slope * (g.x[at] - mean)) * inv;
        }
        sum = warp_sum(sum) / n;
        dot = warp_sum(dot) / n;
        for (size_t i = threadIdx.x % KERN_WARP; i < per; i += KERN_WARP) {
            size_t spot = i / width, c = first + (i - spot * width);
            size_t at = base + spot * q.channels + c;
            dx[at] = dx_at(g, at, g.scale != nullptr ? g.scale[c] : 1, mean, inv, sum, dot);
        }
    }
}

int kern_cu_norm_grad(float *dx, float *dscale, float *dbias, const float *dy, const float *x,
                      const float *y, const float *scale, const float *mean, const float *inv_std,
                      const struct kern_cu_sets *norm, double *part, cudaStream_t stream) {
    struct slopes g = {dy,           x,          norm->relu ? y : nullptr, scale, mean, inv_std,
                       norm->groups, norm->spots};
    bool rows = by_rows(norm), params = dscale != nullptr || dbias != nullptr;
    struct columns q = rows ? flat_columns(norm) : norm_columns(norm);
    double *terms = part + sums_of(&q);
    int st = 0;
    if (params || !rows) {
        st = KERN_LAUNCH(norm_grad_sums_kernel, columns_grid(&q), KERN_BLOCK, stream, part, g, q);
    }
    if (st == 0 && params) {
        st = KERN_LAUNCH(norm_params_kernel, kern_grid(q.channels, KERN_BLOCK, KERN_GRID_MAX),
                         KERN_BLOCK, stream, dscale, dbias, part, q);
    }
    if (st != 0 || dx == nullptr) {
        return st;
    }
    if (rows) {
        return KERN_LAUNCH(norm_rows_grad_kernel, sets_grid(norm), KERN_BLOCK, stream, dx, g,
                           *norm);
    }
    st = KERN_LAUNCH(norm_terms_kernel, sets_grid(norm), KERN_BLOCK, stream, terms, part, scale, q,
                     norm->groups);
    return st != 0
               ? st
               : KERN_LAUNCH(norm_dx_kernel, columns_grid(&q), KERN_BLOCK, stream, dx, g, terms, q);
}
