/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's data directory, opened: identity, journal, audit log, spool, models. Everything durable
 * of a node is in here; moving the directory moves the node.
 *
 *     journal.db  spool/  models/  retained/  audit/  identity/  residual/ private/ control/
 * (spoke/state.h), ledger.db (tier/ledger.h, of a spoke that has spent privacy)
 *
 * Threads: the loop's, but for the spool, which any may use.
 */
#ifndef CONSILIUM_TIER_HOME_H
#define CONSILIUM_TIER_HOME_H

#include "tier/audit.h"
#include "tier/config.h"
#include "tier/identity.h"
#include "tier/journal.h"
#include "tier/revocation.h"
#include "tier/rpc.h"
#include "tier/spool.h"
#include "tier/tpm.h"
#include "tier/vault.h"
#include "tier/wire.h"

#define TIER_RETAINED_DIR "retained"
#define TIER_QUARANTINE_DIR "quarantine"

struct tier_home {
    const struct tier_config *config;
    struct tier_node node; /* zeroed where TLS is off */
    struct tier_rpc_tls tls;
    struct tier_rpc_keepalive keepalive;
    struct tier_journal *journal;
    struct tier_audit *audit;
    struct tier_spool *spool;
    struct tier_vault *vault;         /* NULL: nothing is encrypted here */
    struct tier_tpm *tpm;             /* NULL: none is configured */
    struct tier_head said;            /* the own head signed last (tier/heads.h) */
    struct tier_revocations *revoked; /* the newest list that is known; NULL: none */
    bool overdue;                     /* said of that list */
    char models_dir[TIER_CONFIG_PATH_BYTES + 16];
    char retained_dir[TIER_CONFIG_PATH_BYTES + 16];   /* tier/retain.h */
    char quarantine_dir[TIER_CONFIG_PATH_BYTES + 16]; /* likewise: of a hub */
};

/*
 * Opens or makes all of it. The certificate's name and role must be the configured ones. On failure
 * nothing stays open. `config` is borrowed.
 */
enum tier_status tier_home_open(const struct tier_config *config, struct tier_home *out,
                                struct tier_err *err);
void tier_home_close(struct tier_home *home);
/* NULL where TLS is off. */
const struct tier_rpc_tls *tier_home_tls(const struct tier_home *home);
/*
 * A list of revoked certificates came, from the parent or from the authority itself: checks that
 * this node's authority signed it and keeps it for good, in the journal. *taken_out is false for
 * the list that is here already. TIER_ELATE: an older one than that.
 */
enum tier_status tier_home_take_revocations(struct tier_home *home, const uint8_t *der,
                                            size_t bytes, bool *taken_out, struct tier_err *err);
/*
 * A tier_rpc_guard, with the home as its argument, and with TLS alone: TIER_EIDENTITY for a
 * certificate that is revoked, or expired while its connection was open. Also for the parent's.
 */
enum tier_status tier_home_admit(void *home, struct tier_rpc_call *call, struct tier_err *err);
/* Whether the list's own date for the next is past, told once for each list: whom this node takes
 * may have been revoked since. `why` holds 256 bytes. */
bool tier_home_revocations_overdue(struct tier_home *home, int64_t now_s, char *why, size_t size);
/* The node's next certificate: stores it, and loads it in place of the present one. What was read
 * of `node` and `tls` before is gone. */
enum tier_status tier_home_renew(struct tier_home *home, const char *cert_pem, const char *ca_pem,
                                 struct tier_err *err);
/* ECDSA over the receipt's text; leaves the signature empty where TLS is off. */
enum tier_status tier_home_sign(const struct tier_home *home, struct tier_receipt *receipt,
                                struct tier_err *err);
/*
 * Whether the receipt is one that this node's parent gave it, for what it pushed: names, the
 * update's own run, round and weight while its file is here, and, with TLS, a signature by the key
 * of `parent_cert_pem`. TIER_EIDENTITY or TIER_EPROTO says what is wrong.
 */
enum tier_status tier_home_check_receipt(const struct tier_home *home, const char *parent_cert_pem,
                                         const struct tier_receipt *receipt, struct tier_err *err);

/* "receipt" in the audit log: all that its signature covers, and the signature. */
enum tier_status tier_home_note_receipt(const struct tier_home *home, const struct tier_receipt *r,
                                        struct tier_err *err);
/*
 * "node.started": the version, the SHA-256 of the program that runs and of the kernels' plugin that
 * it has loaded, and of the effective configuration, with the keys that are not what they were at
 * the start before. Where there is a TPM it is opened here and told the same ("tpm.measured"), and
 * its public key goes to identity/attest.pem, for parents to pin.
 */
enum tier_status tier_home_note_started(struct tier_home *home, struct tier_err *err);

/*
 * What to send for TIER_TO_CHALLENGE of a run that asks for it: a quote, or why there is none.
 * Waits for the TPM.
 */
void tier_home_attest(const struct tier_home *home, const struct tier_to_child *asked,
                      struct tier_from_child *reply);

#endif
