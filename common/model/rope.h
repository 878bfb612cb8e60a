/* SPDX-License-Identifier: Apache-2.0 */
/* rope.h - the rotary embedding's frequencies, for every scaling a family may ask for. Computed in fp32 step by step as
 * the reference does (equal to it but for one unit in the last place here and there). Host only; nothing waits. */
#ifndef PLATEN_MODEL_ROPE_H
#define PLATEN_MODEL_ROPE_H

#include "common/model/hparams.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The rotation that layer `layer` uses: h->rope, or h->rope_local where rope_is_local says so. Borrowed from `h`. */
const struct rope_params *rope_of_layer(const struct hparams *h, int32_t layer);

enum { ROPE_TABLES_MAX = 1 << 20 };

/* Whether the frequencies change with the length of the sequence (dynamic, longrope): then they must be asked for again
 * when the largest position grows. */
bool rope_varies(const struct rope_params *rope);

/* inv_freq[0 .. rope->dims / 2) and the factor that cos and sin are multiplied by, for a sequence whose largest position
 * is length - 1. Channel pair j of position t turns by the angle t * inv_freq[j]. Allocates nothing. */
void rope_freqs(const struct hparams *h, int32_t layer, int64_t length, float *inv_freq, float *attention_factor);

/* The tables of full layers, and of windowed ones where these have a base of their own, for sequences of up to length_max
 * positions (longer ones, and those past ROPE_TABLES_MAX tables, turn by the last). Allocates; the caller closes. */
void rope_tables_open(struct rope_tables *out, const struct hparams *h, int64_t length_max);
void rope_tables_close(struct rope_tables *t); /* zeroed is fine */

#ifdef __cplusplus
}
#endif
#endif
