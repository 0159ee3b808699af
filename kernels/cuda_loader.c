/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the CUDA plugin. The driver's libcuda.so.1 is asked for first, by itself: a machine without
 * one is the ordinary case, and there the plugin (which brings cuBLAS, some 150 MB resident) must
 * not be loaded at all. Neither library is ever closed: both keep threads and thread-local data.
 */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PLUGIN_FILE "libconsilium-cuda.so"

/* The folder of the running program, without a trailing slash. */
static bool program_dir(char *out, size_t bytes) {
    ssize_t n = readlink("/proc/self/exe", out, bytes - 1);
    if (n <= 0) {
        return false;
    }
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL) {
        return false;
    }
    *slash = '\0';
    return true;
}

static const struct kern_ops *load(const char *path, char *why, size_t why_bytes) {
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        snprintf(why, why_bytes, "the plugin does not load (%.180s)", dlerror());
        return NULL;
    }
    kern_plugin_fn entry = NULL;
    /* POSIX's own idiom: a data pointer read as a function pointer. */
    *(void **)&entry = dlsym(lib, KERN_PLUGIN_SYMBOL);
    const struct kern_ops *ops = entry != NULL ? entry(KERN_BACKEND_ABI) : NULL;
    if (ops == NULL) {
        snprintf(why, why_bytes, "%.120s is not a plugin of this program's kind", path);
        dlclose(lib);
    }
    return ops;
}

const struct kern_ops *kern_cuda_load(const char *plugin_dir, char *why, size_t why_bytes) {
    if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) == NULL) {
        snprintf(why, why_bytes, "no NVIDIA driver on this machine (%.180s)", dlerror());
        return NULL;
    }
    char dir[PATH_MAX], path[PATH_MAX + 64];
    if (plugin_dir != NULL) {
        snprintf(path, sizeof path, "%s/" PLUGIN_FILE, plugin_dir);
        return load(path, why, why_bytes);
    }
    if (!program_dir(dir, sizeof dir)) {
        snprintf(why, why_bytes, "the program's own folder cannot be found; name the plugin's");
        return NULL;
    }
    snprintf(path, sizeof path, "%s/../lib/consilium/" PLUGIN_FILE, dir);
    if (access(path, R_OK) != 0) {
        snprintf(path, sizeof path, "%s/../lib/" PLUGIN_FILE, dir);
    }
    return load(path, why, why_bytes);
}
