/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the data: what data.c and the sources behind it share. A source is a table of
 * operations: it fills the parts when it is opened, with as much of each row as it likes to hold,
 * and reads the rest of a row when it is asked for. Everything that all sources have in common, the
 * split, scaling, standardisation, holding small sets, is data.c's.
 *
 * Threads: opening is one thread's; `read` and `where` are called by many at once.
 */
#ifndef CONSILIUM_SPOKE_DATA_PRIVATE_H
#define CONSILIUM_SPOKE_DATA_PRIVATE_H

#include "spoke/data.h"

#define SPOKE_ID_BYTES_MAX 4096u
#define SPOKE_WHERE_BYTES 1200u

struct spoke_rows {
    size_t rows, cap;
    float *x;          /* [rows x features], where held */
    int32_t *labels;   /* classes [rows]; masks [rows x spatial] where held */
    float *values;     /* [rows], where the target is a value or a time */
    float *events;     /* [rows], of survival: 0 or 1 */
    uint32_t *places;  /* [rows]: of each row in its source; NULL: a table */
    double *raw;       /* [rows x features]: a table's, only while loading */
    uint64_t *numbers; /* [rows], and ids, where rows are identified */
    char **ids;
    int32_t *votes; /* [rows x readers], where several readers say a class; -1: one did not */
};

struct spoke_loader;

struct spoke_source {
    /* Opens what lies at the loader's path, and adds its rows. */
    enum tier_status (*open)(struct spoke_loader *l);
    /*
     * One row as it is stored: x float[features] in ONNX's order, mask int32[spatial]; either may
     * be NULL. Classes in the mask are checked by the source. NULL: rows are held (a table).
     */
    enum tier_status (*read)(const struct spoke_data *data, enum spoke_part part, size_t row,
                             float *x, int32_t *mask, struct tier_err *err);
    /* "scans.npz: row 3 of 'images'", for a message about a row. */
    void (*where)(const struct spoke_data *data, enum spoke_part part, size_t row, char *text,
                  size_t size);
    /* As spoke_data_grid; NULL: a row lies nowhere. */
    enum tier_status (*grid)(const struct spoke_data *data, enum spoke_part part, size_t row,
                             struct spoke_grid *grid_out, struct spoke_axis axis_out[3],
                             struct tier_err *err);
    /* As spoke_data_read_mask, of several readers; NULL: there are never. */
    enum tier_status (*read_mask)(const struct spoke_data *data, enum spoke_part part, size_t row,
                                  size_t reader, int32_t *mask, bool *there_out,
                                  struct tier_err *err);
    void (*close)(void *source);
};

extern const struct spoke_source spoke_source_table, spoke_source_npz, spoke_source_cases,
    spoke_source_pool;

struct spoke_data {
    struct spoke_schema *schema;
    char *path;
    size_t features, classes, spatial, stats_count, dropped;
    uint64_t asked, withheld; /* rows that consent was asked about, and that it did not allow */
    struct tier_hash withheld_hash;
    enum spoke_target_kind target;
    bool unlabelled, named, stats_local;
    struct spoke_patch patch;
    size_t readers;
    struct spoke_rows parts[SPOKE_PARTS];
    double *mean, *std; /* [stats_count] */
    const struct spoke_source *ops;
    void *source;
    struct spoke_spill *spill; /* of rows as the source gives them, part after part; or NULL */
};

struct spoke_loader {
    struct spoke_data *data;
    const struct spoke_schema *schema;
    const char *path, *schema_path;
    const char *table; /* to be read in the path's stead, or NULL */
    const struct spoke_data_options *options;
    struct spoke_split_rule rule; /* the schema's, as the options change it */
    struct tier_err *err;
};

/* Whether the next row of the source, of that id (NULL: none), may be read. Asked once of each. */
bool spoke_load_allowed(struct spoke_loader *l, const char *id);
/* The part that a split by hash gives an id of at most SPOKE_ID_BYTES_MAX bytes. */
enum tier_status spoke_load_split(const struct spoke_loader *l, const char *id,
                                  enum spoke_part *out);
/*
 * Adds a row to a part, and says which it is there. Its class or value is the caller's to set, as
 * is its place.
 */
enum tier_status spoke_load_row(struct spoke_loader *l, enum spoke_part part, size_t *row_out);
/* Which row of the source that is, just added; `id` may be NULL. Nothing where nobody asks. */
enum tier_status spoke_load_identity(struct spoke_loader *l, enum spoke_part part, size_t row,
                                     uint64_t number, const char *id);
/* Reads the table at the loader's path, row by row. */
enum tier_status spoke_load_table(struct spoke_loader *l);
/*
 * A row of a table of files, just added: the paths of its images and mask in the order of the
 * schema's columns, and the line it stands on. Checks that the files are there.
 */
enum tier_status spoke_load_case(struct spoke_loader *l, enum spoke_part part, size_t row,
                                 uint64_t line, const char *const *files);
/*
 * A row that is not as the schema says, with the loader's err telling why: TIER_OK where the
 * options want it reported and left out, else the error.
 */
enum tier_status spoke_load_refuse(struct spoke_loader *l, enum tier_status st);
/* Decimal only: strtod's "nan", "inf" and hexadecimal are not data. */
bool spoke_number_parse(const char *text, double *out);

#endif
