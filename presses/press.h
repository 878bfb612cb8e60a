/* SPDX-License-Identifier: Apache-2.0 */
/*
 * press.h - what a press is: one stage of a chain, with the hooks it has something to say in.
 *
 *      snapkv:window=64  |  critical  |  adakv:alpha=0.2  |  ratio=0.5  |  rerotate
 *      score ───────────▶ refine ────▶ budget ─────────▶ (select) ────▶ edit          one round
 *
 * A press is a const table: one file, one line in presses.def. It only ever sees a *view* of rows (struct kv_rows: dense in
 * the first round, ragged afterwards) and the back end's operations, so the same press runs on every device. Scores are
 * f32, larger stays. This is also the one header a plug-in includes (docs/NEW-PRESS.md).
 *
 * Threads: hooks run on the engine thread that owns the back end. Options are read-only and may be shared.
 * Letters: T tokens, H query heads, G KV heads, D head size, L layers.
 */
#ifndef PLATEN_PRESSES_PRESS_H
#define PLATEN_PRESSES_PRESS_H

#include "common/base/opt.h"
#include "common/base/status.h"
#include "common/kv/layout.h"
#include "kernels/backend.h"
#include "kernels/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct press;
struct press_files;
struct press_round;
struct press_work;
struct press_held;
struct press_cam;
struct press_scored;

/* What the forward pass must keep of a layer until the press has run. Zero: nothing but K and V. */
struct chain_needs {
    int64_t q_tail;   /* rotated queries of the last n tokens; 0: none. Never more than the tokens there are */
    bool q_plain;     /* queries of all tokens before the rotation */
    bool q_rotated;   /* queries of all tokens after the rotation */
    bool hidden;      /* the normed input of attention, all tokens */
    bool lse;         /* log-sum-exp of every query's scores */
    bool all_layers;  /* K, V of every pressed layer held until the last one is there */
    bool second_pass; /* tokens fed once more on top of the held layers */
    bool decode_part; /* the chain goes on pressing while tokens are generated */
};

/* The decode part: compress every so many forward calls, from the queries of so many buffered calls. */
struct chain_decode {
    int64_t every, buffer;
    int64_t rows;      /* rows per head after a compression; 0: ratio counts */
    double ratio;      /* of the tokens seen so far */
    int64_t cam_merge; /* window of `cam`; 0: no cam stage */
    int64_t scored;    /* last rows of each head that keep the score they came with; 0: rows are scored anew */
    double below;      /* scored: rows with a smaller score go when they are no longer among those */
};

/* One layer as the forward pass leaves it: everything borrowed, device memory of the back end, NULL where not needed.
 * K and V may be edited in place (merge): the forward pass is done with them. */
struct press_layer {
    const struct hparams *hp;
    int32_t layer;        /* of the model; only full layers are pressed */
    struct kv_layer kv;   /* context and query together, rotated */
    int64_t tokens;       /* T = kv.tokens */
    int64_t query_tokens; /* how many of them, at the end, are the query */
    const void *q_tail;   /* act [q_tail_rows][H][D] */
    int64_t q_tail_rows;  /* min(needs.q_tail, T) */
    const void *q_plain;  /* act [T][H][D] */
    const void *q;        /* act [T][H][D] */
    const void *hidden;   /* act [T][dim] */
    const float *lse;     /* [H][lse_stride] */
    int64_t lse_stride;
    struct rope_table rope;            /* of this layer */
    const struct weight *o;            /* the layer's output projection [dim][H D] */
    const struct weights *weights;     /* of the model; NULL: block cannot make queries of rows that it gathers */
    const struct press_scored *scored; /* scores that the rows came with, which stand for the score; NULL: none */
};

enum press_kind {
    PRESS_SCORE,  /* gives every row a number */
    PRESS_REFINE, /* between a score and its keep: alters numbers, shares the budget out, or chooses by another rule */
    PRESS_CHOOSE, /* decides by itself how much stays */
    PRESS_KEEP,   /* says how much stays */
    PRESS_EDIT,   /* changes the rows that stay */
    PRESS_DECODE  /* opens the part that works while tokens are generated */
};

struct press_numbers {
    const double *value;
    size_t count;
};

/* A stage of a chain: a press with its options read. */
struct press_stage {
    const struct press *press;
    void *options;    /* press->options_bytes, filled from the table; owned by the chain */
    const void *file; /* what press->file_open made of the option `file`; NULL without one */
};

/* How much a round keeps. ratio is the fraction removed; rows > 0 replaces it. */
struct press_keep {
    double ratio;
    int64_t rows;
};

/* How many of n rows of a head stay: max(1, trunc((double)n * (1 - ratio))), or min(rows, n); 0 of 0. */
int64_t press_keep_rows(const struct press_keep *keep, int64_t n);
/* The same without the floor of one: trunc(n * (1 - ratio)), as a few methods want it. */
int64_t press_keep_raw(const struct press_keep *keep, int64_t n);
/* The fraction removed of n rows as it was asked for; derived where rows were asked for. */
double press_keep_ratio(const struct press_keep *keep, int64_t n);

/*
 * One round at work: the rows in question, their scores, and what will be kept. Hooks read the first group and change
 * the second.
 */
struct press_round {
    struct backend *be;
    const struct press_layer *in;
    const struct press_stage *stages; /* of the chain's part */
    int32_t begin, end;               /* this round's */
    struct press_keep keep;           /* what its keep asks for; ratio 0 where it has none */
    int32_t place, places;            /* which pressed layer this is, and of how many */
    bool first;                       /* rows are the whole context, row r is token r */
    int64_t tail;                     /* rows at the end that the score protects (its window); 0: none */
    struct press_work *work;
    struct press_cam *cam; /* while a decode part with cam compresses */
    int64_t cam_calls;
    bool (*cam_coin)(void *ctx, float p, int32_t layer, int32_t head, int64_t row);
    const struct press_prompt *prompt; /* while a second pass is fed */
    struct press_held *held;           /* what is remembered of all layers, for presses that hold them; else NULL */

    struct kv_rows view; /* all rows of the round */
    float *score;        /* device [view.at[G]] */
    int64_t part_begin;  /* while a part of the context is scored alone: its first token; else 0 */
    int64_t part_end;    /* the token after the part's last; else -1 */
    const void *q_part;  /* act [q_part_rows][H][D], while block scores rows that it gathered: their plain queries */
    int64_t q_part_rows;

    struct select_args budget;
    bool rerotate;    /* set by an edit: kept keys get consecutive positions */
    int32_t *channel; /* an edit may fill [G][channels] with the channels of K rows that stay, ascending ... */
    int32_t channels; /* ... and say how many; D: all */

    const void *x_part; /* act [x_part_rows][dim], while block scores rows that it gathered: their hidden states */
    int64_t x_part_rows;
    const int32_t *x_slot; /* host: the row of x_part that score entry view.at[g] + r looks at */
    bool scored;           /* `score` has what the choice goes by, for every row of the view */
};

/* The texts that a second pass asks with; whoever has the tokenizer makes ids of them. */
#define PRESS_REPEAT_ALL "\n\nRepeat the previous context exactly."
#define PRESS_REPEAT_PART "\n\nRepeat the part of the previous context exactly, starting with"

/* What stands around the user's text, and the texts a second pass feeds; ids, host, borrowed until the next begin. */
struct press_prompt {
    const int32_t *token; /* [tokens] the context */
    int64_t tokens;
    int64_t prefix_tokens; /* template tokens before the user's text */
    const int32_t *suffix; /* template tokens after it; a newline where there is no template */
    int64_t suffix_tokens;
    const int32_t *repeat_all; /* "\n\nRepeat the previous context exactly." */
    int64_t repeat_all_tokens;
    const int32_t *repeat_part; /* "\n\nRepeat the part of the previous context exactly, starting with" */
    int64_t repeat_part_tokens;
};
/* What a stage is asked to work for, before it does. */
struct press_door {
    const struct hparams *hp;
    const struct backend_ops *ops;
    int64_t tokens, query_tokens;
    int32_t places; /* pressed layers */
};

/*
 * The table. NULL hooks are fine; which must be there follows from the kind. Every hook gets its own stage and finds its
 * options in stage->options. `view` may be a part of round->view (chunk and block score parts alone).
 */
struct press {
    const char *name; /* the word in a chain */
    enum press_kind kind;
    const char *summary;   /* one sentence for people, no full stop */
    const char *source;    /* the paper: "arXiv:2406.11430"; "" for none */
    const char *reference; /* the class of kvpress 0.5.5 it equals; "" for none */
    const char *cost;      /* added work in the letters above: "T G D" */
    const char *differs;   /* from that class, in sentences; "" where it does not */

    /* Rows in canonical order, offsets into a struct of options_bytes. OPT_LIST is numbers with `/` between them (struct
     * press_numbers); an OPT_FLOAT with `words` takes that word too, as NaN; `value` says in words what is allowed. */
    const struct opt *options;
    size_t option_count, options_bytes;
    bool has_value;    /* the word takes a value of its own (`ratio=0.5`): options[0], whose name is the word */
    bool first_only;   /* cannot stand after a keep */
    bool even_only;    /* needs every head to hold equally many rows */
    bool uneven;       /* heads may keep different numbers of rows */
    bool whole_only;   /* a score that cannot be asked for parts of its rows alone (chunk, block) */
    bool prefill_only; /* cannot stand in a decode part */
    bool decode_only;  /* stands in a decode part only */
    bool edits_keys;   /* PRESS_EDIT: looks at keys as they will be sent, so rotations come before it */
    bool exact_total;  /* a score that settles: over all layers exactly the budget stays */
    bool hides_keep;   /* PRESS_REFINE: the score before it is made as if nothing would go */
    bool in_parts;     /* PRESS_REFINE: asks for the score of parts of the rows */
    bool wants_score;  /* PRESS_CHOOSE: decides by a score before it */

    /* Refuses combinations of options, at parse time; the sentence names the option, *at is its row (left NULL: the
     * stage as a whole). */
    enum status (*check)(const struct press_stage *stage, const struct opt **at, struct err *err);
    /* Whether a refinement may follow this score; the sentence says which it may. */
    enum status (*follows)(const struct press_stage *stage, const struct press_stage *score, struct err *err);
    /* Adds what it needs of the forward pass. */
    void (*needs)(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs);
    /* Refuses what cannot work here: an operation the back end has not got, no query, too few layers ... */
    enum status (*admit)(const struct press_stage *stage, const struct press_door *door, struct err *err);
    /* Rows at the end that its score protects. */
    int64_t (*tail)(const struct press_stage *stage, int64_t query_tokens);

    /* score: fills score for every row of the view. */
    enum status (*score)(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                         float *score, struct err *err);
    /* refine: changes score in place. */
    enum status (*refine)(const struct press_stage *stage, struct press_round *round, const struct kv_rows *view,
                          float *score, struct err *err);
    /* budget: changes round->budget (and may change round->score). */
    enum status (*budget)(const struct press_stage *stage, struct press_round *round, struct err *err);
    /* choose: instead of select. Fills first [G + 1] (host) and index (device, ascending per head). */
    enum status (*choose)(const struct press_stage *stage, struct press_round *round, int32_t *index, int64_t *first,
                          struct err *err);
    /* keep: how much stays of the layer at `place`. */
    void (*keep)(const struct press_stage *stage, int32_t place, struct press_keep *out);
    /* edit: after the choice; index and first name the rows of round->view that stay. */
    enum status (*edit)(const struct press_stage *stage, struct press_round *round, const int32_t *index,
                        const int64_t *first, struct err *err);
    /* Presses that must see every layer before any is cut (needs.all_layers). hold: what is remembered of a layer; NULL:
     * its scores. settle: all layers are there; fills held->total or held->keep. */
    enum status (*hold)(const struct press_stage *stage, struct press_round *round, struct err *err);
    enum status (*settle)(const struct press_stage *stage, struct press_held *held, const struct press_keep *keep,
                          struct err *err);
    /* Presses with a second pass (needs.second_pass): how many feeds; the tokens of one into token (NULL: only counted),
     * returns how many; what it needs of their forward pass; what they saw of one held layer, into round->held. */
    int32_t (*feeds)(const struct press_stage *stage, const struct press_prompt *prompt);
    int64_t (*feed)(const struct press_stage *stage, const struct press_prompt *prompt, int32_t feed, int32_t *token);
    void (*feed_needs)(const struct press_stage *stage, struct chain_needs *needs);
    enum status (*feed_layer)(const struct press_stage *stage, struct press_round *round, int32_t feed, int64_t rows,
                              struct err *err);
    /* decode and cam: what they say about the decode part. */
    void (*decode)(const struct press_stage *stage, struct chain_decode *out);
    /* Upper bound of rows that one head keeps of n, for admission; NULL: press_keep_rows for a keep, n otherwise. */
    int64_t (*rows_max)(const struct press_stage *stage, const struct press_keep *keep, int32_t place, int32_t places,
                        int64_t n);

    /* Parameters from a file, checked against the model when the node starts; see files.h. */
    enum status (*file_open)(void **out, const char *path, const struct hparams *hp, struct err *err);
    void (*file_close)(void *file);

    int32_t row_alone; /* not 0: a score that looks at each row's key and value alone, so that it can be asked again */
    int32_t token_alone; /* not 0: a score that looks at each token's hidden state alone, so that it can be asked of new
                          * tokens as they come: the view and in->hidden are theirs, K and V are not there */
    int32_t reserved[2]; /* zero */
};

/* ---- what hooks may call -------------------------------------------------------------------------------------- */

/* For admit: ST_OK where the back end has the operation, else ST_EUNIMPLEMENTED with the reason. */
enum status press_admit_op(const struct press_stage *stage, const struct press_door *door, bool has, const char *op,
                           struct err *err);

/* Scratch until the stage's hook returns: device memory 256-byte aligned, host memory 64. Kept for the next layer, so only
 * the first layer of the largest context allocates. ST_EEXHAUSTED. press_work_host never fails. */
enum status press_work_device(struct press_round *round, uint64_t bytes, void **out, struct err *err);
void *press_work_host(struct press_round *round, uint64_t bytes);

/* What was asked for after the mark may be given out again. */
struct press_scratch {
    int32_t device, host;
};
struct press_scratch press_scratch_mark(const struct press_round *round);
void press_scratch_back(struct press_round *round, struct press_scratch mark);

/* The scores on the host, waited for: a copy, or the device's own memory where the host can reach it. press_scores_put
 * brings changes back. */
float *press_scores_get(struct press_round *round, const struct kv_rows *view, const float *score);
void press_scores_put(struct press_round *round, const struct kv_rows *view, float *score, const float *host);

/* The same for lists of rows: `count` entries of a device index, read, and written back. */
const int32_t *press_index_get(struct press_round *round, const int32_t *index, int64_t count);
void press_index_put(struct press_round *round, int32_t *index, const int32_t *host, int64_t count);

/* Parameters from the host: where they are when the back end reads host memory, else a copy in scratch. */
enum status press_to_device(struct press_round *round, const void *host, uint64_t bytes, const void **out,
                            struct err *err);

/* The same for numbers of stage->file, which never change: where a run scores tokens as they come they go up once. */
enum status press_file_to_device(struct press_round *round, const void *host, uint64_t bytes, const void **out,
                                 struct err *err);

/* The score of the rows that a window score protects, where no refinement has changed it; INFINITY otherwise. */
float press_protected(struct press_round *round, const struct kv_rows *view, const float *score);

/* Runs the round's score and the refinements before stage `self` on a part of its rows. */
enum status press_rescore(struct press_round *round, const struct press_stage *self, const struct kv_rows *view,
                          float *score, struct err *err);

/* ---- plug-ins --------------------------------------------------------------------------------------------------- */

enum { PRESS_ABI = 4 };

/* A shared object given with --press-plugin exports one of these as `platen_press_plugin`. */
struct press_plugin {
    int32_t abi;         /* PRESS_ABI it was built with */
    int32_t press_bytes; /* sizeof(struct press) it was built with */
    int32_t ops_bytes;   /* sizeof(struct backend_ops) it was built with */
    int32_t count;
    const struct press *const *presses;
};

#ifdef __cplusplus
}
#endif
#endif
