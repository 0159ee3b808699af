/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compute, and nothing else: no network, no files, no protobuf. A backend is one table of
 * operations on one kind of device; the CPU backend is always there, the CUDA backend is a plugin
 * that is dlopened where a driver is found. Callers take a device, put arrays on it and call
 * kern_*(); every call is checked here once (handles, sizes, aliasing), so that backends need not.
 *
 * Arrays are dense and row-major; `rows x cols` says so. float is IEEE binary32. An operation's
 * arrays lie on one device; an output may overlap no other array unless it says so, and then only
 * as the very same array. Sizes are at least 1. The same call on the same device gives the same
 * bits, on the CPU for every number of threads too.
 *
 * Threads: a device belongs to one thread at a time; different devices may be used by different
 * threads at once. Work on a device is ordered; kern_download and kern_sync wait for it, other
 * calls may return earlier. The kern_fold_*, kern_mean and kern_server_* functions take host
 * memory, no device, and may be called by any thread at any time.
 *
 * Errors: enum kern_status; kern_device_error() gives the last one of a device in words.
 * After KERN_EDEVICE every call on that device but its close fails in the same way.
 */
#ifndef CONSILIUM_KERN_H
#define CONSILIUM_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kern_status {
    KERN_OK = 0,
    KERN_EARG,    /* a size, handle or value no caller may pass: nothing was done */
    KERN_ENOMEM,  /* device or host memory is exhausted: nothing was done */
    KERN_ENODEV,  /* no such backend or device here */
    KERN_EDEVICE, /* the device or its driver failed: the device must be closed */
};
const char *kern_status_text(enum kern_status status);

/* ---- backends and devices ------------------------------------------------------------------ */

/*
 * Finds the backends: the CPU always, CUDA where libcuda.so.1 and the plugin load. `plugin_dir` may
 * be NULL (beside the executable in ../lib/consilium, then ../lib). Idempotent; call before the
 * first kern_device_open, from one thread.
 */
void kern_init(const char *plugin_dir);
/* "cuda: no NVIDIA driver on this machine (libcuda.so.1: ...)", or "" when it loaded. */
const char *kern_cuda_absent_reason(void);

struct kern_device; /* one device and its ordered queue of work */
struct kern_buf;    /* one array on one device */

/* `spec` is "cpu", "cuda", "cuda:1" or "auto" (cuda:0 where there is one, else the CPU). `threads`
 * is what the CPU backend may use, the caller included; 0 is one for each core. */
enum kern_status kern_device_open(const char *spec, int threads, struct kern_device **out);
void kern_device_close(struct kern_device *dev); /* frees its buffers too; NULL is fine */
const char *kern_device_name(const struct kern_device *dev); /* "cpu", "cuda:0 NVIDIA H200" */
/* The last failure in words, or "". NULL: why this thread's last kern_device_open failed. */
const char *kern_device_error(const struct kern_device *dev);
int kern_cuda_device_count(void);

/* Zeroed. `bytes` > 0. */
enum kern_status kern_buf_new(struct kern_device *dev, size_t bytes, struct kern_buf **out);
void kern_buf_free(struct kern_buf *buf);
size_t kern_buf_bytes(const struct kern_buf *buf);
enum kern_status kern_upload(struct kern_buf *dst, size_t offset, const void *src, size_t bytes);
enum kern_status kern_download(void *dst, const struct kern_buf *src, size_t offset, size_t bytes);
enum kern_status kern_copy(struct kern_buf *dst, size_t dst_offset, const struct kern_buf *src,
                           size_t src_offset, size_t bytes);
enum kern_status kern_zero(struct kern_buf *buf, size_t offset, size_t bytes);
enum kern_status kern_sync(struct kern_device *dev);

/* A view of n floats (or int32) inside a buffer, at an element offset. Passed by value. */
struct kern_vec {
    struct kern_buf *buf;
    size_t at;
};

/* ---- neural network operations ------------------------------------------------------------- */

/* y[m x n] = alpha * op(a) * op(b) + beta * y; op transposes where asked. a is m x k (or k x m), b
 * k x n (or n x k). */
enum kern_status kern_gemm(struct kern_vec y, struct kern_vec a, struct kern_vec b, size_t m,
                           size_t n, size_t k, bool trans_a, bool trans_b, float alpha, float beta);
/* y[rows x cols] += bias[cols], the same row added to every row. */
enum kern_status kern_bias_add(struct kern_vec y, struct kern_vec bias, size_t rows, size_t cols);
/* dbias[cols] += sum over rows of dy, in an order that follows from the sizes alone. */
enum kern_status kern_bias_grad(struct kern_vec dbias, struct kern_vec dy, size_t rows,
                                size_t cols);
/* y = a + b, element by element. y may alias either. */
enum kern_status kern_add(struct kern_vec y, struct kern_vec a, struct kern_vec b, size_t n);
/* y = x where x > 0, 0 below; NaN stays NaN. y may alias x. */
enum kern_status kern_relu(struct kern_vec y, struct kern_vec x, size_t n);
/* dx = dy where y > 0, else 0. dx may alias either. */
enum kern_status kern_relu_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                size_t n);
/* y = 1 / (1 + exp(-x)). y may alias x. */
enum kern_status kern_sigmoid(struct kern_vec y, struct kern_vec x, size_t n);
/* dx = dy * y * (1 - y). dx may alias either. */
enum kern_status kern_sigmoid_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                   size_t n);
/* Over each row, shifted by its maximum. y may alias x. */
enum kern_status kern_softmax(struct kern_vec y, struct kern_vec x, size_t rows, size_t cols);
/* dx = y * (dy - sum_j dy_j y_j) per row. dx may alias either. */
enum kern_status kern_softmax_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                   size_t rows, size_t cols);
/*
 * Binary cross-entropy on logits, z and t (targets 0..1) of n elements: loss[0] += mean of
 * max(z,0) - z t + log(1 + exp(-|z|)); dz = (sigmoid(z) - t) / n. dz.buf may be NULL (loss only);
 * dz may alias z or t.
 */
enum kern_status kern_bce_logits(struct kern_vec loss, struct kern_vec dz, struct kern_vec z,
                                 struct kern_vec t, size_t n);
/*
 * Cross-entropy of softmax(z): label is int32[rows], 0 <= label < cols (checked where uploaded, not
 * here; outside it the row counts nothing). loss[0] += mean over rows; dz = (softmax(z) - onehot) /
 * rows. dz.buf may be NULL (loss only); dz may alias z.
 */
enum kern_status kern_softmax_ce(struct kern_vec loss, struct kern_vec dz, struct kern_vec z,
                                 struct kern_vec label, size_t rows, size_t cols);

/* ---- optimisers ---------------------------------------------------------------------------- */

/* g += mu * (w - w0): the gradient of FedProx's mu/2 ||w - w0||^2 (Li et al. 2020). mu >= 0. */
enum kern_status kern_prox_grad(struct kern_vec g, struct kern_vec w, struct kern_vec w0, size_t n,
                                float mu);
/* g' = g + weight_decay * w; v = momentum * v + g'; w -= lr * (nesterov ? g' + momentum * v : v).
 * v.buf NULL when momentum is 0. */
struct kern_sgd {
    float lr, momentum, weight_decay;
    bool nesterov;
};
enum kern_status kern_sgd_step(struct kern_vec w, struct kern_vec g, struct kern_vec v, size_t n,
                               const struct kern_sgd *opt);
/* Kingma & Ba 2015, algorithm 1, with eps outside the root; step counts from 1; weight_decay is
 * added to the gradient. */
struct kern_adam {
    float lr, beta1, beta2, eps, weight_decay;
    uint64_t step;
};
enum kern_status kern_adam_step(struct kern_vec w, struct kern_vec g, struct kern_vec m,
                                struct kern_vec v, size_t n, const struct kern_adam *opt);

/* ---- data ---------------------------------------------------------------------------------- */

/* x[r][c] = (x[r][c] - mean[c]) * inv_std[c]. */
enum kern_status kern_standardise(struct kern_vec x, struct kern_vec mean, struct kern_vec inv_std,
                                  size_t rows, size_t cols);
/* y[i][:] = x[index[i]][:], index int32, every one below x_rows (checked where uploaded; a row of
 * NaN for any other, so that none passes unseen). */
enum kern_status kern_gather_rows(struct kern_vec y, struct kern_vec x, struct kern_vec index,
                                  size_t rows, size_t cols, size_t x_rows);

/* ---- exact fold (DESIGN 2.2), on host memory ------------------------------------------------ */

/*
 * The one arithmetic of the federation: q = round_half_even(x * 2^f), refused unless |q| <= 2^30,
 * then acc += (int64)w * q. Integers from there on, so every backend, order and thread count gives
 * the same bits. x * 2^f is taken in double, where it is exact for every float32.
 * -100 <= frac_bits <= 100, 1 <= w < 2^31: beyond them every element is refused. n may be 0. acc, x
 * need no alignment beyond their type. Rounding is the thread's, which must be to nearest.
 *
 * Return the number of refused elements (NaN, infinite, or beyond the clip); those add nothing.
 * *first_out (may be NULL) is set to the index of the first one when the count is not 0.
 */
uint64_t kern_fold_f32(int64_t *acc, const float *x, size_t n, int frac_bits, uint32_t w,
                       size_t *first_out);
/*
 * Two limbs: q as above into hi, and r = round_half_even((x * 2^f - q) * 2^30) into lo.
 */
uint64_t kern_fold_f32_wide(int64_t *hi, int64_t *lo, const float *x, size_t n, int frac_bits,
                            uint32_t w, size_t *first_out);
/* acc += s, refused unless |s| <= weight * 2^30 (a child's sum of that total weight, 1 <= weight <=
 * 2^32). */
uint64_t kern_fold_i64(int64_t *acc, const int64_t *s, size_t n, uint64_t weight,
                       size_t *first_out);
/*
 * delta[i] = (double)s[i] / (double)weight * 2^-f; y = (float)((double)x + delta). s == NULL is not
 * allowed; lo may be NULL (narrow), else s is ((__int128)hi << 30) + lo at f + 30. Plain IEEE
 * double operations: one result on every machine.
 */
void kern_apply_mean(float *y, const float *x, const int64_t *hi, const int64_t *lo, size_t n,
                     int frac_bits, uint64_t weight);

/* The mean alone: delta[i] as above, before it is added. */
void kern_mean(double *delta, const int64_t *hi, const int64_t *lo, size_t n, int frac_bits,
               uint64_t weight);

/* ---- optimisers at the root, on host memory -------------------------------------------------- */

/*
 * What the root makes of the mean delta d of a round (Hsu, Qi and Brown 2019; Reddi et al. 2021,
 * algorithm 2, without bias correction), element by element in IEEE double, in this order:
 *
 *   momentum   m = momentum * m + d;  y = x + lr * m
 *   the others m = beta1 * m + (1 - beta1) * d
 *   adagrad    v = v + d * d
 *   adam       v = beta2 * v + (1 - beta2) * (d * d)
 *   yogi       v = v - (1 - beta2) * (d * d) * sign(v - d * d)
 *              y = x + lr * m / (sqrt(v) + tau)
 *
 * and y is rounded to float32 once. The same bits on every machine and instruction set.
 */
enum kern_server_kind {
    KERN_SERVER_MOMENTUM,
    KERN_SERVER_ADAGRAD,
    KERN_SERVER_ADAM,
    KERN_SERVER_YOGI,
};
struct kern_server {
    enum kern_server_kind kind;
    double lr, momentum, beta1, beta2, tau; /* what the kind does not have is not read */
};
/* Momentum keeps m alone. */
bool kern_server_has_v(enum kern_server_kind kind);
/* What a run begins with: m = 0, v = tau^2 (the least that algorithm 2 allows). */
void kern_server_begin(double *m, double *v, size_t n, const struct kern_server *opt);
/* Advances m and v in place; v may be NULL for momentum. No array overlaps another. */
void kern_server_step(float *y, const float *x, const double *delta, double *m, double *v, size_t n,
                      const struct kern_server *opt);

/* The same fold on a device; acc is int64[n], x float[n], refused is uint64[1] on the device, added
 * to; both `at` count 8-byte elements. Same bits and same count as kern_fold_f32. */
enum kern_status kern_fold_f32_dev(struct kern_vec acc, struct kern_vec x, struct kern_vec refused,
                                   size_t n, int frac_bits, uint32_t w);

/* ---- several devices ----------------------------------------------------------------------- */

/*
 * Sums int64[n] across devices of one backend, in place, so that each holds the total: NCCL on CUDA
 * devices, a plain loop on the CPU. Same bits in any order. 1 to 64 devices, all different, all
 * belonging to the calling thread for the time of the call.
 */
enum kern_status kern_allreduce_i64(struct kern_vec *parts, size_t count, size_t n);

#ifdef __cplusplus
}
#endif
#endif
