/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which backends this process has. The state is written by kern_init, once and from one thread,
 * and only read afterwards; that is why it needs no lock. A process that never calls kern_init has
 * the CPU alone.
 */
#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    bool ready;
    const struct kern_ops *cuda;
    int cuda_count;
    char reason[KERN_TEXT_BYTES];
} registry = {.reason = "cuda: kern_init has not been called"};

bool kern_ops_fit(const struct kern_ops *ops) {
    return ops != NULL && ops->abi == KERN_BACKEND_ABI && ops->bytes == sizeof(struct kern_ops);
}

static void probe_cuda(const struct kern_ops *ops) {
    int count = 0;
    char why[KERN_TEXT_BYTES] = "";
    if (!kern_ops_fit(ops)) {
        snprintf(registry.reason, sizeof registry.reason,
                 "cuda: the plugin was built from other sources than this program");
        return;
    }
    if (ops->probe(&count, why, sizeof why) != KERN_OK || count < 1) {
        snprintf(registry.reason, sizeof registry.reason, "cuda: %.*s", KERN_TEXT_BYTES - 7,
                 why[0] != '\0' ? why : "the driver reports no device");
        return;
    }
    registry.cuda = ops;
    registry.cuda_count = count;
    registry.reason[0] = '\0';
}

void kern_init(const char *plugin_dir) {
    if (registry.ready) {
        return;
    }
    registry.ready = true;
    char why[KERN_TEXT_BYTES] = "";
    const struct kern_ops *ops = kern_cuda_load(plugin_dir, why, sizeof why);
    if (ops == NULL) {
        snprintf(registry.reason, sizeof registry.reason, "cuda: %.*s", KERN_TEXT_BYTES - 7, why);
        return;
    }
    probe_cuda(ops);
}

void kern_registry_set_cuda(const struct kern_ops *ops) {
    registry.ready = true;
    registry.cuda = NULL;
    registry.cuda_count = 0;
    probe_cuda(ops);
}

const char *kern_cuda_absent_reason(void) {
    return registry.reason;
}

int kern_cuda_device_count(void) {
    return registry.cuda_count;
}

/* "cuda:12" -> 12; false for anything but up to four digits. */
static bool parse_index(const char *text, int *out) {
    size_t len = strlen(text);
    if (len < 1 || len > 4 || strspn(text, "0123456789") != len) {
        return false;
    }
    *out = (int)strtol(text, NULL, 10);
    return true;
}

enum kern_status kern_registry_find(const char *spec, const struct kern_ops **ops_out,
                                    int *index_out) {
    int index = 0;
    bool is_auto = strcmp(spec, "auto") == 0;
    if (strcmp(spec, "cpu") == 0 || (is_auto && registry.cuda == NULL)) {
        *ops_out = &kern_cpu_ops;
        *index_out = 0;
        return KERN_OK;
    }
    if (!is_auto && strcmp(spec, "cuda") != 0) {
        if (strncmp(spec, "cuda:", 5) != 0 || !parse_index(spec + 5, &index)) {
            return KERN_EARG;
        }
    }
    if (registry.cuda == NULL || index >= registry.cuda_count) {
        return KERN_ENODEV;
    }
    *ops_out = registry.cuda;
    *index_out = index;
    return KERN_OK;
}
