/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/small_gate.h"

#include "common/base/arena.h"
#include "tests/support/tensor_file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HIDDEN = 24 };

static void add(struct tensor_file *f, int32_t layer, const char *part, int64_t rows, int64_t cols)
{
    const int64_t count = rows * (cols > 0 ? cols : 1);
    float *x = mem_alloc((size_t)count * sizeof *x);
    char name[64], shape[64];

    snprintf(name, sizeof name, "layers.%d.%s", layer, part);
    if (cols > 0)
        snprintf(shape, sizeof shape, "[%lld,%lld]", (long long)rows, (long long)cols);
    else
        snprintf(shape, sizeof shape, "[%lld]", (long long)rows);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)(((uint64_t)i * 2654435761u + (uint64_t)layer * 97u + strlen(part)) % 1009) / 504.0f - 1.0f;
    tensor_file_add(f, name, shape, x, count);
    free(x);
}

static void write_gate(const char *path, const struct hparams *hp, bool mlp)
{
    struct tensor_file f;

    tensor_file_open(&f);
    for (int32_t l = 0; l < hp->layers; l++) {
        if (mlp) {
            add(&f, l, "0.weight", HIDDEN, hp->dim);
            add(&f, l, "0.bias", HIDDEN, 0);
        }
        add(&f, l, mlp ? "2.weight" : "weight", hp->kv_heads, mlp ? HIDDEN : hp->dim);
        add(&f, l, mlp ? "2.bias" : "bias", hp->kv_heads, 0);
    }
    tensor_file_write(&f, path);
}

struct press_files *small_gate_open(const struct hparams *hp)
{
    char folder[] = "/tmp/platen_gate_XXXXXX", path[2][64];
    struct press_files *files;
    enum status st = press_files_open(&files, hp, false, NULL);

    if (!mkdtemp(folder))
        abort();
    for (int mlp = 0; mlp < 2; mlp++) {
        snprintf(path[mlp], sizeof path[mlp], "%s/%d", folder, mlp);
        write_gate(path[mlp], hp, mlp);
        st = st == ST_OK ? press_files_add(files, mlp ? "gate-mlp" : "gate-linear", path[mlp], NULL) : st;
    }
    st = st == ST_OK ? press_files_load(files, NULL) : st;
    for (int mlp = 0; mlp < 2; mlp++)
        unlink(path[mlp]);
    rmdir(folder);
    assert(st == ST_OK);
    return files;
}
