/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all sources of rows have in common. Means and deviations of a table are two-pass sums in row
 * order; those of images are gathered in one pass over the training rows, each image's own two-pass
 * sums merged in row order (Chan, Golub & LeVeque 1979), because reading the images twice would
 * cost more than all the arithmetic. Either is the same wherever the same files are read.
 */
#include "spoke/consent.h"
#include "spoke/data_private.h"
#include "spoke/patch.h"
#include "spoke/spill.h"
#include "tier/log.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#define STD_EPSILON 1e-9

bool spoke_number_parse(const char *text, double *out) {
    char *end;

    if (!*text || text[strspn(text, "0123456789+-.eE")] != '\0')
        return false;
    double v = strtod(text, &end);
    if (*end != '\0' || !isfinite(v))
        return false;
    *out = v;
    return true;
}

/* ---- what sources call while they load ----------------------------------------------------- */

bool spoke_load_allowed(struct spoke_loader *l, const char *id) {
    struct {
        struct tier_hash before;
        uint64_t row;
    } link = {l->data->withheld_hash, 0};

    if (!l->options->consent)
        return true;
    link.row = ++l->data->asked;
    if (spoke_consent_allows(l->options->consent, id, l->options->purpose))
        return true;
    l->data->withheld++;
    tier_hash_data(&link, sizeof link, &l->data->withheld_hash);
    return false;
}

/*
 * HMAC-SHA-256(key, fold || id) as a fraction of 2^53; the key keeps outsiders from working out
 * from an identity which side a patient is on, and is the same at all sites of a plan.
 */
enum tier_status spoke_load_split(const struct spoke_loader *l, const char *id,
                                  enum spoke_part *out) {
    uint8_t text[4 + SPOKE_ID_BYTES_MAX], mac[EVP_MAX_MD_SIZE];
    size_t len = strlen(id);
    unsigned mac_len = 0;
    uint32_t fold = l->rule.fold;

    if (len > SPOKE_ID_BYTES_MAX)
        return tier_fail(l->err, TIER_EDATA, "%s: an id is too long to be one", l->path);
    for (int i = 0; i < 4; i++)
        text[i] = (uint8_t)(fold >> (24 - 8 * i));
    memcpy(text + 4, id, len);
    if (!HMAC(EVP_sha256(), l->rule.key, (int)strlen(l->rule.key), text, len + 4, mac, &mac_len))
        return tier_fail(l->err, TIER_EINTERNAL, "libcrypto has no HMAC-SHA-256");
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | mac[i];
    double at = ldexp((double)(v >> 11), -53);
    double test = *l->rule.fraction, val = l->rule.val_fraction ? *l->rule.val_fraction : 0.0;
    *out = at < test ? SPOKE_TEST : at < test + val ? SPOKE_VAL : SPOKE_TRAIN;
    return TIER_OK;
}

/* Without memory the array is as it was, and *ok false. */
static void *grown(void *array, size_t bytes, bool *ok) {
    void *more = *ok ? realloc(array, bytes) : NULL;
    *ok = more != NULL;
    return more ? more : array;
}

enum tier_status spoke_load_row(struct spoke_loader *l, enum spoke_part part, size_t *row_out) {
    struct spoke_data *d = l->data;
    struct spoke_rows *p = &d->parts[part];
    bool table = l->schema->kind == SPOKE_KIND_TABLE;
    uint64_t total = 1;

    for (int i = 0; i < SPOKE_PARTS; i++)
        total += d->parts[i].rows;
    if (total > SPOKE_ROWS_MAX || (table && total * d->features > SPOKE_CELLS_MAX))
        return tier_fail(l->err, TIER_ELIMIT,
                         "more rows than one table may have, %u rows and %" PRIu64 " values",
                         SPOKE_ROWS_MAX, SPOKE_CELLS_MAX);
    if (p->rows == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        bool ok = true;
        if (table)
            p->raw = grown(p->raw, cap * d->features * sizeof *p->raw, &ok);
        else
            p->places = grown(p->places, cap * sizeof *p->places, &ok);
        if (d->target == SPOKE_TARGET_CLASS)
            p->labels = grown(p->labels, cap * sizeof *p->labels, &ok);
        if (d->target == SPOKE_TARGET_CLASS && d->readers > 1)
            p->votes = grown(p->votes, cap * d->readers * sizeof *p->votes, &ok);
        if (l->options->identified) {
            p->numbers = grown(p->numbers, cap * sizeof *p->numbers, &ok);
            p->ids = grown(p->ids, cap * sizeof *p->ids, &ok);
        }
        if (d->target == SPOKE_TARGET_SURVIVAL)
            p->events = grown(p->events, cap * sizeof *p->events, &ok);
        if (d->target == SPOKE_TARGET_VALUE || d->target == SPOKE_TARGET_SURVIVAL)
            p->values = grown(p->values, cap * sizeof *p->values, &ok);
        if (!ok)
            return tier_fail(l->err, TIER_ENOMEM, "no memory for %zu rows", cap);
        p->cap = cap;
    }
    if (l->options->identified)
        p->ids[p->rows] = NULL;
    *row_out = p->rows++;
    return TIER_OK;
}

enum tier_status spoke_load_identity(struct spoke_loader *l, enum spoke_part part, size_t row,
                                     uint64_t number, const char *id) {
    struct spoke_rows *p = &l->data->parts[part];

    if (!l->options->identified)
        return TIER_OK;
    p->numbers[row] = number;
    p->ids[row] = id && id[0] ? strdup(id) : NULL;
    return id && id[0] && !p->ids[row] ? tier_fail(l->err, TIER_ENOMEM, "no memory for ids")
                                       : TIER_OK;
}

enum tier_status spoke_load_refuse(struct spoke_loader *l, enum tier_status st) {
    if (st != TIER_EDATA || !l->options->refused)
        return st;
    l->options->refused(l->options->refused_arg, l->err);
    return TIER_OK;
}

/* ---- a row of images ----------------------------------------------------------------------- */

static enum tier_status row_fail(const struct spoke_data *d, enum spoke_part part, size_t row,
                                 const char *what, struct tier_err *err) {
    char where[SPOKE_WHERE_BYTES];
    d->ops->where(d, part, row, where, sizeof where);
    return tier_fail(err, TIER_EDATA, "%s: %s", where, what);
}

/* Stored values to those that standardisation starts from. */
static enum tier_status scale_row(const struct spoke_data *d, enum spoke_part part, size_t row,
                                  float *x, struct tier_err *err) {
    const struct spoke_image *m = d->schema->image;
    double scale = m->scale ? *m->scale : 1.0, offset = m->offset ? *m->offset : 0.0;
    double min = m->min ? *m->min : -INFINITY, max = m->max ? *m->max : INFINITY;
    bool bounded = m->min || m->max, finite = true, inside = true;

    if (m->scale || m->offset)
        for (size_t i = 0; i < d->features; i++)
            x[i] = (float)((double)x[i] * scale + offset);
    for (size_t i = 0; i < d->features; i++)
        finite = finite && fabsf(x[i]) <= FLT_MAX;
    for (size_t i = 0; bounded && i < d->features; i++)
        inside = inside && (double)x[i] >= min && (double)x[i] <= max;
    if (!finite)
        return row_fail(d, part, row, "a value of the image is not a finite number", err);
    if (!inside)
        return row_fail(d, part, row,
                        "a value of the image is outside the min and max that the schema gives",
                        err);
    return TIER_OK;
}

/* Each channel of one image by its own mean and deviation; with `nonzero`, what is 0 stays 0. */
static void z_score_row(const struct spoke_data *d, float *row) {
    bool nonzero = d->schema->image->z_score == SPOKE_Z_SCORE_NONZERO;

    for (size_t c = 0; c < d->stats_count; c++) {
        float *x = row + c * d->spatial;
        double sum = 0.0, squares = 0.0;
        size_t n = 0;
        for (size_t i = 0; i < d->spatial; i++) {
            if (nonzero && x[i] == 0.0f)
                continue;
            sum += x[i];
            n++;
        }
        double mean = n ? sum / (double)n : 0.0;
        for (size_t i = 0; i < d->spatial; i++)
            if (!nonzero || x[i] != 0.0f)
                squares += (x[i] - mean) * (x[i] - mean);
        double std = n > 1 ? sqrt(squares / (double)(n - 1)) : 0.0;
        double scale = std == 0.0 ? 1.0 : std + STD_EPSILON;
        for (size_t i = 0; i < d->spatial; i++)
            if (!nonzero || x[i] != 0.0f)
                x[i] = (float)((x[i] - mean) / scale);
    }
}

static void standardise_row(const struct spoke_data *d, float *row) {
    for (size_t c = 0; c < d->stats_count; c++) {
        double mean = d->mean[c], std = d->std[c];
        double scale = std == 0.0 ? 1.0 : std + STD_EPSILON;
        float *x = row + c * d->spatial;
        if (mean == 0.0 && std == 1.0) /* exactly: not standardised */
            continue;
        for (size_t i = 0; i < d->spatial; i++)
            x[i] = (float)((x[i] - mean) / scale);
    }
}

/* One row as the source has it, out of the file of rows where it is in there. */
static enum tier_status read_source(const struct spoke_data *d, enum spoke_part part, size_t row,
                                    float *x, int32_t *mask, struct tier_err *err) {
    size_t at = row;

    for (int before = 0; before < (int)part; before++)
        at += d->parts[before].rows;
    if (d->spill && spoke_spill_take(d->spill, at, x, mask))
        return TIER_OK;
    TIER_TRY(d->ops->read(d, part, row, x, mask, err));
    if (d->spill)
        spoke_spill_put(d->spill, at, x, mask);
    return TIER_OK;
}

static enum tier_status read_image(const struct spoke_data *d, enum spoke_part part, size_t row,
                                   float *x, int32_t *mask, struct tier_err *err) {
    TIER_TRY(read_source(d, part, row, x, mask, err));
    if (!x)
        return TIER_OK;
    TIER_TRY(scale_row(d, part, row, x, err));
    if (d->schema->image->z_score != SPOKE_Z_SCORE_NONE)
        z_score_row(d, x);
    else
        standardise_row(d, x);
    return TIER_OK;
}

/* ---- statistics ---------------------------------------------------------------------------- */

static void table_stats(const struct spoke_data *d, size_t f) {
    const struct spoke_rows *p = &d->parts[SPOKE_TRAIN];
    double sum = 0.0, squares = 0.0;

    for (size_t r = 0; r < p->rows; r++)
        sum += p->raw[r * d->features + f];
    double mean = sum / (double)p->rows;
    for (size_t r = 0; r < p->rows; r++) {
        double off = p->raw[r * d->features + f] - mean;
        squares += off * off;
    }
    d->mean[f] = mean;
    d->std[f] = sqrt(squares / (double)(p->rows - 1));
}

static enum tier_status image_stats(struct spoke_loader *l) {
    struct spoke_data *d = l->data;
    float *x = malloc(d->features * sizeof *x);
    double n = (double)d->spatial, seen = 0.0;
    enum tier_status st = TIER_OK;

    if (!x)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory for a row", l->path);
    for (size_t c = 0; c < d->stats_count; c++)
        d->mean[c] = d->std[c] = 0.0;
    for (size_t r = 0; r < d->parts[SPOKE_TRAIN].rows; r++) {
        TIER_TRY_OUT(read_source(d, SPOKE_TRAIN, r, x, NULL, l->err));
        TIER_TRY_OUT(scale_row(d, SPOKE_TRAIN, r, x, l->err));
        for (size_t c = 0; c < d->stats_count; c++) {
            const float *at = x + c * d->spatial;
            double sum = 0.0, squares = 0.0;
            for (size_t i = 0; i < d->spatial; i++)
                sum += at[i];
            double mean = sum / n, gap = mean - d->mean[c];
            for (size_t i = 0; i < d->spatial; i++)
                squares += (at[i] - mean) * (at[i] - mean);
            d->mean[c] += gap * n / (seen + n);
            d->std[c] += squares + gap * gap * seen * n / (seen + n); /* still a sum of squares */
        }
        seen += n;
    }
    for (size_t c = 0; c < d->stats_count; c++)
        d->std[c] = sqrt(d->std[c] / (seen - 1.0));
out:
    free(x);
    return st;
}

/* The name and the agreed statistics of one thing that is standardised: a column, or a channel. */
static enum tier_status take_stats(struct spoke_loader *l, size_t at, const char *name,
                                   const double *mean, const double *std, bool *local) {
    const struct spoke_data_options *o = l->options;
    struct spoke_data *d = l->data;

    *local = false;
    if (o->stats_count) {
        d->mean[at] = o->mean[at];
        d->std[at] = o->std[at];
        if (!isfinite(o->mean[at]) || !isfinite(o->std[at]) || o->std[at] < 0.0)
            return tier_fail(l->err, TIER_EARG,
                             "the given statistics of column '%s' are not finite", name);
    } else if (mean) {
        d->mean[at] = *mean;
        d->std[at] = *std;
    } else if (o->undivided) {
        return tier_fail(l->err, TIER_EDATA,
                         "%s: column '%s' is standardised by training rows, and nothing says which "
                         "of these rows are: the data that a model was trained on would be needed, "
                         "or mean and std in the schema",
                         l->path, name);
    } else if (d->parts[SPOKE_TRAIN].rows < 2) {
        return tier_fail(l->err, TIER_EDATA,
                         "%s: column '%s' is standardised, which takes at least 2 training "
                         "rows: there are %zu",
                         l->path, name, d->parts[SPOKE_TRAIN].rows);
    } else {
        *local = d->stats_local = true;
    }
    return TIER_OK;
}

static enum tier_status set_stats(struct spoke_loader *l) {
    struct spoke_data *d = l->data;
    const struct spoke_image *m = l->schema->image;
    bool local = false;
    size_t f = 0;

    if (l->options->stats_count && l->options->stats_count != d->stats_count)
        return tier_fail(l->err, TIER_EARG,
                         "statistics of %zu features were given for data that have %zu",
                         l->options->stats_count, d->stats_count);
    for (size_t i = 0; i < d->stats_count; i++) {
        d->mean[i] = 0.0;
        d->std[i] = 1.0;
    }
    if (m) {
        const char *name = spoke_schema_only(l->schema, SPOKE_COLUMN_IMAGE)->name;
        for (size_t c = 0; m->standardise && c < d->stats_count; c++)
            TIER_TRY(take_stats(l, c, name, m->mean.count ? &m->mean.at[c] : NULL, &m->std.at[c],
                                &local));
        return local && !l->options->refused ? image_stats(l) : TIER_OK;
    }
    for (uint32_t i = 0; i < l->schema->columns_count; i++) {
        const struct spoke_column *c = &l->schema->columns[i];
        for (size_t n = spoke_column_features(c); n > 0; n--, f++) {
            if (!c->standardise)
                continue;
            TIER_TRY(take_stats(l, f, c->name, c->mean, c->std, &local));
            if (local)
                table_stats(d, f);
        }
    }
    return TIER_OK;
}

/* ---- what is held -------------------------------------------------------------------------- */

static enum tier_status make_floats(struct spoke_loader *l) {
    struct spoke_data *d = l->data;

    for (int which = 0; which < SPOKE_PARTS; which++) {
        struct spoke_rows *p = &d->parts[which];
        if (p->rows == 0)
            continue;
        p->x = malloc(p->rows * d->features * sizeof *p->x);
        if (!p->x)
            return tier_fail(l->err, TIER_ENOMEM, "%s: no memory for %zu rows", l->path, p->rows);
        for (size_t i = 0; i < p->rows * d->features; i++) {
            size_t f = i % d->features;
            /* mean 0 and std 1 exactly: not standardised. A constant column is only centred. */
            bool plain = d->mean[f] == 0.0 && d->std[f] == 1.0;
            double scale = plain || d->std[f] == 0.0 ? 1.0 : d->std[f] + STD_EPSILON;
            p->x[i] = (float)((p->raw[i] - d->mean[f]) / scale);
        }
        free(p->raw);
        p->raw = NULL;
    }
    return TIER_OK;
}

static bool has_masks(const struct spoke_data *d) {
    return d->target == SPOKE_TARGET_MASK && !d->unlabelled;
}

static size_t all_rows(const struct spoke_data *d) {
    size_t n = 0;
    for (int which = 0; which < SPOKE_PARTS; which++)
        n += d->parts[which].rows;
    return n;
}

/* Whether so few that they are read once, and their source is then done with. */
static bool is_held(const struct spoke_loader *l) {
    const struct spoke_data *d = l->data;
    uint64_t row_bytes = (d->features + (has_masks(d) ? d->spatial : 0)) * sizeof(float);
    return !l->options->on_demand && !l->options->refused &&
           all_rows(d) * row_bytes <= SPOKE_HELD_BYTES_MAX;
}

/* Arrays lie as they are read; files of images do not. A folder that takes no file costs the speed
 * and nothing else. */
static enum tier_status open_spill(struct spoke_loader *l) {
    struct spoke_data *d = l->data;
    bool costly = d->ops->read && l->schema->kind != SPOKE_KIND_NPZ;
    struct tier_err why = {0};

    if (!l->options->spill_dir || !costly || is_held(l))
        return TIER_OK;
    enum tier_status st = spoke_spill_open(l->options->spill_dir, all_rows(d), d->features,
                                           has_masks(d) ? d->spatial : 0, &d->spill, &why);
    if (st == TIER_OK)
        return TIER_OK;
    if (st != TIER_EIO)
        return tier_fail(l->err, st, "%s", why.text);
    tier_log_warn("%s: each row is read from its files whenever it is wanted", why.text);
    return TIER_OK;
}

static enum tier_status hold_images(struct spoke_loader *l) {
    struct spoke_data *d = l->data;
    bool mask = has_masks(d);

    if (!is_held(l))
        return TIER_OK;
    for (int which = 0; which < SPOKE_PARTS; which++) {
        struct spoke_rows *p = &d->parts[which];
        float *x = calloc(p->rows ? p->rows : 1, d->features * sizeof *x);
        int32_t *masks = mask ? calloc(p->rows ? p->rows : 1, d->spatial * sizeof *masks) : NULL;
        enum tier_status st = TIER_OK;
        if (!x || (mask && !masks))
            st = tier_fail(l->err, TIER_ENOMEM, "%s: no memory for %zu rows", l->path, p->rows);
        for (size_t r = 0; st == TIER_OK && r < p->rows; r++)
            st = read_image(d, (enum spoke_part)which, r, x + r * d->features,
                            mask ? masks + r * d->spatial : NULL, l->err);
        if (st != TIER_OK || p->rows == 0) {
            free(x);
            free(masks);
            TIER_TRY(st);
            continue;
        }
        p->x = x;
        if (mask)
            p->labels = masks;
    }
    d->ops->close(d->source);
    d->source = NULL;
    return TIER_OK;
}

/* ---- opening ------------------------------------------------------------------------------- */

static enum tier_status effective_rule(struct spoke_loader *l, const char *schema_path) {
    const struct spoke_data_options *o = l->options;
    const struct spoke_schema *s = l->schema;
    bool npz = s->kind == SPOKE_KIND_NPZ;

    l->rule = *s->split;
    if (o->split_set)
        l->rule.by = o->split;
    if (o->fold_set)
        l->rule.fold = o->fold;
    bool hash = l->rule.by == SPOKE_SPLIT_HASH;
    if (o->consent && !npz && !spoke_schema_only(s, SPOKE_COLUMN_ID))
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: consents go by patients: it needs a column of type id", schema_path);
    if (o->undivided)
        return TIER_OK;
    if (hash &&
        (!l->rule.key || !l->rule.fraction || (!npz && !spoke_schema_only(s, SPOKE_COLUMN_ID))))
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: a split by hash was asked for: it needs split.key, split.fraction "
                         "and a column of type id",
                         schema_path);
    if (l->rule.by == SPOKE_SPLIT_COLUMN && !spoke_schema_only(s, SPOKE_COLUMN_SPLIT))
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: a split by column was asked for: it needs a column of type split",
                         schema_path);
    if (l->rule.by == SPOKE_SPLIT_PART && !npz)
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: a split by part was asked for: it is for kind: npz", schema_path);
    if (!hash && o->fold_set && o->fold != s->split->fold)
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: fold %u was asked for: only a split by hash has folds", schema_path,
                         o->fold);
    return TIER_OK;
}

static enum tier_status prepare(struct spoke_loader *l) {
    static const struct spoke_source *const sources[] = {
        [SPOKE_KIND_TABLE] = &spoke_source_table,  [SPOKE_KIND_NPZ] = &spoke_source_npz,
        [SPOKE_KIND_IMAGES] = &spoke_source_cases, [SPOKE_KIND_NIFTI] = &spoke_source_cases,
        [SPOKE_KIND_DICOM] = &spoke_source_cases,  [SPOKE_KIND_BIDS] = &spoke_source_cases,
    };
    const struct spoke_column *target = spoke_schema_target(l->schema);
    struct spoke_data *d = l->data;

    if (l->options->more_count && l->schema->kind == SPOKE_KIND_TABLE)
        return tier_fail(l->err, TIER_EARG, "%s: tables are not opened together", l->path);
    d->ops = l->options->more_count ? &spoke_source_pool : sources[l->schema->kind];
    d->unlabelled = l->options->unlabelled;
    d->named = l->options->named;
    d->readers = d->unlabelled ? 1 : spoke_schema_readers(l->schema);
    d->target = target->type == SPOKE_COLUMN_MASK                  ? SPOKE_TARGET_MASK
                : spoke_schema_only(l->schema, SPOKE_COLUMN_EVENT) ? SPOKE_TARGET_SURVIVAL
                : target->value                                    ? SPOKE_TARGET_VALUE
                                                                   : SPOKE_TARGET_CLASS;
    d->features = spoke_schema_features(l->schema);
    d->spatial = spoke_schema_spatial(l->schema);
    d->classes = spoke_schema_classes(l->schema);
    d->stats_count = l->schema->image ? l->schema->image->channels : d->features;
    d->path = strdup(l->path);
    d->mean = calloc(d->stats_count, sizeof *d->mean);
    d->std = calloc(d->stats_count, sizeof *d->std);
    if (!d->path || !d->mean || !d->std)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
    return TIER_OK;
}

static enum tier_status take_patch(struct spoke_loader *l) {
    const struct spoke_shape shape = spoke_data_shape(l->data);

    l->data->patch = l->options->patch;
    return spoke_patch_check(&l->data->patch, &shape, l->data->target == SPOKE_TARGET_MASK, l->err);
}

enum tier_status spoke_data_open(const char *schema_path, const char *path,
                                 const struct spoke_data_options *options,
                                 struct spoke_data **data_out, struct tier_err *err) {
    static const struct spoke_data_options as_schema;
    struct tier_err own = {0}; /* what is refused is told even where the caller does not ask */
    struct spoke_loader l = {
        .path = path, .schema_path = schema_path, .options = options ? options : &as_schema};
    struct spoke_data *d = calloc(1, sizeof *d);
    enum tier_status st;

    if (!d)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", path);
    err = err ? err : &own;
    l.err = err;
    l.data = d;
    TIER_TRY_OUT(spoke_schema_open(schema_path, &d->schema, err));
    l.schema = d->schema;
    TIER_TRY_OUT(effective_rule(&l, schema_path));
    TIER_TRY_OUT(prepare(&l));
    TIER_TRY_OUT(take_patch(&l));
    TIER_TRY_OUT(d->ops->open(&l));
    if (all_rows(d) == 0 && d->withheld > 0) {
        st = tier_fail(err, TIER_EPOLICY, "no row is left that consents allow to be read");
        goto out;
    }
    if (all_rows(d) == 0) {
        st = tier_fail(err, TIER_EDATA, "%s: no row is left (%zu had a missing value)", path,
                       d->dropped);
        goto out;
    }
    TIER_TRY_OUT(open_spill(&l));
    TIER_TRY_OUT(set_stats(&l));
    st = d->ops->read ? hold_images(&l) : make_floats(&l);
out:
    if (st == TIER_OK)
        *data_out = d;
    else
        spoke_data_free(d);
    return st;
}

void spoke_data_free(struct spoke_data *d) {
    if (!d)
        return;
    for (int which = 0; which < SPOKE_PARTS; which++) {
        free(d->parts[which].raw);
        free(d->parts[which].x);
        free(d->parts[which].labels);
        free(d->parts[which].values);
        free(d->parts[which].events);
        free(d->parts[which].places);
        for (size_t i = 0; d->parts[which].ids && i < d->parts[which].rows; i++)
            free(d->parts[which].ids[i]);
        free(d->parts[which].ids);
        free(d->parts[which].numbers);
        free(d->parts[which].votes);
    }
    if (d->source)
        d->ops->close(d->source);
    spoke_spill_close(d->spill);
    free(d->path);
    free(d->mean);
    free(d->std);
    spoke_schema_free(d->schema);
    free(d);
}

/* ---- reading ------------------------------------------------------------------------------- */

static enum tier_status read_row(const struct spoke_data *d, enum spoke_part part, size_t row,
                                 float *x, int32_t *labels, struct tier_err *err) {
    const struct spoke_rows *p = &d->parts[part];
    size_t target = spoke_data_target_size(d);
    int32_t *mask = p->labels ? NULL : labels; /* to be read with the image */

    if (labels && p->labels)
        memcpy(labels, p->labels + row * target, target * sizeof *labels);
    if (p->x && x) {
        memcpy(x, p->x + row * d->features, d->features * sizeof *x);
        x = NULL;
    }
    return x || mask ? read_image(d, part, row, x, mask, err) : TIER_OK;
}

enum tier_status spoke_data_read(const struct spoke_data *d, enum spoke_part part,
                                 const int32_t *rows, size_t n, float *x, int32_t *labels,
                                 struct tier_err *err) {
    size_t target = spoke_data_target_size(d);

    if (target == 0 || d->unlabelled)
        labels = NULL;
    for (size_t i = 0; i < n; i++) {
        if (rows[i] < 0 || (size_t)rows[i] >= d->parts[part].rows)
            return tier_fail(err, TIER_EARG, "row %" PRId32 " was asked for, of %zu", rows[i],
                             d->parts[part].rows);
        TIER_TRY(read_row(d, part, (size_t)rows[i], x ? x + i * d->features : NULL,
                          labels ? labels + i * target : NULL, err));
    }
    return TIER_OK;
}

/* ---- accessors ----------------------------------------------------------------------------- */

const struct spoke_schema *spoke_data_schema(const struct spoke_data *d) {
    return d->schema;
}

size_t spoke_data_features(const struct spoke_data *d) {
    return d->features;
}

size_t spoke_data_classes(const struct spoke_data *d) {
    return d->classes;
}

size_t spoke_data_rows(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].rows;
}

size_t spoke_data_dropped(const struct spoke_data *d) {
    return d->dropped;
}

size_t spoke_data_withheld(const struct spoke_data *d) {
    return (size_t)d->withheld;
}

struct tier_hash spoke_data_withheld_hash(const struct spoke_data *d) {
    return d->withheld_hash;
}

struct spoke_shape spoke_data_shape(const struct spoke_data *d) {
    const struct spoke_image *m = d->schema->image;
    struct spoke_shape shape = {.channels = m ? m->channels : d->features};

    for (; m && shape.axes < m->size.count; shape.axes++)
        shape.side[shape.axes] = (size_t)m->size.at[shape.axes];
    return shape;
}

struct spoke_shape spoke_data_seen(const struct spoke_data *d) {
    const struct spoke_shape shape = spoke_data_shape(d);
    return spoke_patch_shape(&d->patch, &shape);
}

size_t spoke_data_seen_features(const struct spoke_data *d) {
    const struct spoke_shape seen = spoke_data_seen(d);
    size_t n = seen.channels;

    for (size_t i = 0; i < seen.axes; i++)
        n *= seen.side[i];
    return n;
}

const struct spoke_patch *spoke_data_patch(const struct spoke_data *d) {
    return d->patch.axes > 0 ? &d->patch : NULL;
}

enum spoke_target_kind spoke_data_target(const struct spoke_data *d) {
    return d->target;
}

size_t spoke_data_target_size(const struct spoke_data *d) {
    return d->target == SPOKE_TARGET_MASK ? d->spatial : d->target == SPOKE_TARGET_CLASS;
}

const float *spoke_data_x(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].x;
}

const int32_t *spoke_data_labels(const struct spoke_data *d, enum spoke_part part) {
    return d->unlabelled ? NULL : d->parts[part].labels;
}

size_t spoke_data_readers(const struct spoke_data *d) {
    return d->readers;
}

bool spoke_data_soft(const struct spoke_data *d) {
    return !d->unlabelled && d->schema->annotators == SPOKE_ANNOTATORS_SOFT;
}

const int32_t *spoke_data_votes(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].votes;
}

enum tier_status spoke_data_read_mask(const struct spoke_data *d, enum spoke_part part, size_t row,
                                      size_t reader, int32_t *mask, bool *there_out,
                                      struct tier_err *err) {
    if (!d->ops->read_mask || !d->source || reader >= d->readers)
        return tier_fail(err, TIER_EINTERNAL, "%s: there is no such reader's mask", d->path);
    return d->ops->read_mask(d, part, row, reader, mask, there_out, err);
}

uint64_t spoke_data_number(const struct spoke_data *d, enum spoke_part part, size_t row) {
    return d->parts[part].numbers[row];
}

const char *spoke_data_id(const struct spoke_data *d, enum spoke_part part, size_t row) {
    return d->parts[part].ids[row];
}

enum tier_status spoke_data_grid(const struct spoke_data *d, enum spoke_part part, size_t row,
                                 struct spoke_grid *grid_out, struct spoke_axis axis_out[3],
                                 struct tier_err *err) {
    const struct spoke_image *m = d->schema->image;
    struct spoke_grid g = {.channels = d->stats_count, .from = {0, 1, 2}};
    uint32_t flat = 3 - m->size.count;

    if (d->ops->grid)
        return d->ops->grid(d, part, row, grid_out, axis_out, err);
    for (uint32_t i = 0; i < 3; i++) {
        g.side[i] = i < flat ? 1 : (size_t)m->size.at[i - flat];
        axis_out[i] = spoke_axis_stretch(g.side[i], g.side[i]);
    }
    *grid_out = g;
    return TIER_OK;
}

const float *spoke_data_events(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].events;
}

const float *spoke_data_values(const struct spoke_data *d, enum spoke_part part) {
    return d->unlabelled ? NULL : d->parts[part].values;
}

bool spoke_data_stats_local(const struct spoke_data *d) {
    return d->stats_local;
}

size_t spoke_data_stats_count(const struct spoke_data *d) {
    return d->stats_count;
}

const double *spoke_data_mean(const struct spoke_data *d) {
    return d->mean;
}

const double *spoke_data_std(const struct spoke_data *d) {
    return d->std;
}
