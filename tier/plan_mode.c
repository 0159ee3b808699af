/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's `mode`: who is trusted, in one word that a steward can ask for. It fills in what the
 * plan leaves open, and `untrusted` is a promise besides: what would break it is refused, or stands
 * in `exceptions`, which travels and is signed with the rest. So the word never says more than the
 * plan does, and nobody has to find a weak key among a hundred.
 */
#include "tier/plan_keys.h"
#include "tier/site.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <string.h>

#define complain tier_plan_complain
#define UNTRUSTED "with mode: untrusted"
#define COHORT_LEAST 3

static const char *const mode_texts[] = {"trusted", "untrusted"};

/* Keys whose values follow from the mode where the plan does not write them; the first value is
 * also the key's own default. */
static const struct tier_plan_mode_key mode_keys[] = {
    {"secure.sums", "none", "region",
     "a hub sees each update, or the sum of its spokes' and no single one"},
    {"secure.cohort_min", "3", "5",
     "a sum of few hides little from those of them who work with the hub"},
    {"secure.lost_round", "end", "skip", "one hospital that lies costs a round, and not the run"},
    {"weights", "samples", "uniform", "a weight behind masks is whatever a hospital claims"},
    {"evaluate.every", "1", "0", "counts over test patients leave a hospital without noise"},
    {"exact.saturate", "false", "true", "that an update was refused would tell of what it holds"},
};

/* What `untrusted` promises and a plan may except itself from. */
static const char *const exceptions[] = {"privacy", "secure.norm_max", "secure.pseudonyms",
                                         "weights", "privacy.site.noise_at"};
#define EXCEPTIONS "privacy, secure.norm_max, secure.pseudonyms, weights or privacy.site.noise_at"

const char *tier_plan_mode_text(int mode) {
    return mode == TIER_PLAN_TRUSTED || mode == TIER_PLAN_UNTRUSTED ? mode_texts[mode] : NULL;
}

const struct tier_plan_mode_key *tier_plan_mode_key(size_t i) {
    return i < sizeof mode_keys / sizeof mode_keys[0] ? &mode_keys[i] : NULL;
}

void tier_plan_mode_defaults(struct tier_plan *plan,
                             bool (*written)(const void *arg, const char *path), const void *arg) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_written_keys(&count);
    char why[200];

    for (size_t i = 0; plan->mode == TIER_PLAN_UNTRUSTED && tier_plan_mode_key(i); i++)
        if (!written(arg, mode_keys[i].path))
            (void)tier_keys_set(&keys[tier_keys_find(keys, count, mode_keys[i].path)], plan,
                                mode_keys[i].untrusted, why, sizeof why);
}

bool tier_plan_excepts(const struct tier_plan *plan, const char *promise) {
    for (size_t i = 0; i < plan->exceptions.count; i++)
        if (strcmp(tier_keys_list_item(&plan->exceptions, i), promise) == 0)
            return true;
    return false;
}

/* A promise is kept, or excepted, and not both. */
static void promised(const struct tier_plan_checker *c, const char *promise, const char *path,
                     bool kept, const char *why) {
    bool excepted = tier_plan_excepts(c->plan, promise);

    if (!kept && !excepted)
        complain(c, path, "%s; or exceptions: [%s] says that this plan does without", why, promise);
    if (kept && excepted)
        complain(c, "exceptions", "lists %s, which this plan keeps", promise);
}

static void check_exceptions(const struct tier_plan_checker *c) {
    const struct tier_keys_list *list = &c->plan->exceptions;
    const size_t count = sizeof exceptions / sizeof exceptions[0];

    for (size_t i = 0; i < list->count; i++) {
        const char *item = tier_keys_list_item(list, i);
        size_t known = 0;
        while (known < count && strcmp(exceptions[known], item) != 0)
            known++;
        if (known == count)
            complain(c, "exceptions", "must list " EXCEPTIONS ", not '%.60s'", item);
        for (size_t j = 0; j < i; j++)
            if (strcmp(tier_keys_list_item(list, j), item) == 0)
                complain(c, "exceptions", "lists '%.60s' twice", item);
    }
}

void tier_plan_check_mode(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->mode != TIER_PLAN_UNTRUSTED) {
        if (p->mode == TIER_PLAN_TRUSTED && p->exceptions.count > 0)
            complain(c, "exceptions", "are for mode: untrusted, whose promises they name");
        return;
    }
    check_exceptions(c);
    if (p->secure.sums == TIER_PLAN_SECURE_NONE)
        complain(c, "secure.sums",
                 "must be region " UNTRUSTED ": each hospital's update would lie open to its "
                 "parent; whom that may be shown to is trusted, and mode: trusted says so");
    if (p->secure.cohort_min < COHORT_LEAST)
        complain(c, "secure.cohort_min",
                 "must be at least %d " UNTRUSTED ": of two hospitals each has the other's update, "
                 "by taking its own out of the sum",
                 COHORT_LEAST);
    promised(c, "weights", "weights", p->weights == TIER_PLAN_UNIFORM,
             "must be uniform " UNTRUSTED ": behind masks a hospital may claim any weight");
    promised(c, "privacy", "privacy", p->patient.clip > 0 || p->site.clip > 0,
             "must have patient or site " UNTRUSTED ": without noise the model tells of those it "
             "was trained on to whoever has it");
    promised(c, "secure.norm_max", "secure.norm_max",
             p->secure.norm_max > 0 || tier_statistics_on(p),
             "must be above 0 " UNTRUSTED ": no rule looks behind masks, and one hospital that "
             "lies would move the model as far as exact.clip lets it");
    promised(c, "secure.pseudonyms", "secure.pseudonyms", p->secure.pseudonyms,
             "must be true " UNTRUSTED ": the hospitals of a sum would be told each other's names");
    promised(c, "privacy.site.noise_at", "privacy.site.noise_at",
             !tier_site_on(p) || tier_site_at_spokes(p),
             "must be spokes " UNTRUSTED ": a top that draws the noise sees the sum without it");
}
