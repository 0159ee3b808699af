/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of the system run once, within bounds: no shell, no environment but the locale, nothing
 * of this process but the files it is given, as /dev/fd/3 and on, so that no name of a file is ever
 * an argument. What it writes to its standard output is taken; what it says on stderr is not.
 *
 * Threads: no shared state; a call blocks until the program has ended or is killed. The calling
 * process must not ignore SIGCHLD.
 */
#ifndef CONSILIUM_SPOKE_PROCESS_H
#define CONSILIUM_SPOKE_PROCESS_H

#include "tier/err.h"

#include <stdint.h>

#define SPOKE_PROCESS_FILES_MAX 4u

struct spoke_process {
    const char *const *argv; /* ends with NULL; argv[0] is looked for along PATH */
    int files[SPOKE_PROCESS_FILES_MAX];
    size_t files_count;
    size_t output_max;   /* bytes of its standard output; more ends it */
    uint64_t file_max;   /* bytes of a file it writes */
    uint64_t memory_max; /* bytes of address space */
    uint32_t timeout_ms;
};

/*
 * *output_out, malloc'ed, is the caller's, also where the program failed: *code_out is its exit
 * status. TIER_ENOTFOUND where there is no such program, TIER_ELIMIT where it took longer or
 * wrote more than it may, TIER_EIO where a signal ended it (one that wanted more memory, often).
 */
enum tier_status spoke_process_run(const struct spoke_process *process, int *code_out,
                                   uint8_t **output_out, size_t *bytes_out, struct tier_err *err);

#endif
