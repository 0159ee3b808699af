/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/kern.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdint.h>
#include <string.h>

/* One test asks for more memory than there is and wants to be told, under AddressSanitizer too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}

static struct kern_device *dev;
static struct kern_buf *buf;

static void open_cpu(void) {
    cr_assert(kern_device_open("cpu", 2, &dev) == KERN_OK);
    cr_assert(kern_buf_new(dev, 64 * sizeof(float), &buf) == KERN_OK);
}

static void close_cpu(void) {
    kern_device_close(dev);
}

TestSuite(kern, .init = open_cpu, .fini = close_cpu);

static struct kern_vec at(size_t i) {
    return (struct kern_vec){buf, i};
}

static struct kern_vec nowhere(void) {
    return (struct kern_vec){NULL, 0};
}

Test(kern, a_device_says_its_name_and_has_no_error_at_first) {
    cr_assert(eq(str, (char *)kern_device_name(dev), "cpu"));
    cr_assert(eq(str, (char *)kern_device_error(dev), ""));
}

Test(kern, a_device_of_no_known_kind_is_refused_with_the_kinds) {
    static const char *const wrong[] = {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct kern_device *other = dev;
        cr_assert(kern_device_open(wrong[i], 1, &other) == KERN_EARG, "%s", wrong[i]);
        cr_assert(other == dev);
        cr_assert_not_null(strstr(kern_device_error(NULL), "cuda:N"));
    }
}

Test(kern, threads_beyond_reason_are_refused) {
    struct kern_device *other = NULL;
    cr_assert(kern_device_open("cpu", -1, &other) == KERN_EARG);
    cr_assert(kern_device_open("cpu", 100000, &other) == KERN_EARG);
    cr_assert(kern_device_open(NULL, 1, &other) == KERN_EARG);
    cr_assert_null(other);
}

Test(kern, cuda_before_init_is_absent_with_a_reason) {
    struct kern_device *other = NULL;
    cr_assert(kern_device_open("cuda", 1, &other) == KERN_ENODEV);
    cr_assert(kern_cuda_device_count() == 0);
    cr_assert_not_null(strstr(kern_cuda_absent_reason(), "cuda: "));
}

Test(kern, auto_is_the_cpu_where_there_is_no_gpu) {
    struct kern_device *other = NULL;
    cr_assert(kern_device_open("auto", 1, &other) == KERN_OK);
    cr_assert(eq(str, (char *)kern_device_name(other), "cpu"));
    kern_device_close(other);
}

Test(kern, an_empty_buffer_is_refused) {
    struct kern_buf *none = NULL;
    cr_assert(kern_buf_new(dev, 0, &none) == KERN_EARG);
    cr_assert(kern_buf_new(NULL, 4, &none) == KERN_EARG);
    cr_assert_null(none);
}

Test(kern, more_memory_than_there_is_is_said_and_the_device_lives_on) {
    struct kern_buf *big = NULL;
    cr_assert(kern_buf_new(dev, SIZE_MAX / 8, &big) == KERN_ENOMEM);
    cr_assert_null(big);
    cr_assert(kern_relu(at(0), at(0), 64) == KERN_OK);
}

Test(kern, bytes_go_there_and_back) {
    char there[16] = "fifteen letters", back[16] = "";
    cr_assert(kern_upload(buf, 7, there, 16) == KERN_OK);
    cr_assert(kern_download(back, buf, 7, 16) == KERN_OK);
    cr_assert(eq(str, back, there));
}

Test(kern, bytes_beyond_a_buffer_are_refused) {
    char x[16] = "";
    size_t size = kern_buf_bytes(buf);
    cr_assert(kern_upload(buf, size - 15, x, 16) == KERN_EARG);
    cr_assert(kern_download(x, buf, size + 1, 0) == KERN_EARG);
    cr_assert(kern_zero(buf, SIZE_MAX, 2) == KERN_EARG);
    cr_assert(kern_copy(buf, 0, buf, 1, size) == KERN_EARG);
    cr_assert(kern_upload(buf, 0, NULL, 1) == KERN_EARG);
    cr_assert_not_null(strstr(kern_device_error(dev), "kern_copy"));
}

Test(kern, an_array_that_ends_with_its_buffer_is_taken_and_one_longer_refused) {
    cr_assert(kern_relu(at(4), at(4), 60) == KERN_OK);
    cr_assert(kern_relu(at(4), at(4), 61) == KERN_EARG);
    cr_assert_not_null(strstr(kern_device_error(dev), "kern_relu: y needs 61 elements at 4"));
    cr_assert(kern_relu(at(65), at(65), 1) == KERN_EARG);
    cr_assert(kern_relu(at(SIZE_MAX), at(0), 2) == KERN_EARG);
}

Test(kern, sizes_of_zero_and_sizes_that_overflow_are_refused) {
    cr_assert(kern_relu(at(0), at(0), 0) == KERN_EARG);
    cr_assert(kern_softmax(at(0), at(0), SIZE_MAX / 2, 4) == KERN_EARG);
    cr_assert(kern_gemm(at(0), at(8), at(16), 2, 2, 0, false, false, 1, 0) == KERN_EARG);
}

Test(kern, an_output_may_be_its_input_but_not_lie_across_it) {
    cr_assert(kern_add(at(0), at(0), at(8), 8) == KERN_OK);
    cr_assert(kern_add(at(1), at(0), at(9), 8) == KERN_EARG);
    cr_assert_not_null(strstr(kern_device_error(dev), "y overlaps a"));
}

Test(kern, a_product_may_not_overwrite_its_operand) {
    cr_assert(kern_gemm(at(0), at(8), at(16), 2, 2, 2, false, false, 1, 0) == KERN_OK);
    cr_assert(kern_gemm(at(8), at(8), at(16), 2, 2, 2, false, false, 1, 0) == KERN_EARG);
}

Test(kern, arrays_of_two_devices_are_refused) {
    struct kern_device *other = NULL;
    struct kern_buf *far = NULL;
    cr_assert(kern_device_open("cpu", 1, &other) == KERN_OK);
    cr_assert(kern_buf_new(other, 64, &far) == KERN_OK);
    cr_assert(kern_relu(at(0), (struct kern_vec){far, 0}, 4) == KERN_EARG);
    cr_assert(kern_copy(buf, 0, far, 0, 4) == KERN_EARG);
    kern_device_close(other);
}

Test(kern, a_missing_array_is_refused_where_it_is_needed) {
    cr_assert(kern_relu(nowhere(), at(0), 4) == KERN_EARG);
    cr_assert(kern_relu(at(0), nowhere(), 4) == KERN_EARG);
    cr_assert(kern_bce_logits(at(0), nowhere(), at(8), at(16), 8) == KERN_OK);
}

Test(kern, a_proximal_term_is_refused_below_zero_and_on_its_own_gradient) {
    cr_assert(kern_prox_grad(at(0), at(8), at(16), 8, 0.5f) == KERN_OK);
    cr_assert(kern_prox_grad(at(0), at(8), at(16), 8, -0.5f) == KERN_EARG);
    cr_assert(kern_prox_grad(at(0), at(8), at(16), 8, NAN) == KERN_EARG);
    cr_assert(kern_prox_grad(at(0), at(0), at(16), 8, 0.5f) == KERN_EARG);
}

Test(kern, a_stiff_proximal_term_is_refused_below_zero_and_on_its_own_gradient) {
    cr_assert(kern_stiff_grad(at(0), at(8), at(16), at(24), 8, 0.5f) == KERN_OK);
    cr_assert(kern_stiff_grad(at(0), at(8), at(8), at(16), 8, 0) == KERN_OK);
    cr_assert(kern_stiff_grad(at(0), at(8), at(16), at(24), 8, -0.5f) == KERN_EARG);
    cr_assert(kern_stiff_grad(at(0), at(8), at(16), at(24), 8, INFINITY) == KERN_EARG);
    cr_assert(kern_stiff_grad(at(0), at(8), at(16), at(0), 8, 0.5f) == KERN_EARG);
    cr_assert(kern_stiff_grad(at(0), at(8), at(16), nowhere(), 8, 0.5f) == KERN_EARG);
}

Test(kern, squares_are_not_added_to_what_is_squared) {
    cr_assert(kern_add_square(at(0), at(8), 8) == KERN_OK);
    cr_assert(kern_add_square(at(0), at(0), 8) == KERN_EARG);
    cr_assert(kern_add_square(at(0), nowhere(), 8) == KERN_EARG);
}

Test(kern, momentum_needs_an_array_to_live_in) {
    struct kern_sgd plain = {0.1f, 0, 0, false}, heavy = {0.1f, 0.9f, 0, false};
    cr_assert(kern_sgd_step(at(0), at(8), nowhere(), 8, &plain) == KERN_OK);
    cr_assert(kern_sgd_step(at(0), at(8), nowhere(), 8, &heavy) == KERN_EARG);
    cr_assert(kern_sgd_step(at(0), at(8), at(16), 8, &heavy) == KERN_OK);
}

Test(kern, adam_refuses_step_zero_and_a_beta_of_one) {
    struct kern_adam good = {0.1f, 0.9f, 0.999f, 1e-8f, 0, 1, false}, zero = good, one = good;
    zero.step = 0;
    one.beta2 = 1;
    cr_assert(kern_adam_step(at(0), at(8), at(16), at(24), 8, &good) == KERN_OK);
    cr_assert(kern_adam_step(at(0), at(8), at(16), at(24), 8, &zero) == KERN_EARG);
    cr_assert(kern_adam_step(at(0), at(8), at(16), at(24), 8, &one) == KERN_EARG);
    cr_assert(kern_adam_step(at(0), at(8), at(16), at(16), 8, &good) == KERN_EARG);
}

Test(kern, clipping_is_refused_without_a_bound) {
    cr_assert(kern_clip_norm(at(0), at(8), 8, 1) == KERN_OK);
    cr_assert(kern_clip_norm(at(0), at(8), 8, 0) == KERN_EARG);
    cr_assert(kern_clip_norm(at(0), at(7), 8, 1) == KERN_EARG);
    cr_assert(kern_clip_value(at(0), 8, 1) == KERN_OK);
    cr_assert(kern_clip_value(at(0), 8, NAN) == KERN_EARG);
    cr_assert(kern_axpby(at(0), at(8), 8, 1, 1) == KERN_OK);
    cr_assert(kern_axpby(at(0), at(0), 8, 1, 1) == KERN_EARG);
    cr_assert(kern_square_sum(at(8), at(0), 8) == KERN_OK);
    cr_assert(kern_square_sum(at(0), at(0), 8) == KERN_EARG);
}

Test(kern, a_fold_on_a_device_refuses_a_weight_beyond_31_bits) {
    cr_assert(kern_fold_f32_dev(at(0), at(16), at(16), 8, 10, 1) == KERN_OK);
    cr_assert(kern_fold_f32_dev(at(0), at(16), at(16), 8, 10, UINT32_C(1) << 31) == KERN_EARG);
    cr_assert(kern_fold_f32_dev(at(0), at(16), at(16), 8, 101, 1) == KERN_EARG);
}

Test(kern, scaling_multiplies_in_place) {
    const float two = 2;
    float back = 0;
    cr_assert(kern_upload(buf, 12, &two, sizeof two) == KERN_OK);
    cr_assert(kern_scale(at(3), 4, -1.5f) == KERN_OK);
    cr_assert(kern_download(&back, buf, 12, sizeof back) == KERN_OK);
    cr_assert(eq(flt, back, -3.0f));
    cr_assert(kern_scale(at(3), 62, 1) == KERN_EARG);
}

Test(kern, an_upload_may_start_from_host_memory_of_the_device) {
    void *host = NULL;
    char back[16] = "";
    cr_assert(kern_host_new(dev, 16, &host) == KERN_OK);
    memcpy(host, "fifteen letters", 16);
    cr_assert(kern_upload_start(buf, 8, host, 16) == KERN_OK);
    cr_assert(kern_upload_start(buf, kern_buf_bytes(buf) - 15, host, 16) == KERN_EARG);
    cr_assert(kern_download(back, buf, 8, 16) == KERN_OK);
    cr_assert(eq(str, back, (char *)host));
    kern_host_free(dev, host);
    kern_host_free(dev, NULL);
    cr_assert(kern_host_new(dev, 0, &host) == KERN_EARG);
}

Test(kern, an_upload_beside_the_work_is_there_for_what_comes_after) {
    void *host = NULL;
    char back[16] = "";
    cr_assert(kern_host_new(dev, 16, &host) == KERN_OK);
    for (int i = 0; i < 2; i++) {
        memcpy(host, i == 0 ? "fifteen letters" : "another fifteen", 16);
        cr_assert(kern_upload_beside(buf, 8, host, 16) == KERN_OK);
        cr_assert(kern_upload_wait(dev) == KERN_OK);
        cr_assert(kern_download(back, buf, 8, 16) == KERN_OK);
        cr_assert(eq(str, back, (char *)host));
    }
    cr_assert(kern_upload_beside(buf, kern_buf_bytes(buf) - 15, host, 16) == KERN_EARG);
    cr_assert(kern_upload_beside(NULL, 0, host, 16) == KERN_EARG);
    cr_assert(kern_upload_wait(NULL) == KERN_EARG);
    kern_host_free(dev, host);
}

Test(kern, memory_is_counted_and_its_highest_mark_kept) {
    struct kern_memory before, most, after;
    struct kern_buf *more = NULL;
    cr_assert(kern_device_memory(dev, &before) == KERN_OK);
    cr_assert(before.bytes >= kern_buf_bytes(buf));
    cr_assert(kern_buf_new(dev, 1 << 20, &more) == KERN_OK);
    cr_assert(kern_device_memory(dev, &most) == KERN_OK);
    cr_assert(eq(u64, most.bytes, before.bytes + (1 << 20)));
    kern_buf_free(more);
    cr_assert(kern_device_memory(dev, &after) == KERN_OK);
    cr_assert(eq(u64, after.bytes, before.bytes));
    cr_assert(eq(u64, after.bytes_most, most.bytes));
    cr_assert(kern_device_memory(NULL, &after) == KERN_EARG);
    cr_assert(kern_device_memory(dev, NULL) == KERN_EARG);
}

Test(kern, a_device_without_recordings_refuses_them) {
    struct kern_recording *recording = NULL;
    cr_assert(not(kern_device_records(dev)));
    cr_assert(kern_record_begin(dev) == KERN_EARG);
    cr_assert(kern_record_end(dev, &recording) == KERN_EARG);
    cr_assert(kern_record_begin(NULL) == KERN_EARG);
    cr_assert(kern_replay(NULL, 0) == KERN_EARG);
    kern_recording_free(NULL);
}

Test(kern, products_of_half_precisions_round_what_they_multiply) {
    const float a = 1.00390625f, one = 1; /* 1 + 2^-8: a tie between two bfloat16, 1 is even */
    float back[3] = {0, 0, 0};
    static const enum kern_products kinds[3] = {KERN_EXACT, KERN_BF16, KERN_F16};
    cr_assert(kern_upload(buf, 64, &a, sizeof a) == KERN_OK);
    cr_assert(kern_upload(buf, 128, &one, sizeof one) == KERN_OK);
    for (int i = 0; i < 3; i++) {
        cr_assert(kern_device_products(dev, kinds[i]) == KERN_OK);
        cr_assert(kern_gemm(at(0), at(16), at(32), 1, 1, 1, false, false, 1, 0) == KERN_OK);
        cr_assert(kern_download(&back[i], buf, 0, sizeof back[i]) == KERN_OK);
    }
    cr_assert(eq(flt, back[0], a));
    cr_assert(eq(flt, back[1], 1.0f));
    cr_assert(eq(flt, back[2], a));
    cr_assert(kern_device_products(dev, (enum kern_products)4) == KERN_EARG);
    cr_assert(kern_device_products(dev, KERN_EXACT) == KERN_OK);
}

Test(kern, buffers_left_open_are_freed_with_their_device) {
    struct kern_device *other = NULL;
    struct kern_buf *a = NULL, *b = NULL, *c = NULL;
    cr_assert(kern_device_open("cpu", 1, &other) == KERN_OK);
    cr_assert(kern_buf_new(other, 10, &a) == KERN_OK);
    cr_assert(kern_buf_new(other, 10, &b) == KERN_OK);
    cr_assert(kern_buf_new(other, 10, &c) == KERN_OK);
    kern_buf_free(b);
    kern_device_close(other);
    kern_buf_free(NULL);
    kern_device_close(NULL);
}

Test(kern, one_thread_and_five_give_the_same_bits) {
    enum { M = 430, N = 37, K = 90, BYTES = (M * K + K * N + M * N + 1) * 4 };
    static float host[M * K + K * N + M * N + 1], out[2][M * N + 1];
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
        host[i] = (float)(i * 7919 % 1000) / 1000 - 0.5f;
    }
    for (int k = 0; k < 2; k++) {
        struct kern_device *d = NULL;
        struct kern_buf *all = NULL;
        cr_assert(kern_device_open("cpu", k == 0 ? 1 : 5, &d) == KERN_OK);
        cr_assert(kern_buf_new(d, BYTES, &all) == KERN_OK);
        struct kern_vec a = {all, 0}, b = {all, M * K}, y = {all, M * K + K * N};
        struct kern_vec loss = {all, M * K + K * N + M * N};
        cr_assert(kern_upload(all, 0, host, BYTES) == KERN_OK);
        cr_assert(kern_gemm(y, a, b, M, N, K, false, false, 1, 0) == KERN_OK);
        cr_assert(kern_bce_logits(loss, nowhere(), y, y, M * N) == KERN_OK);
        cr_assert(kern_download(out[k], all, (M * K + K * N) * 4, sizeof out[k]) == KERN_OK);
        kern_device_close(d);
    }
    cr_assert(memcmp(out[0], out[1], sizeof out[0]) == 0);
}
