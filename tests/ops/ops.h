/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.h - what every check of an operation stands on: one back end, random inputs, poisoned outputs, a verdict.
 *
 * Inputs are rounded to the dtype before both sides see them, so a difference comes from the operation alone. Outputs
 * are filled with 0xff (NaN) and have 256 more such bytes behind them, which must stay.
 */
#ifndef PLATEN_TESTS_OPS_OPS_H
#define PLATEN_TESTS_OPS_OPS_H

#include "common/base/arena.h"
#include "kernels/backend.h"

enum { OPS_DEVICE_MAX = 256, OPS_ROWS_MAX = 600 };

struct ops {
    struct backend *be;
    const char *spec;
    enum dtype dtype;
    uint64_t seed, state;
    int small;         /* sizes that end in time under a tool that watches every access; 2: every pair of accesses */
    const char *check; /* the running one */
    int broken;
    struct arena arena; /* host memory of a check */
    void *device[OPS_DEVICE_MAX];
    int devices;
};

/* Random numbers: 64 bits, [0, n), and about normal ones rounded to the dtype. */
uint64_t ops_next(struct ops *o);
int64_t ops_below(struct ops *o, int64_t n);
float *ops_random(struct ops *o, int64_t count, float scale);
/* About normal ones as f32 has them, whatever the dtype: what x holds. */
float *ops_random_x(struct ops *o, int64_t count, float scale);

/* Host numbers to new device memory: as activations, as cache rows, as x, as they are. */
void *ops_up(struct ops *o, const float *x, int64_t count);
void *ops_up_kv(struct ops *o, const float *x, int64_t count);
void *ops_up_x(struct ops *o, const float *x, int64_t count);
void *ops_up_bytes(struct ops *o, const void *x, uint64_t bytes);

/* Device memory full of NaN, with the guard behind it. */
void *ops_poisoned(struct ops *o, uint64_t bytes);
void *ops_poisoned_act(struct ops *o, int64_t count);
void *ops_poisoned_x(struct ops *o, int64_t count);

/* Waits for the lane, and gives host copies; the guard of a poisoned buffer is looked at. */
float *ops_down(struct ops *o, enum lane lane, const void *device, int64_t count);
float *ops_down_kv(struct ops *o, enum lane lane, const void *device, int64_t count);
float *ops_down_x(struct ops *o, enum lane lane, const void *device, int64_t count);
void *ops_down_bytes(struct ops *o, enum lane lane, const void *device, uint64_t bytes);

/* A weight of random numbers [rows][cols]; *out_values gets them. A vector where rows is 0. */
struct weight *ops_weight(struct ops *o, int64_t rows, int64_t cols, enum weight_use use, float scale,
                          float **out_values);

/* A weight of values made by the caller. */
struct weight *ops_weight_of(struct ops *o, float *values, int64_t rows, int64_t cols, enum weight_use use);

/* Half a unit in the last place of activations, of cache rows, of f32: what one rounding may cost. */
double ops_eps_act(const struct ops *o);
double ops_eps_kv(const struct ops *o);

/* Breaks the check unless |got - want| <= tolerance[i] for every i (a NaN breaks it), and says where. */
void ops_near(struct ops *o, const char *what, const float *got, const double *want, const double *tolerance,
              int64_t count);
void ops_equal_bytes(struct ops *o, const char *what, const void *got, const void *want, uint64_t bytes);
void ops_true(struct ops *o, const char *what, bool holds);

/* Room for doubles that goes with the check. */
double *ops_doubles(struct ops *o, int64_t count);

#define CHECK(name) void check_##name(struct ops *o);
#include "tests/ops/checks.def"
#undef CHECK

#endif
