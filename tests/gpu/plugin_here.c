/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of kernels/cuda_loader.c: the CUDA backend is linked in, there is no plugin to find.
 */
#include "kernels/backend.h"

const struct kern_ops *kern_plugin_ops_v1(uint32_t abi);

const struct kern_ops *kern_cuda_load(const char *plugin_dir, char *why, size_t why_bytes) {
    (void)plugin_dir;
    (void)why;
    (void)why_bytes;
    return kern_plugin_ops_v1(KERN_BACKEND_ABI);
}
