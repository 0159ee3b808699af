/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics that travel with an update: named vectors of int64, one bin or many ("count", "correct",
 * "loss" in fixed point at 2^20, "score_hist_pos" with 4096 bins). They are numerators and
 * denominators, never ratios, so that a region's metrics are the exact sums of its spokes', in any
 * order and any tree. What a name means is for the plan; here it is an integer vector.
 *
 * The encoding is canonical (names ascending, runs of zeros skipped, shortest varints): equal
 * metrics have equal bytes, and bytes that are accepted encode again to themselves.
 *
 * Threads: no shared state; an object belongs to one thread at a time. The caller frees what it
 * gets.
 */
#ifndef CONSILIUM_TIER_METRIC_H
#define CONSILIUM_TIER_METRIC_H

#include "tier/err.h"
#include "tier/limits.h"

#include <stdint.h>

/* The fixed point of real-valued sums such as the loss. */
#define TIER_METRIC_ONE (INT64_C(1) << 20)

struct tier_metrics;

struct tier_metrics *tier_metrics_new(void); /* empty; NULL when out of memory */
void tier_metrics_free(struct tier_metrics *m);

/*
 * Adds values[bins] to the vector of that name, which begins as zeros when it is new. Names are
 * 1..TIER_NAME_LEN_MAX of [A-Za-z0-9_.:/-]. TIER_EARG for an ill-formed name or 0 bins,
 * TIER_ECONFLICT when the name has another number of bins, TIER_ELIMIT when a sum would pass int64,
 * or there would be more than TIER_METRICS_MAX names or TIER_METRIC_BINS_MAX bins in all. On
 * failure nothing has changed.
 */
enum tier_status tier_metrics_add(struct tier_metrics *m, const char *name, size_t bins,
                                  const int64_t *values, struct tier_err *err);
/*
 * Adds every vector of src to dst. A name that only one side has is kept: spokes that only train
 * and spokes that only evaluate meet in one region. Errors as above; on failure dst is unchanged.
 */
enum tier_status tier_metrics_merge(struct tier_metrics *dst, const struct tier_metrics *src,
                                    struct tier_err *err);

/* No bin of that name is above `most` any more. Of numbers of at least 0 that are cut so after each
 * addition, the sum is the same in any grouping. */
void tier_metrics_cut(struct tier_metrics *m, const char *name, int64_t most);

size_t tier_metrics_count(const struct tier_metrics *m);
/* values[*bins_out] of that name, or NULL. Borrowed until m changes. bins_out may be NULL. */
const int64_t *tier_metrics_get(const struct tier_metrics *m, const char *name, size_t *bins_out);
/* The i-th in name order, i < count. */
const int64_t *tier_metrics_at(const struct tier_metrics *m, size_t i, const char **name_out,
                               size_t *bins_out);
/* First bin of that name, or 0 when there is no such name. */
int64_t tier_metrics_scalar(const struct tier_metrics *m, const char *name);

/* m may be NULL (no metrics: zero bytes). *bytes_out is malloc'd, and NULL when *len_out is 0. */
enum tier_status tier_metrics_encode(const struct tier_metrics *m, uint8_t **bytes_out,
                                     size_t *len_out, struct tier_err *err);
/* Canonical bytes only; TIER_EPROTO says what is wrong and at which byte. */
enum tier_status tier_metrics_decode(const uint8_t *bytes, size_t len, struct tier_metrics **out,
                                     struct tier_err *err);

#endif
