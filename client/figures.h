/* SPDX-License-Identifier: Apache-2.0 */
/* figures.h - what a press did and cost, as JSON members and as people read it. */
#ifndef PLATEN_CLIENT_FIGURES_H
#define PLATEN_CLIENT_FIGURES_H

#include "common/base/text.h"
#include "proto/platen/v1/inference.pb-c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Appends "press":..., "context_tokens":..., ... without braces. NULL figures (a server that sent none): nothing. */
void figures_json(struct text *out, const Platen__V1__Figures *f);

/* Appends a few lines; the first is `dense N bytes, kept N bytes, wire N bytes`. */
void figures_lines(struct text *out, const Platen__V1__Figures *f);

#ifdef __cplusplus
}
#endif
#endif
