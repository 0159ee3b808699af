/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of the audit log that a hub and a spoke write alike. */
#include "tier/home.h"
#include "tier/log.h"
#include "tier/loop.h"
#include "tier/pem_file.h"

#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_KEY "config.text" /* of the start before */
#define PLUGIN_FILE "libconsilium-cuda"

enum tier_status tier_home_note_receipt(const struct tier_home *home, const struct tier_receipt *r,
                                        struct tier_err *err) {
    char hex[2 * sizeof r->signature + 1] = "";

    for (size_t i = 0; i < r->signature_bytes; i++)
        snprintf(hex + 2 * i, 3, "%02x", r->signature[i]);
    if (r->counted)
        return tier_audit_note(home->audit, tier_wall_ms(), "receipt", err, "h:run", &r->run,
                               "u:round", r->round, "h:update", &r->update, "s:parent", r->parent,
                               "u:weight", r->weight, "u:counted", r->counted, "i:time_ms",
                               r->time_ms, "s:signature", hex, NULL);
    return tier_audit_note(home->audit, tier_wall_ms(), "receipt", err, "h:run", &r->run, "u:round",
                           r->round, "h:update", &r->update, "s:parent", r->parent, "u:weight",
                           r->weight, "i:time_ms", r->time_ms, "s:signature", hex, NULL);
}

/* ---- what runs here ---- */

/* Zero where it cannot be read. */
static void file_hash(const char *path, struct tier_hash *out) {
    struct tier_hasher *hasher = tier_hasher_new();
    uint8_t *buf = malloc(1 << 16);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;

    *out = (struct tier_hash){{0}};
    while (hasher && buf && fd >= 0 && (n = read(fd, buf, 1 << 16)) > 0)
        tier_hasher_add(hasher, buf, (size_t)n);
    if (n == 0)
        tier_hasher_finish(hasher, out);
    if (fd >= 0)
        close(fd);
    free(buf);
    tier_hasher_free(hasher);
}

static int find_plugin(struct dl_phdr_info *info, size_t size, void *path) {
    (void)size;
    const char *name = info->dlpi_name ? strrchr(info->dlpi_name, '/') : NULL;
    if (!name || strncmp(name + 1, PLUGIN_FILE, sizeof PLUGIN_FILE - 1) != 0)
        return 0;
    snprintf(path, PATH_MAX, "%s", info->dlpi_name);
    return 1;
}

/* One value of a printed configuration: "key: value  # origin", in its section. */
struct value {
    const char *at; /* where the next line begins */
    char section[64];
    char key[128];
    const char *text;
    size_t bytes;
};

static bool next_value(struct value *v) {
    while (*v->at) {
        const char *line = v->at, *end = line + strcspn(line, "\n"), *stop = end;
        size_t indent = strspn(line, " "), key = strcspn(line + indent, ":\n");
        v->at = *end ? end + 1 : end;
        if (line[indent + key] != ':' || *line == '#')
            continue;
        if (line + indent + key + 1 == end) {
            snprintf(v->section, sizeof v->section, "%.*s.", (int)key, line);
            continue;
        }
        for (const char *p = end; p - line > 3; p--)
            if (strncmp(p - 3, "  #", 3) == 0) {
                stop = p - 3;
                break;
            }
        snprintf(v->key, sizeof v->key, "%s%.*s", indent ? v->section : "", (int)key,
                 line + indent);
        v->text = line + indent + key + 1;
        v->bytes = (size_t)(stop - v->text);
        return true;
    }
    return false;
}

static bool has_value(const char *config, const struct value *wanted) {
    struct value v = {.at = config};
    while (next_value(&v))
        if (strcmp(v.key, wanted->key) == 0)
            return v.bytes == wanted->bytes && memcmp(v.text, wanted->text, v.bytes) == 0;
    return false;
}

/* The keys whose values the other does not have, into out. A key that is absent now was there
 * before, so both ways are looked. */
static void changed_keys(const char *before, const char *now, char *out, size_t room) {
    size_t used = 0;

    out[0] = '\0';
    for (int way = 0; way < 2; way++) {
        struct value v = {.at = way ? before : now};
        while (next_value(&v)) {
            if (has_value(way ? now : before, &v) || strstr(out, v.key) || used >= room)
                continue;
            used += (size_t)snprintf(out + used, room - used, "%s%s", used ? ", " : "", v.key);
        }
    }
}

/* The text of the configuration is on the heap, the caller's. False: no memory. */
static bool measure(const struct tier_home *home, struct tier_measured *ran, char **text_out,
                    size_t *bytes_out) {
    char plugin[PATH_MAX] = "";

    *ran = (struct tier_measured){.kernels = {{0}}};
    file_hash("/proc/self/exe", &ran->binary);
    dl_iterate_phdr(find_plugin, plugin);
    if (*plugin)
        file_hash(plugin, &ran->kernels);
    FILE *to = open_memstream(text_out, bytes_out);
    if (!to)
        return false;
    tier_config_print(home->config, to);
    if (fclose(to) != 0 || !*text_out)
        return false;
    tier_hash_data(*text_out, *bytes_out, &ran->config);
    return true;
}

/* What it is told is in the log first: who has the log knows what its PCR must be. */
static enum tier_status open_tpm(struct tier_home *home, const struct tier_measured *ran,
                                 struct tier_err *err) {
    const struct tier_config *c = home->config;
    char dir[TIER_CONFIG_PATH_BYTES + 16];
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    struct tier_hash print;

    if (!*c->tpm_tcti || home->tpm)
        return TIER_OK;
    TIER_TRY(tier_tpm_open(c->tpm_tcti, (uint32_t)c->tpm_pcr, ran, &home->tpm, err));
    TIER_TRY(tier_attest_key(tier_tpm_key_pem(home->tpm), key, err));
    tier_hash_data(key, sizeof key, &print);
    snprintf(dir, sizeof dir, "%s/identity", c->data_dir);
    TIER_TRY(tier_pem_dir_make(dir, err));
    TIER_TRY(tier_pem_write(dir, "attest.pem", tier_tpm_key_pem(home->tpm), false, true, err));
    return tier_audit_note(home->audit, tier_wall_ms(), "tpm.measured", err, "u:pcr", c->tpm_pcr,
                           "h:key", &print, NULL);
}

enum tier_status tier_home_note_started(struct tier_home *home, struct tier_err *err) {
    char changed[1024] = "", kernels[TIER_HASH_HEX];
    struct tier_measured ran;
    struct tier_journal_blob before = {0};
    char *text = NULL;
    size_t bytes = 0;

    if (!measure(home, &ran, &text, &bytes)) {
        free(text);
        return tier_fail(err, TIER_ENOMEM, "no memory for the configuration");
    }
    enum tier_status st = tier_journal_kv_get(home->journal, CONFIG_KEY, &before, err);
    if (st == TIER_OK)
        changed_keys((const char *)before.data, text, changed, sizeof changed);
    if (st == TIER_OK || st == TIER_ENOTFOUND)
        st = tier_audit_note(home->audit, tier_wall_ms(), "node.started", err, "s:software",
                             CONSILIUM_VERSION, "h:binary", &ran.binary, "s:kernels",
                             tier_hash_is_zero(&ran.kernels) ? "in the program"
                                                             : tier_hash_hex(&ran.kernels, kernels),
                             "h:config", &ran.config, "s:changed", changed, NULL);
    if (st == TIER_OK)
        st = open_tpm(home, &ran, err);
    if (st == TIER_OK)
        st = tier_journal_kv_put(home->journal, CONFIG_KEY, text, bytes, err);
    tier_journal_blob_release(&before);
    free(text);
    return st;
}

/* ---- what it can show of that ---- */

void tier_home_attest(const struct tier_home *home, const struct tier_to_child *asked,
                      struct tier_from_child *reply) {
    const struct tier_attest_question question = {asked->run, asked->nonce, home->config->name,
                                                  home->config->parent_name};
    const struct tier_hash qualifier = tier_attest_qualifier(&question);
    struct tier_err err = {0};

    *reply =
        (struct tier_from_child){.type = TIER_FROM_QUOTE, .run = asked->run, .nonce = asked->nonce};
    if (!home->tpm)
        tier_fail(&err, TIER_EUNAVAILABLE, "no TPM is configured there (tpm.tcti)");
    else if (tier_tpm_quote(home->tpm, &qualifier, &reply->quote, &err) == TIER_OK)
        return;
    tier_log_error("run %.12s asks what runs here, by a TPM: %s",
                   tier_hash_hex(&asked->run, (char[TIER_HASH_HEX]){0}), err.text);
    snprintf(reply->reason, sizeof reply->reason, "%s", err.text);
}
