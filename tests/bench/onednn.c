/* SPDX-License-Identifier: Apache-2.0 */
/*
 * onednn.c - the peer of bench_kernels: oneDNN's bf16 products with packed weights, the same shapes, its own threads.
 *
 *   bench_onednn [threads]
 *
 * Weights come from enough copies to lie beyond the caches where rows are few, as in bench_kernels. Medians of 9. What it
 * said is in docs/decisions/2026-11-22-products-of-our-own.md.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/order.h"

#include <dnnl.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 9, WEIGHTS_BYTES = 128 << 20 };

static void must(dnnl_status_t st, const char *what)
{
    if (st == dnnl_success)
        return;
    fprintf(stderr, "bench_onednn: %s: status %d\n", what, (int)st);
    exit(1);
}

static dnnl_memory_desc_t describe(int64_t rows, int64_t cols, dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    dnnl_dims_t dims = { rows, cols };
    dnnl_memory_desc_t out;

    must(dnnl_memory_desc_init_by_tag(&out, 2, dims, type, tag), "memory");
    return out;
}

static dnnl_memory_t place(dnnl_engine_t engine, const dnnl_memory_desc_t *desc, void *at)
{
    dnnl_memory_t out;

    must(dnnl_memory_create(&out, desc, engine, at), "memory");
    return out;
}

static void bench_shape(dnnl_engine_t engine, dnnl_stream_t stream, int64_t m, int64_t n, int64_t k)
{
    dnnl_memory_desc_t in = describe(m, k, dnnl_bf16, dnnl_ab), out = describe(m, n, dnnl_f32, dnnl_ab);
    dnnl_memory_desc_t any = describe(k, n, dnnl_bf16, dnnl_format_tag_any);
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t product;

    must(dnnl_matmul_desc_init(&matmul, &in, &any, NULL, &out), "matmul");
    must(dnnl_primitive_desc_create(&desc, &matmul, NULL, engine, NULL), "matmul");
    must(dnnl_primitive_create(&product, desc), "matmul");

    const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    size_t bytes = dnnl_memory_desc_get_size(packed), copies = m < 64 ? WEIGHTS_BYTES / bytes : 4;
    char *weights = mem_aligned(bytes * copies), *left = mem_aligned((size_t)(m * k) * 2),
         *right = mem_aligned((size_t)(m * n) * 4);
    dnnl_memory_t in_memory = place(engine, &in, left), out_memory = place(engine, &out, right);
    dnnl_memory_t *w = mem_zero(copies, sizeof(dnnl_memory_t));
    const char *name = "?";
    double took[ROUNDS];

    memset(weights, 0x3c, bytes * copies); /* bf16 0.0115 */
    memset(left, 0x3c, (size_t)(m * k) * 2);
    for (size_t i = 0; i < copies; i++)
        w[i] = place(engine, packed, weights + i * bytes);
    for (int r = 0; r < ROUNDS; r++) {
        int64_t begin = clock_now_ns();

        for (size_t i = 0; i < copies; i++) {
            dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, in_memory },
                                       { DNNL_ARG_WEIGHTS, w[i] },
                                       { DNNL_ARG_DST, out_memory } };

            must(dnnl_primitive_execute(product, stream, ARRAY_LEN(args), args), "execute");
            must(dnnl_stream_wait(stream), "wait");
        }
        took[r] = (double)(clock_now_ns() - begin) / (double)copies;
    }
    qsort(took, ROUNDS, sizeof *took, order_f64);
    dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name);
    printf("onednn %lldx%lldx%lld %9.1f GFLOP/s %6.1f GB/s  %s\n", (long long)m, (long long)n, (long long)k,
           2.0 * (double)(m * n * k) / took[ROUNDS / 2], (double)bytes / took[ROUNDS / 2], name);
    for (size_t i = 0; i < copies; i++)
        dnnl_memory_destroy(w[i]);
    dnnl_memory_destroy(in_memory);
    dnnl_memory_destroy(out_memory);
    dnnl_primitive_destroy(product);
    dnnl_primitive_desc_destroy(desc);
    free(w);
    free(weights);
    free(left);
    free(right);
}

int main(int argc, char **argv)
{
    static const int64_t shapes[][2] = { { 960, 576 }, { 576, 576 }, { 3072, 576 }, { 576, 1536 }, { 49152, 576 } };
    static const int64_t rows[] = { 1, 4, 16, 512, 2048 };
    dnnl_engine_t engine;
    dnnl_stream_t stream;

    if (argc > 1)
        omp_set_num_threads(atoi(argv[1]));
    must(dnnl_engine_create(&engine, dnnl_cpu, 0), "engine");
    must(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "stream");
    for (size_t r = 0; r < ARRAY_LEN(rows); r++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
            if (rows[r] < 64 || shapes[s][0] < 10000)
                bench_shape(engine, stream, rows[r], shapes[s][0], shapes[s][1]);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return 0;
}
