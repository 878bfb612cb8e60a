/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.c - stop 6 of 12, before there is a layer: a press as text becomes a list of stages; what it needs, whether it can
 * be met, how much it may keep. The layers are run.c's.
 *
 *      text ──parse.c──▶ words, options ──plan.c──▶ rounds ──▶ struct chain (never changes again)
 */
#include "presses/chain_parts.h"
#include "presses/held.h"
#include "presses/options.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- the canonical form ---------------------------------------------------------------------------------------- */

static void part_text(const struct chain_part *part, struct text *out)
{
    for (int32_t i = 0; i < part->stage_count; i++) {
        text_puts(out, i ? " | " : "");
        options_text(part->stages[i].press, part->stages[i].options, false, out);
    }
}

static void canonical(struct chain *c, const struct chain_read *read)
{
    struct text t = { 0 };
    const struct press_stage *decode = &read->part[read->has_second ? 1 : 0][0].stage;

    part_text(&c->prefill, &t);
    if (c->decodes && !c->goes_on) {
        text_puts(&t, t.bytes ? " ; " : "; ");
        options_text(decode->press, decode->options, false, &t);
        text_puts(&t, " | ");
        part_text(&c->decode, &t);
    }
    c->text = arena_strdup(&c->arena, t.bytes ? text_str(&t) : "none");
    text_fini(&t);
}

enum status chain_parse(struct chain **out, const char *text, size_t bytes, struct press_files *files, struct err *err)
{
    struct chain *c = mem_zero(1, sizeof *c);
    struct chain_read *read = mem_zero(1, sizeof *read);
    enum status st;

    st = chain_read_text(read, text, bytes, files, &c->arena, err);
    if (st == ST_OK)
        st = chain_plan(c, read, text, bytes, err);
    if (st == ST_OK) {
        canonical(c, read);
        c->source = arena_strndup(&c->arena, text, bytes);
        c->source_bytes = bytes;
        *out = c;
        c = NULL;
    }
    free(read);
    chain_close(c);
    return st;
}

void chain_close(struct chain *c)
{
    if (!c)
        return;
    arena_fini(&c->arena);
    free(c);
}

const char *chain_text(const struct chain *c)
{
    return c->text;
}

bool chain_presses_prefill(const struct chain *c)
{
    return c->prefill.round_count > 0;
}

bool chain_decode_part(const struct chain *c, struct chain_decode *out)
{
    if (c->decodes)
        *out = c->decode_part;
    return c->decodes;
}

bool chain_rerotates(const struct chain *c)
{
    for (int32_t i = 0; i < c->prefill.stage_count; i++)
        if (strcmp(c->prefill.stages[i].press->name, "rerotate") == 0)
            return true;
    return false;
}

int64_t chain_next_position(const struct chain *c, bool compact, int64_t tokens, int64_t rows_most)
{
    return compact || (c && chain_rerotates(c)) ? rows_most : tokens;
}

/* ---- needs ------------------------------------------------------------------------------------------------------- */

void chain_needs_of(const struct chain *c, int64_t query_tokens, bool decode, struct chain_needs *out)
{
    const struct chain_part *part = decode ? &c->decode : &c->prefill;

    memset(out, 0, sizeof *out);
    out->decode_part = c->decodes;
    for (int32_t i = 0; i < part->stage_count; i++)
        if (part->stages[i].press->needs)
            part->stages[i].press->needs(&part->stages[i], query_tokens, out);
}

void chain_places(const struct hparams *hp, int32_t layer, int32_t *place, int32_t *places)
{
    *place = *places = 0;
    for (int32_t l = 0; l < hp->layers; l++) {
        *place += l < layer && hparams_layer_is_full(hp, l);
        *places += hparams_layer_is_full(hp, l);
    }
}

/* Once all layers were held, only K, V and the last queries of each are there still. */
static enum status held_check(const struct chain *c, int64_t query_tokens, struct err *err)
{
    const struct chain_part *part = &c->prefill;
    bool held = false;

    for (int32_t i = 0; i < part->stage_count; i++) {
        struct chain_needs own = { 0 };

        if (part->stages[i].press->needs)
            part->stages[i].press->needs(&part->stages[i], query_tokens, &own);
        if (held && (own.q_plain || own.q_rotated || own.hidden || own.lse)) {
            (void)err_set(err, ST_EINVAL, "%s cannot follow %s, which holds all layers: their queries are gone by then",
                          part->stages[i].press->name, part->stages[0].press->name);
            return chain_point(err, c->source, c->source_bytes, part->at[i]);
        }
        held = held || own.all_layers;
    }
    return ST_OK;
}

/* Refuses what a part cannot do here; where that is no matter of the text, its status stays. */
static enum status part_check(const struct chain *c, const struct chain_part *part, const struct press_door *door,
                              struct err *err)
{
    for (int32_t i = 0; i < part->stage_count; i++) {
        const struct press *press = part->stages[i].press;
        enum status st = press->admit ? press->admit(&part->stages[i], door, err) : ST_OK;

        if (st == ST_EINVAL)
            return chain_point(err, c->source, c->source_bytes, part->at[i]);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

enum status chain_check(const struct chain *c, const struct hparams *hp, const struct backend_ops *ops, int64_t tokens,
                        int64_t query_tokens, struct err *err)
{
    struct press_door door = { hp, ops, tokens, query_tokens, 0 };
    int32_t place;
    enum status st;

    if (tokens < 1)
        return err_set(err, ST_EINVAL, "the context is empty: a press needs at least one token");
    if (tokens > INT32_MAX || query_tokens < 0 || query_tokens > tokens)
        return err_set(err, ST_ERANGE, "%" PRId64 " tokens with a query of %" PRId64 " cannot be pressed", tokens,
                       query_tokens);
    chain_places(hp, 0, &place, &door.places);
    st = part_check(c, &c->prefill, &door, err);
    if (st == ST_OK)
        st = held_check(c, query_tokens, err);
    return st == ST_OK ? part_check(c, &c->decode, &door, err) : st;
}

/* ---- how much stays ---------------------------------------------------------------------------------------------- */

struct press_keep chain_round_keep(const struct chain_part *part, const struct chain_round *round, int32_t place)
{
    struct press_keep keep = { 0 };

    if (round->keep >= 0)
        part->stages[round->keep].press->keep(&part->stages[round->keep], place, &keep);
    return keep;
}

int64_t chain_round_rows_max(const struct chain_part *part, const struct chain_round *r, const struct press_keep *keep,
                             int32_t place, int32_t places, int64_t n)
{
    int64_t rows = r->choose < 0 ? press_keep_rows(keep, n) : n;

    for (int32_t i = r->begin; i < r->end; i++)
        if (part->stages[i].press->rows_max)
            rows = part->stages[i].press->rows_max(&part->stages[i], keep, place, places, n);
    return rows < n ? rows : n;
}

static int64_t prefill_rows_max(const struct chain *c, int32_t round, int32_t place, int32_t places, int64_t n)
{
    const struct chain_round *r = &c->prefill.rounds[round];
    struct press_keep keep = chain_round_keep(&c->prefill, r, place);

    return chain_round_rows_max(&c->prefill, r, &keep, place, places, n);
}

int64_t chain_rows_max(const struct chain *c, const struct hparams *hp, int32_t layer, int64_t tokens)
{
    int64_t rows = tokens; /* per head on average: where heads compete, their sum is what is bounded */
    int32_t place, places;

    chain_places(hp, layer, &place, &places);
    if (hparams_layer_is_full(hp, layer))
        for (int32_t i = 0; i < c->prefill.round_count; i++)
            rows = prefill_rows_max(c, i, place, places, rows);
    return rows * hp->kv_heads;
}

int64_t chain_rows_max_all(const struct chain *c, const struct hparams *hp, int64_t tokens)
{
    const struct chain_round *r = c->prefill.rounds; /* the first */
    int64_t rows = 0, total = INT64_MAX;

    if (c->prefill.round_count > 0 && r->score >= 0 && r->keep >= 0 && c->prefill.stages[r->score].press->exact_total) {
        struct press_keep keep = chain_round_keep(&c->prefill, r, 0);
        int32_t place, places;

        chain_places(hp, 0, &place, &places);
        total =
            held_kept(&keep, tokens, tokens * hp->kv_heads * places) + tokens * hp->kv_heads * (hp->layers - places);
    }
    for (int32_t l = 0; l < hp->layers; l++)
        rows += chain_rows_max(c, hp, l, tokens);
    return rows < total ? rows : total;
}
