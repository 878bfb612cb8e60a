/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_file.h - a safetensors file that is written tensor by tensor, for tests that need parameter files. */
#ifndef PLATEN_TESTS_TENSOR_FILE_H
#define PLATEN_TESTS_TENSOR_FILE_H

#include <jansson.h>
#include <stdint.h>

struct tensor_file {
    json_t *header;
    float *data;
    int64_t count;
};

void tensor_file_open(struct tensor_file *f);

/* Appends f32 numbers under a name; shape as JSON, "[2,16]". */
void tensor_file_add(struct tensor_file *f, const char *name, const char *shape, const float *values, int64_t count);

/* Writes the file and frees everything. */
void tensor_file_write(struct tensor_file *f, const char *path);

#endif
