/* SPDX-License-Identifier: Apache-2.0 */
/* Noise that the top drew, drawn again: its key is in the ledger, and the log has the key's hash.
 */
#include "tier/ledger.h"
#include "tier/replay_private.h"
#include "tier/site.h"
#include "tier/task.h"

enum tier_status replay_find_noise(const struct replay *p, const struct replay_logged *l,
                                   struct tier_noise_key *key, struct tier_replay_round *out,
                                   struct tier_err *err) {
    struct tier_ledger_charge c = {.has_key = false};
    struct tier_ledger *ledger = NULL;
    struct tier_err why = {0};
    char hex[TIER_HASH_HEX];
    struct tier_hash is;

    if (!tier_site_on(&p->plan) || tier_site_at_spokes(&p->plan) ||
        !tier_task_trains(&p->plan, l->round))
        return TIER_OK;
    enum tier_status st = tier_ledger_open(p->r->data_dir, true, &ledger, &why);
    if (st == TIER_OK)
        st = tier_ledger_get(ledger, TIER_LEDGER_SITE, tier_hash_hex(&p->run.id, hex), l->round, &c,
                             &why);
    tier_ledger_close(ledger);
    tier_noise_key_hash(&c.key, &is);
    if (tier_hash_is_zero(&l->noise_key))
        replay_differs(out, "the log names no key of its noise");
    else if (st == TIER_ENOTFOUND || (st == TIER_OK && !c.has_key))
        replay_not_kept(out, "the key of its noise", &l->noise_key);
    else if (st == TIER_OK && !tier_hash_equal(&is, &l->noise_key))
        replay_differs(out, "the key of its noise is another than the log names");
    else if (st != TIER_OK)
        tier_fail(err, st, "%s", why.text);
    *key = c.key;
    tier_noise_key_wipe(&c.key);
    return st == TIER_ENOTFOUND ? TIER_OK : st;
}
