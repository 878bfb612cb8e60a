/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.h - what packing plain rows and packing coded rows share.
 */
#ifndef PLATEN_KERNELS_CPU_PACK_H
#define PLATEN_KERNELS_CPU_PACK_H

#include "kernels/cpu/cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

struct packing {
    const struct cpu *c;
    const struct pack_args *args;
    const struct kv_block *block;
    int64_t row_bytes; /* of a row that packing reads */
};

/* The head that entry `at` of the chosen rows belongs to. */
int32_t pack_head_of(const struct packing *p, int64_t at);

/* Row `at` of the chosen ones, of head `head`: where K and V stand. */
const char *pack_key(const struct packing *p, int32_t head, int64_t at);
const char *pack_value(const struct packing *p, int32_t head, int64_t at);

/* f32 out[D] = that K row, turned to its new place where args->rerotate says so. */
void pack_key_turned(const struct packing *p, int32_t head, int64_t at, float *out);

/* A row of the cache's dtype as f32. */
void pack_floats(const struct packing *p, const void *row, float *out);

/* Writes the block's masks; zeroes the padding of every part. */
void pack_masks(const struct packing *p, uint8_t *mask);
void pack_padding(const struct kv_block *block);

/* pack_coded.c: all of a block whose codec is not plain. */
void pack_coded(const struct packing *p);

#ifdef __cplusplus
}
#endif
#endif
