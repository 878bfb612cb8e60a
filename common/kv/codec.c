/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.c - the table of row codecs.
 *
 * Sizes are known for all that travel by number, so that a header can be planned before it is refused; only `plain` rows
 * can be written and read.
 */
#include "common/kv/codec.h"

#include "common/base/bytes.h"
#include "common/base/text.h"

#include <string.h>

struct codec {
    const char *word;
    bool built;
    int bits;               /* of one channel; 0: as the dtype says */
    uint64_t extra_per_row; /* bytes for one row of K and one of V together */
};

static const struct codec codecs[] = {
    [KV_PLAIN] = { "plain", true, 0, 0 },
    [KV_INT8] = { "int8", false, 8, 8 },
    [KV_FP8] = { "fp8", false, 8, 8 },
    [KV_INT4] = { "int4", false, 4, 8 },
};

static const struct codec *codec_at(enum kv_codec codec)
{
    return (size_t)codec < ARRAY_LEN(codecs) ? &codecs[codec] : NULL;
}

const char *codec_word(enum kv_codec codec)
{
    const struct codec *c = codec_at(codec);

    return c ? c->word : "?";
}

bool codec_built(enum kv_codec codec)
{
    const struct codec *c = codec_at(codec);

    return c && c->built;
}

enum status codec_parse(const char *word, enum kv_codec *out, struct err *err)
{
    const char *names[ARRAY_LEN(codecs)];
    const char *near;

    if (!word || word[0] == '\0')
        word = "plain";
    for (size_t i = 0; i < ARRAY_LEN(codecs); i++) {
        names[i] = codecs[i].word;
        if (strcmp(word, codecs[i].word) != 0)
            continue;
        if (!codecs[i].built)
            return err_set(err, ST_EUNIMPLEMENTED, "kv `%s` is not built yet; built is: plain", word);
        *out = (enum kv_codec)i;
        return ST_OK;
    }
    near = text_nearest(word, names, ARRAY_LEN(names));
    if (near)
        return err_set(err, ST_EINVAL, "unknown kv `%.64s`; did you mean `%s`?", word, near);
    return err_set(err, ST_EINVAL, "unknown kv `%.64s`; there are plain, int8, fp8, int4", word);
}

uint64_t codec_row_bytes(enum kv_codec codec, enum dtype dtype, int32_t channels)
{
    const struct codec *c = codec_at(codec);

    if (c && c->bits > 0)
        return ((uint64_t)channels * (uint64_t)c->bits + 7) / 8;
    return (uint64_t)channels * (uint64_t)dtype_block_bytes(dtype);
}

uint64_t codec_extra_bytes(enum kv_codec codec, uint64_t rows)
{
    const struct codec *c = codec_at(codec);

    return c ? c->extra_per_row * rows : 0;
}
