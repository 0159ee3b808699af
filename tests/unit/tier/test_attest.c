/* SPDX-License-Identifier: Apache-2.0 */
/* Quotes: the good one is taken, and none that differs from it in anything. */
#include "support/quote.h"
#include "support/tier_fixture.h"
#include "tier/audit.h"
#include "tier/plan.h"
#include "tier/verify.h"

#include <jansson.h>

static struct tier_key *tpm_key, *other_key;
static uint8_t pinned[TIER_ATTEST_KEY_BYTES], stranger[TIER_ATTEST_KEY_BYTES];
static const struct tier_attest_question question = {{{1}}, {{2}}, "north-1", "hub-a"};
static const struct tier_measured ran = {{{3}}, {{0}}, {{5}}};
static struct quote_form form;
static struct tier_quote quote;
static struct tier_plan plan;

static void pin(struct tier_key **key, uint8_t der[TIER_ATTEST_KEY_BYTES]) {
    MUST(tier_key_generate(key, err));
    char *pem = quote_key_pem(*key);
    MUST(tier_attest_key(pem, der, err));
    free(pem);
}

static void up(void) {
    pin(&tpm_key, pinned);
    pin(&other_key, stranger);
    quote_make(&question, &ran, &form, &quote);
    quote_sign(tpm_key, &quote);
}

static void down(void) {
    tier_key_free(tpm_key);
    tier_key_free(other_key);
}

TestSuite(tier_attest, .init = up, .fini = down);

static void again(void) {
    quote.attest_bytes = put_attest(quote.attest, &form);
    quote_sign(tpm_key, &quote);
}

static void refused(const char *word) {
    REFUSED(TIER_EIDENTITY, word, tier_attest_check(&question, &quote, pinned, err));
}

Test(tier_attest, a_pcr_is_extended_by_program_kernels_and_configuration_in_this_order) {
    /* By Python's hashlib, from 32 zeros on: sha256(pcr + binary), + kernels, + config. */
    static const char want[] = "44978bc3c03abed769415d543fa41c95d1df8fdd6327742a4125f9584f338688";
    char hex[TIER_HASH_HEX];
    struct tier_hash got = tier_attest_pcr(&ran), pcr = got;

    cr_assert(eq(str, (char *)tier_hash_hex(&got, hex), (char *)want));
    const struct tier_measured swapped = {ran.config, ran.kernels, ran.binary};
    got = tier_attest_pcr(&swapped);
    CHECK(!tier_hash_equal(&got, &pcr));
}

Test(tier_attest, a_quote_that_answers_the_question_is_good) {
    struct tier_attested a;

    MUST(tier_attest_check(&question, &quote, pinned, err));
    MUST(tier_attest_parse(quote.attest, quote.attest_bytes, &a, err));
    CHECK(a.clock_ms == 123456 && a.resets == 3 && a.restarts == 1);
    CHECK(a.pcrs == (0xffffu | 1u << 23) && tier_attest_steady(&quote));
    /* The other PCR that an application may reset is as good. */
    quote.pcr = 16;
    form.pcrs = 0x1ffff;
    again();
    MUST(tier_attest_check(&question, &quote, pinned, err));
}

Test(tier_attest, every_bit_of_it_counts) {
    struct tier_quote good = quote;
    struct tier_err err;

    for (size_t i = 0; i < quote.attest_bytes * 8; i++) {
        quote = good;
        quote.attest[i / 8] ^= (uint8_t)(1u << i % 8);
        CHECK(tier_attest_check(&question, &quote, pinned, &err) == TIER_EIDENTITY, "bit %zu", i);
    }
    for (size_t i = 0; i < sizeof quote.platform * 8; i++) {
        quote = good;
        ((uint8_t *)quote.platform)[i / 8] ^= (uint8_t)(1u << i % 8);
        CHECK(tier_attest_check(&question, &quote, pinned, &err) == TIER_EIDENTITY, "bit %zu", i);
    }
    for (size_t i = 0; i < sizeof quote.ran * 8; i++) {
        quote = good;
        ((uint8_t *)&quote.ran)[i / 8] ^= (uint8_t)(1u << i % 8);
        CHECK(tier_attest_check(&question, &quote, pinned, &err) == TIER_EIDENTITY, "bit %zu", i);
    }
    quote = good;
    for (size_t n = 0; n < good.attest_bytes; n++) {
        quote.attest_bytes = n;
        quote_sign(tpm_key, &quote); /* as it is, and no quote */
        CHECK(tier_attest_check(&question, &quote, pinned, &err) == TIER_EIDENTITY, "%zu bytes", n);
    }
    quote.attest_bytes = good.attest_bytes + 1;
    quote_sign(tpm_key, &quote);
    refused("does not end with a SHA-256");
}

Test(tier_attest, another_key_run_child_parent_or_nonce_is_none) {
    struct tier_attest_question q = question;

    REFUSED(TIER_EIDENTITY, "not signed by the TPM key that is pinned for north-1",
            tier_attest_check(&question, &quote, stranger, err));
    q.nonce.b[31] = 1;
    REFUSED(TIER_EIDENTITY, "an older nonce", tier_attest_check(&q, &quote, pinned, err));
    q = question;
    q.run.b[0] = 9;
    REFUSED(TIER_EIDENTITY, "another run", tier_attest_check(&q, &quote, pinned, err));
    q = question;
    q.child = "north-2";
    REFUSED(TIER_EIDENTITY, "another question", tier_attest_check(&q, &quote, pinned, err));
    q = question;
    q.parent = "hub-b";
    REFUSED(TIER_EIDENTITY, "another question", tier_attest_check(&q, &quote, pinned, err));
}

Test(tier_attest, what_a_tpm_signs_besides_quotes_is_none) {
    form.magic = 0x12345678;
    again();
    refused("no TPM made");
    form.magic = 0xff544347;
    form.type = 0x8017; /* a certificate of creation */
    again();
    refused("is no quote");
    form.type = 0x8018;
    form.hash = 0x0004; /* the SHA-1 bank */
    again();
    refused("other PCRs than of the SHA-256 bank");
    form.hash = 0x000b;
    form.name_bytes = 69;
    again();
    refused("signer's name");
    form.name_bytes = 34;
    form.pcrs = 1u << 23;
    again();
    refused("not of PCRs 0 to 15 and 23");
    form.pcrs = 0x1ffff;
    again();
    refused("not of PCRs 0 to 15 and 23");
    form.pcrs = 0xffff | 1u << 23;
    quote.pcr = 17;
    again();
    refused("PCR 17; 16 or 23");
    quote.pcr = 23;
    again();
    MUST(tier_attest_check(&question, &quote, pinned, err));
}

Test(tier_attest, a_program_that_is_not_what_the_tpm_was_told_is_refused) {
    quote.ran.binary.b[0] = 4;
    refused("does not hold what it says");
    CHECK(!tier_attest_steady(&quote)); /* as where another program extends the node's PCR */
    quote.ran = ran;
    memset(quote.platform[7].b, 0, 32);
    refused("does not hold what it says");
}

static void allow(const char *entry) {
    CHECK(tier_keys_list_add(&plan.governance.attest_allow, entry, strlen(entry)));
}

#define HEX(two) two "00000000000000000000000000000000000000000000000000000000000000"

Test(tier_attest, the_plan_says_what_may_run) {
    REFUSED(TIER_EPOLICY, "the program that it runs, 03", tier_attest_allowed(&plan, &quote, err));
    allow("binary=" HEX("07"));
    REFUSED(TIER_EPOLICY, "the program that it runs, 03", tier_attest_allowed(&plan, &quote, err));
    allow("binary=" HEX("03"));
    MUST(tier_attest_allowed(&plan, &quote, err));
    quote.ran.kernels.b[0] = 8;
    REFUSED(TIER_EPOLICY, "the kernels that it has loaded, 08",
            tier_attest_allowed(&plan, &quote, err));
    allow("kernels=" HEX("08"));
    MUST(tier_attest_allowed(&plan, &quote, err));
    quote.ran.kernels.b[0] = 0; /* in the program, whose hash says which */
    MUST(tier_attest_allowed(&plan, &quote, err));
    allow("config=" HEX("06"));
    REFUSED(TIER_EPOLICY, "its configuration, 05", tier_attest_allowed(&plan, &quote, err));
    allow("config=" HEX("05"));
    MUST(tier_attest_allowed(&plan, &quote, err));
    allow("pcr7=" HEX("08"));
    REFUSED(TIER_EPOLICY, "PCR 7 of its machine, 0808", tier_attest_allowed(&plan, &quote, err));
    allow("pcr7=0808080808080808080808080808080808080808080808080808080808080808");
    MUST(tier_attest_allowed(&plan, &quote, err));
    allow("pcr15=" HEX("10"));
    REFUSED(TIER_EPOLICY, "PCR 15 of its machine", tier_attest_allowed(&plan, &quote, err));
}

Test(tier_attest, entries_of_the_list_are_a_kind_and_a_hash) {
    static const char *const bad[] = {"",
                                      "binary",
                                      "binary=ab",
                                      "program=" HEX("03"),
                                      HEX("03"),
                                      "=" HEX("03"),
                                      "pcr=" HEX("03"),
                                      "pcr16=" HEX("03"),
                                      "pcr-1=" HEX("03"),
                                      "pcr07=" HEX("03"),
                                      "pcr100=" HEX("03"),
                                      "binary=" HEX("0G"),
                                      "binary=" HEX("03") "0"};
    struct tier_attest_entry e;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(!tier_attest_entry(bad[i], &e), "%s", bad[i]);
    CHECK(tier_attest_entry("binary=" HEX("03"), &e) && e.kind == TIER_ATTEST_BINARY);
    CHECK(tier_attest_entry("kernels=" HEX("03"), &e) && e.kind == TIER_ATTEST_KERNELS);
    CHECK(tier_attest_entry("config=" HEX("03"), &e) && e.kind == TIER_ATTEST_CONFIG);
    CHECK(tier_attest_entry("pcr0=" HEX("03"), &e) && e.kind == TIER_ATTEST_PCR && e.pcr == 0);
    CHECK(tier_attest_entry("pcr15=" HEX("03"), &e) && e.pcr == 15 && e.hash.b[0] == 3);
}

Test(tier_attest, a_pinned_key_is_one_public_key_of_p256) {
    static const char rsa[] = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    uint8_t der[TIER_ATTEST_KEY_BYTES];
    char *own = NULL;

    REFUSED(TIER_EIDENTITY, "P-256", tier_attest_key("", der, err));
    REFUSED(TIER_EIDENTITY, "P-256", tier_attest_key(rsa, der, err));
    MUST(tier_key_to_pem(tpm_key, &own, err)); /* a private one is nobody's to pin */
    REFUSED(TIER_EIDENTITY, "P-256", tier_attest_key(own, der, err));
    tier_secret_free(own);
}

/* ---- the log ---- */

Test(tier_attest, an_audit_line_gives_back_what_was_asked_and_answered) {
    struct tier_attest_question q = {.parent = question.parent};
    struct tier_quote back = {.pcr = 0};
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    json_t *line = tier_attest_json(&question, &quote, pinned);

    CHECK(tier_attest_read(line, &q, &back, key));
    MUST(tier_attest_check(&q, &back, key, err));
    CHECK(memcmp(key, pinned, sizeof key) == 0 && back.pcr == 23);
    static const char *const members[] = {"run",       "child",   "nonce",    "key",
                                          "quote",     "pcr",     "platform", "binary",
                                          "signature", "kernels", "config"};
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        json_t *without = json_deep_copy(line);
        json_object_del(without, members[i]);
        CHECK(!tier_attest_read(without, &q, &back, key) || strcmp(members[i], "pcr") == 0, "%s",
              members[i]);
        json_object_set_new(without, members[i], json_string("zz"));
        bool read = tier_attest_read(without, &q, &back, key);
        CHECK(!read || tier_attest_check(&q, &back, key, NULL) != TIER_OK, "%s", members[i]);
        json_decref(without);
    }
    json_decref(line);
}

/* A log of hub-a: what it asked, and whom it admitted by what. */
static uint64_t findings(const struct tier_hash *asked, const struct tier_quote *by,
                         const uint8_t key[TIER_ATTEST_KEY_BYTES], char *first, size_t room) {
    struct tier_audit *log = NULL;
    struct tier_verify *v = NULL;
    char dir[] = "/tmp/consilium-attest-XXXXXX", path[128];

    CHECK(mkdtemp(dir) != NULL);
    MUST(tier_audit_open(dir, "hub-a", TIER_AUDIT_SYNC_NEVER, 1000, &log, err));
    if (asked)
        MUST(tier_audit_note(log, 2000, "attest.asked", err, "h:run", &question.run, "s:child",
                             "north-1", "h:nonce", asked, NULL));
    json_t *line = tier_attest_json(&question, by, key);
    MUST(tier_audit_append(log, 3000, "attest.admitted", line, err));
    if (!asked) /* the same answer, twice */
        MUST(tier_audit_append(log, 3000, "attest.admitted", line, err));
    json_decref(line);
    tier_audit_close(log);
    MUST(tier_verify_new(NULL, &v, err));
    snprintf(path, sizeof path, "%s/audit/audit.log", dir);
    MUST(tier_verify_add(v, path, err));
    uint64_t found = tier_verify_finding_count(v);
    snprintf(first, room, "%s", found ? tier_verify_finding(v, 0) : "");
    CHECK(tier_verify_node_at(v, 0)->quotes == (asked ? 1 : 2));
    tier_verify_free(v);
    nftw(dir, fixture_remove, 8, FTW_DEPTH | FTW_PHYS);
    return found;
}

Test(tier_attest, an_auditor_finds_who_was_admitted_by_no_good_answer) {
    struct tier_quote bad = quote;
    char first[1024];

    CHECK(findings(&question.nonce, &quote, pinned, first, sizeof first) == 0, "%s", first);
    CHECK(findings(&question.run, &quote, pinned, first, sizeof first) == 1, "%s", first);
    CHECK(strstr(first, "answers no open question") != NULL, "%s", first);
    CHECK(findings(NULL, &quote, pinned, first, sizeof first) == 2);
    CHECK(findings(&question.nonce, &quote, stranger, first, sizeof first) == 1);
    CHECK(strstr(first, "not signed by the TPM key") != NULL, "%s", first);
    bad.ran.binary.b[0] ^= 1;
    CHECK(findings(&question.nonce, &bad, pinned, first, sizeof first) == 1);
    CHECK(strstr(first, "does not hold what it says") != NULL, "%s", first);
}
