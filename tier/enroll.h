/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Becoming a node, seen from the node: a key is born here, a request for it travels with a one-time
 * token, a certificate comes back. The token pins the authority, so nothing is trusted on first
 * use.
 *
 * Threads: blocks the caller, on a loop of its own.
 */
#ifndef CONSILIUM_TIER_ENROLL_H
#define CONSILIUM_TIER_ENROLL_H

#include "tier/identity.h"

struct tier_authority;

/* address: host:port of the authority's enrollment service. Gives up after timeout_ms. */
enum tier_status tier_enroll(const char *address, const char *token, const char *name,
                             enum tier_role role, const char *data_dir, uint64_t timeout_ms,
                             struct tier_err *err);

/*
 * Enrolls a node whose data directory is on this machine with an authority that is here too, as the
 * first node of a tree is: makes its key where it has none, and puts the certificate beside it.
 * Errors: those of tier_authority_token_create and _enroll, and of tier_identity_store.
 */
enum tier_status tier_enroll_local(struct tier_authority *a, const char *name, enum tier_role role,
                                   const char *data_dir, bool replace, int64_t now_s,
                                   struct tier_err *err);

#endif
