/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of policies and consents, and what they do not go with. */
#include "tier/config.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static struct tier_config config;
static struct tier_problems problems;
static struct tier_err err;

#define SPOKE                                                                                      \
    "consilium-spoke", "--name", "north-1", "--data-dir", "/d", "--parent-address", "top:7400",    \
        "--parent-name", "top"
#define DATA "--data-csv", "t.csv", "--data-schema", "s.yaml"

static enum tier_status load(enum tier_config_kind kind, char *const *argv) {
    int argc = 0;
    while (argv[argc])
        argc++;
    return tier_config_load(kind, argc, argv, NULL, &config, &problems, &err);
}

#define LOAD(kind, ...) load(kind, (char *const[]){__VA_ARGS__, NULL})

Test(tier_config_steward, a_spoke_that_says_nothing_reads_every_row_and_takes_no_plan) {
    cr_assert(eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA), TIER_OK), "%s", err.text);
    cr_expect(config.spoke.accept == TIER_ACCEPT_NONE && !config.signed_plans);
    cr_expect(config.spoke.policy_file[0] == 0 && config.spoke.consent_table[0] == 0);
    cr_expect(eq(u64, config.spoke.rows_min, 5));
}

Test(tier_config_steward, policies_and_consents_are_read) {
    cr_assert(eq(int,
                 LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--policy-file", "p.yaml", "--policy-signed",
                      "true", "--consent-table", "c.csv", "--consent-opt-out", "o.txt",
                      "--consent-rows-min", "20"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(config.signed_plans);
    cr_expect(eq(str, config.spoke.policy_file, "p.yaml"));
    cr_expect(eq(str, config.spoke.consent_table, "c.csv"));
    cr_expect(eq(str, config.spoke.opt_out, "o.txt"));
    cr_expect(eq(u64, config.spoke.rows_min, 20));
}

Test(tier_config_steward, consents_go_only_with_data_that_the_spoke_reads_alone) {
    cr_expect(eq(int,
                 LOAD(TIER_CONFIG_SPOKE, SPOKE, "--trainer-dir", "/t", "--trainer-contract", "x",
                      "--consent-table", "c.csv"),
                 TIER_ECONFIG));
    cr_expect(strstr(err.text, "consent.table") && strstr(err.text, "trainer.dir"), "%s", err.text);
    cr_expect(eq(int,
                 LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--team-listen", "127.0.0.1:1",
                      "--team-members", "a", "--team-identity", "/i", "--consent-opt-out", "o"),
                 TIER_ECONFIG));
    cr_expect(strstr(err.text, "consent.opt_out") && strstr(err.text, "team.listen"), "%s",
              err.text);
}

Test(tier_config_steward, signatures_want_an_authority) {
    cr_expect(eq(int,
                 LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--policy-signed", "true", "--tls", "off"),
                 TIER_ECONFIG));
    cr_expect(strstr(err.text, "policy.signed") != NULL, "%s", err.text);
    cr_expect(eq(int,
                 LOAD(TIER_CONFIG_HUB, "consilium-hub", "--name", "top", "--data-dir", "/d",
                      "--listen", "127.0.0.1:0", "--policy-signed", "true", "--tls", "off"),
                 TIER_ECONFIG));
    cr_expect(strstr(err.text, "policy.signed") != NULL, "%s", err.text);
}

Test(tier_config_steward, a_site_may_ask_for_a_mode) {
    cr_assert(eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA), TIER_OK), "%s", err.text);
    cr_expect(eq(int, config.spoke.mode, TIER_ACCEPT_ANY));
    cr_assert(eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--policy-mode", "untrusted"), TIER_OK),
              "%s", err.text);
    cr_expect(eq(int, config.spoke.mode, TIER_ACCEPT_UNTRUSTED));
    cr_expect(
        eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--policy-mode", "trusted"), TIER_ECONFIG));
}

Test(tier_config_steward, a_tpm_is_named_with_a_pcr_that_may_be_reset) {
    cr_assert(eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA), TIER_OK), "%s", err.text);
    cr_expect(config.tpm_tcti[0] == 0 && config.tpm_pcr == 23);
    cr_assert(eq(int,
                 LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--tpm-tcti", "device:/dev/tpmrm0",
                      "--tpm-pcr", "16"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(eq(str, config.tpm_tcti, "device:/dev/tpmrm0"));
    cr_expect(eq(u64, config.tpm_pcr, 16));
    cr_expect(eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--tpm-pcr", "15"), TIER_ECONFIG));
    cr_expect(eq(int,
                 LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--tpm-tcti", "device", "--tpm-pcr", "17"),
                 TIER_ECONFIG));
    cr_expect(strstr(err.text, "16 or 23") != NULL, "%s", err.text);
    cr_expect(eq(int, LOAD(TIER_CONFIG_SPOKE, SPOKE, DATA, "--attest-keys", "/k"), TIER_EARG));
}
