/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a person decides: DATA_DIR/steward, of the spoke's user alone. The spoke writes RUN.run
 * there, what a steward must see of a run that waits or is open; the person's command writes
 * RUN.decision, three lines (what, who, why), which the spoke takes up within a second, or when it
 * starts next. Files survive both and need neither to be there; the spoke deletes a decision once
 * the journal has what came of it. A file that leaves the site for others (spoke/overlap.h) is told
 * in the same way, HASH.decision of its SHA-256, so that the log has a line of it.
 *
 *     consilium-spoke pending | approve RUN | refuse RUN | withdraw RUN
 *
 * Threads: the loop's; the command is a process of its own.
 */
#ifndef CONSILIUM_SPOKE_STEWARD_H
#define CONSILIUM_SPOKE_STEWARD_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stdbool.h>
#include <stdio.h>

#define SPOKE_DECISION_BYTES_MAX 1024

enum spoke_deed { SPOKE_APPROVE, SPOKE_DENY, SPOKE_WITHDRAW, SPOKE_OVERLAP };

struct spoke_decision {
    enum spoke_deed deed;
    struct tier_hash run; /* or a file's */
    char by[128], reason[256];
    unsigned owner; /* the user id that the file belongs to */
};

/* Makes the folder, mode 0700. */
enum tier_status spoke_steward_open(const char *data_dir, struct tier_err *err);
/* What is to be seen of a run, in place of what was; NULL: nothing any more. */
enum tier_status spoke_steward_show(const char *data_dir, const char *hex, const char *text,
                                    struct tier_err *err);
/* Any decision that lies there; false: none. What is not one is deleted, and logged. */
bool spoke_steward_next(const char *data_dir, struct spoke_decision *out);
/* Writes a decision of who runs this; d->by is filled in. */
enum tier_status spoke_steward_leave(const char *data_dir, const struct spoke_decision *d,
                                     struct tier_err *err);
/* Deletes the decision on that run. */
void spoke_steward_done(const char *data_dir, const struct tier_hash *run);
/* The text of such a file; false where it is none. `text` need not be terminated. */
bool spoke_decision_parse(const void *text, size_t bytes, struct spoke_decision *out);

/* The commands; argv[0] is "pending", "approve", "refuse" or "withdraw". Gives the exit status. */
int spoke_steward_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
