/* SPDX-License-Identifier: Apache-2.0 */
/* What a released model's card says, and whether it and the model are what a hub released:
 * off-line, with the two files and the authority's certificate. */
#include "hub/cli.h"
#include "tier/card.h"
#include "tier/model.h"
#include "tier/pem_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

struct verify {
    const char *model, *card_path, *ca_path, *identity;
    char *beside;
    struct tier_card card;
    struct tier_cert *ca; /* NULL: none was given */
};

static enum tier_status read_card(const char *path, struct tier_card *out, struct tier_err *err) {
    char *text = malloc(TIER_CARD_BYTES_MAX + 1);
    FILE *f = text ? fopen(path, "rb") : NULL;
    enum tier_status st;

    if (!text)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model card");
    if (!f) {
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "cannot read %s",
                             path);
        free(text);
        return st;
    }
    size_t n = fread(text, 1, TIER_CARD_BYTES_MAX + 1, f);
    st = ferror(f) ? tier_fail_errno(err, TIER_EIO, "cannot read %s", path)
                   : tier_card_read(text, n, out, err);
    fclose(f);
    free(text);
    return st;
}

static enum tier_status read_ca(struct verify *v, struct tier_err *err) {
    char path[4300], *pem = NULL;

    if (!v->ca_path && !v->identity)
        return TIER_OK;
    int n = v->ca_path ? snprintf(path, sizeof path, "%s", v->ca_path)
                       : snprintf(path, sizeof path, "%s/identity/ca.pem", v->identity);
    if (n < 0 || (size_t)n >= sizeof path)
        return tier_fail(err, TIER_EARG, "the path of the authority's certificate is too long");
    char *name = strrchr(path, '/');
    if (name)
        *name++ = '\0';
    TIER_TRY(
        tier_pem_read(name ? (*path ? path : "/") : ".", name ? name : path, false, &pem, err));
    enum tier_status st = tier_cert_from_pem(pem, &v->ca, err);
    free(pem);
    return st;
}

static void verify_release(struct verify *v) {
    tier_card_release(&v->card);
    tier_cert_free(v->ca);
    free(v->beside);
}

/* The card, by the authority's certificate where there is one. */
static enum tier_status load(struct verify *v, struct tier_err *err) {
    struct stat info;

    if (!v->card_path) {
        if (asprintf(&v->beside, "%s" TIER_CARD_BESIDE, v->model) < 0)
            return tier_fail(err, TIER_ENOMEM, "no memory for a path");
        v->card_path = v->beside;
    }
    if (stat(v->card_path, &info) != 0 && errno == ENOENT)
        return tier_fail(err, TIER_ENOTFOUND,
                         "%s is not there: model pull puts it beside a model that two operators "
                         "have released; --card FILE names another place",
                         v->card_path);
    TIER_TRY(read_card(v->card_path, &v->card, err));
    TIER_TRY(read_ca(v, err));
    return v->ca ? tier_card_check(&v->card, v->ca, err) : TIER_OK;
}

/* ---- verify ---- */

static enum tier_status same_model(const struct verify *v, struct tier_err *err) {
    char is[TIER_HASH_HEX], says[TIER_HASH_HEX];
    struct tier_hash hash;

    TIER_TRY(tier_model_hash_file(v->model, &hash, err));
    if (tier_hash_equal(&hash, &v->card.model))
        return TIER_OK;
    return tier_fail(err, TIER_ECORRUPT,
                     "%s has the SHA-256 %s, and the card is of %s: the model was altered, or they "
                     "are not of one release",
                     v->model, tier_hash_hex(&hash, is), tier_hash_hex(&v->card.model, says));
}

int cli_model_verify(int argc, char **argv) {
    struct verify v = {.model = NULL};
    bool json = false;
    const struct cli_option options[] = {
        {"card", CLI_TEXT, &v.card_path, "FILE", "the card; otherwise that beside the model", NULL,
         false, 0, 0},
        {"ca", CLI_TEXT, &v.ca_path, "FILE", "the authority's certificate", NULL, false, 0, 0},
        {"identity", CLI_TEXT, &v.identity, "DATA_DIR",
         "where you are enrolled, which has the authority's certificate too", "CONSILIUM_IDENTITY",
         false, 0, 0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "model verify", "FILE",
        "Checks, off-line, that a released model is the one that its card names, and that a hub of "
        "the authority signed the card"};
    struct tier_err err = {0};
    char hex[TIER_HASH_HEX];
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &v.model, 1, 1);

    if (code != CLI_GO)
        return code;
    if (!v.ca_path && !v.identity) {
        cli_error("whose signature is to be believed? --ca FILE, the authority's certificate, or "
                  "--identity DATA_DIR says");
        return CLI_USAGE;
    }
    enum tier_status st = load(&v, &err);
    if (st == TIER_OK)
        st = same_model(&v, &err);
    if (st != TIER_OK) {
        code = cli_failed(&err);
    } else if (json) {
        code = cli_print_json(json_pack(
            "{s:b, s:s, s:s, s:s, s:[s, s]}", "whole", 1, "sha256",
            tier_hash_hex(&v.card.model, hex), "signed_by", v.card.signer.name, "authority",
            v.card.signer.authority, "approved_by", v.card.approved_by[0], v.card.approved_by[1]));
    } else {
        printf("%s is the model that %s of %s released, approved by %s and %s\n",
               tier_hash_hex(&v.card.model, hex), v.card.signer.name, v.card.signer.authority,
               v.card.approved_by[0], v.card.approved_by[1]);
        code = cli_done();
    }
    verify_release(&v);
    return code;
}

/* ---- card ---- */

static const char *text_at(const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    return text && *text ? text : "-";
}

static int64_t int_at(const json_t *o, const char *key) {
    return (int64_t)json_integer_value(json_object_get(o, key));
}

static void print_metrics(const json_t *metrics) {
    const json_t *spread = json_object_get(metrics, "spread"), *value;
    const char *name;

    json_object_foreach(json_object_get(metrics, "values"), name, value) {
        const json_t *s = json_object_get(spread, name);
        printf("  %-16.40s %12.6g", name, json_number_value(value));
        if (s)
            printf("   over %" PRId64 " children %.6g to %.6g, median %.6g", int_at(s, "children"),
                   json_number_value(json_object_get(s, "lowest")),
                   json_number_value(json_object_get(s, "highest")),
                   json_number_value(json_object_get(s, "median")));
        putchar('\n');
    }
    if (json_is_string(json_object_get(metrics, "why_not")))
        printf("  %s\n", text_at(metrics, "why_not"));
}

static void print_privacy(const json_t *privacy) {
    const json_t *patient = json_object_get(privacy, "patient"), *site;
    const json_t *sites = json_object_get(privacy, "site");
    size_t i;

    if (json_is_object(sites))
        printf("  a site as a whole, at delta %g: epsilon %.4f\n",
               json_number_value(json_object_get(sites, "delta")),
               json_number_value(json_object_get(sites, "epsilon")));
    if (!json_is_object(patient)) {
        puts("  of patients none: the plan asks for no noise that protects them");
        return;
    }
    printf("  patients, at delta %g, a site with so many training rows:\n",
           json_number_value(json_object_get(patient, "delta")));
    json_array_foreach(json_object_get(patient, "sites"), i, site) {
        const json_t *epsilon = json_object_get(site, "epsilon");
        printf("  %10" PRId64 " rows  epsilon ", int_at(site, "rows"));
        if (json_is_number(epsilon))
            printf("%.4f\n", json_number_value(epsilon));
        else
            puts("above what protects anybody");
    }
}

static void print_card(const struct verify *v) {
    const json_t *c = v->card.body;
    const json_t *plan = json_object_get(c, "plan"), *run = json_object_get(c, "run");
    const json_t *governance = json_object_get(plan, "governance");
    const json_t *counted = json_object_get(c, "counted");
    const json_t *last = json_object_get(counted, "last_round");
    const json_t *lineage = json_object_get(c, "lineage"), *audit = json_object_get(c, "audit");
    char hex[TIER_HASH_HEX], when[CLI_TIME_SIZE];

    printf("model       %s  %" PRIu64 " bytes\n", tier_hash_hex(&v->card.model, hex),
           v->card.model_bytes);
    printf("released    %s UTC by %s and %s, at %s of %s\n", cli_time(v->card.released_ms, when),
           v->card.approved_by[0], v->card.approved_by[1], v->card.signer.name,
           v->card.signer.authority);
    printf("signature   %s\n", v->ca
                                   ? "of that hub, by the authority's certificate"
                                   : "NOT checked: --ca FILE, the authority's certificate, would");
    printf("plan        %s  %s\n", text_at(plan, "name"), text_at(plan, "sha256"));
    printf("purpose     %s (%s)\n", text_at(plan, "purpose"), text_at(governance, "purpose"));
    printf("basis       %s; ethics %s; signed by %s\n", text_at(governance, "legal_basis"),
           text_at(governance, "ethics"), text_at(plan, "signed_by"));
    printf("data        %s\n", text_at(c, "contract"));
    printf("run         %s, round %" PRId64 " of %" PRId64 ", %s then\n", text_at(run, "id"),
           int_at(run, "round"), int_at(run, "rounds"), text_at(run, "state"));
    printf("counted     %" PRId64 " children in all, %" PRId64
           " in the last round, of weight %" PRId64 "\n            %s\n",
           int_at(counted, "children"), int_at(last, "children"), int_at(last, "weight"),
           text_at(counted, "note"));
    puts("metrics");
    print_metrics(json_object_get(c, "metrics"));
    puts("privacy spent");
    print_privacy(json_object_get(c, "privacy"));
    printf("lineage     graph %s\n            first model %s\n            before this %s\n",
           text_at(lineage, "graph"), text_at(lineage, "first_model"),
           text_at(lineage, "base_model"));
    printf("audit       %s, %" PRId64 " lines, root %s\n", text_at(audit, "node"),
           int_at(audit, "lines"), text_at(audit, "root"));
    printf("software    %s\n", text_at(c, "software"));
}

int cli_model_card(int argc, char **argv) {
    struct verify v = {.model = NULL};
    bool json = false;
    const struct cli_option options[] = {
        {"card", CLI_TEXT, &v.card_path, "FILE", "the card; otherwise that beside the model", NULL,
         false, 0, 0},
        {"ca", CLI_TEXT, &v.ca_path, "FILE", "the authority's certificate, to check it", NULL,
         false, 0, 0},
        {"identity", CLI_TEXT, &v.identity, "DATA_DIR",
         "where you are enrolled, which has the authority's certificate too", "CONSILIUM_IDENTITY",
         false, 0, 0},
        {"json", CLI_FLAG, &json, NULL, "the card as one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "model card", "FILE",
        "Shows what the signed card beside a released model says: of which plan, data contract and "
        "run it is, who counted, what it is worth and how hospitals differ, what privacy was "
        "spent, and who released it"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &v.model, 1, 1);

    if (code != CLI_GO)
        return code;
    if (load(&v, &err) != TIER_OK) {
        code = cli_failed(&err);
    } else if (json) {
        code = cli_print_json(json_incref(v.card.body));
    } else {
        print_card(&v);
        code = cli_done();
    }
    verify_release(&v);
    return code;
}
