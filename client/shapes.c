/* SPDX-License-Identifier: Apache-2.0 */
/* shapes.c - a table row becomes hparams. */
#include "client/shapes.h"

#include "common/base/bytes.h"
#include "common/base/text.h"

#include <math.h>
#include <string.h>

struct shape {
    const char *name;
    int32_t layers, dim, q_heads, kv_heads, head_dim, ff_dim, vocab;
    double theta;
    int tied;
};

static const struct shape shapes[] = {
#define SHAPE(...) { __VA_ARGS__ },
#include "client/shapes.def"
#undef SHAPE
};

static void fill(const struct shape *s, struct hparams *out)
{
    memset(out, 0, sizeof *out);
    out->layers = s->layers;
    out->dim = s->dim;
    out->q_heads = s->q_heads;
    out->kv_heads = s->kv_heads;
    out->head_dim = s->head_dim;
    out->ff_dim = s->ff_dim;
    out->vocab = s->vocab;
    out->max_positions = 1 << 20;
    out->norm_eps = 1e-5f;
    out->activation = ACT_SILU;
    out->attn_scale = 1.0f / sqrtf((float)s->head_dim);
    out->embed_scale = 1;
    out->tied_head = (uint8_t)s->tied;
    out->rope = (struct rope_params){ .kind = ROPE_DEFAULT, .dims = s->head_dim, .theta = s->theta, .factor = 1 };
    out->bos_id = -1;
}

enum status shape_find(const char *name, struct hparams *out, struct err *err)
{
    struct text names = { 0 };
    enum status st = ST_OK;

    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            fill(&shapes[i], out);
            text_fini(&names);
            return ST_OK;
        }
        text_printf(&names, "%s%s", i > 0 ? ", " : "", shapes[i].name);
    }
    st = err_set(err, ST_EINVAL, "--random: no shape \"%s\"; there are %s", name, text_str(&names));
    text_fini(&names);
    return st;
}
