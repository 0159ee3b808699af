/* SPDX-License-Identifier: Apache-2.0 */
/* What a hub's log says of its children's TPMs ("attest.asked", "attest.admitted"): the quote is
 * there whole, so it is checked again as the hub did, with the plan where that is kept. */
#include "tier/attest.h"
#include "tier/content.h"
#include "tier/home.h"
#include "tier/plan.h"
#include "tier/retain.h"
#include "tier/verify_private.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "attest.asked" that is not answered yet. */
struct asked {
    struct tier_hash run, nonce;
    char child[TIER_NAME_LEN_MAX + 1];
};

static struct asked *find(struct tier_verify *v, const struct tier_hash *run, const char *child) {
    struct asked *all = v->asked.at;

    for (size_t i = 0; i < v->asked.count; i++)
        if (tier_hash_equal(&all[i].run, run) && strcmp(all[i].child, child) == 0)
            return &all[i];
    return NULL;
}

static enum tier_status on_asked(struct tier_verify *v, size_t node, uint64_t line,
                                 const json_t *data, struct tier_err *err) {
    struct asked a;

    if (!verify_hash(data, "run", &a.run) || !verify_hash(data, "nonce", &a.nonce) ||
        !verify_text(data, "child", a.child, sizeof a.child)) {
        verify_found(v, node, "line %" PRIu64 ": attest.asked lacks what it must say", line);
        return TIER_OK;
    }
    struct asked *known = find(v, &a.run, a.child);
    if (!known && !(known = verify_list_add(&v->asked, sizeof *known, err)))
        return err->status;
    *known = a;
    return TIER_OK;
}

/* The plan of a run, as the log's run.begun names it and the directory keeps it. */
static bool plan_of(struct tier_verify *v, size_t node, const struct tier_hash *run,
                    struct tier_plan *plan) {
    const struct verify_fact *facts = v->facts.at;
    const struct tier_hash *hash = NULL;
    struct tier_cipher cipher;
    char dir[4300], *text;
    ssize_t n = -1;

    for (size_t i = 0; i < v->facts.count && !hash; i++)
        if (facts[i].node == node && facts[i].round == 0 && tier_hash_equal(&facts[i].run, run))
            hash = &facts[i].value;
    if (!hash || !verify_node(v, node)->is_dir)
        return false;
    snprintf(dir, sizeof dir, "%.4000s/%s", verify_node(v, node)->path, TIER_RETAINED_DIR);
    char *path = tier_content_path(dir, hash, TIER_CONTENT_PLAN);
    text = malloc(TIER_PLAN_BYTES_MAX);
    int fd = path && text ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0 && tier_cipher_of(path, fd, &cipher, NULL) == TIER_OK)
        n = tier_cipher_pread(&cipher, fd, text, TIER_PLAN_BYTES_MAX, 0);
    if (fd >= 0)
        close(fd);
    bool read = n > 0 && tier_plan_parse(text, (size_t)n, plan, NULL) == TIER_OK;
    free(path);
    free(text);
    return read;
}

static void on_admitted(struct tier_verify *v, size_t node, uint64_t line, const json_t *data) {
    struct tier_attest_question question = {.parent = verify_node(v, node)->name};
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    struct tier_quote quote = {.pcr = 0};
    struct tier_err why = {0};
    struct tier_plan *plan = malloc(sizeof *plan);

    verify_node(v, node)->quotes++;
    if (!plan || !tier_attest_read(data, &question, &quote, key)) {
        verify_found(v, node, "line %" PRIu64 ": attest.admitted lacks what it must say", line);
        free(plan);
        return;
    }
    struct asked *asked = find(v, &question.run, question.child);
    if (!asked || !tier_hash_equal(&asked->nonce, &question.nonce))
        verify_found(v, node,
                     "line %" PRIu64 ": %s was admitted by a quote that answers no open question: "
                     "an old one",
                     line, question.child);
    if (asked)
        asked->nonce = (struct tier_hash){{0}};
    enum tier_status st = tier_attest_check(&question, &quote, key, &why);
    if (st == TIER_OK && plan_of(v, node, &question.run, plan))
        st = tier_attest_allowed(plan, &quote, &why);
    if (st != TIER_OK)
        verify_found(v, node, "line %" PRIu64 ": %s was admitted, and %s", line, question.child,
                     why.text);
    free(plan);
}

enum tier_status verify_attest(struct tier_verify *v, size_t node, uint64_t line, const char *event,
                               const json_t *data, struct tier_err *err) {
    if (strcmp(event, "attest.asked") == 0)
        return on_asked(v, node, line, data, err);
    if (strcmp(event, "attest.admitted") == 0)
        on_admitted(v, node, line, data);
    return TIER_OK;
}
