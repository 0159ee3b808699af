/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which patients' rows may be read, and for what: a table of consents, a list of those who have
 * opted out, or both. A row whose id neither allows is passed over while the data are opened: of a
 * table no other cell of it is looked at, of images no file is.
 *
 * The table is CSV with the header "id,purposes"; purposes are codes of governance.purpose (a
 * plan's), several with spaces between, or "*" for every plan, stated purpose or not. An id that is
 * not in the table allows nothing. The list has an id a line and no header; it outweighs the table.
 * Ids are compared as they are written. Messages name file and line and hold no id.
 *
 * Threads: immutable once loaded.
 */
#ifndef CONSILIUM_SPOKE_CONSENT_H
#define CONSILIUM_SPOKE_CONSENT_H

#include "tier/err.h"
#include "tier/plan.h"

#define SPOKE_CONSENTS_MAX (16u << 20)

struct spoke_consent;

/* Either path may be "" or NULL, not both. TIER_EDATA for the contents ("consent.csv:3: ..."),
 * TIER_ENOTFOUND and TIER_EIO for the files, TIER_ELIMIT for more than SPOKE_CONSENTS_MAX ids. */
enum tier_status spoke_consent_load(const char *table, const char *opt_out,
                                    struct spoke_consent **out, struct tier_err *err);
void spoke_consent_free(struct spoke_consent *consent);

/* Whether the rows of this id may be read for that purpose (enum tier_plan_purpose). NULL or "" is
 * a row that nobody can tell the patient of: no. */
bool spoke_consent_allows(const struct spoke_consent *consent, const char *id, int purpose);
/* Whether a file on the disk is another than was read: size, time, place; or cannot be seen. */
bool spoke_consent_changed(const struct spoke_consent *consent);

#endif
