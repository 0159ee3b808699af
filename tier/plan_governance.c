/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plan says to those who answer for data: until when it holds, and who sees what. A day ends
 * at midnight UTC, the same moment at every node.
 */
#include "tier/attest.h"
#include "tier/fedcurv.h"
#include "tier/plan_keys.h"
#include "tier/identity.h"
#include "tier/screen.h"
#include "tier/site.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define complain tier_plan_complain
#define DAY_MS INT64_C(86400000)

static bool is_leap(int year) {
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* "2027-01-31" and nothing else, of a day that there is. */
static bool read_day(const char *text, int *year, int *month, int *day) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    if (strlen(text) != 10)
        return false;
    for (int i = 0; i < 10; i++) {
        bool dash = i == 4 || i == 7;
        if (dash ? text[i] != '-' : text[i] < '0' || text[i] > '9')
            return false;
    }
    *year = (text[0] - '0') * 1000 + (text[1] - '0') * 100 + (text[2] - '0') * 10 + text[3] - '0';
    *month = (text[5] - '0') * 10 + text[6] - '0';
    *day = (text[8] - '0') * 10 + text[9] - '0';
    if (*year < 1970 || *month < 1 || *month > 12)
        return false;
    return *day >= 1 && *day <= days[*month - 1] + (*month == 2 && is_leap(*year));
}

/* Days since 1970-01-01 of the Gregorian calendar: those of the years before, of the months
 * before, and of this one. */
static int64_t day_number(int year, int month, int day) {
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t y = year - 1;

    return (y * 365 + y / 4 - y / 100 + y / 400) - INT64_C(719162) + before[month - 1] +
           (month > 2 && is_leap(year)) + day - 1;
}

bool tier_plan_expired(const struct tier_plan *plan, int64_t now_ms) {
    int year, month, day;

    return *plan->governance.expires && read_day(plan->governance.expires, &year, &month, &day) &&
           now_ms >= (day_number(year, month, day) + 1) * DAY_MS;
}

const char *tier_plan_expired_text(const struct tier_plan *plan, char *buf, size_t bytes) {
    snprintf(buf, bytes, "the plan's last day (governance.expires) was %s",
             plan->governance.expires);
    return buf;
}

int tier_plan_purpose_find(const char *text) {
    const char *known;

    for (int i = 0; (known = tier_plan_purpose_text(i)) != NULL; i++)
        if (strcmp(known, text) == 0)
            return i;
    return -1;
}

static void check_attest(const struct tier_plan_checker *c) {
    const struct tier_plan_governance *g = &c->plan->governance;
    const char *path = "governance.attest_allow";
    struct tier_attest_entry entry, other;
    bool binary = false;

    for (size_t i = 0; i < g->attest_allow.count; i++) {
        const char *item = tier_keys_list_item(&g->attest_allow, i);
        if (!tier_attest_entry(item, &entry)) {
            complain(c, path,
                     "must list binary=, kernels=, config= or pcr0= to pcr15= with a SHA-256 in 64 "
                     "hex digits, not '%.80s'",
                     item);
            continue;
        }
        binary = binary || entry.kind == TIER_ATTEST_BINARY;
        for (size_t j = 0; j < i; j++)
            if (tier_attest_entry(tier_keys_list_item(&g->attest_allow, j), &other) &&
                other.kind == entry.kind && other.pcr == entry.pcr &&
                tier_hash_equal(&other.hash, &entry.hash))
                complain(c, path, "lists '%.80s' twice", item);
    }
    if (g->attest == TIER_PLAN_ATTEST_TPM && !binary)
        complain(c, path,
                 "must list a binary=SHA256 with governance.attest: tpm: else no program would be "
                 "the right one");
    if (g->attest == TIER_PLAN_ATTEST_NONE && g->attest_allow.count > 0)
        complain(c, path, "is for governance.attest: tpm");
}

void tier_plan_check_governance(const struct tier_plan_checker *c) {
    const struct tier_plan_governance *g = &c->plan->governance;
    int year, month, day;

    if (*g->expires && !read_day(g->expires, &year, &month, &day))
        complain(c, "governance.expires", "must be a day as 2027-01-31, not '%s'", g->expires);
    if (*g->author && !tier_name_valid(g->author))
        complain(c, "governance.author",
                 "must be lower-case letters, digits and '-', as in a certificate");
    check_attest(c);
}

/* What a tier has of one child's update until the commit. */
static void sees_updates(const struct tier_plan *plan, const char *who,
                         const struct tier_plan_tier *tier, char *buf, size_t bytes) {
    bool kept = tier->retain == TIER_PLAN_RETAIN_UPDATES;

    if (plan->secure.sums == TIER_PLAN_SECURE_REGION) {
        snprintf(buf, bytes,
                 "%s: the sum of its spokes' updates, weights and metrics, of at least %" PRIu64
                 " spokes, and of no single one anything but that it took part; of hubs below it "
                 "the sum of each",
                 who, plan->secure.cohort_min);
        return;
    }
    snprintf(buf, bytes,
             "%s: the update of each of its children by name, and it %s; merged by %s%s%s", who,
             kept ? "keeps each until the round's commit, or longer for an audit"
                  : "may keep their sum alone as soon as it has some of them",
             tier_plan_rule_text(&tier->merge),
             tier_screen_on(&tier->screen)
                 ? ", after what is unlike the others went into quarantine, where it is kept"
                 : "",
             tier->contribution.permutations ? "; it says how much each of them contributed" : "");
}

static void list_columns(const struct tier_plan *plan, char *buf, size_t bytes) {
    struct tier_statistic s;
    size_t used = 0;

    for (size_t i = 0; i < plan->statistics.columns.count && used < bytes; i++)
        if (tier_statistic_at(plan, i, &s))
            used += (size_t)snprintf(buf + used, bytes - used, "%s%s", used ? ", " : "", s.name);
}

const char *tier_plan_sees(const struct tier_plan *plan, size_t i, char *buf, size_t bytes) {
    const bool evaluates = plan->evaluate_every > 0;
    char columns[200] = "";

    switch (i) {
    case 0:
        if (tier_statistics_on(plan)) {
            list_columns(plan, columns, sizeof columns);
            snprintf(
                buf, bytes,
                "leaves the site: counts over all its rows, of columns %s; what is in cells of "
                "fewer than %" PRIu64 " rows, or fewer than the site says, is left out",
                columns, plan->statistics.cells_min);
            return buf;
        }
        snprintf(buf, bytes,
                 "leaves the site: a round's change of the tensors that travel%s%s%s, its weight "
                 "(%s)%s%s",
                 plan->scaffold ? " and its control variate" : "",
                 tier_fedcurv_on(plan) ? " and its Fisher information" : "",
                 !tier_site_on(plan)         ? ""
                 : tier_site_at_spokes(plan) ? ", cut to a norm and with noise of its own"
                                             : ", cut to a norm; the top adds noise to the sum",
                 plan->weights == TIER_PLAN_UNIFORM ? "1, whatever the rows"
                                                    : "the number of its training rows",
                 evaluates ? ", sums of metrics over its test rows with their number" : "",
                 plan->secure.sums ? "; all of it behind masks that only a sum of sites loses"
                                   : "");
        return buf;
    case 1:
        sees_updates(plan, "its parent, where that is a hub", &plan->hub, buf, bytes);
        return buf;
    case 2:
        sees_updates(plan, "its parent, where that is the top", &plan->top, buf, bytes);
        return buf;
    case 3:
        snprintf(buf, bytes,
                 "tiers above its parent: sums over all children of the hub below them, and no "
                 "single site");
        return buf;
    case 4:
        snprintf(buf, bytes, "other sites: the published model of each round%s",
                 !plan->secure.sums        ? ""
                 : plan->secure.pseudonyms ? "; of those in the sum a pseudonym of this run, and "
                                             "no name"
                                           : "; the names of those in the sum");
        return buf;
    default:
        return NULL;
    }
}
