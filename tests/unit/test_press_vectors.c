/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_press_vectors.c - the rows that the reference keeps of the small layer (tests/golden/press_vectors.json).
 *
 * One promise goes over every vector and says which ones differ, so that one run shows all of them.
 */
#include "presses/files.h"
#include "presses/run.h"
#include "tests/support/cmocka_main.h"
#include "tests/support/small_files.h"
#include "tests/support/small_layer.h"
#include "tests/support/small_vectors.h"

#include <stdlib.h>

static json_t *doc;
static struct backend *be;
static struct small_layer layers[SMALL_LAYERS];

/* "2-8 13 56-63" into want; returns how many. */
static int32_t positions(const char *text, int32_t *want)
{
    int32_t count = 0;

    while (*text) {
        char *end;
        long from = strtol(text, &end, 10), to = from;

        if (*end == '-')
            to = strtol(end + 1, &end, 10);
        while (from <= to)
            want[count++] = (int32_t)from++;
        text = *end ? end + 1 : end;
    }
    return count;
}

static bool same_rows(const char *name, const struct press_result *r, const int32_t *token, json_t *keep)
{
    bool same = true;

    for (int32_t g = 0; g < SMALL_G; g++) {
        int32_t want[2 * SMALL_TOKENS], count = positions(json_string_value(json_array_get(keep, (size_t)g)), want);

        if (r->first[g + 1] - r->first[g] == count &&
            memcmp(want, token + r->first[g], (size_t)count * sizeof *want) == 0)
            continue;
        same = false;
        print_message("%s, head %d: wanted %s, kept", name, g, json_string_value(json_array_get(keep, (size_t)g)));
        for (int64_t i = r->first[g]; i < r->first[g + 1]; i++)
            print_message(" %d", token[i]);
        print_message("\n");
    }
    return same;
}

/* ---- running a chain -------------------------------------------------------------------------------------------- */

/* Feed `feed` of the second pass through a layer: rows by seed 50 + feed at positions 64 ..., or the context again. */
static void feed_layer(struct press_run *run, int32_t l, int32_t feed, bool again)
{
    struct small_layer *s = &layers[l];
    int64_t rows = again ? SMALL_TOKENS : feed == 0 ? 50 : 39;
    struct press_layer in = s->in;
    struct attn_span span = { .rows = rows, .token = SMALL_TOKENS };
    static float x[SMALL_TOKENS * SMALL_X], q[SMALL_TOKENS * SMALL_H * SMALL_D], out[SMALL_TOKENS * SMALL_H * SMALL_D],
        lse[SMALL_H * 2 * SMALL_TOKENS];
    struct err err = { 0 };

    small_fill(small_offset(l) + (again ? 1 : 50 + (uint64_t)feed), rows * SMALL_X, x);
    small_project(s, x, rows, SMALL_TOKENS, SMALL_TOKENS, q, NULL);
    in.kv.tokens = SMALL_TOKENS + rows;
    in.q = q;
    in.hidden = x;
    span.kv = in.kv;
    be->ops->attn_prefill(be, &span, 1, q, SMALL_H, s->hp.attn_scale, 0, out, lse, 2 * SMALL_TOKENS);
    in.lse = lse + SMALL_TOKENS;
    in.lse_stride = 2 * SMALL_TOKENS;
    assert_int_equal(press_run_feed_layer(run, feed, &in, rows, &err), ST_OK);
}

/* Every layer is held, the second pass is fed, and all is settled. */
static void hold_all(struct press_run *run)
{
    static const int32_t ids[SMALL_TOKENS] = { 0 };
    struct press_prompt prompt = { .token = ids,
                                   .tokens = SMALL_TOKENS,
                                   .prefix_tokens = 3,
                                   .suffix = ids,
                                   .suffix_tokens = 2,
                                   .repeat_all = ids,
                                   .repeat_all_tokens = 8,
                                   .repeat_part = ids,
                                   .repeat_part_tokens = 8 };
    const int32_t *token;
    struct err err = { 0 };

    press_run_prompt(run, &prompt);
    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        assert_int_equal(press_run_hold(run, &layers[l].in, &err), ST_OK);
    for (int32_t feed = 0; feed < press_run_feeds(run); feed++) {
        bool again = press_run_feeds(run) == 1;

        assert_int_equal(press_run_feed(run, feed, &token), again ? 64 : feed == 0 ? 50 : 39);
        for (int32_t l = 0; l < SMALL_LAYERS; l++)
            feed_layer(run, l, feed, again);
    }
    assert_int_equal(press_run_settle(run, &err), ST_OK);
}

static bool counts_hold(struct press_run *run, const char *name, json_t *counts)
{
    struct press_result r;
    struct err err = { 0 };
    bool same = true;

    for (int32_t l = 0; counts && l < SMALL_LAYERS; l++) {
        assert_int_equal(press_run_layer(run, &layers[l].in, &r, &err), ST_OK);
        for (int32_t g = 0; g < SMALL_G; g++) {
            json_int_t want = json_integer_value(json_array_get(json_array_get(counts, (size_t)l), (size_t)g));

            if (r.first[g + 1] - r.first[g] != want) {
                print_message("%s: layer %d, head %d has %d rows, wanted %d\n", name, l, g,
                              (int)(r.first[g + 1] - r.first[g]), (int)want);
                same = false;
            }
        }
    }
    return same;
}

/* Runs a chain on layer 1. False where it keeps other rows than the vector says. */
static bool vector_holds(const struct chain *c, const char *name, json_t *vector)
{
    struct press_run *run;
    struct press_result r;
    struct chain_needs needs;
    struct err err = { 0 };
    int32_t token[SMALL_G * SMALL_TOKENS];
    bool same = false;

    assert_int_equal(press_run_open(&run, be, &layers[1].hp, SMALL_TOKENS, &err), ST_OK);
    chain_needs_of(c, 0, false, &needs);
    if (press_run_begin(run, c, SMALL_TOKENS, 0, false, &err) != ST_OK) {
        print_message("%s: %s\n", name, err.text);
        goto out;
    }
    if (needs.all_layers)
        hold_all(run);
    if (press_run_layer(run, &layers[1].in, &r, &err) != ST_OK || press_run_tokens(run, &r, token, &err) != ST_OK)
        print_message("%s: %s\n", name, err.text);
    else
        same = same_rows(name, &r, token, json_object_get(vector, "keep")) &&
               counts_hold(run, name, json_object_get(vector, "counts"));
out:
    press_run_close(run);
    return same;
}

static void every_vector_keeps_the_rows_of_the_reference(void **state)
{
    json_t *vectors = json_object_get(doc, "vectors"), *v;
    struct press_files *files = small_files(&layers[1].hp);
    int wrong = 0, right = 0, unbuilt = 0;
    size_t i;

    (void)state;
    json_array_foreach(vectors, i, v)
    {
        const char *text = json_string_value(json_object_get(v, "chain"));
        const char *name = json_string_value(json_object_get(v, "name"));
        char kvzip[64];
        struct chain *c;
        struct err err = { 0 };

        if (!json_object_get(v, "keep") || json_object_get(v, "steps") || strstr(name, "given"))
            continue;                         /* those have promises of their own */
        if (strncmp(text, "kvzip", 5) == 0) { /* the specification's chunks */
            snprintf(kvzip, sizeof kvzip, "kvzip:chunk=40%s%s", text[5] == ':' ? "," : "", text + 5 + (text[5] == ':'));
            text = kvzip;
        }
        if (chain_parse(&c, text, strlen(text), files, &err) != ST_OK) {
            if (!strstr(err.text, "kvgrad") && !strstr(err.text, "restorekv"))
                fail_msg("%s: %s", name, err.text);
            unbuilt++;
            continue;
        }
        if (vector_holds(c, name, v))
            right++;
        else
            wrong++;
        chain_close(c);
    }
    press_files_close(files);
    print_message("%d vectors hold, %d do not, %d are not built\n", right, wrong, unbuilt);
    assert_int_equal(wrong, 0);
    assert_int_equal(unbuilt, 2);
    assert_true(right >= 55);
}

static void the_small_layer_is_the_one_of_the_specification(void **state)
{
    static const float x[] = { 0.13312304f, 0.49156344f, 0.9420054f }, k[] = { 0.8291047f, 1.57393043f, -1.27677017f },
                       v[] = { -0.29495099f, 1.61526001f, 1.31925489f };
    const struct small_layer *s = &layers[1];

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_float_equal(s->x[i], x[i], 1e-6);
        assert_float_equal(s->k[SMALL_D + i], k[i], 1e-5);
        assert_float_equal(s->v[(2 * SMALL_TOKENS + 63) * SMALL_D + i], v[i], 1e-5);
    }
}

static int open_all(void **state)
{
    (void)state;
    if (!small_vectors_open(&doc, &be))
        return -1;
    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        small_open(&layers[l], be, l);
    small_files_write();
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    small_files_remove();
    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        small_close(&layers[l]);
    small_vectors_close(doc, be);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_small_layer_is_the_one_of_the_specification),
    cmocka_unit_test(every_vector_keeps_the_rows_of_the_reference),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), open_all, close_all);
}
