/* SPDX-License-Identifier: Apache-2.0 */
/* NCCL by name. The library is never closed: it keeps threads of its own. */
#include "kernels/cuda/nccl_group.h"

#include <dlfcn.h>
#include <pthread.h>

static void *library;

static void load(void) {
    library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
}

void *kern_nccl_symbol(const char *name) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return library != NULL ? dlsym(library, name) : NULL;
}
