/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounding towards zero makes every |q| at most |x * 2^f|, so that the norm of whole numbers cannot
 * pass that of the numbers they came from; what is left is the rounding of the norm itself and of
 * the factor, which the exact sum of squares finds, and a smaller factor mends. So no second bound,
 * with the number of elements in it, is needed.
 */
#include "tier/site.h"

#include "tier/bytes.h"
#include "tier/segment.h"
#include "tier/spool.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 wide;

bool tier_site_on(const struct tier_plan *plan) {
    return plan->site.clip > 0;
}

bool tier_site_at_spokes(const struct tier_plan *plan) {
    return tier_site_on(plan) && plan->site.at == TIER_PLAN_AT_SPOKES;
}

bool tier_site_adapts(const struct tier_plan *plan) {
    return tier_site_on(plan) && plan->site.adapt.quantile > 0;
}

/* ---- what it costs --------------------------------------------------------------------------- */

struct tier_privacy_event tier_site_event(const struct tier_plan *plan, uint64_t rounds) {
    double noise = plan->site.noise, count = plan->site.adapt.noise;

    if (tier_site_adapts(plan))
        noise = noise * count / sqrt(noise * noise + count * count);
    return (struct tier_privacy_event){.noise = noise, .rate = 1, .count = rounds};
}

static double noisers(const struct tier_plan *plan) {
    return plan->site.at == TIER_PLAN_AT_SPOKES && plan->site.honest > 0 ? (double)plan->site.honest
                                                                         : 1;
}

struct tier_privacy_event tier_site_event_of_parent(const struct tier_plan *plan, uint64_t rounds) {
    struct tier_privacy_event e = tier_site_event(plan, rounds);

    e.noise = tier_site_at_spokes(plan) ? e.noise / sqrt(noisers(plan)) : 0;
    return e;
}

double tier_site_tau_log10(double variance, uint64_t count) {
    /* The first term, k = 1, is the largest. */
    return count < 2 ? -INFINITY
                     : log10(10 * (double)(count - 1)) - M_PI * M_PI * variance / M_LN10;
}

/* ---- units ----------------------------------------------------------------------------------- */

void tier_site_clip_bounds(const struct tier_plan *plan, double *least_out, double *most_out) {
    double one = ldexp(1, -plan->frac_bits), share = sqrt(noisers(plan)) / plan->site.noise;
    double most = sqrt((double)TIER_NOISE_VARIANCE_MAX) * share;
    double least = sqrt((double)TIER_SITE_VARIANCE_MIN) * share;

    /* Not to the last bit: a variance is rounded up, and units are rounded down. */
    *most_out = fmin(most * (1 - 1e-9), (double)TIER_SITE_UNITS_MAX) * one;
    *least_out = (fmax(least * (1 + 1e-9), 1) + 1) * one;
}

enum tier_status tier_site_clip_of(const struct tier_plan *plan, const struct tier_model *base,
                                   double *clip_out, struct tier_err *err) {
    const char *text = tier_model_metadata(base, TIER_SITE_CLIP);
    double least, most, clip = plan->site.clip;
    char *end = NULL;

    if (tier_site_adapts(plan) && text) {
        clip = *text >= '0' && *text <= '9' ? strtod(text, &end) : NAN;
        if (!end || *end || !isfinite(clip) || !(clip > 0))
            return tier_fail(err, TIER_EMODEL,
                             "the model's metadata give %s as '%.40s': a number above 0 would be "
                             "right",
                             TIER_SITE_CLIP, text);
    }
    tier_site_clip_bounds(plan, &least, &most);
    *clip_out = fmin(fmax(clip, least), most);
    return TIER_OK;
}

uint64_t tier_site_units(const struct tier_plan *plan, double clip) {
    double units = floor(ldexp(clip, plan->frac_bits));

    return units >= (double)TIER_SITE_UNITS_MAX ? TIER_SITE_UNITS_MAX
           : units >= 1                         ? (uint64_t)units
                                                : 1;
}

/* Above the exact value by less than 1: the double product errs by less than that, below 2^52. */
static uint64_t variance_of(double deviation, double count) {
    double v = ceil(deviation * deviation / count * (1 + 4 * 0x1p-52));

    return v >= (double)TIER_NOISE_VARIANCE_MAX ? TIER_NOISE_VARIANCE_MAX
           : v >= 1                             ? (uint64_t)v
                                                : 1;
}

uint64_t tier_site_variance(const struct tier_plan *plan, uint64_t units) {
    return variance_of(plan->site.noise * (double)units, noisers(plan));
}

enum tier_status tier_site_manifest_check(const struct tier_plan *plan,
                                          const struct tier_manifest *m, struct tier_err *err) {
    for (size_t i = 0; tier_site_on(plan) && i < m->count; i++)
        if (m->tensors[i].wide || m->tensors[i].frac_bits != plan->frac_bits)
            return tier_fail(err, TIER_EPLAN,
                             "tensor %s %s, and with privacy.site all have one scale: running "
                             "statistics of BatchNormalization stay at each site with keep, or "
                             "GroupNormalization has none",
                             m->tensors[i].name,
                             m->tensors[i].wide ? "has a second limb" : "has a scale of its own");
    return TIER_OK;
}

/* ---- a site's change ------------------------------------------------------------------------- */

static double norm_of(const float *x, size_t n) {
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum); /* float32's squares are within double's range; of 2^33 of them the sum is */
}

/* Whole numbers of delta * scale, towards zero, and whether their squares add up to at most most.
 */
static bool round_down(const float *delta, size_t n, double scale, uint64_t units, int32_t *q) {
    const wide most = (wide)units * units;
    wide sum = 0;

    for (size_t i = 0; i < n; i++) {
        double y = trunc((double)delta[i] * scale);
        if (!(fabs(y) <= (double)units)) /* alone beyond it */
            return false;
        int64_t whole = (int64_t)y;
        q[i] = (int32_t)whole;
        sum += (wide)(whole * whole); /* below 2^57 each, 2^90 in all */
    }
    return sum <= most;
}

enum tier_status tier_site_cut(const float *delta, size_t n, int frac_bits, uint64_t units,
                               int32_t *q, bool *below_out, struct tier_err *err) {
    double norm = norm_of(delta, n), clip = ldexp((double)units, -frac_bits);
    bool finite = isfinite(norm), below = finite && norm <= clip;

    assert(units >= 1 && units <= TIER_SITE_UNITS_MAX);
    *below_out = below;
    if (!finite) {
        memset(q, 0, n * sizeof *q);
        return TIER_OK;
    }
    double scale = below ? ldexp(1, frac_bits) : (double)units / norm;
    /* A sum of n <= 2^33 squares errs by at most 2^-20 of it, so the second try is good. */
    for (int i = 0; i < 16; i++, scale *= 1 - 0x1p-19)
        if (round_down(delta, n, scale, units, q))
            return TIER_OK;
    return tier_fail(err, TIER_EINTERNAL, "a change of norm %g could not be cut to %g", norm, clip);
}

/* ---- noise ----------------------------------------------------------------------------------- */

enum tier_status tier_site_noise(const struct tier_noise_key *key, uint64_t segment,
                                 uint64_t variance, int64_t *sums, size_t n, struct tier_err *err) {
    struct tier_noise *noise = NULL;

    TIER_TRY(tier_noise_new(key, segment + 1, &noise, err));
    for (size_t i = 0; i < n; i++)
        sums[i] += tier_noise_whole(noise, variance);
    tier_noise_free(noise);
    return TIER_OK;
}

enum tier_status tier_site_count(const struct tier_plan *plan, const struct tier_noise_key *key,
                                 const bool *below, int64_t *out, struct tier_err *err) {
    struct tier_noise *noise = NULL;
    double deviation = plan->site.adapt.noise * (double)TIER_SITE_ONE;

    TIER_TRY(tier_noise_new(key, TIER_SITE_STREAM_METRIC, &noise, err));
    *out = tier_noise_whole(noise, variance_of(deviation, noisers(plan)));
    /* 2^20 and twelve deviations of at most 2^26 are within 2^30. */
    *out = *out > TIER_Q_MAX - TIER_SITE_ONE   ? TIER_Q_MAX - TIER_SITE_ONE
           : *out < TIER_SITE_ONE - TIER_Q_MAX ? TIER_SITE_ONE - TIER_Q_MAX
                                               : *out;
    if (below)
        *out += *below ? TIER_SITE_ONE : -TIER_SITE_ONE;
    tier_noise_free(noise);
    return TIER_OK;
}

enum tier_status tier_site_check(const struct tier_plan *plan, const struct tier_update_header *h,
                                 struct tier_err *err) {
    size_t bins = 0;
    const int64_t *value =
        h->metrics ? tier_metrics_get(h->metrics, TIER_SITE_METRIC, &bins) : NULL;

    if (!value)
        return TIER_OK;
    if (!tier_site_adapts(plan))
        return tier_fail(err, TIER_EUPDATE,
                         "the update has metric %s, and the plan's clip stays as it is",
                         TIER_SITE_METRIC);
    if (bins != 1)
        return tier_fail(err, TIER_EUPDATE, "metric %s has %zu bins; 1 would be right",
                         TIER_SITE_METRIC, bins);
    int64_t most = (int64_t)(h->weight * (uint64_t)TIER_Q_MAX); /* of at most 2^62 */
    if (h->weight > TIER_WEIGHT_TOTAL_MAX || *value < -most || *value > most)
        return tier_fail(err, TIER_EUPDATE,
                         "metric %s is %" PRId64 ", of %" PRIu64
                         " sites; at most 2^30 for each would be right",
                         TIER_SITE_METRIC, *value, h->weight);
    return TIER_OK;
}

/* ---- sealing --------------------------------------------------------------------------------- */

struct seal {
    const struct tier_plan *plan;
    const struct tier_manifest *manifest;
    const struct tier_noise_key *key; /* NULL: the top draws the noise */
    uint64_t variance;
    const int32_t *q;
    int64_t *sums;
    uint8_t *packed, *directory;
    struct tier_spool_writer *writer;
};

static enum tier_status seal_segment(struct seal *s, uint64_t segment, struct tier_err *err) {
    size_t n = tier_manifest_segment(s->manifest, segment, NULL);
    const int32_t *q = s->q + segment * TIER_SEGMENT_ELEMENTS;

    for (size_t i = 0; i < n; i++)
        s->sums[i] = q[i];
    if (s->key)
        TIER_TRY(tier_site_noise(s->key, segment, s->variance, s->sums, n, err));
    for (size_t i = 0; i < n; i++)
        s->sums[i] = s->sums[i] > TIER_Q_MAX    ? TIER_Q_MAX
                     : s->sums[i] < -TIER_Q_MAX ? -TIER_Q_MAX
                                                : s->sums[i];
    size_t bytes = tier_segment_pack(s->sums, n, NULL, 0, s->packed);
    tier_put_u32(s->directory + 4 * segment, (uint32_t)bytes);
    return tier_spool_writer_append(s->writer, s->packed, bytes, err);
}

static enum tier_status seal_all(struct seal *s, struct tier_spool *spool,
                                 const struct tier_update_header *h, struct tier_hash *id_out,
                                 struct tier_err *err) {
    uint64_t segments = tier_manifest_segments(s->manifest);

    TIER_TRY(tier_spool_writer_begin(spool, h, &s->writer, err));
    for (uint64_t i = 0; i < segments; i++)
        TIER_TRY(seal_segment(s, i, err));
    TIER_TRY(tier_spool_writer_append(s->writer, s->directory, 4 * (size_t)segments, err));
    enum tier_status st = tier_spool_writer_seal(s->writer, 0, id_out, err);
    s->writer = NULL;
    return st;
}

enum tier_status tier_site_seal(struct tier_spool *spool, const struct tier_plan *plan,
                                const struct tier_update_header *tmpl,
                                const struct tier_manifest *manifest, const float *delta,
                                double clip, const struct tier_noise_key *key,
                                struct tier_hash *id_out, struct tier_err *err) {
    uint64_t units = tier_site_units(plan, clip);
    struct seal s = {.plan = plan,
                     .manifest = manifest,
                     .key = tier_site_at_spokes(plan) ? key : NULL,
                     .variance = tier_site_variance(plan, units)};
    struct tier_update_header h = *tmpl;
    size_t n = (size_t)manifest->elements;
    int32_t *q = malloc(n * sizeof *q);
    bool below = false;
    int64_t count;
    enum tier_status st;

    assert(tmpl->weight == 1);
    TIER_TRY_OUT(tier_site_manifest_check(plan, manifest, err));
    s.q = q;
    s.sums = malloc(tier_segment_elements_max(manifest) * sizeof *s.sums);
    s.packed = malloc(tier_segment_bytes_max(manifest));
    s.directory = malloc(4 * (size_t)tier_manifest_segments(manifest));
    if (!q || !s.sums || !s.packed || !s.directory) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to seal an update of %zu elements", n);
        goto out;
    }
    TIER_TRY_OUT(tier_site_cut(delta, n, plan->frac_bits, units, q, &below, err));
    if (tier_site_adapts(plan)) {
        count = below ? TIER_SITE_ONE : -TIER_SITE_ONE;
        if (s.key)
            TIER_TRY_OUT(tier_site_count(plan, s.key, &below, &count, err));
        TIER_TRY_OUT(tier_metrics_add(h.metrics, TIER_SITE_METRIC, 1, &count, err));
    }
    h.manifest = manifest->hash;
    h.encoding = TIER_ENC_SUM;
    h.zipped = false;
    h.saturated = 0;
    st = seal_all(&s, spool, &h, id_out, err);
out:
    tier_spool_writer_abort(s.writer);
    free(q);
    free(s.sums);
    free(s.packed);
    free(s.directory);
    return st;
}

/* ---- the clip that follows ------------------------------------------------------------------- */

/* exp(x) for |x| <= 1, by its series from the far end: + * / alone, so the same everywhere. */
static double exponential(double x) {
    double sum = 1;

    for (int k = 24; k >= 1; k--)
        sum = 1 + sum * x / k;
    return sum;
}

double tier_site_clip_next(const struct tier_plan *plan, double clip, int64_t below,
                           uint64_t sites) {
    double least, most, ones = (double)below / (double)TIER_SITE_ONE;
    double share = (ones / (double)sites + 1) / 2; /* of +-1 each, those that are +1 */
    double off = fmin(fmax(share, 0), 1) - plan->site.adapt.quantile;

    tier_site_clip_bounds(plan, &least, &most);
    return fmin(fmax(clip * exponential(-plan->site.adapt.rate * off), least), most);
}
