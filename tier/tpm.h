/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's own TPM 2.0, by tpm2-tss: its PCR is extended by what the node runs, and a key that
 * never leaves it signs quotes (tier/attest.h). The key is a restricted ECDSA P-256 signing key,
 * made anew at each start from the seed of the TPM's owner hierarchy, and so the same until the TPM
 * is cleared. Programs built without tpm2-tss have tpm_absent.c in the place of tpm.c.
 *
 * Threads: one at a time. Every call waits for the TPM: tenths of a second for opening, and for a
 * quote.
 */
#ifndef CONSILIUM_TIER_TPM_H
#define CONSILIUM_TIER_TPM_H

#include "tier/attest.h"

struct tier_tpm;

/* Whether this program was built with tpm2-tss. */
bool tier_tpm_built(void);

/*
 * Opens the TPM that `tcti` names, as tpm2-tss reads it ("device:/dev/tpmrm0",
 * "swtpm:host=127.0.0.1,port=2321"), resets PCR `pcr` (16 or 23, which an application may reset),
 * extends it by the three hashes, and makes the key. TIER_EUNAVAILABLE: no such TPM, one without
 * what is needed, or a program without tpm2-tss.
 */
enum tier_status tier_tpm_open(const char *tcti, uint32_t pcr, const struct tier_measured *ran,
                               struct tier_tpm **out, struct tier_err *err);
void tier_tpm_close(struct tier_tpm *tpm); /* NULL is fine */

/* The public half of its key, PUBLIC KEY in PEM: what parents pin. Borrowed. */
const char *tier_tpm_key_pem(const struct tier_tpm *tpm);

/* TIER_EUNAVAILABLE: the TPM does not answer, or its PCRs do not stand still. */
enum tier_status tier_tpm_quote(struct tier_tpm *tpm, const struct tier_hash *qualifier,
                                struct tier_quote *out, struct tier_err *err);

#endif
