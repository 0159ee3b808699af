/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Differential privacy of a whole site (a plan's privacy.site): what a run publishes is almost as
 * likely with a site's updates as with updates of nothing but zeros in their place. That the site
 * takes part is no secret.
 *
 * A site cuts its change to the norm `clip`, all tensors together, rounds it to whole numbers q of
 * 2^-f towards zero, and makes sure on these, exactly, that the sum of q^2 is at most units^2,
 * where units = floor(clip * 2^f). Weights are 1, so that is how far the exact sum can move. To it
 * comes discrete Gaussian noise (Canonne, Kamath, Steinke 2020) of deviation noise * units:
 *
 *   noise_at: spokes   each site adds noise of variance (noise * units)^2 / honest_min to q before
 * it seals its update, which is then a sum of one site (TIER_ENC_SUM), and the sum over honest_min
 * sites or more is as good as the whole, behind masks or not: Kairouz, Liu, Steinke 2021 bound what
 * a sum of n discrete Gaussians of variance v differs from one of variance n v by: at each point of
 * each of d elements a factor within exp(+-tau), tau = 10 * sum over k from 1 to n - 1 of exp(-2
 * pi^2 v k / (k + 1)). With the VARIANCE_MIN that is asked for here, tau is below 10^-280000;
 *   noise_at: top      the top adds it to the sum, before anything is made of the sum.
 *
 * Noise is whole numbers, so nothing of the value shows in the low bits. The sums cannot overflow:
 * units is at most 2^28 and one deviation at most 2^26, so that q and twelve deviations are within
 * 2^30. An element further out, once in 10^31, is cut to it.
 *
 * With adapt.quantile the clip follows the norms (Andrew et al. 2021): each site says +1 or -1,
 * below the clip or not, as a metric in units of 2^-20 and with noise as above; the top moves the
 * clip by exp(-rate * (share below - quantile)), and the model that it publishes names the next one
 * in its metadata. So the clip is a function of the run's published past, and is told to everyone.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_SITE_H
#define CONSILIUM_TIER_SITE_H

#include "tier/manifest.h"
#include "tier/metric.h"
#include "tier/model.h"
#include "tier/noise.h"
#include "tier/plan.h"
#include "tier/privacy.h"
#include "tier/update.h"

#define TIER_SITE_METRIC "site.below"        /* sum over sites of +-TIER_SITE_ONE and noise */
#define TIER_SITE_ONE (INT64_C(1) << 20)     /* of the metric: one site */
#define TIER_SITE_CLIP "consilium.site_clip" /* in a model's metadata: of the round from it on */
#define TIER_SITE_UNITS_MAX (UINT64_C(1) << 28)
#define TIER_SITE_VARIANCE_MIN (UINT64_C(1) << 16)
#define TIER_SITE_TAILS 12 /* deviations that have room beside units */

bool tier_site_on(const struct tier_plan *plan);
bool tier_site_at_spokes(const struct tier_plan *plan);
bool tier_site_adapts(const struct tier_plan *plan);

/* What `rounds` rounds, at least 1, cost a site: one mechanism, the count of an adaptive clip in
 * it (two Gaussians of noise a and b are one of (a^-2 + b^-2)^-1/2). */
struct tier_privacy_event tier_site_event(const struct tier_plan *plan, uint64_t rounds);
/* The same against the parent that sees the update itself, with the noise of one site's share; with
 * noise_at: top there is none, and noise is 0. */
struct tier_privacy_event tier_site_event_of_parent(const struct tier_plan *plan, uint64_t rounds);
/* The log to base 10 of the bound tau above; -INFINITY for one noiser, of whom it is 0. */
double tier_site_tau_log10(double variance, uint64_t noisers);

/* Whether all tensors have the plan's scale and one limb, as one norm needs: TIER_EPLAN names one
 * that has not; TIER_OK without privacy.site. */
enum tier_status tier_site_manifest_check(const struct tier_plan *plan,
                                          const struct tier_manifest *manifest,
                                          struct tier_err *err);

/* The least and the greatest clip that the plan's resolution, 2^-frac_bits, has room for with its
 * noise. */
void tier_site_clip_bounds(const struct tier_plan *plan, double *least_out, double *most_out);
/* The clip of the round that starts from that model: the plan's own, or with adapt what the
 * metadata say, within the bounds. TIER_EMODEL where they say no number. */
enum tier_status tier_site_clip_of(const struct tier_plan *plan, const struct tier_model *base,
                                   double *clip_out, struct tier_err *err);
/* floor(clip * 2^f), at most UNITS_MAX. */
uint64_t tier_site_units(const struct tier_plan *plan, double clip);
/* Of who draws noise for elements: at least what the plan asks for, at most one more. */
uint64_t tier_site_variance(const struct tier_plan *plan, uint64_t units);

/*
 * One site's change, delta[n] in manifest order, as whole numbers of a norm of at most `units`,
 * q[n]. A change that is not finite becomes zero, and above the clip: that training diverged is the
 * site's secret, too. *below_out: whether it was within the clip before. TIER_EINTERNAL: never, by
 * the argument in the source.
 */
enum tier_status tier_site_cut(const float *delta, size_t n, int frac_bits, uint64_t units,
                               int32_t *q, bool *below_out, struct tier_err *err);

/* The stream of the metric; that of segment i's elements is i + 1. */
#define TIER_SITE_STREAM_METRIC 0
/* sums[n] of that segment += discrete Gaussian noise of that variance. */
enum tier_status tier_site_noise(const struct tier_noise_key *key, uint64_t segment,
                                 uint64_t variance, int64_t *sums, size_t n, struct tier_err *err);
/* What the metric gets: noise alone, or with `below` one site's +-1, too. */
enum tier_status tier_site_count(const struct tier_plan *plan, const struct tier_noise_key *key,
                                 const bool *below, int64_t *out, struct tier_err *err);

/*
 * Cuts a spoke's change, adds its share of noise, and seals it: an update of TIER_ENC_SUM and
 * weight 1 in `tmpl`, whose metrics get the count where the plan adapts. Where the top draws the
 * noise it is the same without. Borrows all.
 */
enum tier_status tier_site_seal(struct tier_spool *spool, const struct tier_plan *plan,
                                const struct tier_update_header *tmpl,
                                const struct tier_manifest *manifest, const float *delta,
                                double clip, const struct tier_noise_key *key,
                                struct tier_hash *id_out, struct tier_err *err);

/* Whether a child's metric is one that so many sites, as many as it weighs, may have: TIER_EUPDATE.
 * It adds up as elements do, so that no child can make a region's or a round's too large. None may
 * be there where the plan's clip stays. */
enum tier_status tier_site_check(const struct tier_plan *plan, const struct tier_update_header *h,
                                 struct tier_err *err);

/* The clip after a round of so many sites whose metric, noised, is `below`. The same bits on every
 * machine. */
double tier_site_clip_next(const struct tier_plan *plan, double clip, int64_t below,
                           uint64_t sites);

#endif
