/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tensor_file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tensor_file_open(struct tensor_file *f)
{
    *f = (struct tensor_file){ json_object(), NULL, 0 };
}

void tensor_file_add(struct tensor_file *f, const char *name, const char *shape, const float *values, int64_t count)
{
    json_t *dims = json_loads(shape, 0, NULL);

    assert(dims);
    f->data = realloc(f->data, (size_t)(f->count + count) * sizeof *f->data);
    memcpy(f->data + f->count, values, (size_t)count * sizeof *values);
    json_object_set_new(f->header, name,
                        json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F32", "shape", dims, "data_offsets",
                                  (json_int_t)f->count * 4, (json_int_t)(f->count + count) * 4));
    f->count += count;
}

void tensor_file_write(struct tensor_file *f, const char *path)
{
    char *header = json_dumps(f->header, JSON_COMPACT);
    uint64_t bytes = strlen(header);
    FILE *out = fopen(path, "wb");

    assert(out);
    fwrite(&bytes, 8, 1, out);
    fwrite(header, 1, bytes, out);
    fwrite(f->data, 4, (size_t)f->count, out);
    fclose(out);
    free(header);
    free(f->data);
    json_decref(f->header);
}
