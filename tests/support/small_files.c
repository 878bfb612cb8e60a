/* SPDX-License-Identifier: Apache-2.0 */
/* small_files.c - parameter files for the small layer, in a folder of their own under /tmp. */
#include "tests/support/small_files.h"
#include "common/base/bytes.h"
#include "tests/support/small_layer.h"
#include "tests/support/tensor_file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/platen_press_XXXXXX";

/* [layers][count] numbers, every layer's by the seed and its offset. */
static float *layered(uint64_t seed, int64_t count)
{
    float *out = malloc((size_t)(SMALL_LAYERS * count) * sizeof *out);

    for (int32_t l = 0; l < SMALL_LAYERS; l++)
        small_fill(seed + small_offset(l), count, out + l * count);
    return out;
}

static void write_layered(struct tensor_file *w, const char *name, uint64_t seed, int64_t per_layer, const char *shape)
{
    float *values = layered(seed, per_layer);

    tensor_file_add(w, name, shape, values, SMALL_LAYERS * per_layer);
    free(values);
}

static void write_end(struct tensor_file *w, const char *file)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", folder, file);
    tensor_file_write(w, path);
}

/* One tensor per layer, called layers.<l>.<name>. */
static void write_per_layer(struct tensor_file *w, const char *name, uint64_t seed, int64_t count, const char *shape)
{
    float *values = layered(seed, count);
    char full[64];

    for (int32_t l = 0; l < SMALL_LAYERS; l++) {
        snprintf(full, sizeof full, "layers.%d.%s", l, name);
        tensor_file_add(w, full, shape, values + l * count, count);
    }
    free(values);
}

static void write_stats(void)
{
    struct tensor_file w;
    float *a = layered(13, SMALL_H * 64), *cov = malloc(SMALL_LAYERS * SMALL_H * 64 * sizeof *cov);

    for (int64_t m = 0; m < SMALL_LAYERS * SMALL_H; m++)
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j++) {
                double sum = 0;

                for (int k = 0; k < 8; k++)
                    sum += (double)a[m * 64 + i * 8 + k] * a[m * 64 + j * 8 + k];
                cov[m * 64 + i * 8 + j] = (float)(sum / 8);
            }
    tensor_file_open(&w);
    write_layered(&w, "query_mean", 12, SMALL_H * SMALL_D, "[4,4,8]");
    tensor_file_add(&w, "query_cov", "[4,4,8,8]", cov, SMALL_LAYERS * SMALL_H * 64);
    free(a);
    free(cov);
    write_end(&w, "stats");
}

static void write_text(const char *file, const char *text)
{
    char path[256];
    FILE *out;

    snprintf(path, sizeof path, "%s/%s", folder, file);
    out = fopen(path, "w");
    assert(out);
    fputs(text, out);
    fclose(out);
}

static void write_lukv(void)
{
    static const char head[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (99, 4, 2), }";
    unsigned char start[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0 };
    char path[256];
    FILE *out;

    snprintf(path, sizeof path, "%s/lukv", folder);
    out = fopen(path, "wb");
    assert(out);
    fwrite(start, 1, 10, out);
    fprintf(out, "%-117s\n", head);
    for (uint64_t i = 0; i < 99 * 8; i++) {
        double v = 0.75 + small_value(35, i) / 4;

        fwrite(&v, 8, 1, out);
    }
    fclose(out);
}

void small_files_write(void)
{
    struct tensor_file qfilter, linear, mlp, fast;
    char text[512] = "";

    tensor_file_open(&qfilter);
    tensor_file_open(&linear);
    tensor_file_open(&mlp);
    tensor_file_open(&fast);
    assert(mkdtemp(folder));
    write_layered(&qfilter, "q_filters", 11, SMALL_G * SMALL_D, "[4,2,8]");
    write_end(&qfilter, "qfilter");
    write_per_layer(&linear, "weight", 9, 32, "[2,16]");
    write_per_layer(&linear, "bias", 10, 2, "[2]");
    write_end(&linear, "kvzap-linear");
    write_per_layer(&mlp, "0.weight", 14, 128, "[8,16]");
    write_per_layer(&mlp, "0.bias", 15, 8, "[8]");
    write_per_layer(&mlp, "2.weight", 16, 16, "[2,8]");
    write_per_layer(&mlp, "2.bias", 17, 2, "[2]");
    write_end(&mlp, "kvzap-mlp");
    write_per_layer(&fast, "q_proj.weight", 20, 64 * 16, "[64,16]");
    write_per_layer(&fast, "q_proj.bias", 21, 64, "[64]");
    write_per_layer(&fast, "k_proj.weight", 22, 32 * 16, "[32,16]");
    write_per_layer(&fast, "q_norm.weight", 23, 16, "[16]");
    write_per_layer(&fast, "k_norm.weight", 24, 16, "[16]");
    write_per_layer(&fast, "k_base", 25, 2 * 256, "[2,1,16,16]");
    write_per_layer(&fast, "b", 26, 4, "[2,1,2]");
    write_end(&fast, "fast");
    write_stats();
    write_lukv();
    for (uint64_t i = 0; i < 8; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%.17g%c", (small_value(31, i) + 1) / 2,
                 i % 2 ? '\n' : '\t');
    write_text("duo", text);
    write_text("config.json", "{\"sink_size\": 4, \"recent_size\": 8}");
}

void small_files_remove(void)
{
    static const char *const files[] = { "qfilter", "kvzap-linear", "kvzap-mlp", "fast",
                                         "stats",   "lukv",         "duo",       "config.json" };
    char path[256];

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        remove(path);
    }
    rmdir(folder);
}

struct press_files *small_files(const struct hparams *hp)
{
    static const char *const files[] = { "qfilter", "kvzap-linear", "kvzap-mlp", "fast", "stats", "lukv", "duo" };
    struct press_files *f;
    struct err err = { 0 };
    char path[256];
    enum status st;

    st = press_files_open(&f, hp, false, &err);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        st = st == ST_OK ? press_files_add(f, files[i], path, &err) : st;
    }
    assert(st == ST_OK);
    return f;
}
