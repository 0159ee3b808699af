/* SPDX-License-Identifier: Apache-2.0 */
/* Which compilation of the deep-network operations this machine runs. */
#include "kernels/cpu/nn.h"

extern const struct kern_nn_ops kern_cpu_base_table;
#if defined(__x86_64__)
extern const struct kern_nn_ops kern_cpu_avx2_table;
#endif

struct kern_nn_ops kern_cpu_nn;
static const char *isa = "base";

void kern_cpu_nn_init(void) {
    kern_cpu_nn = kern_cpu_base_table;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        kern_cpu_nn = kern_cpu_avx2_table;
        isa = "avx2";
    }
#endif
}

void kern_cpu_nn_use_base(void) {
    kern_cpu_nn = kern_cpu_base_table;
    isa = "base";
}

const char *kern_cpu_nn_isa(void) {
    return isa;
}
