/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step.c - one step of the decode node: rows up, kernels, chosen tokens down; replayed from a recording where it can be.
 *
 *   host     step_begin ── upload ─┐                                 step_result(1) reads the ids of the step before
 *   stream                         └▶ [ plan, embed, layers, argmax ] ─▶ ids ─▶ host
 *
 * A step's shape is its rows and its wanted outputs, each padded to a rung of a ladder. The first step of a shape runs as
 * it is (libraries warm up), the second is recorded and launched, all others are replayed: the host then uploads some
 * numbers, launches one graph and is done. Padded rows belong to nobody: they are computed and never stored. What a slot
 * chose stays on the device and feeds its next row (token -1 - slot), so the host may be a step behind.
 */
#include "kernels/cuda/cache.h"

#include <assert.h>
#include <string.h>

enum { STEP_MS = 60 * 1000 };

static const int32_t ladder[] = {
    1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048
};

static int32_t padded(int32_t count, int32_t most)
{
    for (size_t i = 0; i < sizeof ladder / sizeof ladder[0]; i++)
        if (count <= ladder[i])
            return ladder[i] < most ? ladder[i] : most;
    return most;
}

bool step_is_open(const struct cuda *c)
{
    return c->cache && c->cache->open;
}

int64_t step_rows_of(const struct cuda *c, int64_t rows)
{
    const struct cuda_cache *cache = c->cache;

    if (!cache || !cache->open)
        return rows;
    if (cache->outputs_reached)
        return rows == cache->outputs ? cache->outputs_pad : rows;
    return rows == cache->rows ? cache->rows_pad : rows;
}

/* ---- what the host writes ---- */

/* Units of a sequence: as many rows as share a reading of the cache. Returns the next free unit. */
static int32_t units_fill(struct cuda_cache *cache, const struct step_seq *s, int32_t *up, int32_t unit)
{
    const int32_t most = CUDA_UNIT_QUERIES / (cache->config.q_heads / cache->config.kv_heads),
                  r = cache->config.rows_max;

    for (int32_t i = 0; i < s->rows; i += most, unit++) {
        up[4 * r + unit] = s->slot;
        up[5 * r + unit] = s->row + i;
        up[6 * r + unit] = s->rows - i < most ? s->rows - i : most;
        up[7 * r + unit] = s->tail + i;
    }
    return unit;
}

/* Positions of the sequence that a row turns as a part of. */
static int32_t length_of(const struct step *step, int32_t seq, int32_t row)
{
    const int32_t own = step->position[row] + 1;

    return own > step->seq[seq].length ? own : step->seq[seq].length;
}

static void upload_fill(struct cuda_cache *cache, const struct step *step, struct step_flight *f)
{
    const int32_t r = cache->config.rows_max, slots = cache->config.slots;
    int32_t *up = f->upload, *outputs = up + STEP_ROW_ARRAYS * r, unit = 0, output = 0;

    memcpy(up, step->token, (size_t)step->rows * 4);
    memcpy(up + r, step->position, (size_t)step->rows * 4);
    for (int32_t s = 0; s < step->seqs; s++) {
        for (int32_t i = 0; i < step->seq[s].rows; i++) {
            up[2 * r + step->seq[s].row + i] = step->seq[s].slot;
            up[3 * r + step->seq[s].row + i] = step->seq[s].tail + i;
            up[8 * r + step->seq[s].row + i] = length_of(step, s, step->seq[s].row + i);
        }
        unit = units_fill(cache, &step->seq[s], up, unit);
        f->wanted[s] = step->output[s] >= 0;
        if (step->output[s] >= 0) {
            outputs[output] = step->output[s];
            outputs[slots + output] = s;
            outputs[2 * slots + output++] = step->seq[s].slot;
        }
    }
    for (int32_t i = step->rows; i < cache->rows_pad; i++) {
        up[i] = up[r + i] = up[3 * r + i] = up[8 * r + i] = 0;
        up[2 * r + i] = -1;
    }
    for (; unit < cache->rows_pad; unit++)
        up[4 * r + unit] = up[5 * r + unit] = up[6 * r + unit] = up[7 * r + unit] = 0;
    for (; output < cache->outputs_pad; output++) {
        outputs[output] = outputs[2 * slots + output] = 0;
        outputs[slots + output] = -1;
    }
}

/* ---- recording ---- */

static struct step_graph *graph_of(struct cuda *c)
{
    struct cuda_cache *cache = c->cache;

    for (int32_t i = 0; i < cache->graphs; i++)
        if (cache->graph[i].rows == cache->rows_pad && cache->graph[i].outputs == cache->outputs_pad)
            return &cache->graph[i];
    if (cache->graphs == GRAPHS_MAX) { /* rare shapes run as they are */
        cuda_fell_back(c, &(struct fallback){ .instead = "unrecorded step",
                                              .library = "cuda",
                                              .why = "as many shapes of steps are recorded as there is room for",
                                              .shape = { cache->rows_pad, cache->outputs_pad, 1 } });
        return NULL;
    }
    cache->graph[cache->graphs] = (struct step_graph){ cache->rows_pad, cache->outputs_pad, false, NULL, 0 };
    return &cache->graph[cache->graphs++];
}

static void record_begin(struct cuda *c)
{
    struct cuda_cache *cache = c->cache;
    struct step_graph *g = cache->current;

    cache->recording = g && g->seen &&
                       !cuda_failed(c, cudaStreamBeginCapture(c->stream[LANE_COMPUTE], cudaStreamCaptureModeRelaxed),
                                    "recording a step");
    if (g)
        g->seen = true;
}

static void record_end(struct cuda *c)
{
    struct cuda_cache *cache = c->cache;
    cudaGraph_t graph = NULL;

    cache->recording = false;
    if (cuda_failed(c, cudaStreamEndCapture(c->stream[LANE_COMPUTE], &graph), "recording a step"))
        return;
    cuda_failed(c, cudaGraphGetNodes(graph, NULL, &cache->current->nodes), "recording a step");
    if (!cuda_failed(c, cudaGraphInstantiate(&cache->current->exec, graph, 0), "recording a step"))
        cuda_failed(c, cudaGraphLaunch(cache->current->exec, c->stream[LANE_COMPUTE]), "a recorded step");
    (void)cudaGraphDestroy(graph);
}

/* The ids come back, and the flight's event says when. */
static void step_finish(struct cuda *c)
{
    struct cuda_cache *cache = c->cache;
    struct step_flight *f = &cache->flight[cache->steps % STEPS_KEPT];

    cache->open = false;
    if (cache->outputs > 0)
        cuda_download(&c->base, LANE_COMPUTE, f->ids, cache->ids, (uint64_t)f->seqs * 4);
    cuda_failed(c, cudaEventRecord(f->done, c->stream[LANE_COMPUTE]), "a step");
}

void step_plan(struct cuda *c, const struct embed_args *rows)
{
    cuda_failed(c, launch_step_begin(c->queue[LANE_COMPUTE], c->base.act, &c->cache->decode, rows), "plan of a step");
    c->cache->planned = true;
}

/* ---- the table's functions ---- */

/* hot */
bool cuda_step_begin(struct backend *be, const struct step *step)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;
    const struct cache_config *k = &cache->config;
    struct step_flight *f = &cache->flight[++cache->steps % STEPS_KEPT];

    assert(step->rows > 0 && step->rows <= k->rows_max && step->seqs <= k->slots);
    if (cache->steps > STEPS_KEPT)
        cuda_event_wait(c, f->done, STEP_MS, "a step"); /* its upload is being written over */
    cache->rows = step->rows;
    cache->outputs = 0;
    for (int32_t s = 0; s < step->seqs; s++)
        cache->outputs += step->output[s] >= 0;
    cache->rows_pad = k->replay ? padded(step->rows, k->rows_max) : step->rows;
    cache->outputs_pad = k->replay && cache->outputs > 0 ? padded(cache->outputs, k->slots) : cache->outputs;
    cache->outputs_reached = false;
    cache->open = true;
    cache->decode.units = cache->rows_pad;
    f->seqs = step->seqs;
    upload_fill(cache, step, f);
    cuda_upload(be, LANE_COMPUTE, cache->upload, f->upload,
                4 * (STEP_ROW_ARRAYS * (uint64_t)k->rows_max + STEP_OUTPUT_ARRAYS * (uint64_t)k->slots));
    cache->current = k->replay && !step->apart ? graph_of(c) : NULL;
    cache->replayed = cache->current && cache->current->exec;
    if (cache->replayed) {
        cuda_failed(c, cudaGraphLaunch(cache->current->exec, c->stream[LANE_COMPUTE]), "a recorded step");
        step_finish(c);
        return true;
    }
    record_begin(c);
    cache->planned = false;
    return false;
}

/* hot */
void cuda_step_embed(struct backend *be, const struct weight *table, float scale, void *x)
{
    const struct cuda_cache *cache = cuda_of(be)->cache;

    few_embed(cuda_of(be), &(struct embed_args){ .table = table->data,
                                                 .vocab = (int32_t)table->rows,
                                                 .dim = (int32_t)table->cols,
                                                 .ids = cache->decode.rows.token,
                                                 .slot_token = cache->chosen,
                                                 .scale = scale,
                                                 .x = x,
                                                 .rows = cache->rows_pad });
}

static struct rotate_args tail_args(const struct cuda *c, const struct qkv_shape *shape, const struct rope_table *rope,
                                    int32_t layer, const void *qkv, void *q)
{
    const struct decode_shape d = cuda_layer_shape(c, layer);

    struct rotate_args args = layer_rotation(shape, rope);

    args.qkv = qkv;
    args.position = d.rows.position;
    args.length = d.rows.length;
    args.q = q;
    args.slot = d.rows.slot;
    args.tail = d.rows.tail;
    args.pages = d.pages + (d.ringed[layer / 32] >> layer % 32 & 1 ? d.ring_table : 0);
    args.pages_per_slot = d.pages_per_slot;
    args.pool = (void *)d.pool;
    args.page_stride = d.page_stride;
    return args;
}

/* hot */
void cuda_qkv_to_tail(struct backend *be, const struct qkv_shape *shape, const struct rope_table *rope, int32_t layer,
                      const void *qkv, void *q)
{
    struct cuda *c = cuda_of(be);
    const struct rotate_args args = tail_args(c, shape, rope, layer, qkv, q);

    cuda_failed(c, launch_rotate(cuda_compute(c), be->act, &args, c->cache->rows_pad), "qkv_to_tail");
}

/* hot */
bool cuda_normed_qkv_to_tail(struct backend *be, const struct normed_product *p, const struct qkv_shape *shape,
                             const struct rope_table *rope, int32_t layer, const void *x, void *q)
{
    struct cuda *c = cuda_of(be);
    struct few_product product = few_normed(p, x, c->cache->rows_pad, NULL);

    product.kind = FEW_QKV;
    product.heads = tail_args(c, shape, rope, layer, NULL, q);
    return few_run(c, &product, c->cache->rows_pad);
}

/* hot */
void cuda_attn_decode(struct backend *be, int32_t layer, const void *q, int32_t q_heads, float scale, int32_t window,
                      void *out)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;
    const struct decode_shape d = cuda_layer_shape(c, layer);
    struct cuda_queue queue = cuda_compute(c);

    assert(q_heads == cache->config.q_heads);
    assert(cache->window[layer] == 0 || cache->window[layer] == window); /* the plan left out what is older */
    if (!cache->planned) {
        step_plan(c, &(struct embed_args){ .rows = 0 });
        queue.chained = false; /* it reads the plan before it waits: right behind the plan it may not begin early */
    }
    c->memory_idles = cache->rows_pad <= SKINNY_ROWS_MAX;
    cuda_failed(c, launch_decode(queue, be->kv, &d, cache->rows_pad, layer, q, scale, window, out), "attn_decode");
}

/* hot */
void cuda_step_outputs(struct backend *be, const void *x, int32_t dim, void *out)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;

    cache->outputs_reached = true;
    if (cache->outputs_pad > 0)
        cuda_failed(
            c,
            launch_gather_rows(cuda_compute(c), DT_F32, x, cache->decode.rows.output_row, cache->outputs_pad, dim, out),
            "step_outputs");
}

/* hot */
bool cuda_normed_outputs(struct backend *be, const struct normed_product *p, const void *x, void *logits)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;
    struct few_product product = few_normed(p, x, cache->outputs_pad, logits);

    product.args.index = cache->decode.rows.output_row;
    cache->outputs_reached = cache->outputs_pad > 0 && few_run(c, &product, cache->rows_pad);
    return cache->outputs_reached;
}

/* hot */
void cuda_step_choose(struct backend *be, const void *logits, int32_t vocab)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;
    const struct chosen to = { cache->ids, cache->decode.rows.output_seq, cache->decode.rows.output_slot,
                               cache->chosen };

    if (cache->outputs_pad > 0)
        cuda_failed(c,
                    launch_argmax(cuda_compute(c), be->act, logits, cache->outputs_pad, vocab, c->argmax_partial,
                                  c->argmax_count, to),
                    "step_choose");
}

/* hot */
void cuda_step_end(struct backend *be)
{
    struct cuda *c = cuda_of(be);

    if (c->cache->replayed)
        return;
    (void)cuda_compute(c);
    if (c->cache->recording)
        record_end(c);
    step_finish(c);
}

int32_t cuda_step_launches(struct backend *be)
{
    const struct cuda_cache *cache = cuda_of(be)->cache;
    size_t most = 0;

    for (int32_t i = 0; cache && i < cache->graphs; i++)
        most = cache->graph[i].nodes > most ? cache->graph[i].nodes : most;
    return (int32_t)most;
}

void cuda_step_result(struct backend *be, int32_t behind, int32_t *ids)
{
    struct cuda *c = cuda_of(be);
    struct cuda_cache *cache = c->cache;
    const int64_t step = cache->steps - behind;
    const struct step_flight *f = &cache->flight[step % STEPS_KEPT];

    assert(behind >= 0 && behind < STEPS_KEPT && step > 0);
    if (!cuda_event_wait(c, f->done, STEP_MS, "a step"))
        memset(f->ids, 0, (size_t)f->seqs * 4); /* the back end is broken and says so; these ids mean nothing */
    for (int32_t s = 0; s < f->seqs; s++)
        ids[s] = f->wanted[s] ? f->ids[s] : -1;
}
