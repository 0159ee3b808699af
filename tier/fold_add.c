/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/fold_add.h"

#include "tier/spool.h"

#include <string.h>

enum tier_status tier_fold_add_cpu(void *adder, const struct tier_fold_part *part,
                                   struct tier_err *err) {
    (void)adder;
    memset(part->hi, 0, part->n * sizeof *part->hi);
    memset(part->lo, 0, part->wide * sizeof *part->lo);
    for (size_t i = 0, n_group; i < part->count; i += n_group) {
        const struct tier_update *const *group = part->updates + i;
        for (n_group = 0; n_group < TIER_SEGMENT_GROUP && i + n_group < part->count; n_group++)
            if (tier_spool_update_header(group[n_group])->encoding == TIER_ENC_SUM ||
                part->extents[i + n_group].zipped)
                break;
        if (n_group > 0) {
            TIER_TRY(tier_segment_add_group(group, part->multipliers + i, part->extents + i,
                                            n_group, part->manifest, part->segment, part->scratch,
                                            part->hi, part->lo, err));
            continue;
        }
        n_group = 1;
        TIER_TRY(tier_segment_add(group[0], part->multipliers[i], part->manifest, part->segment,
                                  part->extents[i], part->unzip, part->scratch, part->hi, part->lo,
                                  err));
    }
    return TIER_OK;
}
