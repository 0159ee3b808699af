/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model on one device: its parameters in one contiguous float vector in the graph's order (so
 * that an update is one subtraction), their gradients in another, and for each batch size that
 * comes along a tape (spoke/tape.h) of what to do.
 *
 * Losses are computed on logits, which is stable where the probability is not: a graph that ends in
 * Sigmoid (binary cross-entropy) or Softmax or LogSoftmax (cross-entropy, Dice) is trained on that
 * operator's input, and one that ends without it is taken to give logits already. Errors of values
 * and Cox's loss take the output as it is. A model whose
 * output has more than two dimensions [N, C, ...] gives a prediction for every spot of an image.
 *
 * Training uses a batch's own statistics in BatchNormalization and moves the running ones, and
 * draws Dropout anew; evaluation does neither, whatever the file says of either.
 *
 * Threads: a net belongs to its device's thread. Ownership: borrows device and graph, which must
 * outlive it; owns its buffers.
 */
#ifndef CONSILIUM_SPOKE_NET_H
#define CONSILIUM_SPOKE_NET_H

#include "kernels/kern.h"
#include "spoke/loss.h"
#include "tier/graph.h"

#define SPOKE_BATCH_MAX (1u << 20)

struct spoke_net;

/*
 * Parameters start as the graph's values. The objective is copied. TIER_EMODEL where the graph does
 * not fit the loss, TIER_EARG for a batch of 0 or above SPOKE_BATCH_MAX, TIER_ELIMIT where the
 * device's memory does not hold it, TIER_EDEVICE.
 */
enum tier_status spoke_net_new_for(struct kern_device *dev, const struct tier_graph *graph,
                                   const struct spoke_objective *objective, size_t batch_max,
                                   struct spoke_net **net_out, struct tier_err *err);
/* The same for a loss without options. */
enum tier_status spoke_net_new(struct kern_device *dev, const struct tier_graph *graph,
                               enum spoke_loss loss, size_t batch_max, struct spoke_net **net_out,
                               struct tier_err *err);
void spoke_net_free(struct spoke_net *net);
/*
 * frozen[the graph's parameters]: those that no step moves from now on; of states it says nothing.
 * Their gradients are not computed where nothing before them is trained either, nor what only they
 * are needed for, and nothing of a net's may be used that was taken before. After an error the net
 * is good for nothing but to be freed: TIER_EMODEL where nothing is left to train.
 */
enum tier_status spoke_net_freeze(struct spoke_net *net, const bool *frozen, struct tier_err *err);

struct kern_device *spoke_net_device(const struct spoke_net *net);
const struct spoke_objective *spoke_net_objective(const struct spoke_net *net);
size_t spoke_net_batch_max(const struct spoke_net *net);
size_t spoke_net_features(const struct spoke_net *net); /* floats of a row */
/* Outputs a row has at each of its spots, and how many spots it has (1, but for images). */
size_t spoke_net_outputs(const struct spoke_net *net);
size_t spoke_net_spots(const struct spoke_net *net);
size_t spoke_net_elements(const struct spoke_net *net); /* of all parameters */
size_t spoke_net_trained(const struct spoke_net *net);  /* of the trained ones, which come first */
/* A stretch of the parameters. */
struct spoke_stretch {
    size_t at, n;
};
/* The trained parameters that are not frozen, in order, at least one stretch; borrowed. */
const struct spoke_stretch *spoke_net_stretches(const struct spoke_net *net, size_t *count_out);
/* Where the random draws of the next backward passes begin. */
void spoke_net_seed(struct spoke_net *net, uint64_t seed);

/*
 * The next backward passes multiply what goes back from the loss by `scale`, a power of two, and
 * divide the gradients by it again: for products that take binary16 (spoke/scaler.h). A gradient
 * that overflowed on the way is not finite. 1, as a net begins: they do neither.
 */
enum tier_status spoke_net_scale(struct spoke_net *net, float scale, struct tier_err *err);

/* Views of the parameters and of the gradients of the last backward: float[elements]. */
struct kern_vec spoke_net_params(const struct spoke_net *net);
struct kern_vec spoke_net_grads(const struct spoke_net *net);
/* float[elements] from and to host memory. */
enum tier_status spoke_net_set(struct spoke_net *net, const float *values, struct tier_err *err);
enum tier_status spoke_net_get(const struct spoke_net *net, float *values, struct tier_err *err);

/*
 * Evaluates rows <= batch_max rows of x (float[rows x features] on the device) up to the logits
 * (float[rows x spots x outputs], *logits_out, valid until the next call; may be NULL).
 */
enum tier_status spoke_net_forward(struct spoke_net *net, struct kern_vec x, size_t rows,
                                   struct kern_vec *logits_out, struct tier_err *err);
/*
 * Forward in training, loss and backward. `target` is what spoke_objective_targets makes, on the
 * device; the loss of the rows, a mean, is added to loss[0]; its gradients replace the last ones.
 * Gradients of a parameter are summed in the kernels' fixed order.
 */
enum tier_status spoke_net_backward(struct spoke_net *net, struct kern_vec x,
                                    struct kern_vec target, size_t rows, struct kern_vec loss,
                                    struct tier_err *err);
/*
 * Per-sample gradients, as DP-SGD wants them (Abadi et al. 2016): each row's gradient g over what
 * is trained and not frozen, of norm |g|, is multiplied by min(1, clip_norm / (|g| + 1e-6)), and
 * the sum of these replaces the last gradients. norms: float[rows] on the device, of each row
 * before it is cut; the mean loss is added to loss[0]. clip_norm > 0 and finite. A row whose norm
 * is not finite adds nothing, and its loss is not in the mean; nor is one that is not finite.
 * Rows' norms and losses are read by the host, in this call alone.
 *
 * Up to 32 rows go forward and back together (tape_samples.c), as many as take at most twice the
 * memory of a step of batch_max rows, where the graph shows that no operation mixes rows and no
 * parameter is read twice; else each row goes alone, in the time of `rows` steps of a batch of 1.
 * Both give the same up to rounding, with the same random draws; which of them it is depends on the
 * graph, batch_max and `rows` alone. A loss that is weighted over its batch is that of a batch
 * of 1. TIER_EMODEL where a row's gradient depends on the rows beside it: BatchNormalization, by
 * the node's name; Cox's loss.
 */
enum tier_status spoke_net_backward_samples(struct spoke_net *net, struct kern_vec x,
                                            struct kern_vec target, size_t rows, float clip_norm,
                                            struct kern_vec norms, struct kern_vec loss,
                                            struct tier_err *err);
/* From now on rows go together wherever they can, whether it pays or not; or each alone. For
 * whoever compares the two. */
void spoke_net_samples_force(struct spoke_net *net, bool together);
/* How many rows the last call could take together; 1 where each went alone, 0 before the first. */
size_t spoke_net_samples_at_once(const struct spoke_net *net);
/* Turns a failed kernel call into a status with the device's own words. */
enum tier_status spoke_net_kern_fail(struct kern_device *dev, enum kern_status status,
                                     const char *what, struct tier_err *err);

#endif
