/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block of zstd has one table of symbols, so the stream is flushed at each plane's end: planes of
 * a short segment would share a table that fits none of them. Level 1: on deltas 3 and 9 take two
 * to ten times as long for a hundredth of the bytes.
 */
#include "tier/zip.h"

#include "tier/bytes.h"
#include "tier/topk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define LEVEL 1
#define CONTEXT_BYTES (256u << 10) /* of a ZSTD_DCtx, roughly and from above */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a number's bytes are told apart by it");

struct tier_zip {
    ZSTD_CCtx *zstd;
    uint8_t *planes, *frame;
    size_t room;
};

bool tier_zip_takes(enum tier_encoding encoding) {
    return encoding != TIER_ENC_SUM && encoding != TIER_ENC_ONEBIT &&
           !tier_encoding_masked(encoding);
}

/* ---- planes ---------------------------------------------------------------------------------- */

/* `head` bytes stay as they are, then come `count` numbers of `width` bytes. */
struct planes {
    size_t head, width, count;
};

/* A TOPK segment that contradicts itself is all head; its reader says what is wrong with it. */
static struct planes planes_of(enum tier_encoding encoding, const uint8_t *in, size_t n) {
    struct planes p = {.head = n, .width = 1};

    if (encoding == TIER_ENC_F32)
        p = (struct planes){0, 4, n / 4};
    else if (encoding == TIER_ENC_F16 || encoding == TIER_ENC_BF16)
        p = (struct planes){0, 2, n / 2};
    else if (encoding == TIER_ENC_TOPK && n >= TIER_TOPK_HEAD_BYTES &&
             tier_get_u32(in) <= (n - TIER_TOPK_HEAD_BYTES) / 4)
        p = (struct planes){n - 4 * (size_t)tier_get_u32(in), 4, tier_get_u32(in)};
    return p;
}

static void take_apart(uint8_t *restrict out, const uint8_t *restrict in, const struct planes *p) {
    memcpy(out, in, p->head);
    for (size_t k = 0; k < p->width; k++)
        for (size_t i = 0; i < p->count; i++)
            out[p->head + k * p->count + i] = in[p->head + p->width * i + k];
}

static void put_together(uint8_t *restrict out, const uint8_t *restrict in,
                         const struct planes *p) {
    const uint8_t *a = in + p->head, *b = a + p->count, *c = b + p->count, *d = c + p->count;

    memcpy(out, in, p->head);
    out += p->head;
    if (p->width == 4)
        for (size_t i = 0; i < p->count; i++) {
            uint32_t v = a[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 | (uint32_t)d[i] << 24;
            memcpy(out + 4 * i, &v, sizeof v);
        }
    if (p->width == 2)
        for (size_t i = 0; i < p->count; i++) {
            uint16_t v = (uint16_t)(a[i] | b[i] << 8);
            memcpy(out + 2 * i, &v, sizeof v);
        }
}

/* ---- packing --------------------------------------------------------------------------------- */

enum tier_status tier_zip_new(size_t bytes_max, struct tier_zip **out, struct tier_err *err) {
    struct tier_zip *z = calloc(1, sizeof *z);

    if (z) {
        z->room = bytes_max;
        z->zstd = ZSTD_createCCtx();
        z->planes = malloc(bytes_max);
        z->frame = malloc(bytes_max);
    }
    if (z && z->zstd && z->planes && z->frame &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(z->zstd, ZSTD_c_compressionLevel, LEVEL))) {
        *out = z;
        return TIER_OK;
    }
    tier_zip_free(z);
    return tier_fail(err, TIER_ENOMEM, "no memory to compress segments of %zu bytes", bytes_max);
}

void tier_zip_free(struct tier_zip *z) {
    if (!z)
        return;
    ZSTD_freeCCtx(z->zstd);
    free(z->planes);
    free(z->frame);
    free(z);
}

/* Adds n bytes; false where the frame is as long as its room. */
static bool add(struct tier_zip *z, ZSTD_outBuffer *frame, const uint8_t *bytes, size_t n,
                ZSTD_EndDirective how) {
    ZSTD_inBuffer in = {bytes, n, 0};

    return ZSTD_compressStream2(z->zstd, frame, &in, how) == 0;
}

size_t tier_zip_pack(struct tier_zip *z, enum tier_encoding encoding, const uint8_t *in, size_t n,
                     const uint8_t **frame_out) {
    assert(n > 0 && n <= z->room);
    struct planes p = planes_of(encoding, in, n);
    ZSTD_outBuffer frame = {z->frame, n - 1, 0};

    take_apart(z->planes, in, &p);
    ZSTD_CCtx_reset(z->zstd, ZSTD_reset_session_only);
    ZSTD_CCtx_setPledgedSrcSize(z->zstd, n);
    if (p.head > 0 && !add(z, &frame, z->planes, p.head, ZSTD_e_flush))
        return 0;
    for (size_t k = 0; k < p.width && p.count > 0; k++)
        if (!add(z, &frame, z->planes + p.head + k * p.count, p.count, ZSTD_e_flush))
            return 0;
    if (!add(z, &frame, NULL, 0, ZSTD_e_end))
        return 0;
    *frame_out = z->frame;
    return frame.pos;
}

/* ---- unpacking ------------------------------------------------------------------------------- */

void tier_unzip_release(struct tier_unzip *u) {
    ZSTD_freeDCtx(u->zstd);
    free(u->frame);
    free(u->planes);
    *u = (struct tier_unzip){.room = 0};
}

size_t tier_unzip_memory(size_t bytes_max) {
    return CONTEXT_BYTES + 2 * bytes_max;
}

enum tier_status tier_unzip_begin(struct tier_unzip *u, size_t bytes_max, uint8_t **frame_out,
                                  struct tier_err *err) {
    if (u->room < bytes_max) {
        tier_unzip_release(u);
        u->zstd = ZSTD_createDCtx();
        u->frame = malloc(bytes_max);
        u->planes = malloc(bytes_max);
        if (!u->zstd || !u->frame || !u->planes) {
            tier_unzip_release(u);
            return tier_fail(err, TIER_ENOMEM, "no memory for segments of %zu bytes", bytes_max);
        }
        u->room = bytes_max;
    }
    *frame_out = u->frame;
    return TIER_OK;
}

enum tier_status tier_unzip_end(struct tier_unzip *u, enum tier_encoding encoding, size_t n,
                                size_t least, size_t most, const uint8_t **out, size_t *bytes_out,
                                struct tier_err *err) {
    assert(n <= u->room && most <= u->room);
    /* The magic number leaves out frames of older formats, and those that are to be skipped. */
    if (n < 4 || tier_get_u32(u->frame) != ZSTD_MAGICNUMBER)
        return tier_fail(err, TIER_EUPDATE, "no zstd frame begins there");
    unsigned long long says = ZSTD_getFrameContentSize(u->frame, n);
    if (says == ZSTD_CONTENTSIZE_UNKNOWN || says == ZSTD_CONTENTSIZE_ERROR)
        return tier_fail(err, TIER_EUPDATE, "its zstd frame does not say how much it holds");
    if (says < least || says > most)
        return tier_fail(err, TIER_EUPDATE,
                         "its zstd frame says that it holds %llu bytes; %zu to %zu are possible",
                         says, least, most);
    if (says <= n)
        return tier_fail(err, TIER_EUPDATE,
                         "its zstd frame of %zu bytes is no shorter than the %llu that it holds", n,
                         says);
    if (ZSTD_findFrameCompressedSize(u->frame, n) != n)
        return tier_fail(err, TIER_EUPDATE, "its zstd frame does not end where its bytes end");
    if (ZSTD_decompressDCtx(u->zstd, u->planes, (size_t)says, u->frame, n) != says)
        return tier_fail(err, TIER_EUPDATE,
                         "its zstd frame is damaged, or holds less than it says");
    struct planes p = planes_of(encoding, u->planes, (size_t)says);
    *bytes_out = (size_t)says;
    *out = u->planes;
    if (p.count == 0)
        return TIER_OK;
    put_together(u->frame, u->planes, &p);
    *out = u->frame;
    return TIER_OK;
}
