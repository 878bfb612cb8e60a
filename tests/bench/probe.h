/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - what this machine can do at most, so that a kernel's speed can be told as a share of it.
 *
 *   probe_<isa>(rounds)   multiply-adds on registers alone, as the instruction set does them best; gives operations done
 */
#ifndef PLATEN_TESTS_BENCH_PROBE_H
#define PLATEN_TESTS_BENCH_PROBE_H

#include <stdint.h>

/* Runs `rounds` rounds of register products; returns the floating-point operations they stand for. f32: fused
 * multiply-add; bf16: pair products or tiles, where the instruction set has them, else f32. */
typedef double (*probe_fn)(int64_t rounds);

double probe_f32_plain(int64_t rounds);
double probe_bf16_plain(int64_t rounds);
double probe_f32_avx2(int64_t rounds);
double probe_bf16_avx2(int64_t rounds);
double probe_f32_avx512(int64_t rounds);
double probe_bf16_avx512(int64_t rounds);
double probe_f32_avx512_bf16(int64_t rounds);
double probe_bf16_avx512_bf16(int64_t rounds);
double probe_f32_amx_bf16(int64_t rounds);
double probe_bf16_amx_bf16(int64_t rounds);

#endif
