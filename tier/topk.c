/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threshold is found by counting magnitudes, 11 and twice 10 bits of them at a time, so that
 * which elements are kept depends on nothing but their values. A reader holds no buffer between
 * calls: a merge has one for each of thousands of updates.
 */
#include "tier/topk.h"

#include "tier/bytes.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>

#define PLACES_BYTES 512u /* read at a time */
#define VALUES 512u       /* likewise */
#define GAP_BYTES_MAX 3u
_Static_assert(TIER_SEGMENT_ELEMENTS <= 1u << 7 * GAP_BYTES_MAX, "every gap has that many bytes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are read as they are");

#define HEX_SHOWN 16

static uint32_t magnitude(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u & 0x7fffffffu;
}

static size_t gap_bytes(size_t gap) {
    return gap < 1u << 7 ? 1 : gap < 1u << 14 ? 2 : 3;
}

static size_t map_bytes(size_t n) {
    return (n + 7) / 8;
}

size_t tier_topk_count(double share, size_t n) {
    double keep = ceil(share * (double)n);

    return keep < 1 ? 1 : keep > (double)n ? n : (size_t)keep;
}

/* The keep-th largest magnitude; *ties_out of those that equal it are kept. */
static uint32_t threshold(const float *x, size_t n, size_t keep, size_t *ties_out) {
    static const struct {
        int shift;
        uint32_t mask;
    } digits[] = {{20, 2047}, {10, 1023}, {0, 1023}};
    uint32_t prefix = 0, known = 0;
    size_t left = keep;

    for (size_t d = 0; d < sizeof digits / sizeof digits[0]; d++) {
        uint32_t counts[2048] = {0}, digit = digits[d].mask;
        for (size_t i = 0; i < n; i++) {
            uint32_t a = magnitude(x[i]);
            if ((a & known) == prefix)
                counts[a >> digits[d].shift & digits[d].mask]++;
        }
        while (counts[digit] < left)
            left -= counts[digit--];
        prefix |= digit << digits[d].shift;
        known |= digits[d].mask << digits[d].shift;
    }
    *ties_out = left;
    return prefix;
}

/* Sets the bits of what is kept; returns their number, and the bytes of their gaps. */
static size_t choose(const float *x, size_t n, size_t keep, uint8_t *map, size_t *gaps_out) {
    size_t ties = 0, count = 0, gaps = 0, next = 0;
    uint32_t least = threshold(x, n, keep, &ties);

    for (size_t i = 0; i < n; i++) {
        uint32_t a = magnitude(x[i]);
        if (a < least || a == 0 || (a == least && ties == 0))
            continue;
        ties -= a == least;
        map[i / 8] |= (uint8_t)(1u << i % 8);
        gaps += gap_bytes(i - next);
        next = i + 1;
        count++;
    }
    *gaps_out = gaps;
    return count;
}

static size_t put_gap(uint8_t *out, size_t gap) {
    size_t used = 0;

    for (; gap >= 0x80; gap >>= 7)
        out[used++] = (uint8_t)(gap | 0x80);
    out[used++] = (uint8_t)gap;
    return used;
}

size_t tier_topk_encode(float *x, size_t n, size_t keep, uint8_t *out) {
    uint8_t map[TIER_SEGMENT_ELEMENTS / 8] = {0};
    size_t gaps = 0, next = 0;

    assert(n > 0 && n <= TIER_SEGMENT_ELEMENTS && keep > 0 && keep <= n);
    size_t count = choose(x, n, keep, map, &gaps);
    bool as_map = gaps >= map_bytes(n);
    uint8_t *places = out + TIER_TOPK_HEAD_BYTES;
    uint8_t *values = places + (as_map ? map_bytes(n) : gaps);

    tier_put_u32(out, (uint32_t)count);
    out[4] = as_map;
    if (as_map)
        memcpy(places, map, map_bytes(n));
    for (size_t i = 0; i < n; i++) {
        if (!(map[i / 8] >> i % 8 & 1))
            continue;
        if (!as_map)
            places += put_gap(places, i - next);
        next = i + 1;
        memcpy(values, &x[i], sizeof *x);
        values += sizeof *x;
        x[i] = 0;
    }
    return (size_t)(values - out);
}

/* ---- reading --------------------------------------------------------------------------------- */

static enum tier_status wrong(const struct tier_topk_reader *r, const char *what,
                              struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE, "update %.*s, segment %" PRIu64 ": %s", HEX_SHOWN,
                     tier_hash_hex(tier_spool_update_id(r->payload->update), hex), r->segment,
                     what);
}

enum tier_status tier_topk_begin(struct tier_topk_reader *r, const struct tier_payload *payload,
                                 uint64_t segment, uint64_t offset, size_t bytes, size_t n,
                                 struct tier_err *err) {
    uint8_t head[TIER_TOPK_HEAD_BYTES];

    *r = (struct tier_topk_reader){.payload = payload, .segment = segment, .n = n};
    if (bytes < sizeof head)
        return wrong(r, "too short for a count of places", err);
    TIER_TRY(tier_payload_read(payload, offset, head, sizeof head, err));
    r->count = tier_get_u32(head);
    r->bitmap = head[4] == 1;
    if (r->count > n || head[4] > 1)
        return wrong(r, "its count of places, or how they are written, is not possible", err);
    if (bytes - sizeof head < 4 * r->count)
        return wrong(r, "it is too short for its values", err);
    size_t places = bytes - sizeof head - 4 * r->count;
    if (r->bitmap ? places != map_bytes(n) : places < r->count || places >= map_bytes(n))
        return wrong(r, "its length does not fit its places and values", err);
    r->place_at = offset + sizeof head;
    r->place_end = r->value_at = r->place_at + places;
    return TIER_OK;
}

/* The values of `k` places, all in [done, done + n), into x. */
static enum tier_status take_values(struct tier_topk_reader *r, const size_t *place, size_t k,
                                    float *x, struct tier_err *err) {
    float values[VALUES];

    if (k == 0)
        return TIER_OK;
    TIER_TRY(tier_payload_read(r->payload, r->value_at, values, k * sizeof *values, err));
    r->value_at += k * sizeof *values;
    for (size_t i = 0; i < k; i++) {
        if (values[i] == 0)
            return wrong(r, "one of its values is 0, and would have been left out", err);
        x[place[i] - r->done] = values[i];
    }
    return TIER_OK;
}

/* A place is known: counts it, and what its gap takes. */
static enum tier_status see_place(struct tier_topk_reader *r, size_t place, struct tier_err *err) {
    if (r->seen == r->count)
        return wrong(r, "it has more places than its count says", err);
    r->seen++;
    r->gap_bytes += gap_bytes(place - r->next);
    r->next = place + 1;
    return TIER_OK;
}

static enum tier_status next_of_map(struct tier_topk_reader *r, float *x, size_t n,
                                    struct tier_err *err) {
    uint8_t map[PLACES_BYTES];
    size_t place[VALUES], k = 0, end = r->done + n;

    for (size_t at = r->done; at < end; at += 8 * PLACES_BYTES) {
        size_t bytes = map_bytes(end - at < 8 * (size_t)PLACES_BYTES ? end - at : 8 * PLACES_BYTES);
        TIER_TRY(tier_payload_read(r->payload, r->place_at, map, bytes, err));
        r->place_at += bytes;
        for (size_t b = 0; b < 8 * bytes; b++) {
            if (!(map[b / 8] >> b % 8 & 1))
                continue;
            if (at + b >= end)
                return wrong(r, "a bit is set behind its last element", err);
            TIER_TRY(see_place(r, at + b, err));
            place[k++] = at + b;
            if (k == VALUES) {
                TIER_TRY(take_values(r, place, k, x, err));
                k = 0;
            }
        }
    }
    return take_values(r, place, k, x, err);
}

/* Some bytes of gaps, taken one gap at a time. */
struct window {
    uint8_t bytes[PLACES_BYTES];
    size_t at, len;
};

/* The next gap becomes the place `next`, which is still to be seen. */
static enum tier_status read_gap(struct tier_topk_reader *r, struct window *w,
                                 struct tier_err *err) {
    size_t gap = 0, used = 0;

    if (w->len - w->at < GAP_BYTES_MAX) {
        uint64_t left = r->place_end - r->place_at;
        w->at = 0;
        w->len = left < PLACES_BYTES ? (size_t)left : PLACES_BYTES;
        TIER_TRY(tier_payload_read(r->payload, r->place_at, w->bytes, w->len, err));
    }
    uint8_t byte = 0x80;
    while (used < GAP_BYTES_MAX && w->at < w->len && byte & 0x80) {
        byte = w->bytes[w->at++];
        gap |= (size_t)(byte & 0x7f) << 7 * used++;
    }
    if (byte & 0x80 || (used > 1 && byte == 0))
        return wrong(r, "one of its places is cut short, or longer than it need be", err);
    r->place_at += used;
    if (gap >= r->n - r->next)
        return wrong(r, "one of its places is behind its last element", err);
    r->gap_bytes += used;
    r->next += gap;
    r->ahead = true;
    r->seen++;
    return TIER_OK;
}

static enum tier_status next_of_gaps(struct tier_topk_reader *r, float *x, size_t n,
                                     struct tier_err *err) {
    struct window w = {.len = 0};
    size_t place[VALUES], k = 0, end = r->done + n;

    for (;;) {
        if (!r->ahead && (r->seen == r->count || r->next >= end))
            break;
        if (!r->ahead)
            TIER_TRY(read_gap(r, &w, err));
        if (r->next >= end)
            break;
        place[k++] = r->next++;
        r->ahead = false;
        if (k == VALUES) {
            TIER_TRY(take_values(r, place, k, x, err));
            k = 0;
        }
    }
    return take_values(r, place, k, x, err);
}

enum tier_status tier_topk_next(struct tier_topk_reader *r, float *x, size_t n,
                                struct tier_err *err) {
    memset(x, 0, n * sizeof *x);
    TIER_TRY(r->bitmap ? next_of_map(r, x, n, err) : next_of_gaps(r, x, n, err));
    r->done += n;
    if (r->done < r->n)
        return TIER_OK;
    if (r->seen != r->count || r->place_at != r->place_end)
        return wrong(r, "it has fewer places than its count or its length says", err);
    if (r->bitmap && r->gap_bytes < map_bytes(r->n))
        return wrong(r, "its places are a bitmap where gaps would be shorter", err);
    return TIER_OK;
}
