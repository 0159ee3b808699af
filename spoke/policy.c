/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rule is a struct behind a table of keys, as a configuration is; what is absent does not ask.
 * The rules are walked once without the graph: only where a rule that would match goes by operators
 * is the graph wanted, so that a plan that is refused for its purpose has nothing fetched for it.
 */
#include "spoke/policy.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define COUNT_MAX 9007199254740991.0 /* 2^53 - 1 */

enum key {
    DECIDE,
    REASON,
    PURPOSE,
    AUTHOR,
    CONTRACT,
    MODEL,
    OPERATORS,
    DAYS,
    EPSILON_MAX,
    HOURS,
    ROUNDS_MAX,
    EPOCHS_MAX,
    STEPS_MAX,
    ROWS_MAX,
    BYTES_MAX,
    COHORT_MIN,
    SITE_EPSILON_MAX,
    MODE,
    EXCEPTIONS,
    KEYS
};

struct rule {
    int decide; /* enum spoke_verdict */
    char reason[256];
    struct tier_keys_list purpose, author, contract, model, operators, days;
    double epsilon_max;
    char hours[8];
    uint64_t cohort_min, rounds_max, epochs_max, steps_max, rows_max, bytes_max;
    double site_epsilon_max;
    int mode; /* enum tier_plan_mode */
    struct tier_keys_list exceptions;
    bool has[KEYS]; /* whether it is written */
};

struct spoke_policy {
    struct rule fallback; /* decide, reason */
    struct rule rules[SPOKE_POLICY_RULES_MAX];
    size_t count;
    char name[64]; /* the file's last name */
};

static const char *const verdicts[] = {"accept", "refuse", "ask", NULL};
static const char *const mode_names[] = {"trusted", "untrusted", NULL};
static const char *const day_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

#define FIELD(member) offsetof(struct rule, member), sizeof(((struct rule *)0)->member)

/* In the order of enum key. */
static const struct tier_keys_item rule_keys[] = {
    {"decide", TIER_KEYS_CHOICE, FIELD(decide), NULL, 0, 0, verdicts, "accept, refuse or ask"},
    {"reason", TIER_KEYS_TEXT, FIELD(reason), "", 0, 0, NULL, "told to the parent and the steward"},
    {"purpose", TIER_KEYS_LIST, FIELD(purpose), "", 0, 0, NULL, "codes of governance.purpose"},
    {"author", TIER_KEYS_LIST, FIELD(author), "", 0, 0, NULL,
     "patterns of the name of whoever signed the plan"},
    {"contract", TIER_KEYS_LIST, FIELD(contract), "", 0, 0, NULL, "patterns of data.contract"},
    {"model", TIER_KEYS_LIST, FIELD(model), "", 0, 0, NULL, "SHA-256 of ONNX files, in hex"},
    {"operators", TIER_KEYS_LIST, FIELD(operators), "", 0, 0, NULL,
     "a model of these ONNX operators and no others"},
    {"days", TIER_KEYS_LIST, FIELD(days), "", 0, 0, NULL,
     "mon to sun, UTC, on which the plan arrives"},
    {"epsilon_max", TIER_KEYS_REAL, FIELD(epsilon_max), "", 0, 1e6, NULL,
     "the plan promises patients privacy.patient.epsilon_max of at most this"},
    {"hours", TIER_KEYS_TEXT, FIELD(hours), "", 0, 0, NULL,
     "HH-HH, UTC, within which the plan arrives; 22-06 is over midnight"},
    {"rounds_max", TIER_KEYS_INT, FIELD(rounds_max), "0", 0, COUNT_MAX, NULL,
     "rounds of the run at most"},
    {"epochs_max", TIER_KEYS_INT, FIELD(epochs_max), "0", 0, COUNT_MAX, NULL,
     "passes over the rows, of all rounds, at most; the plan counts in epochs"},
    {"steps_max", TIER_KEYS_INT, FIELD(steps_max), "0", 0, COUNT_MAX, NULL,
     "optimiser steps, of all rounds, at most; the plan counts in steps"},
    {"rows_max", TIER_KEYS_INT, FIELD(rows_max), "0", 0, COUNT_MAX, NULL,
     "training rows that are gone through, of all rounds, repetitions counted, at most"},
    {"bytes_max", TIER_KEYS_INT, FIELD(bytes_max), "0", 0, COUNT_MAX, NULL,
     "of models and updates, of all rounds, both ways, at most, uncompressed"},
    {"cohort_min", TIER_KEYS_INT, FIELD(cohort_min), "0", 0, COUNT_MAX, NULL,
     "the plan hides updates in secure sums of at least so many sites"},
    {"site_epsilon_max", TIER_KEYS_REAL, FIELD(site_epsilon_max), "", 0, 1e6, NULL,
     "the plan promises sites privacy.site.epsilon_max of at most this"},
    {"mode", TIER_KEYS_CHOICE, FIELD(mode), "trusted", 0, 0, mode_names,
     "the plan's mode; untrusted without exceptions but those that are named here"},
    {"exceptions", TIER_KEYS_LIST, FIELD(exceptions), "", 0, 0, NULL,
     "with mode: untrusted, promises that the plan may do without"},
};

static const struct tier_keys_item top_keys[] = {
    {"default", TIER_KEYS_CHOICE, FIELD(decide), NULL, 0, 0, verdicts,
     "what becomes of a plan that no rule matches"},
};

/* ---- reading ---- */

/* "22-06"; false where it is none. */
static bool read_hours(const char *text, int *from, int *to) {
    if (strlen(text) != 5 || text[2] != '-')
        return false;
    for (int i = 0; i < 5; i++)
        if (i != 2 && (text[i] < '0' || text[i] > '9'))
            return false;
    *from = (text[0] - '0') * 10 + text[1] - '0';
    *to = (text[3] - '0') * 10 + text[4] - '0';
    return *from <= 23 && *to <= 24 && *from != *to;
}

static int find_day(const char *text) {
    for (int i = 0; i < 7; i++)
        if (strcmp(day_names[i], text) == 0)
            return i;
    return -1;
}

static bool is_sha256(const char *text) {
    struct tier_hash hash;
    return tier_hash_parse(text, &hash);
}

static void check_rule(const struct rule *r, const char *name, const int *lines,
                       struct tier_problems *problems) {
    int from, to;

    for (size_t i = 0; i < r->purpose.count; i++)
        if (tier_plan_purpose_find(tier_keys_list_item(&r->purpose, i)) < 0)
            tier_problems_add(problems, name, lines[PURPOSE], "purpose '%.60s' is none of a plan's",
                              tier_keys_list_item(&r->purpose, i));
    for (size_t i = 0; i < r->days.count; i++)
        if (find_day(tier_keys_list_item(&r->days, i)) < 0)
            tier_problems_add(problems, name, lines[DAYS],
                              "days must hold mon, tue, wed, thu, fri, sat or sun, not '%.20s'",
                              tier_keys_list_item(&r->days, i));
    for (size_t i = 0; i < r->model.count; i++)
        if (!is_sha256(tier_keys_list_item(&r->model, i)))
            tier_problems_add(problems, name, lines[MODEL],
                              "model must hold SHA-256 in 64 hex digits");
    if (lines[EXCEPTIONS] && r->mode != TIER_PLAN_UNTRUSTED)
        tier_problems_add(problems, name, lines[EXCEPTIONS], "exceptions are for mode: untrusted");
    if (*r->hours && !read_hours(r->hours, &from, &to))
        tier_problems_add(problems, name, lines[HOURS], "hours must be as 08-18, not '%s'",
                          r->hours);
}

static void read_rule(struct spoke_policy *p, const struct tier_yaml_node *node, const char *name,
                      struct tier_problems *problems) {
    struct rule *r = &p->rules[p->count];
    int lines[TIER_KEYS_MAX] = {0};

    if (node->kind != TIER_YAML_MAP) {
        tier_problems_add(problems, name, node->line, "a rule must be a map of keys");
        return;
    }
    if (p->count == SPOKE_POLICY_RULES_MAX) {
        tier_problems_add(problems, name, node->line, "more than %d rules", SPOKE_POLICY_RULES_MAX);
        return;
    }
    tier_keys_defaults(rule_keys, COUNT(rule_keys), r);
    tier_keys_read_map(rule_keys, COUNT(rule_keys), name, node, r, lines, problems);
    if (!lines[DECIDE])
        tier_problems_add(problems, name, node->line, "a rule needs decide: %s",
                          rule_keys[DECIDE].help);
    check_rule(r, name, lines, problems);
    for (size_t i = 0; i < COUNT(rule_keys); i++)
        r->has[i] = lines[i] != 0;
    p->count++;
}

static void read_document(struct spoke_policy *p, const struct tier_yaml *doc,
                          struct tier_problems *problems) {
    const char *name = tier_yaml_name(doc);
    /* The rules are a list of maps, which tables do not know: what else there is, is theirs. */
    struct tier_yaml_node root = *tier_yaml_root(doc), kept[2] = {{0}};
    const struct tier_yaml_node *rules = NULL, *fallback = NULL;
    int lines[TIER_KEYS_MAX] = {0};

    for (const struct tier_yaml_node *n = root.child; n; n = n->next) {
        if (strcmp(n->key, "rules") == 0) {
            rules = n;
        } else if (strcmp(n->key, "default") == 0) {
            fallback = n;
        } else {
            tier_problems_add(problems, name, n->line,
                              "unknown key '%.60s': default and rules would be right", n->key);
        }
    }
    if (fallback) {
        kept[0] = *fallback;
        kept[0].next = NULL;
        root.child = kept;
        tier_keys_read_map(top_keys, COUNT(top_keys), name, &root, &p->fallback, lines, problems);
    } else {
        tier_problems_add(problems, name, 0, "default is missing: %s", top_keys[0].help);
    }
    if (rules && rules->kind != TIER_YAML_LIST)
        tier_problems_add(problems, name, rules->line, "rules must be a list, each with decide");
    for (const struct tier_yaml_node *n = rules ? rules->child : NULL; n; n = n->next)
        read_rule(p, n, name, problems);
}

static enum tier_status take(struct tier_yaml *doc, struct spoke_policy **out,
                             struct tier_problems *problems, struct tier_err *err) {
    struct spoke_policy *p = calloc(1, sizeof *p);
    struct tier_problems *own = calloc(1, sizeof *own);
    const char *slash = strrchr(tier_yaml_name(doc), '/');
    enum tier_status st;

    if (!p || !own) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a policy");
        goto out;
    }
    snprintf(p->name, sizeof p->name, "%s", slash ? slash + 1 : tier_yaml_name(doc));
    read_document(p, doc, own);
    tier_problems_sort(own);
    st = tier_problems_status(own, TIER_ECONFIG, err);
    if (problems)
        *problems = *own;
out:
    free(own);
    if (st == TIER_OK)
        *out = p;
    else
        free(p);
    return st;
}

enum tier_status spoke_policy_load(const char *path, struct spoke_policy **out,
                                   struct tier_problems *problems, struct tier_err *err) {
    struct tier_yaml *doc = NULL;

    TIER_TRY(tier_yaml_load(path, &doc, err));
    enum tier_status st = take(doc, out, problems, err);
    tier_yaml_free(doc);
    return st;
}

enum tier_status spoke_policy_parse(const char *name, const void *text, size_t bytes,
                                    struct spoke_policy **out, struct tier_problems *problems,
                                    struct tier_err *err) {
    struct tier_yaml *doc = NULL;

    TIER_TRY(tier_yaml_parse(name, text, bytes, &doc, err));
    enum tier_status st = take(doc, out, problems, err);
    tier_yaml_free(doc);
    return st;
}

void spoke_policy_free(struct spoke_policy *policy) {
    free(policy);
}

/* ---- deciding ---- */

static bool matches_any(const struct tier_keys_list *patterns, const char *text) {
    for (size_t i = 0; *text && i < patterns->count; i++)
        if (fnmatch(tier_keys_list_item(patterns, i), text, 0) == 0)
            return true;
    return false;
}

/* A number of the plan by its path, as far as this version's plans have it. */
static bool plan_number(const struct tier_plan *plan, const char *path, double *out) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);
    int i = tier_keys_find(keys, count, path);

    if (i < 0 || keys[i].type != TIER_KEYS_REAL)
        return false;
    memcpy(out, (const char *)plan + keys[i].offset, sizeof *out);
    return !isnan(*out) && *out > 0;
}

/* A promise that the rule does not let go of is to be kept. */
static bool mode_matches(const struct rule *r, const struct tier_plan *plan) {
    for (size_t i = 0; i < plan->exceptions.count; i++)
        if (!matches_any(&r->exceptions, tier_keys_list_item(&plan->exceptions, i)))
            return false;
    return plan->mode == r->mode;
}

static bool in_time(const struct rule *r, int64_t now_ms) {
    time_t now = (time_t)(now_ms / 1000);
    int from = 0, to = 24;
    struct tm utc;

    gmtime_r(&now, &utc);
    if (r->has[DAYS] && !matches_any(&r->days, day_names[utc.tm_wday]))
        return false;
    if (!r->has[HOURS] || !read_hours(r->hours, &from, &to))
        return true;
    return from < to ? utc.tm_hour >= from && utc.tm_hour < to
                     : utc.tm_hour >= from || utc.tm_hour < to;
}

/* Whether `each` in every round, and there is some of it, stays within the bound. */
static bool within(uint64_t each, uint64_t rounds, uint64_t most) {
    return each > 0 && each <= most / rounds; /* a plan has a round at least */
}

/* A round brings a model and takes an update, of about the size of the ONNX file each; SCAFFOLD and
 * FedCurv double and treble both, and behind masks an update is twice as long. */
static uint64_t bytes_each(const struct tier_plan *plan) {
    uint64_t times = plan->curvature.lambda > 0 ? 3 : plan->scaffold ? 2 : 1;
    return (plan->secure.sums != TIER_PLAN_SECURE_NONE ? 3 : 2) * times * plan->model_bytes;
}

/* By steps a round goes through what the plan says; by epochs, through this site's rows, and what
 * is not known of them is within no bound. */
static uint64_t rows_each(const struct tier_plan *plan, uint64_t rows) {
    uint64_t n = plan->steps ? plan->steps : plan->epochs;
    const uint64_t times[] = {plan->steps ? plan->batch : rows,
                              plan->steps && plan->accumulate ? plan->accumulate : 1};

    for (size_t i = 0; i < COUNT(times); i++)
        if (__builtin_mul_overflow(n, times[i], &n))
            return UINT64_MAX;
    return n;
}

static bool work_fits(const struct rule *r, const struct spoke_asked *a) {
    const struct tier_plan *p = a->plan;

    return !((r->has[ROUNDS_MAX] && p->rounds > r->rounds_max) ||
             (r->has[EPOCHS_MAX] && !within(p->epochs, p->rounds, r->epochs_max)) ||
             (r->has[STEPS_MAX] && !within(p->steps, p->rounds, r->steps_max)) ||
             (r->has[ROWS_MAX] && !within(rows_each(p, a->rows), p->rounds, r->rows_max)) ||
             (r->has[BYTES_MAX] && !within(bytes_each(p), p->rounds, r->bytes_max)));
}

/* All but the operators. */
static bool plan_matches(const struct rule *r, const struct spoke_asked *a) {
    const struct tier_plan *p = a->plan;
    double epsilon;

    if (r->has[PURPOSE] && !matches_any(&r->purpose, tier_plan_purpose_text(p->governance.purpose)))
        return false;
    if ((r->has[AUTHOR] && !matches_any(&r->author, a->author)) ||
        (r->has[CONTRACT] && !matches_any(&r->contract, p->contract)) ||
        (r->has[MODEL] && !matches_any(&r->model, p->model_sha256)))
        return false;
    if (r->has[EPSILON_MAX] &&
        !(plan_number(p, "privacy.patient.epsilon_max", &epsilon) && epsilon <= r->epsilon_max))
        return false;
    if (r->has[SITE_EPSILON_MAX] &&
        !(plan_number(p, "privacy.site.epsilon_max", &epsilon) && epsilon <= r->site_epsilon_max))
        return false;
    if (r->has[MODE] && !mode_matches(r, p))
        return false;
    if (r->has[COHORT_MIN] &&
        (p->secure.sums == TIER_PLAN_SECURE_NONE || p->secure.cohort_min < r->cohort_min))
        return false;
    return in_time(r, a->now_ms) && work_fits(r, a);
}

static bool operators_match(const struct rule *r, const struct tier_graph *graph) {
    for (size_t i = 0; i < tier_graph_node_count(graph); i++)
        if (tier_graph_node(graph, i)->op != TIER_OP_COUNT &&
            !matches_any(&r->operators, tier_op_text(tier_graph_node(graph, i)->op)))
            return false;
    return true;
}

enum spoke_verdict spoke_policy_decide(const struct spoke_policy *policy,
                                       const struct spoke_asked *asked, char *reason,
                                       size_t bytes) {
    for (size_t i = 0; i < policy->count; i++) {
        const struct rule *r = &policy->rules[i];
        if (!plan_matches(r, asked))
            continue;
        if (r->has[OPERATORS] && !asked->graph) {
            snprintf(reason, bytes, "rule %zu of %s goes by the model", i + 1, policy->name);
            return SPOKE_NEEDS_GRAPH;
        }
        if (r->has[OPERATORS] && !operators_match(r, asked->graph))
            continue;
        snprintf(reason, bytes, "rule %zu of %s%s%s", i + 1, policy->name, *r->reason ? ": " : "",
                 r->reason);
        return (enum spoke_verdict)r->decide;
    }
    snprintf(reason, bytes, "no rule of %s matches, and its default is %s", policy->name,
             verdicts[policy->fallback.decide]);
    return (enum spoke_verdict)policy->fallback.decide;
}
