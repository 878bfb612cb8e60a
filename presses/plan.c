/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.c - which stage may stand after which: the rounds of a part.
 *
 *      start ──score──▶ scored ──keep──▶ kept ──edit──▶ kept
 *        │               │  ▲             └──score──▶ scored (a new round, on the survivors)
 *        │               │  └── refine
 *        │               └── dms ──▶ kept
 *        └── duo, simlayer, edits ──▶ kept
 */
#include "common/base/text.h"
#include "presses/chain_parts.h"

#include <assert.h>
#include <string.h>

/* A part while it is planned. */
struct plan {
    const struct stage_read *read;
    int32_t count;
    bool decode; /* the decode part */
    const char *text;
    size_t bytes;
    struct err *err;

    struct chain_round *rounds;
    int32_t round_count;
    bool open;   /* the last round has scored and not kept */
    bool uneven; /* heads may differ in rows by now */
};

static enum status refuse(struct plan *p, int32_t at)
{
    return chain_point(p->err, p->text, p->bytes, at < p->count ? p->read[at].at : p->bytes);
}

static const char *name_of(const struct plan *p, int32_t stage)
{
    return p->read[stage].stage.press->name;
}

/* What may end a round here. */
static const char *keeps(const struct plan *p)
{
    return p->decode ? "ratio or rows" : "ratio, rows or ratios";
}

/* Not in the decode part; what may stand in its place. */
static enum status refuse_decode(struct plan *p, int32_t at)
{
    const enum press_kind kind = p->read[at].stage.press->kind;
    const struct press *other;
    struct text list = { 0 };

    for (size_t i = 0; (other = press_at(i)) != NULL; i++)
        if (other->kind == kind && press_built(other) && !other->prefill_only)
            text_printf(&list, "%s%s", list.bytes > 0 ? ", " : "", other->name);
    (void)err_set(p->err, ST_EINVAL, "%s cannot stand in the decode part; expected %s", name_of(p, at),
                  kind == PRESS_EDIT     ? "the end"
                  : kind == PRESS_CHOOSE ? "a score and ratio or rows"
                                         : text_str(&list));
    text_fini(&list);
    return refuse(p, at);
}

static struct chain_round *round_open(struct plan *p, int32_t at)
{
    struct chain_round *r = &p->rounds[p->round_count++];

    *r = (struct chain_round){ at, at, -1, -1, -1, -1, -1, p->uneven };
    return r;
}

static enum status plan_score(struct plan *p, int32_t at)
{
    const struct press *press = p->read[at].stage.press;
    struct chain_round *r;

    if (p->open) {
        (void)err_set(p->err, ST_EINVAL,
                      "%s scores again before anything was kept; expected %s, or a refinement, after %s", press->name,
                      keeps(p), name_of(p, p->rounds[p->round_count - 1].score));
        return refuse(p, at);
    }
    if (press->first_only && p->round_count > 0) {
        (void)err_set(p->err, ST_EINVAL, "%s sees the whole context: it can only be the first stage", press->name);
        return refuse(p, at);
    }
    if (press->even_only && p->uneven) {
        (void)err_set(p->err, ST_EINVAL,
                      "%s needs equally many rows in every head; it cannot follow a stage that gives "
                      "heads different budgets",
                      press->name);
        return refuse(p, at);
    }
    if (press->prefill_only && p->decode)
        return refuse_decode(p, at);
    r = round_open(p, at);
    r->score = at;
    p->open = true;
    return ST_OK;
}

static enum status plan_refine(struct plan *p, int32_t at)
{
    const struct press *press = p->read[at].stage.press;
    struct chain_round *r = p->round_count ? &p->rounds[p->round_count - 1] : NULL;

    if (!p->open) {
        (void)err_set(p->err, ST_EINVAL, "%s refines a score; expected a score (snapkv, knorm, ...) before it",
                      press->name);
        return refuse(p, at);
    }
    assert(r); /* the open round */
    if (r->budget >= 0) {
        (void)err_set(p->err, ST_EINVAL, "%s cannot stand after %s; expected %s", press->name, name_of(p, r->budget),
                      keeps(p));
        return refuse(p, at);
    }
    if (p->read[r->score].stage.press->settle) {
        (void)err_set(p->err, ST_EINVAL, "%s shares out its rows by itself; expected ratio or rows, not %s",
                      name_of(p, r->score), press->name);
        return refuse(p, at);
    }
    if (press->prefill_only && p->decode)
        return refuse_decode(p, at);
    if (press->even_only && p->uneven) {
        (void)err_set(p->err, ST_EINVAL,
                      "%s needs equally many rows in every head; it cannot follow a stage that gives "
                      "heads different budgets",
                      press->name);
        return refuse(p, at);
    }
    if (press->decode_only && !p->decode) {
        (void)err_set(p->err, ST_EINVAL, "%s stands in a decode part only", press->name);
        return refuse(p, at);
    }
    if (press->in_parts && p->read[r->score].stage.press->whole_only) {
        (void)err_set(p->err, ST_EINVAL, "%s scores parts of the rows alone, which %s cannot do", press->name,
                      name_of(p, r->score));
        return refuse(p, at);
    }
    if (press->follows && press->follows(&p->read[at].stage, &p->read[r->score].stage, p->err) != ST_OK)
        return refuse(p, at);
    if (press->budget || press->choose)
        r->budget = at;
    return ST_OK;
}

static enum status plan_keep(struct plan *p, int32_t at)
{
    struct chain_round *r = p->round_count ? &p->rounds[p->round_count - 1] : NULL;

    if (!p->open) {
        (void)err_set(p->err, ST_EINVAL,
                      r && r->keep >= 0 ? "%s keeps a second time in one round; expected a score or an edit before it"
                                        : "%s keeps the best rows of a score; expected a score (snapkv, knorm, ...) "
                                          "before it",
                      name_of(p, at));
        return refuse(p, at);
    }
    assert(r); /* the open round */
    if (p->decode && strcmp(name_of(p, at), "ratios") == 0) {
        (void)err_set(p->err, ST_EINVAL, "ratios cannot stand in the decode part; expected ratio or rows");
        return refuse(p, at);
    }
    if (p->read[r->score].stage.press->settle && strcmp(name_of(p, at), "ratios") == 0) {
        (void)err_set(p->err, ST_EINVAL, "%s lets layers compete; expected ratio or rows, not ratios",
                      name_of(p, r->score));
        return refuse(p, at);
    }
    r->keep = at;
    return ST_OK;
}

/* Whether a stage that decides alone goes on while tokens are generated. */
static bool goes_on(const struct press_stage *stage)
{
    struct chain_decode part = { 0 };

    if (stage->press->decode)
        stage->press->decode(stage, &part);
    return part.every > 0;
}

/* Stages that decide alone: dms closes a score, duo and simlayer stand without one. */
static enum status plan_choose(struct plan *p, int32_t at)
{
    const struct press *press = p->read[at].stage.press;
    struct chain_round *r = p->round_count ? &p->rounds[p->round_count - 1] : NULL;

    if (p->decode)
        return refuse_decode(p, at);
    if (press->wants_score && !p->open) {
        (void)err_set(p->err, ST_EINVAL, "%s decides by a score; expected a score (kvzap, knorm, ...) before it",
                      press->name);
        return refuse(p, at);
    }
    assert(r || !press->wants_score);
    if (press->wants_score && r->budget >= 0) {
        (void)err_set(p->err, ST_EINVAL, "%s cannot stand after %s; expected %s", press->name, name_of(p, r->budget),
                      keeps(p));
        return refuse(p, at);
    }
    assert(r || !p->open); /* a score opens a round */
    if (press->wants_score && goes_on(&p->read[at].stage) && at > r->score + 1) {
        (void)err_set(p->err, ST_EINVAL,
                      "%s goes on by the score alone while tokens are generated; it cannot stand after %s", press->name,
                      name_of(p, at - 1));
        return refuse(p, at);
    }
    if (!press->wants_score && p->open) {
        (void)err_set(p->err, ST_EINVAL, "%s decides alone, without a score; expected ratio, rows or ratios after %s",
                      press->name, name_of(p, r->score));
        return refuse(p, at);
    }
    if (press->first_only && p->round_count > 0) {
        (void)err_set(p->err, ST_EINVAL, "%s sees the whole context: it can only be the first stage", press->name);
        return refuse(p, at);
    }
    if (press->wants_score && press->follows &&
        press->follows(&p->read[at].stage, &p->read[r->score].stage, p->err) != ST_OK)
        return refuse(p, at);
    if (!press->wants_score)
        r = round_open(p, at);
    r->choose = at;
    return ST_OK;
}

static enum status plan_edit(struct plan *p, int32_t at)
{
    struct chain_round *r = p->round_count ? &p->rounds[p->round_count - 1] : NULL;
    const char *name = name_of(p, at);

    if (p->open) {
        (void)err_set(p->err, ST_EINVAL, "%s changes rows that were kept; expected ratio, rows or ratios before it",
                      name);
        return refuse(p, at);
    }
    if (p->decode)
        return refuse_decode(p, at);
    for (int32_t i = r ? r->begin : 0; i < at; i++)
        if (p->read[i].stage.press == p->read[at].stage.press) {
            (void)err_set(p->err, ST_EINVAL, "%s stands twice", name);
            return refuse(p, at);
        }
    for (int32_t i = 0; strcmp(name, "rerotate") == 0 && i < at; i++)
        if (p->read[i].stage.press->edits_keys) {
            (void)err_set(p->err, ST_EINVAL, "rerotate turns whole keys; expected it before %s", name_of(p, i));
            return refuse(p, at);
        }
    if (!r)
        r = round_open(p, at);
    if (r->edits < 0)
        r->edits = at;
    return ST_OK;
}

/* A round after one that goes on while tokens are generated: whose rows would go on? */
static enum status refuse_after_going_on(struct plan *p, int32_t at)
{
    const struct press *press = p->read[at].stage.press;
    const struct chain_round *last = p->round_count > 0 ? &p->rounds[p->round_count - 1] : NULL;
    const bool opens = press->kind == PRESS_SCORE || (press->kind == PRESS_CHOOSE && !press->wants_score);

    if (!opens || !last || last->choose < 0 || !goes_on(&p->read[last->choose].stage))
        return ST_OK;
    (void)err_set(p->err, ST_EINVAL, "%s goes on while tokens are generated; expected an edit or the end, not %s",
                  name_of(p, last->choose), press->name);
    return refuse(p, at);
}

static enum status plan_stage(struct plan *p, int32_t at)
{
    const struct press *press = p->read[at].stage.press;
    enum status st = refuse_after_going_on(p, at);
    bool closes = false;

    if (st != ST_OK)
        return st;
    switch (press->kind) {
    case PRESS_SCORE:
        st = plan_score(p, at);
        break;
    case PRESS_REFINE:
        st = plan_refine(p, at);
        break;
    case PRESS_KEEP:
        st = plan_keep(p, at);
        closes = true;
        break;
    case PRESS_CHOOSE:
        st = plan_choose(p, at);
        closes = true;
        break;
    case PRESS_EDIT:
        st = plan_edit(p, at);
        break;
    case PRESS_DECODE:
        (void)err_set(p->err, ST_EINVAL, "%s opens the second part; expected \";\" before it", press->name);
        return refuse(p, at);
    }
    if (st != ST_OK)
        return st;
    if (closes)
        p->open = false;
    p->uneven = p->uneven || press->uneven;
    p->rounds[p->round_count - 1].uneven = p->uneven;
    p->rounds[p->round_count - 1].end = at + 1;
    return ST_OK;
}

/* The rounds of `count` stages. */
static enum status plan_part(struct chain *c, struct chain_part *out, struct plan *p)
{
    enum status st;

    p->rounds = arena_array(&c->arena, (size_t)p->count + 1, sizeof *p->rounds);
    out->stages = arena_array(&c->arena, (size_t)p->count + 1, sizeof *out->stages);
    out->at = arena_array(&c->arena, (size_t)p->count + 1, sizeof *out->at);
    for (int32_t at = 0; at < p->count; at++) {
        out->stages[at] = p->read[at].stage;
        out->at[at] = p->read[at].at;
        st = plan_stage(p, at);
        if (st != ST_OK)
            return st;
    }
    if (p->open) {
        (void)err_set(p->err, ST_EINVAL, "the round of %s keeps nothing; expected %s after %s",
                      name_of(p, p->rounds[p->round_count - 1].score), keeps(p), name_of(p, p->count - 1));
        return refuse(p, p->count - 1);
    }
    assert(!p->decode || p->round_count > 0); /* it has stages, and edits are refused */
    if (p->decode && p->round_count > 1) {
        (void)err_set(p->err, ST_EINVAL, "the decode part is one score and one ratio or rows; expected the end, not %s",
                      name_of(p, p->rounds[1].begin));
        return refuse(p, p->rounds[1].begin);
    }
    out->stage_count = p->count;
    out->rounds = p->rounds;
    out->round_count = p->round_count;
    for (int32_t i = 0; i < out->round_count; i++)
        if (out->rounds[i].edits < 0)
            out->rounds[i].edits = out->rounds[i].end;
    return ST_OK;
}

/* `none` is no stage: it says that there are none. */
static enum status plan_none(const struct chain_read *read, int32_t part, const char *text, size_t bytes,
                             struct err *err, int32_t *count)
{
    *count = read->count[part];
    for (int32_t i = 0; i < read->count[part]; i++)
        if (strcmp(read->part[part][i].stage.press->name, "none") == 0) {
            if (read->count[part] == 1) {
                *count = 0;
                return ST_OK;
            }
            (void)err_set(err, ST_EINVAL, "none keeps everything; it stands alone");
            return chain_point(err, text, bytes, read->part[part][i].at);
        }
    return ST_OK;
}

static bool begins_decode(const struct chain_read *read, int32_t part)
{
    return read->count[part] > 0 && read->part[part][0].stage.press->kind == PRESS_DECODE;
}

static enum status plan_decode(struct chain *c, const struct chain_read *read, int32_t part, const char *text,
                               size_t bytes, struct err *err)
{
    struct plan p = { read->part[part] + 1, read->count[part] - 1, true, text, bytes, err, NULL, 0, false, false };
    const struct stage_read *head = read->part[part];
    struct press_keep keep = { 0 };
    struct chain_needs needs;
    int64_t calls;
    enum status st;

    /* from the second compression on it sees the rows that the first one left */
    p.uneven = c->prefill.round_count > 0 && c->prefill.rounds[c->prefill.round_count - 1].uneven;
    for (int32_t i = 0; i < p.count; i++)
        p.uneven = p.uneven || p.read[i].stage.press->uneven;
    if (p.count == 0) {
        (void)err_set(err, ST_EINVAL, "the decode part has no score; expected \"|\" and a score after decode");
        return chain_point(err, text, bytes, head->at);
    }
    st = plan_part(c, &c->decode, &p);
    if (st != ST_OK)
        return st;
    c->decodes = true;
    head->stage.press->decode(&head->stage, &c->decode_part);
    keep = chain_round_keep(&c->decode, &c->decode.rounds[0], 0);
    c->decode_part.rows = keep.rows;
    c->decode_part.ratio = keep.ratio;
    for (int32_t i = 0; i < c->decode.stage_count; i++)
        if (c->decode.stages[i].press->decode)
            c->decode.stages[i].press->decode(&c->decode.stages[i], &c->decode_part);
    chain_needs_of(c, 0, true, &needs);
    calls = c->decode_part.every < c->decode_part.buffer + 1 ? c->decode_part.every : c->decode_part.buffer + 1;
    if (needs.q_tail > calls) {
        (void)err_set(err, ST_EINVAL,
                      "%s looks at the last %lld queries; decode with every=%lld,buffer=%lld has only %lld",
                      name_of(&p, 0), (long long)needs.q_tail, (long long)c->decode_part.every,
                      (long long)c->decode_part.buffer, (long long)calls);
        return refuse(&p, 0);
    }
    return ST_OK;
}

/* A stage that decides alone and goes on while tokens are generated: its round is the decode part. */
static void plan_going_on(struct chain *c)
{
    const struct chain_round *last = c->prefill.round_count ? &c->prefill.rounds[c->prefill.round_count - 1] : NULL;
    const struct press_stage *rule = last && last->choose >= 0 ? &c->prefill.stages[last->choose] : NULL;

    if (!rule || !goes_on(rule))
        return;
    rule->press->decode(rule, &c->decode_part);
    if (!c->prefill.stages[last->score].press->token_alone)
        c->decode_part.scored = 0;
    c->decodes = c->goes_on = true;
    c->decode.stages = arena_array(&c->arena, 2, sizeof *c->decode.stages);
    c->decode.stages[0] = c->prefill.stages[last->score];
    c->decode.stages[1] = *rule;
    c->decode.stage_count = 2;
    c->decode.rounds = arena_array(&c->arena, 1, sizeof *c->decode.rounds);
    c->decode.rounds[0] = (struct chain_round){ 0, 2, 0, -1, -1, 1, 2, true };
    c->decode.round_count = 1;
}

enum status chain_plan(struct chain *c, const struct chain_read *read, const char *text, size_t bytes, struct err *err)
{
    int32_t decode = begins_decode(read, 0) ? 0 : 1;
    struct plan p = { read->part[0], 0, false, text, bytes, err, NULL, 0, false, false };
    enum status st = ST_OK;

    if (read->has_second && (decode == 0 || !begins_decode(read, 1))) {
        const struct stage_read *word = read->count[1] ? &read->part[1][0] : NULL;

        (void)err_set(err, ST_EINVAL,
                      decode == 0 ? "nothing stands after the decode part; expected the end, not %s"
                                  : "the second part begins with decode; expected decode after \";\", not %s",
                      word ? word->stage.press->name : "the end");
        return chain_point(err, text, bytes, word ? word->at : bytes);
    }
    if (decode == 1) {
        st = plan_none(read, 0, text, bytes, err, &p.count);
        if (st == ST_OK)
            st = plan_part(c, &c->prefill, &p);
    }
    if (st == ST_OK)
        plan_going_on(c);
    if (st == ST_OK && c->goes_on && begins_decode(read, decode)) {
        (void)err_set(err, ST_EINVAL, "dms: decoding=on works while tokens are generated; no decode part can follow");
        return chain_point(err, text, bytes, read->part[decode][0].at);
    }
    if (st == ST_OK && begins_decode(read, decode))
        st = plan_decode(c, read, decode, text, bytes, err);
    return st;
}
