/* SPDX-License-Identifier: Apache-2.0 */
/* What a schema means and may not say; reading the file itself is schema_read.c. */
#include "spoke/annotators.h"
#include "spoke/nifti.h"
#include "spoke/schema_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what YAML cannot say ------------------------------------------------------------------ */

static bool text_ok(const char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

/* Of UTF-8, which YAML is: no control characters of Unicode's first 256 either. */
static bool unit_ok(const char *s) {
    for (const unsigned char *c = (const unsigned char *)s; *c; c++)
        if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
            return false;
    return text_ok(s);
}

/* A code string of DICOM (PS3.5 6.2), whose spaces at the ends mean nothing. */
static bool modality_ok(const char *s) {
    return s[0] != ' ' && s[strlen(s) - 1] != ' ' &&
           !s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ ")];
}

static enum tier_status check_categories(const char *path, const struct spoke_column *c,
                                         struct tier_err *err) {
    for (uint32_t i = 0; c->categories && i < c->categories_count; i++) {
        if (!text_ok(c->categories[i]))
            return tier_fail(err, TIER_ECONFIG,
                             "%s:%d: column '%s': category %u holds a control character", path,
                             c->line, c->name, i + 1);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->categories[i], c->categories[j]) == 0)
                return tier_fail(err, TIER_ECONFIG,
                                 "%s:%d: column '%s': category '%.64s' is listed twice", path,
                                 c->line, c->name, c->categories[i]);
    }
    return TIER_OK;
}

/* Keys that mean nothing for the column's type are refused rather than ignored. */
static enum tier_status check_keys(const char *path, const struct spoke_column *c,
                                   struct tier_err *err) {
    bool number = c->type == SPOKE_COLUMN_NUMBER, category = c->type == SPOKE_COLUMN_CATEGORY;
    bool target = c->type == SPOKE_COLUMN_TARGET, mask = c->type == SPOKE_COLUMN_MASK;
    bool event = c->type == SPOKE_COLUMN_EVENT;
    const char *extra = NULL;

    if ((c->min || c->max) && !number && !(target && c->value))
        extra = "min and max belong to numbers, and to a target with value: true";
    else if (c->unit && !number && !(target && c->value))
        extra = "unit belongs to numbers, and to a target with value: true";
    else if (c->unit && !unit_ok(c->unit))
        extra = "the unit holds a control character";
    else if (c->value && !target)
        extra = "value belongs to the target";
    else if ((c->mean || c->std) && (!number || !c->standardise || !c->mean || !c->std))
        extra = "mean and std go together, with standardise: true, and belong to numbers";
    else if (c->mean && (!isfinite(*c->mean) || !isfinite(*c->std) || !(*c->std > 0.0)))
        extra = "mean must be finite, and std finite and above 0";
    else if (c->standardise && !number && !category)
        extra = "standardise belongs to numbers and categories";
    else if ((c->drop_first || c->encode != SPOKE_ENCODE_ONE_HOT) && !category)
        extra = "encode and drop_first belong to categories";
    else if (c->drop_first && c->encode != SPOKE_ENCODE_ONE_HOT)
        extra = "drop_first needs encode: one_hot";
    else if (c->categories && !category && !target && !mask && !event)
        extra = "categories belong to a category, the target, a mask or an event";
    else if (c->positive_above && !target && !event)
        extra = "positive_above belongs to the target, or to an event";
    else if (event && ((c->positive_above != NULL) + (c->categories != NULL) != 1 ||
                       (c->categories && c->categories_count != 2)))
        extra = "an event needs positive_above, or two categories, the second that it happened";
    else if ((number || target) &&
             ((c->min && !isfinite(*c->min)) || (c->max && !isfinite(*c->max)) ||
              (c->min && c->max && *c->min > *c->max)))
        extra = "min and max must be finite, and min at most max";
    else if (category && !c->categories)
        extra = "a category needs its list of categories, here or in the code-book";
    else if (category && c->drop_first && c->categories_count < 2)
        extra = "drop_first leaves no feature of a single category";
    else if (target && (c->positive_above != NULL) + (c->categories != NULL) + c->value != 1)
        extra = "the target needs either positive_above or categories, or value: true";
    else if (mask && !c->categories)
        extra = "a mask needs its list of categories, the background first";
    else if ((target || mask) && c->categories && c->categories_count < 2)
        extra = "the target needs at least two categories";
    else if (c->positive_above && !isfinite(*c->positive_above))
        extra = "positive_above must be finite";
    if (extra)
        return tier_fail(err, TIER_ECONFIG, "%s:%d: column '%s': %s", path, c->line, c->name,
                         extra);
    return check_categories(path, c, err);
}

/* Names of files and folders, and nothing that leads elsewhere. */
static bool is_name(const char *s) {
    return !s || (s[0] != '.' && !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                              "0123456789-_+.")]);
}

/* What says which file of a BIDS folder a column is. */
static const char *bids_wrong(enum spoke_kind kind, const struct spoke_column *c) {
    bool file = c->type == SPOKE_COLUMN_IMAGE || c->type == SPOKE_COLUMN_MASK;
    bool says = c->suffix || c->entities || c->datatype || c->derivative;

    if (says && (kind != SPOKE_KIND_BIDS || !file))
        return "suffix, entities, datatype and derivative belong to images and masks of kind: bids";
    if (kind == SPOKE_KIND_BIDS && file && !c->suffix)
        return "an image or mask of kind: bids needs its suffix: T1w, T2w, dseg";
    if (!is_name(c->suffix) || !is_name(c->entities) || !is_name(c->datatype) ||
        !is_name(c->derivative) || (c->suffix && strchr(c->suffix, '_')))
        return "suffix, entities, datatype and derivative are of letters, digits, - and + (and _ "
               "between entities: run-1_acq-iso)";
    return NULL;
}

/* Whether a column of that type may stand in a schema of that kind. */
static bool kind_has(enum spoke_kind kind, enum spoke_column_type type) {
    if (kind == SPOKE_KIND_TABLE)
        return type != SPOKE_COLUMN_IMAGE && type != SPOKE_COLUMN_MASK;
    if (type == SPOKE_COLUMN_SPLIT || type == SPOKE_COLUMN_EVENT)
        return kind != SPOKE_KIND_NPZ;
    return type != SPOKE_COLUMN_NUMBER && type != SPOKE_COLUMN_CATEGORY;
}

static bool same_classes(const struct spoke_column *a, const struct spoke_column *b) {
    bool same = a->categories_count == b->categories_count &&
                !a->positive_above == !b->positive_above &&
                (!a->positive_above || *a->positive_above == *b->positive_above);
    for (uint32_t i = 0; same && i < a->categories_count; i++)
        same = strcmp(a->categories[i], b->categories[i]) == 0;
    return same && !a->value && !b->value;
}

/* Several columns of one type that say the same of a row. */
static enum tier_status check_readers(const char *path, const struct spoke_schema *s,
                                      size_t targets, size_t masks, struct tier_err *err) {
    const struct spoke_column *first = NULL;
    bool soft = s->annotators == SPOKE_ANNOTATORS_SOFT;
    const char *how = soft ? "soft" : "majority";

    if ((targets && masks) || targets + masks < 2 || targets + masks > SPOKE_READERS_MAX)
        return tier_fail(err, TIER_ECONFIG,
                         "%s: annotators: %s takes 2 to %u columns that are all targets, or "
                         "all masks",
                         path, how, SPOKE_READERS_MAX);
    if (s->kind == SPOKE_KIND_NPZ)
        return tier_fail(err, TIER_ECONFIG, "%s: annotators: %s is not for kind: npz", path, how);
    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        if (c->type != SPOKE_COLUMN_TARGET && c->type != SPOKE_COLUMN_MASK)
            continue;
        first = first ? first : c;
        if (!same_classes(first, c))
            return tier_fail(err, TIER_ECONFIG,
                             "%s:%d: column '%s': all annotators have the same categories, or the "
                             "same positive_above",
                             path, c->line, c->name);
    }
    if (soft && !spoke_votes_fit(targets + masks, spoke_schema_classes(s)))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: annotators: soft keeps the votes of %zu annotators on %zu classes: "
                         "(classes + 1)^annotators must be at most 2^24; fewer of them, or "
                         "annotators: majority, would be right",
                         path, targets + masks, spoke_schema_classes(s));
    return TIER_OK;
}

static enum tier_status check_columns(const char *path, const struct spoke_schema *s,
                                      struct tier_err *err) {
    size_t count[SPOKE_COLUMN_TYPES] = {0};

    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        if (!text_ok(c->name))
            return tier_fail(err, TIER_ECONFIG,
                             "%s:%d: column %u: the name holds a control character", path, c->line,
                             i + 1);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->name, s->columns[j].name) == 0)
                return tier_fail(err, TIER_ECONFIG, "%s:%d: column '%s' is listed twice", path,
                                 c->line, c->name);
        if (!kind_has(s->kind, c->type))
            return tier_fail(
                err, TIER_ECONFIG,
                "%s:%d: column '%s': a schema of this kind has no columns of this type", path,
                c->line, c->name);
        TIER_TRY(check_keys(path, c, err));
        const char *wrong = bids_wrong(s->kind, c);
        if (wrong)
            return tier_fail(err, TIER_ECONFIG, "%s:%d: column '%s': %s", path, c->line, c->name,
                             wrong);
        count[c->type]++;
    }
    bool several = s->annotators != SPOKE_ANNOTATORS_ONE;
    if (several)
        TIER_TRY(check_readers(path, s, count[SPOKE_COLUMN_TARGET], count[SPOKE_COLUMN_MASK], err));
    else if (count[SPOKE_COLUMN_TARGET] + count[SPOKE_COLUMN_MASK] != 1)
        return tier_fail(err, TIER_ECONFIG,
                         "%s: %zu columns are the target or a mask: exactly one must be, but with "
                         "annotators: majority or soft",
                         path, count[SPOKE_COLUMN_TARGET] + count[SPOKE_COLUMN_MASK]);
    bool volumes = s->kind >= SPOKE_KIND_NIFTI;
    if (s->kind != SPOKE_KIND_TABLE && !volumes && count[SPOKE_COLUMN_IMAGE] != 1)
        return tier_fail(err, TIER_ECONFIG, "%s: %zu columns have the type image: exactly one must",
                         path, count[SPOKE_COLUMN_IMAGE]);
    if (volumes &&
        (count[SPOKE_COLUMN_IMAGE] == 0 || s->image->channels % count[SPOKE_COLUMN_IMAGE] != 0))
        return tier_fail(
            err, TIER_ECONFIG,
            "%s: %zu columns have the type image: image.channels must be a multiple of "
            "their number, and at least one must be",
            path, count[SPOKE_COLUMN_IMAGE]);
    if (count[SPOKE_COLUMN_EVENT] > 1 ||
        (count[SPOKE_COLUMN_EVENT] == 1 && !spoke_schema_target(s)->value))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: an event goes with one target with value: true, its time: %zu "
                         "columns have the type event",
                         path, count[SPOKE_COLUMN_EVENT]);
    if (count[SPOKE_COLUMN_ID] > 1 || count[SPOKE_COLUMN_SPLIT] > 1)
        return tier_fail(err, TIER_ECONFIG, "%s: two columns have the type %s: one may", path,
                         count[SPOKE_COLUMN_ID] > 1 ? "id" : "split");
    size_t features = spoke_schema_features(s);
    if (s->kind == SPOKE_KIND_TABLE && (features == 0 || features > SPOKE_FEATURES_MAX))
        return tier_fail(err, TIER_ECONFIG, "%s: the columns make %zu features: 1 to %u may be",
                         path, features, SPOKE_FEATURES_MAX);
    return TIER_OK;
}

/* One or more whole numbers of 1 to SPOKE_SIDE_MAX whose product is bounded. */
static bool size_ok(const struct spoke_image *m) {
    uint64_t n = m->channels;

    if (m->size.count == 0 || m->size.count > SPOKE_AXES_MAX)
        return false;
    for (uint32_t i = 0; i < m->size.count; i++) {
        double side = m->size.at[i];
        if (!(side >= 1.0 && side <= SPOKE_SIDE_MAX) || side != floor(side))
            return false;
        n *= (uint64_t)side;
        if (n > SPOKE_IMAGE_ELEMENTS_MAX)
            return false;
    }
    return true;
}

/* Keys that belong to some kinds only. */
static const char *kind_wrong(enum spoke_kind kind, const struct spoke_image *m) {
    bool spacing = true;

    for (uint32_t i = 0; i < m->spacing.count; i++)
        spacing = spacing && m->spacing.at[i] > 1e-3 && m->spacing.at[i] < 1e3;
    if (m->layout != SPOKE_LAYOUT_FIRST && kind != SPOKE_KIND_NPZ)
        return "image: layout is for kind: npz";
    bool volumes = kind >= SPOKE_KIND_NIFTI; /* and DICOM, BIDS */
    if ((m->orientation || m->spacing.count) && !volumes)
        return "image: orientation and spacing are for kind: nifti, dicom and bids";
    if (kind == SPOKE_KIND_IMAGES && (m->size.count != 2 || (m->channels != 1 && m->channels != 3)))
        return "image: for kind: images size is [H, W], and channels 1 or 3";
    if (volumes && m->size.count < 2)
        return "image: for kind: nifti, dicom and bids size is [D, H, W], or [H, W] for single "
               "slices";
    if (m->orientation && !spoke_orientation_valid(m->orientation))
        return "image: orientation is three letters, one of RL, one of AP and one of SI: RAS";
    if (m->spacing.count && (m->spacing.count != m->size.count || !spacing))
        return "image: spacing is as many mm as size has sides, in its order";
    if (m->percentiles.count &&
        (m->percentiles.count != 2 || !(m->percentiles.at[0] >= 0.0) ||
         !(m->percentiles.at[0] < m->percentiles.at[1]) || !(m->percentiles.at[1] <= 100.0)))
        return "image: percentiles are two, from 0 to 100, the lower first: [0.5, 99.5]";
    return NULL;
}

static bool stats_ok(const struct spoke_image *m) {
    for (uint32_t i = 0; i < m->mean.count; i++)
        if (!isfinite(m->mean.at[i]) || !isfinite(m->std.at[i]) || !(m->std.at[i] > 0.0))
            return false;
    return true;
}

static enum tier_status check_image(const char *path, const struct spoke_schema *s,
                                    struct tier_err *err) {
    const struct spoke_image *m = s->image;
    const char *wrong = NULL;

    if (s->kind == SPOKE_KIND_TABLE && !m)
        return TIER_OK;
    if (s->kind == SPOKE_KIND_TABLE)
        wrong = "image belongs to a schema of images: say which kind it is";
    else if (!m)
        wrong = "a schema of this kind needs image: {channels, size, ...}";
    else if (m->channels > SPOKE_CHANNELS_MAX)
        wrong = "image: at most 64 channels may be";
    else if (!size_ok(m))
        wrong = "image: size is 1 to 3 whole numbers from 1 to 65535, slowest first: [H, W] or [D, "
                "H, W], and of at most 2^27 elements with the channels";
    else if ((m->scale && (!isfinite(*m->scale) || *m->scale == 0.0)) ||
             (m->offset && !isfinite(*m->offset)))
        wrong = "image: scale and offset must be finite, and scale not 0";
    else if ((m->min && !isfinite(*m->min)) || (m->max && !isfinite(*m->max)) ||
             (m->min && m->max && *m->min > *m->max))
        wrong = "image: min and max must be finite, and min at most max";
    else if (m->standardise && m->z_score != SPOKE_Z_SCORE_NONE)
        wrong = "image: either standardise (over all images) or z_score (within each) may be";
    else if ((m->mean.count || m->std.count) &&
             (!m->standardise || m->mean.count != m->channels || m->std.count != m->channels))
        wrong =
            "image: mean and std go together, with standardise: true, a number for each channel";
    else if (m->modality && !modality_ok(m->modality))
        wrong = "image: modality is a DICOM code of capital letters, digits, _ and spaces between: "
                "MR";
    else if (!stats_ok(m))
        wrong = "image: mean must be finite, and std finite and above 0";
    else
        wrong = kind_wrong(s->kind, m);
    return wrong ? tier_fail(err, TIER_ECONFIG, "%s: %s", path, wrong) : TIER_OK;
}

static enum tier_status check_file(const char *path, const struct spoke_schema *s,
                                   struct tier_err *err) {
    const char *d = s->file ? s->file->delimiter : NULL;

    if (s->file && s->kind == SPOKE_KIND_BIDS)
        return tier_fail(err, TIER_ECONFIG, "%s: file: kind: bids has a layout, and no table",
                         path);
    if (d && strcmp(d, "tab") != 0 && (strlen(d) != 1 || !strchr(",;|:\t ", d[0])))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: file: delimiter must be one of , ; | : a space or the word tab",
                         path);
    return TIER_OK;
}

static enum tier_status check_split(const char *path, const struct spoke_schema *s,
                                    struct tier_err *err) {
    const struct spoke_split_rule *r = s->split;

    if (r->by == SPOKE_SPLIT_PART && s->kind != SPOKE_KIND_NPZ)
        return tier_fail(err, TIER_ECONFIG, "%s: split: by: part is for kind: npz", path);
    if ((r->train || r->val || r->test) && r->by != SPOKE_SPLIT_PART)
        return tier_fail(err, TIER_ECONFIG, "%s: split: train, val and test go with by: part",
                         path);
    if (r->by == SPOKE_SPLIT_COLUMN && !spoke_schema_only(s, SPOKE_COLUMN_SPLIT))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: by: column needs a column of type split, which holds train "
                         "or test",
                         path);
    if (r->by == SPOKE_SPLIT_HASH && (!r->key || !r->fraction))
        return tier_fail(err, TIER_ECONFIG, "%s: split: by: hash needs key and fraction", path);
    if (r->by == SPOKE_SPLIT_HASH && s->kind != SPOKE_KIND_NPZ &&
        !spoke_schema_only(s, SPOKE_COLUMN_ID))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: by: hash needs a column of type id (the patient)", path);
    if (r->key && strlen(r->key) < 8)
        return tier_fail(err, TIER_ECONFIG, "%s: split: key must be at least 8 bytes", path);
    if (r->fraction && !(*r->fraction > 0.0 && *r->fraction < 1.0))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: fraction is the share of test rows, between 0 and 1", path);
    if (r->val_fraction && (r->by != SPOKE_SPLIT_HASH || !(*r->val_fraction > 0.0) ||
                            !(*r->val_fraction + *r->fraction < 1.0)))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: val_fraction is the share of validation rows of a split by "
                         "hash, above 0, and below 1 together with fraction",
                         path);
    return TIER_OK;
}

/* ---- public -------------------------------------------------------------------------------- */

enum tier_status spoke_schema_open(const char *path, struct spoke_schema **schema_out,
                                   struct tier_err *err) {
    struct spoke_schema *s = NULL;
    enum tier_status st;

    TIER_TRY(spoke_schema_read(path, &s, err));
    TIER_TRY_OUT(check_file(path, s, err));
    TIER_TRY_OUT(check_image(path, s, err));
    TIER_TRY_OUT(check_columns(path, s, err));
    TIER_TRY_OUT(check_split(path, s, err));
    *schema_out = s;
    return TIER_OK;
out:
    spoke_schema_free(s);
    return st;
}

size_t spoke_column_features(const struct spoke_column *c) {
    if (c->type == SPOKE_COLUMN_NUMBER)
        return 1;
    if (c->type != SPOKE_COLUMN_CATEGORY)
        return 0;
    return c->encode == SPOKE_ENCODE_INDEX ? 1 : c->categories_count - (c->drop_first ? 1u : 0u);
}

size_t spoke_schema_features(const struct spoke_schema *s) {
    size_t n = 0;
    if (s->image)
        return s->image->channels * spoke_schema_spatial(s);
    for (uint32_t i = 0; i < s->columns_count; i++)
        n += spoke_column_features(&s->columns[i]);
    return n;
}

size_t spoke_schema_spatial(const struct spoke_schema *s) {
    size_t n = 1;
    for (uint32_t i = 0; s->image && i < s->image->size.count; i++)
        n *= (size_t)s->image->size.at[i];
    return n;
}

const struct spoke_column *spoke_schema_target(const struct spoke_schema *s) {
    const struct spoke_column *target = spoke_schema_only(s, SPOKE_COLUMN_TARGET);
    return target ? target : spoke_schema_only(s, SPOKE_COLUMN_MASK);
}

size_t spoke_schema_readers(const struct spoke_schema *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->columns_count; i++)
        n += s->columns[i].type == SPOKE_COLUMN_TARGET || s->columns[i].type == SPOKE_COLUMN_MASK;
    return n;
}

size_t spoke_schema_classes(const struct spoke_schema *s) {
    const struct spoke_column *target = spoke_schema_target(s);
    return target->positive_above ? 2 : target->categories_count;
}

const char *spoke_schema_class_name(const struct spoke_schema *s, size_t class) {
    static const char *const sides[] = {"not above", "above"};
    const struct spoke_column *c = spoke_schema_target(s);
    return c->positive_above ? sides[class != 0] : c->categories[class];
}

void spoke_schema_feature_name(const struct spoke_schema *s, size_t feature, char *name,
                               size_t size) {
    if (s->image) {
        snprintf(name, size, "element %zu", feature);
        return;
    }
    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        size_t n = spoke_column_features(c);
        if (feature >= n) {
            feature -= n;
            continue;
        }
        if (c->type == SPOKE_COLUMN_CATEGORY && c->encode == SPOKE_ENCODE_ONE_HOT)
            snprintf(name, size, "%s=%s", c->name, c->categories[feature + c->drop_first]);
        else
            snprintf(name, size, "%s", c->name);
        return;
    }
    snprintf(name, size, "?");
}

const struct spoke_column *spoke_schema_only(const struct spoke_schema *s,
                                             enum spoke_column_type type) {
    for (uint32_t i = 0; i < s->columns_count; i++)
        if (s->columns[i].type == type)
            return &s->columns[i];
    return NULL;
}

char spoke_schema_delimiter(const struct spoke_schema *s) {
    const char *d = s->file ? s->file->delimiter : NULL;
    if (!d)
        return ',';
    return strcmp(d, "tab") == 0 ? '\t' : d[0];
}

/* Strings with their terminator, so that no two lists of strings look alike. */
static void hash_text(struct tier_hasher *h, const char *text) {
    tier_hasher_add(h, text ? text : "", text ? strlen(text) + 1 : 1);
}

static void hash_number(struct tier_hasher *h, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    hash_text(h, text);
}

static void hash_column(struct tier_hasher *h, const struct spoke_column *c) {
    hash_text(h, c->name);
    hash_number(h, c->type);
    hash_number(h, c->encode);
    hash_number(h, c->drop_first);
    hash_number(h, c->standardise);
    hash_number(h, c->mean ? *c->mean : 0.0);
    hash_number(h, c->std ? *c->std : 0.0);
    hash_number(h, c->categories_count);
    for (uint32_t j = 0; j < c->categories_count; j++)
        hash_text(h, c->categories[j]);
    hash_number(h, c->positive_above ? *c->positive_above : 0.0);
}

static void hash_optional(struct tier_hasher *h, const char *name, const double *value) {
    if (!value)
        return;
    hash_text(h, name);
    hash_number(h, *value);
}

/* What stands in a file only where it is used is hashed only then: tables keep their hash. */
static void hash_image(struct tier_hasher *h, const struct spoke_schema *s) {
    const struct spoke_image *m = s->image;

    hash_text(h, "image");
    hash_number(h, m->channels);
    for (uint32_t i = 0; i < m->size.count; i++)
        hash_optional(h, "side", &m->size.at[i]);
    hash_text(h, m->orientation);
    for (uint32_t i = 0; i < m->spacing.count; i++)
        hash_optional(h, "spacing", &m->spacing.at[i]);
    for (uint32_t i = 0; i < m->percentiles.count; i++)
        hash_optional(h, "percentile", &m->percentiles.at[i]);
    hash_optional(h, "scale", m->scale);
    hash_optional(h, "offset", m->offset);
    hash_number(h, m->z_score);
    hash_number(h, m->standardise);
    for (uint32_t i = 0; i < m->mean.count; i++) {
        hash_optional(h, "mean", &m->mean.at[i]);
        hash_optional(h, "std", &m->std.at[i]);
    }
}

/* Last, and only what is written: contracts without keep the hash that they had. */
static void hash_meaning(struct tier_hasher *h, const struct spoke_schema *s) {
    for (uint32_t i = 0; i < s->columns_count; i++) {
        if (!s->columns[i].unit)
            continue;
        hash_text(h, "unit");
        hash_text(h, s->columns[i].name);
        hash_text(h, s->columns[i].unit);
    }
    if (s->image && s->image->modality) {
        hash_text(h, "modality");
        hash_text(h, s->image->modality);
    }
}

void spoke_schema_hash(const struct spoke_schema *s, struct tier_hash *hash_out) {
    struct tier_hasher *h = tier_hasher_new();

    hash_text(h, "consilium schema 1");
    for (uint32_t i = 0; i < s->columns_count; i++)
        if (spoke_column_features(&s->columns[i]) > 0 || &s->columns[i] == spoke_schema_target(s) ||
            s->columns[i].type == SPOKE_COLUMN_EVENT)
            hash_column(h, &s->columns[i]);
    if (s->image)
        hash_image(h, s);
    if (spoke_schema_target(s)->value)
        hash_text(h, "value");
    hash_text(h, "split");
    hash_number(h, s->split->by);
    hash_text(h, s->split->key);
    hash_number(h, s->split->fraction ? *s->split->fraction : 0.0);
    hash_number(h, s->split->fold);
    hash_optional(h, "validation", s->split->val_fraction);
    hash_meaning(h, s);
    tier_hasher_finish(h, hash_out);
    tier_hasher_free(h);
}
