/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hospital's table means: a YAML file beside the data that names each column, its type and
 * range, how missing values are written, which column is the target and how rows are split into
 * training and test. Everything in a row that the schema does not allow is an error, so that a
 * shifted column stops at the door instead of in the model. A table's cells do not say their unit:
 * one that changed is found where its values leave `min` and `max`, and one that two hospitals
 * understand differently where both contracts name it (`unit`) and their hashes are compared, as
 * check-data prints them. Nothing is converted.
 *
 *   name: heart-disease
 *   file: {delimiter: ",", header: true, missing: "?"}
 *   missing_rows: drop                   # or error
 *   codebook: codebook.yaml              # optional: category lists kept in a file of their own
 *   columns:
 *     - {name: age, type: number, unit: years, min: 0, max: 120, standardise: true}
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
 * A schema with another `kind` than table is the contract of images or volumes:
 *
 *   kind: npz                            # arrays of numpy: an .npz file, or a folder of .npy files
 *   image: {channels: 1, size: [28, 28], standardise: true}
 *   columns:                             # a column is an array, a row is its i-th element
 *     - {name: images, type: image}
 *     - {name: labels, type: target, categories: [normal, pneumonia]}
 *   split: {by: part, train: "train_", val: "val_", test: "test_"}   # arrays train_images, ...
 *
 * `image` says what the model sees: channels x size, in that order, the fastest axis last. `layout:
 * last` is for arrays that have the channels last. A stored value v becomes v * scale + offset, is
 * refused outside `min` and `max`, and is then either standardised by channel (`standardise`, over
 * the training rows here, or with the `mean` and `std` that all sites agree on) or made a z-score
 * within its image (`z_score: all`, or `nonzero`, where what is 0 is background and stays 0).
 * `modality: MR` is what made the images, as DICOM writes it; of DICOM each image file must say so.
 *
 * For `kind: images` (PNG, JPEG), `kind: nifti` and `kind: dicom` the data is a table again, a row
 * a case: columns of type image, mask, target, id and split, the first two holding paths relative
 * to the table. Of DICOM an image is a file, or the folder of a series, and a mask may be NIfTI.
 * Images are resized to `size`. Volumes are turned to `orientation`, resampled to `spacing` (mm, in
 * the order of `size`) and cropped or padded around their centre, in one interpolation; each
 * channel may first be cut at two of its `percentiles`.
 *
 * For `kind: bids` the data is a folder in that layout, and columns say which files they are:
 *
 *   - {name: t2, type: image, suffix: T2w, entities: acq-iso}
 *   - {name: tumour, type: mask, suffix: seg, derivative: labels, categories: [none, tumour]}
 *   - {name: participant, type: id}
 *   - {name: diagnosis, type: target, categories: [...]}    # of participants.tsv
 *
 * What is learnt is a target, a class (categories, positive_above) or a number (`value: true`), or
 * a column of type mask, which has one of its categories, by place, at each pixel or voxel. For
 * survival the target is the time (`value: true`), and a column of type event says whether it
 * happened then (positive_above, or the second of two categories) or the patient was last seen.
 * With `annotators: majority` several columns of type target, or of type mask, are several
 * readers', and what most of them say is learnt; with `annotators: soft` the share of them that
 * says each class.
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
#define SPOKE_UNIT_LEN_MAX 64u
#define SPOKE_MODALITY_LEN_MAX 16u /* a DICOM code string */
#define SPOKE_CHANNELS_MAX 64u
#define SPOKE_AXES_MAX 3u
#define SPOKE_SIDE_MAX 65535u               /* of an image, in pixels or voxels */
#define SPOKE_IMAGE_ELEMENTS_MAX (1u << 27) /* channels x size: half a GB of float */

enum spoke_kind {
    SPOKE_KIND_TABLE,
    SPOKE_KIND_NPZ,
    SPOKE_KIND_IMAGES,
    SPOKE_KIND_NIFTI,
    SPOKE_KIND_DICOM,
    SPOKE_KIND_BIDS
};
enum spoke_layout { SPOKE_LAYOUT_FIRST, SPOKE_LAYOUT_LAST };
enum spoke_z_score { SPOKE_Z_SCORE_NONE, SPOKE_Z_SCORE_ALL, SPOKE_Z_SCORE_NONZERO };

enum spoke_column_type {
    SPOKE_COLUMN_NUMBER,
    SPOKE_COLUMN_CATEGORY,
    SPOKE_COLUMN_TARGET,
    SPOKE_COLUMN_ID,
    SPOKE_COLUMN_SPLIT,
    SPOKE_COLUMN_IGNORE,
    SPOKE_COLUMN_IMAGE,
    SPOKE_COLUMN_MASK,
    SPOKE_COLUMN_EVENT,
    SPOKE_COLUMN_TYPES
};
enum spoke_encode { SPOKE_ENCODE_ONE_HOT, SPOKE_ENCODE_INDEX };
/* What becomes of several columns that say the same of a row, each a reader's. */
enum spoke_annotators { SPOKE_ANNOTATORS_ONE, SPOKE_ANNOTATORS_MAJORITY, SPOKE_ANNOTATORS_SOFT };
enum spoke_missing { SPOKE_MISSING_ERROR, SPOKE_MISSING_DROP };
enum spoke_split_by { SPOKE_SPLIT_HASH, SPOKE_SPLIT_COLUMN, SPOKE_SPLIT_PART };

struct spoke_column {
    char *name;
    int line; /* in the schema */
    enum spoke_column_type type;
    enum spoke_encode encode;
    char *unit;        /* of a number, or of a target with value; NULL: the contract is silent */
    double *min, *max; /* inclusive; NULL: unbounded */
    bool standardise, drop_first;
    double *mean, *std; /* agreed by all sites, both or neither; NULL: of the training rows here */
    char **categories;  /* of a category, or of a target that is not positive_above */
    uint32_t categories_count;
    double *positive_above; /* target, event: class 1 where the value is greater, else class 0 */
    bool value;             /* target: the number itself (regression) */
    /* Of kind: bids, images and masks: which file it is, by suffix (T1w), entities ("run-1"; NULL:
     * any), data type (NULL: anat) and the pipeline of derivatives/ (NULL: the raw data). */
    char *suffix, *entities, *datatype, *derivative;
};

struct spoke_file_format {
    char *delimiter; /* one character, or "tab"; NULL: a comma */
    bool *header;    /* NULL: true; without one, columns are taken by position */
    char *missing;   /* NULL: none; an empty cell is always missing */
};

struct spoke_split_rule {
    enum spoke_split_by by;
    char *key;
    double *fraction;     /* of rows, to test; in (0, 1) */
    double *val_fraction; /* of rows, to validation; NULL: none */
    uint32_t fold;
    char *train, *val, *test; /* by part: what the names of each part's arrays begin with */
};

/* A few numbers of a list: [28, 28]. */
struct spoke_reals {
    double at[SPOKE_CHANNELS_MAX];
    uint32_t count;
};

struct spoke_image {
    uint32_t channels;       /* 0 in the file's absence: 1 */
    struct spoke_reals size; /* whole numbers: H, W or D, H, W; or one length */
    enum spoke_layout layout;
    char *modality;                 /* "MR"; NULL: any */
    char *orientation;              /* "RAS": towards where x, y and z go; NULL: as stored */
    struct spoke_reals spacing;     /* mm, one a side, or empty: as stored */
    struct spoke_reals percentiles; /* low and high, or empty */
    double *scale, *offset;         /* NULL: 1 and 0 */
    double *min, *max;              /* inclusive, after scale and offset; NULL: unbounded */
    enum spoke_z_score z_score;
    bool standardise;
    struct spoke_reals mean, std; /* a channel each, or empty: of the training rows here */
};

struct spoke_schema {
    char *name;
    enum spoke_kind kind;
    struct spoke_image *image; /* NULL for a table */
    struct spoke_file_format *file;
    enum spoke_missing missing_rows;
    enum spoke_annotators annotators;
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

/* Features a column becomes: 0 for all but numbers and categories. */
size_t spoke_column_features(const struct spoke_column *column);
/* Of a table its columns'; of images channels x size. */
size_t spoke_schema_features(const struct spoke_schema *schema);
/* Pixels or voxels of one channel; 1 for a table. */
size_t spoke_schema_spatial(const struct spoke_schema *schema);
/* What is learnt: the column of type target or mask. */
const struct spoke_column *spoke_schema_target(const struct spoke_schema *schema);
/* How many columns say what is learnt, each a reader's: 1, or more with annotators: majority
 * or soft. */
size_t spoke_schema_readers(const struct spoke_schema *schema);
/* "ill", of a target or mask; "above" and "not above" of positive_above. */
const char *spoke_schema_class_name(const struct spoke_schema *schema, size_t class);
/* 2 for positive_above, else the number of categories of the target or mask; 0 for a value. */
size_t spoke_schema_classes(const struct spoke_schema *schema);
/* "age", "cp=2"; "element 17" of an image. The name is cut at `size` - 1 bytes. */
void spoke_schema_feature_name(const struct spoke_schema *schema, size_t feature, char *name,
                               size_t size);
/* The only column of that type, or NULL. */
const struct spoke_column *spoke_schema_only(const struct spoke_schema *schema,
                                             enum spoke_column_type type);
char spoke_schema_delimiter(const struct spoke_schema *schema);

/*
 * SHA-256 over what the model sees: features and how they are made, in order, classes, and the
 * split rule, and the units and the modality that the contract names: without them the hash is what
 * it was before they could be named. Two sites with the same hash feed a model alike; delimiters,
 * headers, ranges, missing markers and ignored columns are each site's own business and do not
 * count.
 */
void spoke_schema_hash(const struct spoke_schema *schema, struct tier_hash *hash_out);

#endif
