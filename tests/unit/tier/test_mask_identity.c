/* SPDX-License-Identifier: Apache-2.0 */
/* Secure sums among real identities: whose keys a child believes, by the authority's word. */
#include "support/mask_round.h"
#include "tier/cert.h"
#include "tier/identity.h"
#include "tier/revocation.h"

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)
#define CHILDREN 4

static struct tier_err err;

struct authority {
    struct tier_key *key;
    struct tier_cert *cert;
    char *pem;
};

/* A node as tier_identity_load would give it. */
static struct tier_node node_of(const struct authority *ca, const char *name, enum tier_role role) {
    struct tier_node n = {.ca = ca->cert};
    char *csr = NULL;

    cr_assert_eq(tier_key_generate(&n.key, &err), TIER_OK);
    cr_assert_eq(tier_csr_new(n.key, name, role, &csr, &err), TIER_OK);
    cr_assert_eq(tier_cert_issue(ca->key, ca->cert, csr, 30, NOW, &n.cert_pem, &err), TIER_OK);
    free(csr);
    return n;
}

static void node_free(struct tier_node *n) {
    tier_key_free(n->key);
    free(n->cert_pem);
}

static struct authority authority_of(const char *name) {
    struct authority a = {0};

    cr_assert_eq(tier_key_generate(&a.key, &err), TIER_OK);
    cr_assert_eq(tier_cert_new_ca(a.key, name, 3650, NOW, &a.pem, &err), TIER_OK);
    cr_assert_eq(tier_cert_from_pem(a.pem, &a.cert, &err), TIER_OK);
    return a;
}

static void authority_free(struct authority *a) {
    tier_key_free(a->key);
    tier_cert_free(a->cert);
    free(a->pem);
}

/* A ring whose children and parent have identities. */
struct real {
    struct ring ring;
    struct authority ca;
    struct tier_node node[CHILDREN], parent;
    struct tier_mask_identity identity[CHILDREN], parent_identity;
};

static void real_open(struct real *r) {
    struct ring *g = &r->ring;

    memset(r, 0, sizeof *r);
    r->ca = authority_of("ministry");
    r->parent = node_of(&r->ca, "hub-1", TIER_ROLE_HUB);
    r->parent_identity = (struct tier_mask_identity){.node = &r->parent, .now_s = NOW};
    g->round =
        (struct tier_mask_round){.run = {{7}}, .round = 1, .cohort_min = 3, .threshold = 0.6};
    g->count = CHILDREN;
    g->state = 3;
    g->trust = tier_mask_trust_of(&r->parent_identity);
    cr_assert_eq(tier_mask_parent_new(&g->round, &g->trust, &g->p, NULL), TIER_OK);
    for (unsigned i = 0; i < CHILDREN; i++) {
        struct ring_child *k = &g->child[i];
        snprintf(k->name, sizeof k->name, "child-%u", i);
        r->node[i] = node_of(&r->ca, k->name, TIER_ROLE_SPOKE);
        r->identity[i] = (struct tier_mask_identity){.node = &r->node[i], .now_s = NOW};
        k->trust = tier_mask_trust_of(&r->identity[i]);
        cr_assert_eq(tier_mask_child_new(&g->round, k->name, &k->trust, &k->c, &err), TIER_OK);
        for (unsigned v = 0; v < RING_VALUES; v++)
            k->values[v] = (uint64_t) - (int64_t)(i * 1000 + v);
    }
}

static void real_close(struct real *r) {
    ring_close(&r->ring);
    for (unsigned i = 0; i < CHILDREN; i++)
        node_free(&r->node[i]);
    node_free(&r->parent);
    authority_free(&r->ca);
}

Test(tier_mask_identity, spokes_of_one_authority_sum_in_secret) {
    static struct real r;
    uint64_t masked[RING_VALUES], visible[RING_VALUES];
    size_t n;

    real_open(&r);
    for (int step = 0; step < 5; step++) {
        if (step == 2)
            r.ring.child[2].gone = true;
        ring_step(&r.ring, 0);
        cr_assert_eq(tier_mask_parent_close(r.ring.p, &err), TIER_OK, "%s", err.text);
    }
    const struct tier_mask_term *terms = tier_mask_parent_terms(r.ring.p, &n);
    ring_sums(&r.ring, masked, visible);
    ring_apply(terms, n, masked);
    cr_assert_eq(memcmp(masked, visible, sizeof masked), 0);
    real_close(&r);
}

/* What the node's own authority has not signed, or has signed for another purpose. */
Test(tier_mask_identity, others_than_spokes_of_the_authority_are_refused) {
    static const struct {
        const char *name, *word;
        enum tier_role role;
        int64_t now_s;
        bool foreign;
    } cases[] = {{"child-0", "", TIER_ROLE_SPOKE, NOW, false},
                 {"child-0", "of the hub 'child-0'", TIER_ROLE_HUB, NOW, false},
                 {"child-0", "'child-0'", TIER_ROLE_SPOKE, NOW, true},
                 {"child-0", "expired", TIER_ROLE_SPOKE, NOW + 40 * DAY, false},
                 {"child-9", "the spoke 'child-9'", TIER_ROLE_SPOKE, NOW, false}};
    static struct real r;
    struct authority other = authority_of("ministry");

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        real_open(&r);
        struct tier_node node =
            node_of(cases[i].foreign ? &other : &r.ca, cases[i].name, cases[i].role);
        struct tier_mask_identity identity = {.node = &node, .now_s = NOW};
        struct tier_mask_trust trust = tier_mask_trust_of(&identity);
        r.parent_identity.now_s = cases[i].now_s;
        tier_mask_child_free(r.ring.child[0].c);
        cr_assert_eq(
            tier_mask_child_new(&r.ring.round, "child-0", &trust, &r.ring.child[0].c, &err),
            TIER_OK);
        enum tier_status st = ring_advertise(&r.ring, &r.ring.child[0], &err);
        cr_assert_eq(st, i == 0 ? TIER_OK : TIER_EIDENTITY, "%zu: %s", i, err.text);
        cr_assert(i == 0 || i == 4 || strstr(err.text, cases[i].word), "%zu: %s", i, err.text);
        cr_assert(i != 4 || strstr(err.text, "is of the spoke 'child-9'"), "%s", err.text);
        real_close(&r);
        node_free(&node);
    }
    authority_free(&other);
}

Test(tier_mask_identity, keys_signed_with_another_key_are_refused) {
    static struct real r;

    real_open(&r);
    struct tier_key *mine = r.node[0].key;
    r.node[0].key = r.node[1].key;
    tier_mask_child_free(r.ring.child[0].c);
    cr_assert_eq(tier_mask_child_new(&r.ring.round, "child-0", &r.ring.child[0].trust,
                                     &r.ring.child[0].c, &err),
                 TIER_OK);
    cr_assert_eq(ring_advertise(&r.ring, &r.ring.child[0], &err), TIER_EIDENTITY);
    cr_assert(strstr(err.text, "secure sum: child 'child-0'"), "%s", err.text);
    r.node[0].key = mine;
    real_close(&r);
}

/* A hub that hands on keys of a node that was cut off, which may be the hub's own by now. */
Test(tier_mask_identity, a_child_whose_certificate_is_revoked_is_believed_by_nobody) {
    static struct real r;
    struct tier_revoked revoked = {.revoked_s = NOW - 5};
    struct tier_revocations *list = NULL;
    struct tier_cert *cert = NULL;
    struct tier_identity id;
    uint8_t *der = NULL;
    size_t n = 0;

    real_open(&r);
    cr_assert_eq(tier_cert_from_pem(r.node[1].cert_pem, &cert, &err), TIER_OK);
    cr_assert_eq(tier_cert_identity(cert, &id, &err), TIER_OK);
    memcpy(revoked.serial, id.serial, sizeof revoked.serial);
    cr_assert_eq(tier_revocations_make(r.ca.key, r.ca.cert, 1, NOW - 5, NOW + DAY, &revoked, 1,
                                       &der, &n, &err),
                 TIER_OK, "%s", err.text);
    cr_assert_eq(tier_revocations_read(der, n, r.ca.cert, &list, &err), TIER_OK, "%s", err.text);

    ring_step(&r.ring, 0); /* the parent does not know, or says so */
    cr_assert_eq(tier_mask_parent_close(r.ring.p, &err), TIER_OK, "%s", err.text);
    r.identity[0].revoked = list;
    cr_assert_eq(ring_talk(&r.ring, &r.ring.child[0], &err), TIER_EIDENTITY);
    cr_assert(strstr(err.text, "child-1") && strstr(err.text, "revoked"), "%s", err.text);
    cr_assert_eq(ring_talk(&r.ring, &r.ring.child[2], &err), TIER_OK, "%s", err.text);
    r.parent_identity.revoked = list;
    struct tier_mask_parent *fresh = NULL;
    cr_assert_eq(tier_mask_parent_new(&r.ring.round, &r.ring.trust, &fresh, NULL), TIER_OK);
    const uint8_t *body = tier_mask_child_advert(r.ring.child[1].c, &n);
    cr_assert_eq(tier_mask_parent_take(fresh, "child-1", TIER_MASK_ADVERT, body, n, &err),
                 TIER_EIDENTITY);
    tier_mask_parent_free(fresh);
    tier_revocations_free(list);
    tier_cert_free(cert);
    free(der);
    real_close(&r);
}
