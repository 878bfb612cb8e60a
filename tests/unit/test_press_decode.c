/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_press_decode.c - the decode part on the small layer: tokens come one by one, rows leave, and what the reference
 * keeps is kept (tests/golden/press_vectors.json, vectors with `steps`).
 */
#include "presses/run_parts.h"
#include "tests/support/cmocka_main.h"
#include "tests/support/small_layer.h"
#include "tests/support/small_vectors.h"

#include <stdlib.h>

enum { ROWS_MAX = SMALL_TOKENS + SMALL_MORE };

static json_t *doc;
static struct backend *be;
static struct small_layer small;

/* One sequence: its rows per head, equally many. */
struct sequence {
    float k[SMALL_G][ROWS_MAX][SMALL_D], v[SMALL_G][ROWS_MAX][SMALL_D];
    int32_t token[SMALL_G][ROWS_MAX];
    int64_t rows, calls, buffered;
    float plain[ROWS_MAX][SMALL_H * SMALL_D];
    struct press_cam cam;
    struct press_run *run;
    struct chain *chain;
    int64_t least, most; /* rows that it ever held after the first compression */
};

static void take_row(struct sequence *s, int64_t token)
{
    for (int g = 0; g < SMALL_G; g++) {
        memcpy(s->k[g][s->rows], small.k + (g * 2 * SMALL_TOKENS + token) * SMALL_D, sizeof s->k[g][0]);
        memcpy(s->v[g][s->rows], small.v + (g * 2 * SMALL_TOKENS + token) * SMALL_D, sizeof s->v[g][0]);
        s->token[g][s->rows] = (int32_t)token;
    }
    s->rows++;
}

/* Its rows packed as slot_gather leaves them. */
static struct kv_rows pack_rows(const struct sequence *s, float *k, float *v, int32_t *token)
{
    struct kv_rows view = { .k = k, .v = v, .dtype = DT_F32, .heads = SMALL_G, .dim = SMALL_D };

    for (int g = 0; g < SMALL_G; g++) {
        memcpy(k + g * s->rows * SMALL_D, s->k[g], (size_t)s->rows * sizeof s->k[g][0]);
        memcpy(v + g * s->rows * SMALL_D, s->v[g], (size_t)s->rows * sizeof s->v[g][0]);
        memcpy(token + g * s->rows, s->token[g], (size_t)s->rows * sizeof *token);
        view.first[g] = view.at[g] = g * s->rows;
        view.rows[g] = s->rows;
    }
    view.at[SMALL_G] = SMALL_G * s->rows;
    return view;
}

static void compress(struct sequence *s, int64_t seen)
{
    static float k[SMALL_G * ROWS_MAX * SMALL_D], v[SMALL_G * ROWS_MAX * SMALL_D];
    static char block_data[2 * sizeof k + 128];
    static int32_t token[SMALL_G * ROWS_MAX], kept[SMALL_G * ROWS_MAX];
    struct kv_rows rows = pack_rows(s, k, v, token);
    struct press_layer in = small.in;
    struct press_result r;
    struct kv_block block = { 0 };
    struct err err = { 0 };

    in.q_plain = s->plain;
    in.tokens = s->buffered;
    s->cam.calls = s->calls;
    if (press_run_decode(s->run, s->chain, &in, &rows, token, seen - 1, seen, &s->cam, &r, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(press_run_tokens(s->run, &r, kept, &err), ST_OK);
    assert_int_equal(press_run_plan(s->run, &r, &block, &err), ST_OK);
    block.data = block_data;
    assert_int_equal(press_run_pack(s->run, &r, &block, &err), ST_OK);
    be->ops->wait(be, LANE_PRESS);
    s->rows = r.first[1];
    for (int g = 0; g < SMALL_G; g++) {
        assert_int_equal(r.first[g + 1] - r.first[g], s->rows);
        memcpy(s->k[g], block_data + block.k_offset + (size_t)r.first[g] * 32, (size_t)s->rows * 32);
        memcpy(s->v[g], block_data + block.v_offset + (size_t)r.first[g] * 32, (size_t)s->rows * 32);
        memcpy(s->token[g], kept + r.first[g], (size_t)s->rows * sizeof *kept);
    }
}

static void add_attention(struct sequence *s, float *q)
{
    static float k[SMALL_G * ROWS_MAX * SMALL_D], v[SMALL_G * ROWS_MAX * SMALL_D];
    static int32_t token[SMALL_G * ROWS_MAX];
    struct kv_rows rows = pack_rows(s, k, v, token);
    struct press_layer in = small.in;
    struct err err = { 0 };

    in.q = q;
    assert_int_equal(press_cam_step(s->run, &s->cam, &in, &rows, &err), ST_OK);
}

/* Feeds `steps` tokens one by one. */
static void generate(struct sequence *s, int64_t steps)
{
    static float x[SMALL_MORE * SMALL_X], q[SMALL_H * SMALL_D];
    struct chain_decode d;

    assert_true(chain_decode_part(s->chain, &d));
    small_fill(40, SMALL_MORE * SMALL_X, x);
    for (int64_t t = 0; t < SMALL_TOKENS; t++)
        take_row(s, t);
    for (int64_t i = 0; i < steps; i++) {
        int64_t token = SMALL_TOKENS + i;

        small_project(&small, x + i * SMALL_X, 1, token, token, q, s->plain[s->buffered]);
        take_row(s, token);
        s->buffered++;
        s->calls++;
        if (d.cam_merge > 0)
            add_attention(s, q);
        if (press_decode_due(&d, s->calls, 1, token + 1)) {
            compress(s, token + 1);
            s->calls = s->buffered = 0;
        }
    }
}

static bool half_coin(void *ctx, float p, int32_t layer, int32_t head, int64_t row)
{
    (void)ctx;
    (void)layer;
    (void)head;
    (void)row;
    return p >= 0.5f;
}

static void sequence_open(struct sequence *s, const char *text)
{
    struct err err = { 0 };

    memset(s, 0, sizeof *s);
    if (chain_parse(&s->chain, text, strlen(text), NULL, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(press_run_open(&s->run, be, &small.hp, ROWS_MAX, &err), ST_OK);
    s->run->cam_coin = half_coin;
}

static void sequence_close(struct sequence *s)
{
    press_cam_fini(&s->cam);
    press_run_close(s->run);
    chain_close(s->chain);
}

static void rows_are(const char *name, const int32_t *token, int64_t count, const char *text)
{
    int64_t at = 0;

    for (const char *c = text; *c;) {
        char *end;
        long from = strtol(c, &end, 10), to = from;

        if (*end == '-')
            to = strtol(end + 1, &end, 10);
        for (; from <= to; from++, at++)
            if (at >= count || token[at] != from)
                fail_msg("%s: row %d is %d, wanted %ld of \"%s\"", name, (int)at, at < count ? token[at] : -1, from,
                         text);
        c = *end ? end + 1 : end;
    }
    assert_int_equal(at, count);
}

/* The values that the vector tells, of rows by their token. */
static void values_are(const struct sequence *s, json_t *values)
{
    json_t *one;
    size_t i;

    json_array_foreach(values, i, one)
    {
        json_int_t head = json_integer_value(json_object_get(one, "head"));
        json_int_t row = json_integer_value(json_object_get(one, "row"));
        json_t *v = json_object_get(one, "v");

        for (int64_t r = 0; r < s->rows; r++)
            for (size_t d = 0; s->token[head][r] == row && d < json_array_size(v); d++)
                assert_float_equal(s->v[head][r][d], json_number_value(json_array_get(v, d)), 1e-5);
    }
}

static void rows_while_decoding_are_those_of_the_reference(void **state)
{
    json_t *vectors = json_object_get(doc, "vectors"), *v;
    int seen = 0;
    size_t i;

    (void)state;
    json_array_foreach(vectors, i, v)
    {
        static struct sequence s;
        json_t *keep = json_object_get(v, "keep");
        const char *name = json_string_value(json_object_get(v, "name"));

        if (!json_object_get(v, "steps"))
            continue;
        sequence_open(&s, json_string_value(json_object_get(v, "chain")));
        generate(&s, json_integer_value(json_object_get(v, "steps")));
        for (int g = 0; g < SMALL_G; g++)
            rows_are(name, s.token[g], s.rows, json_string_value(json_array_get(keep, (size_t)g)));
        values_are(&s, json_object_get(v, "values"));
        sequence_close(&s);
        seen++;
    }
    assert_int_equal(seen, 5);
}

static void a_decode_part_that_cannot_see_enough_queries_is_refused(void **state)
{
    static const char text[] = "; decode:every=8 | snapkv:window=16 | rows=64";
    struct chain *c;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(chain_parse(&c, text, strlen(text), NULL, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "snapkv looks at the last 16 queries"));
}

static int open_all(void **state)
{
    (void)state;
    if (!small_vectors_open(&doc, &be))
        return -1;
    small_open(&small, be, 1);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    small_close(&small);
    small_vectors_close(doc, be);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(rows_while_decoding_are_those_of_the_reference),
    cmocka_unit_test(a_decode_part_that_cannot_see_enough_queries_is_refused),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), open_all, close_all);
}
