/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bodies of a secure sum's steps, what is hashed and signed of them, and the graph of
 * neighbours: everything that both ends must compute alike (mask_private.h).
 */
#include "tier/identity.h"
#include "tier/mask_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

const uint8_t *mask_read(struct mask_reader *r, size_t n) {
    const uint8_t *at = r->at;

    if (r->failed || n > r->left) {
        r->failed = true;
        return NULL;
    }
    r->at += n;
    r->left -= n;
    return at;
}

uint32_t mask_read_number(struct mask_reader *r, size_t n) {
    const uint8_t *p = mask_read(r, n);
    uint32_t v = 0;

    for (size_t i = 0; p && i < n; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

bool mask_read_whole(const struct mask_reader *r) {
    return !r->failed && r->left == 0;
}

void mask_write(struct mask_writer *w, const void *data, size_t n) {
    if (w->n + n > w->room) {
        w->room = 2 * (w->n + n);
        w->data = need(realloc(w->data, w->room));
    }
    if (n > 0)
        memcpy(w->data + w->n, data, n);
    w->n += n;
}

void mask_write_number(struct mask_writer *w, uint32_t v, size_t n) {
    uint8_t bytes[4];

    tier_put_u32(bytes, v);
    mask_write(w, bytes, n);
}

/* ---- advertisements ---- */

static bool take(struct mask_reader *r, void *out, size_t n) {
    const uint8_t *p = mask_read(r, n);

    if (p)
        memcpy(out, p, n);
    return p != NULL;
}

/* Into a zeroed name. */
static enum tier_status read_name(struct mask_reader *r, char name[TIER_NAME_LEN_MAX + 1],
                                  struct tier_err *err) {
    size_t n = mask_read_number(r, 1);

    if (n > TIER_NAME_LEN_MAX || !take(r, name, n) || strlen(name) != n || !tier_name_valid(name))
        return tier_fail(err, TIER_EPROTO, "secure sum: an advertisement without a node's name");
    return TIER_OK;
}

enum tier_status tier_mask_advert_name(const uint8_t *body, size_t bytes,
                                       char name_out[TIER_NAME_LEN_MAX + 1], struct tier_err *err) {
    struct mask_reader r = {.at = body, .left = bytes};
    char name[TIER_NAME_LEN_MAX + 1] = "";

    TIER_TRY(read_name(&r, name, err));
    memcpy(name_out, name, sizeof name);
    return TIER_OK;
}

enum tier_status mask_advert_read(struct mask_reader *r, const struct tier_mask_round *round,
                                  struct mask_advert *out, struct tier_err *err) {
    size_t cert;

    *out = (struct mask_advert){0};
    TIER_TRY(read_name(r, out->name, err));
    if (!take(r, out->share_key, sizeof out->share_key) ||
        !take(r, out->mask_key, sizeof out->mask_key) ||
        !take(r, out->commitment, sizeof out->commitment))
        return tier_fail(err, TIER_EPROTO, "secure sum: the advertisement of '%s' is cut short",
                         out->name);
    cert = mask_read_number(r, 2);
    if (cert > TIER_MASK_CERT_BYTES_MAX || !take(r, out->cert, cert) || strlen(out->cert) != cert)
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: the certificate of '%s' is not a text of at most %u bytes",
                         out->name, TIER_MASK_CERT_BYTES_MAX);
    out->sig_bytes = mask_read_number(r, 1);
    if (out->sig_bytes > sizeof out->sig || !take(r, out->sig, out->sig_bytes))
        return tier_fail(err, TIER_EPROTO,
                         "secure sum: the signature of '%s' is not of at most %zu bytes", out->name,
                         sizeof out->sig);
    mask_advert_digest(round, out);
    return TIER_OK;
}

static void write_keys(struct mask_writer *w, const struct mask_advert *a) {
    mask_write_number(w, (uint32_t)strlen(a->name), 1);
    mask_write(w, a->name, strlen(a->name));
    mask_write(w, a->share_key, sizeof a->share_key);
    mask_write(w, a->mask_key, sizeof a->mask_key);
    mask_write(w, a->commitment, sizeof a->commitment);
}

void mask_advert_write(struct mask_writer *w, const struct mask_advert *a) {
    write_keys(w, a);
    mask_write_number(w, (uint32_t)strlen(a->cert), 2);
    mask_write(w, a->cert, strlen(a->cert));
    mask_write_number(w, (uint32_t)a->sig_bytes, 1);
    mask_write(w, a->sig, a->sig_bytes);
}

static void write_round(struct mask_writer *w, const char *what,
                        const struct tier_mask_round *round) {
    uint8_t number[8];

    mask_write(w, what, strlen(what));
    mask_write(w, round->run.b, TIER_HASH_BYTES);
    tier_put_u64(number, round->round);
    mask_write(w, number, sizeof number);
}

void mask_advert_digest(const struct tier_mask_round *round, struct mask_advert *a) {
    struct mask_writer w = {0};

    write_round(&w, "consilium mask keys 1\n", round);
    write_keys(&w, a);
    tier_hash_data(w.data, w.n, &a->digest);
    free(w.data);
}

size_t mask_advert_text(const struct mask_advert *a, char *text) {
    char hex[TIER_HASH_HEX];

    return (size_t)snprintf(text, MASK_TEXT_BYTES_MAX, "consilium mask keys 1\n%s\n",
                            tier_hash_hex(&a->digest, hex));
}

size_t mask_survivors_text(const struct tier_hash *list, const uint8_t *shared, const uint8_t *came,
                           uint32_t count, char *text) {
    char list_hex[TIER_HASH_HEX], hex[TIER_HASH_HEX];
    struct mask_writer w = {0};
    struct tier_hash sets;

    mask_write_number(&w, count, 4);
    mask_write(&w, shared, mask_set_bytes(count));
    mask_write(&w, came, mask_set_bytes(count));
    tier_hash_data(w.data, w.n, &sets);
    free(w.data);
    return (size_t)snprintf(text, MASK_TEXT_BYTES_MAX, "consilium mask survivors 1\n%s\n%s\n",
                            tier_hash_hex(list, list_hex), tier_hash_hex(&sets, hex));
}

bool mask_set_fits(const uint8_t *set, const uint8_t *within, uint32_t count) {
    for (size_t i = 0; i < mask_set_bytes(count); i++) {
        uint32_t bits = count - 8 * (uint32_t)i;
        unsigned may = within ? within[i] : 0xffu;
        if (bits < 8)
            may &= (1u << bits) - 1;
        if (set[i] & ~may)
            return false;
    }
    return true;
}

/* ---- the graph ---- */

void mask_list_hash(const struct tier_mask_round *round, const struct tier_hash *digests,
                    uint32_t count, struct tier_hash *out) {
    struct mask_writer w = {0};

    write_round(&w, "consilium mask list 1\n", round);
    mask_write_number(&w, count, 4);
    mask_write(&w, digests, count * sizeof *digests);
    tier_hash_data(w.data, w.n, out);
    free(w.data);
}

struct stand {
    struct tier_hash by;
    uint32_t place;
};

static int by_hash(const void *a, const void *b) {
    const struct stand *x = a, *y = b;
    return memcmp(x->by.b, y->by.b, TIER_HASH_BYTES);
}

enum tier_status mask_graph_init(struct mask_graph *g, const struct tier_hash *list,
                                 const struct tier_hash *digests, uint32_t count,
                                 struct tier_err *err) {
    struct stand *stands = calloc(count ? count : 1, sizeof *stands);
    uint32_t *both = calloc(count ? count : 1, 2 * sizeof *both);

    if (!stands || !both) {
        free(stands);
        free(both);
        return tier_fail(err, TIER_ENOMEM, "no memory for the neighbours of %u children", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct tier_hash pair[2] = {*list, digests[i]};
        tier_hash_data(pair, sizeof pair, &stands[i].by);
        stands[i].place = i;
    }
    qsort(stands, count, sizeof *stands, by_hash);
    *g = (struct mask_graph){.count = count, .ring = both, .stand = both + count};
    for (uint32_t i = 0; i < count; i++) {
        g->ring[i] = stands[i].place;
        g->stand[stands[i].place] = i;
    }
    free(stands);
    return TIER_OK;
}

void mask_graph_release(struct mask_graph *g) {
    free(g->ring);
    *g = (struct mask_graph){0};
}

static int by_place(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

unsigned mask_holders(const struct mask_graph *g, uint32_t place,
                      uint32_t out[TIER_MASK_HOLDERS_MAX]) {
    const uint32_t half = TIER_MASK_NEIGHBOURS / 2;

    if (g->count <= TIER_MASK_HOLDERS_MAX) {
        for (uint32_t i = 0; i < g->count; i++)
            out[i] = i;
        return g->count;
    }
    for (uint32_t i = 0; i < TIER_MASK_HOLDERS_MAX; i++)
        out[i] = g->ring[(g->stand[place] + g->count - half + i) % g->count];
    qsort(out, TIER_MASK_HOLDERS_MAX, sizeof *out, by_place);
    return TIER_MASK_HOLDERS_MAX;
}
