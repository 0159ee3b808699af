/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simt_parity SEED [no-nccl]: the CUDA backend, its own sources unchanged, over the engine: the
 * parity list, groups of 1, 2, 4 and 8 devices, copies beside the work, recordings, and every
 * failure a call may have. Without NCCL the driver has no memory pools either. Any finding of
 * the engine, any leak, and a run in which no kernel ran, fail.
 */
#include "kernels/backend.h"
#include "kernels/nn.h"
#include "tests/parity/parity.h"
#include "tests/simt/engine/control.h"

#include <stdlib.h>
#include <string.h>

const struct kern_ops *kern_plugin_ops_v1(uint32_t abi);

static int bad;

static void expect(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "simt_parity: FAILED %s\n", what);
        bad++;
    }
}

static void run_parity(void) {
    struct kern_device *dev = NULL;
    expect(kern_device_open("cuda:1", 1, &dev) == KERN_OK, "opening a device");
    if (dev != NULL) {
        expect(strcmp(kern_device_name(dev), "cuda:1 emulated device") == 0, "the device's name");
        bad += parity_run(dev, stdout);
    }
    kern_device_close(dev);
}

#define DEVICES PARITY_GROUP_MAX

static void run_groups(bool nccl) {
    struct kern_device *dev[DEVICES] = {NULL};
    char name[32], why[512] = "";
    bool open = true;
    for (int i = 0; i < DEVICES; i++) {
        snprintf(name, sizeof name, "cuda:%d", i);
        open = kern_device_open(name, 1, &dev[i]) == KERN_OK && open;
    }
    expect(open, "opening the devices");
    for (size_t count = 1; open && count <= DEVICES; count *= 2) {
        uint64_t before = simt_nccl_calls();
        if (!parity_group(dev, count, why, sizeof why)) {
            fprintf(stderr, "simt_parity: FAILED group of %zu: %s\n", count, why);
            bad++;
        }
        expect((simt_nccl_calls() > before) == (nccl && count > 1), "the way a sum goes");
    }
    for (int i = 0; i < DEVICES; i++) {
        kern_device_close(dev[i]);
    }
}

/* Two devices on one GPU are no ranks of NCCL: the sum goes by copies. */
static void run_one_gpu_twice(void) {
    struct kern_device *dev[2] = {NULL, NULL};
    char why[512] = "";
    bool open = kern_device_open("cuda:0", 1, &dev[0]) == KERN_OK &&
                kern_device_open("cuda:0", 1, &dev[1]) == KERN_OK;
    expect(open && parity_group(dev, 2, why, sizeof why), "a group of one GPU opened twice");
    kern_device_close(dev[0]);
    kern_device_close(dev[1]);
}

/* A GPU that has no products of bfloat16 says so; of binary16 it has. */
static void run_old_products(void) {
    struct kern_device *dev = NULL;
    simt_fail_at("turing", 1);
    expect(kern_device_open("cuda", 1, &dev) == KERN_OK, "opening an older device");
    expect(kern_device_products(dev, KERN_BF16) == KERN_ENODEV, "bfloat16 on an older device");
    expect(strstr(kern_device_error(dev), "Ampere") != NULL, "what would do is said");
    expect(kern_device_products(dev, KERN_F16) == KERN_OK, "binary16 on an older device");
    kern_device_close(dev);
}

#define BESIDE 64 /* kernels, and floats of a copy */

/* A copy beside the work is there before the work is done, and every copy is what its source was.
 */
static void run_beside(void) {
    struct kern_device *dev = NULL;
    struct kern_buf *work = NULL, *to = NULL;
    float back[8 * BESIDE];
    void *host = NULL;
    bool ok = kern_device_open("cuda", 1, &dev) == KERN_OK &&
              kern_buf_new(dev, BESIDE * 4, &work) == KERN_OK &&
              kern_buf_new(dev, sizeof back, &to) == KERN_OK && kern_sync(dev) == KERN_OK &&
              kern_host_new(dev, BESIDE * 4, &host) == KERN_OK;
    struct kern_vec w = {work, 0};
    uint64_t before = simt_kernels_run();
    for (size_t i = 0; ok && i < 8; i++) {
        for (int k = 0; ok && i == 1 && k < BESIDE; k++) {
            ok = kern_relu(w, w, BESIDE) == KERN_OK;
        }
        /* A larger copy now and then, for which the landing place has to grow. */
        size_t n = i % 3 == 2 ? BESIDE : BESIDE / 2;
        for (size_t k = 0; k < BESIDE; k++) {
            ((float *)host)[k] = (float)(i * BESIDE + k);
        }
        ok = kern_upload_beside(to, i * BESIDE * 4, host, n * 4) == KERN_OK &&
             kern_upload_wait(dev) == KERN_OK;
        /* The first one has its landing place to wait for. */
        expect(i != 1 || simt_kernels_run() - before < BESIDE, "a copy does not wait for the work");
    }
    expect(ok && kern_download(back, to, 0, sizeof back) == KERN_OK, "copies beside the work");
    for (size_t i = 0; ok && i < 8 * BESIDE; i++) {
        bool there = i % BESIDE < BESIDE / 2 || i / BESIDE % 3 == 2;
        expect(back[i] == (there ? (float)i : 0), "a copy is what its source was");
    }
    struct kern_memory memory = {0, 0};
    expect(kern_device_memory(dev, &memory) == KERN_OK && memory.bytes >= 9 * BESIDE * 4 &&
               memory.bytes_most >= memory.bytes,
           "memory in use");
    kern_buf_free(to);
    struct kern_memory less = {0, 0};
    expect(kern_device_memory(dev, &less) == KERN_OK && less.bytes == memory.bytes - sizeof back &&
               less.bytes_most == memory.bytes_most,
           "memory given back");
    kern_host_free(dev, host);
    kern_device_close(dev);
}

/* y = a * b (4 x 4), its squares' sum behind it, and a zero. */
static enum kern_status small_step(struct kern_buf *buf) {
    struct kern_vec y = {buf, 0}, a = {buf, 16}, b = {buf, 32}, sum = {buf, 48};
    enum kern_status st = kern_gemm(y, a, b, 4, 4, 4, false, false, 1, 0);
    st = st == KERN_OK ? kern_square_sum(sum, y, 16) : st;
    return st == KERN_OK ? kern_axpby(a, y, 16, 0.5f, 0.25f) : st;
}

static void put_small(struct kern_buf *buf) {
    float host[64];
    for (int i = 0; i < 64; i++) {
        host[i] = i < 48 ? (float)((i * 7) % 11) / 8 : 0;
    }
    expect(kern_upload(buf, 0, host, sizeof host) == KERN_OK, "an upload");
}

static void run_recordings(void) {
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL, *other = NULL;
    struct kern_recording *rec = NULL;
    float called[64], replayed[64];
    expect(kern_device_open("cuda:2", 1, &dev) == KERN_OK &&
               kern_buf_new(dev, 64 * 4, &buf) == KERN_OK &&
               kern_buf_new(dev, 64, &other) == KERN_OK,
           "opening a device");
    expect(kern_device_records(dev), "a GPU records");
    put_small(buf);
    for (int i = 0; i < 3; i++) {
        expect(small_step(buf) == KERN_OK, "a step");
    }
    expect(kern_download(called, buf, 0, sizeof called) == KERN_OK, "a download");
    put_small(buf);
    expect(kern_record_end(dev, &rec) == KERN_EARG, "the end of nothing");
    expect(kern_record_begin(dev) == KERN_OK && small_step(buf) == KERN_OK, "recording");
    expect(kern_upload(buf, 0, called, 4) == KERN_EARG &&
               kern_upload_beside(buf, 0, called, 4) == KERN_EARG &&
               kern_download(replayed, buf, 0, 4) == KERN_EARG && kern_sync(dev) == KERN_EARG &&
               kern_upload_wait(dev) == KERN_EARG && kern_buf_new(dev, 4, &other) == KERN_EARG &&
               kern_record_begin(dev) == KERN_EARG,
           "what is refused while a device records");
    expect(kern_record_end(dev, &rec) == KERN_OK, "the end of a recording");
    for (int i = 0; i < 3; i++) {
        expect(kern_replay(rec, 0) == KERN_OK, "a replay");
    }
    expect(kern_download(replayed, buf, 0, sizeof replayed) == KERN_OK &&
               memcmp(called, replayed, sizeof called) == 0,
           "recorded steps give the bits of called ones");
    expect(kern_device_products(dev, KERN_BF16) == KERN_OK && !kern_recording_holds(rec) &&
               kern_replay(rec, 0) == KERN_EARG,
           "a recording of other products");
    expect(kern_device_products(dev, KERN_EXACT) == KERN_OK && kern_recording_holds(rec),
           "the same products again");
    kern_buf_free(other);
    expect(!kern_recording_holds(rec) && kern_replay(rec, 0) == KERN_EARG,
           "a recording of memory that may be gone");
    kern_recording_free(rec);
    kern_recording_free(NULL);
    kern_device_close(dev);
}

/* A replay draws what a call with the turned seed would. */
static void run_recorded_draws(void) {
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL;
    struct kern_recording *rec = NULL;
    float called[64], replayed[64];
    expect(kern_device_open("cuda", 1, &dev) == KERN_OK &&
               kern_buf_new(dev, 128 * 4, &buf) == KERN_OK,
           "opening a device");
    struct kern_vec y = {buf, 0}, x = {buf, 64};
    for (int i = 0; i < 64; i++) {
        called[i] = (float)(i + 1);
    }
    expect(kern_upload(buf, 64 * 4, called, sizeof called) == KERN_OK, "an upload");
    expect(kern_record_begin(dev) == KERN_OK && kern_dropout(y, x, 64, 0.5f, 77) == KERN_OK &&
               kern_record_end(dev, &rec) == KERN_OK,
           "recording draws");
    for (uint64_t turn = 0; turn < 3; turn++) {
        expect(kern_dropout(y, x, 64, 0.5f, 77 ^ turn << 40) == KERN_OK &&
                   kern_download(called, buf, 0, sizeof called) == KERN_OK &&
                   kern_replay(rec, turn << 40) == KERN_OK &&
                   kern_download(replayed, buf, 0, sizeof replayed) == KERN_OK &&
                   memcmp(called, replayed, sizeof called) == 0,
               "recorded draws are those of the turned seed");
    }
    kern_recording_free(rec);
    kern_device_close(dev);
}

/* What cannot be recorded is refused, and the device lives on. */
static void run_record_failures(void) {
    static const char *const calls[] = {"cudaStreamEndCapture", "cudaGraphInstantiate", "launch",
                                        "cublasSgemm", "cudaStreamBeginCapture"};
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL;
    const struct kern_nd nd = {2, {4, 4}};
    expect(kern_device_open("cuda", 1, &dev) == KERN_OK &&
               kern_buf_new(dev, 64 * 4, &buf) == KERN_OK,
           "opening a device");
    put_small(buf);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct kern_recording *rec = NULL;
        simt_fail_at(calls[i], 1);
        enum kern_status st = kern_record_begin(dev);
        expect((st == KERN_OK) == (i < 4), calls[i]);
        if (st == KERN_OK) {
            enum kern_status step = small_step(buf), end = kern_record_end(dev, &rec);
            expect(step == KERN_EARG || end == KERN_EARG, calls[i]);
            expect((i < 2) == (end == KERN_EARG), calls[i]);
            kern_recording_free(rec);
        } else {
            expect(st == KERN_EARG, "a recording that does not begin");
        }
        expect(kern_device_error(dev)[0] != '\0', "a failed recording says why");
        expect(small_step(buf) == KERN_OK && kern_sync(dev) == KERN_OK, "the device lives on");
    }
    struct kern_recording *rec = NULL;
    struct kern_vec y = {buf, 0}, x = {buf, 16};
    expect(kern_record_begin(dev) == KERN_OK && kern_nd_reduce(y, x, &nd, 1, 1, false) == KERN_EARG,
           "scratch that a recording would have to take");
    expect(kern_record_end(dev, &rec) == KERN_OK, "the end of it");
    kern_recording_free(rec);
    expect(kern_nd_reduce(y, x, &nd, 1, 1, false) == KERN_OK, "called instead");
    expect(kern_record_begin(dev) == KERN_OK && kern_nd_reduce(y, x, &nd, 1, 1, false) == KERN_OK &&
               kern_record_end(dev, &rec) == KERN_OK && kern_replay(rec, 0) == KERN_OK,
           "recorded when the scratch is there");
    simt_fail_at("cudaGraphLaunch", 1);
    expect(kern_replay(rec, 0) == KERN_EDEVICE && kern_sync(dev) == KERN_EDEVICE,
           "a failed replay");
    kern_recording_free(rec);
    kern_device_close(dev);
}

static void run_open_failures(bool pools) {
    static const struct {
        const char *call;
        enum kern_status want;
    } at_open[] = {{"cudaStreamCreateWithFlags", KERN_ENOMEM},
                   {"cudaMalloc", KERN_ENOMEM},
                   {"cublasCreate", KERN_ENOMEM},
                   {"cudaEventCreateWithFlags", KERN_ENOMEM},
                   {"cudaMemPoolCreate", KERN_ENOMEM},
                   {"old device", KERN_ENODEV}};
    for (size_t i = 0; i < sizeof at_open / sizeof at_open[0]; i++) {
        struct kern_device *dev = NULL;
        if (!pools && strcmp(at_open[i].call, "cudaMemPoolCreate") == 0) {
            continue;
        }
        simt_fail_at(at_open[i].call, 1);
        expect(kern_device_open("cuda", 1, &dev) == at_open[i].want, at_open[i].call);
        expect(dev == NULL && kern_device_error(NULL)[0] != '\0', "a failed open says why");
    }
    struct kern_device *none = NULL;
    expect(kern_device_open("cuda:8", 1, &none) == KERN_ENODEV, "a ninth device");
}

/* A pool that keeps peers out is none: arrays are the driver's then, and counted all the same. */
static void run_closed_pool(void) {
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL;
    struct kern_memory memory = {0, 0};
    simt_fail_at("cudaMemPoolSetAccess", 3);
    expect(kern_device_open("cuda", 1, &dev) == KERN_OK && kern_device_error(dev)[0] == '\0',
           "a device whose pool keeps peers out");
    expect(kern_buf_new(dev, 1000, &buf) == KERN_OK &&
               kern_device_memory(dev, &memory) == KERN_OK && memory.bytes == 1000,
           "memory without a pool");
    kern_device_close(dev);
}

static enum kern_status one_step(struct kern_device *dev, struct kern_buf *buf) {
    struct kern_vec y = {buf, 0}, a = {buf, 16}, b = {buf, 32};
    float host[16];
    enum kern_status st = kern_relu(y, a, 16);
    st = st == KERN_OK ? kern_gemm(y, a, b, 4, 4, 4, false, false, 1, 0) : st;
    st = st == KERN_OK ? kern_zero(buf, 0, 8) : st;
    st = st == KERN_OK ? kern_download(host, buf, 0, sizeof host) : st;
    return st == KERN_OK ? kern_sync(dev) : st;
}

/* Whichever call fails, the operation says so and the device is finished. */
static void run_call_failures(void) {
    static const char *const calls[] = {"launch", "cublasSgemm", "cudaMemsetAsync",
                                        "cudaMemcpyAsync", "cudaStreamSynchronize"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct kern_device *dev = NULL;
        struct kern_buf *buf = NULL;
        bool open = kern_device_open("cuda", 1, &dev) == KERN_OK &&
                    kern_buf_new(dev, 64 * 4, &buf) == KERN_OK;
        expect(open && one_step(dev, buf) == KERN_OK, "a step without a failure");
        simt_fail_at(calls[i], 1);
        expect(open && one_step(dev, buf) == KERN_EDEVICE, calls[i]);
        expect(open && kern_device_error(dev)[0] != '\0', "a failed call says why");
        expect(open && kern_sync(dev) == KERN_EDEVICE, "a failed device stays failed");
        kern_device_close(dev);
    }
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL;
    expect(kern_device_open("cuda", 1, &dev) == KERN_OK, "opening a device");
    simt_fail_at("cudaMalloc", 1);
    expect(kern_buf_new(dev, 64, &buf) == KERN_ENOMEM, "no memory");
    expect(kern_buf_new(dev, 64, &buf) == KERN_OK, "memory again");
    kern_device_close(dev);
}

/* Deep networks: a failed product finishes the device; scratch that is not to be had is an answer,
 * after which there may be some again. */
static void run_nn_failures(void) {
    const struct kern_gemm_batch batch = {2, 16, 16, 16};
    const struct kern_nd nd = {2, {8, 8}};
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL;
    expect(kern_device_open("cuda", 1, &dev) == KERN_OK &&
               kern_buf_new(dev, 192 * 4, &buf) == KERN_OK,
           "opening a device");
    struct kern_vec y = {buf, 0}, a = {buf, 64}, b = {buf, 128};
    simt_fail_at("cudaMalloc", 1);
    expect(kern_nd_reduce(y, a, &nd, 1, 1, false) == KERN_ENOMEM, "no memory for scratch");
    expect(kern_device_error(dev)[0] != '\0', "no scratch says why");
    expect(kern_nd_reduce(y, a, &nd, 1, 1, false) == KERN_OK, "memory for scratch again");
    expect(kern_gemm_batch(y, a, b, 4, 4, 4, false, true, 1, 0, &batch) == KERN_OK, "products");
    simt_fail_at("cublasSgemmStridedBatched", 1);
    expect(kern_gemm_batch(y, a, b, 4, 4, 4, false, true, 1, 0, &batch) == KERN_EDEVICE,
           "a failed product");
    expect(kern_sync(dev) == KERN_EDEVICE, "a failed device stays failed");
    kern_device_close(dev);
}

static void open_two(struct kern_device **dev, struct kern_vec *part) {
    static const int64_t ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (int i = 0; i < 2; i++) {
        part[i].at = 0;
        expect(kern_device_open(i == 0 ? "cuda:2" : "cuda:3", 1, &dev[i]) == KERN_OK &&
                   kern_buf_new(dev[i], sizeof ones, &part[i].buf) == KERN_OK &&
                   kern_upload(part[i].buf, 0, ones, sizeof ones) == KERN_OK,
               "opening two devices");
    }
}

static bool no_link_send(void *arg, size_t from, size_t to, const void *bytes, size_t n) {
    (void)arg, (void)from, (void)to, (void)bytes, (void)n;
    return false;
}

static bool no_link_receive(void *arg, size_t from, size_t to, void *bytes, size_t n) {
    (void)arg, (void)from, (void)to, (void)bytes, (void)n;
    return false;
}

static void no_link_shut(void *arg) {
    (void)arg;
}

/* Two callers with a rank each, as two servers are; and that one is refused without NCCL. */
static void run_two_callers(bool nccl, bool spans) {
    struct kern_device *dev[2] = {NULL, NULL};
    struct kern_group *group[2] = {NULL, NULL};
    struct kern_group_id id;
    struct kern_vec part[2] = {{NULL, 0}, {NULL, 0}};
    int64_t sum = 0;
    open_two(dev, part);
    if (!nccl) {
        expect(kern_group_id_new(dev[0], &id) == KERN_ENODEV, "an id without NCCL");
    } else {
        bool ok = kern_group_id_new(dev[0], &id) == KERN_OK;
        for (size_t r = 0; r < 2; r++) {
            /* GPUs have NCCL and leave a link alone: these calls would end the group. */
            const struct kern_group_link link = {NULL, no_link_send, no_link_receive, no_link_shut};
            ok = ok && (spans ? kern_group_span(&id, &link, 2, r, &dev[r], 1, &group[r])
                              : kern_group_join(&id, 2, r, &dev[r], 1, &group[r])) == KERN_OK;
        }
        for (size_t r = 0; r < 2; r++) {
            ok = ok && kern_group_all_reduce(group[r], &part[r], 10, KERN_I64) == KERN_OK;
        }
        ok = ok && kern_download(&sum, part[1].buf, 72, sizeof sum) == KERN_OK;
        expect(ok && sum == 2, "a sum of two callers");
        kern_group_close(group[0]);
        kern_group_close(group[1]);
    }
    kern_device_close(dev[0]);
    kern_device_close(dev[1]);
}

static void run_nccl_failure(const char *call) {
    struct kern_device *dev[2] = {NULL, NULL};
    struct kern_group *group = NULL;
    struct kern_group_id id;
    struct kern_vec part[2];
    open_two(dev, part);
    simt_fail_at(call, 1);
    if (strcmp(call, "ncclAllReduce") != 0) {
        enum kern_status st =
            strcmp(call, "ncclCommInitAll") == 0
                ? kern_group_open(dev, 2, &group)
                : (kern_group_id_new(dev[0], &id), kern_group_join(&id, 2, 0, dev, 2, &group));
        expect(st == KERN_EDEVICE && group == NULL && kern_device_error(dev[0])[0] != '\0', call);
    } else {
        expect(kern_group_open(dev, 2, &group) == KERN_OK, "a group of two");
        expect(kern_group_all_reduce(group, part, 10, KERN_I64) == KERN_EDEVICE, call);
        expect(kern_sync(dev[0]) == KERN_EDEVICE && kern_sync(dev[1]) == KERN_EDEVICE,
               "a failed sum finishes every device of it");
        kern_group_close(group);
    }
    kern_device_close(dev[0]);
    kern_device_close(dev[1]);
}

static void run_abort(void) {
    struct kern_device *dev[2] = {NULL, NULL};
    struct kern_group *group = NULL;
    struct kern_vec part[2];
    open_two(dev, part);
    expect(kern_group_open(dev, 2, &group) == KERN_OK, "a group of two");
    kern_group_abort(group);
    expect(kern_group_all_reduce(group, part, 10, KERN_I64) == KERN_EGROUP, "a group aborted");
    expect(kern_sync(dev[0]) == KERN_OK, "its devices live on");
    kern_group_close(group);
    kern_device_close(dev[0]);
    kern_device_close(dev[1]);
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    bool nccl = argc < 3 || strcmp(argv[2], "no-nccl") != 0;
    simt_begin(seed, DEVICES, false);
    if (!nccl) {
        simt_without_nccl();
        simt_without_pools();
    }
    kern_registry_set_cuda(kern_plugin_ops_v1(KERN_BACKEND_ABI));
    expect(kern_plugin_ops_v1(KERN_BACKEND_ABI + 1) == NULL, "another ABI is refused");
    expect(kern_cuda_device_count() == DEVICES, "eight devices");
    run_parity();
    run_groups(nccl);
    run_one_gpu_twice();
    run_two_callers(nccl, false);
    run_two_callers(nccl, true);
    run_old_products();
    run_beside();
    run_recordings();
    run_recorded_draws();
    expect(simt_findings() == 0, "no finding before failures are injected");
    run_record_failures();
    run_open_failures(nccl);
    if (nccl) {
        run_closed_pool();
    }
    run_call_failures();
    run_nn_failures();
    if (nccl) {
        run_nccl_failure("ncclCommInitAll");
        run_nccl_failure("ncclAllReduce");
        run_nccl_failure("ncclCommInitRank");
        run_abort();
    }
    expect(simt_live_bytes() == 0, "all device memory is freed");
    expect(simt_findings_of("use-after-free") == 0 && simt_findings_of("bad-free") == 0,
           "nothing is freed in use");
    expect(simt_kernels_run() > 100, "kernels ran");
    printf("simt_parity: seed %llu, %llu kernels, %llu threads, %zu findings, %d failed\n",
           (unsigned long long)seed, (unsigned long long)simt_kernels_run(),
           (unsigned long long)simt_threads_run(), simt_findings(), bad);
    return bad == 0 ? 0 : 1;
}
