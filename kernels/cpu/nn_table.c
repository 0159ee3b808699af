/* SPDX-License-Identifier: Apache-2.0 */
/* The table of one compilation of the deep-network operations. */
#include "kernels/cpu/nn.h"

extern const struct kern_nn_ops NN(table);
const struct kern_nn_ops NN(table) = {
    .conv_new = kern_cpu_conv_new,
    .conv_free = kern_cpu_conv_free,
    .conv_how = kern_cpu_conv_how,
    .conv_forward = kern_cpu_conv_forward,
    .conv_grad_x = kern_cpu_conv_grad_x,
    .conv_grad_w = kern_cpu_conv_grad_w,
    .max_pool = NN(max_pool),
    .max_pool_grad = NN(max_pool_grad),
    .mean_pool = NN(mean_pool),
    .mean_pool_grad = NN(mean_pool_grad),
    .batch_norm = NN(batch_norm),
    .batch_norm_apply = NN(batch_norm_apply),
    .batch_norm_grad = NN(batch_norm_grad),
    .group_norm = NN(group_norm),
    .group_norm_grad = NN(group_norm_grad),
    .unary = NN(unary),
    .unary_grad = NN(unary_grad),
    .nd_copy = NN(nd_copy),
    .nd_binary = NN(nd_binary),
    .nd_reduce = NN(nd_reduce),
    .gather = NN(gather),
    .gather_grad = NN(gather_grad),
    .to_index = NN(to_index),
    .axis_mix = NN(axis_mix),
    .log_softmax = NN(log_softmax),
    .log_softmax_grad = NN(log_softmax_grad),
    .dropout = NN(dropout),
    .gemm_batch = kern_cpu_gemm_batch,
};
