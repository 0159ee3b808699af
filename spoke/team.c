/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/team.h"

#include "tier/log.h"

#include <string.h>

enum tier_status spoke_team_open(const char *list, int threads, bool alone, struct spoke_team *out,
                                 struct tier_err *err) {
    struct spoke_team team = {.count = 0};

    kern_init(NULL);
    enum kern_status st =
        kern_devices_open(list, threads, team.dev, KERN_GROUP_RANKS_MAX, &team.count);
    if (st != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "device '%s': %s: %s", list, kern_status_text(st),
                         kern_device_error(NULL));
    if (team.count > 1 && alone)
        st = kern_group_open(team.dev, team.count, &team.group);
    if (st != KERN_OK) {
        tier_fail(err, TIER_EDEVICE, "device '%s': no group of %zu devices: %s: %s", list,
                  team.count, kern_status_text(st), kern_device_error(team.dev[0]));
        spoke_team_close(&team);
        return TIER_EDEVICE;
    }
    for (size_t i = 0; i < team.count; i++)
        tier_log_info("training on %s", kern_device_name(team.dev[i]));
    *out = team;
    return TIER_OK;
}

void spoke_team_close(struct spoke_team *team) {
    kern_group_close(team->group);
    for (size_t i = 0; i < team->count; i++)
        kern_device_close(team->dev[i]);
    memset(team, 0, sizeof *team);
}

enum tier_status spoke_team_nets(const struct spoke_team *team, const struct tier_graph *graph,
                                 const struct spoke_objective *objective, size_t batch,
                                 size_t ranks, bool whole, struct spoke_net **nets,
                                 struct tier_err *err) {
    size_t slice = (batch + ranks - 1) / ranks;

    for (size_t i = 0; i < team->count; i++) {
        enum tier_status st = spoke_net_new_for(team->dev[i], graph, objective,
                                                i == 0 && whole ? batch : slice, &nets[i], err);
        if (st != TIER_OK) {
            while (i-- > 0) {
                spoke_net_free(nets[i]);
                nets[i] = NULL;
            }
            return st;
        }
    }
    return TIER_OK;
}
