/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a node runs, vouched for by its TPM: a plan with `governance.attest: tpm` is for children
 * that show their parent which program, kernels and configuration they run. At its start a node
 * extends a PCR of its TPM by the three SHA-256 (tier/tpm.h); asked with a nonce, it answers with a
 * TPM 2.0 quote (TCG, TPM 2.0 Library, Part 2, 10.12.8 TPMS_ATTEST) of that PCR and of those of the
 * machine's own start, 0 to 15. This file checks such an answer, for a parent and for an auditor
 * later; no TPM and no library of one is needed for that.
 *
 * What it proves: that a TPM whose key the parent has pinned for this child said so for this run.
 * A TPM knows what it was told: that the program which told it was this one follows from how the
 * machine started, and so from PCRs 0 to 15, where the plan lists what they must be.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_ATTEST_H
#define CONSILIUM_TIER_ATTEST_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"

#include <stdint.h>

struct json_t; /* jansson's */
struct tier_plan;

#define TIER_ATTEST_BYTES_MAX 512u     /* of a TPMS_ATTEST: all that it may hold is less */
#define TIER_ATTEST_SIGNATURE_BYTES 80 /* ECDSA P-256 in DER, at most */
#define TIER_ATTEST_KEY_BYTES 91       /* SubjectPublicKeyInfo of a P-256 key, in DER */
#define TIER_ATTEST_PLATFORM_PCRS 16   /* 0 to 15: what started, from the firmware on */

/* What a node runs, as its own "node.started" says; kernels zero: they are in the program. */
struct tier_measured {
    struct tier_hash binary, kernels, config;
};
/* What a PCR holds that was zero and then extended by the three in this order. */
struct tier_hash tier_attest_pcr(const struct tier_measured *ran);

/* What a parent asks. Names are borrowed. */
struct tier_attest_question {
    struct tier_hash run, nonce;
    const char *child, *parent;
};
/* The SHA-256 that the quote is to carry: of "consilium attest 1\nrun HEX\nchild NAME\nparent
 * NAME\nnonce HEX\n". */
struct tier_hash tier_attest_qualifier(const struct tier_attest_question *question);

/* What a child answers. */
struct tier_quote {
    uint8_t attest[TIER_ATTEST_BYTES_MAX]; /* TPMS_ATTEST, as the TPM signed it */
    size_t attest_bytes;
    uint8_t signature[TIER_ATTEST_SIGNATURE_BYTES];
    size_t signature_bytes;
    uint32_t pcr;                                         /* the node's own: 16 or 23 */
    struct tier_hash platform[TIER_ATTEST_PLATFORM_PCRS]; /* values of PCRs 0 to 15 */
    struct tier_measured ran;
};

/* What a TPMS_ATTEST of a quote says, as far as it is looked at. */
struct tier_attested {
    struct tier_hash qualifier, pcr_digest;
    uint32_t pcrs; /* those of the SHA-256 bank that are quoted, a bit each */
    uint64_t clock_ms;
    uint32_t resets, restarts;
};
/* Reads it whole: TIER_EPROTO for anything that a TPM 2.0 does not write for such a quote. */
enum tier_status tier_attest_parse(const void *data, size_t bytes, struct tier_attested *out,
                                   struct tier_err *err);

/* One PUBLIC KEY in PEM, of P-256, as SubjectPublicKeyInfo in DER. TIER_EIDENTITY: none is. */
enum tier_status tier_attest_key(const char *pem, uint8_t key[TIER_ATTEST_KEY_BYTES],
                                 struct tier_err *err);

/* Whether the PCRs' values in it are those that it quotes; who it is by is not looked at. */
bool tier_attest_steady(const struct tier_quote *quote);
/*
 * Whether the quote answers the question: signed by the key, carrying the question's hash, over
 * PCRs that have these values, of which the node's own is what it says it ran. TIER_EIDENTITY with
 * the reason otherwise.
 */
enum tier_status tier_attest_check(const struct tier_attest_question *question,
                                   const struct tier_quote *quote,
                                   const uint8_t key[TIER_ATTEST_KEY_BYTES], struct tier_err *err);
/*
 * Whether the plan's governance.attest_allow lists what was run: the program, the kernels where
 * they are not in it, and the configuration and PCRs of which it lists any. TIER_EPOLICY otherwise.
 */
enum tier_status tier_attest_allowed(const struct tier_plan *plan, const struct tier_quote *quote,
                                     struct tier_err *err);

/* An entry of governance.attest_allow: "binary=HEX", "kernels=HEX", "config=HEX", "pcr7=HEX". */
enum tier_attest_kind {
    TIER_ATTEST_BINARY,
    TIER_ATTEST_KERNELS,
    TIER_ATTEST_CONFIG,
    TIER_ATTEST_PCR
};
struct tier_attest_entry {
    enum tier_attest_kind kind;
    uint32_t pcr; /* PCR: which */
    struct tier_hash hash;
};
bool tier_attest_entry(const char *text, struct tier_attest_entry *out);

/*
 * The members of an audit line that hold a question, its answer and the key it was checked by, in
 * hex, from which tier_attest_read makes them again; a reference of the caller's, or NULL. `parent`
 * is the log's node and not among them.
 */
struct json_t *tier_attest_json(const struct tier_attest_question *question,
                                const struct tier_quote *quote,
                                const uint8_t key[TIER_ATTEST_KEY_BYTES]);
/* question->child is borrowed from `data`; question->parent is left alone. False: not so. */
bool tier_attest_read(const struct json_t *data, struct tier_attest_question *question,
                      struct tier_quote *quote, uint8_t key[TIER_ATTEST_KEY_BYTES]);

#endif
