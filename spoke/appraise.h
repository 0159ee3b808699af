/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-spoke appraise: what models are worth on data of the operator's own. A hub whose
 * operator has validation data starts it beside itself, since hubs neither read data nor run
 * models; it uses no network. The plan says the loss and how images are cut, as it does to
 * hospitals, and all rows of the data are test rows.
 *
 * Paths of model files come in on standard input, one a line; for each one a line of JSON goes out
 * with exact sums: {"count":N,"loss":S}, S in units of 2^-TIER_SCORE_LOSS_BITS, or {"error":"..."},
 * after which it goes on. Standard input that ends ends it.
 *
 * Threads: one, and the device's.
 */
#ifndef CONSILIUM_SPOKE_APPRAISE_H
#define CONSILIUM_SPOKE_APPRAISE_H

#include "tier/err.h"

#include <stdio.h>

struct spoke_appraise {
    const char *plan; /* canonical text, as a hub keeps it */
    const char *graph;
    const char *schema, *data;
    const char *device; /* NULL: cpu */
    int threads;        /* 0: one for each core */
};

/* Until `in` ends. TIER_EPLAN, TIER_EMODEL, TIER_EDATA for what does not fit before any model is
 * read. */
enum tier_status spoke_appraise(const struct spoke_appraise *what, FILE *in, FILE *out,
                                struct tier_err *err);

/* The command, argv[0] being its own name; its exit status. */
int spoke_appraise_main(int argc, char **argv, FILE *in, FILE *out, FILE *errors);

#endif
