/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/backend.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

/* A table like a plugin's: the CPU's, with a probe of its own. */
static int devices;

static enum kern_status fake_probe(int *count_out, char *why, size_t why_bytes) {
    if (devices == 0) {
        snprintf(why, why_bytes, "nobody home");
        return KERN_ENODEV;
    }
    *count_out = devices;
    return KERN_OK;
}

static struct kern_ops fake(int count) {
    struct kern_ops ops = kern_cpu_ops;
    devices = count;
    ops.probe = fake_probe;
    return ops;
}

Test(kern_registry, a_backend_with_devices_is_found_by_name_number_and_auto) {
    struct kern_ops ops = fake(2);
    const struct kern_ops *found = NULL;
    int index = -1;
    kern_registry_set_cuda(&ops);
    cr_assert(kern_cuda_device_count() == 2);
    cr_assert(eq(str, (char *)kern_cuda_absent_reason(), ""));
    cr_assert(kern_registry_find("cuda:1", &found, &index) == KERN_OK);
    cr_assert(found == &ops && index == 1);
    cr_assert(kern_registry_find("cuda", &found, &index) == KERN_OK);
    cr_assert(found == &ops && index == 0);
    cr_assert(kern_registry_find("auto", &found, &index) == KERN_OK);
    cr_assert(found == &ops && index == 0);
    cr_assert(kern_registry_find("cpu", &found, &index) == KERN_OK);
    cr_assert(found == &kern_cpu_ops);
}

Test(kern_registry, a_device_number_beyond_the_last_is_refused) {
    struct kern_ops ops = fake(2);
    const struct kern_ops *found = NULL;
    int index = -1;
    kern_registry_set_cuda(&ops);
    cr_assert(kern_registry_find("cuda:2", &found, &index) == KERN_ENODEV);
    cr_assert(found == NULL && index == -1);
}

Test(kern_registry, a_backend_that_finds_no_device_leaves_its_reason) {
    struct kern_ops ops = fake(0);
    const struct kern_ops *found = NULL;
    int index = -1;
    kern_registry_set_cuda(&ops);
    cr_assert(eq(str, (char *)kern_cuda_absent_reason(), "cuda: nobody home"));
    cr_assert(kern_registry_find("cuda", &found, &index) == KERN_ENODEV);
    cr_assert(kern_registry_find("auto", &found, &index) == KERN_OK);
    cr_assert(found == &kern_cpu_ops);
}

Test(kern_registry, a_plugin_of_other_sources_is_never_called) {
    struct kern_ops abi = fake(1), size = fake(1);
    abi.abi++;
    size.bytes -= 8;
    kern_registry_set_cuda(&abi);
    cr_assert_not_null(strstr(kern_cuda_absent_reason(), "other sources"));
    kern_registry_set_cuda(&size);
    cr_assert_not_null(strstr(kern_cuda_absent_reason(), "other sources"));
    cr_assert(kern_cuda_device_count() == 0);
}

Test(kern_registry, init_finds_cuda_or_says_why_not_and_may_be_called_again) {
    kern_init("/nowhere");
    kern_init("/nowhere");
    cr_assert(kern_cuda_device_count() == 0);
    cr_assert(eq(int, strncmp(kern_cuda_absent_reason(), "cuda: ", 6), 0));
    struct kern_device *dev = NULL;
    cr_assert(kern_device_open("cpu", 0, &dev) == KERN_OK);
    kern_device_close(dev);
}
