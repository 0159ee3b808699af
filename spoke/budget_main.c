/* SPDX-License-Identifier: Apache-2.0 */
/* consilium-spoke budget: what was spent here of the patients' privacy, of what there is. */
#include "spoke/budget.h"
#include "tier/ledger.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

extern char **environ;

static const char usage[] =
    "Usage: consilium-spoke budget [--json] --config FILE\n\n"
    "Prints what has been spent of the privacy of this site's patients, and of the site as a\n"
    "whole, which are never added: epsilon at the policy.delta of the configuration, over all\n"
    "runs, of policy.epsilon_max and policy.site_epsilon_max; and each run's part in it. The spoke "
    "may be running meanwhile. Takes the spoke's own options besides.\n";

struct book {
    struct tier_ledger *ledger; /* NULL: nothing was spent */
    bool site;
    json_t *charges;
    struct tier_privacy_cost cost;
    struct tier_privacy_bound bound;
};

/* INFINITY is null: JSON has no word for it. */
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static enum tier_status see_entry(void *arg, const struct tier_ledger_entry *e,
                                  struct tier_err *err) {
    struct book *b = arg;
    json_t *o = json_pack(
        "{s:s, s:s, s:I, s:I, s:f, s:f, s:I, s:I}", "plan", e->plan, "run", e->run, "rounds",
        (json_int_t)e->rounds, "steps", (json_int_t)e->event.count, "noise", e->event.noise, "rate",
        e->event.rate, "first_ms", (json_int_t)e->first_ms, "last_ms", (json_int_t)e->last_ms);

    return json_array_append_new(b->charges, o) == 0
               ? TIER_OK
               : tier_fail(err, TIER_ENOMEM, "no memory for a ledger");
}

static enum tier_status read_book(struct book *b, enum tier_ledger_book which, double delta,
                                  struct tier_err *err) {
    struct tier_privacy_event *events = NULL;
    size_t count = 0;

    if (!b->ledger)
        return TIER_OK;
    TIER_TRY(tier_ledger_each(b->ledger, which, see_entry, b, err));
    TIER_TRY(tier_ledger_events(b->ledger, which, NULL, &events, &count, NULL, err));
    enum tier_status st = tier_privacy_cost(events, count, delta, &b->cost, err);
    if (st == TIER_OK)
        st = tier_privacy_concentrated(events, count, delta, &b->bound, err);
    free(events);
    return st;
}

/* What is gone by: of a site, who is in every round, concentrated privacy. */
static double epsilon_of(const struct book *b) {
    return b->site ? b->bound.epsilon : b->cost.tight;
}

static json_t *book_json(const struct book *b, double delta, double max) {
    return json_pack("{s:o, s:o, s:o, s:o, s:f, s:f, s:o, s:O}", "epsilon", number(epsilon_of(b)),
                     "at_least", number(b->cost.floor), "rdp", number(b->cost.rdp), "zcdp",
                     number(b->bound.epsilon), "rho", b->bound.rho, "delta", delta, "epsilon_max",
                     max > 0 ? json_real(max) : json_null(), "charges", b->charges);
}

static void print_book(const struct book *b, const char *whom, double delta, double max,
                       FILE *out) {
    size_t i;
    const json_t *e;

    fprintf(out, "%s  epsilon ", whom);
    if (isfinite(epsilon_of(b)))
        fprintf(out, "%.4f", epsilon_of(b));
    else
        fprintf(out, "above %g", TIER_PRIVACY_EPSILON_MAX);
    if (max > 0)
        fprintf(out, " of %g", max);
    fprintf(out, " at delta %g (at least %.4f, rdp %.4f, zCDP rho %.6f)\n", delta, b->cost.floor,
            b->cost.rdp, b->bound.rho);
    if (json_array_size(b->charges) > 0)
        fprintf(out, "  %-24s %-12s %7s %9s %8s %9s  %s\n", "plan", "run", "rounds", "steps",
                "noise", "rate", "last (UTC)");
    json_array_foreach(b->charges, i, e) {
        time_t last = (time_t)(json_integer_value(json_object_get(e, "last_ms")) / 1000);
        struct tm tm;
        char when[32] = "";
        if (gmtime_r(&last, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
        fprintf(out, "  %-24.24s %-12.12s %7" PRId64 " %9" PRId64 " %8.3f %9.6f  %s\n",
                json_string_value(json_object_get(e, "plan")),
                json_string_value(json_object_get(e, "run")),
                (int64_t)json_integer_value(json_object_get(e, "rounds")),
                (int64_t)json_integer_value(json_object_get(e, "steps")),
                json_real_value(json_object_get(e, "noise")),
                json_real_value(json_object_get(e, "rate")), when);
    }
}

static enum tier_status tell(const struct tier_config *config, bool json, FILE *out,
                             struct tier_err *err) {
    const struct tier_config_spoke *c = &config->spoke;
    struct book patients = {.charges = json_array()};
    struct book sites = {.site = true, .charges = json_array()};
    enum tier_status st = tier_ledger_open(config->data_dir, true, &patients.ledger, err);

    if (st == TIER_ENOTFOUND)
        st = TIER_OK;
    sites.ledger = patients.ledger;
    if (st == TIER_OK)
        st = read_book(&patients, TIER_LEDGER_PATIENT, c->delta, err);
    if (st == TIER_OK)
        st = read_book(&sites, TIER_LEDGER_SITE, c->delta, err);
    if (st == TIER_OK && json) {
        json_t *o =
            json_pack("{s:o, s:o}", "patient", book_json(&patients, c->delta, c->epsilon_max),
                      "site", book_json(&sites, c->delta, c->site_epsilon_max));
        json_dumpf(o, out, JSON_COMPACT);
        fputc('\n', out);
        json_decref(o);
    } else if (st == TIER_OK) {
        print_book(&patients, "patients", c->delta, c->epsilon_max, out);
        print_book(&sites, "the site", c->delta, c->site_epsilon_max, out);
    }
    tier_ledger_close(patients.ledger);
    json_decref(patients.charges);
    json_decref(sites.charges);
    return st;
}

int spoke_budget_main(int argc, char **argv, FILE *out, FILE *errors) {
    static struct tier_config config;
    static struct tier_problems problems;
    char **rest = calloc((size_t)argc + 1, sizeof *rest);
    struct tier_err err = {0};
    bool json = false, help = false;
    int count = 0, code = 0;

    if (!rest) {
        fputs("consilium-spoke: no memory\n", errors);
        return 1;
    }
    for (int i = 0; i < argc; i++) {
        bool is_json = i > 0 && strcmp(argv[i], "--json") == 0;
        json = json || is_json;
        help = help || (i > 0 && strcmp(argv[i], "--help") == 0);
        if (!is_json)
            rest[count++] = argv[i];
    }
    if (help) {
        fputs(usage, out);
    } else {
        enum tier_status st =
            tier_config_load(TIER_CONFIG_SPOKE, count, rest, environ, &config, &problems, &err);
        for (size_t i = 0; i < problems.count; i++)
            fprintf(errors, "consilium-spoke: %s\n", problems.item[i].text);
        code = st == TIER_OK ? 0 : st == TIER_EARG ? 2 : 1;
        if (code == 0 && tell(&config, json, out, &err) != TIER_OK) {
            fprintf(errors, "consilium-spoke: %s\n", err.text);
            code = 1;
        }
    }
    free(rest);
    return code;
}
