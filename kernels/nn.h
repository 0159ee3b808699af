/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations of deep networks, on the devices and arrays of kern.h and under its rules.
 *
 * Images (of 1 to 3 spatial dimensions) lie channels-last: [batch][s...][channels]. One layout
 * everywhere: it is the one in which a normalisation reads its channels side by side and a matrix
 * product its patches, and in which oneDNN has a real implementation of every pass. Weights lie as
 * ONNX has them.
 *
 * What oneDNN's own blocked order gains was measured on the convolutions of ResNet-18 at 64 pixels
 * (32 rows, oneDNN 2.6 with AVX-512, processor time of one thread, the best of 36): forward 54 ms
 * beside 96 in channels-last, the slopes of images 54 beside 56, of weights 103 beside 105. All of
 * it is the forward pass where images have become 4 x 4 and 2 x 2 with 256 and 512 channels;
 * elsewhere neither order wins by more than a tenth. So the CPU reorders images around the passes
 * where it pays (cpu/conv_dnnl.c), a training step of that network taking 0.82 of the time, and
 * every other operation knows one order.
 *
 * Everything here gives the same bits for every number of CPU threads, but for the convolutions,
 * which promise them for one number of threads only.
 *
 * A backend may have none of these: then they return KERN_ENODEV and say so.
 */
#ifndef CONSILIUM_KERN_NN_H
#define CONSILIUM_KERN_NN_H

#include "kernels/kern.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KERN_SPATIAL_MAX 3
#define KERN_RANK_MAX 8

/* True where the device has the operations of this header. */
bool kern_has_nn(const struct kern_device *dev);

/* ---- windows ----------------------------------------------------------------------------------
 */

/*
 * How a window goes over an image: output o of a dimension sees the inputs o * stride - pad + k *
 * dilation, 0 <= k < kernel, those outside [0, in) left out. Unused dimensions are not read.
 */
struct kern_window {
    unsigned spatial; /* 1 to 3 */
    size_t in[KERN_SPATIAL_MAX], out[KERN_SPATIAL_MAX];
    size_t kernel[KERN_SPATIAL_MAX], stride[KERN_SPATIAL_MAX], dilation[KERN_SPATIAL_MAX];
    size_t pad[KERN_SPATIAL_MAX];
};

/*
 * A convolution of one shape, prepared. x is [batch][in...][in_channels], y
 * [batch][out...][out_channels], w [out_channels][in_channels / groups][kernel...].
 *
 * A transposed one is the gradient of the convolution that `window` describes: it reads an image
 * of window.out and makes one of window.in, w is [in_channels][out_channels / groups][kernel...].
 */
struct kern_conv_shape {
    size_t batch, in_channels, out_channels, groups;
    struct kern_window window;
    bool transposed;
};
struct kern_conv;
enum kern_status kern_conv_new(struct kern_device *dev, const struct kern_conv_shape *shape,
                               struct kern_conv **out);
void kern_conv_free(struct kern_conv *conv); /* before its device is closed; NULL is fine */
/* "dnnl jit:avx2", "own": what computes the forward pass, for benches and messages. */
const char *kern_conv_how(const struct kern_conv *conv);
/* b.buf may be NULL. */
enum kern_status kern_conv_forward(struct kern_conv *conv, struct kern_vec y, struct kern_vec x,
                                   struct kern_vec w, struct kern_vec b);
/* dx (+)= the gradient of x: added where `add`. */
enum kern_status kern_conv_grad_x(struct kern_conv *conv, struct kern_vec dx, struct kern_vec dy,
                                  struct kern_vec w, bool add);
/* dw += the gradient of w, db (may have no buffer) += that of b. */
enum kern_status kern_conv_grad_w(struct kern_conv *conv, struct kern_vec dw, struct kern_vec db,
                                  struct kern_vec x, struct kern_vec dy);

/* y = the greatest of each window and index (int32, of y's shape) where among in[0] * in[1] * ...
 * it lies, the first of equals; NaN counts as the greatest. */
enum kern_status kern_max_pool(struct kern_vec y, struct kern_vec index, struct kern_vec x,
                               size_t batch, size_t channels, const struct kern_window *window);
/* dx (+)= dy at those places. */
enum kern_status kern_max_pool_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec index,
                                    size_t batch, size_t channels, const struct kern_window *window,
                                    bool add);
/* The mean of each window: over what lies inside, or over kernel[0] * kernel[1] * ... where
 * count_pad. */
enum kern_status kern_mean_pool(struct kern_vec y, struct kern_vec x, size_t batch, size_t channels,
                                const struct kern_window *window, bool count_pad);
enum kern_status kern_mean_pool_grad(struct kern_vec dx, struct kern_vec dy, size_t batch,
                                     size_t channels, const struct kern_window *window,
                                     bool count_pad, bool add);

/* ---- normalisation ----------------------------------------------------------------------------
 */

/*
 * BatchNorm (Ioffe & Szegedy 2015) over `rows` rows of channels: y = (x - mean) * inv_std * scale +
 * bias, and max(0, y) where relu. mean and inv_std, float[channels], are kept for the gradient.
 * Sums are in double, per part in ascending order. Where run_mean has a buffer, run_mean and
 * run_var (float[channels]) become momentum * themselves + (1 - momentum) * this batch's, the
 * variance with rows - 1, as PyTorch does.
 */
struct kern_batch_norm {
    size_t rows, channels;
    float epsilon, momentum;
    bool relu;
};
enum kern_status kern_batch_norm(struct kern_vec y, struct kern_vec mean, struct kern_vec inv_std,
                                 struct kern_vec run_mean, struct kern_vec run_var,
                                 struct kern_vec x, struct kern_vec scale, struct kern_vec bias,
                                 const struct kern_batch_norm *norm);
/* With given statistics: y = (x - mean) / sqrt(var + epsilon) * scale + bias. y may alias x. */
enum kern_status kern_batch_norm_apply(struct kern_vec y, struct kern_vec x, struct kern_vec scale,
                                       struct kern_vec bias, struct kern_vec mean,
                                       struct kern_vec var, const struct kern_batch_norm *norm);
/* dscale += , dbias += , dx (may have no buffer, may alias dy) = ; y is read where relu only. */
enum kern_status kern_batch_norm_grad(struct kern_vec dx, struct kern_vec dscale,
                                      struct kern_vec dbias, struct kern_vec dy, struct kern_vec x,
                                      struct kern_vec y, struct kern_vec scale,
                                      struct kern_vec mean, struct kern_vec inv_std,
                                      const struct kern_batch_norm *norm);

/*
 * GroupNorm (Wu & He 2018) of x [batch][spots][channels] over spots and channels / groups channels:
 * InstanceNorm with groups = channels, LayerNorm with spots = groups = 1. mean and inv_std are
 * float[batch x groups]; scale and bias float[channels], or without a buffer.
 */
struct kern_group_norm {
    size_t batch, spots, channels, groups;
    float epsilon;
    bool relu;
};
enum kern_status kern_group_norm(struct kern_vec y, struct kern_vec mean, struct kern_vec inv_std,
                                 struct kern_vec x, struct kern_vec scale, struct kern_vec bias,
                                 const struct kern_group_norm *norm);
/* As kern_batch_norm_grad; dscale and dbias may have no buffer. */
enum kern_status kern_group_norm_grad(struct kern_vec dx, struct kern_vec dscale,
                                      struct kern_vec dbias, struct kern_vec dy, struct kern_vec x,
                                      struct kern_vec y, struct kern_vec scale,
                                      struct kern_vec mean, struct kern_vec inv_std,
                                      const struct kern_group_norm *norm);

/* ---- element by element -----------------------------------------------------------------------
 */

enum kern_unary {
    KERN_LEAKY_RELU,   /* x above 0, else alpha x */
    KERN_ELU,          /* x above 0, else alpha (exp(x) - 1) */
    KERN_HARD_SIGMOID, /* alpha x + beta, within 0 and 1 */
    KERN_TANH,
    KERN_GELU,      /* x / 2 (1 + erf(x / sqrt 2)) */
    KERN_GELU_TANH, /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
    KERN_ERF,
    KERN_SOFTPLUS, /* log(1 + exp(x)) */
    KERN_EXP,
    KERN_LOG,
    KERN_SQRT,
    KERN_RECIPROCAL,
    KERN_ABS,
    KERN_CLIP,   /* within alpha and beta */
    KERN_AFFINE, /* alpha x + beta */
    KERN_POW,    /* x to the power of alpha */
    KERN_UNARY_COUNT
};
/* y may alias x. */
enum kern_status kern_unary(enum kern_unary op, struct kern_vec y, struct kern_vec x, size_t n,
                            float alpha, float beta);
/* dx = dy times the derivative at x, where y is the function's value; dx may alias any. At a kink
 * the derivative is PyTorch's. */
enum kern_status kern_unary_grad(enum kern_unary op, struct kern_vec dx, struct kern_vec dy,
                                 struct kern_vec x, struct kern_vec y, size_t n, float alpha,
                                 float beta);

/* Where the elements of an array lie: element (i0, i1, ...) at the view's place + sum of i *
 * stride, in elements. A stride may be 0 (broadcast) or negative in what is read. */
struct kern_nd {
    unsigned rank; /* 0 to KERN_RANK_MAX */
    size_t dims[KERN_RANK_MAX];
};
typedef ptrdiff_t kern_strides[KERN_RANK_MAX];
/* Row-major strides of dims, 0 for dimensions of 1. */
void kern_nd_dense(const struct kern_nd *nd, kern_strides out);

/* y (+)= x over nd. Elements of y must differ from one another. */
enum kern_status kern_nd_copy(struct kern_vec y, const kern_strides ys, struct kern_vec x,
                              const kern_strides xs, const struct kern_nd *nd, bool add);
enum kern_binary { KERN_ADD, KERN_SUB, KERN_MUL, KERN_DIV };
/* y, dense over nd, = a op b. y may alias an operand that is dense too. */
enum kern_status kern_nd_binary(enum kern_binary op, struct kern_vec y, struct kern_vec a,
                                const kern_strides as, struct kern_vec b, const kern_strides bs,
                                const struct kern_nd *nd);
/* y, dense over the dimensions whose bit is not in `axes`, (+)= scale * the sum of x, dense over
 * nd, over those that are: in double, in an order that follows from the sizes alone. */
enum kern_status kern_nd_reduce(struct kern_vec y, struct kern_vec x, const struct kern_nd *nd,
                                unsigned axes, float scale, bool add);

/* ---- along one axis ---------------------------------------------------------------------------
 */

/* y[outer][count][inner] = x[outer][len][inner] at index (int32[count]) of the middle; NaN where it
 * lies outside. */
enum kern_status kern_gather(struct kern_vec y, struct kern_vec x, struct kern_vec index,
                             size_t outer, size_t len, size_t count, size_t inner);
/* dx += dy at those places, in the order of the indices. */
enum kern_status kern_gather_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec index,
                                  size_t outer, size_t len, size_t count, size_t inner);
/* index (int32) = x rounded to the nearest; -1 where that is none. */
enum kern_status kern_to_index(struct kern_vec index, struct kern_vec x, size_t n);
/*
 * y[outer][out][inner] (+)= a sparse matrix times x[outer][in][inner]: row o has the columns
 * from[start[o]] to from[start[o + 1] - 1] (int32, below `in`) with these weights, added in this
 * order. Interpolation, padding and their gradients are such products. taps = start[out].
 */
enum kern_status kern_axis_mix(struct kern_vec y, struct kern_vec x, struct kern_vec start,
                               struct kern_vec from, struct kern_vec weight, size_t outer,
                               size_t in, size_t out, size_t inner, size_t taps, bool add);
/* Over each row, shifted by its maximum: x - log(sum of exp(x)). y may alias x. */
enum kern_status kern_log_softmax(struct kern_vec y, struct kern_vec x, size_t rows, size_t cols);
/* dx = dy - exp(y) * the row's sum of dy. dx may alias either. */
enum kern_status kern_log_softmax_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                       size_t rows, size_t cols);
/*
 * y = x / (1 - ratio) where a generator that depends on seed and place alone keeps it, else 0. The
 * gradient is the same call on dy. 0 <= ratio < 1. y may alias x.
 */
enum kern_status kern_dropout(struct kern_vec y, struct kern_vec x, size_t n, float ratio,
                              uint64_t seed);

/* `count` products as kern_gemm's, of matrices that lie `step` floats apart; a step of 0 reads the
 * same one again (y's is not 0 unless count is 1). */
struct kern_gemm_batch {
    size_t count, step_y, step_a, step_b;
};
enum kern_status kern_gemm_batch(struct kern_vec y, struct kern_vec a, struct kern_vec b, size_t m,
                                 size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                                 float beta, const struct kern_gemm_batch *batch);

#ifdef __cplusplus
}
#endif
#endif
