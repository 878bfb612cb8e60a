/* SPDX-License-Identifier: Apache-2.0 */
/*
 * params.h - numbers in a parameter file: safetensors, npy, or tab-separated text. Inside presses/ only.
 *
 * Whatever the file holds is proven before it is used: offsets within the file, shapes as the model asks for, no NaN.
 */
#ifndef PLATEN_PRESSES_PARAMS_H
#define PLATEN_PRESSES_PARAMS_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { PARAMS_RANK_MAX = 4 };

struct params;

/* Opens by content: "\x93NUMPY", a safetensors header, else text. Errors name the path. */
enum status params_open(struct params **out, const char *path, struct err *err);
void params_close(struct params *p); /* NULL is fine */

/* Whether a safetensors file has this tensor. npy and text hold one tensor, whatever it is called. */
bool params_has(const struct params *p, const char *name);

/* The size of dimension `axis` of a tensor; -1 where there is none. */
int64_t params_size(const struct params *p, const char *name, int32_t axis);

/* The tensor as f32, `shape` of `rank` dimensions as it must be (-1: any); sizes of 1 in the file may be missing from
 * shape. The numbers are the caller's, free() them. ST_EINVAL says what is there instead. */
enum status params_read(const struct params *p, const char *name, const int64_t *shape, int32_t rank, float **out,
                        struct err *err);

/* A whole number from the JSON file `file` in the folder of `path`; *out stays as it is when there is no such file or
 * member. ST_EINVAL: the file is broken. */
enum status params_neighbour(const char *path, const char *file, const char *member, int64_t *out, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
