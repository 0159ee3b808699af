/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/access.h"
#include "spoke/appraise.h"
#include "spoke/budget.h"
#include "spoke/check.h"
#include "spoke/host.h"
#include "spoke/member.h"
#include "spoke/overlap.h"
#include "spoke/predict.h"
#include "spoke/spoke.h"
#include "spoke/steward.h"
#include "tier/key_file.h"
#include "tier/log.h"
#include "tier/node_main.h"

#include <stdlib.h>
#include <string.h>

/* consilium-spoke member: one more server of a spoke. */
static int run_member(int argc, char **argv) {
    static struct tier_config config;
    struct spoke_member *member = NULL;
    struct tier_loop *loop = NULL;
    struct tier_err err = {0};
    int code;

    if (!tier_node_begin(TIER_CONFIG_MEMBER, "consilium-spoke member", argc, argv, &config, &code))
        return code;
    tier_node_catch_signals();
    if (tier_loop_new(&loop, &err) != TIER_OK ||
        spoke_member_open(&config, loop, &member, &err) != TIER_OK) {
        tier_log_error("cannot start: %s", err.text);
        tier_loop_free(loop);
        return 1;
    }
    tier_node_stop_on_signals(loop);
    tier_loop_run(loop);
    spoke_member_close(member);
    tier_loop_free(loop);
    return 0;
}

int main(int argc, char **argv) {
    static struct tier_config config;
    static struct spoke spoke;
    struct tier_loop *loop = NULL;
    struct tier_err err = {0};
    int code;

    tier_key_file_passphrase(getenv("CONSILIUM_KEY_PASSPHRASE_FILE"));
    if (argc > 1 && strcmp(argv[1], "member") == 0)
        return run_member(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "host") == 0)
        return spoke_host_main(argc - 1, argv + 1, stdout, stderr);
    if (argc > 1 && strcmp(argv[1], "check-data") == 0)
        return spoke_check_main(argc - 1, argv + 1, stdout, stderr);
    if (argc > 1 && strcmp(argv[1], "budget") == 0)
        return spoke_budget_main(argc - 1, argv + 1, stdout, stderr);
    if (argc > 1 && strcmp(argv[1], "appraise") == 0)
        return spoke_appraise_main(argc - 1, argv + 1, stdin, stdout, stderr);
    if (argc > 1 && strcmp(argv[1], "overlap") == 0)
        return spoke_overlap_main(argc - 1, argv + 1, stdout, stderr);
    if (argc > 1 && strcmp(argv[1], "predict") == 0)
        return spoke_predict_main(argc - 1, argv + 1, stdout, stderr);
    if (argc > 1 && (strcmp(argv[1], "pending") == 0 || strcmp(argv[1], "approve") == 0 ||
                     strcmp(argv[1], "refuse") == 0 || strcmp(argv[1], "withdraw") == 0))
        return spoke_steward_main(argc - 1, argv + 1, stdout, stderr);
    if (argc > 1 && strcmp(argv[1], "log") == 0)
        return spoke_access_main(argc - 1, argv + 1, stdout, stderr);
    if (!tier_node_begin(TIER_CONFIG_SPOKE, "consilium-spoke", argc, argv, &config, &code))
        return code;
    tier_node_catch_signals();
    if (tier_loop_new(&loop, &err) != TIER_OK ||
        spoke_open(&config, loop, &spoke, &err) != TIER_OK) {
        tier_log_error("cannot start: %s", err.text);
        tier_loop_free(loop);
        return 1;
    }
    tier_node_stop_on_signals(loop);
    tier_loop_run(loop);
    bool failed = spoke.failed;
    spoke_close(&spoke);
    tier_loop_free(loop);
    return failed;
}
