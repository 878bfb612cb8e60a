/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.h - how rows are coded in a block: the words, and how many bytes a row and its extras take.
 *
 *   plain   rows in the cache's own dtype (f32 or bf16); no extras
 *   int8    one signed byte per channel; extras: f32 scale of every K row, then of every V row
 *   fp8     one e4m3 byte per channel; extras as int8
 *   int4    two channels per byte; extras not settled
 *
 * Only `plain` is built; the others are known by name, so that a request for one is told so and not called a typing error.
 */
#ifndef PLATEN_KV_CODEC_H
#define PLATEN_KV_CODEC_H

#include "common/base/status.h"
#include "common/kv/layout.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "plain"; "?" for a number that is none. */
const char *codec_word(enum kv_codec codec);
bool codec_built(enum kv_codec codec);

/* The codec a request names; "" and NULL mean plain. ST_EINVAL for an unknown word (names the nearest),
 * ST_EUNIMPLEMENTED for a known one that is not built. */
enum status codec_parse(const char *word, enum kv_codec *out, struct err *err);

/* Bytes of one row of `channels` channels. */
uint64_t codec_row_bytes(enum kv_codec codec, enum dtype dtype, int32_t channels);

/* Bytes of what the codec needs besides for `rows` rows of K and of V. */
uint64_t codec_extra_bytes(enum kv_codec codec, uint64_t rows);

#ifdef __cplusplus
}
#endif
#endif
