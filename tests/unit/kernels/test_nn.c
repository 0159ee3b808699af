/* SPDX-License-Identifier: Apache-2.0 */
/* A backend without the operations of kernels/nn.h; what they compute is tests/parity's. */
#include "kernels/backend.h"
#include "kernels/cpu/nn.h"
#include "tests/parity/parity.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

/* The CPU as a backend that has only what kern.h has. */
static struct kern_device *open_plain(void) {
    static struct kern_ops plain;
    struct kern_device *dev = NULL;
    plain = kern_cpu_ops;
    plain.nn = NULL;
    kern_registry_set_cuda(&plain);
    cr_assert(kern_device_open("cuda", 1, &dev) == KERN_OK);
    return dev;
}

Test(kern_nn, a_backend_without_the_operations_says_so) {
    struct kern_device *dev = open_plain();
    struct kern_buf *buf = NULL;
    struct kern_conv *conv = NULL;
    const struct kern_conv_shape shape = {1, 1, 1, 1, {1, {4}, {4}, {1}, {1}, {1}, {0}}, false};
    cr_assert(not(kern_has_nn(dev)));
    cr_assert(kern_buf_new(dev, 64, &buf) == KERN_OK);
    const struct kern_vec y = {buf, 0}, x = {buf, 4};
    cr_assert(kern_unary(KERN_EXP, y, x, 4, 0, 0) == KERN_ENODEV);
    cr_assert_not_null(strstr(kern_device_error(dev), "kern_unary: this device's backend"));
    cr_assert(kern_conv_new(dev, &shape, &conv) == KERN_ENODEV);
    cr_assert_null(conv);
    cr_assert(kern_relu(y, x, 4) == KERN_OK, "the device lives on");
    kern_device_close(dev);
}

Test(kern_nn, the_parity_runner_leaves_them_out_and_says_why) {
    struct kern_device *dev = open_plain();
    char *said = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&said, &bytes);
    cr_assert(eq(int, parity_run(dev, to), 0));
    fclose(to);
    cr_assert_not_null(strstr(said, "skipped"), "%s", said);
    cr_assert_not_null(strstr(said, "no operations of kernels/nn.h"), "%s", said);
    free(said);
    kern_device_close(dev);
}

Test(kern_nn, the_code_of_every_machine_can_be_asked_for) {
    struct kern_device *dev = NULL;
    cr_assert(kern_device_open("cpu", 1, &dev) == KERN_OK);
    cr_assert(kern_has_nn(dev));
    kern_cpu_nn_use_base();
    cr_assert(eq(str, (char *)kern_cpu_nn_isa(), "base"));
    kern_device_close(dev);
}
