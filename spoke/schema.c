/* SPDX-License-Identifier: Apache-2.0 */
/* What a schema means and may not say; reading the file itself is schema_read.c. */
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
    bool target = c->type == SPOKE_COLUMN_TARGET;
    const char *extra = NULL;

    if ((c->min || c->max) && !number)
        extra = "min and max belong to numbers";
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
    else if (c->categories && !category && !target)
        extra = "categories belong to a category or the target";
    else if (c->positive_above && !target)
        extra = "positive_above belongs to the target";
    else if (number && ((c->min && !isfinite(*c->min)) || (c->max && !isfinite(*c->max)) ||
                        (c->min && c->max && *c->min > *c->max)))
        extra = "min and max must be finite, and min at most max";
    else if (category && !c->categories)
        extra = "a category needs its list of categories, here or in the code-book";
    else if (category && c->drop_first && c->categories_count < 2)
        extra = "drop_first leaves no feature of a single category";
    else if (target && (c->positive_above != NULL) == (c->categories != NULL))
        extra = "the target needs either positive_above or categories";
    else if (target && c->categories && c->categories_count < 2)
        extra = "the target needs at least two categories";
    else if (target && c->positive_above && !isfinite(*c->positive_above))
        extra = "positive_above must be finite";
    if (extra)
        return tier_fail(err, TIER_ECONFIG, "%s:%d: column '%s': %s", path, c->line, c->name,
                         extra);
    return check_categories(path, c, err);
}

static enum tier_status check_columns(const char *path, const struct spoke_schema *s,
                                      struct tier_err *err) {
    size_t count[SPOKE_COLUMN_IGNORE + 1] = {0};

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
        TIER_TRY(check_keys(path, c, err));
        count[c->type]++;
    }
    if (count[SPOKE_COLUMN_TARGET] != 1)
        return tier_fail(err, TIER_ECONFIG, "%s: %zu columns are the target: exactly one must be",
                         path, count[SPOKE_COLUMN_TARGET]);
    if (count[SPOKE_COLUMN_ID] > 1 || count[SPOKE_COLUMN_SPLIT] > 1)
        return tier_fail(err, TIER_ECONFIG, "%s: two columns have the type %s: one may", path,
                         count[SPOKE_COLUMN_ID] > 1 ? "id" : "split");
    size_t features = spoke_schema_features(s);
    if (features == 0 || features > SPOKE_FEATURES_MAX)
        return tier_fail(err, TIER_ECONFIG, "%s: the columns make %zu features: 1 to %u may be",
                         path, features, SPOKE_FEATURES_MAX);
    return TIER_OK;
}

static enum tier_status check_file(const char *path, const struct spoke_schema *s,
                                   struct tier_err *err) {
    const char *d = s->file ? s->file->delimiter : NULL;

    if (d && strcmp(d, "tab") != 0 && (strlen(d) != 1 || !strchr(",;|:\t ", d[0])))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: file: delimiter must be one of , ; | : a space or the word tab",
                         path);
    return TIER_OK;
}

static enum tier_status check_split(const char *path, const struct spoke_schema *s,
                                    struct tier_err *err) {
    const struct spoke_split_rule *r = s->split;

    if (r->by == SPOKE_SPLIT_COLUMN && !spoke_schema_only(s, SPOKE_COLUMN_SPLIT))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: by: column needs a column of type split, which holds train "
                         "or test",
                         path);
    if (r->by == SPOKE_SPLIT_HASH && (!r->key || !r->fraction))
        return tier_fail(err, TIER_ECONFIG, "%s: split: by: hash needs key and fraction", path);
    if (r->by == SPOKE_SPLIT_HASH && !spoke_schema_only(s, SPOKE_COLUMN_ID))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: by: hash needs a column of type id (the patient)", path);
    if (r->key && strlen(r->key) < 8)
        return tier_fail(err, TIER_ECONFIG, "%s: split: key must be at least 8 bytes", path);
    if (r->fraction && !(*r->fraction > 0.0 && *r->fraction < 1.0))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: fraction is the share of test rows, between 0 and 1", path);
    return TIER_OK;
}

/* ---- public -------------------------------------------------------------------------------- */

enum tier_status spoke_schema_open(const char *path, struct spoke_schema **schema_out,
                                   struct tier_err *err) {
    struct spoke_schema *s = NULL;
    enum tier_status st;

    TIER_TRY(spoke_schema_read(path, &s, err));
    TIER_TRY_OUT(check_file(path, s, err));
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
    for (uint32_t i = 0; i < s->columns_count; i++)
        n += spoke_column_features(&s->columns[i]);
    return n;
}

size_t spoke_schema_classes(const struct spoke_schema *s) {
    const struct spoke_column *target = spoke_schema_only(s, SPOKE_COLUMN_TARGET);
    return target->positive_above ? 2 : target->categories_count;
}

void spoke_schema_feature_name(const struct spoke_schema *s, size_t feature, char *name,
                               size_t size) {
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

void spoke_schema_hash(const struct spoke_schema *s, struct tier_hash *hash_out) {
    struct tier_hasher *h = tier_hasher_new();

    hash_text(h, "consilium schema 1");
    for (uint32_t i = 0; i < s->columns_count; i++)
        if (spoke_column_features(&s->columns[i]) > 0 || s->columns[i].type == SPOKE_COLUMN_TARGET)
            hash_column(h, &s->columns[i]);
    hash_text(h, "split");
    hash_number(h, s->split->by);
    hash_text(h, s->split->key);
    hash_number(h, s->split->fraction ? *s->split->fraction : 0.0);
    hash_number(h, s->split->fold);
    tier_hasher_finish(h, hash_out);
    tier_hasher_free(h);
}
