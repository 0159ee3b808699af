/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hospital's table means: a YAML file beside the data that names each column, its type and
 * range, how missing values are written, which column is the target and how rows are split into
 * training and test. Everything in a row that the schema does not allow is an error, so that a
 * shifted column or a changed unit stops at the door instead of in the model.
 *
 *   name: heart-disease
 *   file: {delimiter: ",", header: true, missing: "?"}
 *   missing_rows: drop                   # or error
 *   codebook: codebook.yaml              # optional: category lists kept in a file of their own
 *   columns:
 *     - {name: age, type: number, min: 0, max: 120, standardise: true}
 *     - {name: cp, type: category, categories: ["1", "2", "3", "4"], drop_first: true}
 *     - {name: num, type: target, positive_above: 0}     # or categories: [benign, malignant]
 *     - {name: patient, type: id}
 *     - {name: set, type: split}                         # holds train or test
 *   split: {by: hash, key: "a phrase all sites share", fraction: 0.34, fold: 0}   # or by: column
 *
 * Category lists are shared by all sites (the schema itself or the code-book file named in it), so
 * that a value no patient here has still has its feature. A category column is one 0/1 feature a
 * category (`encode: one_hot`, the default; `drop_first` leaves out the first) or its place in the
 * list (`encode: index`). Features stand in column order.
 *
 * `standardise` takes mean and deviation of the training rows here, or, where the column gives
 * `mean` and `std`, those: hospitals whose patients differ lose what sets them apart when each
 * standardises by itself.
 *
 * Threads: a schema is immutable once open. Ownership: it owns its strings.
 */
#ifndef CONSILIUM_SPOKE_SCHEMA_H
#define CONSILIUM_SPOKE_SCHEMA_H

#include "tier/hash.h"

#define SPOKE_SCHEMA_BYTES_MAX (1u << 20)
#define SPOKE_COLUMNS_MAX 4096u
#define SPOKE_CATEGORIES_MAX 1024u
#define SPOKE_FEATURES_MAX 65536u
#define SPOKE_TEXT_LEN_MAX 255u

enum spoke_column_type {
    SPOKE_COLUMN_NUMBER,
    SPOKE_COLUMN_CATEGORY,
    SPOKE_COLUMN_TARGET,
    SPOKE_COLUMN_ID,
    SPOKE_COLUMN_SPLIT,
    SPOKE_COLUMN_IGNORE,
};
enum spoke_encode { SPOKE_ENCODE_ONE_HOT, SPOKE_ENCODE_INDEX };
enum spoke_missing { SPOKE_MISSING_ERROR, SPOKE_MISSING_DROP };
enum spoke_split_by { SPOKE_SPLIT_HASH, SPOKE_SPLIT_COLUMN };

struct spoke_column {
    char *name;
    int line; /* in the schema */
    enum spoke_column_type type;
    enum spoke_encode encode;
    double *min, *max; /* inclusive; NULL: unbounded */
    bool standardise, drop_first;
    double *mean, *std; /* agreed by all sites, both or neither; NULL: of the training rows here */
    char **categories;  /* of a category, or of a target that is not positive_above */
    uint32_t categories_count;
    double *positive_above; /* target: class 1 where the value is greater, else class 0 */
};

struct spoke_file_format {
    char *delimiter; /* one character, or "tab"; NULL: a comma */
    bool *header;    /* NULL: true; without one, columns are taken by position */
    char *missing;   /* NULL: none; an empty cell is always missing */
};

struct spoke_split_rule {
    enum spoke_split_by by;
    char *key;
    double *fraction; /* of rows, to test; in (0, 1) */
    uint32_t fold;
};

struct spoke_schema {
    char *name;
    struct spoke_file_format *file;
    enum spoke_missing missing_rows;
    char *codebook;
    struct spoke_column *columns;
    uint32_t columns_count;
    struct spoke_split_rule *split;
};

/*
 * Reads and checks a schema. TIER_ECONFIG with "path:line: what, and what would be right";
 * TIER_ENOTFOUND or TIER_EIO where the file cannot be read.
 */
enum tier_status spoke_schema_open(const char *path, struct spoke_schema **schema_out,
                                   struct tier_err *err);
void spoke_schema_free(struct spoke_schema *schema);

/* Features a column becomes: 0 for id, split, target and ignore. */
size_t spoke_column_features(const struct spoke_column *column);
size_t spoke_schema_features(const struct spoke_schema *schema);
/* 2 for positive_above, else the number of the target's categories. */
size_t spoke_schema_classes(const struct spoke_schema *schema);
/* "age", "cp=2". The name is cut at `size` - 1 bytes. */
void spoke_schema_feature_name(const struct spoke_schema *schema, size_t feature, char *name,
                               size_t size);
/* The only column of that type, or NULL. */
const struct spoke_column *spoke_schema_only(const struct spoke_schema *schema,
                                             enum spoke_column_type type);
char spoke_schema_delimiter(const struct spoke_schema *schema);

/*
 * SHA-256 over what the model sees: features and how they are made, in order, classes, and the
 * split rule. Two sites with the same hash feed a model alike; delimiters, headers, ranges, missing
 * markers and ignored columns are each site's own business and do not count.
 */
void spoke_schema_hash(const struct spoke_schema *schema, struct tier_hash *hash_out);

#endif
