/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compute, and nothing else: no network, no files, no protobuf. A backend is one table of
 * operations on one kind of device (several devices together: kernels/group.h); the CPU backend is
 * always there, the CUDA backend is a plugin that is dlopened where a driver is found. Callers take
 * a device, put arrays on it and call kern_*(); every call is checked here once (handles, sizes,
 * aliasing), so that backends need not.
 *
 * Arrays are dense and row-major; `rows x cols` says so. float is IEEE binary32. An operation's
 * arrays lie on one device; an output may overlap no other array unless it says so, and then only
 * as the very same array. Sizes are at least 1. The same call on the same device gives the same
 * bits, on the CPU for every number of threads too.
 *
 * Threads: a device belongs to one thread at a time; different devices may be used by different
 * threads at once. Work on a device is ordered; kern_download and kern_sync wait for it, other
 * calls may return earlier. The kern_fold_*, kern_mean, kern_server_* functions, those of robust
 * merges and those of compression take host memory, no device, and may be called by any thread at
 * any time.
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
    KERN_EGROUP,  /* a rank of the group aborted or left (kernels/group.h): close the group */
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
/*
 * What matrix products, convolutions among them, may round. With KERN_EXACT, as a device is opened:
 * sums only. With KERN_TF32 the numbers that are multiplied too, to TF32's 10 bits after the point;
 * a device that has no such unit computes as with KERN_EXACT. With KERN_BF16 and KERN_F16 they are
 * rounded to bfloat16 and to binary16 (to nearest, ties to even, infinite from 65520 on), on every
 * device, and sums stay in float32: the CPU rounds the same numbers in the same way, and is no
 * faster by it. A convolution of several groups of one input channel is no product: it never
 * rounds. KERN_ENODEV for KERN_BF16 on a GPU older than Ampere. Holds for what is begun from then
 * on.
 */
enum kern_products { KERN_EXACT, KERN_TF32, KERN_BF16, KERN_F16 };
enum kern_status kern_device_products(struct kern_device *dev, enum kern_products products);

/*
 * Memory of a device that arrays take: now, and the most since it was opened. A GPU's includes
 * scratch; it comes from a pool that keeps what is freed, so that a training whose arrays are there
 * takes nothing of the driver.
 */
struct kern_memory {
    uint64_t bytes, bytes_most;
};
enum kern_status kern_device_memory(struct kern_device *dev, struct kern_memory *out);

/* Zeroed. `bytes` > 0. */
enum kern_status kern_buf_new(struct kern_device *dev, size_t bytes, struct kern_buf **out);
void kern_buf_free(struct kern_buf *buf);
size_t kern_buf_bytes(const struct kern_buf *buf);
enum kern_status kern_upload(struct kern_buf *dst, size_t offset, const void *src, size_t bytes);
/*
 * Host memory that uploads can start from: pinned where the device is a GPU. kern_upload_start
 * returns before it has read src, which must stay as it is until the next kern_sync.
 */
enum kern_status kern_host_new(struct kern_device *dev, size_t bytes, void **out);
void kern_host_free(struct kern_device *dev, void *p); /* waits for the device; NULL is fine */
enum kern_status kern_upload_start(struct kern_buf *dst, size_t offset, const void *src,
                                   size_t bytes);
/*
 * The same beside the work: the copy is made while the device computes what it was told before, and
 * what it is told afterwards finds it made. src stays as it is until the next kern_upload_wait,
 * which waits for the copies, not for the work.
 */
enum kern_status kern_upload_beside(struct kern_buf *dst, size_t offset, const void *src,
                                    size_t bytes);
enum kern_status kern_upload_wait(struct kern_device *dev);
enum kern_status kern_download(void *dst, const struct kern_buf *src, size_t offset, size_t bytes);
enum kern_status kern_copy(struct kern_buf *dst, size_t dst_offset, const struct kern_buf *src,
                           size_t src_offset, size_t bytes);
enum kern_status kern_zero(struct kern_buf *buf, size_t offset, size_t bytes);
enum kern_status kern_sync(struct kern_device *dev);

/*
 * Recordings. Between kern_record_begin and kern_record_end operations are noted and not done;
 * kern_replay does them, with the same arrays and numbers and to the same bits as if they were
 * called, in one launch; the seed of every kern_dropout is xored with `turn` first. Meanwhile
 * nothing may be uploaded, downloaded, waited for, allocated or freed, and no group used
 * (KERN_EARG, but for kern_buf_free, which may not be called). Whatever fails in between,
 * kern_record_end must be called, and says KERN_EARG: the device is as it was before, and the
 * operations can be called instead. Scratch that an operation would have to take fails so: what is
 * to be recorded is done once before.
 *
 * A recording holds until memory of the device is given back, by kern_buf_free or for larger
 * scratch, or kern_device_products says something else; it must not be replayed then, and be freed
 * before its device is closed.
 */
struct kern_recording;
/* False for the CPU, and where recordings are switched off; on, as a device is opened. */
bool kern_device_records(const struct kern_device *dev);
void kern_device_recordings(struct kern_device *dev, bool on);
enum kern_status kern_record_begin(struct kern_device *dev);
enum kern_status kern_record_end(struct kern_device *dev, struct kern_recording **out);
bool kern_recording_holds(const struct kern_recording *recording);
enum kern_status kern_replay(const struct kern_recording *recording, uint64_t turn);
void kern_recording_free(struct kern_recording *recording); /* NULL is fine */

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
/* y = alpha * y. */
enum kern_status kern_scale(struct kern_vec y, size_t n, float alpha);
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
/* g += mu * a * (w - c), element by element: the gradient of mu/2 sum of a (w - c)^2, a proximal
 * term that is as stiff as a says (EWC: Kirkpatrick et al. 2017; FedCurv: Shoham et al. 2019). mu
 * >= 0; what a holds is the caller's to check. */
enum kern_status kern_stiff_grad(struct kern_vec g, struct kern_vec w, struct kern_vec c,
                                 struct kern_vec a, size_t n, float mu);
/* y += x * x, element by element: a row's gradient into the diagonal of the Fisher information. */
enum kern_status kern_add_square(struct kern_vec y, struct kern_vec x, size_t n);
/* y = alpha * x + beta * y, element by element; y is not read where beta is 0. */
enum kern_status kern_axpby(struct kern_vec y, struct kern_vec x, size_t n, float alpha,
                            float beta);
/* sum[0] += the sum of x * x, in an order that follows from n alone. */
enum kern_status kern_square_sum(struct kern_vec sum, struct kern_vec x, size_t n);
/*
 * g *= max_norm / (norm + 1e-6) where that is below 1, and else nothing changes: norm is the root
 * of squares[0] (Pascanu et al. 2013, as PyTorch has it). 1e-6 and all the rest in float32: a sum
 * of squares that is infinite makes g zero. max_norm > 0 and finite.
 */
enum kern_status kern_clip_norm(struct kern_vec g, struct kern_vec squares, size_t n,
                                float max_norm);
/* g = min(max(g, -most), most); NaN stays NaN. most > 0 and finite. */
enum kern_status kern_clip_value(struct kern_vec g, size_t n, float most);
/* g' = g + weight_decay * w; v = momentum * v + g'; w -= lr * (nesterov ? g' + momentum * v : v).
 * v.buf NULL when momentum is 0. */
struct kern_sgd {
    float lr, momentum, weight_decay;
    bool nesterov;
};
enum kern_status kern_sgd_step(struct kern_vec w, struct kern_vec g, struct kern_vec v, size_t n,
                               const struct kern_sgd *opt);
/* Kingma & Ba 2015, algorithm 1, with eps outside the root; step counts from 1; weight_decay is
 * added to the gradient or, decoupled from it, w is first multiplied by 1 - lr * weight_decay
 * (AdamW: Loshchilov & Hutter 2019, algorithm 2, as PyTorch has it). */
struct kern_adam {
    float lr, beta1, beta2, eps, weight_decay;
    uint64_t step;
    bool decoupled;
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

/* ---- exact fold, on host memory -------------------------------------------------------------*/

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
 * kern_fold_f32 of `count` updates x[k] of weights w[k], several in one pass over acc, so that acc
 * is read and written less often. The refused elements of all are counted together; what is refused
 * adds nothing, and kern_fold_f32 of one at a time says which they are.
 */
uint64_t kern_fold_f32_many(int64_t *acc, const float *const *x, const uint32_t *w, size_t count,
                            size_t n, int frac_bits);
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

/* ---- robust merges, on host memory ---------------------------------------------------------- */

/*
 * Checks n values that are to be merged one by one: returns how many are NaN, infinite or beyond
 * 2^(30 - frac_bits), which is what kern_fold_f32 refuses, and the first in *first_out (may be
 * NULL). -0 becomes 0 in place.
 */
uint64_t kern_accept_f32(float *x, size_t n, int frac_bits, size_t *first_out);
/*
 * out[i] = the mean in double, rounded once, of the values x[0..rows)[i] without the `trim` lowest
 * and the `trim` highest; they are added in ascending order. 2 * trim < rows; (rows - 1) / 2 gives
 * the median. `stride` floats lie between rows. Values as kern_accept_f32 leaves them. work holds
 * KERN_TRIM_WORK(rows) floats. Independent of the order of rows.
 */
#define KERN_TRIM_WORK(rows) (16 * (size_t)(rows))
void kern_trimmed_mean(float *out, const float *x, size_t rows, size_t stride, size_t n,
                       size_t trim, float *work);
/*
 * Row i of out = the mean, in double and rounded once, of all rows but those that far[i *
 * far_count ...] names, ascending: the sum of all minus theirs, divided. Rows are as above;
 * far_count < rows; work holds KERN_MIX_WORK(rows) doubles.
 */
#define KERN_MIX_WORK(rows) (32 * ((size_t)(rows) + 1))
void kern_mix(float *out, const float *x, size_t rows, size_t stride, size_t n, const uint32_t *far,
              size_t far_count, double *work);
/*
 * gram[i * (i + 1) / 2 + j] += the dot product of rows i and j, j <= i, over n elements: eight
 * partial sums in double (element e goes to sum e mod 8, ascending), added as ((0+4)+(2+6)) +
 * ((1+5)+(3+7)). The same bits with every instruction set.
 */
void kern_gram(double *gram, const float *x, size_t rows, size_t stride, size_t n);
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

/* ---- what updates are compressed with, on host memory ---------------------------------------- */

/*
 * binary16 (IEEE 754) of x * 2^shift, rounded to nearest, ties to even, infinite from 65520 on; and
 * back, h * 2^shift in float32, which is exact where it is a normal number. |shift| <= 120. y and x
 * do not overlap, here and below. The same bits on every machine and instruction set.
 */
void kern_f16_encode(uint16_t *y, const float *x, size_t n, int shift);
void kern_f16_decode(float *y, const uint16_t *x, size_t n, int shift);
/* bfloat16: the upper half of a float32, rounded to nearest, ties to even. */
void kern_bf16_encode(uint16_t *y, const float *x, size_t n);
void kern_bf16_decode(float *y, const uint16_t *x, size_t n);

/* Philox4x32-10 (Salmon et al., SC 2011): four random words of a counter and a key. */
void kern_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/*
 * Blocks of KERN_QUANT_BLOCK elements (the last may have fewer) as one float32 scale and signed
 * integers of 8 or 4 bits, |q| <= L = 127 or 7: element = q * scale in float32. Bytes of a block:
 * the scale, little-endian, then q; of 4 bits, element 2i in the lower half of byte i, and zero
 * bits behind the last. The scale is |x|'s largest / L, cut so that L * scale never passes it; 0
 * where it would be below 2^-126, and then all q are 0.
 *
 * Rounding is stochastic, and unbiased but for what float32 division loses: with t = x / scale, q
 * is floor(t), or one more where u < t - floor(t). For element e of block B (counted from `block`
 * on) u is the upper 24 bits, over 2^24, of word e / 64 of Philox4x32-10 of the counter 64 B + e %
 * 64 and the key. x is finite.
 */
#define KERN_QUANT_BLOCK 256u
size_t kern_quant_bytes(size_t n, int bits);
void kern_quant_encode(uint8_t *y, const float *x, size_t n, int bits, uint64_t key,
                       uint64_t block);
/* False for a block that no encoder makes (a scale that is negative, subnormal or not finite, a q
 * beyond L, bits behind the last element); *bad_out is then the block's first element, and y is
 * written up to somewhere in it. */
bool kern_quant_decode(float *y, const uint8_t *x, size_t n, int bits, size_t *bad_out);

/*
 * One bit an element (after Seide et al. 2014) behind a random rotation (Suresh et al. 2017), in
 * blocks as above, the last one filled up with zeros. With D the block's signs, -1 where bit e % 32
 * of word e / 32 of Philox4x32-10 of key 0 and the counters 2 B, 2 B + 1 is set, and H the Hadamard
 * matrix of 256 (Sylvester's order): v = H D x, of which the signs are kept; an element is then
 * scale / 16 * (D H sign(v)). Bytes of a block: the scale, a float32 whose lowest 8 bits are 0, and
 * 32 bytes of bits, element 0 lowest, 1 for v < 0. The scale is the mean of |v| / 16, cut so that
 * no element decodes to beyond |x|'s largest; 0 where it would be below 2^-100, and then all bits
 * are 0. Decoded elements are exact products.
 */
size_t kern_onebit_bytes(size_t n);
void kern_onebit_encode(uint8_t *y, const float *x, size_t n, uint64_t block);
/* False as with kern_quant_decode. */
bool kern_onebit_decode(float *y, const uint8_t *x, size_t n, uint64_t block, size_t *bad_out);

/* The same fold on a device; acc is int64[n], x float[n], refused is uint64[1] on the device, added
 * to; both `at` count 8-byte elements. Same bits and same count as kern_fold_f32. */
enum kern_status kern_fold_f32_dev(struct kern_vec acc, struct kern_vec x, struct kern_vec refused,
                                   size_t n, int frac_bits, uint32_t w);

#ifdef __cplusplus
}
#endif
#endif
