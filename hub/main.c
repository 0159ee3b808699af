/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/hub.h"
#include "tier/log.h"
#include "tier/node_main.h"

int main(int argc, char **argv) {
    static struct tier_config config;
    static struct hub hub;
    struct tier_loop *loop = NULL;
    struct tier_err err = {0};
    int code;

    if (!tier_node_begin(TIER_CONFIG_HUB, "consilium-hub", argc, argv, &config, &code))
        return code;
    tier_node_catch_signals();
    if (tier_loop_new(&loop, &err) != TIER_OK || hub_open(&config, loop, &hub, &err) != TIER_OK) {
        tier_log_error("cannot start: %s", err.text);
        tier_loop_free(loop);
        return 1;
    }
    tier_node_stop_on_signals(loop);
    tier_log_info("%s, listening on port %d", hub_is_top(&hub) ? "top" : "hub",
                  tier_serve_port(hub.serve));
    if (hub.enrollment)
        tier_log_info("enrolling on port %d", tier_rpc_server_port(hub.enrollment));
    tier_loop_run(loop);
    bool failed = hub.failed;
    hub_close(&hub);
    tier_loop_free(loop);
    return failed;
}
