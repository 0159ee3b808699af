/* SPDX-License-Identifier: Apache-2.0 */
/* What authority.c and authority_pseudonym.c share. Threads: as tier/authority.h. */
#ifndef CONSILIUM_TIER_AUTHORITY_PRIVATE_H
#define CONSILIUM_TIER_AUTHORITY_PRIVATE_H

#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/db.h"

struct tier_authority {
    struct tier_key *key;
    struct tier_cert *ca;
    char *ca_pem;
    struct tier_db *db;
    struct tier_hash fingerprint;
    char name[TIER_NAME_LEN_MAX + 1];
};

enum {
    SQL_TOKEN_ADD,
    SQL_TOKEN_GET,
    SQL_TOKEN_USE,
    SQL_TOKEN_VOID,
    SQL_CERT_ADD,
    SQL_CERT_VALID,
    SQL_CERT_REVOKE,
    SQL_CERT_GET,
    SQL_CERT_EACH,
    SQL_CERT_ISSUED,
    SQL_CERT_RENEWALS,
    SQL_CERT_REVOKED,
    SQL_SETTING_PUT,
    SQL_SETTING_GET,
    SQL_LIST_GET,
    SQL_LIST_ADD,
    SQL_LIST_DROP,
    SQL_PSEUDONYM_ADD,
    SQL_PSEUDONYM_GET,
    SQL_PSEUDONYM_LIVE,
    SQL_PSEUDONYM_SEALED,
    SQL_PSEUDONYM_REVOKE,
    SQL_PSEUDONYM_REVOKE_CERTS,
    SQL_PSEUDONYM_CERT_ADD,
    SQL_PSEUDONYM_CERT_LAST,
    SQL_OPENING_ADD,
    SQL_COUNT
};

/* Inside a transaction: every pseudonym of that child is void, and its certificates are on the next
 * list; how many were to *changed. */
enum tier_status authority_revoke_pseudonyms(struct tier_authority *a, const char *child,
                                             int64_t now_s, int *changed, struct tier_err *err);

#endif
