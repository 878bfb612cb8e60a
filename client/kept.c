/* SPDX-License-Identifier: Apache-2.0 */
/* kept.c - kept positions as JSON and as lines with a strip per layer; the page is kept_page.c's. */
#include "client/kept.h"

#include "common/base/arena.h"
#include "common/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STRIP_COLUMNS = 64 };

void kept_open(struct kept *k, int32_t layers, int32_t heads, int64_t tokens)
{
    k->layers = layers;
    k->heads = heads;
    k->tokens = tokens;
    k->layer = mem_zero((size_t)layers, sizeof *k->layer);
}

void kept_close(struct kept *k)
{
    for (int32_t l = 0; l < k->layers; l++) {
        free(k->layer[l].token);
        free(k->layer[l].score);
    }
    free(k->layer);
    memset(k, 0, sizeof *k);
}

enum status kept_take(struct kept *k, int32_t layer, struct press_run *run, const struct press_result *result,
                      struct err *err)
{
    struct kept_layer *l = &k->layer[layer];

    memcpy(l->first, result->first, ((size_t)k->heads + 1) * sizeof *l->first);
    l->token = mem_zero((size_t)l->first[k->heads] + 1, sizeof *l->token);
    return press_run_tokens(run, result, l->token, err);
}

void kept_scores(struct kept *k, int32_t layer, struct backend *be, const struct press_result *result)
{
    const struct kv_rows *view = &result->view;
    const uint64_t rows = (uint64_t)view->at[view->heads];
    float *score, *to;
    int32_t *token;

    if (!result->score)
        return;
    score = mem_zero((size_t)rows + 1, sizeof *score);
    token = mem_zero((size_t)rows + 1, sizeof *token);
    be->ops->download(be, LANE_PRESS, score, result->score, rows * sizeof *score);
    if (view->token)
        be->ops->download(be, LANE_PRESS, token, view->token, rows * sizeof *token);
    be->ops->wait(be, LANE_PRESS);
    to = k->layer[layer].score = mem_zero((size_t)(k->heads * k->tokens) + 1, sizeof *to);
    for (int64_t i = 0; i < k->heads * k->tokens; i++)
        to[i] = NAN;
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t r = 0; r < view->rows[g]; r++)
            to[g * k->tokens + (view->token ? token[view->at[g] + r] : r)] = score[view->at[g] + r];
    free(score);
    free(token);
}

void kept_window(struct kept *k, int32_t layer, int64_t window)
{
    struct kept_layer *l = &k->layer[layer];
    int64_t rows = window < k->tokens ? window : k->tokens;

    l->token = mem_zero((size_t)(rows * k->heads) + 1, sizeof *l->token);
    for (int32_t g = 0; g < k->heads; g++) {
        l->first[g + 1] = (g + 1) * rows;
        for (int64_t i = 0; i < rows; i++)
            l->token[g * rows + i] = (int32_t)(k->tokens - rows + i);
    }
}

static void json_list(struct text *out, const int32_t *value, int64_t count)
{
    text_puts(out, "[");
    for (int64_t i = 0; i < count; i++)
        text_printf(out, "%s%d", i > 0 ? "," : "", value[i]);
    text_puts(out, "]");
}

/* JSON has no number for infinities and NaN: null. */
static void json_float(struct text *out, float value)
{
    if (isfinite(value))
        text_printf(out, "%.9g", (double)value);
    else
        text_puts(out, "null");
}

static void json_scores(struct text *out, const float *score, int64_t count)
{
    text_puts(out, "[");
    for (int64_t i = 0; i < count; i++) {
        text_puts(out, i > 0 ? "," : "");
        json_float(out, score[i]);
    }
    text_puts(out, "]");
}

static void json_layers(struct text *out, const struct kept *k)
{
    text_puts(out, "\"layers\":[");
    for (int32_t l = 0; l < k->layers; l++) {
        const struct kept_layer *layer = &k->layer[l];

        text_puts(out, l > 0 ? ",{\"heads\":[" : "{\"heads\":[");
        for (int32_t g = 0; g < k->heads; g++) {
            if (g > 0)
                text_puts(out, ",");
            json_list(out, layer->token + layer->first[g], layer->first[g + 1] - layer->first[g]);
        }
        for (int32_t g = 0; layer->score && g < k->heads; g++) {
            text_puts(out, g > 0 ? "," : "],\"scores\":[");
            json_scores(out, layer->score + g * k->tokens, k->tokens);
        }
        text_puts(out, "]}");
    }
    text_puts(out, "]");
}

struct logit {
    int32_t id;
    float value;
};

/* Largest first; equal ones by id; NaN, which is not larger than anything, last. */
static int logit_order(const void *a, const void *b)
{
    const struct logit *x = a, *y = b;

    if (isnan(x->value) != isnan(y->value))
        return isnan(x->value) ? 1 : -1;
    if (!isnan(x->value) && x->value != y->value)
        return x->value < y->value ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void json_logits(struct text *out, const struct kept_report *r)
{
    struct logit *all = mem_zero((size_t)r->vocab, sizeof *all);

    for (int32_t i = 0; i < r->vocab; i++)
        all[i] = (struct logit){ i, r->logits[i] };
    qsort(all, (size_t)r->vocab, sizeof *all, logit_order);
    text_puts(out, ",\"logits\":[");
    for (int32_t i = 0; i < r->logit_count; i++) {
        text_printf(out, "%s[%d,", i > 0 ? "," : "", all[i].id);
        json_float(out, all[i].value);
        text_puts(out, "]");
    }
    text_puts(out, "]");
    free(all);
}

void kept_json(const struct kept_report *r)
{
    struct text out = { 0 };

    text_puts(&out, "{\"model\":");
    text_json(&out, r->model, strlen(r->model));
    text_puts(&out, ",\"press\":");
    text_json(&out, r->press, strlen(r->press));
    text_printf(&out, ",\"tokens\":%lld,\"query_tokens\":%lld,\"dropped_bytes\":%lld,\"truncated_tokens\":%lld,",
                (long long)r->kept->tokens, (long long)r->query_tokens, (long long)r->dropped_bytes,
                (long long)r->truncated_tokens);
    json_layers(&out, r->kept);
    if (r->show_ids) {
        text_puts(&out, ",\"ids\":");
        json_list(&out, r->ids->ids, (int64_t)r->ids->count);
    }
    if (r->logits)
        json_logits(&out, r);
    text_puts(&out, "}\n");
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
}

/* The share of a stretch of positions that the layer's heads kept, as one character. */
static void strip(const struct kept *k, const struct kept_layer *l, char out[STRIP_COLUMNS + 1])
{
    static const char shade[] = " .:-=+*#%@";
    int64_t columns = k->tokens < STRIP_COLUMNS ? k->tokens : STRIP_COLUMNS;
    int64_t count[STRIP_COLUMNS] = { 0 };

    for (int64_t i = 0; i < l->first[k->heads]; i++)
        count[l->token[i] * columns / k->tokens]++;
    for (int64_t c = 0; c < columns; c++) {
        int64_t from = (c * k->tokens + columns - 1) / columns, to = ((c + 1) * k->tokens + columns - 1) / columns;
        int64_t all = (to - from) * k->heads;

        out[c] = shade[count[c] == 0 ? 0 : 1 + (count[c] * 8) / all];
    }
    out[columns] = '\0';
}

void kept_lines(const struct kept_report *r)
{
    const struct kept *k = r->kept;
    char shades[STRIP_COLUMNS + 1];

    printf("%s, %lld tokens, press `%s`\n\n", r->model, (long long)k->tokens, r->press);
    printf("layer |%-*s| rows kept by each head\n", STRIP_COLUMNS, " positions, darker: more heads keep them");
    for (int32_t l = 0; l < k->layers; l++) {
        const struct kept_layer *layer = &k->layer[l];

        strip(k, layer, shades);
        printf("%5d |%-*s|", l, STRIP_COLUMNS, shades);
        for (int32_t g = 0; g < k->heads; g++)
            printf(" %lld", (long long)(layer->first[g + 1] - layer->first[g]));
        putchar('\n');
    }
    if (r->dropped_bytes > 0)
        printf("\n%lld bytes vanished: the vocabulary has no token for them\n", (long long)r->dropped_bytes);
    if (r->truncated_tokens > 0)
        printf("\n%lld tokens beyond --max-context-length were dropped\n", (long long)r->truncated_tokens);
    printf("\n--json prints the positions, --html OUT a page with a heat map\n");
}
