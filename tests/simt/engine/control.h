/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a test may tell and ask the engine, from C. Kinds of findings:
 *
 *   out-of-bounds use-after-free uninitialised misaligned not-device wrong-device bad-free
 *   race-global race-shared divergent-barrier exited-thread bad-mask inactive-lane
 *   divergent-collective deadlock bad-launch bad-stream copy-direction nccl-group bad-event
 *   bad-graph
 *
 * Threads: one.
 */
#ifndef CONSILIUM_SIMT_CONTROL_H
#define CONSILIUM_SIMT_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every order the engine chooses follows from the seed. Forgets all findings. */
void simt_begin(uint64_t seed, int devices, bool quiet);
/* The n-th call of this name from now on fails, once; "launch" names every kernel launch. */
void simt_fail_at(const char *call, unsigned n);
/* Calls of this name since the program began, failed ones among them. */
uint64_t simt_calls(const char *call);
/* NCCL cannot be loaded, from now on. */
void simt_without_nccl(void);
/* Devices have no memory pools, from now on. */
void simt_without_pools(void);
size_t simt_findings(void);
size_t simt_findings_of(const char *kind);
/* Bytes allocated on the devices and not freed. */
size_t simt_live_bytes(void);
/* Kernels run, and threads of theirs: a run that proves something has some. */
uint64_t simt_kernels_run(void);
uint64_t simt_threads_run(void);
/* Calls of a group that went through the stand-in for NCCL. */
uint64_t simt_nccl_calls(void);

#ifdef __cplusplus
}
#endif
#endif
