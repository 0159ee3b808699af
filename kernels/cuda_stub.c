/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In the place of cuda_loader.c where no CUDA toolkit was found at build time: there is no plugin,
 * and the reason says so.
 */
#include "kernels/backend.h"

#include <stdio.h>

const struct kern_ops *kern_cuda_load(const char *plugin_dir, char *why, size_t why_bytes) {
    (void)plugin_dir;
    snprintf(why, why_bytes, "this program was built without a CUDA toolkit");
    return NULL;
}
