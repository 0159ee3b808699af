/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over a record copies it, cell by cell and terminated, into a buffer that grows to the
 * longest record and no further than the bound. The cell table holds offsets until the record is
 * whole, because the buffer may move while it grows.
 */
#include "spoke/csv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spoke_csv {
    FILE *file;
    char *path;
    char delimiter;
    uint64_t line;       /* of the next byte */
    uint64_t begin_line; /* of the last record */
    char *text;
    size_t text_len, text_cap;
    size_t *at; /* offset of each cell in text */
    char **cells;
    size_t cells_count, cells_max;
};

enum tier_status spoke_csv_open(const char *path, char delimiter, size_t cells_max,
                                struct spoke_csv **csv_out, struct tier_err *err) {
    enum tier_status st;
    struct spoke_csv *csv = calloc(1, sizeof *csv);

    if (!csv)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", path);
    csv->delimiter = delimiter;
    csv->cells_max = cells_max;
    csv->line = 1;
    csv->text_cap = 4096;
    csv->text = malloc(csv->text_cap);
    csv->at = calloc(cells_max, sizeof *csv->at);
    csv->cells = calloc(cells_max, sizeof *csv->cells);
    csv->path = strdup(path);
    if (!csv->text || !csv->at || !csv->cells || !csv->path) {
        st = tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", path);
        goto out;
    }
    csv->file = fopen(path, "rb");
    if (!csv->file) {
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s: cannot be read",
                             path);
        goto out;
    }
    char mark[3];
    if (fread(mark, 1, 3, csv->file) != 3 || memcmp(mark, "\xef\xbb\xbf", 3) != 0)
        rewind(csv->file);
    *csv_out = csv;
    return TIER_OK;
out:
    spoke_csv_close(csv);
    return st;
}

void spoke_csv_close(struct spoke_csv *csv) {
    if (!csv)
        return;
    if (csv->file)
        fclose(csv->file);
    free(csv->path);
    free(csv->text);
    free(csv->at);
    free(csv->cells);
    free(csv);
}

uint64_t spoke_csv_line(const struct spoke_csv *csv) {
    return csv->begin_line;
}

static enum tier_status put(struct spoke_csv *csv, int c, struct tier_err *err) {
    if (csv->text_len == csv->text_cap) {
        size_t cap = csv->text_cap ? csv->text_cap * 2 : 4096;
        char *text = cap <= SPOKE_CSV_RECORD_BYTES_MAX ? realloc(csv->text, cap) : NULL;
        if (!text)
            return tier_fail(err, TIER_ELIMIT,
                             "%s:%" PRIu64 ": a record of more than %u bytes: is a quote not "
                             "closed?",
                             csv->path, csv->begin_line, SPOKE_CSV_RECORD_BYTES_MAX);
        csv->text = text;
        csv->text_cap = cap;
    }
    csv->text[csv->text_len++] = (char)c;
    return TIER_OK;
}

static bool is_space(const struct spoke_csv *csv, int c) {
    return (c == ' ' || c == '\t') && c != csv->delimiter;
}

/* After the opening quote, up to and with the closing one. */
static enum tier_status read_quoted(struct spoke_csv *csv, struct tier_err *err) {
    for (;;) {
        int c = getc(csv->file);
        if (c == EOF)
            return tier_fail(err, TIER_EDATA, "%s:%" PRIu64 ": a quote is opened and not closed",
                             csv->path, csv->begin_line);
        if (c == '"') {
            int next = getc(csv->file);
            if (next != '"') {
                if (next != EOF)
                    ungetc(next, csv->file);
                return TIER_OK;
            }
        }
        if (c == '\0')
            return tier_fail(err, TIER_EDATA, "%s:%" PRIu64 ": a NUL byte: this is not text",
                             csv->path, csv->line);
        if (c == '\n')
            csv->line++;
        TIER_TRY(put(csv, c, err));
    }
}

/* The byte that ends the cell: delimiter, '\n' or EOF; CR LF gives '\n'. */
static enum tier_status read_cell(struct spoke_csv *csv, int *end_out, struct tier_err *err) {
    size_t begin = csv->text_len;
    bool quoted = false;

    for (;;) {
        int c = getc(csv->file);
        if (c == '\r') {
            int next = getc(csv->file);
            if (next == '\n')
                c = '\n';
            else if (next != EOF)
                ungetc(next, csv->file);
        }
        if (c == EOF || c == '\n' || c == csv->delimiter) {
            while (!quoted && csv->text_len > begin && is_space(csv, csv->text[csv->text_len - 1]))
                csv->text_len--;
            *end_out = c;
            return put(csv, '\0', err);
        }
        if (c == '\0')
            return tier_fail(err, TIER_EDATA, "%s:%" PRIu64 ": a NUL byte: this is not text",
                             csv->path, csv->line);
        if (is_space(csv, c) && (quoted || csv->text_len == begin))
            continue;
        if (quoted || (c == '"' && csv->text_len > begin))
            return tier_fail(err, TIER_EDATA,
                             "%s:%" PRIu64 ": cell %zu: a quote stands inside a cell: quote the "
                             "whole cell and double quotes in it",
                             csv->path, csv->line, csv->cells_count + 1);
        if (c == '"') {
            TIER_TRY(read_quoted(csv, err));
            quoted = true;
        } else {
            TIER_TRY(put(csv, c, err));
        }
    }
}

enum tier_status spoke_csv_next(struct spoke_csv *csv, char *const **cells_out, size_t *count_out,
                                struct tier_err *err) {
    int end = EOF;

    do {
        csv->text_len = 0;
        csv->cells_count = 0;
        csv->begin_line = csv->line;
        do {
            if (csv->cells_count == csv->cells_max)
                return tier_fail(err, TIER_EDATA,
                                 "%s:%" PRIu64 ": more than the %zu cells the schema lists",
                                 csv->path, csv->begin_line, csv->cells_max);
            csv->at[csv->cells_count] = csv->text_len;
            TIER_TRY(read_cell(csv, &end, err));
            csv->cells_count++;
        } while (end == csv->delimiter);
        csv->line++;
        /* A line of one empty cell is a blank line; at the end of the file it is no record. */
    } while (csv->cells_count == 1 && csv->text_len == 1 && end != EOF);
    if (ferror(csv->file))
        return tier_fail_errno(err, TIER_EIO, "%s: cannot be read", csv->path);
    if (csv->cells_count == 1 && csv->text_len == 1) {
        *count_out = 0;
        return TIER_OK;
    }
    for (size_t i = 0; i < csv->cells_count; i++)
        csv->cells[i] = csv->text + csv->at[i];
    *cells_out = csv->cells;
    *count_out = csv->cells_count;
    return TIER_OK;
}

void spoke_csv_put(FILE *to, const char *text, char delimiter) {
    size_t n = strlen(text);
    bool spaced = n > 0 && (text[0] == ' ' || text[n - 1] == ' ');

    if (!spaced && !text[strcspn(text, ",\"\n\r\t")] && !(n && strchr(text, delimiter))) {
        fputs(text, to);
        return;
    }
    putc('"', to);
    for (; *text; text++) {
        if (*text == '"')
            putc('"', to);
        putc(*text, to);
    }
    putc('"', to);
}
