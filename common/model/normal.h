/* SPDX-License-Identifier: Apache-2.0 */
/* normal.h - what a tokenizer does to a text before it is cut into words; private to common/model. */
#ifndef PLATEN_MODEL_NORMAL_H
#define PLATEN_MODEL_NORMAL_H

#include "common/base/arena.h"
#include "common/base/status.h"
#include "common/base/text.h"
#include "common/model/split.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum normal_kind {
    NORMAL_NFC,
    NORMAL_NFD,
    NORMAL_NFKC,
    NORMAL_NFKD,
    NORMAL_PREPEND, /* `with` before a text that is not empty */
    NORMAL_REPLACE, /* every match of the pattern becomes `with` */
    NORMAL_STRIP    /* white space at the ends goes */
};

enum { NORMAL_STEPS_MAX = 8 };

struct normal_step {
    enum normal_kind kind;
    const char *with;
    size_t with_bytes;
    int pattern; /* NORMAL_REPLACE: which of the patterns */
    bool left, right;
};

struct normal {
    struct normal_step steps[NORMAL_STEPS_MAX];
    int count;
    struct splitter patterns;
};

/* Adds a step; `with` is copied into the arena. ST_EUNIMPLEMENTED when there are too many. */
enum status normal_add(struct normal *n, struct arena *arena, const struct normal_step *step, struct err *err);

/* Normalises text[0..bytes) (valid UTF-8). *out borrows from `text` when nothing changed, else from buffers[0] or [1],
 * which the caller owns and may use again. ST_EINVAL as splitter_run; ST_EINVAL when the result is longer than 2 GiB. */
enum status normal_run(const struct normal *n, struct split_work *work, const char *text, size_t bytes,
                       struct text buffers[2], const char **out, size_t *out_bytes, struct err *err);
void normal_fini(struct normal *n);

#ifdef __cplusplus
}
#endif
#endif
