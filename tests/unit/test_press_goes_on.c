/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_press_goes_on.c - dms:decoding=on on the small layer: after the prefill tokens come one by one, and what the reference
 * masks leaves (tests/golden/press_vectors.json, vectors with `decoding`). Verdicts of kvzap travel in the block of the prefill.
 */
#include "common/kv/block.h"
#include "presses/run_parts.h"
#include "tests/support/cmocka_main.h"
#include "tests/support/small_files.h"
#include "tests/support/small_layer.h"
#include "tests/support/small_vectors.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS_MAX = SMALL_TOKENS + SMALL_MORE, LAYER = 1 };

static json_t *doc;
static struct backend *be;
static struct small_layer small;
static struct press_files *files;

/* One sequence: heads of any length, rows by their token. */
struct sequence {
    int32_t token[SMALL_G][ROWS_MAX];
    int64_t rows[SMALL_G];
    struct press_run *run;
    struct chain *chain;
    struct chain_decode part;
    struct press_scored scored;
    struct kv_block block; /* what the prefill sent */
};

static void sequence_open(struct sequence *s, const char *text)
{
    struct err err = { 0 };

    memset(s, 0, sizeof *s);
    if (chain_parse(&s->chain, text, strlen(text), files, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_true(chain_decode_part(s->chain, &s->part));
    assert_int_equal(press_run_open(&s->run, be, &small.hp, ROWS_MAX, &err), ST_OK);
}

static void sequence_close(struct sequence *s)
{
    press_scored_fini(&s->scored);
    press_run_close(s->run);
    chain_close(s->chain);
    free(s->block.data);
}

static void take_kept(struct sequence *s, const struct press_result *r, bool original)
{
    static int32_t kept[SMALL_G * ROWS_MAX];

    assert_int_equal(press_run_tokens(s->run, r, kept, NULL), ST_OK);
    for (int g = 0; g < SMALL_G; g++) {
        s->rows[g] = r->first[g + 1] - r->first[g];
        for (int64_t i = 0; i < s->rows[g]; i++)
            s->token[g][i] = original ? kept[r->first[g] + i] : s->token[g][kept[r->first[g] + i]];
    }
}

/* The context is pressed and packed as it would be sent. */
static void prefill(struct sequence *s)
{
    struct press_result r;
    struct err err = { 0 };

    assert_int_equal(press_run_begin(s->run, s->chain, SMALL_TOKENS, 0, false, &err), ST_OK);
    if (press_run_layer(s->run, &small.in, &r, &err) != ST_OK)
        fail_msg("%s", err.text);
    take_kept(s, &r, true);
    assert_int_equal(press_run_plan(s->run, &r, &s->block, &err), ST_OK);
    s->block.data = aligned_alloc(64, s->block.bytes);
    assert_int_equal(press_run_pack(s->run, &r, &s->block, &err), ST_OK);
    be->ops->wait(be, LANE_PRESS);
    assert_int_equal(s->block.scored, s->part.scored);
}

/* The node that generates takes the verdicts that came with the block. */
static void arrive(struct sequence *s)
{
    struct kv_block blocks[SMALL_LAYERS];

    for (int l = 0; l < SMALL_LAYERS; l++)
        blocks[l] = s->block;
    press_scored_open(&s->scored, &small.hp, s->part.scored, 1);
    press_scored_begin(&s->scored, be, blocks);
}

/* Its rows as slot_gather leaves them. */
static struct kv_rows gather(const struct sequence *s, float *k, float *v)
{
    struct kv_rows view = { .k = k, .v = v, .dtype = DT_F32, .heads = SMALL_G, .dim = SMALL_D };
    int64_t at = 0;

    for (int g = 0; g < SMALL_G; g++) {
        view.first[g] = view.at[g] = at;
        view.rows[g] = s->rows[g];
        for (int64_t r = 0; r < s->rows[g]; r++, at++) {
            int64_t from = (g * 2 * SMALL_TOKENS + s->token[g][r]) * SMALL_D;

            memcpy(k + at * SMALL_D, small.k + from, SMALL_D * sizeof *k);
            memcpy(v + at * SMALL_D, small.v + from, SMALL_D * sizeof *v);
        }
    }
    view.at[SMALL_G] = at;
    return view;
}

static void score(struct sequence *s, const float *x, int64_t tokens)
{
    struct press_layer in = { .hp = &small.hp, .layer = LAYER, .hidden = x, .tokens = tokens };
    struct err err = { 0 };

    press_scored_more(&s->scored, tokens);
    if (press_run_score(s->run, s->chain, &in, &s->scored, &err) != ST_OK)
        fail_msg("%s", err.text);
}

static void choose(struct sequence *s, int64_t seen)
{
    static float k[SMALL_G * ROWS_MAX * SMALL_D], v[SMALL_G * ROWS_MAX * SMALL_D];
    struct kv_rows rows = gather(s, k, v);
    struct press_layer in = small.in;
    struct press_result r;
    struct err err = { 0 };

    in.scored = s->part.scored > 0 ? &s->scored : NULL;
    in.hidden = NULL; /* of the context: gone */
    if (press_run_decode(s->run, s->chain, &in, &rows, NULL, seen - 1, seen, NULL, &r, &err) != ST_OK)
        fail_msg("%s", err.text);
    take_kept(s, &r, false);
    press_scored_chosen(&s->scored);
}

/* Feeds `steps` more tokens, `at_once` in each call. */
static void generate(struct sequence *s, int64_t steps, int64_t at_once)
{
    static float x[SMALL_MORE * SMALL_X], q[SMALL_MORE * SMALL_H * SMALL_D];

    small_fill(40, SMALL_MORE * SMALL_X, x);
    for (int64_t i = 0; i < steps; i += at_once) {
        int64_t token = SMALL_TOKENS + i;

        small_project(&small, x + i * SMALL_X, at_once, token, token, q, NULL);
        for (int g = 0; g < SMALL_G; g++)
            for (int64_t t = 0; t < at_once; t++)
                s->token[g][s->rows[g]++] = (int32_t)(token + t);
        if (s->part.scored > 0)
            score(s, x + i * SMALL_X, at_once);
        choose(s, token + at_once);
    }
}

/* "48 50-53" */
static bool is_in(const char *text, int32_t row)
{
    for (const char *c = text; *c;) {
        char *end;
        long from = strtol(c, &end, 10), to = *end == '-' ? strtol(end + 1, &end, 10) : from;

        if (row >= from && row <= to)
            return true;
        c = *end ? end + 1 : end;
    }
    return false;
}

static const char *text_at(const json_t *texts, int head)
{
    return json_string_value(json_array_get(texts, (size_t)head));
}

/* Whether each head holds what `keep` names, without `gone` (NULL: nothing), and the tokens from 64 to `seen`. */
static void rows_are(const struct sequence *s, const char *name, const json_t *keep, const json_t *gone, int32_t seen)
{
    for (int g = 0; g < SMALL_G; g++) {
        int64_t at = 0;

        for (int32_t t = 0; t < seen; t++) {
            bool stays = t >= SMALL_TOKENS || (is_in(text_at(keep, g), t) && !(gone && is_in(text_at(gone, g), t)));
            bool there = at < s->rows[g] && s->token[g][at] == t;

            if (stays != there)
                fail_msg("%s, head %d: row %d should %s", name, g, t, stays ? "be there" : "have left");
            at += there;
        }
        assert_int_equal(at, s->rows[g]);
    }
}

static void share_gone_is(const struct sequence *s, int64_t seen, double want)
{
    int64_t there = 0;

    for (int g = 0; g < SMALL_G; g++)
        there += s->rows[g];
    assert_float_equal(1 - (double)there / (double)(SMALL_G * seen), want, 1e-6);
}

/* The chain of a vector, going on. */
static void text_of(const json_t *vector, char text[128])
{
    snprintf(text, 128, "%s,decoding=on", json_string_value(json_object_get(vector, "chain")));
}

static void rows_that_leave_later_are_those_of_the_reference(void **state)
{
    json_t *vectors = json_object_get(doc, "vectors"), *v;
    size_t i;
    int seen = 0;

    (void)state;
    json_array_foreach(vectors, i, v)
    {
        const json_t *decoding = json_object_get(v, "decoding"), *keep = json_object_get(v, "keep");
        const char *name = json_string_value(json_object_get(v, "name"));
        const int32_t steps = (int32_t)json_integer_value(json_object_get(decoding, "steps"));
        struct sequence s;
        char text[128];

        if (!decoding)
            continue;
        text_of(v, text);
        sequence_open(&s, text);
        prefill(&s);
        arrive(&s);
        rows_are(&s, name, keep, NULL, SMALL_TOKENS);
        share_gone_is(&s, SMALL_TOKENS, json_number_value(json_object_get(v, "ratio")));
        generate(&s, steps, 1);
        rows_are(&s, name, keep, json_object_get(decoding, "gone"), SMALL_TOKENS + steps);
        share_gone_is(&s, SMALL_TOKENS + steps, json_number_value(json_object_get(decoding, "ratio")));
        sequence_close(&s);
        seen++;
    }
    assert_int_equal(seen, 3);
}

/* What cards do: everything goes up and down, nothing is read where it lies. */
static void rows_are_the_same_where_the_host_cannot_reach_the_device(void **state)
{
    const struct backend_ops *reaches = be->ops;
    struct backend_ops copies = *reaches;

    copies.host_is_device = false;
    be->ops = &copies;
    rows_that_leave_later_are_those_of_the_reference(state);
    be->ops = reaches;
}

static int32_t uploads, allocations;
static const struct backend_ops *counted;

static void count_upload(struct backend *b, enum lane lane, void *device, const void *host, uint64_t bytes)
{
    uploads++;
    counted->upload(b, lane, device, host, bytes);
}

static enum status count_alloc(struct backend *b, uint64_t bytes, const char *what, void **out, struct err *err)
{
    allocations++;
    return counted->alloc(b, bytes, what, out, err);
}

static void parameters_go_up_once(void **state)
{
    struct backend_ops copies = *be->ops;
    struct sequence s;
    static float x[SMALL_X];

    (void)state;
    counted = be->ops;
    copies.host_is_device = false;
    copies.upload = count_upload;
    copies.alloc = count_alloc;
    be->ops = &copies;
    sequence_open(&s, "kvzap:file=kvzap-mlp | dms:threshold=0,window=9,decoding=on");
    press_run_keep_files(s.run);
    prefill(&s);
    arrive(&s);
    uploads = allocations = 0;
    score(&s, x, 1); /* the layer's are there since the prefill: only what lies between the matrices, and the scores */
    assert_int_equal(uploads, 2);
    assert_int_equal(allocations, 0);
    s.run->work.keeps_files = false;
    press_scored_chosen(&s.scored);
    score(&s, x, 1);
    assert_int_equal(uploads, 2 + 2 + 4);
    be->ops = counted;
    sequence_close(&s);
}

/* A window longer than the context, calls of several tokens, and buffers that come round: the same rows as all at once. */
static void calls_of_any_length_leave_the_same_rows(void **state)
{
    static const char *const texts[] = {
        "kvzap:file=kvzap-mlp | dms:threshold=0,window=3,decoding=on",
        "kvzap:file=kvzap-linear | dms:threshold=0.5,window=70,decoding=on",
        "knorm | ratio=0.5 | kvzap:file=kvzap-mlp | dms:threshold=0,window=5,decoding=on"
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct sequence one, four;

        sequence_open(&one, texts[i]);
        sequence_open(&four, texts[i]);
        prefill(&one);
        arrive(&one);
        generate(&one, SMALL_MORE, 1);
        prefill(&four);
        arrive(&four);
        press_scored_fini(&four.scored);
        press_scored_open(&four.scored, &small.hp, four.part.scored, 4);
        press_scored_begin(&four.scored, be, (struct kv_block[]){ four.block, four.block, four.block, four.block });
        generate(&four, SMALL_MORE, 4);
        for (int g = 0; g < SMALL_G; g++) {
            assert_in_range(one.rows[g], 3, SMALL_TOKENS + SMALL_MORE - 1);
            assert_int_equal(one.rows[g], four.rows[g]);
            assert_memory_equal(one.token[g], four.token[g], (size_t)one.rows[g] * sizeof one.token[g][0]);
        }
        sequence_close(&one);
        sequence_close(&four);
    }
}

static int open_all(void **state)
{
    (void)state;
    if (!small_vectors_open(&doc, &be))
        return -1;
    small_open(&small, be, LAYER);
    small_files_write();
    files = small_files(&small.hp);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    press_files_close(files);
    small_files_remove();
    small_close(&small);
    small_vectors_close(doc, be);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(rows_that_leave_later_are_those_of_the_reference),
    cmocka_unit_test(rows_are_the_same_where_the_host_cannot_reach_the_device),
    cmocka_unit_test(parameters_go_up_once),
    cmocka_unit_test(calls_of_any_length_leave_the_same_rows),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), open_all, close_all);
}
