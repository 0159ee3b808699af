/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What updates are worth on a hub's own validation data. A hub neither reads data nor runs models:
 * where its operator has such data (validation.*), `consilium-spoke appraise` runs beside it for as
 * long as a job needs it, reads them and computes as a hospital would, and gives back sums of
 * losses over all its rows. Candidate models lie in DATA_DIR/validation while they are looked at.
 *
 * Threads: one at a time for an object; calls block, for the time that the data take.
 */
#ifndef CONSILIUM_HUB_VALIDATION_H
#define CONSILIUM_HUB_VALIDATION_H

#include "tier/config.h"
#include "tier/fold.h"
#include "tier/home.h"

#include <stdatomic.h>

/* Whether the operator has named any. */
bool hub_validation_has(const struct tier_config *config);
/* At the start of the node: the folder, empty. */
enum tier_status hub_validation_prepare(const struct tier_home *home, struct tier_err *err);

struct hub_validation;

struct hub_validation_of {
    const struct tier_home *home;
    const struct tier_fold *fold; /* of the round: inputs and count are not looked at */
    struct tier_hash plan, graph; /* in retained/ and models/ */
    const char *dir;         /* of the base model and the candidates; NULL: models/, validation/ */
    const atomic_bool *stop; /* set by whoever will not wait for an answer; NULL: nobody */
};

/*
 * Starts the program and has it appraise the round's base model. Borrows all but the hashes.
 * TIER_EUNAVAILABLE: it does not answer, or says that it cannot.
 */
enum tier_status hub_validation_open(const struct hub_validation_of *of,
                                     struct hub_validation **out, struct tier_err *err);
/* Ends the program; what candidates there are go. NULL is fine. */
void hub_validation_close(struct hub_validation *v);
/* The mean loss of a row by the base model. */
double hub_validation_base(const struct hub_validation *v);
/* The same by base + mean of those updates, 1 or more; `keep` is a fold that must not be deleted
 * (may be zero). */
enum tier_status hub_validation_loss(struct hub_validation *v, const struct tier_hash *updates,
                                     size_t count, const struct tier_hash *keep, double *loss_out,
                                     struct tier_err *err);

#endif
