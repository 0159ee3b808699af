/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hospital's data as a model sees it, under a schema (spoke/schema.h): rows of float features and
 * what is to be learnt of each, split into training, test and, where the schema says so, validation
 * rows. A row is a line of a table, read once and held whole, or an image or volume, flat, in
 * ONNX's order (channels, then the axes, the fastest last), which is read when it is asked for.
 *
 * The split never depends on the order of rows: it is a column of the file, or a keyed hash of the
 * patient's id, so that all rows of a patient fall on one side, at every hospital that uses the
 * key. `fold` gives further independent splits. Standardisation uses the training rows of this site
 * only (mean, and standard deviation with n - 1, plus 1e-9), the schema's values, or statistics
 * given from outside; a feature that is constant in the training rows is centred and not scaled.
 *
 * Where the training needs rows in batches, spoke_data_read serves every kind of source. Tables are
 * held in memory, as are images whose float rows take SPOKE_HELD_BYTES_MAX together at most:
 * spoke_data_x has those too. Larger sets of images are never in memory as a whole, and have no
 * spoke_data_x.
 *
 * Messages name file, line and column and never hold a value out of the file: they may travel, but
 * for those of data opened as `named`.
 *
 * Threads: immutable once open; any number of readers, spoke_data_read among them, which blocks on
 * the disk. Ownership: owns all arrays it returns.
 */
#ifndef CONSILIUM_SPOKE_DATA_H
#define CONSILIUM_SPOKE_DATA_H

#include "spoke/grid.h"
#include "spoke/schema.h"
#include "tier/hash.h"

#define SPOKE_ROWS_MAX (16u << 20)
#define SPOKE_CELLS_MAX (UINT64_C(1) << 32)       /* rows x features of a table */
#define SPOKE_HELD_BYTES_MAX (UINT64_C(64) << 20) /* of images held as float, with their masks */

enum spoke_part { SPOKE_TRAIN, SPOKE_TEST, SPOKE_VAL, SPOKE_PARTS };

enum spoke_target_kind {
    SPOKE_TARGET_CLASS,    /* a class for each row */
    SPOKE_TARGET_VALUE,    /* a number for each row */
    SPOKE_TARGET_MASK,     /* a class at each pixel or voxel of a row */
    SPOKE_TARGET_SURVIVAL, /* a time for each row, and whether the event was then */
};

/* Of a row: channels x side[0] x ... x side[axes - 1] floats. A table has channels and no axes. */
struct spoke_shape {
    size_t channels;
    size_t axes;
    size_t side[SPOKE_AXES_MAX];
};

/*
 * Windows that a model sees of an image in its stead (spoke/patch.h). Zeroed: none, a model sees
 * rows whole.
 */
struct spoke_patch {
    size_t axes; /* those of the images, or 0 */
    size_t side[SPOKE_AXES_MAX];
    double positive; /* share of training's windows around a spot of another class than 0 */
    double overlap;  /* of neighbouring windows in evaluation, a share of a side */
    int32_t ignore;  /* a class whose spots are no such ones either; 0: none */
};

/* Zeroed: as the schema says, with local statistics. */
struct spoke_data_options {
    bool fold_set;
    uint32_t fold; /* instead of the schema's, for a split by hash */
    bool split_set;
    enum spoke_split_by split; /* instead of the schema's */
    size_t stats_count;        /* spoke_data_stats_count, or 0 */
    const double *mean, *std;  /* double[stats_count] from outside; std >= 0 */
    bool on_demand;            /* hold no images, however few */
    struct spoke_patch patch;
    /* A folder for an unnamed file of rows that are not held, or NULL: files of images are read
     * once then, and their rows from there (spoke/spill.h); each time where it takes no file. */
    const char *spill_dir;
    /*
     * To apply a model rather than to train one. `unlabelled`: targets are not read, and need not
     * be there; nobody may ask for them. `undivided`: no split is read or worked out, all rows are
     * SPOKE_TEST, and of an .npz file all are in the arrays without a prefix. `identified`: which
     * row of the source each is is kept, and its id.
     */
    bool unlabelled, undivided, identified;
    /* Whose rows may be read, and for what purpose (enum tier_plan_purpose); NULL: all. Borrowed
     * while the data are opened. The schema needs a column of type id. */
    const struct spoke_consent *consent;
    int purpose;
    /*
     * To look through data rather than train on them: rows that are not as the schema says are
     * told here and left out, where they would stop the opening, images are not held, and
     * statistics are not worked out of them.
     */
    void (*refused)(void *arg, const struct tier_err *err);
    void *refused_arg;
    /* Messages also name the files of a folder of DICOM files: for this machine alone. */
    bool named;
    /* Further sets of the same kind, paths[more_count], whose rows stand behind the first one's,
     * each in the part that it has by itself: for comparisons. Of tables there are none. */
    const char *const *more;
    size_t more_count;
    /*
     * To count what is in a table: hears of each row's columns that are used, before a row with a
     * missing value is left out. The number, or the place of the category or class; NULL: missing.
     * Of several readers' columns each one's own.
     */
    void (*cell)(void *arg, const struct spoke_column *column, const double *value);
    void *cell_arg;
};

struct spoke_consent; /* spoke/consent.h */
struct spoke_data;

/*
 * `path` is what the schema's kind says: a table (of features, or of the files of images), an .npz
 * file or a folder of .npy files.
 * TIER_ECONFIG for the schema, TIER_EDATA for the data ("heart.csv:12: column 'chol': ..."),
 * TIER_ELIMIT past a bound, TIER_ENOTFOUND or TIER_EIO for the files. `options` may be NULL.
 */
enum tier_status spoke_data_open(const char *schema_path, const char *path,
                                 const struct spoke_data_options *options,
                                 struct spoke_data **data_out, struct tier_err *err);
void spoke_data_free(struct spoke_data *data);

const struct spoke_schema *spoke_data_schema(const struct spoke_data *data);
size_t spoke_data_features(const struct spoke_data *data);
size_t spoke_data_classes(const struct spoke_data *data);
size_t spoke_data_rows(const struct spoke_data *data, enum spoke_part part);
/* Rows left out because a value was missing (missing_rows: drop). */
size_t spoke_data_dropped(const struct spoke_data *data);

/* Rows that consent did not allow, and a hash of which they were: of the same data with the same
 * hash the same rows are here. Zero: all of them. */
size_t spoke_data_withheld(const struct spoke_data *data);
struct tier_hash spoke_data_withheld_hash(const struct spoke_data *data);

struct spoke_shape spoke_data_shape(const struct spoke_data *data);
/* What a model sees of a row at once: a window, or the row. And the windows themselves. */
struct spoke_shape spoke_data_seen(const struct spoke_data *data);
size_t spoke_data_seen_features(const struct spoke_data *data);
const struct spoke_patch *spoke_data_patch(const struct spoke_data *data); /* NULL: rows whole */
enum spoke_target_kind spoke_data_target(const struct spoke_data *data);
/* Labels of a row: 1 for a class, the pixels or voxels of a mask, 0 for a value or survival. */
size_t spoke_data_target_size(const struct spoke_data *data);

/*
 * Reads rows[0..n) of a part, each below spoke_data_rows, in that order and with repetition as they
 * come: x float[n x features], labels int32[n x target_size]; either may be NULL. TIER_EDATA for a
 * row that turns out damaged, TIER_EIO; what was written is then undefined.
 */
enum tier_status spoke_data_read(const struct spoke_data *data, enum spoke_part part,
                                 const int32_t *rows, size_t n, float *x, int32_t *labels,
                                 struct tier_err *err);

/*
 * float[rows x features], row-major; int32[rows x target_size]. NULL where there are no rows, and
 * for images (x, and masks as labels) that are not held. Classes of rows are always held.
 */
const float *spoke_data_x(const struct spoke_data *data, enum spoke_part part);
const int32_t *spoke_data_labels(const struct spoke_data *data, enum spoke_part part);
/* float[rows] of events, 1 where it happened and 0 where it did not; NULL but for survival. */
const float *spoke_data_events(const struct spoke_data *data, enum spoke_part part);
/* float[rows], where the target is a value, or a time; NULL otherwise. */
const float *spoke_data_values(const struct spoke_data *data, enum spoke_part part);

/*
 * Of data that were opened as `identified`: the line of the table, or the number of the array's row
 * from 0; and what a column of type id has there, or NULL.
 */
uint64_t spoke_data_number(const struct spoke_data *data, enum spoke_part part, size_t row);
const char *spoke_data_id(const struct spoke_data *data, enum spoke_part part, size_t row);

/*
 * How many readers say what is learnt; with several of classes, each one's, int32[rows x readers],
 * -1 where one did not say; with several of masks, one's mask of a row that is not held,
 * int32[target_size], and whether there is one. Labels are what most of them say.
 */
size_t spoke_data_readers(const struct spoke_data *data);
/* With annotators: soft labels are not classes but votes, as spoke_votes_pack has them. */
bool spoke_data_soft(const struct spoke_data *data);
const int32_t *spoke_data_votes(const struct spoke_data *data, enum spoke_part part);
enum tier_status spoke_data_read_mask(const struct spoke_data *data, enum spoke_part part,
                                      size_t row, size_t reader, int32_t *mask, bool *there_out,
                                      struct tier_err *err);

/*
 * How a row's image lies in its file: the file's grid without its values, and the axes along which
 * it was brought to the contract's shape. Images that are not held (on_demand) only. An array has
 * no grid: it is the contract's own, with spacing 0. TIER_EDATA as spoke_data_read has it.
 */
enum tier_status spoke_data_grid(const struct spoke_data *data, enum spoke_part part, size_t row,
                                 struct spoke_grid *grid_out, struct spoke_axis axis_out[3],
                                 struct tier_err *err);

/*
 * The statistics in use, double[stats_count]: of each feature of a table, of each channel of
 * images; 0 and 1 for what is not standardised.
 */
size_t spoke_data_stats_count(const struct spoke_data *data);
/* Whether any of them was worked out of the training rows here. */
bool spoke_data_stats_local(const struct spoke_data *data);
const double *spoke_data_mean(const struct spoke_data *data);
const double *spoke_data_std(const struct spoke_data *data);

#endif
