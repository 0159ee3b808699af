/* SPDX-License-Identifier: Apache-2.0 */
/* --help and the effective configuration, both written from the table of keys. */
#include "tier/config.h"

#include <string.h>

static const char *bounds_of(const struct tier_keys_item *key, char *buf, size_t bytes) {
    size_t used = 0;

    buf[0] = 0;
    if (key->type == TIER_KEYS_INT)
        snprintf(buf, bytes, "%.0f to %.0f", key->min, key->max);
    for (int i = 0; key->type == TIER_KEYS_CHOICE && key->choices[i] && used < bytes; i++)
        used += (size_t)snprintf(buf + used, bytes - used, "%s%s", i ? " | " : "", key->choices[i]);
    return buf;
}

static const char *placeholder_of(const struct tier_keys_item *key) {
    switch (key->type) {
    case TIER_KEYS_NAME:
        return "NAME";
    case TIER_KEYS_PATH:
        return "PATH";
    case TIER_KEYS_ADDRESS:
        return "HOST:PORT";
    case TIER_KEYS_INT:
    case TIER_KEYS_REAL:
        return "NUMBER";
    case TIER_KEYS_LIST:
        return "A,B,...";
    default:
        return "VALUE";
    }
}

void tier_config_help(enum tier_config_kind kind, const char *program, FILE *to) {
    size_t count;
    const struct tier_keys_item *keys = tier_config_keys(kind, &count);

    fprintf(to,
            "Usage: %s [--config FILE] [--KEY VALUE]...\n%s\n"
            "A key may be set in the YAML file, in the environment or as an option; an option\n"
            "wins over the environment, that over the file. Paths in the file are relative to it.\n"
            "\n"
            "  --config FILE           the YAML file; also CONSILIUM_CONFIG\n"
            "  --print-config          print the effective configuration and stop\n"
            "  --version               print the version and stop\n"
            "  --help                  print this and stop\n\n",
            program,
            kind == TIER_CONFIG_SPOKE
                ? "       consilium-spoke member --help: one more server of a spoke\n"
                : "");
    for (size_t i = 0; i < count; i++) {
        const struct tier_keys_item *key = &keys[i];
        char option[128], env[128], bounds[128];
        fprintf(to, "  %s %s\n      %s", tier_config_option_name(key->path, option, sizeof option),
                placeholder_of(key), key->help);
        if (*bounds_of(key, bounds, sizeof bounds))
            fprintf(to, "; %s", bounds);
        if (!key->value)
            fprintf(to, " (required)");
        else if (*key->value)
            fprintf(to, " (default %s)", key->value);
        fprintf(to, "\n      file: %s   environment: %s\n", key->path,
                tier_config_env_name(key->path, env, sizeof env));
    }
}

/* Double-quoted YAML; control characters cannot be in a value. */
static void print_quoted(const char *text, FILE *to) {
    fputc('"', to);
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fputc('\\', to);
        fputc(*p, to);
    }
    fputc('"', to);
}

static void print_value(const struct tier_keys_item *key, const struct tier_config *config,
                        FILE *to) {
    char buf[TIER_KEYS_TEXT_MAX];

    if (key->type == TIER_KEYS_LIST) {
        const struct tier_keys_list *list =
            (const struct tier_keys_list *)((const char *)config + key->offset);
        fputc('[', to);
        for (size_t i = 0; i < list->count; i++) {
            fputs(i ? ", " : "", to);
            print_quoted(tier_keys_list_item(list, i), to);
        }
        fputc(']', to);
        return;
    }
    tier_keys_text(key, config, buf, sizeof buf);
    if (key->type == TIER_KEYS_INT || key->type == TIER_KEYS_CHOICE ||
        key->type == TIER_KEYS_BOOL || key->type == TIER_KEYS_REAL)
        fputs(buf, to);
    else
        print_quoted(buf, to);
}

static void print_origin(const struct tier_config *config, size_t i, FILE *to) {
    static const char *const names[] = {"default", "file", "environment", "option"};

    fprintf(to, "  # %s", names[config->origin[i].source]);
    if (config->origin[i].source == TIER_CONFIG_FROM_FILE)
        fprintf(to, ", line %d", config->origin[i].line);
    fputc('\n', to);
}

void tier_config_print(const struct tier_config *config, FILE *to) {
    size_t count;
    const struct tier_keys_item *keys = tier_config_keys(config->kind, &count);
    char section[64] = "", text[TIER_KEYS_TEXT_MAX];

    if (*config->file)
        fprintf(to, "# file: %s\n", config->file);
    for (size_t i = 0; i < count; i++) {
        const char *dot = strchr(keys[i].path, '.');
        if (!*tier_keys_text(&keys[i], config, text, sizeof text))
            continue; /* absent */
        if (dot && (strncmp(section, keys[i].path, (size_t)(dot - keys[i].path)) != 0 ||
                    section[dot - keys[i].path])) {
            snprintf(section, sizeof section, "%.*s", (int)(dot - keys[i].path), keys[i].path);
            fprintf(to, "%s:\n", section);
        }
        fprintf(to, "%s%s: ", dot ? "  " : "", dot ? dot + 1 : keys[i].path);
        print_value(&keys[i], config, to);
        print_origin(config, i, to);
    }
}
