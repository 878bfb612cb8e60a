/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sequence.h - one question being answered: the unit of the batch.
 *
 * Made by the request, run by the engine thread, read by the stream thread. The engine writes made[n] and then made_count
 * with release; the stream thread reads the count with acquire and then the tokens: no lock. `finish` is written last,
 * after which the engine never touches the sequence again.
 */
#ifndef PLATEN_DECODE_SEQUENCE_H
#define PLATEN_DECODE_SEQUENCE_H

#include "common/base/status.h"
#include "decode-node/context.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_DEADLINE, FINISH_FAILED };

/* "stop", "length", "cancelled", "deadline"; "" for none and failed. */
const char *finish_word(enum finish f);

struct repressed;

struct sequence {
    /* set by the request, read only afterwards */
    struct context *context; /* one count */
    struct repressed *own;   /* what its decode part has for it; NULL: no decode part */
    const int32_t *prompt;   /* question, suffix, answer prefix; never empty */
    int32_t prompt_tokens;
    int32_t max_new;       /* >= 1 */
    const bool *cancelled; /* the request's flag; atomic, read relaxed */
    int64_t deadline_ns;   /* INT64_MAX: none */

    /* engine writes, stream thread reads */
    int32_t *made;             /* room for max_new */
    int32_t made_count;        /* atomic */
    int32_t finish;            /* atomic, enum finish */
    int64_t begin_ns;          /* when the engine took it */
    int64_t first_ns, last_ns; /* when the first and the last token were known; valid once made_count / finish say so */

    /* engine only */
    struct sequence *next;
    int32_t slot;       /* -1: waits for one */
    int32_t fed;        /* prompt tokens given to the model */
    int64_t placed;     /* tokens given to the model: its next one stands so far behind the context */
    int32_t tail;       /* tail rows written or under way; those before a compression have left it */
    int32_t asked;      /* tokens chosen or under way */
    int32_t in_flight;  /* steps under way that touch it */
    int32_t pages;      /* tail pages it holds */
    enum finish ending; /* decided, but steps are still under way */
};

/* Tail rows a question needs: its prompt, and every new token but the last. */
static inline int32_t sequence_tail_rows(int32_t prompt_tokens, int32_t max_new)
{
    return prompt_tokens + (max_new > 0 ? max_new - 1 : 0);
}

#ifdef __cplusplus
}
#endif
#endif
