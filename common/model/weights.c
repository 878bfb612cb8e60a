/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weights.c - names and shapes: from what a file holds to what the model asks for.
 *
 *   hparams ─▶ which slots, which shapes          family, slot.def ─▶ their names
 *                       └──────────▶ tensor ◀──────────┘
 *
 * A tensor that two slots share by name is split by rows, in the order of the slots. Reading a row undoes what the file
 * does differently (tensor_ref_rows).
 */
#include "common/model/weights.h"

#include "common/base/bytes.h"

#include <stdio.h>
#include <string.h>

enum { NAME_MAX_BYTES = 256 };

static const struct {
    const char *word;
    bool per_layer;
    const char *hf, *gguf;
} slots[SLOT_COUNT] = {
#define SLOT(name, per_layer, hf, gguf) { #name, per_layer, hf, gguf },
#include "common/model/slot.def"
#undef SLOT
};

const char *slot_word(enum slot slot)
{
    return slots[slot].word;
}

bool slot_is_per_layer(enum slot slot)
{
    return slots[slot].per_layer;
}

static bool slot_is_norm(enum slot slot)
{
    return slot == SLOT_OUT_NORM || slot == SLOT_ATTN_NORM || slot == SLOT_Q_NORM || slot == SLOT_K_NORM ||
           slot == SLOT_POST_ATTN_NORM || slot == SLOT_MLP_NORM || slot == SLOT_POST_MLP_NORM;
}

static bool slot_wanted(const struct hparams *h, enum slot slot)
{
    switch (slot) {
    case SLOT_LM_HEAD:
        return !h->tied_head;
    case SLOT_Q_BIAS:
    case SLOT_K_BIAS:
    case SLOT_V_BIAS:
        return h->qkv_bias;
    case SLOT_O_BIAS:
        return h->o_bias;
    case SLOT_GATE_BIAS:
    case SLOT_UP_BIAS:
    case SLOT_DOWN_BIAS:
        return h->mlp_bias;
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
        return h->qk_norm;
    case SLOT_POST_ATTN_NORM:
    case SLOT_POST_MLP_NORM:
        return h->post_norms;
    default:
        return true;
    }
}

static void slot_shape(const struct hparams *h, enum slot slot, int64_t *rows, int64_t *cols)
{
    int64_t q = (int64_t)h->q_heads * h->head_dim;
    int64_t kv = (int64_t)h->kv_heads * h->head_dim;

    *rows = 1;
    *cols = h->dim; /* most norms, and biases of what is added to the residual */
    switch (slot) {
    case SLOT_EMBEDDING:
    case SLOT_LM_HEAD:
        *rows = h->vocab;
        break;
    case SLOT_Q:
        *rows = q;
        break;
    case SLOT_K:
    case SLOT_V:
        *rows = kv;
        break;
    case SLOT_O:
        *rows = h->dim, *cols = q;
        break;
    case SLOT_Q_BIAS:
        *cols = q;
        break;
    case SLOT_K_BIAS:
    case SLOT_V_BIAS:
        *cols = kv;
        break;
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
        *cols = h->head_dim;
        break;
    case SLOT_GATE:
    case SLOT_UP:
        *rows = h->ff_dim;
        break;
    case SLOT_DOWN:
        *rows = h->dim, *cols = h->ff_dim;
        break;
    case SLOT_GATE_BIAS:
    case SLOT_UP_BIAS:
        *cols = h->ff_dim;
        break;
    default:
        break;
    }
}

/* What a bind needs to know everywhere. */
struct binder {
    struct tensors *tensors;
    const struct family *f;
    const struct hparams *h;
    bool is_gguf;
};

static const char *name_pattern(const struct binder *b, enum slot slot)
{
    for (size_t i = 0; i < b->f->name_count; i++) {
        const struct slot_name *n = &b->f->names[i];
        const char *own = b->is_gguf ? n->gguf : n->hf;
        if (n->slot == slot && own)
            return own;
    }
    return b->is_gguf ? slots[slot].gguf : slots[slot].hf;
}

/* The pattern with its %d replaced. */
static void write_name(char out[NAME_MAX_BYTES], const char *pattern, int32_t layer)
{
    const char *at = strstr(pattern, "%d");

    if (at)
        snprintf(out, NAME_MAX_BYTES, "%.*s%d%s", (int)(at - pattern), pattern, layer, at + 2);
    else
        snprintf(out, NAME_MAX_BYTES, "%s", pattern);
}

/* Models with more than a text part put a prefix before the text model's names. */
static struct tensor_entry *find_tensor(const struct binder *b, const char *name)
{
    struct tensor_entry *t = tensors_find(b->tensors, name);
    char longer[NAME_MAX_BYTES + 32];

    if (t || b->is_gguf || !b->f->nested)
        return t;
    snprintf(longer, sizeof longer, "language_model.%s", name);
    t = tensors_find(b->tensors, longer);
    if (t || strncmp(name, "model.", 6) != 0)
        return t;
    snprintf(longer, sizeof longer, "model.language_model.%s", name + 6);
    return tensors_find(b->tensors, longer);
}

/* Rows of the whole tensor, and at which of them this slot's part begins. */
static void find_part(const struct binder *b, enum slot slot, int64_t *first, int64_t *total)
{
    const char *pattern = name_pattern(b, slot);

    *first = *total = 0;
    for (int s = 0; s < SLOT_COUNT; s++) {
        const char *other = slot_wanted(b->h, (enum slot)s) ? name_pattern(b, (enum slot)s) : NULL;
        int64_t rows, cols;
        if (!other || strcmp(other, pattern) != 0)
            continue;
        slot_shape(b->h, (enum slot)s, &rows, &cols);
        *first += s < (int)slot ? rows : 0;
        *total += rows;
    }
}

static enum status check_shape(const struct tensor_entry *t, int64_t rows, int64_t cols, struct err *err)
{
    bool flat = t->dims == 1 && rows == 1 && t->shape[0] == cols;
    bool matrix = t->dims == 2 && t->shape[0] == rows && t->shape[1] == cols;
    char has[96] = "";

    if (flat || matrix)
        return ST_OK;
    for (int32_t i = 0; i < t->dims; i++)
        snprintf(has + strlen(has), sizeof has - strlen(has), "%s%lld", i ? " x " : "", (long long)t->shape[i]);
    return err_set(err, ST_EINVAL, "tensor %s is %s; the configuration needs %lld x %lld", t->name, has,
                   (long long)rows, (long long)cols);
}

static enum status bind_one(const struct binder *b, enum slot slot, int32_t layer, struct tensor_ref *out,
                            struct err *err)
{
    char name[NAME_MAX_BYTES];
    struct tensor_entry *t;
    int64_t rows, cols, first, total;
    uint64_t row_bytes;
    enum status st;

    write_name(name, name_pattern(b, slot), layer);
    t = find_tensor(b, name);
    if (!t)
        return err_set(err, ST_EINVAL, "tensor %s is missing", name);
    slot_shape(b->h, slot, &rows, &cols);
    find_part(b, slot, &first, &total);
    st = check_shape(t, total, cols, err);
    if (st == ST_OK && rows == 1 && dtype_block_values(t->dtype) > 1)
        st = err_set(err, ST_EUNIMPLEMENTED, "tensor %s is a quantised vector", t->name);
    if (st != ST_OK)
        return st;
    row_bytes = dtype_bytes(t->dtype, (uint64_t)cols);
    t->used = true;
    out->data = t->data + row_bytes * (uint64_t)first;
    out->dtype = t->dtype;
    out->rows = rows;
    out->cols = cols;
    out->bytes = row_bytes * (uint64_t)rows;
    if (b->is_gguf && b->f->gguf_permuted)
        out->permuted_heads = slot == SLOT_Q || slot == SLOT_Q_BIAS   ? b->h->q_heads
                              : slot == SLOT_K || slot == SLOT_K_BIAS ? b->h->kv_heads
                                                                      : 0;
    if (!b->is_gguf && slot_is_norm(slot))
        out->add = b->f->hf_norm_add;
    return ST_OK;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Tensors that files carry and no computation needs. */
static bool is_known_extra(const struct binder *b, const char *name)
{
    static const char *const gguf_extras[] = { "rope_freqs.weight", "rope_factors_long.weight",
                                               "rope_factors_short.weight" };
    static const char *const other_parts[] = { "vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                                               "model.multi_modal_projector." };

    if (strstr(name, "rotary_emb.inv_freq"))
        return true;
    for (size_t i = 0; b->is_gguf && i < ARRAY_LEN(gguf_extras); i++)
        if (strcmp(name, gguf_extras[i]) == 0)
            return true;
    for (size_t i = 0; b->f->nested && i < ARRAY_LEN(other_parts); i++)
        if (begins(name, other_parts[i]))
            return true;
    return !b->is_gguf && b->h->tied_head && strstr(name, "lm_head.weight");
}

static enum status check_extras(const struct binder *b, struct err *err)
{
    for (size_t i = 0; i < b->tensors->count; i++) {
        const struct tensor_entry *t = &b->tensors->items[i];
        if (!t->used && !is_known_extra(b, t->name))
            return err_set(err, ST_EINVAL, "tensor %s is not one that the family %s has", t->name, b->f->name);
    }
    return ST_OK;
}

enum status weights_bind(struct bound_weights *out, struct tensors *tensors, const struct family *f,
                         const struct hparams *h, bool is_gguf, struct arena *arena, struct err *err)
{
    struct binder b = { tensors, f, h, is_gguf };
    struct bound_weights w = { 0 };

    w.refs = arena_array(arena, (size_t)SLOT_COUNT * (size_t)h->layers, sizeof w.refs[0]);
    for (int s = 0; s < SLOT_COUNT; s++) {
        if (!slot_wanted(h, (enum slot)s))
            continue;
        for (int32_t l = 0; l < (slots[s].per_layer ? h->layers : 1); l++) {
            struct tensor_ref *ref = &w.refs[s * h->layers + l];
            enum status st = bind_one(&b, (enum slot)s, l, ref, err);
            if (st != ST_OK)
                return st;
        }
    }
    *out = w;
    return check_extras(&b, err);
}

/* GGUF's converter for Llama writes the rows of a head as (0, D/2, 1, D/2 + 1, ...), for rotation of neighbours. */
static int64_t permuted(int64_t row, int64_t head_dim)
{
    int64_t half = head_dim / 2, in_head = row % head_dim;

    return row - in_head + 2 * (in_head % half) + in_head / half;
}

int64_t tensor_ref_row(const struct tensor_ref *t, int64_t row)
{
    return t->permuted_heads > 0 && t->rows > 1 ? permuted(row, t->rows / t->permuted_heads) : row;
}

/* A bias is one row, whose values stand in the order of the rows of its matrix. */
static void read_permuted_bias(const struct tensor_ref *t, float *out)
{
    for (int64_t i = 0; i < t->cols; i++) {
        int64_t from = permuted(i, t->cols / t->permuted_heads);

        dtype_to_f32(out + i, t->data + dtype_bytes(t->dtype, (uint64_t)from), t->dtype, 1);
    }
}

void tensor_ref_rows(const struct tensor_ref *t, int64_t first, int64_t count, float *out)
{
    uint64_t row_bytes = dtype_bytes(t->dtype, (uint64_t)t->cols);

    if (t->permuted_heads > 0 && t->rows == 1 && count == 1) {
        read_permuted_bias(t, out);
        return;
    }
    for (int64_t r = 0; r < count; r++) {
        float *to = out + r * t->cols;
        dtype_to_f32(to, t->data + (uint64_t)tensor_ref_row(t, first + r) * row_bytes, t->dtype, (uint64_t)t->cols);
        for (int64_t i = 0; t->add != 0 && i < t->cols; i++)
            to[i] += t->add;
    }
}
