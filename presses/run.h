/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - a chain at work on the layers of one context after another.
 *
 *      press_run_begin(chain, tokens)                             once per order
 *      per pressed layer:  press_run_layer  ▶ press_result        all rounds of the layer
 *                          press_run_plan   ▶ kv_block            offsets and bytes: the caller finds room for data
 *                          press_run_pack                         queues the rows into block->data
 *
 * Chains whose needs say all_layers go over the layers twice: press_run_hold for each, then press_run_settle, then
 * as above. Everything is queued on LANE_PRESS; press_run_layer waits for it (how much is kept must be known), pack
 * does not.
 *
 * One engine thread owns a run. Scratch is sized at open for tokens_max; begin may enlarge it for what this chain wants
 * besides; layers allocate nothing.
 */
#ifndef PLATEN_PRESSES_RUN_H
#define PLATEN_PRESSES_RUN_H

#include "presses/chain.h"

#ifdef __cplusplus
extern "C" {
#endif

struct press_run;

/* What stays of one layer. Owned by the run and good until the next press_run_layer; the layer's K and V must live that
 * long too. */
struct press_result {
    int32_t layer;
    struct kv_rows view;     /* rows that index speaks of: the layer's own, or survivors of an earlier round */
    const int32_t *index;    /* device int32, ascending per head, rows of view */
    const float *score;      /* device [view.at[G]]: what the last choice went by; NULL: by no score of every row */
    const int32_t *token;    /* device: original token of each kept row, ascending per head */
    const int32_t *position; /* device: where the key of each row of view stands; NULL: row r at r */
    struct rope_table rope;  /* of the layer */
    int64_t first[KV_HEADS_MAX + 1]; /* head g keeps entries [first[g], first[g+1]) of index and token */
    bool rerotate;                   /* keys get new positions when packed */
    int32_t k_dim;                   /* channels of K rows that stay: D, or fewer after `think` */
    const int32_t *channel;          /* host [G][k_dim] which ones, ascending; NULL: all */
    enum kv_codec codec;             /* of the block that plan and pack make; plain unless the caller sets it */
    int64_t scored;                  /* on so many last rows of each head verdicts travel with the block; 0: on none */
    const uint8_t *verdict;          /* host: those, as the block has them */
};

/* Opens scratch for contexts of up to tokens_max tokens. ST_EEXHAUSTED. The back end must outlive it. */
enum status press_run_open(struct press_run **out, struct backend *be, const struct hparams *hp, int64_t tokens_max,
                           struct err *err);
void press_run_close(struct press_run *run); /* NULL is fine */

/* Starts a context. The chain is borrowed until the next begin; checks again what chain_check checks. compact: rows get
 * consecutive positions when packed. chain NULL: keep everything. */
enum status press_run_begin(struct press_run *run, const struct chain *chain, int64_t tokens, int64_t query_tokens,
                            bool compact, struct err *err);

/* Runs every round on a layer. Waits for LANE_PRESS. ST_EINTERNAL where a press broke a promise (named). */
enum status press_run_layer(struct press_run *run, const struct press_layer *in, struct press_result *out,
                            struct err *err);

/* Fills the block's layer, heads, dims, dtype, codec, first and offsets. Does not touch data. */
enum status press_run_plan(struct press_run *run, const struct press_result *result, struct kv_block *block,
                           struct err *err);

/* Queues the rows into block->data (device, block->bytes). The result must stay until LANE_PRESS was waited for. */
enum status press_run_pack(struct press_run *run, const struct press_result *result, const struct kv_block *block,
                           struct err *err);

/* The kept rows as original tokens, ascending per head, on the host. Waits. */
enum status press_run_tokens(struct press_run *run, const struct press_result *result, int32_t *token, struct err *err);

/* The longest head of all layers pressed since begin, for chain_next_position. */
int64_t press_run_rows_most(const struct press_run *run);

/* ---- the decode part ---------------------------------------------------------------------------------------------- */

/* How many rows per head a compression leaves after `seen` tokens of context, question and answer. */
int64_t press_decode_target(const struct chain_decode *d, int64_t seen);

/* Whether it is time: `calls` forward calls since the last compression (a question of many tokens is one), `fresh` tokens
 * in the last of them. */
bool press_decode_due(const struct chain_decode *d, int64_t calls, int64_t fresh, int64_t seen);

/* Upper bound of the rows, over all heads, that a compression leaves of a layer whose heads hold up to `rows` rows. */
int64_t press_decode_rows_max(const struct chain *c, const struct hparams *hp, int32_t layer, int64_t rows,
                              int64_t seen);

/* What cam remembers of one sequence: the attention that every row of every layer and head got since the last compression.
 * Zero-initialise; owned by the sequence. */
struct press_cam {
    int32_t layers, heads;
    float *sum[HPARAMS_LAYERS_MAX]; /* [heads][room] */
    int64_t room[HPARAMS_LAYERS_MAX];
    int64_t rows[HPARAMS_LAYERS_MAX]; /* that sum is known for, the same in every head */
    int64_t calls;                    /* forward calls since the last compression; the sequence counts them */
};
void press_cam_fini(struct press_cam *cam);
/* Room for `rows` rows per head of every full layer, so that later calls allocate nothing. */
void press_cam_reserve(struct press_cam *cam, const struct hparams *hp, int64_t rows);

/*
 * What a score that looks at hidden states (kvzap) leaves of one sequence for dms:decoding=on: for every full layer and head
 * the scores of the last rows, taken when the rows came. In all heads entry i from the end is the i-th row from the end: the
 * last `keep` rows never leave. Rows before those that are here were decided already. Zero-initialise; owned by the sequence.
 */
struct press_scored {
    int32_t layers, heads;
    int64_t keep;                     /* rows that are still to be decided after a choice */
    int64_t room;                     /* of each head */
    int64_t at, rows;                 /* entries [at, at + rows) of each head stand for the last rows */
    float *score[HPARAMS_LAYERS_MAX]; /* host [heads][room]; NULL: a layer with a window */
    uint8_t *bits;                    /* host [layers][heads][ceil(keep / 8)]: verdicts as they came */
};
/* Room for `keep` rows and `fresh` more between two choices; as if every row had been decided. Allocates. */
void press_scored_open(struct press_scored *s, const struct hparams *hp, int64_t keep, int64_t fresh);
void press_scored_fini(struct press_scored *s);
/* The rows of a context, whose blocks have come with verdicts on their last rows: before the first new row. Waits for LANE_PRESS. */
void press_scored_begin(struct press_scored *s, struct backend *be, const struct kv_block *blocks);
/* `rows` more rows, which press_run_score is about to score in every layer. Allocates nothing. */
void press_scored_more(struct press_scored *s, int64_t rows);
/* A choice was made in every layer: only the last `keep` rows are still to be decided. */
void press_scored_chosen(struct press_scored *s);

/* Parameters that new rows are scored with stay on the device from now on: a layer's first score allocates, later ones do
 * not. Their files must outlive the run. */
void press_run_keep_files(struct press_run *run);

/* Scores new rows of one layer as they come. given->hidden: their tokens' hidden states, act [given->tokens][dim]; the
 * chain's decode part asks for them (needs.hidden). Waits for LANE_PRESS. */
enum status press_run_score(struct press_run *run, const struct chain *chain, const struct press_layer *given,
                            struct press_scored *s, struct err *err);

/*
 * Compresses one layer of a sequence. rows: its block and tail rows in order, packed (slot_gather), device; V may be edited.
 * given->tokens: those of the buffered calls; given->q_plain: their plain queries [given->tokens][H][D], where the decode
 * part's needs ask for queries (q_plain or q_tail); given->scored: where the decode part's rows are scored as they come.
 * position: that of the last token. token: device, the original token of every row, for result->token; NULL: rows are told as
 * row numbers. cam: NULL without a cam stage. Result, plan and pack as in prefill; first, index name rows of `rows`. A layer
 * that is not longer than the target is left whole.
 */
enum status press_run_decode(struct press_run *run, const struct chain *chain, const struct press_layer *given,
                             const struct kv_rows *rows, const int32_t *token, int64_t position, int64_t seen,
                             struct press_cam *cam, struct press_result *out, struct err *err);

/* After every forward call of a sequence with a cam stage: adds the last token's attention over `rows`. in->q: its rotated
 * query [1][H][D]. */
enum status press_cam_step(struct press_run *run, struct press_cam *cam, const struct press_layer *in,
                           const struct kv_rows *rows, struct err *err);

/* ---- chains that must see every layer first --------------------------------------------------------------------- */

/* What is fed in a second pass is made of this; borrowed until the next begin. Needed where needs.second_pass. */
void press_run_prompt(struct press_run *run, const struct press_prompt *prompt);

/* Scores a layer and remembers that; its K and V must live until press_run_layer. Layers in any order, each once. */
enum status press_run_hold(struct press_run *run, const struct press_layer *in, struct err *err);

/* The second pass: how many feeds there are; most tokens that a feed has; the tokens of feed i (host, good until the next
 * call). A feed runs through the model at positions from `tokens` on, causally, on top of the full cache; its K, V are
 * written behind each held layer's rows, over those of the feed before. After a held layer's attention the node calls
 * press_run_feed_layer: in->kv has tokens + rows rows; in->tokens is the context's; q, hidden and lse are those of the fed
 * rows, as press_run_feed_needs asks (lse at index 0 for the first fed row). */
int32_t press_run_feeds(const struct press_run *run);
int64_t press_run_feed_max(const struct press_run *run);
int64_t press_run_feed(struct press_run *run, int32_t feed, const int32_t **token);
void press_run_feed_needs(const struct press_run *run, struct chain_needs *out);
enum status press_run_feed_layer(struct press_run *run, int32_t feed, const struct press_layer *in, int64_t rows,
                                 struct err *err);

/* All layers were held (and fed): decides how much each (layer, head) keeps. */
enum status press_run_settle(struct press_run *run, struct err *err);

/* ---- what it takes, before it is begun ---------------------------------------------------------------------------- */

/* Of the second pass of a chain: most tokens that a feed has (0: there is none), and what it needs of their forward pass. */
int64_t press_feed_max(const struct chain *chain, const struct press_prompt *prompt);
void press_feed_needs(const struct chain *chain, struct chain_needs *out);

/* The word of the stage that must see all layers first; NULL: none must. */
const char *press_holder(const struct chain *chain);

/* Upper bound of the bytes that a run takes for a context of `tokens` besides what it was opened with: survivors of a round,
 * scratch of hooks, and where the host's memory is the device's the scores of all layers. feed: press_feed_max. */
uint64_t press_run_bytes(const struct chain *chain, const struct backend *be, const struct hparams *hp, int64_t tokens,
                         int64_t feed, bool compact);

/* Gives that back; the next layer takes what it needs. No layer is half pressed. */
void press_run_trim(struct press_run *run);

#ifdef __cplusplus
}
#endif
#endif
