/* SPDX-License-Identifier: Apache-2.0 */
/* A TPM's own quotes, of swtpm: that they are good, and of what they are not. */
#include "support/swtpm.h"
#include "tier/tpm.h"

static const struct tier_measured ran = {{{3}}, {{4}}, {{5}}};
static const struct tier_measured other = {{{6}}, {{4}}, {{5}}};
static struct tier_attest_question question = {{{1}}, {{2}}, "north-1", "hub-a"};
static struct swtpm tpm;
static char folder[128];

static void up(void) {
    snprintf(fixture_dir, sizeof fixture_dir, "/tmp/consilium-tpm-XXXXXX");
    CHECK(mkdtemp(fixture_dir) != NULL);
    snprintf(folder, sizeof folder, "%s/tpm", fixture_dir);
    if (!tier_tpm_built())
        cr_skip_test("built without tpm2-tss");
    swtpm_start(&tpm, folder);
}

static void down(void) {
    swtpm_stop(&tpm);
    fixture_down();
}

TestSuite(tier_tpm, .init = up, .fini = down);

static struct tier_tpm *open_tpm(uint32_t pcr, const struct tier_measured *what,
                                 uint8_t key[TIER_ATTEST_KEY_BYTES]) {
    struct tier_tpm *t = NULL;
    MUST(tier_tpm_open(tpm.tcti, pcr, what, &t, err));
    MUST(tier_attest_key(tier_tpm_key_pem(t), key, err));
    return t;
}

static struct tier_quote ask(struct tier_tpm *t) {
    const struct tier_hash qualifier = tier_attest_qualifier(&question);
    struct tier_quote q;
    MUST(tier_tpm_quote(t, &qualifier, &q, err));
    return q;
}

Test(tier_tpm, its_quote_is_good_and_an_older_one_is_not) {
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    struct tier_tpm *t = open_tpm(23, &ran, key);
    struct tier_quote first = ask(t);

    MUST(tier_attest_check(&question, &first, key, err));
    question.nonce.b[0]++;
    struct tier_quote second = ask(t);
    MUST(tier_attest_check(&question, &second, key, err));
    REFUSED(TIER_EIDENTITY, "an older nonce", tier_attest_check(&question, &first, key, err));
    second.ran.binary.b[0]++;
    REFUSED(TIER_EIDENTITY, "does not hold what it says",
            tier_attest_check(&question, &second, key, err));
    tier_tpm_close(t);
}

Test(tier_tpm, its_key_stays_over_restarts_and_another_tpm_has_another) {
    uint8_t key[TIER_ATTEST_KEY_BYTES], same[TIER_ATTEST_KEY_BYTES], new[TIER_ATTEST_KEY_BYTES];
    char elsewhere[160];

    tier_tpm_close(open_tpm(23, &ran, key));
    tier_tpm_close(open_tpm(23, &other, same)); /* the program was started again */
    CHECK(memcmp(key, same, sizeof key) == 0);
    swtpm_stop(&tpm);
    swtpm_start(&tpm, folder); /* and the machine */
    tier_tpm_close(open_tpm(23, &ran, same));
    CHECK(memcmp(key, same, sizeof key) == 0);
    swtpm_stop(&tpm);
    snprintf(elsewhere, sizeof elsewhere, "%s/another", fixture_dir);
    swtpm_start(&tpm, elsewhere);
    struct tier_tpm *t = open_tpm(23, &ran, new);
    struct tier_quote q = ask(t);
    CHECK(memcmp(key, new, sizeof key) != 0);
    REFUSED(TIER_EIDENTITY, "not signed by", tier_attest_check(&question, &q, key, err));
    MUST(tier_attest_check(&question, &q, new, err));
    tier_tpm_close(t);
}

Test(tier_tpm, a_program_that_begins_anew_is_measured_anew) {
    uint8_t key[TIER_ATTEST_KEY_BYTES];

    tier_tpm_close(open_tpm(16, &ran, key));
    struct tier_tpm *t = open_tpm(16, &other, key);
    struct tier_quote q = ask(t);
    MUST(tier_attest_check(&question, &q, key, err));
    CHECK(q.pcr == 16 && tier_hash_equal(&q.ran.binary, &other.binary));
    q.ran = ran;
    REFUSED(TIER_EIDENTITY, "does not hold what it says",
            tier_attest_check(&question, &q, key, err));
    tier_tpm_close(t);
}

Test(tier_tpm, two_nodes_of_a_machine_have_a_pcr_each) {
    uint8_t key[TIER_ATTEST_KEY_BYTES], same[TIER_ATTEST_KEY_BYTES];

    tier_tpm_close(open_tpm(16, &ran, key));
    struct tier_tpm *t = open_tpm(23, &other, same);
    struct tier_quote q = ask(t);
    MUST(tier_attest_check(&question, &q, same, err));
    CHECK(memcmp(key, same, sizeof key) == 0);
    tier_tpm_close(t);
}

Test(tier_tpm, a_tpm_that_goes_away_gives_no_quote) {
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    const struct tier_hash qualifier = tier_attest_qualifier(&question);
    struct tier_tpm *t = open_tpm(23, &ran, key);
    struct tier_quote q;

    swtpm_stop(&tpm);
    REFUSED(TIER_EUNAVAILABLE, "the TPM", tier_tpm_quote(t, &qualifier, &q, err));
    tier_tpm_close(t);
    swtpm_start(&tpm, folder);
}

Test(tier_tpm, none_that_answers_is_an_error_with_its_name) {
    struct tier_tpm *t = NULL;

    REFUSED(TIER_EUNAVAILABLE, "device:/dev/no-such-tpm",
            tier_tpm_open("device:/dev/no-such-tpm", 23, &ran, &t, err));
    REFUSED(TIER_EUNAVAILABLE, "nonsense", tier_tpm_open("nonsense", 23, &ran, &t, err));
    tier_tpm_close(NULL);
}
