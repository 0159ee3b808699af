/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What both ends of a secure sum know (tier/mask.h): keys, what is signed, who is whose neighbour,
 * and the bytes of the bodies. Little-endian, no padding; a place is an index into the list, which
 * is in ascending order of digests; a set is a bit for each place, the first in the lowest bit.
 *
 *   ADVERT      u8 name bytes, name, share key[32], mask key[32], commitment[32], u16 certificate
 *               bytes, certificate, u8 signature bytes, signature
 *   LIST        u32 count, digest[32] * count, ADVERT of each neighbour in order of places
 *   SHARES      sealed[80] for each neighbour in order of places
 *   DELIVER     the set of those who shared, sealed[80] of each neighbour in it
 *   SURVIVORS   the set of those whose updates came
 *   SIGNED      u8 signature bytes, signature
 *   SIGNATURES  of each holder whose signature came: u32 place, u8 signature bytes, signature
 *   REVEAL      for each holder that shared, in order of places: u8 1 and share[32], or u8 0
 *
 * A child's holders are its neighbours and itself. The digest of an advertisement leaves out
 * certificate and signature, of which there may be several that hold.
 */
#ifndef CONSILIUM_TIER_MASK_PRIVATE_H
#define CONSILIUM_TIER_MASK_PRIVATE_H

#include "tier/bytes.h"
#include "tier/mask.h"
#include "tier/shamir.h"

#define SEALED_BYTES (2u * TIER_SHAMIR_BYTES + 16u)
#define NOWHERE UINT32_MAX

struct mask_advert {
    char name[TIER_NAME_LEN_MAX + 1];
    uint8_t share_key[TIER_MASK_KEY_BYTES]; /* public: what shares are sealed to */
    uint8_t mask_key[TIER_MASK_KEY_BYTES];  /* public: what pairwise masks come from */
    uint8_t commitment[TIER_HASH_BYTES];    /* SHA-256 of the own mask's key */
    char cert[TIER_MASK_CERT_BYTES_MAX + 1];
    uint8_t sig[TIER_MASK_SIGNATURE_BYTES_MAX];
    size_t sig_bytes;
    struct tier_hash digest;
};

/* ---- reading and writing bodies ---- */

struct mask_reader {
    const uint8_t *at;
    size_t left;
    bool failed; /* something was to be read that is not there */
};
const uint8_t *mask_read(struct mask_reader *r, size_t n); /* NULL: failed */
uint32_t mask_read_number(struct mask_reader *r, size_t n);
/* Whether all of it was read and nothing was missing. */
bool mask_read_whole(const struct mask_reader *r);

struct mask_writer {
    uint8_t *data;
    size_t n, room;
};
void mask_write(struct mask_writer *w, const void *data, size_t n); /* aborts without memory */
void mask_write_number(struct mask_writer *w, uint32_t v, size_t n);

/* Reads one advertisement and computes its digest. TIER_EPROTO. Nothing is believed of it yet. */
enum tier_status mask_advert_read(struct mask_reader *r, const struct tier_mask_round *round,
                                  struct mask_advert *out, struct tier_err *err);
void mask_advert_write(struct mask_writer *w, const struct mask_advert *a);
void mask_advert_digest(const struct tier_mask_round *round, struct mask_advert *a);
/* The text that an advertisement's signature covers. */
#define MASK_TEXT_BYTES_MAX 192u
size_t mask_advert_text(const struct mask_advert *a, char *text);
/* The text that the survivors' signatures cover: `came` of those of `shared`, on that list. */
size_t mask_survivors_text(const struct tier_hash *list, const uint8_t *shared, const uint8_t *came,
                           uint32_t count, char *text);

/* ---- sets of places ---- */

static inline size_t mask_set_bytes(uint32_t count) {
    return ((size_t)count + 7) / 8;
}
static inline bool mask_set_has(const uint8_t *set, uint32_t place) {
    return set[place / 8] >> (place % 8) & 1;
}
static inline void mask_set_add(uint8_t *set, uint32_t place) {
    set[place / 8] = (uint8_t)(set[place / 8] | 1u << (place % 8));
}
/* Whether no bit beyond `count` is set, and none that is not in `within` (NULL: no matter). */
bool mask_set_fits(const uint8_t *set, const uint8_t *within, uint32_t count);

/* ---- who is whose neighbour ---- */

/*
 * The list hashed with its order decides it, so that nobody chooses his neighbours: children stand
 * in a ring in the order of SHA-256(list || digest), and a child's neighbours are the
 * TIER_MASK_NEIGHBOURS / 2 on either side of it.
 */
struct mask_graph {
    uint32_t count;
    uint32_t *ring;  /* place of the child that stands there */
    uint32_t *stand; /* where a place stands */
};
/* The hash of the whole list: what everyone must have been told alike. */
void mask_list_hash(const struct tier_mask_round *round, const struct tier_hash *digests,
                    uint32_t count, struct tier_hash *out);
enum tier_status mask_graph_init(struct mask_graph *g, const struct tier_hash *list,
                                 const struct tier_hash *digests, uint32_t count,
                                 struct tier_err *err);
void mask_graph_release(struct mask_graph *g);
/* Holders of a place's secrets in order of places; returns how many. */
unsigned mask_holders(const struct mask_graph *g, uint32_t place,
                      uint32_t out[TIER_MASK_HOLDERS_MAX]);

/* ---- secrets ---- */

struct mask_secret {
    uint8_t b[TIER_MASK_KEY_BYTES];
};
/* X25519 (RFC 7748). */
enum tier_status mask_key_make(struct mask_secret *out, uint8_t *public_out, struct tier_err *err);
enum tier_status mask_key_public(const struct mask_secret *key, uint8_t *public_out,
                                 struct tier_err *err);
/*
 * The key of the pairwise mask of two children: HKDF-SHA256 (RFC 5869) of their X25519 secret, with
 * the list's hash as salt and both digests in order as info. TIER_EPROTO: the public key is none.
 */
enum tier_status mask_pair_key(const struct mask_secret *mine, const uint8_t *their_public,
                               const struct tier_hash *list, const struct tier_hash *first,
                               const struct tier_hash *second, uint8_t *key_out,
                               struct tier_err *err);
/* Two shares for one holder under AES-256-GCM, its key as above with another info; no key is used
 * twice, so that the nonce is zero. Opening: TIER_EPROTO, not sealed for this. */
struct mask_shares {
    uint8_t own[TIER_SHAMIR_BYTES], key[TIER_SHAMIR_BYTES];
};
enum tier_status mask_seal(const struct mask_secret *mine, const uint8_t *their_public,
                           const struct tier_hash *list, const struct tier_hash *from,
                           const struct tier_hash *to, const struct mask_shares *shares,
                           uint8_t sealed_out[SEALED_BYTES], struct tier_err *err);
enum tier_status mask_unseal(const struct mask_secret *mine, const uint8_t *their_public,
                             const struct tier_hash *list, const struct tier_hash *from,
                             const struct tier_hash *to, const uint8_t sealed[SEALED_BYTES],
                             struct mask_shares *shares_out, struct tier_err *err);

#endif
