/* SPDX-License-Identifier: Apache-2.0 */
/* A round's secure sum, made again from what a hub retains of it. */
#include "tier/replay_private.h"
#include "tier/secure_fold.h"

#include <stdlib.h>

enum tier_status replay_fold_masked(const struct replay *p, const struct replay_logged *l,
                                    const struct tier_fold *f, const struct tier_hash *masked,
                                    size_t masked_count, struct tier_hash *out,
                                    struct tier_err *err) {
    struct tier_secure_fold secure = {
        .plan = &p->plan, .masked = masked, .masked_count = masked_count};
    struct tier_mask_term *terms = NULL;
    char *path = replay_find_file(p, &l->terms, TIER_SECURE_TERMS);

    if (!path)
        return tier_fail(err, TIER_ENOTFOUND,
                         "its updates are masked, and what masks their sum is not kept");
    enum tier_status st = tier_secure_terms_load(path, &l->terms, &terms, &secure.term_count, err);
    secure.terms = terms;
    if (st == TIER_OK)
        st = tier_secure_fold_run(&secure, f, out, err);
    tier_mask_terms_free(terms, secure.term_count);
    free(path);
    return st;
}
