/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small files that must be whole or not there, and secret ones that nobody else may read: keys and
 * certificates. Threads: no shared state; every call blocks on the disk.
 */
#ifndef CONSILIUM_TIER_PEM_FILE_H
#define CONSILIUM_TIER_PEM_FILE_H

#include "tier/err.h"

/* Makes the directory (mode 0700) and its parents; one that is there is fine. */
enum tier_status tier_pem_dir_make(const char *dir, struct tier_err *err);
/*
 * Writes DIR/NAME through a temporary file, fsync and rename, so that a kill leaves the old file or
 * the new one. Secret: mode 0600, else 0644. `replace` false: TIER_ECONFLICT where there is one.
 */
enum tier_status tier_pem_write(const char *dir, const char *name, const char *text, bool secret,
                                bool replace, struct tier_err *err);
/*
 * Reads DIR/NAME, at most TIER_PEM_BYTES_MAX; the text is on the heap (tier_secret_free). Secret:
 * TIER_EIDENTITY where group or others may read or write it, or it belongs to another user.
 * TIER_ENOTFOUND: there is none.
 */
enum tier_status tier_pem_read(const char *dir, const char *name, bool secret, char **text_out,
                               struct tier_err *err);
bool tier_pem_exists(const char *dir, const char *name);

#endif
