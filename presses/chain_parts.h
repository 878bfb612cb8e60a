/* SPDX-License-Identifier: Apache-2.0 */
/* chain_parts.h - what a chain consists of, for the files of presses/ that read, check and run it. */
#ifndef PLATEN_PRESSES_CHAIN_PARTS_H
#define PLATEN_PRESSES_CHAIN_PARTS_H

#include "common/base/arena.h"
#include "presses/chain.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CHAIN_STAGES_MAX = 32, CHAIN_TEXT_MAX = 4096 };

/* One round of a part: stage numbers, -1 where there is none. */
struct chain_round {
    int32_t begin, end;
    int32_t score;  /* a score */
    int32_t budget; /* the stage that shares the budget out or chooses by a rule of its own */
    int32_t keep;
    int32_t choose; /* the stage that decides alone (`duo`), without a keep */
    int32_t edits;  /* first of the edits; end if none */
    bool uneven;    /* heads may differ in rows afterwards */
};

struct chain_part {
    struct press_stage *stages;
    size_t *at; /* [stage_count] where each stage's word stands in the source */
    int32_t stage_count;
    struct chain_round *rounds;
    int32_t round_count;
};

struct chain {
    struct arena arena;
    const char *text;   /* the canonical form */
    const char *source; /* as it was given */
    size_t source_bytes;
    struct chain_part prefill, decode; /* no stages: nothing to do. decode leaves the `decode` stage itself out */
    bool decodes;
    bool goes_on; /* decode was made of the prefill part's last round (dms:decoding=on), not written after `;` */
    struct chain_decode decode_part;
};

/* A stage as read, with its word's place in the text for the caret. */
struct stage_read {
    struct press_stage stage;
    size_t at, bytes;
};

/* A text as read: parts of stages. has_second: a `;` stood in it. */
struct chain_read {
    struct stage_read part[2][CHAIN_STAGES_MAX];
    int32_t count[2];
    bool has_second;
};

/* parse.c: the words. */
enum status chain_read_text(struct chain_read *out, const char *text, size_t bytes, struct press_files *files,
                            struct arena *arena, struct err *err);

/* parse.c: makes three lines of the sentence in err: sentence, text, caret under byte `at`. */
enum status chain_point(struct err *err, const char *text, size_t bytes, size_t at);

/* plan.c: stages into rounds; refuses what cannot stand where it stands. `at` and the text for the caret. */
enum status chain_plan(struct chain *c, const struct chain_read *read, const char *text, size_t bytes, struct err *err);

/* The ordinal of a layer among the pressed ones, and how many there are. */
void chain_places(const struct hparams *hp, int32_t layer, int32_t *place, int32_t *places);

/* Rows of one head that a round leaves of n at most, where its keep is `keep`. */
int64_t chain_round_rows_max(const struct chain_part *part, const struct chain_round *r, const struct press_keep *keep,
                             int32_t place, int32_t places, int64_t n);

/* The keep of a round for the layer at `place`; ratio 0 where it has none. */
struct press_keep chain_round_keep(const struct chain_part *part, const struct chain_round *round, int32_t place);

#ifdef __cplusplus
}
#endif
#endif
