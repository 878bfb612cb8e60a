/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attend.h - the one inner part of attention that prefill, decode and the window scores share: query rows of one KV head
 * against some rows of its cache, with the softmax brought up to date as they come (Milakov and Gimelshein 2018,
 * arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
 */
#ifndef PLATEN_KERNELS_CPU_ATTEND_H
#define PLATEN_KERNELS_CPU_ATTEND_H

#include "kernels/cpu/cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What all rows of a run have in common. */
struct attend {
    const struct cpu *c;
    int32_t dim;    /* D */
    int32_t width;  /* D padded to PANEL_MAX */
    int32_t units;  /* of a row of q or k, padded */
    int32_t group;  /* query heads to a KV head */
    int32_t window; /* 0: none */
    float scale;
    int32_t columns;                 /* of scores: cache rows taken at once at most */
    const struct cpu_direct *direct; /* takes the cache's rows where they stand; NULL: they become panels first */
};

struct attend attend_shape(const struct cpu *c, int32_t dim, int32_t group, int32_t window, float scale);

/* Panels pay when many rows share them. Who has few takes the cache's rows where they stand, where this dtype, size and
 * instruction set allow it, and up to DIRECT_TOKENS of them at once. */
void attend_directly(struct attend *a);

/* Takes `tokens` tokens' queries of KV head `head` (q f32 [token][q_heads][D]) into the room: row i * group + h is query
 * head h of token i. tokens * group <= ATTEND_ROWS. Forgets what was summed up. */
void attend_queries(const struct attend *a, struct cpu_room *room, const float *q, int32_t q_heads, int32_t head,
                    int32_t tokens);

/* Forgets what was summed up for `rows` rows. */
void attend_reset(const struct attend *a, struct cpu_room *room, int32_t rows);

/* Scores of rows [row, row + rows) against K as attend_load_keys left it: room->scores [rows][ATTEND_TOKENS]. */
void attend_load_keys(const struct attend *a, struct cpu_room *room, const void *k, int32_t count, int64_t ahead);
void attend_scores(const struct attend *a, struct cpu_room *room, int32_t row, int32_t rows, int32_t count);

/* Cache rows that are attended to at once: k and v [count][D] of the cache's dtype, count <= columns. */
struct attend_rows {
    const void *k, *v;
    int32_t count;
    const float *k_scale, *v_scale; /* [count]: row t's numbers times this are its values; NULL: they are the values */
    bool near;                      /* they stand in the room, or were brought already */
};

/* Rows [0, rows) of the room attend to cache rows `c`. Of these, row r sees the first seen + r / group, and no more than
 * the last `window` of what lies before that. */
void attend_tokens(const struct attend *a, struct cpu_room *room, const struct attend_rows *c, int32_t rows,
                   int64_t seen);

/* out[D] = what row r has summed up. */
void attend_result(const struct attend *a, const struct cpu_room *room, int32_t r, float *out);

#ifdef __cplusplus
}
#endif
#endif
