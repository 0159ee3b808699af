/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/replay.h"

#include "spoke/net.h"
#include "tier/log.h"

void spoke_replay_release(struct spoke_replay *r) {
    kern_recording_free(r->recording);
    *r = (struct spoke_replay){0};
}

/* The log says why, once. */
static void give_up(struct spoke_replay *r, struct kern_device *dev, const char *why) {
    tier_log_info("%s: steps are not recorded: %s", kern_device_name(dev), why);
    kern_recording_free(r->recording);
    r->recording = NULL;
    r->never = true;
}

static bool same_vec(struct kern_vec a, struct kern_vec b) {
    return a.buf == b.buf && a.at == b.at;
}

static bool same_key(const struct spoke_replay_key *a, const struct spoke_replay_key *b) {
    return same_vec(a->x, b->x) && same_vec(a->target, b->target) && same_vec(a->loss, b->loss) &&
           a->arena == b->arena && a->scaled == b->scaled;
}

/* False where it cannot be recorded. Nothing is done but to note it. */
static bool record(struct spoke_replay *r, struct kern_device *dev, uint64_t seed,
                   spoke_pass_fn pass, void *arg) {
    struct tier_err why = {0};
    enum kern_status st = kern_record_begin(dev);

    if (st == KERN_OK) {
        enum tier_status passed = pass(arg, &why);
        st = kern_record_end(dev, &r->recording);
        r->seed = seed;
        if (st == KERN_OK && passed == TIER_OK)
            return true;
    }
    give_up(r, dev, why.text[0] ? why.text : kern_device_error(dev));
    return false;
}

enum tier_status spoke_replay_run(struct spoke_replay *r, struct kern_device *dev,
                                  const struct spoke_replay_key *key, uint64_t seed,
                                  spoke_pass_fn pass, void *arg, struct tier_err *err) {
    bool again = r->begun && same_key(&r->key, key);

    if (!kern_device_records(dev) || r->never)
        return pass(arg, err);
    if (!again || (r->recording && !kern_recording_holds(r->recording))) {
        kern_recording_free(r->recording);
        r->recording = NULL;
        again = false;
    }
    r->begun = true;
    r->key = *key;
    if (!again || (!r->recording && !record(r, dev, seed, pass, arg)))
        return pass(arg, err);
    enum kern_status st = kern_replay(r->recording, r->seed ^ seed);
    return st == KERN_OK ? TIER_OK : spoke_net_kern_fail(dev, st, "a recorded step", err);
}
