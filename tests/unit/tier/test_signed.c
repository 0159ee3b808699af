/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/plan.h"
#include "tier/signed.h"

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)

/* An authority in memory, and a person or node of it. */
struct ca {
    struct tier_key *key;
    struct tier_cert *cert;
    char *pem;
};

static struct tier_hash plan = {{1, 2, 3}};

static struct ca make_ca(const char *name) {
    struct ca ca = {0};
    MUST(tier_key_generate(&ca.key, err));
    MUST(tier_cert_new_ca(ca.key, name, 3650, NOW, &ca.pem, err));
    MUST(tier_cert_from_pem(ca.pem, &ca.cert, err));
    return ca;
}

static struct tier_node make(const struct ca *ca, const char *name, enum tier_role role) {
    struct tier_node node = {.id = {.role = role}};
    char *csr = NULL;
    snprintf(node.id.name, sizeof node.id.name, "%s", name);
    MUST(tier_key_generate(&node.key, err));
    MUST(tier_csr_new(node.key, name, role, &csr, err));
    MUST(tier_cert_issue(ca->key, ca->cert, csr, 30, NOW, &node.cert_pem, err));
    MUST(tier_cert_from_pem(node.cert_pem, &node.cert, err));
    free(csr);
    return node;
}

static char *sign(const struct tier_node *by, size_t *bytes) {
    char *text = NULL;
    MUST(tier_signed_make(by, &plan, &text, bytes, err));
    return text;
}

static void release(struct ca *ca, struct tier_node *node) {
    tier_key_free(ca->key);
    tier_cert_free(ca->cert);
    free(ca->pem);
    tier_key_free(node->key);
    tier_cert_free(node->cert);
    free(node->cert_pem);
}

Test(tier_signed, an_operators_signature_is_theirs_and_of_that_plan_alone) {
    struct ca ca = make_ca("nhs"), stranger = make_ca("nhs");
    struct tier_node alice = make(&ca, "alice", TIER_ROLE_OPERATOR);
    struct tier_hash another = {{9}};
    struct tier_identity id = {0};
    size_t bytes;
    char *text = sign(&alice, &bytes);

    MUST(tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW, &id, err));
    cr_assert(eq(str, id.name, "alice"));
    REFUSED(TIER_EIDENTITY, "",
            tier_signed_check(text, bytes, &another, ca.cert, NULL, NOW, &id, err));
    REFUSED(TIER_EIDENTITY, "",
            tier_signed_check(text, bytes, &plan, stranger.cert, NULL, NOW, &id, err));
    REFUSED(TIER_EIDENTITY, "expired",
            tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW + 31 * DAY, &id, err));
    free(text);
    tier_key_free(stranger.key);
    tier_cert_free(stranger.cert);
    free(stranger.pem);
    release(&ca, &alice);
}

Test(tier_signed, a_node_signs_no_plans_and_is_not_believed_where_it_has) {
    struct ca ca = make_ca("nhs");
    struct tier_node hub = make(&ca, "north", TIER_ROLE_HUB);
    struct tier_identity id;
    size_t bytes = 0;
    char *text = NULL;

    REFUSED(TIER_EIDENTITY, "signs no plans", tier_signed_make(&hub, &plan, &text, &bytes, err));
    hub.id.role = TIER_ROLE_OPERATOR; /* as it would lie */
    text = sign(&hub, &bytes);
    REFUSED(TIER_EIDENTITY, "signs no plans",
            tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW, &id, err));
    free(text);
    release(&ca, &hub);
}

Test(tier_signed, of_the_roles_three_sign_plans) {
    struct ca ca = make_ca("nhs");

    for (int role = 0; role < TIER_ROLE_COUNT; role++) {
        struct tier_node who = make(&ca, "somebody", (enum tier_role)role);
        bool may = role == TIER_ROLE_OPERATOR || role == TIER_ROLE_REGIONAL_OPERATOR ||
                   role == TIER_ROLE_RESEARCHER;
        struct tier_identity id;
        size_t bytes = 0;
        char *text = NULL;
        if (!may)
            REFUSED(TIER_EIDENTITY, "signs no plans",
                    tier_signed_make(&who, &plan, &text, &bytes, err));
        who.id.role = TIER_ROLE_OPERATOR; /* as it would lie */
        text = sign(&who, &bytes);
        if (may)
            MUST(tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW, &id, err));
        else
            REFUSED(TIER_EIDENTITY, "signs no plans",
                    tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW, &id, err));
        free(text);
        tier_key_free(who.key);
        tier_cert_free(who.cert);
        free(who.cert_pem);
    }
    tier_key_free(ca.key);
    tier_cert_free(ca.cert);
    free(ca.pem);
}

Test(tier_signed, whoever_is_revoked_signs_no_plan) {
    struct ca ca = make_ca("nhs");
    struct tier_node alice = make(&ca, "alice", TIER_ROLE_OPERATOR);
    struct tier_revocations *none = NULL, *list = NULL;
    struct tier_revoked gone = {.revoked_s = NOW};
    struct tier_identity id;
    static struct tier_plan p;
    char author[TIER_NAME_LEN_MAX + 1];
    uint8_t *der = NULL;
    size_t bytes, der_bytes;
    char *text = sign(&alice, &bytes);

    MUST(tier_cert_identity(alice.cert, &id, err));
    memcpy(gone.serial, id.serial, sizeof gone.serial);
    MUST(tier_revocations_make(ca.key, ca.cert, 1, NOW, NOW + DAY, NULL, 0, &der, &der_bytes, err));
    MUST(tier_revocations_read(der, der_bytes, ca.cert, &none, err));
    free(der);
    MUST(
        tier_revocations_make(ca.key, ca.cert, 2, NOW, NOW + DAY, &gone, 1, &der, &der_bytes, err));
    MUST(tier_revocations_read(der, der_bytes, ca.cert, &list, err));
    free(der);
    MUST(tier_signed_check(text, bytes, &plan, ca.cert, none, NOW, &id, err));
    REFUSED(TIER_EIDENTITY, "revoked",
            tier_signed_check(text, bytes, &plan, ca.cert, list, NOW, &id, err));
    MUST(tier_signed_admit(&p, &plan, text, bytes, ca.cert, none, false, NOW * 1000, author, err));
    REFUSED(
        TIER_EIDENTITY, "revoked",
        tier_signed_admit(&p, &plan, text, bytes, ca.cert, list, false, NOW * 1000, author, err));
    tier_revocations_free(none);
    tier_revocations_free(list);
    free(text);
    release(&ca, &alice);
}

Test(tier_signed, what_is_cut_short_or_written_in_another_way_is_refused) {
    struct ca ca = make_ca("nhs");
    struct tier_node alice = make(&ca, "alice", TIER_ROLE_OPERATOR);
    struct tier_identity id;
    size_t bytes;
    char *text = sign(&alice, &bytes), longer[TIER_SIGNED_BYTES_MAX + 1];

    for (size_t n = 1; n < bytes; n += n + 100 < bytes ? 37 : 1)
        CHECK(tier_signed_check(text, n, &plan, ca.cert, NULL, NOW, &id, NULL) != TIER_OK, "%zu",
              n);
    REFUSED(TIER_ELIMIT, "4096", tier_signed_check(text, 0, &plan, ca.cert, NULL, NOW, &id, err));
    memset(longer, 'x', sizeof longer);
    REFUSED(TIER_ELIMIT, "4096",
            tier_signed_check(longer, sizeof longer, &plan, ca.cert, NULL, NOW, &id, err));
    memcpy(longer, text, bytes);
    longer[bytes] = '\n';
    REFUSED(TIER_EIDENTITY, "signature",
            tier_signed_check(longer, bytes + 1, &plan, ca.cert, NULL, NOW, &id, err));
    text[3] = '\0';
    REFUSED(TIER_EIDENTITY, "text",
            tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW, &id, err));
    free(text);
    release(&ca, &alice);
}

Test(tier_signed, a_plan_is_admitted_by_what_the_node_wants_of_it) {
    struct ca ca = make_ca("nhs");
    struct tier_node alice = make(&ca, "alice", TIER_ROLE_OPERATOR);
    static struct tier_plan p;
    char author[TIER_NAME_LEN_MAX + 1] = "x";
    size_t n;
    char *text = sign(&alice, &n);
    const int64_t now = NOW * 1000;

    MUST(tier_signed_admit(&p, &plan, NULL, 0, ca.cert, NULL, false, now, author, err));
    cr_assert(eq(str, author, ""), "nobody signed it");
    REFUSED(TIER_EPOLICY, "policy.signed",
            tier_signed_admit(&p, &plan, NULL, 0, ca.cert, NULL, true, now, author, err));
    REFUSED(TIER_EPOLICY, "tls",
            tier_signed_admit(&p, &plan, text, n, NULL, NULL, true, now, author, err));
    MUST(tier_signed_admit(&p, &plan, text, n, NULL, NULL, false, now, author, err));
    cr_assert(eq(str, author, ""), "nobody can tell who signed it");
    MUST(tier_signed_admit(&p, &plan, text, n, ca.cert, NULL, true, now, author, err));
    cr_assert(eq(str, author, "alice"));
    p.mode = TIER_PLAN_UNTRUSTED; /* which wants it of every node, whatever its policy */
    REFUSED(TIER_EPOLICY, "mode: untrusted",
            tier_signed_admit(&p, &plan, NULL, 0, ca.cert, NULL, false, now, author, err));
    REFUSED(TIER_EPOLICY, "tls",
            tier_signed_admit(&p, &plan, text, n, NULL, NULL, false, now, author, err));
    MUST(tier_signed_admit(&p, &plan, text, n, ca.cert, NULL, false, now, author, err));
    p.mode = TIER_PLAN_TRUSTED;
    snprintf(p.governance.author, sizeof p.governance.author, "bob");
    REFUSED(TIER_EPOLICY, "bob",
            tier_signed_admit(&p, &plan, text, n, ca.cert, NULL, false, now, author, err));
    snprintf(p.governance.author, sizeof p.governance.author, "alice");
    MUST(tier_signed_admit(&p, &plan, text, n, ca.cert, NULL, false, now, author, err));
    snprintf(p.governance.expires, sizeof p.governance.expires, "2027-01-14");
    REFUSED(TIER_EPOLICY, "2027-01-14",
            tier_signed_admit(&p, &plan, text, n, ca.cert, NULL, false, now, author, err));
    free(text);
    release(&ca, &alice);
}

Test(tier_signed, a_signer_who_is_revoked_later_is_found_by_the_signature_that_was_taken) {
    struct ca ca = make_ca("nhs");
    struct tier_node alice = make(&ca, "alice", TIER_ROLE_OPERATOR);
    struct tier_revocations *list = NULL, *others = NULL;
    struct tier_identity id = {0};
    struct tier_revoked gone = {.revoked_s = NOW};
    char why[128] = "";
    uint8_t *der = NULL;
    size_t bytes, n = 0;
    char *text = sign(&alice, &bytes);

    MUST(tier_signed_check(text, bytes, &plan, ca.cert, NULL, NOW, &id, err));
    CHECK(!tier_signed_revoked(text, bytes, NULL, why, sizeof why));
    snprintf(gone.serial, sizeof gone.serial, "%s", id.serial);
    gone.serial[0] = gone.serial[0] == 'f' ? 'e' : 'f'; /* another's */
    MUST(tier_revocations_make(ca.key, ca.cert, 1, NOW, NOW + DAY, &gone, 1, &der, &n, err));
    MUST(tier_revocations_read(der, n, ca.cert, &others, err));
    free(der);
    CHECK(!tier_signed_revoked(text, bytes, others, why, sizeof why));
    snprintf(gone.serial, sizeof gone.serial, "%s", id.serial);
    MUST(tier_revocations_make(ca.key, ca.cert, 2, NOW, NOW + DAY, &gone, 1, &der, &n, err));
    MUST(tier_revocations_read(der, n, ca.cert, &list, err));
    free(der);
    CHECK(tier_signed_revoked(text, bytes, list, why, sizeof why));
    CHECK(strstr(why, "alice, who signed the plan") != NULL);
    CHECK(!tier_signed_revoked("", 0, list, why, sizeof why));
    CHECK(!tier_signed_revoked(text, bytes / 3, list, why, sizeof why)); /* no certificate */
    tier_revocations_free(list);
    tier_revocations_free(others);
    free(text);
    release(&ca, &alice);
}
