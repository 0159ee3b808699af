/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Element-by-element kernels: one thread an element, grid-strided, each moving its operands once.
 * Arrays are [n] where nothing else is said. Above each kernel: bytes moved and flops, an element;
 * README.md says how flops are counted. The expressions are those of cpu/elementwise.c, operation
 * for operation.
 */
#include "kernels/cuda/launch.cuh"

#include <math.h>

/* 12 bytes: 8 read, 4 written; 1 flop. */
__global__ static void add_kernel(float *y, const float *a, const float *b, size_t n) {
    KERN_EACH(i, n) {
        y[i] = a[i] + b[i];
    }
}

/* 8 bytes, in place; 1 flop. */
__global__ static void scale_kernel(float *y, size_t n, float alpha) {
    KERN_EACH(i, n) {
        y[i] *= alpha;
    }
}

/* 8 bytes; 1 flop, a compare. */
__global__ static void relu_kernel(float *y, const float *x, size_t n) {
    KERN_EACH(i, n) {
        float v = x[i];
        y[i] = v < 0 ? 0 : v; /* NaN is not below 0 and stays */
    }
}

/* 12 bytes: dy, y, dx; 1 flop, a compare. */
__global__ static void relu_grad_kernel(float *dx, const float *dy, const float *y, size_t n) {
    KERN_EACH(i, n) {
        dx[i] = y[i] > 0 ? dy[i] : 0;
    }
}

/* 8 bytes; 29 flops: an exponential, a sum, a division. */
__global__ static void sigmoid_kernel(float *y, const float *x, size_t n) {
    KERN_EACH(i, n) {
        y[i] = 1.0f / (1.0f + expf(-x[i]));
    }
}

/* 12 bytes: dy, y, dx; 3 flops. */
__global__ static void sigmoid_grad_kernel(float *dx, const float *dy, const float *y, size_t n) {
    KERN_EACH(i, n) {
        float v = y[i];
        dx[i] = dy[i] * (v * (1.0f - v));
    }
}

/* y[n / cols][cols], bias[cols] from cache: 8 bytes; 1 flop and a division of the index. */
__global__ static void bias_add_kernel(float *y, const float *bias, size_t n, size_t cols) {
    KERN_EACH(i, n) {
        y[i] += bias[i % cols];
    }
}

/* x[n / cols][cols], mean and inv_std [cols] from cache: 8 bytes; 2 flops and a division of the
 * index. */
__global__ static void standardise_kernel(float *x, const float *mean, const float *inv_std,
                                          size_t n, size_t cols) {
    KERN_EACH(i, n) {
        size_t c = i % cols;
        x[i] = (x[i] - mean[c]) * inv_std[c];
    }
}

/* y[n / cols][cols] from x[x_rows][cols]: 8 bytes, and 4 a row for its index; no flops, a division
 * of the index. */
__global__ static void gather_kernel(float *y, const float *x, const int32_t *index, size_t n,
                                     size_t cols, size_t x_rows) {
    KERN_EACH(i, n) {
        int32_t from = index[i / cols];
        bool fits = from >= 0 && (size_t)from < x_rows;
        y[i] = fits ? x[(size_t)from * cols + i % cols] : NAN;
    }
}

/* 16 bytes: g twice, w, w0; 3 flops. */
__global__ static void prox_kernel(float *g, const float *w, const float *w0, size_t n, float mu) {
    KERN_EACH(i, n) {
        g[i] += mu * (w[i] - w0[i]);
    }
}

/* 20 bytes: g twice, w, c, a; 4 flops. */
__global__ static void stiff_kernel(float *g, const float *w, const float *c, const float *a,
                                    size_t n, float mu) {
    KERN_EACH(i, n) {
        g[i] += mu * a[i] * (w[i] - c[i]);
    }
}

/* 12 bytes: y twice, x; 2 flops. */
__global__ static void add_square_kernel(float *y, const float *x, size_t n) {
    KERN_EACH(i, n) {
        y[i] += x[i] * x[i];
    }
}

/* 12 bytes and 3 flops; where beta is 0, y is not read: 8 and 1. */
__global__ static void axpby_kernel(float *y, const float *x, size_t n, float alpha, float beta) {
    KERN_EACH(i, n) {
        y[i] = beta == 0 ? alpha * x[i] : alpha * x[i] + beta * y[i];
    }
}

/* 8 bytes; 1 flop. Where nothing is to be clipped the gradient is not touched: 4 bytes moved, not
 * 8 n. */
__global__ static void clip_norm_kernel(float *g, const float *squares, size_t n, float max_norm) {
    float factor = max_norm / (sqrtf(squares[0]) + 1e-6f);
    if (!(factor < 1)) {
        return;
    }
    KERN_EACH(i, n) {
        g[i] *= factor;
    }
}

/* 8 bytes, in place; 2 flops, compares. */
__global__ static void clip_value_kernel(float *g, size_t n, float most) {
    KERN_EACH(i, n) {
        float v = g[i];
        g[i] = v > most ? most : v < -most ? -most : v;
    }
}

/* 12 bytes: w twice, g; 4 flops. With momentum 20: v twice; 6 flops, Nesterov 8. */
__global__ static void sgd_kernel(float *w, const float *g, float *v, size_t n,
                                  struct kern_sgd opt) {
    KERN_EACH(i, n) {
        float gi = g[i] + opt.weight_decay * w[i];
        float step = gi;
        if (v != nullptr) {
            float vi = opt.momentum * v[i] + gi;
            v[i] = vi;
            step = opt.nesterov ? gi + opt.momentum * vi : vi;
        }
        w[i] -= opt.lr * step;
    }
}

/* 28 bytes: w, m, v twice, g; 31 flops, a root and a division among them. */
__global__ static void adam_kernel(float *w, const float *g, float *m, float *v, size_t n,
                                   struct kern_adam opt, struct kern_adam_terms terms) {
    float decay = opt.decoupled ? 0 : opt.weight_decay;
    KERN_EACH(i, n) {
        float gi = g[i] + decay * w[i];
        float mi = opt.beta1 * m[i] + (1.0f - opt.beta1) * gi;
        float vi = opt.beta2 * v[i] + (1.0f - opt.beta2) * (gi * gi);
        m[i] = mi;
        v[i] = vi;
        w[i] = terms.keep * w[i] -
               opt.lr * (mi * terms.scale_m) / (sqrtf(vi * terms.scale_v) + opt.eps);
    }
}

static unsigned each_grid(size_t n) {
    return kern_grid(n, KERN_BLOCK, KERN_GRID_MAX);
}

int kern_cu_bias_add(float *y, const float *bias, size_t rows, size_t cols, cudaStream_t stream) {
    size_t n = rows * cols;
    return KERN_LAUNCH(bias_add_kernel, each_grid(n), KERN_BLOCK, stream, y, bias, n, cols);
}

int kern_cu_add(float *y, const float *a, const float *b, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(add_kernel, each_grid(n), KERN_BLOCK, stream, y, a, b, n);
}

int kern_cu_scale(float *y, size_t n, float alpha, cudaStream_t stream) {
    return KERN_LAUNCH(scale_kernel, each_grid(n), KERN_BLOCK, stream, y, n, alpha);
}

int kern_cu_relu(float *y, const float *x, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(relu_kernel, each_grid(n), KERN_BLOCK, stream, y, x, n);
}

int kern_cu_relu_grad(float *dx, const float *dy, const float *y, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(relu_grad_kernel, each_grid(n), KERN_BLOCK, stream, dx, dy, y, n);
}

int kern_cu_sigmoid(float *y, const float *x, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(sigmoid_kernel, each_grid(n), KERN_BLOCK, stream, y, x, n);
}

int kern_cu_sigmoid_grad(float *dx, const float *dy, const float *y, size_t n,
                         cudaStream_t stream) {
    return KERN_LAUNCH(sigmoid_grad_kernel, each_grid(n), KERN_BLOCK, stream, dx, dy, y, n);
}

int kern_cu_standardise(float *x, const float *mean, const float *inv_std, size_t rows, size_t cols,
                        cudaStream_t stream) {
    size_t n = rows * cols;
    return KERN_LAUNCH(standardise_kernel, each_grid(n), KERN_BLOCK, stream, x, mean, inv_std, n,
                       cols);
}

int kern_cu_gather_rows(float *y, const float *x, const int32_t *index, size_t rows, size_t cols,
                        size_t x_rows, cudaStream_t stream) {
    size_t n = rows * cols;
    return KERN_LAUNCH(gather_kernel, each_grid(n), KERN_BLOCK, stream, y, x, index, n, cols,
                       x_rows);
}

int kern_cu_prox_grad(float *g, const float *w, const float *w0, size_t n, float mu,
                      cudaStream_t stream) {
    return KERN_LAUNCH(prox_kernel, each_grid(n), KERN_BLOCK, stream, g, w, w0, n, mu);
}

int kern_cu_stiff_grad(float *g, const float *w, const float *c, const float *a, size_t n, float mu,
                       cudaStream_t stream) {
    return KERN_LAUNCH(stiff_kernel, each_grid(n), KERN_BLOCK, stream, g, w, c, a, n, mu);
}

int kern_cu_add_square(float *y, const float *x, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(add_square_kernel, each_grid(n), KERN_BLOCK, stream, y, x, n);
}

int kern_cu_axpby(float *y, const float *x, size_t n, float alpha, float beta,
                  cudaStream_t stream) {
    return KERN_LAUNCH(axpby_kernel, each_grid(n), KERN_BLOCK, stream, y, x, n, alpha, beta);
}

int kern_cu_clip_norm(float *g, const float *squares, size_t n, float max_norm,
                      cudaStream_t stream) {
    return KERN_LAUNCH(clip_norm_kernel, each_grid(n), KERN_BLOCK, stream, g, squares, n, max_norm);
}

int kern_cu_clip_value(float *g, size_t n, float most, cudaStream_t stream) {
    return KERN_LAUNCH(clip_value_kernel, each_grid(n), KERN_BLOCK, stream, g, n, most);
}

int kern_cu_sgd_step(float *w, const float *g, float *v, size_t n, const struct kern_sgd *opt,
                     cudaStream_t stream) {
    return KERN_LAUNCH(sgd_kernel, each_grid(n), KERN_BLOCK, stream, w, g, v, n, *opt);
}

int kern_cu_adam_step(float *w, const float *g, float *m, float *v, size_t n,
                      const struct kern_adam *opt, cudaStream_t stream) {
    return KERN_LAUNCH(adam_kernel, each_grid(n), KERN_BLOCK, stream, w, g, m, v, n, *opt,
                       kern_adam_terms_of(opt));
}
