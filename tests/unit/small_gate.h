/* SPDX-License-Identifier: Apache-2.0 */
/* small_gate.h - kvzap's parameters for a small model: entries gate-linear and gate-mlp, numbers by a formula. */
#ifndef PLATEN_TESTS_SMALL_GATE_H
#define PLATEN_TESTS_SMALL_GATE_H

#include "presses/files.h"

/* Written into a folder of their own, read, and removed again; the caller closes. hp must outlive them. */
struct press_files *small_gate_open(const struct hparams *hp);

#endif
