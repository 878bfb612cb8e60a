/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode - the part after `;` works while tokens are generated.
 *
 *      ; decode:every=512,buffer=256 | SCORE | rows=2048         every 512 forward calls the cache is cut to 2048 rows
 *      ; decode:every=512,buffer=256 | SCORE | ratio=0.5         ... to half of the tokens seen so far
 *
 * Scores that look at queries see those of the last `buffer` calls (0: of the last call only).
 */
#include "common/base/bytes.h"
#include "presses/press.h"

struct decode_options {
    int64_t every, buffer;
};

static const struct opt decode_table[] = {
    { .name = "every",
      .type = OPT_INT,
      .offset = offsetof(struct decode_options, every),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "512",
      .help = "forward calls between compressions" },
    { .name = "buffer",
      .type = OPT_INT,
      .offset = offsetof(struct decode_options, buffer),
      .min = 0,
      .max = 65536,
      .fallback = "256",
      .help = "last calls whose queries a score may look at" },
};

static void decode_decode(const struct press_stage *stage, struct chain_decode *out)
{
    const struct decode_options *o = stage->options;

    out->every = o->every;
    out->buffer = o->buffer;
}

const struct press press_decode = {
    .name = "decode",
    .kind = PRESS_DECODE,
    .summary = "opens the part that compresses while tokens are generated",
    .source = "",
    .reference = "DecodingPress, CompressionRatioDecodingPress, PrefillDecodingPress",
    .cost = "the score's, every so many calls",
    .differs =
        "Rows stand in ascending position; from its second compression on the reference holds them by score, so "
        "streaming, "
        "lagkv, cur and snapkv's pooling see other neighbours there. Several questions may follow one context: each "
        "goes on from the context's own rows. adakv really drops rows.",
    .options = decode_table,
    .option_count = ARRAY_LEN(decode_table),
    .options_bytes = sizeof(struct decode_options),
    .decode = decode_decode,
};
