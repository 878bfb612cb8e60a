/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_every_press.c - what every row of presses.def promises, whatever it is: a press that is added is tested by being
 * listed. Each press is put into the shortest chain that it can stand in.
 */
#include "common/base/text.h"
#include "presses/held.h"
#include "presses/options.h"
#include "presses/run_parts.h"
#include "tests/support/cmocka_main.h"
#include "tests/support/small_files.h"
#include "tests/support/small_layer.h"

#include <math.h>
#include <stdlib.h>

static struct backend *be[2]; /* one thread, two threads */
static struct press_files *files;
static struct hparams hp;

/* What a press needs to be written with. */
static const char *parameters(const char *name)
{
    static const char *const table[][2] = {
        { "qfilter", "qfilter:file=qfilter" },
        { "expected-stats", "expected-stats:file=stats" },
        { "kvzap", "kvzap:file=kvzap-linear" },
        { "fastkvzip", "fastkvzip:file=fast" },
        { "lukv", "lukv:file=lukv" },
        { "duo", "duo:file=duo" },
        { "dms", "dms:threshold=-2.5,window=4" },
        { "snapkv", "snapkv:window=6" },
        { "finch", "finch:window=5" },
        { "lagkv", "lagkv:lag=8" },
        { "noncausal", "noncausal:chunk=24" },
        { "compactor", "compactor:chunk=24" },
        { "chunk", "chunk:length=20" },
        { "block", "block:size=10" },
        { "simlayer", "simlayer:threshold=0.1,recent=9" },
        { "kvzip", "kvzip:chunk=40" },
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i][0], name) == 0)
            return table[i][1];
    return name;
}

/* The shortest chain with the press; false where there is nothing to run (keeps, the decode part, `none`). */
static bool chain_with(const struct press *p, const char *keep, char *out, size_t room)
{
    const char *text = parameters(p->name);

    if (p->decode_only || !press_built(p) || strcmp(p->name, "none") == 0)
        return false;
    switch (p->kind) {
    case PRESS_SCORE:
        snprintf(out, room, "%s | %s", text, keep);
        return true;
    case PRESS_REFINE:
        snprintf(out, room, "%s | %s | %s", strcmp(p->name, "pyramid") == 0 ? "snapkv:window=6" : "keydiff", text,
                 keep);
        return true;
    case PRESS_CHOOSE:
        snprintf(out, room, "%s%s", p->wants_score ? "knorm | " : "", text);
        return true;
    case PRESS_EDIT:
        snprintf(out, room, "knorm | %s | %s", keep, text);
        return true;
    case PRESS_KEEP:
    case PRESS_DECODE:
        break;
    }
    return false;
}

/* What a run left: rows of every layer. */
struct outcome {
    struct press_result result[SMALL_LAYERS];
    int32_t token[SMALL_LAYERS][SMALL_G * SMALL_TOKENS];
    float score[SMALL_LAYERS][SMALL_G * SMALL_TOKENS];
    int64_t total;
};

static void cut_layer(struct small_layer *s, int64_t tokens)
{
    s->in.tokens = s->in.kv.tokens = s->in.q_tail_rows = tokens;
}

static void feed_all(struct press_run *run, struct small_layer *layers, int64_t tokens)
{
    static float x[2 * SMALL_TOKENS * SMALL_X], q[2 * SMALL_TOKENS * SMALL_H * SMALL_D], out[sizeof q / 4],
        lse[SMALL_H * 4 * SMALL_TOKENS];
    struct err err = { 0 };

    for (int32_t feed = 0; feed < press_run_feeds(run); feed++)
        for (int32_t l = 0; l < SMALL_LAYERS; l++) {
            struct small_layer *s = &layers[l];
            struct press_layer in = s->in;
            const int32_t *token;
            int64_t rows = press_run_feed(run, feed, &token);
            struct attn_span span = { .rows = rows, .token = tokens };

            assert_in_range(tokens + rows, 1, 2 * SMALL_TOKENS);
            small_fill(70 + (uint64_t)feed, rows * SMALL_X, x);
            small_project(s, x, rows, tokens, tokens, q, NULL);
            in.kv.tokens = tokens + rows;
            in.q = q;
            in.hidden = x;
            span.kv = in.kv;
            run->be->ops->attn_prefill(run->be, &span, 1, q, SMALL_H, hp.attn_scale, 0, out, lse, 4 * SMALL_TOKENS);
            in.lse = lse + tokens;
            in.lse_stride = 4 * SMALL_TOKENS;
            if (press_run_feed_layer(run, feed, &in, rows, &err) != ST_OK)
                fail_msg("%s", err.text);
        }
}

/* Scratch that presses hold now. */
static uint64_t scratch_bytes(struct backend *on)
{
    struct device_bytes b;

    on->ops->device_bytes(on, &b);
    return b.other;
}

/* Runs a chain on the first `tokens` tokens of all layers. */
static void run_chain(const char *text, int64_t tokens, struct backend *on, struct outcome *o)
{
    static const int32_t ids[SMALL_TOKENS] = { 0 };
    struct press_prompt prompt = { .token = ids,
                                   .tokens = tokens,
                                   .prefix_tokens = tokens < 3 ? 0 : 3,
                                   .suffix = ids,
                                   .suffix_tokens = 1,
                                   .repeat_all = ids,
                                   .repeat_all_tokens = 4,
                                   .repeat_part = ids,
                                   .repeat_part_tokens = 4 };
    struct small_layer layers[SMALL_LAYERS];
    struct chain_needs needs;
    struct chain *chain;
    struct press_run *run;
    struct err err = { 0 };
    uint64_t open, most;

    memset(o, 0, sizeof *o);
    if (chain_parse(&chain, text, strlen(text), files, &err) != ST_OK)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(press_run_open(&run, on, &hp, SMALL_TOKENS, &err), ST_OK);
    open = scratch_bytes(on);
    most = press_run_bytes(chain, on, &hp, tokens, press_feed_max(chain, &prompt), false);
    if (press_run_begin(run, chain, tokens, 0, false, &err) != ST_OK)
        fail_msg("%s: %s", text, err.text);
    chain_needs_of(chain, 0, false, &needs);
    for (int32_t l = 0; l < SMALL_LAYERS; l++) {
        small_open(&layers[l], on, l);
        cut_layer(&layers[l], tokens);
        if (needs.all_layers)
            assert_int_equal(press_run_hold(run, &layers[l].in, &err), ST_OK);
    }
    if (needs.all_layers) {
        press_run_prompt(run, &prompt);
        feed_all(run, layers, tokens);
        assert_int_equal(press_run_settle(run, &err), ST_OK);
    }
    for (int32_t l = 0; l < SMALL_LAYERS; l++) {
        memset(run->score, 0xff, sizeof o->score[l]); /* NaN: what no press writes is not what an earlier one left */
        if (press_run_layer(run, &layers[l].in, &o->result[l], &err) != ST_OK)
            fail_msg("%s, %d tokens: %s", text, (int)tokens, err.text);
        assert_int_equal(press_run_tokens(run, &o->result[l], o->token[l], &err), ST_OK);
        memcpy(o->score[l], run->score, sizeof o->score[l]);
        o->total += o->result[l].first[SMALL_G];
        if (o->result[l].first[SMALL_G] > chain_rows_max(chain, &hp, l, tokens))
            fail_msg("%s: layer %d of %d tokens keeps %d rows, promised were %d", text, l, (int)tokens,
                     (int)o->result[l].first[SMALL_G], (int)chain_rows_max(chain, &hp, l, tokens));
    }
    assert_in_range(o->total, 0, chain_rows_max_all(chain, &hp, tokens));
    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        small_close(&layers[l]);
    if (scratch_bytes(on) - open > most)
        fail_msg("%s: %d tokens took %llu bytes of scratch, promised were %llu", text, (int)tokens,
                 (unsigned long long)(scratch_bytes(on) - open), (unsigned long long)most);
    press_run_close(run);
    chain_close(chain);
}

static void rows_are_ascending(const struct outcome *o, const char *text, int64_t tokens)
{
    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        for (int32_t g = 0; g < SMALL_G; g++)
            for (int64_t i = o->result[l].first[g]; i < o->result[l].first[g + 1]; i++) {
                int32_t t = o->token[l][i];

                if (t < 0 || t >= tokens || (i > o->result[l].first[g] && t <= o->token[l][i - 1]))
                    fail_msg("%s: layer %d, head %d holds token %d out of order", text, l, g, t);
            }
}

/* For each press, with its chain for a keep. */
static void for_every_press(const char *keep, void (*promise)(const struct press *p, const char *text))
{
    const struct press *p;
    char text[256];
    int seen = 0;

    for (size_t i = 0; (p = press_at(i)) != NULL; i++)
        if (chain_with(p, keep, text, sizeof text)) {
            promise(p, text);
            seen++;
        }
    assert_in_range(seen, 30, 100);
}

/* ---- the promises ---------------------------------------------------------------------------------------------------- */

static void finite_scores(const struct press *p, const char *text)
{
    struct outcome o;

    run_chain(text, SMALL_TOKENS, be[1], &o);
    for (int32_t l = 0; (p->kind == PRESS_SCORE || p->refine) && l < SMALL_LAYERS; l++)
        for (int i = 0; i < SMALL_G * SMALL_TOKENS; i++)
            if (!isfinite(o.score[l][i]))
                fail_msg("%s: score %d of layer %d is %g", text, i, l, (double)o.score[l][i]);
}

static void every_score_is_finite(void **state)
{
    (void)state;
    for_every_press("ratio=0.5", finite_scores);
}

/* Whether the press keeps something else than the budget by its own rule. */
static bool has_own_rule(const struct press *p)
{
    static const char *const own[] = { "chunk", "chunkkv", "lukv", "pyramid", "kvcompose" };

    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        if (strcmp(p->name, own[i]) == 0)
            return true;
    return p->kind == PRESS_CHOOSE;
}

static void exact(const struct press *p, const char *text)
{
    struct press_keep keep = { 0.6, 0 };
    struct outcome o;

    run_chain(text, SMALL_TOKENS, be[1], &o);
    rows_are_ascending(&o, text, SMALL_TOKENS);
    if (has_own_rule(p))
        return;
    if (p->exact_total) {
        assert_int_equal(o.total, held_kept(&keep, SMALL_TOKENS, SMALL_LAYERS * SMALL_G * SMALL_TOKENS));
        return;
    }
    for (int32_t l = 0; l < SMALL_LAYERS; l++) {
        if (o.result[l].first[SMALL_G] != SMALL_G * press_keep_rows(&keep, SMALL_TOKENS))
            fail_msg("%s: layer %d keeps %d rows", text, l, (int)o.result[l].first[SMALL_G]);
        for (int32_t g = 0; !p->uneven && g < SMALL_G; g++)
            assert_int_equal(o.result[l].first[g + 1] - o.result[l].first[g], press_keep_rows(&keep, SMALL_TOKENS));
    }
}

static void every_budget_is_kept_exactly_in_ascending_rows(void **state)
{
    (void)state;
    for_every_press("ratio=0.6", exact);
}

/* Where a press that decides by itself has nothing to drop. */
static const char *neutral(const struct press *p, const char *text)
{
    static const char *const table[][2] = {
        { "dms", "knorm | dms:threshold=-1e30,window=4" },
        { "duo", "duo:file=duo,heads=0" },
        { "simlayer", "simlayer:recent=9" },
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i][0], p->name) == 0)
            return table[i][1];
    assert_int_not_equal(p->kind, PRESS_CHOOSE); /* a new one: how does it keep everything? */
    return text;
}

static void identity(const struct press *p, const char *text)
{
    struct outcome o;

    text = neutral(p, text);
    run_chain(text, SMALL_TOKENS, be[1], &o);
    assert_int_equal(o.total, SMALL_LAYERS * SMALL_G * SMALL_TOKENS);
    rows_are_ascending(&o, text, SMALL_TOKENS);
}

static void ratio_0_keeps_everything(void **state)
{
    (void)state;
    for_every_press("ratio=0", identity);
}

/* So windows, sinks, chunks and blocks of every press meet contexts that they fill exactly, and by one more or less. */
static void every_length(const struct press *p, const char *text)
{
    struct outcome o;

    for (int64_t tokens = 1; tokens <= SMALL_TOKENS; tokens++) {
        run_chain(text, tokens, be[0], &o);
        rows_are_ascending(&o, text, tokens);
        for (int32_t l = 0; !p->uneven && l < SMALL_LAYERS; l++)
            for (int32_t g = 0; g < SMALL_G; g++)
                if (o.result[l].first[g + 1] == o.result[l].first[g])
                    fail_msg("%s: %d tokens leave head %d of layer %d empty", text, (int)tokens, g, l);
        if (p->exact_total) {
            struct press_keep keep = { 0.5, 0 };

            assert_int_equal(o.total, held_kept(&keep, tokens, SMALL_LAYERS * SMALL_G * tokens));
        }
    }
}

static void contexts_of_one_token_and_of_every_length_are_pressed(void **state)
{
    (void)state;
    for_every_press("ratio=0.5", every_length);
}

static void the_same(const struct press *p, const char *text)
{
    struct outcome a, b, c;

    (void)p;
    run_chain(text, SMALL_TOKENS, be[1], &a);
    run_chain(text, SMALL_TOKENS, be[1], &b);
    run_chain(text, SMALL_TOKENS, be[0], &c);
    for (int32_t l = 0; l < SMALL_LAYERS; l++) {
        size_t bytes = (size_t)a.result[l].first[SMALL_G] * sizeof(int32_t);

        assert_memory_equal(a.result[l].first, b.result[l].first, sizeof(int64_t) * (SMALL_G + 1));
        assert_memory_equal(a.token[l], b.token[l], bytes);
        assert_memory_equal(a.result[l].first, c.result[l].first, sizeof(int64_t) * (SMALL_G + 1));
        assert_memory_equal(a.token[l], c.token[l], bytes);
    }
}

static void every_run_and_every_number_of_threads_keeps_the_same_rows(void **state)
{
    (void)state;
    for_every_press("ratio=0.7", the_same);
}

static void rerotated(const struct press *p, const char *text)
{
    char longer[300];
    struct outcome a, b;

    if (p->kind == PRESS_EDIT)
        return;
    snprintf(longer, sizeof longer, "%s | rerotate", text);
    run_chain(text, SMALL_TOKENS, be[1], &a);
    run_chain(longer, SMALL_TOKENS, be[1], &b);
    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        assert_memory_equal(a.token[l], b.token[l], (size_t)a.result[l].first[SMALL_G] * sizeof(int32_t));
}

static void rows_are_told_as_original_positions_after_rerotate(void **state)
{
    (void)state;
    for_every_press("ratio=0.5", rerotated);
}

/* The shortest chain of the press with this option; other options as in the shortest chain. */
static void option_text(const struct press *p, const struct opt *o, const char *value, char *text, size_t room)
{
    char stage[256], rest[200] = "";
    const char *given = parameters(p->name), *colon = strchr(given, ':');

    for (const char *c = colon ? colon + 1 : ""; *c;) { /* the other options of the shortest chain */
        size_t n = strcspn(c, ",");

        if (strncmp(c, o->name, strlen(o->name)) != 0 || c[strlen(o->name)] != '=')
            snprintf(rest + strlen(rest), sizeof rest - strlen(rest), ",%.*s", (int)n, c);
        c += n + (c[n] != '\0');
    }
    if (p->has_value && o == p->options)
        snprintf(stage, sizeof stage, "%s=%s", p->name, value);
    else
        snprintf(stage, sizeof stage, "%s:%s=%s%s", p->name, o->name, value, rest);
    if (p->kind == PRESS_DECODE)
        snprintf(text, room, "; %s | knorm | rows=8", stage);
    else if (p->decode_only)
        snprintf(text, room, "; decode | knorm | %s | rows=8", stage);
    else if (p->kind == PRESS_SCORE)
        snprintf(text, room, "%s | ratio=0.5", stage);
    else if (p->kind == PRESS_REFINE)
        snprintf(text, room, "snapkv:window=6 | %s | ratio=0.5", stage);
    else if (p->kind == PRESS_KEEP)
        snprintf(text, room, "knorm | %s", stage);
    else
        snprintf(text, room, "%s%s", p->wants_score ? "knorm | " : "", stage);
}

/* Whether the stage `name` with this option is taken. */
static enum status parse_option(const struct press *p, const struct opt *o, const char *value, struct err *err)
{
    char text[512];
    struct chain *chain = NULL;
    enum status st;

    option_text(p, o, value, text, sizeof text);
    st = chain_parse(&chain, text, strlen(text), files, err);
    chain_close(chain);
    return st;
}

static void number_text(char *out, size_t room, const struct opt *o, double v)
{
    snprintf(out, room, o->type == OPT_INT ? "%.0f" : "%.17g", v);
}

/* A refusal that comes from another rule than the option's own limits (kernel is odd, low < length, ...). */
static bool has_a_rule_of_its_own(const struct press *p, const struct opt *o)
{
    return p->check && strstr("kernel low length last recent buffer every", o->name);
}

static void every_option_takes_its_limits_and_nothing_past_them(void **state)
{
    const struct press *p;
    int seen = 0;

    (void)state;
    for (size_t i = 0; (p = press_at(i)) != NULL; i++)
        for (size_t k = 0; press_built(p) && k < p->option_count; k++) {
            const struct opt *o = &p->options[k];
            double step = o->type == OPT_INT ? 1 : 0.5, values[] = { o->min - step, o->min, o->max, o->max + step };
            char text[64];

            if ((o->type != OPT_INT && o->type != OPT_FLOAT) || fabs(o->max) > 1e29)
                continue;
            for (int v = 0; v < 4; v++) {
                struct err err = { 0 };
                bool inside = v == 1 || v == 2;
                enum status st;

                number_text(text, sizeof text, o, values[v]);
                st = parse_option(p, o, text, &err);
                if (inside && st != ST_OK && !has_a_rule_of_its_own(p, o))
                    fail_msg("%s:%s=%s is refused: %s", p->name, o->name, text, err.text);
                if (!inside && (st != ST_EINVAL || !strstr(err.text, text) || !strstr(err.text, "^")))
                    fail_msg("%s:%s=%s: %s", p->name, o->name, text, st == ST_OK ? "taken" : err.text);
            }
            seen++;
        }
    assert_in_range(seen, 40, 1000);
}

/* Runs the press with the option at this value, on a whole context and on one token; what is refused is not run. */
static void run_option(const struct press *p, const struct opt *o, const char *value)
{
    static const int64_t tokens[] = { SMALL_TOKENS - 4,
                                      1 }; /* so that all of it can be fed again, with its instruction */
    char text[512];
    struct outcome out;

    if (parse_option(p, o, value, NULL) != ST_OK)
        return;
    if (strcmp(p->name, "finch") == 0 && strcmp(value, "0") == 0) /* asks for a query, or only takes one */
        return;
    option_text(p, o, value, text, sizeof text);
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
        run_chain(text, tokens[i], be[1], &out);
        rows_are_ascending(&out, text, tokens[i]);
        /* One token stays whatever its score: no press is asked for it. */
        for (int32_t l = 0; p->kind == PRESS_SCORE && tokens[i] > 1 && l < SMALL_LAYERS; l++)
            for (int64_t r = 0; r < SMALL_G * tokens[i]; r++)
                if (!isfinite(out.score[l][r]))
                    fail_msg("%s: score %d of layer %d is %g", text, (int)r, l, (double)out.score[l][r]);
    }
}

static void every_option_works_at_its_limits(void **state)
{
    const struct press *p;

    (void)state;
    for (size_t i = 0; (p = press_at(i)) != NULL; i++)
        for (size_t k = 0; press_built(p) && p->kind != PRESS_DECODE && !p->decode_only && k < p->option_count; k++) {
            const struct opt *o = &p->options[k];
            char text[64], words[128];

            if ((o->type == OPT_INT || o->type == OPT_FLOAT) && fabs(o->max) < 1e29) {
                number_text(text, sizeof text, o, o->min);
                run_option(p, o, text);
                number_text(text, sizeof text, o, o->max);
                run_option(p, o, text);
            }
            if (o->type == OPT_FLAG) {
                run_option(p, o, "on");
                run_option(p, o, "off");
            }
            snprintf(words, sizeof words, "%s", o->words ? o->words : "");
            for (char *word = strtok(words, "|"); word; word = strtok(NULL, "|"))
                run_option(p, o, word);
        }
}

/* Budgets at their ends: all but one row, one row, more rows than there are. */
static void at_the_ends(const struct press *p, const char *text)
{
    struct outcome o;

    run_chain(text, SMALL_TOKENS, be[1], &o);
    rows_are_ascending(&o, text, SMALL_TOKENS);
    for (int32_t l = 0; !p->uneven && !p->exact_total && l < SMALL_LAYERS; l++)
        for (int32_t g = 0; g < SMALL_G; g++)
            if (o.result[l].first[g + 1] == o.result[l].first[g])
                fail_msg("%s: head %d of layer %d is empty", text, g, l);
}

static void budgets_work_at_their_ends(void **state)
{
    static const char *const keeps[] = { "ratio=0.999999", "ratio=0.016", "rows=1",         "rows=63",
                                         "rows=64",        "rows=65",     "rows=2147483647" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(keeps); i++)
        for_every_press(keeps[i], at_the_ends);
}

static void every_word_is_refused_that_no_option_has(void **state)
{
    const struct press *p;
    struct err err;

    (void)state;
    for (size_t i = 0; (p = press_at(i)) != NULL; i++)
        for (size_t k = 0; press_built(p) && k < p->option_count; k++) {
            if (p->options[k].type != OPT_WORD && p->options[k].type != OPT_FLAG && !p->options[k].words)
                continue;
            memset(&err, 0, sizeof err);
            assert_int_equal(parse_option(p, &p->options[k], "perhaps", &err), ST_EINVAL);
            assert_non_null(strstr(err.text, "\"perhaps\""));
        }
}

static void every_press_says_what_it_is(void **state)
{
    const struct press *p;

    (void)state;
    for (size_t i = 0; (p = press_at(i)) != NULL; i++) {
        struct text usage = { 0 };

        assert_non_null(p->name);
        assert_ptr_equal(press_find(p->name), p);
        assert_true(p->summary[0] && p->source && p->reference && p->cost && p->differs);
        press_usage(p, &usage);
        assert_memory_equal(text_str(&usage), p->name, strlen(p->name));
        text_fini(&usage);
    }
}

static int open_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct backend_config config = { .dtype = DT_F32, .threads = 1 + i, .memory_fraction = 0.5, .rows_max = 128 };
        struct err err = { 0 };

        if (backend_open(&be[i], "cpu", &config, &err) != ST_OK)
            return -1;
    }
    {
        struct small_layer one;

        small_open(&one, be[0], 1);
        hp = one.hp;
        small_close(&one);
    }
    small_files_write();
    files = small_files(&hp);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    press_files_close(files);
    small_files_remove();
    backend_close(be[0]);
    backend_close(be[1]);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_press_says_what_it_is),
    cmocka_unit_test(every_score_is_finite),
    cmocka_unit_test(every_budget_is_kept_exactly_in_ascending_rows),
    cmocka_unit_test(ratio_0_keeps_everything),
    cmocka_unit_test(contexts_of_one_token_and_of_every_length_are_pressed),
    cmocka_unit_test(every_run_and_every_number_of_threads_keeps_the_same_rows),
    cmocka_unit_test(rows_are_told_as_original_positions_after_rerotate),
    cmocka_unit_test(every_option_takes_its_limits_and_nothing_past_them),
    cmocka_unit_test(every_option_works_at_its_limits),
    cmocka_unit_test(budgets_work_at_their_ends),
    cmocka_unit_test(every_word_is_refused_that_no_option_has),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), open_all, close_all);
}
