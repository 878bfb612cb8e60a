/* SPDX-License-Identifier: Apache-2.0 */
/* answers.h - the events of one stream, gathered into one answer per question. */
#ifndef PLATEN_CLIENT_ANSWERS_H
#define PLATEN_CLIENT_ANSWERS_H

#include "common/base/opt.h"
#include "common/base/status.h"
#include "common/base/text.h"
#include "common/model/tokenizer.h"
#include "proto/platen/v1/inference.pb-c.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct answer {
    const char *question; /* borrowed from the options */
    struct text text;
    struct token_list tokens;
    char finish[16]; /* "" while it runs */
    /* where the press has a decode part */
    bool decodes, held;
    int64_t compressions, held_min, held_max;
    double held_mean;
};

struct answers {
    struct answer *list;
    size_t count;
    Platen__V1__Event *last; /* the event with the figures; owned */

    /* what answers_stream has printed: whole answers, and of the next one its head and so many bytes */
    size_t shown, shown_bytes;
    bool begun;
};

/* One answer per question; one for the empty question when there is none. */
void answers_open(struct answers *a, const struct opt_list *questions);
void answers_close(struct answers *a);

/* Takes an event over. ST_EINTERNAL: it speaks of a question that was not asked. */
enum status answers_take(struct answers *a, Platen__V1__Event *event, struct err *err);

/* Prints to stdout what has become known, one answer after the other: the first runs on as it comes, later ones wait.
 * ST_EINTERNAL: nobody takes it. */
enum status answers_stream(struct answers *a, struct err *err);

/* The object of `ask --json`, without a newline. */
void answers_json(const struct answers *a, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
