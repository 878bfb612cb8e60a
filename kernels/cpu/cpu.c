/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.c - the CPU back end: what is opened, and the table.
 *
 * Lanes run at once in the caller, with one pool of threads for every operation. Which instruction set is used is decided
 * here, once; everything else asks `isa`.
 */
#include "kernels/cpu/cpu.h"

#include "common/base/arena.h"
#include "common/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_ROWS = 256 };

static void room_open(struct cpu_room *room, int64_t block_rows)
{
    const size_t dim = KV_HEAD_DIM_MAX, unit = 8; /* the widest operand */
    const size_t many = (size_t)block_rows * PANEL_MAX, few = (size_t)STRIP_MAX * FEW_PANELS * PANEL_MAX;

    room->tile = mem_aligned((many > few ? many : few) * 4);
    room->q = mem_aligned(ATTEND_ROWS * dim * unit);
    room->k_panels = mem_aligned(ATTEND_TOKENS * dim * 4);
    room->v_rows = mem_aligned(ATTEND_TOKENS * dim * 4);
    room->scores = mem_aligned((size_t)STRIP_MAX * DIRECT_TOKENS * 4);
    room->weights = mem_aligned((size_t)STRIP_MAX * DIRECT_TOKENS * unit);
    room->max = mem_aligned(ATTEND_ROWS * 4);
    room->sum = mem_aligned(ATTEND_ROWS * 4);
    room->out = mem_aligned(ATTEND_ROWS * dim * 4);
    room->merged = mem_aligned(ATTEND_ROWS * (dim + 2) * 4);
    room->row = mem_aligned(dim * 4);
    room->wide = mem_aligned(ATTEND_TOKENS * dim * 4);
    room->k_read = mem_aligned(ATTEND_TOKENS * dim * 4);
    room->v_read = mem_aligned(ATTEND_TOKENS * dim * 4);
}

static void room_close(struct cpu_room *room)
{
    free(room->tile);
    free(room->q);
    free(room->k_panels);
    free(room->v_rows);
    free(room->scores);
    free(room->weights);
    free(room->max);
    free(room->sum);
    free(room->out);
    free(room->merged);
    free(room->row);
    free(room->wide);
    free(room->k_read);
    free(room->v_read);
}

static void cpu_close(struct backend *be)
{
    struct cpu *c = cpu_of(be);

    if (!c)
        return;
    cpu_cache_close(be);
    pool_close(c->pool);
    for (int t = 0; c->room && t < c->threads; t++)
        room_close(&c->room[t]);
    free(c->room);
    cpu_free(be, c->operand);
    cpu_slab_close(c);
    free(c->press);
    free(c);
}

static enum status pick_isa(struct cpu *c, const struct backend_config *config, struct err *err)
{
    struct text names = { 0 };
    enum status st;

    c->isa = cpu_isa_find(config->variant);
    if (c->isa)
        return ST_OK;
    for (int i = 0; cpu_isa_at(i); i++)
        text_printf(&names, "%s%s", i ? ", " : "", cpu_isa_at(i)->name);
    st = err_set(err, ST_EUNAVAILABLE, "cpu:%s: no such instruction set here; there are %s", config->variant,
                 text_str(&names));
    text_fini(&names);
    return st;
}

static const char *cpu_describe(struct backend *be)
{
    return cpu_of(be)->describe;
}

static enum status cpu_health(struct backend *be, struct err *err)
{
    struct cpu *c = cpu_of(be);

    if (!__atomic_load_n(&c->is_broken, __ATOMIC_ACQUIRE))
        return ST_OK;
    return err_set(err, c->broken.code, "%s", c->broken.text);
}

void cpu_break(struct cpu *c, const struct err *err)
{
    if (__atomic_load_n(&c->is_broken, __ATOMIC_RELAXED))
        return;
    c->broken = *err;
    __atomic_store_n(&c->is_broken, true, __ATOMIC_RELEASE); /* whoever sees it sees the sentence */
}

extern const struct backend_ops backend_cpu_ops;

static enum status cpu_open(struct backend **out, const struct backend_config *config, struct err *err)
{
    struct cpu *c = mem_zero(1, sizeof *c);
    enum status st;

    c->base = (struct backend){ .ops = &backend_cpu_ops, .act = DT_F32, .kv = config->dtype };
    st = pick_isa(c, config, err); /* before the pool: AMX state is inherited by threads */
    if (st == ST_OK && config->dtype != DT_F32 && config->dtype != DT_BF16)
        st = err_set(err, ST_EINVAL, "cpu: computes in f32 or bf16, not in %s", dtype_word(config->dtype));
    if (st != ST_OK)
        goto out;
    c->math = config->dtype == DT_BF16 ? c->isa->bf16 : c->isa->f32;
    c->loops = c->isa->loops;
    c->rows_max = config->rows_max;
    c->block_rows = BLOCK_ROWS / c->math->strip * c->math->strip;
    c->capacity = cpu_memory_limit(config->memory_fraction > 0 ? config->memory_fraction : 1.0);
    c->threads = config->threads > 0 ? config->threads : thread_cores();
    st = pool_open(&c->pool, c->threads, err);
    if (st != ST_OK)
        goto out;
    c->room = mem_zero((size_t)c->threads, sizeof *c->room);
    for (int t = 0; t < c->threads; t++)
        room_open(&c->room[t], c->block_rows);
    snprintf(c->describe, sizeof c->describe, "cpu %s %s, %d threads", c->isa->name, dtype_word(config->dtype),
             c->threads);
    *out = &c->base;
    return ST_OK;
out:
    cpu_close(&c->base);
    return st;
}

const struct backend_ops backend_cpu_ops = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .health = cpu_health,
    .device_bytes = cpu_device_bytes,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .host_alloc = cpu_host_alloc,
    .host_free = cpu_host_free,
    .codecs = (1u << KV_CODECS) - 1,
    .host_is_device = true,
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .wait = cpu_wait,
    .fence_open = cpu_fence_open,
    .fence_close = cpu_fence_close,
    .fence_record = cpu_fence_record,
    .fence_after = cpu_fence_after,
    .fence_wait = cpu_fence_wait,
    .weight_open = cpu_weight_open,
    .weight_close = cpu_weight_close,
    .embed = cpu_embed,
    .rms_norm = cpu_rms_norm,
    .add_normed = cpu_add_normed,
    .matmul = cpu_matmul,
    .gated = cpu_gated,
    .gather_rows = cpu_gather_rows,
    .argmax = cpu_argmax,
    .qkv_to_layer = cpu_qkv_to_layer,
    .attn_prefill = cpu_attn_prefill,
    .cache_open = cpu_cache_open,
    .cache_close = cpu_cache_close,
    .slot_blocks = cpu_slot_blocks,
    .slot_page = cpu_slot_page,
    .slot_ring = cpu_slot_ring,
    .step_begin = cpu_step_begin,
    .step_embed = cpu_step_embed,
    .qkv_to_tail = cpu_qkv_to_tail,
    .attn_decode = cpu_attn_decode,
    .step_outputs = cpu_step_outputs,
    .step_choose = cpu_step_choose,
    .step_end = cpu_step_end,
    .step_result = cpu_step_result,
    .slot_gather = cpu_slot_gather,
    .queries_plain = cpu_queries_plain,
    .score_key_norm = cpu_score_key_norm,
    .score_window = cpu_score_window,
    .score_ranges = cpu_score_ranges,
    .score_random = cpu_score_random,
    .select = cpu_select,
    .pack = cpu_pack,
    .rotate_rows = cpu_rotate_rows,
    .mix_rows = cpu_mix_rows,
    .checksum = cpu_checksum,
    .row_squares = cpu_row_squares,
    .score_key_diff = cpu_score_key_diff,
    .score_key_dot = cpu_score_key_dot,
    .score_lag = cpu_score_lag,
    .channel_squares = cpu_channel_squares,
    .keep_channels = cpu_keep_channels,
    .query_stats = cpu_query_stats,
    .rotate_stats = cpu_rotate_stats,
    .score_weigh = cpu_score_weigh,
    .score_share = cpu_score_share,
    .score_expected = cpu_score_expected,
    .score_cap = cpu_score_cap,
    .score_leverage = cpu_score_leverage,
    .score_noncausal = cpu_score_noncausal,
    .score_columns = cpu_score_columns,
    .value_out_norms = cpu_value_out_norms,
    .linear = cpu_linear,
    .merge_values = cpu_merge_values,
};
