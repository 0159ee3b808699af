/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A folder in the Brain Imaging Data Structure (BIDS 1.9, bids-specification.readthedocs.io) as the
 * table that kind: nifti reads: a row for each file of the schema's first image, in the order of
 * subjects, sessions and names; in other columns of images and masks the file of the same session
 * that contradicts it in no entity (run, acq, ...); the participant in a column of type id; and of
 * participants.tsv what the other columns name. A file that is not there is a missing value.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_BIDS_H
#define CONSILIUM_SPOKE_BIDS_H

#include "spoke/schema.h"

#include <stdio.h>

#define SPOKE_BIDS_SUBJECTS_MAX 65536u
#define SPOKE_BIDS_FILES_MAX 4096u /* of one folder */

/*
 * Writes the table, with a header of the schema's columns and paths relative to the root. Cells of
 * targets, events and masks are looked for where rows are `labelled`, of splits where they are
 * `divided` by them; else they are empty. TIER_EDATA where several files would be one value, or
 * participants.tsv lacks a column or has a participant twice; TIER_ENOTFOUND, TIER_EIO,
 * TIER_ELIMIT.
 */
enum tier_status spoke_bids_table(const struct spoke_schema *schema, const char *root,
                                  bool labelled, bool divided, FILE *to, struct tier_err *err);

#endif
