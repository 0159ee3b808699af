/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A graph made executable on one device: parameters in one contiguous float vector in the graph's
 * order (so that an update is one subtraction), their gradients in another, and one activation and
 * one gradient buffer per node for up to `batch_max` rows, all taken once at the start.
 *
 * Losses are computed on logits, which is stable where the probability is not: a graph that ends in
 * Sigmoid (binary cross-entropy) or Softmax (cross-entropy) is trained on that operator's input,
 * and one that ends without it is taken to give logits already.
 *
 * Threads: a net belongs to its device's thread. Ownership: borrows device and graph, which must
 * outlive it; owns its buffers.
 */
#ifndef CONSILIUM_SPOKE_NET_H
#define CONSILIUM_SPOKE_NET_H

#include "kernels/kern.h"
#include "tier/graph.h"

#define SPOKE_BATCH_MAX (1u << 20)

enum spoke_loss {
    SPOKE_LOSS_BCE, /* binary cross-entropy: one output, classes 0 and 1 */
    SPOKE_LOSS_CE,  /* cross-entropy: one output a class */
};

struct spoke_net;

/*
 * Parameters start as the graph's values. TIER_EMODEL where the graph does not fit the loss,
 * TIER_EARG for a batch of 0 or above SPOKE_BATCH_MAX, TIER_ELIMIT where the device's memory does
 * not hold it, TIER_EDEVICE.
 */
enum tier_status spoke_net_new(struct kern_device *dev, const struct tier_graph *graph,
                               enum spoke_loss loss, size_t batch_max, struct spoke_net **net_out,
                               struct tier_err *err);
void spoke_net_free(struct spoke_net *net);

struct kern_device *spoke_net_device(const struct spoke_net *net);
enum spoke_loss spoke_net_loss(const struct spoke_net *net);
size_t spoke_net_batch_max(const struct spoke_net *net);
size_t spoke_net_features(const struct spoke_net *net);
size_t spoke_net_outputs(const struct spoke_net *net);
size_t spoke_net_elements(const struct spoke_net *net); /* of all parameters */

/* Views of the parameters and of the gradients of the last backward: float[elements]. */
struct kern_vec spoke_net_params(const struct spoke_net *net);
struct kern_vec spoke_net_grads(const struct spoke_net *net);
/* float[elements] from and to host memory. */
enum tier_status spoke_net_set(struct spoke_net *net, const float *values, struct tier_err *err);
enum tier_status spoke_net_get(const struct spoke_net *net, float *values, struct tier_err *err);

/*
 * Runs rows <= batch_max rows of x (float[rows x features] on the device) up to the logits
 * (float[rows x outputs], *logits_out, valid until the next forward; may be NULL).
 */
enum tier_status spoke_net_forward(struct spoke_net *net, struct kern_vec x, size_t rows,
                                   struct kern_vec *logits_out, struct tier_err *err);
/*
 * Forward, loss and backward. `target` is float[rows] of 0 and 1 (BCE) or int32[rows] (CE), on the
 * device; the mean loss over the rows is added to loss[0]; gradients of the mean loss replace the
 * last ones. Gradients of a parameter are summed in the kernels' fixed order.
 */
enum tier_status spoke_net_backward(struct spoke_net *net, struct kern_vec x,
                                    struct kern_vec target, size_t rows, struct kern_vec loss,
                                    struct tier_err *err);
/* Turns a failed kernel call into a status with the device's own words. */
enum tier_status spoke_net_kern_fail(struct kern_device *dev, enum kern_status status,
                                     const char *what, struct tier_err *err);

#endif
