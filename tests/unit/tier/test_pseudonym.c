/* SPDX-License-Identifier: Apache-2.0 */
#include "support/mask_round.h"
#include "support/tier_fixture.h"
#include "tier/key_file.h"
#include "tier/pseudonym.h"
#include "tier/wire.h"

#include <errno.h>

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)

static struct tier_authority *authority;
static const struct tier_hash run_one = {{1}}, run_two = {{2}};

static void up(void) {
    fixture_up();
    tier_key_file_passphrase(NULL);
    MUST(tier_authority_init(fixture_path("authority"), "nhs", 3650, NOW, err));
    MUST(tier_authority_open(fixture_path("authority"), &authority, err));
}

static void down(void) {
    tier_authority_close(authority);
    fixture_down();
}

TestSuite(tier_pseudonym, .init = up, .fini = down);

/* A node that the authority has enrolled, with a data directory of its name. */
static struct tier_node enroll(const char *name, enum tier_role role) {
    char token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    struct tier_key *key = NULL;
    struct tier_node node = {.key = NULL};

    CHECK(mkdir(fixture_path(name), 0700) == 0 || errno == EEXIST);
    MUST(tier_authority_token_create(authority, name, role, 60, true, NOW, token, err));
    MUST(tier_identity_prepare(fixture_path(name), &key, err));
    MUST(tier_csr_new(key, name, role, &csr, err));
    MUST(tier_authority_enroll(authority, token, csr, NOW, &cert, &ca, err));
    MUST(tier_identity_store(fixture_path(name), cert, ca, NOW, err));
    MUST(tier_identity_load(fixture_path(name), NOW, &node, err));
    tier_key_free(key);
    free(csr);
    free(cert);
    free(ca);
    return node;
}

/* Asks, over the bytes of the wire, as a parent passes them on. */
static enum tier_status ask(const struct tier_node *node, const char *dir,
                            const struct tier_hash *run, const char *parent, int64_t now_s,
                            char **cert_out, struct tier_err *why) {
    struct tier_pseudonym_ask sent = {0}, came = {0};
    char *ca = NULL;

    MUST(tier_pseudonym_prepare(dir, node, run, parent, &sent, err));
    struct tier_bytes b = tier_wire_pseudonym_bytes(&sent);
    MUST(tier_wire_pseudonym(b.data, b.n, &came, err));
    free(b.data);
    enum tier_status st = tier_authority_pseudonym(authority, &came, now_s, cert_out, &ca, why);
    tier_pseudonym_ask_release(&sent);
    tier_pseudonym_ask_release(&came);
    free(ca);
    return st;
}

static struct tier_pseudonym get(const struct tier_node *node, const char *name,
                                 const struct tier_hash *run, const char *parent) {
    struct tier_pseudonym p = {.key = NULL};
    char *cert = NULL;

    MUST(ask(node, fixture_path(name), run, parent, NOW, &cert, err));
    MUST(tier_pseudonym_store(fixture_path(name), node, run, parent, cert, NOW, err));
    MUST(tier_pseudonym_load(fixture_path(name), node, run, parent, NOW, &p, err));
    free(cert);
    return p;
}

static bool mentions(const char *file, const char *word) {
    FILE *f = fopen(fixture_path(file), "rb");
    char *all = calloc(1, 1 << 20);
    CHECK(f && all);
    size_t n = fread(all, 1, 1 << 20, f);
    bool found = memmem(all, n, word, strlen(word)) != NULL;
    fclose(f);
    free(all);
    return found;
}

Test(tier_pseudonym, a_spoke_gets_one_that_is_nobodys_name_and_no_nodes_certificate) {
    struct tier_node spoke = enroll("st-mary", TIER_ROLE_SPOKE);
    struct tier_pseudonym p = get(&spoke, "st-mary", &run_one, "north");
    struct tier_identity id;
    struct tier_pseudonym_id says;
    struct tier_cert *cert = NULL;

    CHECK(strncmp(p.name, "p-", 2) == 0 && tier_name_valid(p.name));
    CHECK(strstr(p.cert_pem, "st-mary") == NULL);
    MUST(tier_cert_from_pem(p.cert_pem, &cert, err));
    MUST(tier_pseudonym_verify(cert, spoke.ca, NULL, NOW, &says, err));
    cr_assert_str_eq(says.name, p.name);
    cr_assert_str_eq(says.parent, "north");
    CHECK(tier_hash_equal(&says.run, &run_one));
    CHECK(says.not_after_s <= NOW + TIER_PSEUDONYM_TTL_S);
    /* Nobody attends, calls or signs a plan with it; and a node's is no pseudonym's. */
    REFUSED(TIER_EIDENTITY, "not a node's", tier_cert_identity(cert, &id, err));
    REFUSED(TIER_EIDENTITY, "not a node's", tier_cert_verify(cert, spoke.ca, NOW, &id, err));
    REFUSED(TIER_EIDENTITY, "not a pseudonym's",
            tier_pseudonym_verify(spoke.cert, spoke.ca, NULL, NOW, &says, err));
    REFUSED(TIER_EIDENTITY, "expired",
            tier_pseudonym_verify(cert, spoke.ca, NULL, NOW + 8 * DAY, &says, err));
    tier_cert_free(cert);
    tier_pseudonym_forget(fixture_path("st-mary"), &run_one, "north");
    tier_pseudonym_release(&p);
    REFUSED(TIER_ENOTFOUND, "",
            tier_pseudonym_load(fixture_path("st-mary"), &spoke, &run_one, "north", NOW, &p, err));
    tier_identity_release(&spoke);
}

Test(tier_pseudonym, the_same_question_has_the_same_answer_and_another_key_none) {
    struct tier_node spoke = enroll("st-mary", TIER_ROLE_SPOKE);
    struct tier_pseudonym first = get(&spoke, "st-mary", &run_one, "north");
    char *again = NULL, *next = NULL;
    struct tier_pseudonym other = {.key = NULL};

    /* The answer was lost: it is asked again with the key that is on the disk. */
    MUST(ask(&spoke, fixture_path("st-mary"), &run_one, "north", NOW + 60, &again, err));
    cr_assert_str_eq(again, first.cert_pem);
    /* In the second half of its life the next, of the same name. */
    MUST(ask(&spoke, fixture_path("st-mary"), &run_one, "north", NOW + 4 * DAY, &next, err));
    CHECK(strcmp(next, first.cert_pem) != 0 && strstr(next, "BEGIN CERTIFICATE"));
    MUST(tier_pseudonym_store(fixture_path("st-mary"), &spoke, &run_one, "north", next,
                              NOW + 4 * DAY, err));
    MUST(tier_pseudonym_load(fixture_path("st-mary"), &spoke, &run_one, "north", NOW + 9 * DAY,
                             &other, err));
    cr_assert_str_eq(other.name, first.name);
    tier_pseudonym_release(&other);
    free(next);
    free(again);
    /* A second one would be a second child. */
    CHECK(mkdir(fixture_path("beside"), 0700) == 0);
    REFUSED(TIER_EPOLICY, "no second one",
            ask(&spoke, fixture_path("beside"), &run_one, "north", NOW, &again, err));
    /* Of another run, or below another parent, it is another. */
    struct tier_pseudonym in_two = get(&spoke, "st-mary", &run_two, "north");
    struct tier_pseudonym below = get(&spoke, "st-mary", &run_one, "south");
    CHECK(strcmp(in_two.name, first.name) != 0 && strcmp(below.name, first.name) != 0);
    /* What is for one is not kept as another's. */
    REFUSED(TIER_EIDENTITY, "another key",
            tier_pseudonym_store(fixture_path("st-mary"), &spoke, &run_two, "north", first.cert_pem,
                                 NOW, err));
    tier_pseudonym_release(&in_two);
    tier_pseudonym_release(&below);
    tier_pseudonym_release(&first);
    tier_identity_release(&spoke);
}

Test(tier_pseudonym, who_is_revoked_or_no_spoke_gets_none_and_what_it_had_is_void) {
    struct tier_node spoke = enroll("st-mary", TIER_ROLE_SPOKE);
    struct tier_node hub = enroll("north", TIER_ROLE_HUB);
    struct tier_pseudonym p = get(&spoke, "st-mary", &run_one, "north");
    struct tier_revocations *list = NULL;
    struct tier_cert *cert = NULL;
    struct tier_pseudonym_id says;
    char *got = NULL;
    uint8_t *der = NULL;
    size_t bytes = 0;

    REFUSED(TIER_EIDENTITY, "pseudonyms are for spokes",
            ask(&hub, fixture_path("north"), &run_one, "top", NOW, &got, err));
    MUST(tier_authority_revoke(authority, "st-mary", NOW + 5, err));
    REFUSED(TIER_EIDENTITY, "was revoked",
            ask(&spoke, fixture_path("st-mary"), &run_two, "north", NOW + 6, &got, err));
    REFUSED(TIER_EIDENTITY, "was revoked",
            ask(&spoke, fixture_path("st-mary"), &run_one, "north", NOW + 6, &got, err));
    MUST(tier_authority_revocations(authority, 0, NOW + 6, &der, &bytes, err));
    MUST(tier_revocations_read(der, bytes, spoke.ca, &list, err));
    cr_assert(eq(sz, tier_revocations_count(list), 2));
    MUST(tier_cert_from_pem(p.cert_pem, &cert, err));
    REFUSED(TIER_EIDENTITY, "is revoked",
            tier_pseudonym_verify(cert, spoke.ca, list, NOW + 6, &says, err));
    /* Enrolled anew, it is one child again: the old one is void. */
    CHECK(rename(fixture_path("st-mary"), fixture_path("old")) == 0);
    struct tier_node anew = enroll("st-mary", TIER_ROLE_SPOKE);
    struct tier_pseudonym second = get(&anew, "st-mary", &run_one, "north");
    CHECK(strcmp(second.name, p.name) != 0);
    tier_pseudonym_release(&second);
    tier_identity_release(&anew);
    tier_cert_free(cert);
    tier_revocations_free(list);
    free(der);
    tier_pseudonym_release(&p);
    tier_identity_release(&spoke);
    tier_identity_release(&hub);
}

Test(tier_pseudonym, what_was_not_asked_by_its_holder_is_refused) {
    struct tier_node spoke = enroll("st-mary", TIER_ROLE_SPOKE);
    struct tier_node thief = enroll("st-eve", TIER_ROLE_SPOKE);
    struct tier_pseudonym_ask m = {0}, other = {0};
    char *cert = NULL, *ca = NULL, *csr = NULL;
    struct tier_key *key = NULL;

    MUST(tier_pseudonym_prepare(fixture_path("st-mary"), &spoke, &run_one, "north", &m, err));
    /* For another parent, another run, another's name; with another's signature. */
    snprintf(m.parent, sizeof m.parent, "south");
    REFUSED(TIER_EIDENTITY, "signature",
            tier_authority_pseudonym(authority, &m, NOW, &cert, &ca, err));
    snprintf(m.parent, sizeof m.parent, "north");
    m.run = run_two;
    REFUSED(TIER_EIDENTITY, "signature",
            tier_authority_pseudonym(authority, &m, NOW, &cert, &ca, err));
    m.run = run_one;
    MUST(tier_pseudonym_prepare(fixture_path("st-eve"), &thief, &run_one, "north", &other, err));
    memcpy(other.signature, m.signature, sizeof m.signature);
    other.signature_bytes = m.signature_bytes;
    REFUSED(TIER_EIDENTITY, "signature",
            tier_authority_pseudonym(authority, &other, NOW, &cert, &ca, err));
    /* A name that is not the key's. */
    MUST(tier_key_generate(&key, err));
    MUST(tier_csr_new(key, "p-0123456789012345678901234567890123456789", TIER_ROLE_SPOKE, &csr,
                      err));
    free(m.csr_pem);
    m.csr_pem = csr;
    char *text = NULL;
    MUST(tier_pseudonym_text(&m, &text, err));
    MUST(tier_key_sign(spoke.key, text, strlen(text), m.signature, &m.signature_bytes, err));
    REFUSED(TIER_EIDENTITY, "not a pseudonym's",
            tier_authority_pseudonym(authority, &m, NOW, &cert, &ca, err));
    free(text);
    /* And nothing of that was kept: the honest question is answered. */
    tier_pseudonym_ask_release(&m);
    struct tier_pseudonym p = get(&spoke, "st-mary", &run_one, "north");
    tier_pseudonym_release(&p);
    tier_pseudonym_ask_release(&other);
    tier_key_free(key);
    tier_identity_release(&spoke);
    tier_identity_release(&thief);
}

Test(tier_pseudonym, whose_it_is_is_sealed_and_opened_for_a_reason_alone) {
    struct tier_node spoke = enroll("a-hospital-of-that-name", TIER_ROLE_SPOKE);
    struct tier_pseudonym p = get(&spoke, "a-hospital-of-that-name", &run_one, "north");
    char child[TIER_NAME_LEN_MAX + 1] = "";

    REFUSED(TIER_EARG, "why it is opened",
            tier_authority_unseal(authority, p.name, "", NOW, child, err));
    REFUSED(TIER_ENOTFOUND, "gave nobody",
            tier_authority_unseal(authority, "p-12", "order 7", NOW, child, err));
    MUST(tier_authority_unseal(authority, p.name, "order 7 of the court", NOW, child, err));
    cr_assert_str_eq(child, "a-hospital-of-that-name");
    tier_authority_close(authority);
    authority = NULL;
    CHECK(mentions("authority/authority.db", p.name));
    CHECK(mentions("authority/authority.db", "order 7 of the court"));
    tier_pseudonym_release(&p);
    tier_identity_release(&spoke);
}

/* ---- in a secure sum ---- */

#define CHILDREN 4

struct real {
    struct ring ring;
    struct tier_node node[CHILDREN];
    struct tier_pseudonym own[CHILDREN];
    struct tier_mask_pseudonym says[CHILDREN], parent;
};

static void real_open(struct real *r) {
    struct ring *g = &r->ring;
    char name[16];

    g->round =
        (struct tier_mask_round){.run = run_one, .round = 1, .cohort_min = 3, .threshold = .6};
    g->count = CHILDREN;
    g->state = 3;
    for (unsigned i = 0; i < CHILDREN; i++) {
        struct ring_child *k = &g->child[i];
        snprintf(name, sizeof name, "hospital-%u", i);
        r->node[i] = enroll(name, TIER_ROLE_SPOKE);
        r->own[i] = get(&r->node[i], name, &run_one, "north");
        r->says[i] = (struct tier_mask_pseudonym){.own = &r->own[i],
                                                  .ca = r->node[i].ca,
                                                  .run = run_one,
                                                  .parent = "north",
                                                  .now_s = NOW};
        snprintf(k->name, sizeof k->name, "%s", r->own[i].name);
        k->trust = tier_mask_trust_of_pseudonym(&r->says[i]);
        MUST(tier_mask_child_new(&g->round, k->name, &k->trust, &k->c, err));
        for (unsigned v = 0; v < RING_VALUES; v++)
            k->values[v] = i * 1000 + v;
    }
    r->parent = r->says[0];
    r->parent.own = NULL;
    g->trust = tier_mask_trust_of_pseudonym(&r->parent);
    MUST(tier_mask_parent_new(&g->round, &g->trust, &g->p, err));
}

static void real_close(struct real *r) {
    ring_close(&r->ring);
    for (unsigned i = 0; i < CHILDREN; i++) {
        tier_pseudonym_release(&r->own[i]);
        tier_identity_release(&r->node[i]);
    }
}

Test(tier_pseudonym, spokes_that_do_not_know_each_other_sum_in_secret) {
    static struct real r;
    uint64_t masked[RING_VALUES], visible[RING_VALUES];
    size_t n;

    real_open(&r);
    for (int step = 0; step < 5; step++) {
        if (step == 2)
            r.ring.child[2].gone = true;
        ring_step(&r.ring, 0);
        MUST(tier_mask_parent_close(r.ring.p, err));
    }
    const struct tier_mask_term *terms = tier_mask_parent_terms(r.ring.p, &n);
    ring_sums(&r.ring, masked, visible);
    ring_apply(terms, n, masked);
    cr_assert_eq(memcmp(masked, visible, sizeof masked), 0);
    real_close(&r);
}

Test(tier_pseudonym, one_of_another_run_or_parent_and_a_real_name_are_nobody_in_a_sum) {
    static struct real r;
    uint8_t sig[TIER_MASK_SIGNATURE_BYTES_MAX];
    size_t sig_bytes;

    real_open(&r);
    struct tier_mask_trust *t = &r.ring.child[0].trust;
    struct tier_pseudonym elsewhere = get(&r.node[1], "hospital-1", &run_two, "north");
    struct tier_pseudonym below = get(&r.node[1], "hospital-1", &run_one, "south");
    const struct tier_pseudonym *const wrong[] = {&elsewhere, &below};
    for (size_t i = 0; i < 2; i++) {
        MUST(tier_key_sign(wrong[i]->key, "x", 1, sig, &sig_bytes, err));
        REFUSED(TIER_EIDENTITY, "another name, run or parent",
                t->check(t->arg, wrong[i]->name, wrong[i]->cert_pem, "x", 1, sig, sig_bytes, err));
    }
    MUST(tier_key_sign(r.own[1].key, "x", 1, sig, &sig_bytes, err));
    MUST(t->check(t->arg, r.own[1].name, r.own[1].cert_pem, "x", 1, sig, sig_bytes, err));
    REFUSED(TIER_EIDENTITY, "another name",
            t->check(t->arg, r.own[2].name, r.own[1].cert_pem, "x", 1, sig, sig_bytes, err));
    REFUSED(TIER_EIDENTITY, "does not fit",
            t->check(t->arg, r.own[1].name, r.own[1].cert_pem, "y", 1, sig, sig_bytes, err));
    MUST(tier_key_sign(r.node[1].key, "x", 1, sig, &sig_bytes, err));
    REFUSED(TIER_EIDENTITY, "not a pseudonym's",
            t->check(t->arg, "hospital-1", r.node[1].cert_pem, "x", 1, sig, sig_bytes, err));
    tier_pseudonym_release(&elsewhere);
    tier_pseudonym_release(&below);
    real_close(&r);
}
