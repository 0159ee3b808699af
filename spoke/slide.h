/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model slid over images larger than its input: every window's logits, blended to those of the
 * whole image. A spot's logits are the mean over the windows that it lies in, weighted by a
 * Gaussian around each window's centre with a deviation of an eighth of its side (as nnU-Net:
 * Isensee et al. 2021), for a network knows least at its edges. Windows are summed in their order,
 * in float.
 *
 * Threads: the net's. Ownership: borrows the net, which must outlive it.
 */
#ifndef CONSILIUM_SPOKE_SLIDE_H
#define CONSILIUM_SPOKE_SLIDE_H

#include "spoke/net.h"

struct spoke_slide;

/* The net takes windows of the patch, as many at once as its batch allows, and gives a prediction
 * for every spot of one: TIER_EDATA unless. TIER_ENOMEM, TIER_EDEVICE. */
enum tier_status spoke_slide_new(struct spoke_net *net, const struct spoke_patch *patch,
                                 const struct spoke_shape *shape, struct spoke_slide **slide_out,
                                 struct tier_err *err);
void spoke_slide_free(struct spoke_slide *slide);
/* x float[channels x sides] of one image to logits float[sides x outputs], both on the host.
 * TIER_EMODEL where one is not finite. */
enum tier_status spoke_slide_row(struct spoke_slide *slide, const float *x, float *logits,
                                 struct tier_err *err);

#endif
