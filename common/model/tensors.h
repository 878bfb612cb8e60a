/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.h - the tensors that a checkpoint's files hold, by name. Filled by gguf.c and safetensors.c, which prove that
 * every tensor lies inside its file. */
#ifndef PLATEN_MODEL_TENSORS_H
#define PLATEN_MODEL_TENSORS_H

#include "common/base/arena.h"
#include "common/base/status.h"
#include "common/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TENSOR_DIMS_MAX = 4 };

struct tensor_entry {
    const char *name; /* in the arena of the table's owner */
    enum dtype dtype;
    int32_t dims;
    int64_t shape[TENSOR_DIMS_MAX]; /* outermost first; the last one is contiguous */
    const uint8_t *data;            /* in the mapped file */
    uint64_t bytes;
    bool used; /* some slot stands for it */
};

/* Zero-initialise. After tensors_seal the entries are in the order of their names. */
struct tensors {
    struct tensor_entry *items;
    size_t count;
    size_t room;
};

void tensors_add(struct tensors *t, const struct tensor_entry *entry);

/* Sorts. ST_EINVAL names a tensor that is there twice. */
enum status tensors_seal(struct tensors *t, struct err *err);

/* The tensor called `name`, or NULL. Only after tensors_seal; borrowed. */
struct tensor_entry *tensors_find(const struct tensors *t, const char *name);
void tensors_fini(struct tensors *t);

/* Bytes of a tensor of this shape; false when a size is not positive, does not fit or is not whole blocks of the dtype. */
bool tensor_size(enum dtype dtype, const int64_t *shape, int32_t dims, uint64_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
