/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/hub.h"

const struct tier_rpc_method hub_console_methods[1];
const size_t hub_console_method_count = 0;

void hub_console_changed(struct hub *hub, struct hub_run *run) {
    (void)hub;
    (void)run;
}

void hub_console_close(struct hub *hub) {
    (void)hub;
}
