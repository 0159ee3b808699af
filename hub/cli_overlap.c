/* SPDX-License-Identifier: Apache-2.0 */
/* What sites' files of `consilium-spoke overlap` have in common, as numbers (tier/overlap.h). */
#include "hub/cli.h"
#include "tier/overlap.h"

#include <stdio.h>
#include <stdlib.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define FILES_MAX 256

enum { TRAIN, VAL, TEST };

struct compared {
    const char *const *paths;
    struct tier_overlap *files;
    size_t count;
    json_t *pairs; /* NULL: as text */
    size_t leaks;  /* patients that one trains on and another, or itself, tests on */
};

static enum tier_status read_one(const char *path, struct tier_overlap *out, struct tier_err *err) {
    FILE *f = fopen(path, "r");

    if (!f)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    enum tier_status st = tier_overlap_read(f, path, out, err);
    fclose(f);
    return st;
}

static enum tier_status read_all(struct compared *c, struct tier_err *err) {
    for (size_t i = 0; i < c->count; i++) {
        TIER_TRY(read_one(c->paths[i], &c->files[i], err));
        if (!tier_overlap_comparable(&c->files[i], &c->files[0]))
            return tier_fail(err, TIER_ECONFLICT,
                             "%s and %s were not blinded by the same sites: each site's file is to "
                             "be answered by all others (consilium-spoke overlap answer)",
                             c->paths[0], c->paths[i]);
        if (i > 0 && c->files[i].key_count < 2)
            return tier_fail(err, TIER_ECONFLICT,
                             "%s and %s were blinded with one secret alone, of a site that could "
                             "tell their patients: each site begins with a secret of its own",
                             c->paths[0], c->paths[i]);
    }
    return TIER_OK;
}

/* Validation counts as training where it chooses a model: both are told apart from test. */
static void compare(struct compared *c, size_t i, size_t j) {
    const struct tier_overlap *a = &c->files[i], *b = &c->files[j];
    size_t train = i == j ? 0 : tier_overlap_common(a, TRAIN, b, TRAIN);
    size_t test = i == j ? 0 : tier_overlap_common(a, TEST, b, TEST);
    size_t forth = tier_overlap_common(a, TRAIN, b, TEST) + tier_overlap_common(a, VAL, b, TEST);
    size_t back =
        i == j ? 0 : tier_overlap_common(a, TEST, b, TRAIN) + tier_overlap_common(a, TEST, b, VAL);

    c->leaks += forth + back;
    if (c->pairs)
        json_array_append_new(c->pairs,
                              json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "a", c->paths[i], "b",
                                        c->paths[j], "train_both", (json_int_t)train, "test_both",
                                        (json_int_t)test, "train_a_test_b", (json_int_t)forth,
                                        "test_a_train_b", (json_int_t)back));
    else
        printf("%-28s %-28s %10zu %10zu %14zu %14zu\n", c->paths[i], c->paths[j], train, test,
               forth, back);
}

static int show(struct compared *c, bool json) {
    if (json)
        c->pairs = json_array();
    else
        printf("%-28s %-28s %10s %10s %14s %14s\n", "a", "b", "both train", "both test",
               "train a test b", "test a train b");
    for (size_t i = 0; i < c->count; i++)
        for (size_t j = i; j < c->count; j++)
            compare(c, i, j);
    if (json)
        cli_print_json(json_pack("{s:I, s:o}", "leaks", (json_int_t)c->leaks, "pairs", c->pairs));
    else if (c->leaks)
        printf("%zu patients are trained on at one site and tested on at another, or at the same\n",
               c->leaks);
    else
        printf("nobody who is trained on anywhere is tested on anywhere\n");
    int code = cli_done();
    return c->leaks ? CLI_FAILED : code;
}

int cli_overlap(int argc, char **argv) {
    const char *paths[FILES_MAX] = {NULL};
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "overlap", "FILE...",
        "Counts the patients that sites have in common, from files of `consilium-spoke overlap` "
        "that each of the sites has blinded, and exits with 1 where any of them is trained on and "
        "tested on"};
    struct compared c = {.paths = paths};
    struct tier_err err = {0};
    enum tier_status st = TIER_OK;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, paths, 1, FILES_MAX);

    if (code != CLI_GO)
        return code;
    while (c.count < FILES_MAX && paths[c.count])
        c.count++;
    c.files = calloc(c.count + 1, sizeof *c.files);
    if (!c.files)
        st = tier_fail(&err, TIER_ENOMEM, "no memory to compare %zu files", c.count);
    if (st == TIER_OK)
        st = read_all(&c, &err);
    if (st == TIER_OK)
        code = show(&c, json);
    for (size_t i = 0; c.files && i < c.count; i++)
        tier_overlap_release(&c.files[i]);
    free(c.files);
    return st == TIER_OK ? code : cli_failed(&err);
}
