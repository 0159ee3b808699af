/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recordings are CUDA graphs, captured from the context's stream. A graph holds addresses, of
 * arrays and of scratch alike, and the way products are computed: it is used no more once the
 * context has given any memory back, or products are others. Random draws alone change from launch
 * to launch: recorded ones read a number on the device, by which their seeds are turned. Nothing
 * waits and nothing is taken while a graph is captured; what tries to ends the capture, which is no
 * failure of the device.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/nn_kernels.h"

#include <stdlib.h>

struct recorded {
    cudaGraphExec_t exec;
    uint64_t given;
    enum kern_products products;
    bool draws;
};

enum kern_status kern_cuda_record_begin(struct kern_ctx *ctx) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    cuda->recording = true;
    cuda->drew = false;
    enum kern_status st = kern_cuda_check(
        cuda, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
    cuda->recording = st == KERN_OK;
    return st;
}

/* What the stream captured; the capture is over in any case. */
static enum kern_status instantiate(struct kern_cuda *cuda, cudaGraphExec_t *out) {
    cudaGraph_t graph = NULL;
    CUDA_TRY(cuda, cudaStreamEndCapture(cuda->stream, &graph), "cudaStreamEndCapture");
    enum kern_status st =
        kern_cuda_check(cuda, cudaGraphInstantiate(out, graph, 0), "cudaGraphInstantiate");
    (void)cudaGraphDestroy(graph);
    return st;
}

enum kern_status kern_cuda_record_end(struct kern_ctx *ctx, void **out) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    struct recorded *r = calloc(1, sizeof *r);
    cudaGraphExec_t exec = NULL;
    (void)cudaSetDevice(cuda->device);
    enum kern_status st = instantiate(cuda, &exec);
    cuda->recording = false;
    if (st != KERN_OK || r == NULL) {
        if (exec != NULL) {
            (void)cudaGraphExecDestroy(exec);
        }
        free(r);
        return st != KERN_OK ? st : KERN_ENOMEM;
    }
    *r = (struct recorded){exec, cuda->given, cuda->products, cuda->drew};
    *out = r;
    return KERN_OK;
}

bool kern_cuda_record_holds(struct kern_ctx *ctx, const void *record) {
    const struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct recorded *r = record;
    return r->given == cuda->given && r->products == cuda->products;
}

enum kern_status kern_cuda_replay(struct kern_ctx *ctx, void *record, uint64_t turn) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct recorded *r = record;
    ENTER(cuda);
    if (r->draws) {
        enum kern_status st = LAUNCH(cuda, kern_cu_put_turn, cuda->turn, turn);
        if (st != KERN_OK) {
            return st;
        }
    }
    return kern_cuda_check(cuda, cudaGraphLaunch(r->exec, cuda->stream), "cudaGraphLaunch");
}

/* A graph that is being run is freed when it is done. */
void kern_cuda_record_free(struct kern_ctx *ctx, void *record) {
    struct recorded *r = record;
    (void)cudaSetDevice(kern_cuda_of(ctx)->device);
    (void)cudaGraphExecDestroy(r->exec);
    free(r);
}
