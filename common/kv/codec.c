/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.c - the words of row codecs.
 */
#include "common/kv/codec.h"

#include "common/base/text.h"

#include <string.h>

static const char *const words[KV_CODECS] = {
    [KV_PLAIN] = "plain",
    [KV_INT8] = "int8",
    [KV_FP8] = "fp8",
    [KV_INT4] = "int4",
};

const char *codec_word(enum kv_codec codec)
{
    return (uint32_t)codec < KV_CODECS ? words[codec] : "?";
}

/* "plain, int8": those whose bit is set. */
static void list_words(struct text *out, uint32_t set)
{
    for (int i = 0; i < KV_CODECS; i++)
        if (set >> i & 1)
            text_printf(out, "%s%s", out->bytes > 0 ? ", " : "", words[i]);
}

enum status codec_parse(const char *word, enum kv_codec *out, struct err *err)
{
    struct text all = { 0 };
    const char *near;

    if (!word || word[0] == '\0')
        word = words[KV_PLAIN];
    for (int i = 0; i < KV_CODECS; i++)
        if (strcmp(word, words[i]) == 0) {
            *out = (enum kv_codec)i;
            return ST_OK;
        }
    near = text_nearest(word, words, KV_CODECS);
    list_words(&all, (1u << KV_CODECS) - 1);
    if (near)
        err_set(err, ST_EINVAL, "unknown kv `%.64s`; did you mean `%s`? There are %s", word, near, text_str(&all));
    else
        err_set(err, ST_EINVAL, "unknown kv `%.64s`; there are %s", word, text_str(&all));
    text_fini(&all);
    return ST_EINVAL;
}

enum status codec_admit(enum kv_codec codec, uint32_t built, const char *device, struct err *err)
{
    struct text all = { 0 };

    if (built >> (uint32_t)codec & 1)
        return ST_OK;
    list_words(&all, built);
    err_set(err, ST_EUNIMPLEMENTED, "kv `%s` is not built for %s; built is: %s", codec_word(codec), device,
            text_str(&all));
    text_fini(&all);
    return ST_EUNIMPLEMENTED;
}
