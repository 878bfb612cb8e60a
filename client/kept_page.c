/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept_page.c - kept positions as one HTML page that needs nothing else.
 *
 *   heatmap.html (inside the program)  =  head · DATA · tail         page = head · JSON · tail
 *
 * The JSON holds a bitmap per layer and head (bit i%8 of byte i/8, base64) and every token's text. The context is
 * somebody's text: `<` is written as an escape, so that nothing in it can end the script.
 */
#include "client/kept.h"

#include "common/base/arena.h"
#include "common/base/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* heatmap.html with a NUL at its end, put into the program by CMakeLists.txt. */
extern const char heatmap_page[];

static const char marker[] = "/*DATA*/null";

static void base64(struct text *out, const uint8_t *bytes, size_t count)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < count; i += 3) {
        size_t left = count - i;
        uint32_t v =
            (uint32_t)bytes[i] << 16 | (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) | (left > 2 ? bytes[i + 2] : 0);
        char four[4] = { digit[v >> 18], digit[v >> 12 & 63], '=', '=' };

        if (left > 1)
            four[2] = digit[v >> 6 & 63];
        if (left > 2)
            four[3] = digit[v & 63];
        text_add(out, four, sizeof four);
    }
}

static void bitmaps(struct text *out, const struct kept *k)
{
    size_t bytes = (size_t)(k->tokens + 7) / 8;
    uint8_t *map = mem_zero(bytes, 1);

    for (int32_t l = 0; l < k->layers; l++) {
        const struct kept_layer *layer = &k->layer[l];

        text_puts(out, l > 0 ? ",\n[" : "[");
        for (int32_t g = 0; g < k->heads; g++) {
            memset(map, 0, bytes);
            for (int64_t i = layer->first[g]; i < layer->first[g + 1]; i++)
                map[layer->token[i] / 8] |= (uint8_t)(1u << layer->token[i] % 8);
            text_puts(out, g > 0 ? ",\"" : "\"");
            base64(out, map, bytes);
            text_puts(out, "\"");
        }
        text_puts(out, "]");
    }
    free(map);
}

static void word(struct text *out, const char *s, size_t bytes)
{
    struct text plain = { 0 };

    text_json(&plain, s, bytes);
    for (const char *at = text_str(&plain), *end = at + plain.bytes; at < end;) {
        size_t run = strcspn(at, "<"); /* JSON holds no NUL */

        text_add(out, at, run);
        at += run;
        if (at < end) {
            text_puts(out, "\\u003c");
            at++;
        }
    }
    text_fini(&plain);
}

static void json(struct text *out, const struct kept_report *r)
{
    const struct kept *k = r->kept;

    text_puts(out, "{\"model\":");
    word(out, r->model, strlen(r->model));
    text_puts(out, ",\"press\":");
    word(out, r->press, strlen(r->press));
    text_printf(out, ",\"tokens\":%lld,\"layers\":%d,\"heads\":%d,\"query\":%lld,\n\"rows\":[", (long long)k->tokens,
                k->layers, k->heads, (long long)r->query_tokens);
    bitmaps(out, k);
    text_puts(out, "],\n\"ids\":[");
    for (size_t i = 0; i < r->ids->count; i++)
        text_printf(out, "%s%d", i > 0 ? "," : "", r->ids->ids[i]);
    text_puts(out, "],\n\"pieces\":[");
    for (size_t i = 0; i < r->ids->count; i++) {
        const char *piece = "";
        size_t bytes = tokenizer_piece(r->tokenizer, r->ids->ids[i], &piece);

        if (i > 0)
            text_puts(out, ",");
        word(out, piece, bytes);
    }
    text_puts(out, "]}");
}

enum status kept_page(const struct kept_report *r, const char *path, struct err *err)
{
    const char *at = strstr(heatmap_page, marker);
    struct text page = { 0 };
    FILE *f = fopen(path, "w");
    enum status st = ST_OK;

    if (!f)
        return err_set(err, ST_EINVAL, "%s: %s", path, strerror(errno));
    text_add(&page, heatmap_page, (size_t)(at - heatmap_page));
    json(&page, r);
    text_puts(&page, at + sizeof marker - 1);
    fwrite(text_str(&page), 1, page.bytes, f);
    if (ferror(f) | fclose(f))
        st = err_set(err, ST_EINVAL, "%s: cannot write all of the page", path);
    text_fini(&page);
    return st;
}
