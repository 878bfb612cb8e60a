/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/golden/tiny.h"

#include "common/base/arena.h"
#include "tests/support/cmocka_main.h"
#include "tests/support/small_layer.h"
#include "tests/support/tensor_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LAYER_TENSORS = 9, FAST = 16, MLP = 64, FILES = 7 };

static const char *const file_names[FILES] = { "qfilter", "stats", "kvzap-linear", "kvzap-mlp", "fast", "duo", "lukv" };

/* ---- weights --------------------------------------------------------------------------------------------------------- */

/* Rows of tensor number t, times 2^-shift. */
static void rows_of(const struct tiny_model *t, int32_t tensor, int64_t row, int64_t rows, int64_t cols, int shift,
                    float *out)
{
    for (int64_t i = 0; i < rows * cols; i++)
        out[i] = ldexpf((float)small_value((uint64_t)(1000 * t->m + tensor), (uint64_t)(row * cols + i)), -shift);
}

static void norm_of(const struct tiny_model *t, int32_t tensor, int64_t cols, float *out)
{
    for (int64_t i = 0; i < cols; i++)
        out[i] = (float)(1.0 + 0.25 * small_value((uint64_t)(1000 * t->m + tensor), (uint64_t)i));
}

/* Rows of tensors that follow one another in a fused role: part p has count[p] rows. */
static void fused_rows(const struct tiny_model *t, int32_t tensor, const int64_t *count, const int *shift, int64_t row,
                       int64_t rows, float *out)
{
    const int64_t cols = t->local.hp.dim;

    for (int part = 0; rows > 0; part++) {
        int64_t take = count[part] - row < rows ? count[part] - row : rows;

        if (take > 0) {
            rows_of(t, tensor + part, row, take, cols, shift[part], out);
            out += take * cols;
            rows -= take;
            row = 0;
        } else {
            row -= count[part];
        }
    }
}

static enum status read_rows(void *ctx, enum weight_role role, int32_t layer, int64_t row, int64_t rows, float *out,
                             struct err *err)
{
    const struct tiny_model *t = ctx;
    const struct hparams *hp = &t->local.hp;
    const int64_t q = (int64_t)hp->q_heads * hp->head_dim, kv = (int64_t)hp->kv_heads * hp->head_dim;
    const int64_t qkv[] = { q, kv, kv }, gate_up[] = { hp->ff_dim, hp->ff_dim };
    const int qkv_shift[] = { 2, 2, 3 }, gate_shift[] = { 3, 3 };
    const int32_t first = 1 + LAYER_TENSORS * layer, last = 1 + LAYER_TENSORS * hp->layers;

    switch (role) {
    case ROLE_EMBEDDING:
        rows_of(t, 0, row, rows, hp->dim, 0, out);
        return ST_OK;
    case ROLE_HEAD:
        rows_of(t, hp->tied_head ? 0 : last + 1, row, rows, hp->dim, hp->tied_head ? 0 : 3, out);
        return ST_OK;
    case ROLE_OUT_NORM:
        norm_of(t, last, hp->dim, out);
        return ST_OK;
    case ROLE_ATTN_NORM:
        norm_of(t, first, hp->dim, out);
        return ST_OK;
    case ROLE_MLP_NORM:
        norm_of(t, first + 5, hp->dim, out);
        return ST_OK;
    case ROLE_QKV:
        fused_rows(t, first + 1, qkv, qkv_shift, row, rows, out);
        return ST_OK;
    case ROLE_O:
        rows_of(t, first + 4, row, rows, q, 3, out);
        return ST_OK;
    case ROLE_GATE_UP:
        fused_rows(t, first + 6, gate_up, gate_shift, row, rows, out);
        return ST_OK;
    case ROLE_DOWN:
        rows_of(t, first + 8, row, rows, hp->ff_dim, 4, out);
        return ST_OK;
    default:
        return err_set(err, ST_EINVAL, "the formula has no tensor for role %d", (int)role);
    }
}

/* ---- parameter files ------------------------------------------------------------------------------------------------- */

/* bias + scale * value, over the seed of file number n. */
static float *numbers(const struct tiny_model *t, int32_t n, int64_t count, double bias, double scale)
{
    float *out = malloc((size_t)count * sizeof *out);

    assert_non_null(out);
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)(bias + small_value((uint64_t)(1000 * t->m + 500 + n), (uint64_t)i) * scale);
    return out;
}

struct shape {
    char text[64];
    int64_t count;
};

static struct shape shape_of(int rank, const int64_t *dims)
{
    struct shape s = { "[", 1 };

    for (int i = 0; i < rank; i++) {
        snprintf(s.text + strlen(s.text), sizeof s.text - strlen(s.text), "%s%d", i ? "," : "", (int)dims[i]);
        s.count *= dims[i];
    }
    strcat(s.text, "]");
    return s;
}

#define SHAPE(...) \
    shape_of((int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ })

static void add(const struct tiny_model *t, struct tensor_file *f, const char *name, int32_t n, struct shape shape,
                double bias, double scale)
{
    float *values = numbers(t, n, shape.count, bias, scale);

    tensor_file_add(f, name, shape.text, values, shape.count);
    free(values);
}

static void add_layer(const struct tiny_model *t, struct tensor_file *f, int32_t layer, const char *name, int32_t n,
                      struct shape shape, double bias, double scale)
{
    char full[64];

    snprintf(full, sizeof full, "layers.%d.%s", layer, name);
    add(t, f, full, n, shape, bias, scale);
}

static void add_stats(const struct tiny_model *t, struct tensor_file *f)
{
    const struct hparams *hp = &t->local.hp;
    const int64_t d = hp->head_dim, all = (int64_t)hp->layers * hp->q_heads;
    float *a = numbers(t, 2, all * d * d, 0, 1), *cov = malloc((size_t)(all * d * d) * sizeof *cov);

    assert_non_null(cov);
    for (int64_t m = 0; m < all; m++)
        for (int64_t i = 0; i < d; i++)
            for (int64_t j = 0; j < d; j++) {
                double x = a[(m * d + i) * d + j], y = a[(m * d + j) * d + i];

                cov[(m * d + i) * d + j] = (float)(i == j ? 1 + x / 2 : (x + y) / 32);
            }
    add(t, f, "query_mean", 1, SHAPE(hp->layers, hp->q_heads, d), 0, 1);
    tensor_file_add(f, "query_cov", SHAPE(hp->layers, hp->q_heads, d, d).text, cov, all * d * d);
    free(a);
    free(cov);
}

static void add_kvzap(const struct tiny_model *t, struct tensor_file *linear, struct tensor_file *mlp, int32_t l)
{
    const struct hparams *hp = &t->local.hp;

    add_layer(t, linear, l, "weight", 100 + 2 * l, SHAPE(hp->kv_heads, hp->dim), 0, 0.125);
    add_layer(t, linear, l, "bias", 101 + 2 * l, SHAPE(hp->kv_heads), 0, 1);
    add_layer(t, mlp, l, "0.weight", 120 + 4 * l, SHAPE(MLP, hp->dim), 0, 0.125);
    add_layer(t, mlp, l, "0.bias", 121 + 4 * l, SHAPE(MLP), 0, 1);
    add_layer(t, mlp, l, "2.weight", 122 + 4 * l, SHAPE(hp->kv_heads, MLP), 0, 0.25);
    add_layer(t, mlp, l, "2.bias", 123 + 4 * l, SHAPE(hp->kv_heads), 0, 1);
}

static void add_fast(const struct tiny_model *t, struct tensor_file *f, int32_t l)
{
    const struct hparams *hp = &t->local.hp;
    const int64_t group = hp->q_heads / hp->kv_heads, queries = hp->q_heads * FAST, keys = hp->kv_heads * FAST;
    const int32_t n = 200 + 10 * l;

    add_layer(t, f, l, "q_proj.weight", n, SHAPE(queries, hp->dim), 0, 0.25);
    add_layer(t, f, l, "q_proj.bias", n + 1, SHAPE(queries), 0, 1);
    add_layer(t, f, l, "k_proj.weight", n + 2, SHAPE(keys, hp->dim), 0, 0.25);
    add_layer(t, f, l, "q_norm.weight", n + 3, SHAPE(FAST), 1, 0.25);
    add_layer(t, f, l, "k_norm.weight", n + 4, SHAPE(FAST), 1, 0.25);
    add_layer(t, f, l, "k_base", n + 5, SHAPE(hp->kv_heads, 1, FAST, FAST), 0, 1);
    add_layer(t, f, l, "b", n + 6, SHAPE(hp->kv_heads, 1, group), 0, 1);
}

static const char *path_of(const struct tiny_model *t, const char *name, char room[64])
{
    snprintf(room, 64, "%s/%s", t->folder, name);
    return room;
}

static FILE *file_of(const struct tiny_model *t, const char *name)
{
    char path[64];
    FILE *out = fopen(path_of(t, name, path), "wb");

    assert_non_null(out);
    return out;
}

static void write_duo(const struct tiny_model *t)
{
    const struct hparams *hp = &t->local.hp;
    FILE *out = file_of(t, "duo");

    for (int32_t i = 0; i < hp->layers * hp->kv_heads; i++)
        fprintf(out, "%.17g%c", (small_value((uint64_t)(1000 * t->m + 560), (uint64_t)i) + 1) / 2,
                (i + 1) % hp->kv_heads ? '\t' : '\n');
    fclose(out);
    out = file_of(t, "config.json");
    fputs("{\"sink_size\": 4, \"recent_size\": 16}", out);
    fclose(out);
}

static void write_lukv(const struct tiny_model *t)
{
    const struct hparams *hp = &t->local.hp;
    const unsigned char start[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0 };
    FILE *out = file_of(t, "lukv");
    char head[118];

    snprintf(head, sizeof head, "{'descr': '<f8', 'fortran_order': False, 'shape': (99, %d, %d), }", hp->layers,
             hp->kv_heads);
    fwrite(start, 1, sizeof start, out);
    fprintf(out, "%-117s\n", head);
    for (int32_t i = 0; i < 99 * hp->layers * hp->kv_heads; i++) {
        double v = 0.5 + small_value((uint64_t)(1000 * t->m + 561), (uint64_t)i) / 4;

        fwrite(&v, sizeof v, 1, out);
    }
    fclose(out);
}

static void files_write(const struct tiny_model *t)
{
    const struct hparams *hp = &t->local.hp;
    struct tensor_file f[5];
    char path[64];

    for (int i = 0; i < 5; i++)
        tensor_file_open(&f[i]);
    add(t, &f[0], "q_filters", 0, SHAPE(hp->layers, hp->kv_heads, hp->head_dim), 0, 1);
    add_stats(t, &f[1]);
    for (int32_t l = 0; l < hp->layers; l++) {
        add_kvzap(t, &f[2], &f[3], l);
        add_fast(t, &f[4], l);
    }
    for (int i = 0; i < 5; i++)
        tensor_file_write(&f[i], path_of(t, file_names[i], path));
    write_duo(t);
    write_lukv(t);
}

static void files_open(struct tiny_model *t)
{
    struct err err = { 0 };
    char path[64];
    enum status st = press_files_open(&t->files, &t->local.hp, false, &err);

    for (int i = 0; i < FILES && st == ST_OK; i++)
        st = press_files_add(t->files, file_names[i], path_of(t, file_names[i], path), &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
}

/* ---- the model --------------------------------------------------------------------------------------------------------- */

static int32_t number_of(const json_t *model, const char *key)
{
    const json_t *n = json_object_get(model, key);

    assert_true(json_is_integer(n));
    return (int32_t)json_integer_value(n);
}

static struct hparams hparams_of(const json_t *model)
{
    struct hparams hp = { 0 };

    hp.layers = number_of(model, "layers");
    hp.dim = number_of(model, "hidden");
    hp.q_heads = number_of(model, "q_heads");
    hp.kv_heads = number_of(model, "kv_heads");
    hp.head_dim = hp.rope.dims = number_of(model, "head_size");
    hp.ff_dim = number_of(model, "inter");
    hp.vocab = TINY_VOCAB;
    hp.max_positions = 8192;
    hp.norm_eps = 1e-5f;
    hp.attn_scale = 1 / sqrtf((float)hp.head_dim);
    hp.embed_scale = 1;
    hp.tied_head = json_is_true(json_object_get(model, "tied"));
    hp.rope.theta = 10000;
    hp.rope.factor = 1;
    hp.bos_id = -1;
    return hp;
}

/* A text's ids are its bytes. */
static int64_t ids_of(const char *text, int32_t *out)
{
    int64_t count = (int64_t)strlen(text);

    for (int64_t i = 0; i < count; i++)
        out[i] = (unsigned char)text[i];
    return count;
}

static void device_open(struct tiny_model *t)
{
    struct backend_config config = {
        .dtype = DT_F32, .threads = 2, .memory_fraction = 0.5, .rows_max = prefill_rows("cpu", 2 * TINY_TOKENS_MAX)
    };
    struct local *l = &t->local;
    struct err err = { 0 };
    enum status st = backend_open(&l->be, "cpu", &config, &err);

    if (st == ST_OK)
        st = weights_open(&l->weights, l->be, &l->hp, read_rows, t, 1, &err);
    if (st == ST_OK)
        st = prefill_open(&l->prefill, l->be, l->weights, TINY_TOKENS_MAX, &err);
    if (st == ST_OK)
        st = l->be->ops->alloc(l->be, prefill_x_bytes(l->prefill, TINY_TOKENS_MAX), "activations", &l->x, &err);
    if (st == ST_OK)
        st = press_run_open(&l->press, l->be, &l->hp, TINY_TOKENS_MAX, &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
}

void tiny_open(struct tiny_model *t, const json_t *model)
{
    memset(t, 0, sizeof *t);
    t->m = number_of(model, "m");
    t->local.hp = hparams_of(model);
    for (int i = 0; i < TINY_TOKENS_MAX; i++) {
        double u = (small_value((uint64_t)(1000 * t->m + 900), (uint64_t)i) + 1) * 8388608.0;

        t->token[i] = (int32_t)((int64_t)u % TINY_VOCAB);
    }
    strcpy(t->folder, "/tmp/platen_tiny_XXXXXX");
    assert_non_null(mkdtemp(t->folder));
    files_write(t);
    files_open(t);
    device_open(t);
    t->suffix[0] = '\n';
    t->local.prompt = (struct press_prompt){ .suffix = t->suffix,
                                             .suffix_tokens = 1,
                                             .repeat_all = t->repeat_all,
                                             .repeat_all_tokens = ids_of(PRESS_REPEAT_ALL, t->repeat_all),
                                             .repeat_part = t->repeat_part,
                                             .repeat_part_tokens = ids_of(PRESS_REPEAT_PART, t->repeat_part) };
}

void tiny_close(struct tiny_model *t)
{
    char path[64];

    press_files_close(t->files);
    local_close(&t->local);
    for (int i = 0; i < FILES; i++)
        remove(path_of(t, file_names[i], path));
    remove(path_of(t, "config.json", path));
    rmdir(t->folder);
}
