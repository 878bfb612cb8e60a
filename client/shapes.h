/* SPDX-License-Identifier: Apache-2.0 */
/* shapes.h - shapes of well-known models, for benchmarks with random weights: `--random llama-8b` needs no model file. */
#ifndef PLATEN_CLIENT_SHAPES_H
#define PLATEN_CLIENT_SHAPES_H

#include "common/base/status.h"
#include "common/model/hparams.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers of the shape called `name`. ST_EINVAL lists the shapes there are. */
enum status shape_find(const char *name, struct hparams *out, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
