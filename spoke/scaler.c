/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/scaler.h"

struct spoke_scaler spoke_scaler_start(void) {
    return (struct spoke_scaler){.scale = SPOKE_SCALE_START};
}

bool spoke_scaler_note(struct spoke_scaler *s, bool finite) {
    if (!finite) {
        s->scale = s->scale > SPOKE_SCALE_LEAST ? s->scale / 2 : s->scale;
        s->row = 0;
        s->skipped++;
        return false;
    }
    if (++s->row == SPOKE_SCALE_STEPS) {
        s->scale = s->scale < SPOKE_SCALE_MOST ? s->scale * 2 : s->scale;
        s->row = 0;
    }
    return true;
}
