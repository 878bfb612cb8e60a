/* SPDX-License-Identifier: Apache-2.0 */
/* kept.h - the positions that every layer and head kept, and three ways to show them. Host memory, one thread. */
#ifndef PLATEN_CLIENT_KEPT_H
#define PLATEN_CLIENT_KEPT_H

#include "common/base/status.h"
#include "common/model/tokenizer.h"
#include "presses/run.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kept_layer {
    int64_t first[KV_HEADS_MAX + 1]; /* head g keeps token[first[g]] .. token[first[g + 1] - 1], ascending */
    int32_t *token;
    float *score; /* [heads][tokens], NaN for tokens that the last choice did not see; NULL: not taken */
};

struct kept {
    int32_t layers, heads;
    int64_t tokens;
    struct kept_layer *layer; /* [layers] */
};

void kept_open(struct kept *k, int32_t layers, int32_t heads, int64_t tokens);
void kept_close(struct kept *k);

/* Takes what a press kept of a layer, or the last `window` positions of a layer that is not pressed. */
enum status kept_take(struct kept *k, int32_t layer, struct press_run *run, const struct press_result *result,
                      struct err *err);
void kept_window(struct kept *k, int32_t layer, int64_t window);

/* Takes what the press's last choice of a layer went by, where that was a score of every row. Waits for the back end. */
void kept_scores(struct kept *k, int32_t layer, struct backend *be, const struct press_result *result);

/* Everything a report shows; borrowed. */
struct kept_report {
    const struct kept *kept;
    const char *model, *press;
    const struct token_list *ids;
    const struct tokenizer *tokenizer;
    int64_t query_tokens, dropped_bytes, truncated_tokens;
    bool show_ids;
    const float *logits; /* [vocab]; NULL: none */
    int32_t logit_count, vocab;
};

void kept_json(const struct kept_report *r);  /* one object, to stdout */
void kept_lines(const struct kept_report *r); /* for people, to stdout */

/* One self-contained HTML page. ST_EINVAL when `path` cannot be written. */
enum status kept_page(const struct kept_report *r, const char *path, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
