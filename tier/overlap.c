/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/overlap.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC "consilium overlap 2"
#define LINE_BYTES 128
#define GROW_MIN 1024u

static const char *const parts[TIER_OVERLAP_PARTS] = {"train", "val", "test"};

const char *tier_overlap_part(size_t part) {
    return part < TIER_OVERLAP_PARTS ? parts[part] : "unknown";
}

static int by_bytes(const void *a, const void *b) {
    return memcmp(a, b, TIER_PSI_POINT_BYTES);
}

static int by_hash(const void *a, const void *b) {
    return memcmp(a, b, TIER_HASH_BYTES);
}

/* ---- blinding -------------------------------------------------------------------------------- */

static void tidy(struct tier_overlap *o, size_t part) {
    struct tier_psi_point *points = o->points[part];
    size_t n = 0;

    if (o->count[part] > 1)
        qsort(points, o->count[part], sizeof *points, by_bytes);
    for (size_t i = 0; i < o->count[part]; i++)
        if (i == 0 || by_bytes(&points[n - 1], &points[i]) != 0)
            points[n++] = points[i];
    o->count[part] = n;
}

static enum tier_status add_key(struct tier_overlap *o, const struct tier_psi_secret *secret,
                                struct tier_err *err) {
    struct tier_hash key;

    tier_psi_secret_id(secret, &key);
    for (size_t i = 0; i < o->key_count; i++)
        if (tier_hash_equal(&o->keys[i], &key))
            return tier_fail(
                err, TIER_ECONFLICT,
                "this secret has blinded it already: it is the other sites' to answer");
    if (o->key_count >= TIER_OVERLAP_KEYS_MAX)
        return tier_fail(err, TIER_ELIMIT, "%d sites have blinded it, and no more may",
                         TIER_OVERLAP_KEYS_MAX);
    o->keys[o->key_count++] = key;
    qsort(o->keys, o->key_count, sizeof *o->keys, by_hash);
    return TIER_OK;
}

enum tier_status tier_overlap_blind(struct tier_overlap *o, const struct tier_psi_secret *secret,
                                    struct tier_err *err) {
    struct tier_psi *b = NULL;
    enum tier_status st;

    TIER_TRY(add_key(o, secret, err));
    TIER_TRY_OUT(tier_psi_new(&b, err));
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++) {
        for (size_t i = 0; i < o->count[p]; i++)
            TIER_TRY_OUT(tier_psi_apply(b, secret, &o->points[p][i], err));
        tidy(o, p);
    }
out:
    tier_psi_free(b);
    return st;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void write_hex(FILE *out, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%02x", bytes[i]);
    putc('\n', out);
}

enum tier_status tier_overlap_write(const struct tier_overlap *o, FILE *out, struct tier_err *err) {
    fprintf(out, MAGIC "\nkeys %zu\n", o->key_count);
    for (size_t i = 0; i < o->key_count; i++)
        write_hex(out, o->keys[i].b, TIER_HASH_BYTES);
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++) {
        fprintf(out, "%s %zu\n", parts[p], o->count[p]);
        for (size_t i = 0; i < o->count[p]; i++)
            write_hex(out, o->points[p][i].b, TIER_PSI_POINT_BYTES);
    }
    return fflush(out) == 0 && !ferror(out) ? TIER_OK
                                            : tier_fail_errno(err, TIER_EIO, "cannot be written");
}

/* ---- reading --------------------------------------------------------------------------------- */

struct reader {
    FILE *in;
    struct tier_psi *blind;
    const char *name;
    size_t line;
    char text[LINE_BYTES];
    struct tier_err *err;
};

static enum tier_status wrong(const struct reader *r, const char *want) {
    return tier_fail(r->err, TIER_EDATA, "%s:%zu: %s was to be here: it is no file of `overlap`",
                     r->name, r->line, want);
}

/* Without its line feed, which every line has. */
static enum tier_status next(struct reader *r, const char *want) {
    r->line++;
    if (!fgets(r->text, sizeof r->text, r->in))
        return wrong(r, want);
    size_t n = strlen(r->text);
    if (n == 0 || r->text[n - 1] != '\n')
        return wrong(r, want);
    r->text[n - 1] = '\0';
    return TIER_OK;
}

static bool digit_of(char c, uint8_t *out) {
    if (c >= '0' && c <= '9')
        *out = (uint8_t)(c - '0');
    else if (c >= 'a' && c <= 'f')
        *out = (uint8_t)(c - 'a' + 10);
    else
        return false;
    return true;
}

/* n bytes in as many hex digits as they take, in lower case. */
static bool bytes_of(const char *text, uint8_t *out, size_t n) {
    uint8_t high, low;

    if (strlen(text) != 2 * n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!digit_of(text[2 * i], &high) || !digit_of(text[2 * i + 1], &low))
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum tier_status take_count(struct reader *r, const char *what, size_t most, size_t *out) {
    size_t n = strlen(what);
    char want[64], *end = NULL;

    snprintf(want, sizeof want, "'%s N'", what);
    TIER_TRY(next(r, want));
    if (strncmp(r->text, what, n) != 0 || r->text[n] != ' ' || r->text[n + 1] < '0' ||
        r->text[n + 1] > '9')
        return wrong(r, want);
    unsigned long long count = strtoull(r->text + n + 1, &end, 10);
    if (*end || (r->text[n + 1] == '0' && r->text[n + 2])) /* one number, one spelling */
        return wrong(r, want);
    if (count > most)
        return tier_fail(r->err, TIER_ELIMIT, "%s:%zu: %llu in '%s', at most %zu are taken",
                         r->name, r->line, count, what, most);
    *out = (size_t)count;
    return TIER_OK;
}

static enum tier_status take_keys(struct reader *r, struct tier_overlap *o) {
    static const char want[] = "64 hex digits of a secret, above those before,";

    TIER_TRY(take_count(r, "keys", TIER_OVERLAP_KEYS_MAX, &o->key_count));
    if (o->key_count == 0)
        return wrong(r, "at least one key");
    for (size_t i = 0; i < o->key_count; i++) {
        TIER_TRY(next(r, want));
        if (!bytes_of(r->text, o->keys[i].b, TIER_HASH_BYTES) ||
            (i > 0 && by_hash(&o->keys[i - 1], &o->keys[i]) >= 0))
            return wrong(r, want);
    }
    return TIER_OK;
}

/* What is said to come is not believed before it has: memory grows with the lines. */
static enum tier_status take_points(struct reader *r, size_t part, size_t count,
                                    struct tier_overlap *o) {
    size_t room = 0;

    for (size_t i = 0; i < count; i++) {
        if (i == room) {
            room = room ? room * 2 : GROW_MIN;
            struct tier_psi_point *more =
                realloc(o->points[part], (room < count ? room : count) * sizeof *more);
            if (!more)
                return tier_fail(r->err, TIER_ENOMEM, "no memory for %zu patients", room);
            o->points[part] = more;
        }
        struct tier_psi_point *point = &o->points[part][i];
        TIER_TRY(next(r, "a point of 66 hex digits"));
        if (!bytes_of(r->text, point->b, TIER_PSI_POINT_BYTES))
            return wrong(r, "a point of 66 hex digits");
        if (i > 0 && by_bytes(point - 1, point) >= 0)
            return wrong(r, "a point above the one before");
        if (!tier_psi_is_point(r->blind, point))
            return wrong(r, "a point of P-256");
        o->count[part]++;
    }
    return TIER_OK;
}

static enum tier_status read_all(struct reader *r, struct tier_overlap *o) {
    size_t count = 0;

    TIER_TRY(next(r, "'" MAGIC "'"));
    if (strcmp(r->text, MAGIC) != 0)
        return wrong(r, "'" MAGIC "'");
    TIER_TRY(take_keys(r, o));
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++) {
        TIER_TRY(take_count(r, parts[p], TIER_OVERLAP_IDS_MAX, &count));
        TIER_TRY(take_points(r, p, count, o));
    }
    r->line++;
    return getc(r->in) == EOF ? TIER_OK : wrong(r, "the end");
}

enum tier_status tier_overlap_read(FILE *in, const char *name, struct tier_overlap *out,
                                   struct tier_err *err) {
    struct reader r = {.in = in, .name = name, .err = err};

    *out = (struct tier_overlap){0};
    TIER_TRY(tier_psi_new(&r.blind, err));
    enum tier_status st = read_all(&r, out);
    tier_psi_free(r.blind);
    if (st != TIER_OK)
        tier_overlap_release(out);
    return st;
}

void tier_overlap_release(struct tier_overlap *o) {
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        free(o->points[p]);
    *o = (struct tier_overlap){0};
}

bool tier_overlap_comparable(const struct tier_overlap *a, const struct tier_overlap *b) {
    return a->key_count == b->key_count &&
           memcmp(a->keys, b->keys, a->key_count * sizeof *a->keys) == 0;
}

size_t tier_overlap_common(const struct tier_overlap *a, size_t i, const struct tier_overlap *b,
                           size_t j) {
    size_t common = 0;

    for (size_t x = 0, y = 0; x < a->count[i] && y < b->count[j];) {
        int order = by_bytes(&a->points[i][x], &b->points[j][y]);
        common += order == 0;
        x += order <= 0;
        y += order >= 0;
    }
    return common;
}
