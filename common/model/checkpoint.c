/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checkpoint.c - opens a model: finds the files, reads the configuration, binds the weights.
 *
 *      directory ─▶ config.json, *.safetensors ─┐
 *                                               ├─▶ hparams ─▶ weights_bind ─▶ checkpoint
 *      file.gguf ─▶ metadata, tensors ──────────┘
 */
#include "common/model/checkpoint.h"

#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/model/family.h"
#include "common/model/gguf.h"
#include "common/model/jsonfile.h"
#include "common/model/keys.h"
#include "common/model/safetensors.h"
#include "common/model/weights.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS_MAX = 4096 };

struct checkpoint {
    struct arena arena;
    const char *path, *name;
    const struct family *family;
    struct hparams hparams;
    struct file *files; /* mapped; every weight points into one of them */
    size_t file_count;
    struct gguf gguf;
    bool is_gguf;
    struct tensors hf_tensors;
    struct bound_weights weights;
};

static struct tensors *tensors_of(struct checkpoint *c)
{
    return c->is_gguf ? &c->gguf.tensors : &c->hf_tensors;
}

/* "model-00001-of-00002.safetensors", never a path. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/');
}

static enum status read_shard(struct checkpoint *c, const char *name, struct err *err)
{
    const char *path = arena_printf(&c->arena, "%s/%s", c->path, name);
    struct file *f = &c->files[c->file_count];
    enum status st = file_open(f, path, err);

    if (st != ST_OK)
        return st;
    c->file_count++;
    st = safetensors_read(&c->hf_tensors, &c->arena, f->data, f->bytes, err);
    if (st != ST_OK)
        err_prefix(err, "%s", path);
    return st;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The file names of the index's weight_map, each once. */
static enum status shard_names(const json_t *map, const char **names, size_t *count, struct err *err)
{
    const char *tensor;
    json_t *file;
    size_t n = 0, kept = 0;

    json_object_foreach((json_t *)map, tensor, file)
    {
        const char *name = json_string_value(file);
        if (!name || !is_plain_name(name))
            return err_set(err, ST_EINVAL, "weight_map: tensor %s is in no file of this directory", tensor);
        names[n++] = name;
    }
    if (n == 0)
        return err_set(err, ST_EINVAL, "weight_map is missing or empty");
    qsort(names, n, sizeof names[0], name_order);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(names[kept - 1], names[i]) != 0)
            names[kept++] = names[i];
    if (kept > SHARDS_MAX)
        return err_set(err, ST_EINVAL, "weight_map names %zu files; %d are allowed", kept, SHARDS_MAX);
    *count = kept;
    return ST_OK;
}

static enum status check_map(const struct checkpoint *c, const json_t *map, struct err *err)
{
    const char *tensor;
    json_t *file;

    json_object_foreach((json_t *)map, tensor, file) if (!tensors_find(&c->hf_tensors, tensor)) return err_set(
        err, ST_EINVAL, "tensor %s is missing from %s", tensor, json_string_value(file));
    return ST_OK;
}

static enum status read_shards(struct checkpoint *c, const char *index_name, struct err *err)
{
    json_t *index = NULL;
    enum status st = json_read(&index, c->path, index_name, err);
    const json_t *map = json_object_get(index, "weight_map");
    const char **names = NULL;
    size_t count = 0;

    if (st != ST_OK)
        return st;
    names = arena_array(&c->arena, json_object_size(map) + 1, sizeof names[0]);
    st = shard_names(map, names, &count, err);
    if (st != ST_OK)
        err_prefix(err, "%s/%s", c->path, index_name);
    c->files = arena_array(&c->arena, count + 1, sizeof c->files[0]);
    for (size_t i = 0; st == ST_OK && i < count; i++)
        st = read_shard(c, names[i], err);
    if (st == ST_OK)
        st = tensors_seal(&c->hf_tensors, err);
    if (st == ST_OK)
        st = check_map(c, map, err);
    json_decref(index);
    return st;
}

static enum status read_weights(struct checkpoint *c, struct err *err)
{
    const char *single = "model.safetensors", *index = "model.safetensors.index.json";
    enum status st;

    if (file_exists(arena_printf(&c->arena, "%s/%s", c->path, single))) {
        c->files = arena_array(&c->arena, 1, sizeof c->files[0]);
        st = read_shard(c, single, err);
        return st == ST_OK ? tensors_seal(&c->hf_tensors, err) : st;
    }
    if (file_exists(arena_printf(&c->arena, "%s/%s", c->path, index)))
        return read_shards(c, index, err);
    return err_set(err, ST_ENOTFOUND, "%s: no %s and no %s", c->path, single, index);
}

/* The ids that end an answer: generation_config.json's where it has them, else config.json's. */
static enum status read_generation(struct checkpoint *c, struct keys_result *result, struct err *err)
{
    json_t *doc;
    enum status st = json_read_optional(&doc, c->path, "generation_config.json", err);
    struct keys k = { .json = doc, .result = result };
    const double *ids;
    size_t count;

    if (st != ST_OK)
        return st;
    ids = keys_nums(&k, "eos_token_id", HPARAMS_EOS_MAX, &count);
    if (ids)
        c->hparams.eos_count = 0;
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < c->hparams.vocab)
            c->hparams.eos_id[c->hparams.eos_count++] = (int32_t)ids[i];
    if (keys_status(&k) != ST_OK)
        err_prefix(err, "%s/generation_config.json", c->path);
    json_decref(doc);
    return keys_status(&k);
}

static enum status read_config(struct checkpoint *c, const json_t *config, struct err *err)
{
    struct keys_result result = { ST_OK, err, &c->arena };
    struct keys root = { .json = config, .result = &result };
    struct keys text = root;
    const char *type = keys_text(&root, "model_type");
    enum arch arch;
    enum status st;

    if (!type)
        return err_set(err, ST_EINVAL, "model_type is missing");
    st = family_find_hf(&arch, type, err);
    if (st != ST_OK)
        return st;
    c->family = family_at(arch);
    c->hparams.arch = arch;
    if (c->family->nested && keys_has(&root, c->family->nested))
        text = keys_object(&root, c->family->nested);
    return hparams_from_config(&c->hparams, c->family, &text);
}

static enum status open_directory(struct checkpoint *c, struct err *err)
{
    struct keys_result result = { ST_OK, err, &c->arena };
    json_t *config = NULL;
    enum status st = json_read(&config, c->path, "config.json", err);

    if (st != ST_OK)
        return st;
    st = read_config(c, config, err);
    if (st != ST_OK)
        err_prefix(err, "%s/config.json", c->path);
    json_decref(config);
    if (st == ST_OK)
        st = read_generation(c, &result, err);
    if (st == ST_OK)
        st = read_weights(c, err);
    return st;
}

static enum status read_gguf_config(struct checkpoint *c, struct err *err)
{
    struct keys_result result = { ST_OK, err, &c->arena };
    struct keys k = { .gguf = &c->gguf, .prefix = "", .result = &result };
    const char *architecture = keys_text(&k, "general.architecture");
    enum arch arch;
    enum status st;

    if (!architecture)
        return err_set(err, ST_EINVAL, "general.architecture is missing");
    if (keys_int(&k, "split.count", 0, 65535, 0) > 1)
        return err_set(err, ST_EUNIMPLEMENTED,
                       "this is one part of a split file; join the parts with gguf-split --merge");
    st = family_find_gguf(&arch, architecture, err);
    if (st != ST_OK)
        return st;
    c->family = family_at(arch);
    c->hparams.arch = arch;
    k.prefix = arena_printf(&c->arena, "%s.", architecture);
    return hparams_from_gguf(&c->hparams, c->family, &k);
}

static enum status open_gguf(struct checkpoint *c, struct err *err)
{
    enum status st;

    c->files = arena_array(&c->arena, 1, sizeof c->files[0]);
    st = file_open(&c->files[0], c->path, err);
    if (st != ST_OK)
        return st;
    c->file_count = 1;
    c->is_gguf = true;
    st = gguf_open(&c->gguf, c->files[0].data, c->files[0].bytes, err);
    if (st == ST_OK)
        st = read_gguf_config(c, err);
    if (st != ST_OK)
        err_prefix(err, "%s", c->path);
    return st;
}

/* The last part of a path, slashes at its end not counted. */
static const char *last_part(struct arena *arena, const char *path)
{
    size_t end = strlen(path), start;

    while (end > 1 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    return arena_strndup(arena, path + start, end - start);
}

enum status checkpoint_open(struct checkpoint **out, const char *path, struct err *err)
{
    struct checkpoint *c;
    enum status st;

    if (!file_exists(path))
        return err_set(err, ST_ENOTFOUND, "%s: no such file or directory", path);
    c = mem_zero(1, sizeof *c);
    c->path = arena_strdup(&c->arena, path);
    c->name = last_part(&c->arena, path);
    st = file_is_dir(path) ? open_directory(c, err) : open_gguf(c, err);
    if (st == ST_OK) {
        st = weights_bind(&c->weights, tensors_of(c), c->family, &c->hparams, c->is_gguf, &c->arena, err);
        if (st != ST_OK)
            err_prefix(err, "%s", path);
    }
    if (st != ST_OK) {
        checkpoint_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    tensors_fini(&c->hf_tensors);
    gguf_close(&c->gguf);
    for (size_t i = 0; i < c->file_count; i++)
        file_close(&c->files[i]);
    arena_fini(&c->arena);
    free(c);
}

const struct hparams *checkpoint_hparams(const struct checkpoint *c)
{
    return &c->hparams;
}

const char *checkpoint_family(const struct checkpoint *c)
{
    return c->family->name;
}

const char *checkpoint_name(const struct checkpoint *c)
{
    return c->name;
}

const char *checkpoint_path(const struct checkpoint *c)
{
    return c->path;
}

const struct gguf *checkpoint_gguf(const struct checkpoint *c)
{
    return c->is_gguf ? &c->gguf : NULL;
}

bool checkpoint_tensor(const struct checkpoint *c, enum slot slot, int32_t layer, struct tensor_ref *out)
{
    const struct tensor_ref *ref;

    if (!slot_is_per_layer(slot))
        layer = 0;
    if (layer < 0 || layer >= c->hparams.layers)
        return false;
    ref = &c->weights.refs[slot * c->hparams.layers + layer];
    if (!ref->data)
        return false;
    *out = *ref;
    return true;
}
