/* SPDX-License-Identifier: Apache-2.0 */
/* Two nodes that show each other their heads, without a wire between them. */
#include "support/tier_fixture.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/heads.h"
#include "tier/loop.h"

static struct tier_authority *authority;
static struct tier_config config[2];
static struct tier_home home[2]; /* "north" and its child "north-1" */

static void enroll(int i, enum tier_role role, bool again, bool fresh_key) {
    char path[TIER_CONFIG_PATH_BYTES + 32], token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL,
                                                                    *ca = NULL;
    int64_t now_s = tier_wall_ms() / 1000;
    struct tier_key *key = NULL;

    MUST(tier_authority_token_create(authority, config[i].name, role, 600, again, now_s, token,
                                     err));
    mkdir(config[i].data_dir, 0700);
    if (fresh_key) {
        snprintf(path, sizeof path, "%s/identity/key.pem", config[i].data_dir);
        CHECK(unlink(path) == 0);
    }
    MUST(tier_identity_prepare(config[i].data_dir, &key, err));
    MUST(tier_csr_new(key, config[i].name, role, &csr, err));
    MUST(tier_authority_enroll(authority, token, csr, now_s, &cert, &ca, err));
    MUST(tier_identity_store(config[i].data_dir, cert, ca, now_s, err));
    tier_key_free(key);
    free(csr), free(cert), free(ca);
}

static void up(void) {
    static const char *const names[] = {"north", "north-1"};
    fixture_up();
    const char *dir = fixture_path("authority");
    MUST(tier_authority_init(dir, "test-authority", 30, tier_wall_ms() / 1000, err));
    MUST(tier_authority_open(dir, &authority, err));
    for (int i = 0; i < 2; i++) {
        enum tier_role role = i ? TIER_ROLE_SPOKE : TIER_ROLE_HUB;
        config[i] = (struct tier_config){
            .kind = i ? TIER_CONFIG_SPOKE : TIER_CONFIG_HUB, .tls = true, .role = (int)role};
        snprintf(config[i].name, sizeof config[i].name, "%s", names[i]);
        snprintf(config[i].data_dir, sizeof config[i].data_dir, "%s/%s", fixture_dir, names[i]);
        enroll(i, role, false, false);
        MUST(tier_home_open(&config[i], &home[i], err));
    }
}

static void down(void) {
    tier_home_close(&home[0]);
    tier_home_close(&home[1]);
    tier_authority_close(authority);
    fixture_down();
}

TestSuite(tier_heads, .init = up, .fini = down);

static void note(int i, const char *event, int count) {
    for (int k = 0; k < count; k++)
        MUST(tier_audit_note(home[i].audit, 1000 + k, event, err, "i:k", (int64_t)k, NULL));
    MUST(tier_audit_sync_now(home[i].audit, err));
}

/* What `from` says to the other, and what comes of it there. */
static enum tier_status show(int from, uint64_t knows, bool *prove, struct tier_err *why) {
    struct tier_head head;
    MUST(tier_heads_say(&home[from], config[!from].name, knows, false, &head, err));
    return tier_heads_hear(&home[!from], config[from].name, home[from].node.cert_pem, &head, prove,
                           why);
}

static uint64_t size_of(int i) {
    return tier_audit_durable(home[i].audit);
}

Test(tier_heads, a_later_head_is_kept_with_its_proof_and_asked_for_one_without) {
    struct tier_head head;
    bool prove;

    MUST(show(0, 0, &prove, err));
    CHECK(!prove);
    uint64_t first = size_of(0);
    note(0, "more", 7);
    MUST(show(0, 0, &prove, err));
    CHECK(prove, "no proof came, and it was kept all the same");
    MUST(tier_heads_say(&home[1], "north", 0, false, &head, err));
    CHECK(head.known == first);
    MUST(show(0, first, &prove, err));
    CHECK(!prove);
    MUST(tier_heads_say(&home[1], "north", 0, false, &head, err));
    CHECK(head.known == size_of(0) && head.known > first);
    MUST(show(0, first, &prove, err)); /* said again */
    CHECK(!prove);
}

Test(tier_heads, what_the_disk_does_not_have_yet_is_in_no_head) {
    struct tier_head head;
    uint64_t before = size_of(0);

    MUST(tier_audit_note(home[0].audit, 5, "more", err, NULL));
    MUST(tier_heads_say(&home[0], "north-1", 0, false, &head, err));
    CHECK(head.size == before);
    MUST(tier_audit_sync_now(home[0].audit, err));
    MUST(tier_heads_say(&home[0], "north-1", 0, false, &head, err));
    CHECK(head.size == before + 1);
}

/* The node's directory goes back to what it was, and goes on otherwise. */
static void go_back(int i) {
    char from[TIER_CONFIG_PATH_BYTES + 32];
    snprintf(from, sizeof from, "%s/audit/audit.log", config[i].data_dir);
    tier_home_close(&home[i]);
    CHECK(unlink(from) == 0);
    MUST(tier_home_open(&config[i], &home[i], err));
    note(i, "otherwise", 12);
}

/* Another certificate, for the same key or a new one. */
static void certify(int i, bool fresh_key) {
    char before[TIER_PEM_BYTES_MAX];
    snprintf(before, sizeof before, "%s", home[i].node.cert_pem);
    tier_home_close(&home[i]);
    enroll(i, (enum tier_role)config[i].role, true, fresh_key);
    MUST(tier_home_open(&config[i], &home[i], err));
    CHECK(strcmp(before, home[i].node.cert_pem) != 0);
}

static bool logged(int i, const char *event) {
    char path[TIER_CONFIG_PATH_BYTES + 32], line[8192], name[64];
    bool found = false;
    snprintf(path, sizeof path, "%s/audit/audit.log", config[i].data_dir);
    snprintf(name, sizeof name, "\"event\":\"%s\"", event);
    MUST(tier_audit_sync_now(home[i].audit, err));
    FILE *f = fopen(path, "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        found = found || strstr(line, name) != NULL;
    fclose(f);
    return found;
}

Test(tier_heads, a_renewed_certificate_brings_no_new_history_and_a_new_key_does) {
    bool prove;

    note(0, "more", 5);
    MUST(show(0, 0, &prove, err));
    certify(0, false); /* the log goes on, so nothing is wrong */
    uint64_t kept = size_of(0);
    note(0, "more", 1);
    MUST(show(0, 0, &prove, err));
    CHECK(prove, "what came before is asked for, whatever the certificate");
    MUST(show(0, kept, &prove, err));
    CHECK(!prove);
    kept = size_of(0);
    go_back(0);
    certify(0, false);
    REFUSED(TIER_ECONFLICT, "two histories", show(0, kept, &prove, err));
    CHECK(logged(1, "peer.equivocates") && !logged(1, "peer.began_anew"));
    certify(0, true);
    MUST(show(0, kept, &prove, err));
    CHECK(!prove);
    CHECK(logged(1, "peer.began_anew"));
}

Test(tier_heads, a_peer_with_two_histories_is_taken_no_more_until_it_has_another_key) {
    bool prove;
    struct tier_err why = {0};

    note(0, "more", 5);
    MUST(show(0, 0, &prove, err));
    uint64_t kept = size_of(0);
    MUST(tier_heads_trust(&home[1], "north", home[0].node.cert_pem, err));
    go_back(0);
    REFUSED(TIER_ECONFLICT, "'north' has shown two histories", show(0, kept, &prove, err));
    REFUSED(TIER_ECONFLICT, "two histories",
            tier_heads_trust(&home[1], "north", home[0].node.cert_pem, err));
    CHECK(show(0, kept, &prove, &why) == TIER_ECONFLICT);
    tier_home_close(&home[1]); /* it is not forgotten */
    MUST(tier_home_open(&config[1], &home[1], err));
    REFUSED(TIER_ECONFLICT, "two histories",
            tier_heads_trust(&home[1], "north", home[0].node.cert_pem, err));

    certify(0, false); /* another certificate for the same key changes nothing */
    REFUSED(TIER_ECONFLICT, "another key",
            tier_heads_trust(&home[1], "north", home[0].node.cert_pem, err));
    CHECK(show(0, kept, &prove, &why) == TIER_ECONFLICT);
    tier_home_close(&home[0]);
    enroll(0, TIER_ROLE_HUB, true, true);
    MUST(tier_home_open(&config[0], &home[0], err));
    MUST(tier_heads_trust(&home[1], "north", home[0].node.cert_pem, err));
    MUST(show(0, kept, &prove, err));
    CHECK(!prove);
    note(0, "more", 3);
    kept = size_of(0);
    MUST(show(0, kept, &prove, err));
}

Test(tier_heads, a_head_of_another_node_or_altered_is_refused_and_nothing_is_kept) {
    struct tier_head head;
    bool prove;

    MUST(tier_heads_say(&home[0], "north-1", 0, false, &head, err));
    head.size++;
    REFUSED(TIER_EIDENTITY, "north's audit log",
            tier_heads_hear(&home[1], "north", home[0].node.cert_pem, &head, &prove, err));
    head.size--;
    REFUSED(TIER_EIDENTITY, "other's audit log",
            tier_heads_hear(&home[1], "other", home[0].node.cert_pem, &head, &prove, err));
    head.signature_bytes = 0;
    REFUSED(TIER_EIDENTITY, "north's audit log",
            tier_heads_hear(&home[1], "north", home[0].node.cert_pem, &head, &prove, err));
    MUST(tier_heads_say(&home[1], "north", 0, false, &head, err));
    CHECK(head.known == 0);
}

Test(tier_heads, a_head_that_was_asked_for_is_not_a_fault_and_one_that_was_not_is) {
    struct tier_heads_edge up_edge = {0}, down_edge = {.due = true};
    struct tier_head head, answer;
    bool send, asked;

    MUST(tier_heads_begin(&home[1], &up_edge, "north", &head, err));
    CHECK(head.answer && up_edge.due);
    MUST(tier_heads_came(&home[0], &down_edge, "north-1", home[1].node.cert_pem, &head, &answer,
                         &send, &asked, err));
    CHECK(send && asked && answer.known == head.size && !answer.answer);
    MUST(tier_heads_came(&home[1], &up_edge, "north", home[0].node.cert_pem, &answer, &head, &send,
                         &asked, err));
    CHECK(!send && asked);
    MUST(tier_heads_came(&home[1], &up_edge, "north", home[0].node.cert_pem, &answer, &head, &send,
                         &asked, err));
    CHECK(!send && !asked);
}
