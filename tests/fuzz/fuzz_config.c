/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command line and an environment, both cut from the input at its line breaks: lines that begin
 * with CONSILIUM_ are variables, the others arguments. No file is opened: --config and
 * CONSILIUM_CONFIG are dropped. For libFuzzer or, with replay.c, over files.
 */
#include "tier/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static struct tier_config config;
    char *argv[32] = {"fuzz"}, *envp[32] = {0}, *line, *rest;
    int argc = 1, variables = 0;
    struct tier_err err;
    char *text = malloc(bytes + 1);

    if (!text)
        return 0;
    memcpy(text, data, bytes);
    text[bytes] = 0;
    rest = text;
    while ((line = strsep(&rest, "\n")) && argc < 31 && variables < 31) {
        if (strncmp(line, "CONSILIUM_CONFIG", 16) == 0 || strncmp(line, "--config", 8) == 0)
            continue;
        if (strncmp(line, "CONSILIUM_", 10) == 0)
            envp[variables++] = line;
        else
            argv[argc++] = line;
    }
    tier_log_init("fuzz", TIER_LOG_ERROR);
    for (int kind = 0; kind < 2; kind++)
        if (tier_config_load((enum tier_config_kind)kind, argc, argv, envp, &config, NULL, &err) ==
                TIER_OK &&
            config.action == TIER_CONFIG_RUN && !*config.name)
            abort(); /* a required key cannot be empty */
    free(text);
    return 0;
}
