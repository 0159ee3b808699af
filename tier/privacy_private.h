/* SPDX-License-Identifier: Apache-2.0 */
/* What the accountant's files share. */
#ifndef CONSILIUM_TIER_PRIVACY_PRIVATE_H
#define CONSILIUM_TIER_PRIVACY_PRIVATE_H

#include "tier/privacy.h"

/* Checked events. epsilon at delta (above 0), and the order that gave it. */
double privacy_rdp(const struct tier_privacy_event *events, size_t count, double delta,
                   double *order_out);

/* The same by concentrated differential privacy. */
void privacy_concentrated(const struct tier_privacy_event *events, size_t count, double delta,
                          struct tier_privacy_bound *out);

/* Between two bounds. `about`: that of privacy_rdp; the bounds lie about `width` of the
 * result apart, wider where the grid would grow too large. */
enum tier_status privacy_tight(const struct tier_privacy_event *events, size_t count, double delta,
                               double about, double width, double *upper_out, double *lower_out,
                               struct tier_err *err);

#endif
