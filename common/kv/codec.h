/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.h - how rows are coded in a block: the words, what the numbers mean, and how many bytes they take.
 *
 *   plain   the cache's own dtype (f32 or bf16)
 *   int8    value = scale * code        code in -127 .. 127; a scale per row: largest |value| / 127
 *   fp8     value = scale * code        code is e4m3, at most 448; a scale per row: largest |value| / 448
 *   int4    value = least + step * code code in 0 .. 15; K: a pair per channel and 32 rows, V: a pair per row;
 *           channel j in the low half of byte j, channel j + ceil(channels / 2) in the high half
 *
 * Writing, all in f32, no operation fused with another:
 *
 *   int8    code = x * (127 / largest), rounded to the nearest, ties to even
 *   fp8     code = x * (448 / largest), rounded to the nearest e4m3, ties to even; 0x7f and 0xff are never written
 *   int4    least = the largest bf16 <= the smallest value, step = the smallest bf16 >= (largest - least) / 15,
 *           code = (x - least) * (1 / step), rounded to the nearest, ties to even, and cut to 0 .. 15;
 *           a pair is 4 bytes: step, then least
 *   A row (of int4's K: a channel of a group) that holds an infinity or a NaN gets a scale (step) of NaN and codes 0: it
 *   reads as NaN. One whose largest |value| (int4: largest - least) is below 2^-100 gets scale (step) 0 and codes 0.
 *
 * So |value - x| <= scale / 2 (int8), |x| / 16 + scale / 1024 (fp8), step / 2 (int4), but for rounding in f32. Keys differ
 * much between channels and little between neighbours, so that few bits do only along a channel; values do not (KIVI, Liu et
 * al. 2024, arXiv:2402.02750; KVQuant, Hooper et al. 2024, arXiv:2401.18079). Rows near the end are whole because they are
 * attended most (KIVI keeps 128 at most; 32 to 63 here). int8 per row: ZeroQuant, Yao et al. 2022, arXiv:2206.01861; e4m3:
 * Micikevicius et al. 2022, arXiv:2209.05433.
 */
#ifndef PLATEN_KV_CODEC_H
#define PLATEN_KV_CODEC_H

#include "common/base/status.h"
#include "common/kv/layout.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "plain"; "?" for a number that is none. */
const char *codec_word(enum kv_codec codec);

/* The codec a request names; "" and NULL mean plain. ST_EINVAL for an unknown word: names the nearest and those there are. */
enum status codec_parse(const char *word, enum kv_codec *out, struct err *err);

/* Whether a device called `device` has a codec; `built` has bit 1 << codec set for each that it has (backend_ops.codecs).
 * ST_EUNIMPLEMENTED names those that it has. */
enum status codec_admit(enum kv_codec codec, uint32_t built, const char *device, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
