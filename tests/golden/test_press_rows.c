/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_press_rows.c - every press on four random models (groups of 1, 2, 3, 4; heads of 64 and 128) and contexts of 64, 257
 * and 1000 tokens: the rows that stay are the reference's (press_rows.json), but for those that rounding may decide either
 * way; keys after rerotate and values after merge to 1e-5; the channels that think drops; where generation goes on.
 */
#include "tests/golden/tiny.h"

#include "tests/support/cmocka_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_ERROR 1e-5 /* of the row's largest number: the forward pass before it rounds, too */

static json_t *golden;

/* One item of the golden file at work. */
struct item {
    struct tiny_model *t;
    const json_t *json;
    struct chain *chain;
    int64_t tokens;
    int32_t *kept; /* the layer's rows, head after head */
    float *packed;
    char name[160];
    int faults;
};

static void fault(struct item *item, const char *what, int32_t layer, int32_t head, int64_t row)
{
    print_error("%s: layer %d head %d row %d: %s\n", item->name, layer, head, (int)row, what);
    item->faults++;
}

/* Marks the rows of a text: runs with both ends, or x and a bitmap in hex. */
static void mark_rows(const char *text, bool *mark, int64_t tokens)
{
    memset(mark, 0, (size_t)tokens * sizeof *mark);
    if (!text)
        return;
    for (size_t i = 0; text[0] == 'x' && text[i + 1]; i++) {
        const char nibble[2] = { text[i + 1], 0 };
        long bits = strtol(nibble, NULL, 16);

        for (int64_t b = 0; b < 4; b++) /* the high half of a byte comes first */
            if (bits >> b & 1)
                mark[(int64_t)(i / 2) * 8 + (i % 2 == 0 ? 4 : 0) + b] = true;
    }
    while (text[0] != 'x' && *text) {
        char *end;
        long from = strtol(text, &end, 10), to = *end == '-' ? strtol(end + 1, &end, 10) : from;

        for (; from <= to && from < tokens; from++)
            mark[from] = true;
        text = *end ? end + 1 : end;
    }
}

/* The text of a head's rows; "=": those of the head before. */
static const char *rows_text(const struct item *item, int32_t layer, int32_t head)
{
    const json_t *heads = json_array_get(json_object_get(item->json, "layers"), (size_t)layer);
    const char *text = json_string_value(json_array_get(heads, (size_t)head));

    assert_non_null(text);
    while (strcmp(text, "=") == 0)
        text = json_string_value(json_array_get(heads, (size_t)--head));
    return text;
}

static const char *edge_text(const struct item *item, int32_t layer, int32_t head)
{
    char key[16];

    snprintf(key, sizeof key, "%d.%d", layer, head);
    return json_string_value(json_object_get(json_object_get(item->json, "edge"), key));
}

static void check_head(struct item *item, int32_t layer, int32_t head, const int32_t *row, int64_t count)
{
    bool want[TINY_TOKENS_MAX], may[TINY_TOKENS_MAX];
    int64_t at = 0, wanted = 0;
    const char *edge = edge_text(item, layer, head);

    mark_rows(rows_text(item, layer, head), want, item->tokens);
    mark_rows(edge, may, item->tokens);
    for (int64_t r = 0; r < item->tokens; r++) {
        bool kept = at < count && row[at] == r;

        if (kept != want[r] && !may[r])
            fault(item, kept ? "kept, and should go" : "missing", layer, head, r);
        at += kept;
        wanted += want[r];
    }
    if (at != count)
        fault(item, "the rows are not in ascending order", layer, head, count);
    if (!edge && count != wanted)
        fault(item, "another number of rows", layer, head, count);
}

/* ---- values ------------------------------------------------------------------------------------------------------------ */

/* The kept rows' K and V as they would be sent: K [rows][k_dim], then V [rows][D]. */
static struct kv_block pack(struct item *item, const struct press_result *result)
{
    struct press_run *run = item->t->local.press;
    struct kv_block block = { 0 };
    struct err err = { 0 };

    assert_int_equal(press_run_plan(run, result, &block, &err), ST_OK);
    item->packed = realloc(item->packed, block.bytes);
    assert_non_null(item->packed);
    block.data = item->packed;
    assert_int_equal(press_run_pack(run, result, &block, &err), ST_OK);
    item->t->local.be->ops->wait(item->t->local.be, LANE_PRESS);
    return block;
}

static double largest_of(const json_t *numbers)
{
    const json_t *x;
    double largest = 1;
    size_t i;

    json_array_foreach(numbers, i, x) largest = fmax(largest, fabs(json_number_value(x)));
    return largest;
}

/* [layer, head, row, "k" or "v", [...]] */
static void check_value(struct item *item, const struct kv_block *block, const json_t *told)
{
    int32_t head = (int32_t)json_integer_value(json_array_get(told, 1));
    json_int_t row = json_integer_value(json_array_get(told, 2));
    bool is_k = strcmp(json_string_value(json_array_get(told, 3)), "k") == 0;
    const json_t *want = json_array_get(told, 4);
    const float *all = (const float *)((char *)block->data + (is_k ? block->k_offset : block->v_offset));
    const double allowed = VALUE_ERROR * largest_of(want);

    for (int64_t i = block->first[head]; i < block->first[head + 1]; i++)
        if (item->kept[i] == row) {
            for (int32_t d = 0; d < block->dim; d++)
                if (fabs(all[i * block->dim + d] - json_number_value(json_array_get(want, (size_t)d))) > allowed)
                    fault(item, is_k ? "another key" : "another value", block->layer, head, row);
            return;
        }
    fault(item, "a row with told values is missing", block->layer, head, row);
}

static void check_channels(struct item *item, const struct press_result *result)
{
    const int32_t heads = item->t->local.hp.kv_heads, dim = item->t->local.hp.head_dim;
    const json_t *gone = json_array_get(json_object_get(item->json, "channels_gone"), (size_t)result->layer);

    for (int32_t g = 0; g < heads; g++) {
        bool goes[KV_HEAD_DIM_MAX];
        int32_t at = 0;

        mark_rows(json_string_value(json_array_get(gone, (size_t)g)), goes, dim);
        for (int32_t c = 0; c < dim; c++) {
            bool stays = at < result->k_dim && result->channel[g * result->k_dim + at] == c;

            if (stays == goes[c])
                fault(item, "another channel", result->layer, g, c);
            at += stays;
        }
    }
}

static enum status check_layer(void *ctx, const struct press_layer *layer, const struct press_result *result,
                               struct err *err)
{
    struct item *item = ctx;
    const json_t *values = json_object_get(item->json, "values"), *told;
    enum status st = press_run_tokens(item->t->local.press, result, item->kept, err);
    size_t i;

    if (st != ST_OK)
        return st;
    for (int32_t g = 0; g < layer->hp->kv_heads; g++)
        check_head(item, layer->layer, g, item->kept + result->first[g], result->first[g + 1] - result->first[g]);
    json_array_foreach(values, i, told)
    {
        if (json_integer_value(json_array_get(told, 0)) == layer->layer) {
            struct kv_block block = pack(item, result);

            check_value(item, &block, told);
        }
    }
    if (json_object_get(item->json, "channels_gone"))
        check_channels(item, result);
    return ST_OK;
}

/* ---- items ------------------------------------------------------------------------------------------------------------- */

static int check_item(struct tiny_model *t, const json_t *json)
{
    const char *text = json_string_value(json_object_get(json, "chain"));
    const json_t *next = json_object_get(json, "next");
    struct item item = { .t = t, .json = json, .tokens = json_integer_value(json_object_get(json, "tokens")) };
    int64_t query = json_integer_value(json_object_get(json, "query")), wanted;
    struct err err = { 0 };

    snprintf(item.name, sizeof item.name, "%s %d %s", json_string_value(json_object_get(json, "model")),
             (int)item.tokens, text);
    assert_in_range(item.tokens, 1, TINY_TOKENS_MAX);
    item.kept = malloc((size_t)(t->local.hp.kv_heads * item.tokens) * sizeof *item.kept);
    assert_non_null(item.kept);
    if (chain_parse(&item.chain, text, strlen(text), t->files, &err) != ST_OK ||
        local_prefill(&t->local, t->token, item.tokens, query, item.chain, check_layer, &item, NULL, NULL, &err) !=
            ST_OK)
        fail_msg("%s: %s", item.name, err.text);
    wanted = next ? json_integer_value(next) : item.tokens;
    if (chain_next_position(item.chain, false, item.tokens, press_run_rows_most(t->local.press)) != wanted)
        fault(&item, "generation goes on elsewhere", 0, 0, wanted);
    chain_close(item.chain);
    free(item.kept);
    free(item.packed);
    return item.faults;
}

/* All items of one model with contexts of so many tokens. */
static void check_model(const char *name, int64_t least, int64_t most)
{
    static struct tiny_model t;
    const json_t *items = json_object_get(golden, "rows"), *json;
    int faults = 0, seen = 0;
    size_t i;

    tiny_open(&t, json_object_get(json_object_get(golden, "models"), name));
    json_array_foreach(items, i, json)
    {
        json_int_t tokens = json_integer_value(json_object_get(json, "tokens"));

        if (strcmp(json_string_value(json_object_get(json, "model")), name) != 0 || tokens < least || tokens > most)
            continue;
        faults += check_item(&t, json);
        seen++;
    }
    tiny_close(&t);
    assert_true(seen > 80);
    assert_int_equal(faults, 0);
}

static void heads_without_groups_keep_the_rows_of_the_reference(void **state)
{
    (void)state;
    check_model("g1", 1, 257);
}

static void groups_of_2_keep_the_rows_of_the_reference(void **state)
{
    (void)state;
    check_model("g2", 1, 257);
}

static void groups_of_3_keep_the_rows_of_the_reference(void **state)
{
    (void)state;
    check_model("g3", 1, 257);
}

static void groups_of_4_keep_the_rows_of_the_reference(void **state)
{
    (void)state;
    check_model("g4", 1, 257);
}

static void long_contexts_keep_the_rows_of_the_reference(void **state)
{
    static const char *const models[] = { "g1", "g2", "g3", "g4" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(models); i++)
        check_model(models[i], 258, TINY_TOKENS_MAX);
}

static int load(void **state)
{
    (void)state;
    golden = json_load_file("tests/golden/press_rows.json", 0, NULL);
    return golden ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(heads_without_groups_keep_the_rows_of_the_reference),
    cmocka_unit_test(groups_of_2_keep_the_rows_of_the_reference),
    cmocka_unit_test(groups_of_3_keep_the_rows_of_the_reference),
    cmocka_unit_test(groups_of_4_keep_the_rows_of_the_reference),
    cmocka_unit_test(long_contexts_keep_the_rows_of_the_reference),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), load, unload);
}
