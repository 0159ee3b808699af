/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of audit logs, with the children and with the parent: tier/heads.h decides, here they are
 * sent, and who has shown two histories is sent away. */
#include "hub/hub.h"
#include "tier/log.h"

#include <stdio.h>

enum tier_status hub_heads_child(struct hub *hub, const char *child, struct tier_err *err) {
    *hub_edge_of(hub, child) = (struct tier_heads_edge){.due = true};
    return tier_heads_trust(&hub->home, child, tier_serve_child_cert(hub->serve, child), err);
}

/* What others said is their fault, the rest is ours. */
static bool theirs(const struct tier_err *err) {
    return err->status == TIER_ECONFLICT || err->status == TIER_EIDENTITY;
}

void hub_heads_from_child(void *owner, const char *child, const struct tier_head *head) {
    struct hub *hub = owner;
    struct tier_to_child m = {.type = TIER_TO_HEAD};
    struct tier_err err = {0};
    bool send, asked;

    enum tier_status st = tier_heads_came(&hub->home, hub_edge_of(hub, child), child,
                                          tier_serve_child_cert(hub->serve, child), head, &m.head,
                                          &send, &asked, &err);
    if (st != TIER_OK && !theirs(&err)) {
        hub_stop_on(hub, &err);
    } else if (st != TIER_OK) {
        hub_fault(hub, child);
        tier_serve_dismiss(hub->serve, child, TIER_EPOLICY, err.text);
    } else {
        if (send)
            tier_serve_send(hub->serve, child, &m);
        if (!asked)
            hub_fault(hub, child);
    }
}

void hub_heads_tell(struct hub *hub, const char *child) {
    struct tier_to_child m = {.type = TIER_TO_HEAD};
    struct tier_err err = {0};

    if (tier_heads_begin(&hub->home, hub_edge_of(hub, child), child, &m.head, &err) == TIER_OK)
        tier_serve_send(hub->serve, child, &m);
    else
        hub_stop_on(hub, &err);
}

/* ---- the parent ---- */

bool hub_heads_up(struct hub *hub) {
    const char *parent = hub->config->parent_name;
    struct tier_from_child m = {.type = TIER_FROM_HEAD};
    struct tier_err err = {0};

    hub->above = (struct tier_heads_edge){0};
    if (tier_heads_trust(&hub->home, parent, tier_link_parent_cert(hub->link), &err) != TIER_OK) {
        if (theirs(&err))
            tier_link_drop(hub->link, err.text);
        else
            hub_stop_on(hub, &err);
        return false;
    }
    if (tier_heads_begin(&hub->home, &hub->above, parent, &m.head, &err) == TIER_OK)
        tier_link_send(hub->link, &m);
    else
        hub_stop_on(hub, &err);
    return true;
}

void hub_heads_from_parent(struct hub *hub, const struct tier_head *head) {
    struct tier_from_child m = {.type = TIER_FROM_HEAD};
    struct tier_err err = {0};
    bool send, asked;

    enum tier_status st =
        tier_heads_came(&hub->home, &hub->above, hub->config->parent_name,
                        tier_link_parent_cert(hub->link), head, &m.head, &send, &asked, &err);
    if (st != TIER_OK && !theirs(&err)) {
        hub_stop_on(hub, &err);
    } else if (st != TIER_OK) {
        tier_link_drop(hub->link, err.text);
    } else {
        if (send)
            tier_link_send(hub->link, &m);
        if (!asked)
            tier_link_fault(hub->link);
    }
}
