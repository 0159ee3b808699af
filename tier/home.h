/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's data directory, opened: identity, journal, audit log, spool, models. Everything durable
 * of a node is in here; moving the directory moves the node.
 *
 *     journal.db  spool/  models/  audit/  identity/  residual/ private/ control/ (spoke/state.h)
 *     ledger.db (tier/ledger.h, of a spoke that has spent privacy)
 *
 * Threads: the loop's, but for the spool, which any may use.
 */
#ifndef CONSILIUM_TIER_HOME_H
#define CONSILIUM_TIER_HOME_H

#include "tier/audit.h"
#include "tier/config.h"
#include "tier/identity.h"
#include "tier/journal.h"
#include "tier/rpc.h"
#include "tier/spool.h"
#include "tier/wire.h"

struct tier_home {
    const struct tier_config *config;
    struct tier_node node; /* zeroed where TLS is off */
    struct tier_rpc_tls tls;
    struct tier_rpc_keepalive keepalive;
    struct tier_journal *journal;
    struct tier_audit *audit;
    struct tier_spool *spool;
    char models_dir[TIER_CONFIG_PATH_BYTES + 16];
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

#endif
