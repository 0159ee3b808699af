/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/follow.h"

#include "tier/content.h"
#include "tier/delta.h"
#include "tier/log.h"

static void follow_next(struct tier_follow *f);

static void finish(struct tier_follow *f, enum tier_status st, const char *text) {
    f->step = TIER_FOLLOW_IDLE;
    if (!tier_hash_equal(&f->want.model, &f->now.model))
        follow_next(f);
    else
        f->done(f->arg, st, text);
}

static void whole_fetched(void *arg, enum tier_status st, const char *text) {
    finish(arg, st, text);
}

static void fetch_whole(struct tier_follow *f) {
    f->step = TIER_FOLLOW_WHOLE;
    tier_link_fetch(f->link, &f->now.model, TIER_CONTENT_MODEL, f->bytes_max, whole_fetched, f);
}

/* On the intake's thread. */
static void apply(void *arg) {
    struct tier_follow *f = arg;
    f->applied = (struct tier_err){0};
    tier_delta_apply(f->models_dir, &f->now.delta, &f->now.base, f->manifest, &f->now.model,
                     &f->applied);
}

static void applied(void *arg) {
    struct tier_follow *f = arg;

    if (f->applied.status == TIER_OK || !tier_hash_equal(&f->want.model, &f->now.model)) {
        finish(f, TIER_OK, "");
        return;
    }
    tier_log_warn("the model is fetched whole: %s", f->applied.text);
    fetch_whole(f);
}

static void stopping(void *arg) {
    (void)arg;
}

static void delta_fetched(void *arg, enum tier_status st, const char *text) {
    struct tier_follow *f = arg;

    if (st == TIER_OK) {
        f->step = TIER_FOLLOW_APPLY;
        tier_intake_submit(f->intake, apply, applied, stopping, f);
        return;
    }
    tier_log_info("the model is fetched whole: %s", text);
    fetch_whole(f);
}

static void follow_next(struct tier_follow *f) {
    f->now = f->want;
    if (tier_hash_is_zero(&f->now.model)) /* stopped meanwhile */
        return;
    if (f->manifest && !tier_hash_is_zero(&f->now.delta) &&
        !tier_content_has(f->models_dir, &f->now.model, TIER_CONTENT_MODEL) &&
        tier_content_has(f->models_dir, &f->now.base, TIER_CONTENT_MODEL)) {
        f->step = TIER_FOLLOW_DELTA;
        tier_link_fetch(f->link, &f->now.delta, TIER_CONTENT_DELTA, f->bytes_max, delta_fetched, f);
    } else {
        fetch_whole(f);
    }
}

/* Whatever is on its way for the present target, but for a delta that is being applied. */
static void withdraw(struct tier_follow *f) {
    if (f->step == TIER_FOLLOW_DELTA)
        tier_link_unfetch(f->link, &f->now.delta, delta_fetched, f);
    else if (f->step == TIER_FOLLOW_WHOLE)
        tier_link_unfetch(f->link, &f->now.model, whole_fetched, f);
    if (f->step != TIER_FOLLOW_APPLY)
        f->step = TIER_FOLLOW_IDLE;
}

void tier_follow_to(struct tier_follow *f, const struct tier_follow_target *target) {
    bool other = !tier_hash_equal(&target->model, &f->now.model);

    f->want = *target;
    if (f->step != TIER_FOLLOW_IDLE && other)
        withdraw(f);
    if (f->step == TIER_FOLLOW_IDLE)
        follow_next(f);
}

void tier_follow_stop(struct tier_follow *f) {
    f->want = (struct tier_follow_target){.model = {{0}}};
    withdraw(f);
}
