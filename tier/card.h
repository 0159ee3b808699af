/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model card: what a released model is, of which plan and run, what it was measured at, what it
 * spent of privacy, and who let it go (after Mitchell et al. 2019), signed by the hub that released
 * it. It is one line of JSON in one form only (compact, keys sorted, as jansson writes it), so that
 * every changed byte of it shows:
 *
 *   {"card":{...},"certificate":"PEM","signature":"BASE64"}
 *
 * The signature is ECDSA-SHA256 in DER over "consilium card 1\nsha256 HEX\n", HEX being the SHA-256
 * of the member "card" in that form. The card names the model by its SHA-256. It lies beside the
 * model and not in it: the model's own hash is what the audit log names and what a replay of the
 * run reproduces, and a second release must not change it.
 *
 * Whoever has the authority's certificate checks it, off-line. The hub's own certificate need have
 * been good at the time that the card says, no longer: cards outlive certificates. That a hub was
 * revoked before then does not show without the list; the hub's audit log names every card.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_CARD_H
#define CONSILIUM_TIER_CARD_H

#include "tier/cert.h"

#define TIER_CARD_VERSION 1
#define TIER_CARD_BYTES_MAX (256u << 10)
#define TIER_CARD_BESIDE ".card.json" /* behind the name of a model that was pulled */

struct json_t; /* jansson's */

struct tier_card {
    struct json_t *body; /* the member "card" */
    struct tier_hash model;
    uint64_t model_bytes;
    int64_t released_ms;
    char approved_by[2][TIER_NAME_LEN_MAX + 1];
    struct tier_identity signer; /* as its certificate says: not believed before _check */
    struct tier_cert *cert;
};

/*
 * Signs a card whose members are all there, with the hub's key. Borrows both; *text_out is on the
 * heap (free), terminated, its length without the terminator to *bytes_out. TIER_EINTERNAL: a card
 * that _read would not take; TIER_ELIMIT: a longer one.
 */
enum tier_status tier_card_sign(const struct tier_node *hub, const struct json_t *body,
                                char **text_out, size_t *bytes_out, struct tier_err *err);
/*
 * Reads text[bytes], which anyone may have written: its form, the members of struct tier_card, and
 * the signature by the certificate that came with it. Nothing of it is believed yet.
 * TIER_ECORRUPT: it is not such a text, or was altered; TIER_ELIMIT. Release with _release.
 */
enum tier_status tier_card_read(const void *text, size_t bytes, struct tier_card *out,
                                struct tier_err *err);
void tier_card_release(struct tier_card *card); /* a zeroed one is fine */
/* Whether a top or hub of this authority signed it, with a certificate that was good at the card's
 * time, and two of different names approved. TIER_EIDENTITY otherwise. */
enum tier_status tier_card_check(const struct tier_card *card, const struct tier_cert *ca,
                                 struct tier_err *err);

#endif
