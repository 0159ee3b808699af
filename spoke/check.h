/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-spoke check-data: does a hospital's data keep the contract? Reads every row as training
 * would, goes on past those that are not as the schema says, and tells counts alone: rows and
 * classes by part, and refused rows by reason.
 *
 * Threads: one.
 */
#ifndef CONSILIUM_SPOKE_CHECK_H
#define CONSILIUM_SPOKE_CHECK_H

#include "spoke/annotators.h"
#include "spoke/data.h"

#include <stdio.h>

/*
 * Counts of rows from 1 to one less than this are told as "< 5", for they say something of single
 * patients, and check-data's output is made to be sent. Where one class of a part alone is small,
 * the rows of the part less the other classes would give it away: the smallest of the others is
 * then told as ">= 5". Counts of the file itself (left out, refused, reasons) are told as they are.
 */
#define SPOKE_CHECK_CELLS_MIN 5u
#define SPOKE_CHECK_REASONS_MAX 64u /* what comes after is counted as the last, "other reasons" */

struct spoke_check_reason {
    char text[512]; /* without file, line and row */
    uint64_t rows;
};

/* Zeroed before; released with spoke_check_release. */
struct spoke_check {
    struct spoke_data *data; /* NULL where it did not open */
    uint64_t rows[SPOKE_PARTS];
    uint64_t *classes;                /* [classes x SPOKE_PARTS]: rows, of masks pixels or voxels */
    struct spoke_agreement agreement; /* of several readers; readers is 0 where there is one */
    uint64_t left_out;                /* a value was missing */
    uint64_t refused;
    struct spoke_check_reason reasons[SPOKE_CHECK_REASONS_MAX];
    size_t reasons_count;
    FILE *lines;        /* where each refusal is told in full, files by name, or NULL */
    uint64_t cells_min; /* 0 and 1: every count is told */
};

/*
 * TIER_OK where the data could be looked through, whatever was found in it; errors are those of
 * spoke_data_open that have no row, and TIER_EDATA where no row is left. The counts so far are
 * there either way.
 */
enum tier_status spoke_check_data(const char *schema_path, const char *path,
                                  struct spoke_check *check, struct tier_err *err);
void spoke_check_release(struct spoke_check *check);

/* The command, argv[0] being its own name; its exit status: 0, 1 (refused rows, errors), 2 (usage).
 */
int spoke_check_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
