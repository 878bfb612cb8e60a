/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isa.c - which of the compiled instruction sets this processor and its operating system can run.
 *
 * A set counts only when the system also saves its registers (the compiler's __builtin_cpu_supports looks at XCR0). AMX
 * state must in addition be asked of the kernel, once per process and before threads are started: they inherit it.
 */
#include "kernels/cpu/isa.h"

#include "common/base/bytes.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const struct cpu_tile cpu_tile_plain;
extern const struct cpu_loops cpu_loops_plain;
extern const struct cpu_score_loops cpu_score_loops_plain;
extern const struct cpu_codes cpu_codes_plain;

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
extern const struct cpu_tile cpu_tile_avx2, cpu_tile_avx512, cpu_tile_avx512_bf16;
extern const struct cpu_loops cpu_loops_avx2, cpu_loops_avx512;
extern const struct cpu_score_loops cpu_score_loops_avx2, cpu_score_loops_avx512;
extern const struct cpu_codes cpu_codes_avx2, cpu_codes_avx512;
extern const struct cpu_math cpu_math_amx_bf16;
extern const struct cpu_direct cpu_direct_avx512_bf16;

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512_bf16(void)
{
    unsigned a, b, c, d;

    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

/* Intel's processors take two cycles for a pair product (Emerald Rapids, measured: 87 GFLOP/s a core where widening to
 * f32 and fused multiply-adds reach 191); they have AMX for this, but a virtual machine may hide it. AMD's take one. */
static bool has_fast_avx512_bf16(void)
{
    return has_avx512_bf16() && !__builtin_cpu_is("intel");
}

static bool has_amx(void)
{
    enum { REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    unsigned a, b, c, d;

    return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_bf16) && (d & amx_tile) &&
           syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

static const struct cpu_isa isas[] = {
#if defined(__x86_64__)
    { "amx_bf16", has_amx, has_amx, &cpu_tile_avx512_bf16.f32, &cpu_math_amx_bf16, &cpu_tile_avx512_bf16,
      &cpu_loops_avx512, &cpu_score_loops_avx512, &cpu_codes_avx512, NULL },
    { "avx512_bf16", has_avx512_bf16, has_fast_avx512_bf16, &cpu_tile_avx512_bf16.f32, &cpu_tile_avx512_bf16.bf16,
      &cpu_tile_avx512_bf16, &cpu_loops_avx512, &cpu_score_loops_avx512, &cpu_codes_avx512, &cpu_direct_avx512_bf16 },
    { "avx512", has_avx512, has_avx512, &cpu_tile_avx512.f32, &cpu_tile_avx512.bf16, &cpu_tile_avx512,
      &cpu_loops_avx512, &cpu_score_loops_avx512, &cpu_codes_avx512, NULL },
    { "avx2", has_avx2, has_avx2, &cpu_tile_avx2.f32, &cpu_tile_avx2.bf16, &cpu_tile_avx2, &cpu_loops_avx2,
      &cpu_score_loops_avx2, &cpu_codes_avx2, NULL },
#endif
    { "plain", always, always, &cpu_tile_plain.f32, &cpu_tile_plain.bf16, &cpu_tile_plain, &cpu_loops_plain,
      &cpu_score_loops_plain, &cpu_codes_plain, NULL },
};

const struct cpu_isa *cpu_isa_at(int i)
{
    for (size_t row = 0; row < ARRAY_LEN(isas); row++)
        if (isas[row].runs_here() && i-- == 0)
            return &isas[row];
    return NULL;
}

const struct cpu_isa *cpu_isa_find(const char *name)
{
    for (size_t row = 0; row < ARRAY_LEN(isas); row++)
        if (name ? strcmp(isas[row].name, name) == 0 && isas[row].runs_here() : isas[row].is_chosen())
            return &isas[row];
    return NULL;
}
