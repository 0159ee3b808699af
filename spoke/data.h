/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hospital's table as a model sees it: features as float, standardised, and classes, split into
 * training and test rows. Read once from a CSV file under a schema (spoke/schema.h), whole, into
 * memory, and immutable from then on.
 *
 * The split never depends on the order of rows: it is a column of the file, or a keyed hash of the
 * patient's id, so that all rows of a patient fall on one side, at every hospital that uses the
 * key. `fold` gives further independent splits. Standardisation uses the training rows of this site
 * only (mean, and standard deviation with n - 1, plus 1e-9), the schema's values, or statistics
 * given from outside; a feature that is constant in the training rows is centred and not scaled.
 *
 * Messages name file, line and column and never hold a value out of the file: they may travel.
 *
 * Threads: immutable once open; any number of readers. Ownership: owns all arrays it returns.
 */
#ifndef CONSILIUM_SPOKE_DATA_H
#define CONSILIUM_SPOKE_DATA_H

#include "spoke/schema.h"

#define SPOKE_ROWS_MAX (16u << 20)
#define SPOKE_CELLS_MAX (UINT64_C(1) << 32) /* rows x features kept */

enum spoke_part { SPOKE_TRAIN, SPOKE_TEST };

/* Zeroed: as the schema says, with local statistics. */
struct spoke_data_options {
    bool fold_set;
    uint32_t fold; /* instead of the schema's, for a split by hash */
    bool split_set;
    enum spoke_split_by split; /* instead of the schema's */
    size_t stats_count;        /* features, or 0 */
    const double *mean, *std;  /* double[stats_count] from outside; std >= 0 */
};

struct spoke_data;

/*
 * TIER_ECONFIG for the schema, TIER_EDATA for the table ("heart.csv:12: column 'chol': ..."),
 * TIER_ELIMIT past a bound, TIER_ENOTFOUND or TIER_EIO for the files. `options` may be NULL.
 */
enum tier_status spoke_data_open(const char *schema_path, const char *csv_path,
                                 const struct spoke_data_options *options,
                                 struct spoke_data **data_out, struct tier_err *err);
void spoke_data_free(struct spoke_data *data);

const struct spoke_schema *spoke_data_schema(const struct spoke_data *data);
size_t spoke_data_features(const struct spoke_data *data);
size_t spoke_data_classes(const struct spoke_data *data);
size_t spoke_data_rows(const struct spoke_data *data, enum spoke_part part);
/* Rows left out because a value was missing (missing_rows: drop). */
size_t spoke_data_dropped(const struct spoke_data *data);

/* float[rows x features], row-major; classes as int32[rows]. NULL where there are no rows. */
const float *spoke_data_x(const struct spoke_data *data, enum spoke_part part);
const int32_t *spoke_data_labels(const struct spoke_data *data, enum spoke_part part);

/* The statistics in use, double[features]; 0 and 1 for features that are not standardised. */
const double *spoke_data_mean(const struct spoke_data *data);
const double *spoke_data_std(const struct spoke_data *data);

#endif
