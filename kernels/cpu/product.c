/* SPDX-License-Identifier: Apache-2.0 */
/* product.c - rows of a view as f32, products in f32 on the tiles. */
#include "kernels/cpu/product.h"

#include <string.h>

const float *view_rows(const struct cpu *c, const struct kv_rows *in, bool values, int32_t head, int64_t row,
                       int64_t count, float *room)
{
    const char *from = (const char *)(values ? in->v : in->k) + (in->first[head] + row) * in->dim * cpu_kv_bytes(c);

    if (in->dtype == DT_F32)
        return (const float *)from;
    c->loops->from_bf16((const uint16_t *)from, count * in->dim, room);
    return room;
}

int64_t view_longest(const struct kv_rows *in)
{
    int64_t most = 0;

    for (int32_t g = 0; g < in->heads; g++)
        most = in->rows[g] > most ? in->rows[g] : most;
    return most;
}

int64_t product_width(const struct cpu *c, int64_t n)
{
    int64_t panel = c->isa->f32->panel;

    return (n + panel - 1) / panel * panel;
}

int64_t product_floats(const struct cpu *c, int64_t n, int64_t k)
{
    return product_width(c, n) * k;
}

void product_pack_columns(const struct cpu *c, const float *columns, int64_t stride, int64_t n, int64_t k,
                          float *packed)
{
    int32_t panel = c->isa->f32->panel;

    for (int64_t col = 0; col < n; col += panel)
        c->isa->layout->panel_rows(columns + col * stride, stride * 4, (int32_t)(n - col < panel ? n - col : panel),
                                   (int32_t)k, panel, 0, packed + col * k);
}

void product_pack_rows(const struct cpu *c, const float *rows, int64_t stride, int64_t n, int64_t k, float *packed)
{
    int64_t panel = c->isa->f32->panel;

    for (int64_t col = 0; col < n; col += panel)
        for (int64_t u = 0; u < k; u++) {
            float *to = packed + col * k + u * panel;
            int64_t count = n - col < panel ? n - col : panel;

            memcpy(to, rows + u * stride + col, (size_t)count * 4);
            memset(to + count, 0, (size_t)(panel - count) * 4);
        }
}

void product_run(const struct cpu *c, const float *a, int64_t a_stride, int64_t m, const float *packed, int64_t n,
                 int64_t k, float *out, int64_t out_stride, bool add)
{
    const struct cpu_math *math = c->isa->f32;
    struct tile t = {
        .a_stride = a_stride * 4,
        .b = packed,
        .b_stride = math->panel * 4,
        .b_panel = k * math->panel * 4,
        .c_stride = out_stride,
        .panels = (int32_t)(product_width(c, n) / math->panel),
        .units = (int32_t)k,
        .add = add,
    };

    for (int64_t row = 0; row < m; row += math->strip) {
        t.a = a + row * a_stride;
        t.c = out + row * out_stride;
        t.rows = (int32_t)(m - row < math->strip ? m - row : math->strip);
        math->tile(&t);
    }
}
