/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/golden/family.h"

#include "common/base/arena.h"
#include "prefill-node/handoff.h"
#include "tests/support/cmocka_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FAMILIES "tests/golden/families/"
#define LOGIT_ERROR 1e-4
#define BF16_TIMES 1.5 /* of how far transformers in bf16 is from itself in f32 */

const char *const family_names[FAMILY_COUNT] = { "llama",      "llama_linear", "llama_dynamic", "llama_yarn",
                                                 "llama_bias", "qwen2",        "qwen3",         "mistral",
                                                 "phi3",       "phi3_partial", "gemma3",        "smollm3" };

static void must(enum status st, const char *name, const struct err *err)
{
    if (st != ST_OK)
        fail_msg("%s: %s", name, err->text);
}

bool family_is_bf16(void)
{
    const char *dtype = getenv("PLATEN_TEST_DTYPE");

    return dtype && strcmp(dtype, "bf16") == 0;
}

/* The back end that PLATEN_TEST_BACKEND names. Where this machine has none like it the test is skipped. */
static struct backend *open_backend(struct err *err)
{
    const char *named = getenv("PLATEN_TEST_BACKEND"), *name = named ? named : "cpu";
    struct backend_config config = {
        .dtype = DT_F32, .threads = 2, .rows_max = FAMILY_TOKENS_MAX, .memory_fraction = 0.5
    };
    struct backend *be = NULL;
    enum status st;

    if (family_is_bf16())
        config.dtype = DT_BF16;
    st = backend_open(&be, name, &config, err);
    if (named && (st == ST_EUNAVAILABLE || (st == ST_EINVAL && !backend_find("cuda")))) {
        fprintf(stderr, "skipped: %s\n", err->text);
        exit(77);
    }
    must(st, name, err);
    return be;
}

static void read_expected(struct family_model *m)
{
    struct arena arena = { 0 };
    const json_t *tokens;

    m->expected = json_load_file(arena_printf(&arena, FAMILIES "%s/expected.json", m->name), 0, NULL);
    arena_fini(&arena);
    assert_non_null(m->expected);
    tokens = json_object_get(m->expected, "tokens");
    assert_int_equal(json_array_size(tokens), FAMILY_TOKENS);
    for (size_t i = 0; i < FAMILY_TOKENS; i++)
        m->token[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
}

void family_model_open(struct family_model *m, const char *name)
{
    struct arena arena = { 0 };
    struct err err = { 0 };

    *m = (struct family_model){ .name = name };
    read_expected(m);
    must(checkpoint_open(&m->checkpoint, arena_printf(&arena, FAMILIES "%s", name), &err), name, &err);
    arena_fini(&arena);
    m->be = open_backend(&err);
    must(weights_open(&m->weights, m->be, checkpoint_hparams(m->checkpoint), checkpoint_rows, m->checkpoint, 0, &err),
         name, &err);
    m->weights->hp.eos_count = 0; /* the reference went on over end tokens */
    must(prefill_open(&m->prefill, m->be, m->weights, FAMILY_TOKENS_MAX, &err), name, &err);
    must(m->be->ops->alloc(m->be, prefill_x_bytes(m->prefill, FAMILY_TOKENS_MAX), "activations", &m->x, &err), name,
         &err);
}

void family_model_close(struct family_model *m)
{
    m->be->ops->free(m->be, m->x);
    prefill_close(m->prefill);
    weights_close(m->weights, m->be);
    backend_close(m->be);
    checkpoint_close(m->checkpoint);
    json_decref(m->expected);
}

/* The block in the track's slot becomes the context's. */
static void adopt(struct family_model *m, struct context *c, const struct kv_block *packed)
{
    struct kv_block *b = &c->block[packed->layer];

    m->be->ops->free(m->be, b->data);
    *b = *packed;
    assert_int_equal(m->be->ops->alloc(m->be, packed->bytes + 1, "blocks", &b->data, NULL), ST_OK);
    m->be->ops->upload(m->be, LANE_COMPUTE, b->data, packed->data, packed->bytes);
    m->be->ops->wait(m->be, LANE_COMPUTE);
}

void family_prefill(struct family_model *m, int64_t tokens, struct context *c)
{
    struct pass pass = { .token = m->token, .tokens = tokens, .x = m->x, .logits = true };
    struct job *job = job_open(NULL, NULL);
    struct track track = { 0 };
    struct err err = { 0 };

    job->tokens = tokens;
    job->transport = transport_find("grpc"); /* wants blocks where the host reads them */
    must(track_open(&track, m->be, &m->weights->hp, prefill_x_bytes(m->prefill, tokens), tokens, &err), m->name, &err);
    must(handoff_begin(&track, job, &err), m->name, &err);
    prefill_begin(m->prefill, &pass);
    while (pass.layer < m->weights->hp.layers) {
        struct press_layer layer;

        must(prefill_layer(m->prefill, &pass, NULL, 0, &layer, &err), m->name, &err);
        m->be->ops->wait(m->be, LANE_COMPUTE); /* a press is on a lane of its own */
        if (c) {
            must(handoff_layer(&track, job, &layer, &err), m->name, &err);
            adopt(m, c, &track.slot[layer.layer % SCHEDULER_SLOTS].block);
        }
    }
    if (c)
        c->next_position = tokens;
    track_close(&track);
    job_unref(job);
}

struct context *family_context_open(struct family_model *m)
{
    const struct hparams *hp = &m->weights->hp;
    struct context *c = context_open(NULL, hp->layers);

    for (int32_t l = 0; l < hp->layers; l++) {
        struct kv_block *b = &c->block[l];

        *b = (struct kv_block){ .layer = l, .heads = hp->kv_heads, .dim = hp->head_dim, .k_dim = hp->head_dim };
        b->dtype = m->be->kv;
        assert_int_equal(m->be->ops->alloc(m->be, 1, "blocks", &b->data, NULL), ST_OK);
    }
    return c;
}

void family_context_close(struct family_model *m, struct context *c)
{
    for (int32_t l = 0; l < c->layers; l++)
        m->be->ops->free(m->be, c->block[l].data);
    context_unref(c);
}

void family_numbers(struct family_model *m, const void *act, uint64_t count, float *out)
{
    void *raw = mem_alloc((size_t)dtype_bytes(m->be->act, count));

    m->be->ops->download(m->be, LANE_COMPUTE, raw, act, dtype_bytes(m->be->act, count));
    m->be->ops->wait(m->be, LANE_COMPUTE);
    dtype_to_f32(out, raw, m->be->act, count);
    free(raw);
}

void family_logits(struct family_model *m, int64_t row, float *out)
{
    const struct hparams *hp = &m->weights->hp;
    const struct backend_ops *ops = m->be->ops;
    void *normed, *logits;

    assert_int_equal(ops->alloc(m->be, dtype_bytes(m->be->act, (uint64_t)hp->dim), "activations", &normed, NULL),
                     ST_OK);
    assert_int_equal(ops->alloc(m->be, dtype_bytes(m->be->act, (uint64_t)hp->vocab), "activations", &logits, NULL),
                     ST_OK);
    block_logits(m->be, m->weights, (const float *)m->x + row * hp->dim, 1, normed, logits);
    family_numbers(m, logits, (uint64_t)hp->vocab, out);
    ops->free(m->be, normed);
    ops->free(m->be, logits);
}

static void assert_f32(const struct family_model *m, const char *key, int64_t position, const float *logits,
                       const json_t *values)
{
    for (size_t v = 0; v < json_array_size(values); v++) {
        const double want = json_number_value(json_array_get(values, v));

        if (!(fabs((double)logits[v] - want) <= LOGIT_ERROR))
            fail_msg("%s: %s after position %d, id %zu: %.7g, expected %.7g", m->name, key, (int)position, v,
                     (double)logits[v], want);
    }
}

static void assert_bf16(const struct family_model *m, const char *key, int64_t position, const float *logits,
                        const json_t *values)
{
    const double allowed = BF16_TIMES * json_number_value(json_object_get(m->expected, "bf16_error"));
    double off = 0, all = 0;

    for (size_t v = 0; v < json_array_size(values); v++) {
        const double want = json_number_value(json_array_get(values, v));

        off += ((double)logits[v] - want) * ((double)logits[v] - want);
        all += want * want;
    }
    if (!(sqrt(off / all) <= allowed))
        fail_msg("%s: %s after position %d: off by %.4f of their norm, %.4f is allowed", m->name, key, (int)position,
                 sqrt(off / all), allowed);
}

bool family_assert_logits(struct family_model *m, const char *key, int64_t position, const float *logits)
{
    const json_t *items = json_object_get(m->expected, key), *item;
    size_t i;

    json_array_foreach((json_t *)items, i, item)
    {
        const json_t *values = json_object_get(item, "values");

        if (json_integer_value(json_object_get(item, "position")) != position)
            continue;
        assert_int_equal(json_array_size(values), m->weights->hp.vocab);
        (family_is_bf16() ? assert_bf16 : assert_f32)(m, key, position, logits, values);
        return true;
    }
    return false;
}
