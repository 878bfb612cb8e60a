/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.c - attention of one step: every row of the batch over its own block and tail, whatever their lengths.
 *
 *   rows of a head      [ block: first[g] .. first[g+1) ][ tail: pages of 64 ]
 *   chunks of 256       [ 0 ][ 1 ][ 2 ][ 3 .. ]          [ 4 ][ 5 .. ]
 *
 * A (sequence, head) pair of few chunks is one task, which reads its rows from end to end and merges as it goes. A pair
 * that would hold up the others is cut: its chunks are dealt out as they come, each leaves max, sum and out for its query
 * rows, and these are merged in the order of the chunks - the same sums in the same order. Chunks are counted from the
 * beginning of the block and of the tail, never from the batch: a row's result does not depend on what else is in the
 * step.
 *
 * A sequence with several rows (a question) shares one reading of the cache: a task takes all chunks of a head for as
 * many rows as fit.
 */
#include "kernels/cpu/attend.h"
#include "kernels/cpu/cache.h"
#include "kernels/cpu/coded.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Tasks that each worker should get at least, so that nobody waits long for the last. */
enum { MERGE_IN_CALLER = 64, TASKS_PER_WORKER = 8 };

struct decode {
    struct attend a;
    const struct cache *cache;
    int32_t layer, q_heads, heads;
    const float *q;
    float *out;
    int32_t task_tokens; /* tokens of a sequence with several rows that a task takes */
    int64_t pairs;
    int64_t whole_chunks; /* a pair of one row with more chunks than these is cut */
};

/* One (sequence, head). */
struct pair {
    const struct step_seq *seq;
    const struct slot_block *block;
    int32_t head;
    int64_t block_rows, tail_rows;
    int64_t block_chunks, chunks;
};

static struct pair pair_at(const struct decode *d, int64_t i)
{
    struct pair p = { .seq = &d->cache->seq[i / d->heads], .head = (int32_t)(i % d->heads) };

    p.block = &d->cache->blocks[(int64_t)p.seq->slot * d->cache->config.layers + d->layer];
    p.block_rows = p.block->first[p.head + 1] - p.block->first[p.head];
    p.tail_rows = (int64_t)p.seq->tail + p.seq->rows;
    p.block_chunks = (p.block_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    p.chunks = p.block_chunks + (p.tail_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    return p;
}

static bool is_cut(const struct decode *d, const struct pair *p)
{
    return p->seq->rows == 1 && p->chunks > d->whole_chunks;
}

/* Cache rows [at, at + count) of a pair's block or tail; count stays inside one page. */
static void rows_at(const struct decode *d, struct cpu_room *room, const struct pair *p, bool tail, int64_t at,
                    struct attend_rows *rows)
{
    const int64_t row_bytes = d->a.dim * cpu_kv_bytes(d->a.c);

    if (tail) {
        const char *page = cache_page(d->cache, d->layer, p->seq->slot, (int32_t)(at / KV_PAGE_TOKENS));

        rows->k = page + (int64_t)p->head * KV_PAGE_TOKENS * row_bytes;
        rows->v = (const char *)rows->k + d->cache->page_bytes / 2;
    } else {
        coded_rows(d->a.c, room, p->block, p->head, at, rows);
    }
}

/* Query rows of tokens [token, token + tokens) of the sequence attend to one chunk. */
static void attend_chunk(const struct decode *d, struct cpu_room *room, const struct pair *p, int64_t chunk,
                         int32_t token, int32_t tokens)
{
    const bool tail = chunk >= p->block_chunks;
    const int64_t from = (tail ? chunk - p->block_chunks : chunk) * CHUNK_ROWS;
    const int64_t limit = tail ? p->tail_rows : p->block_rows,
                  end = from + CHUNK_ROWS < limit ? from + CHUNK_ROWS : limit;
    const int32_t most = tail || coded_rows_max(p->block) < d->a.columns ? ATTEND_TOKENS : d->a.columns;

    for (int64_t at = from; at < end; at += most) {
        struct attend_rows rows = { .count = (int32_t)(end - at < most ? end - at : most) };
        int64_t seen = p->block_rows + p->seq->tail + token + 1 - (tail ? p->block_rows + at : at);

        if (d->a.window > 0 && seen - d->a.window >= rows.count)
            continue;
        rows_at(d, room, p, tail, at, &rows);
        attend_tokens(&d->a, room, &rows, tokens * d->a.group, seen);
    }
}

/* (max, sum, out) of one row takes in those of a later chunk. */
static void merge(const struct attend *a, float *max, float *sum, float *out, float other_max, float other_sum,
                  const float *other)
{
    float top = *max > other_max ? *max : other_max, mine, theirs;

    if (other_max == -INFINITY)
        return;
    mine = expf(*max - top);
    theirs = expf(other_max - top);
    *max = top;
    *sum = *sum * mine + other_sum * theirs;
    a->c->loops->blend(out, mine, other, theirs, a->width);
}

static const float *queries_of(const struct decode *d, const struct pair *p, int32_t token)
{
    return d->q + (int64_t)(p->seq->row + token) * d->q_heads * d->a.dim;
}

static float *output_of(const struct decode *d, const struct pair *p, int32_t token, int32_t h)
{
    return d->out + ((int64_t)(p->seq->row + token) * d->q_heads + p->head * d->a.group + h) * d->a.dim;
}

static void write_row(const struct attend *a, float sum, const float *from, float *out)
{
    float factor = sum > 0.0f ? 1.0f / sum : 0.0f;

    for (int32_t i = 0; i < a->dim; i++)
        out[i] = from[i] * factor;
}

/* One chunk of a pair that is cut, left for merging. */
static void chunk_task(const struct decode *d, struct cpu_room *room, const struct pair *p, int64_t chunk, float *to)
{
    const struct attend *a = &d->a;

    attend_queries(a, room, queries_of(d, p, 0), d->q_heads, p->head, 1);
    attend_chunk(d, room, p, chunk, 0, 1);
    for (int32_t h = 0; h < a->group; h++, to += a->width + 2) {
        to[0] = room->max[h];
        to[1] = room->sum[h];
        memcpy(to + 2, room->out + (int64_t)h * a->width, (size_t)a->width * 4);
    }
}

/* All chunks of a pair for some of its rows, merged on the way. */
static void rows_task(const struct decode *d, struct cpu_room *room, const struct pair *p, int32_t token,
                      int32_t tokens)
{
    const struct attend *a = &d->a;
    const int32_t rows = tokens * a->group, stride = a->width + 2;

    attend_queries(a, room, queries_of(d, p, token), d->q_heads, p->head, tokens);
    for (int32_t r = 0; r < rows; r++) {
        float *to = room->merged + (int64_t)r * stride;

        memset(to, 0, (size_t)stride * 4);
        to[0] = -INFINITY;
    }
    for (int64_t chunk = 0; chunk < p->chunks; chunk++) {
        attend_reset(a, room, rows);
        attend_chunk(d, room, p, chunk, token, tokens);
        for (int32_t r = 0; r < rows; r++) {
            float *to = room->merged + (int64_t)r * stride;

            merge(a, &to[0], &to[1], to + 2, room->max[r], room->sum[r], room->out + (int64_t)r * a->width);
        }
    }
    for (int32_t r = 0; r < rows; r++) {
        const float *from = room->merged + (int64_t)r * stride;

        write_row(a, from[1], from + 2, output_of(d, p, token + r / a->group, r % a->group));
    }
}

/* The pair that task i belongs to: the last one whose first task is not after i. */
static int64_t pair_of(const struct decode *d, int64_t task)
{
    int64_t low = 0, high = d->pairs;

    while (high - low > 1) {
        int64_t middle = (low + high) / 2;

        if (d->cache->task_first[middle] <= task)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void decode_task(void *arg, int64_t i, int worker)
{
    const struct decode *d = arg;
    struct cpu_room *room = &d->a.c->room[worker];
    int64_t at = pair_of(d, i), part = i - d->cache->task_first[at];
    struct pair p = pair_at(d, at);

    if (is_cut(d, &p)) {
        int64_t floats = (int64_t)d->a.group * (d->a.width + 2);

        chunk_task(d, room, &p, part, d->cache->partial + (d->cache->partial_first[at] + part) * floats);
    } else {
        int32_t token = (int32_t)part * d->task_tokens, left = p.seq->rows - token;

        rows_task(d, room, &p, token, left < d->task_tokens ? left : d->task_tokens);
    }
}

static void merge_pair(void *arg, int64_t i, int worker)
{
    const struct decode *d = arg;
    const struct attend *a = &d->a;
    const int64_t stride = a->width + 2;
    struct pair p = pair_at(d, i);
    float *merged = a->c->room[worker].merged;

    if (!is_cut(d, &p))
        return;
    for (int32_t h = 0; h < a->group; h++) {
        const float *from = d->cache->partial + (d->cache->partial_first[i] * a->group + h) * stride;
        float max = -INFINITY, sum = 0.0f;

        memset(merged, 0, (size_t)a->width * 4);
        for (int64_t chunk = 0; chunk < p.chunks; chunk++, from += a->group * stride)
            merge(a, &max, &sum, merged, from[0], from[1], from + 2);
        write_row(a, sum, merged, output_of(d, &p, 0, h));
    }
}

/* Tasks and places of partial results by pair. Returns the number of tasks. */
static int64_t plan(struct decode *d, struct cache *cache)
{
    int64_t tasks = 0, partial = 0, chunks = 0;

    for (int64_t i = 0; i < d->pairs; i++)
        chunks += pair_at(d, i).chunks;
    d->whole_chunks = chunks / ((int64_t)d->a.c->threads * TASKS_PER_WORKER);
    for (int64_t i = 0; i < d->pairs; i++) {
        struct pair p = pair_at(d, i);

        cache->task_first[i] = tasks;
        cache->partial_first[i] = partial;
        partial += is_cut(d, &p) ? p.chunks : 0;
        tasks += is_cut(d, &p) ? p.chunks : (p.seq->rows + d->task_tokens - 1) / d->task_tokens;
    }
    assert(partial * d->a.group * (d->a.width + 2) <= cache->partial_floats);
    return tasks;
}

/* As many as share one reading, but few enough that every worker has something to do. */
static int32_t tokens_per_task(const struct cpu *c, const struct decode *d)
{
    int32_t least = c->math->strip / d->a.group, most = ATTEND_ROWS / d->a.group;
    int64_t share = (int64_t)d->cache->rows * d->heads / (2 * c->threads);

    if (least < 1)
        least = 1;
    return share < least ? least : share > most ? most : (int32_t)share;
}

/* hot */
void cpu_attn_decode(struct backend *be, int32_t layer, const void *q, int32_t q_heads, float scale, int32_t window,
                     void *out)
{
    struct cpu *c = cpu_of(be);
    struct cache *cache = c->cache;
    const int32_t heads = cache->config.kv_heads;
    struct decode d = {
        .a = attend_shape(c, cache->config.dim, q_heads / heads, window, scale),
        .cache = cache,
        .layer = layer,
        .q_heads = q_heads,
        .heads = heads,
        .q = q,
        .out = out,
        .pairs = (int64_t)cache->seqs * heads,
    };

    assert(q_heads == cache->config.q_heads);
    attend_directly(&d.a);
    d.task_tokens = tokens_per_task(c, &d);
    pool_run(c->pool, plan(&d, cache), decode_task, &d);
    if (d.pairs < MERGE_IN_CALLER)
        for (int64_t i = 0; i < d.pairs; i++)
            merge_pair(&d, i, 0);
    else
        pool_run(c->pool, d.pairs, merge_pair, &d);
}
