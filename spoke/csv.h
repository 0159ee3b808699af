/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a table of delimited text, record by record, in bounded memory: RFC 4180 with any one-byte
 * delimiter, LF or CR LF, a UTF-8 byte order mark skipped, spaces around unquoted cells dropped,
 * blank lines skipped. Messages name file and line and never hold text of a cell.
 *
 * Threads: a reader belongs to one thread. Ownership: cells live until the next record is read.
 */
#ifndef CONSILIUM_SPOKE_CSV_H
#define CONSILIUM_SPOKE_CSV_H

#include "tier/err.h"

#include <stdint.h>
#include <stdio.h>

#define SPOKE_CSV_RECORD_BYTES_MAX (1u << 20)

struct spoke_csv;

/* Records have at most `cells_max` cells. */
enum tier_status spoke_csv_open(const char *path, char delimiter, size_t cells_max,
                                struct spoke_csv **csv_out, struct tier_err *err);
void spoke_csv_close(struct spoke_csv *csv);
/* *count_out is 0 at the end of the file. Cells are terminated strings without NUL bytes inside. */
enum tier_status spoke_csv_next(struct spoke_csv *csv, char *const **cells_out, size_t *count_out,
                                struct tier_err *err);
/* One cell as spoke_csv_next reads it back, quoted where it has to be: between commas always, and
 * between `delimiter`s. */
void spoke_csv_put(FILE *to, const char *text, char delimiter);
/* Line on which the last record began, from 1. */
uint64_t spoke_csv_line(const struct spoke_csv *csv);

#endif
