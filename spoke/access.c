/* SPDX-License-Identifier: Apache-2.0 */
/* One pass over the file, a line at a time; the log may be written meanwhile. */
#include "spoke/access.h"
#include "tier/audit.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage[] = "usage: consilium-spoke log --data-dir DIR [--run RUN] [--json]\n"
                            "\n"
                            "Every reading of the data, with plan, round, purpose and number of "
                            "rows, files made for other\n"
                            "sites, and what stewards and patients decided, out of "
                            "DIR/audit/audit.log. --json: the lines as\n"
                            "they stand there.\n";

/* What the log tells of data and of who may read them. */
static const char *const events[] = {
    "data.opened",     "data.read",       "update.sealed",   "plan.accepted",  "plan.declined",
    "plan.asked",      "plan.decided",    "consent.applied", "consent.broken", "withdrawal.asked",
    "withdrawal.done", "withdrawal.late", "site.withdrawn",  "round.declined", "overlap.told"};

static bool is_wanted(const char *event) {
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (strcmp(events[i], event) == 0)
            return true;
    return false;
}

static void print_line(const json_t *line, FILE *out) {
    const json_t *data = json_object_get(line, "data");
    time_t at = (time_t)(json_integer_value(json_object_get(line, "time_ms")) / 1000);
    const char *run = json_string_value(json_object_get(data, "run")), *key;
    char when[32];
    struct tm utc;
    json_t *value;

    gmtime_r(&at, &utc);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &utc);
    fprintf(out, "%s  %-16s  %.12s", when, json_string_value(json_object_get(line, "event")),
            run ? run : "");
    json_object_foreach((json_t *)data, key, value) {
        if (strcmp(key, "run") == 0 || json_is_null(value))
            continue;
        if (json_is_string(value) && strlen(json_string_value(value)) == 64 &&
            strspn(json_string_value(value), "0123456789abcdef") == 64)
            fprintf(out, "  %s=%.12s", key, json_string_value(value));
        else if (json_is_string(value))
            fprintf(out, "  %s=\"%s\"", key, json_string_value(value));
        else if (json_is_integer(value))
            fprintf(out, "  %s=%" JSON_INTEGER_FORMAT, key, json_integer_value(value));
        else if (json_is_boolean(value))
            fprintf(out, "  %s=%s", key, json_is_true(value) ? "yes" : "no");
    }
    fputc('\n', out);
}

/* Lines with their line feed; a last one without is being written. */
static int read_log(FILE *f, const char *run, bool as_json, FILE *out, FILE *errors) {
    struct tier_hash prev = {{0}}, hash;
    struct tier_err err = {0};
    uint64_t seq = 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    int code = 0;

    while (code == 0 && (n = getline(&line, &room, f)) > 0 && line[n - 1] == '\n') {
        line[--n] = '\0';
        if (tier_audit_check_line(line, (size_t)n, ++seq, &prev, &hash, &err) != TIER_OK) {
            fprintf(errors, "consilium-spoke: line %" PRIu64 ": %s\n", seq, err.text);
            code = 1;
            break;
        }
        prev = hash;
        json_t *o = json_loads(line, 0, NULL);
        const char *event = json_string_value(json_object_get(o, "event"));
        const char *of = json_string_value(json_object_get(json_object_get(o, "data"), "run"));
        if (event && is_wanted(event) && (!run || (of && strncmp(of, run, strlen(run)) == 0))) {
            if (as_json)
                fprintf(out, "%s\n", line);
            else
                print_line(o, out);
        }
        json_decref(o);
    }
    free(line);
    return code;
}

int spoke_access_main(int argc, char **argv, FILE *out, FILE *errors) {
    static const struct option longs[] = {{"data-dir", required_argument, NULL, 'd'},
                                          {"run", required_argument, NULL, 'r'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    const char *data_dir = getenv("CONSILIUM_DATA_DIR"), *run = NULL;
    bool as_json = false;
    char path[1400];
    int option;

    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'd')
            data_dir = optarg;
        else if (option == 'r')
            run = optarg;
        else if (option == 'j')
            as_json = true;
        else {
            fputs(usage, option == 'h' ? out : errors);
            return option == 'h' ? 0 : 2;
        }
    }
    if (!data_dir || argc != optind) {
        fputs(usage, errors);
        return 2;
    }
    snprintf(path, sizeof path, "%s/audit/audit.log", data_dir);
    FILE *f = fopen(path, "re");
    if (!f) {
        fprintf(errors, "consilium-spoke: %s cannot be read\n", path);
        return 1;
    }
    int code = read_log(f, run, as_json, out, errors);
    fclose(f);
    return code == 0 && fflush(out) != 0 ? 1 : code;
}
