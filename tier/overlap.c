/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/overlap.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "consilium overlap 1"
#define LINE_BYTES 128
#define GROW_MIN 1024u

static const char *const parts[TIER_OVERLAP_PARTS] = {"train", "val", "test"};

const char *tier_overlap_part(size_t part) {
    return part < TIER_OVERLAP_PARTS ? parts[part] : "unknown";
}

static int by_bytes(const void *a, const void *b) {
    return memcmp(a, b, TIER_OVERLAP_ID_BYTES);
}

void tier_overlap_tidy(struct tier_overlap *o) {
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++) {
        struct tier_overlap_id *ids = o->ids[p];
        size_t n = 0;
        if (o->count[p] > 1)
            qsort(ids, o->count[p], sizeof *ids, by_bytes);
        for (size_t i = 0; i < o->count[p]; i++)
            if (i == 0 || by_bytes(&ids[n - 1], &ids[i]) != 0)
                ids[n++] = ids[i];
        o->count[p] = n;
    }
}

enum tier_status tier_overlap_write(const struct tier_overlap *o, FILE *out, struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    fprintf(out, MAGIC "\nkey %s\n", tier_hash_hex(&o->key, hex));
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++) {
        fprintf(out, "%s %zu\n", parts[p], o->count[p]);
        for (size_t i = 0; i < o->count[p]; i++) {
            for (size_t b = 0; b < TIER_OVERLAP_ID_BYTES; b++)
                fprintf(out, "%02x", o->ids[p][i].b[b]);
            putc('\n', out);
        }
    }
    return fflush(out) == 0 && !ferror(out) ? TIER_OK
                                            : tier_fail_errno(err, TIER_EIO, "cannot be written");
}

/* ---- reading --------------------------------------------------------------------------------- */

struct reader {
    FILE *in;
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

static bool id_of(const char *text, struct tier_overlap_id *out) {
    uint8_t high, low;

    if (strlen(text) != (size_t)2 * TIER_OVERLAP_ID_BYTES)
        return false;
    for (size_t i = 0; i < TIER_OVERLAP_ID_BYTES; i++) {
        if (!digit_of(text[2 * i], &high) || !digit_of(text[2 * i + 1], &low))
            return false;
        out->b[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum tier_status take_count(struct reader *r, size_t part, size_t *out) {
    size_t n = strlen(parts[part]);
    char want[64], *end = NULL;

    snprintf(want, sizeof want, "'%s N'", parts[part]);
    TIER_TRY(next(r, want));
    if (strncmp(r->text, parts[part], n) != 0 || r->text[n] != ' ' || r->text[n + 1] < '0' ||
        r->text[n + 1] > '9')
        return wrong(r, want);
    unsigned long long count = strtoull(r->text + n + 1, &end, 10);
    if (*end || (r->text[n + 1] == '0' && r->text[n + 2])) /* one number, one spelling */
        return wrong(r, want);
    if (count > TIER_OVERLAP_IDS_MAX)
        return tier_fail(r->err, TIER_ELIMIT, "%s:%zu: %llu patients, at most %u are taken",
                         r->name, r->line, count, TIER_OVERLAP_IDS_MAX);
    *out = (size_t)count;
    return TIER_OK;
}

/* What is said to come is not believed before it has: memory grows with the lines. */
static enum tier_status take_ids(struct reader *r, size_t part, size_t count,
                                 struct tier_overlap *o) {
    size_t room = 0;

    for (size_t i = 0; i < count; i++) {
        if (i == room) {
            room = room ? room * 2 : GROW_MIN;
            struct tier_overlap_id *more =
                realloc(o->ids[part], (room < count ? room : count) * sizeof *more);
            if (!more)
                return tier_fail(r->err, TIER_ENOMEM, "no memory for %zu patients", room);
            o->ids[part] = more;
        }
        TIER_TRY(next(r, "a name of 32 hex digits"));
        if (!id_of(r->text, &o->ids[part][i]))
            return wrong(r, "a name of 32 hex digits");
        if (i > 0 && by_bytes(&o->ids[part][i - 1], &o->ids[part][i]) >= 0)
            return wrong(r, "a name above the one before");
        o->count[part]++;
    }
    return TIER_OK;
}

static enum tier_status read_all(struct reader *r, struct tier_overlap *o) {
    char hex[TIER_HASH_HEX];
    size_t count = 0;

    TIER_TRY(next(r, "'" MAGIC "'"));
    if (strcmp(r->text, MAGIC) != 0)
        return wrong(r, "'" MAGIC "'");
    TIER_TRY(next(r, "'key HEX'"));
    if (strncmp(r->text, "key ", 4) != 0 || !tier_hash_parse(r->text + 4, &o->key) ||
        strcmp(r->text + 4, tier_hash_hex(&o->key, hex)) != 0) /* lower-case */
        return wrong(r, "'key HEX'");
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++) {
        TIER_TRY(take_count(r, p, &count));
        TIER_TRY(take_ids(r, p, count, o));
    }
    r->line++;
    return getc(r->in) == EOF ? TIER_OK : wrong(r, "the end");
}

enum tier_status tier_overlap_read(FILE *in, const char *name, struct tier_overlap *out,
                                   struct tier_err *err) {
    struct reader r = {.in = in, .name = name, .err = err};

    *out = (struct tier_overlap){0};
    enum tier_status st = read_all(&r, out);
    if (st != TIER_OK)
        tier_overlap_release(out);
    return st;
}

void tier_overlap_release(struct tier_overlap *o) {
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        free(o->ids[p]);
    *o = (struct tier_overlap){0};
}

size_t tier_overlap_common(const struct tier_overlap *a, size_t i, const struct tier_overlap *b,
                           size_t j) {
    size_t common = 0;

    for (size_t x = 0, y = 0; x < a->count[i] && y < b->count[j];) {
        int order = by_bytes(&a->ids[i][x], &b->ids[j][y]);
        common += order == 0;
        x += order <= 0;
        y += order >= 0;
    }
    return common;
}
