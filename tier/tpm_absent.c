/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of tpm.c where tpm2-tss was not there to build with: no node has a TPM. Others'
 * quotes are checked all the same (tier/attest.h). */
#include "tier/tpm.h"

bool tier_tpm_built(void) {
    return false;
}

enum tier_status tier_tpm_open(const char *tcti, uint32_t pcr, const struct tier_measured *ran,
                               struct tier_tpm **out, struct tier_err *err) {
    (void)pcr;
    (void)ran;
    (void)out;
    return tier_fail(err, TIER_EUNAVAILABLE,
                     "tpm.tcti is '%s', and this program was built without tpm2-tss (Debian: "
                     "libtss2-dev)",
                     tcti);
}

void tier_tpm_close(struct tier_tpm *tpm) {
    (void)tpm;
}

const char *tier_tpm_key_pem(const struct tier_tpm *tpm) {
    (void)tpm;
    return "";
}

enum tier_status tier_tpm_quote(struct tier_tpm *tpm, const struct tier_hash *qualifier,
                                struct tier_quote *out, struct tier_err *err) {
    (void)tpm;
    (void)qualifier;
    (void)out;
    return tier_fail(err, TIER_EUNAVAILABLE, "this program was built without tpm2-tss");
}
