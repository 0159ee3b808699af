/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's signature: who answers for it. It is made by a person with the key of a certificate of
 * the authority, travels beside the plan's canonical text, and is checked at every node against the
 * authority's own certificate. It is one text, which begins with the signer's certificate in PEM
 * and ends with a line
 *
 *     signature BASE64
 *
 * of ECDSA-SHA256 in DER over "consilium plan 1\nsha256 HEX\n", HEX being the SHA-256 of the plan's
 * canonical text. Operators, regional operators and researchers sign plans, and nobody else: a hub
 * that has been taken over is nobody's author, and who watches over the data does not also use it.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_SIGNED_H
#define CONSILIUM_TIER_SIGNED_H

#include "tier/cert.h"
#include "tier/revocation.h"

/* Signs the plan of that hash. *text_out is on the heap (free), terminated; its length without the
 * terminator to *bytes_out. TIER_EIDENTITY for an identity of another role. */
enum tier_status tier_signed_make(const struct tier_node *signer, const struct tier_hash *plan,
                                  char **text_out, size_t *bytes_out, struct tier_err *err);
/*
 * Whether text[bytes], which anyone may have written, is a signature of that plan by somebody whom
 * `ca` certified, valid at now_s and not on the list `revoked` (NULL: none is known); who that is
 * to *out. Errors: TIER_EIDENTITY, TIER_ELIMIT.
 */
enum tier_status tier_signed_check(const void *text, size_t bytes, const struct tier_hash *plan,
                                   const struct tier_cert *ca,
                                   const struct tier_revocations *revoked, int64_t now_s,
                                   struct tier_identity *out, struct tier_err *err);

/*
 * Whether whoever signed a plan that was taken has been revoked since: the certificate in its
 * signature, which was checked then, is on the list. *why says whose (`size` bytes). A certificate
 * that had run out before is on no list, and no signature (bytes 0) is nobody's.
 */
bool tier_signed_revoked(const void *text, size_t bytes, const struct tier_revocations *revoked,
                         char *why, size_t size);

struct tier_plan; /* tier/plan.h */

/*
 * What a node makes of a plan and the signature that came with it (bytes 0: none) before it takes
 * it: governance.expires; with `required`, or of a plan
 * with mode: untrusted, that there is a signature; with `ca` that it is good, as
 * tier_signed_check, and by governance.author where the plan names one. *author_out
 * (TIER_NAME_LEN_MAX + 1 bytes) is the signer's name, or "" where nobody's was verified. `ca` NULL:
 * signatures cannot be verified here, and none is believed. Errors: TIER_EPOLICY besides those
 * above.
 */
enum tier_status tier_signed_admit(const struct tier_plan *plan, const struct tier_hash *hash,
                                   const void *text, size_t bytes, const struct tier_cert *ca,
                                   const struct tier_revocations *revoked, bool required,
                                   int64_t now_ms, char *author_out, struct tier_err *err);

#endif
