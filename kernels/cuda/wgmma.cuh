/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wgmma.cuh - matrix instructions of a warpgroup (sm_90a): four warps work on 64 rows, out of shared memory.
 *
 * An operand in shared memory is made of panels of 64 channels: row r of a panel is 128 bytes, and its unit u of 16 bytes
 * lies at place u ^ (r & 7). A panel begins at a multiple of 1024 bytes. Instructions run on while the warps go on: what
 * they write may be read after products_wait, what they read may be written then.
 *
 * PTX ISA 9.0, section 9.7.15.
 */
#ifndef PLATEN_KERNELS_CUDA_WGMMA_CUH
#define PLATEN_KERNELS_CUDA_WGMMA_CUH

#include "kernels/cuda/device.cuh"

/* Where unit `unit` of row `row` lies in a panel. */
__device__ __forceinline__ uint32_t panel_unit(uint32_t row, uint32_t unit)
{
    return row * 128 + ((unit ^ (row & 7)) << 4);
}
/* Rows of a panel from `address` on, as an operand: of 8 rows to the next 8 are 1024 bytes. */
__device__ __forceinline__ uint64_t panel_at(uint32_t address)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)64 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
}
/* Operands of wgmma were written by ordinary stores: each writer, before the barrier. */
__device__ __forceinline__ void operands_written()
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ __forceinline__ void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int LEFT> __device__ __forceinline__ void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
}
/* Keeps the compiler from moving reads of x above a products_wait, or writes below a products_begin. */
template <int N> __device__ __forceinline__ void pinned(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}

#define F4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define F16(c, i) F4(c, i), F4(c, i + 4), F4(c, i + 8), F4(c, i + 12)
#define N4 "%0,%1,%2,%3"
#define N16 N4 ",%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define N32 N16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define N64                                                                                                         \
    N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57," \
        "%58,%59,%60,%61,%62,%63"
#define WG(n) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "

/* c [64][N] (+)= a . b': a's 64 rows in registers, b's N rows in a panel; 16 channels of both */
__device__ __forceinline__ void products(float (&c)[32], const uint32_t (&a)[4], uint64_t b, int add)
{
    asm volatile("{.reg .pred p;setp.ne.b32 p, %37, 0;\n" WG(64) "{" N32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;}\n"
                 : F16(c, 0), F16(c, 16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
__device__ __forceinline__ void products(float (&c)[16], const uint32_t (&a)[4], uint64_t b, int add)
{
    asm volatile("{.reg .pred p;setp.ne.b32 p, %21, 0;\n" WG(32) "{" N16 "}, {%16,%17,%18,%19}, %20, p, 1, 1, 0;}\n"
                 : F16(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
/* both in panels */
__device__ __forceinline__ void products(float (&c)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile("{.reg .pred p;setp.ne.b32 p, %66, 0;\n" WG(128) "{" N64 "}, %64, %65, p, 1, 1, 0, 0;}\n"
                 : F16(c, 0), F16(c, 16), F16(c, 32), F16(c, 48)
                 : "l"(a), "l"(b), "r"(add));
}
/* the same for 32 to 96 rows of b, as [rows / 8][4] */
#define T1(c, n) F4(c[n], 0)
#define T2(c, n) T1(c, n), T1(c, n + 1)
#define T4(c, n) T2(c, n), T2(c, n + 2)
#define T8(c, n) T4(c, n), T4(c, n + 4)
#define N24 N16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define N48 N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define PANELS(tiles, rows, numbers, a, b, p, ...)                                                                   \
    __device__ __forceinline__ void products(float(&c)[tiles][4], uint64_t left, uint64_t right, int add)            \
    {                                                                                                                \
        asm volatile("{.reg .pred p;setp.ne.b32 p, %" #p ", 0;\n" WG(rows) "{" numbers "}, %" #a ", %" #b            \
                     ", p, 1, 1, 0, 0;}\n"                                                                           \
                     : __VA_ARGS__                                                                                   \
                     : "l"(left), "l"(right), "r"(add));                                                             \
    }
PANELS(4, 32, N16, 16, 17, 18, T4(c, 0))
PANELS(6, 48, N24, 24, 25, 26, T4(c, 0), T2(c, 4))
PANELS(8, 64, N32, 32, 33, 34, T8(c, 0))
PANELS(12, 96, N48, 48, 49, 50, T8(c, 0), T4(c, 8))
#undef PANELS
/* c (+)= a' . b: 16 rows of panels are summed over. b of 8 columns: not a panel, whose rows are channels, but units of 8
 * rows of 16 bytes (ones look the same either way). */
__device__ __forceinline__ void products_turned(float (&c)[32], uint64_t a, uint64_t b, int add)
{
    asm volatile("{.reg .pred p;setp.ne.b32 p, %34, 0;\n" WG(64) "{" N32 "}, %32, %33, p, 1, 1, 1, 1;}\n"
                 : F16(c, 0), F16(c, 16)
                 : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void products_turned(float (&c)[4], uint64_t a, uint64_t b, int add)
{
    asm volatile("{.reg .pred p;setp.ne.b32 p, %6, 0;\n" WG(8) "{" N4 "}, %4, %5, p, 1, 1, 1, 0;}\n"
                 : F4(c, 0)
                 : "l"(a), "l"(b), "r"(add));
}

template <int N> __device__ __forceinline__ void registers_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));
}
template <int N> __device__ __forceinline__ void registers_less()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));
}

/* ---- barriers that count arrivals ---- */
__device__ __forceinline__ void gate_init(uint32_t gate, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(gate), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void gate_arrive(uint32_t gate)
{
    asm volatile("{.reg .b64 s;mbarrier.arrive.shared::cta.b64 s, [%0];}\n" ::"r"(gate) : "memory");
}
/* Until all arrivals of round `round` (0, 1 ...) were counted; not for older rounds than the last. */
__device__ __forceinline__ void gate_wait(uint32_t gate, uint32_t round)
{
    asm volatile("{.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\nbra again;\ndone:\n}\n" ::"r"(gate),
                 "r"(round & 1)
                 : "memory");
}

/* ---- a ring of tiles in shared memory: one warpgroup brings rows, others work on them ---- */

/* Where a reader or writer of the ring stands. */
template <int STAGES> struct ring_place {
    int stage = 0;
    uint32_t round = 0;
    __device__ __forceinline__ void next()
    {
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        round += stage == 0;
    }
};
/* ROWS rows of D channels to a tile, and as many numbers beside it where they are wanted. */
template <int D, int ROWS, int STAGES> struct ring {
    enum {
        panels = (D + 63) / 64,
        panel = ROWS * 128,
        stage = panels * panel,
        beside = STAGES * stage,
        gates = beside + STAGES * ROWS * 4,
        bytes = gates + 16 * STAGES
    };
    static __device__ __forceinline__ uint32_t full(uint32_t at, int s)
    {
        return at + gates + 8 * s;
    }
    static __device__ __forceinline__ uint32_t empty(uint32_t at, int s)
    {
        return at + gates + 8 * (STAGES + s);
    }
    /* By one thread. A barrier of the block follows. */
    static __device__ __forceinline__ void init(uint32_t at, int reader_warps)
    {
        for (int s = 0; s < STAGES; s++) {
            gate_init(full(at, s), 128);
            gate_init(empty(at, s), reader_warps);
        }
    }
};

/* What a ring brings: rows [begin, end) of `from`, `stride` numbers apart, zeros past them; beside: a number of each row,
 * there for whole tiles, or NULL. */
struct ring_source {
    const bf16 *from;
    int64_t stride, begin, end;
    const float *beside;
};

/* The writer's side, by the 128 threads of a warpgroup. A tile is called full when the next AHEAD are on their way. */
template <int D, int ROWS, int STAGES, int AHEAD>
__device__ __forceinline__ void ring_bring(const ring_source &in, int32_t tiles, uint32_t at)
{
    typedef ring<D, ROWS, STAGES> R;
    static_assert(AHEAD < STAGES, "a tile that is awaited must have been called full");
    enum { LANES = D == 64 ? 8 : 16, STEP = 128 / LANES }; /* threads to a row; rows that all bring at once */
    const int thread = threadIdx.x & 127, mine = thread / LANES, unit = thread % LANES;
    const uint32_t to = at + unit / 8 * R::panel + panel_unit(mine, unit % 8);
    const bf16 *from = in.from + (in.begin + mine) * in.stride + unit * 8;
    ring_place<STAGES> place, ready;

    for (int32_t t = 0; t < tiles; t++, from += ROWS * in.stride) {
        const int64_t row = in.begin + (int64_t)t * ROWS;
        const int left = (int)min(in.end - row - mine, (int64_t)ROWS);
        const bf16 *next = from;

        if (place.round > 0)
            gate_wait(R::empty(at, place.stage), place.round - 1);
#pragma unroll 4
        for (int r = 0; r < ROWS; r += STEP, next += STEP * in.stride)
            if (LANES * 8 == D || unit < D / 8)
                copy16_async(to + place.stage * R::stage + r * 128, r < left ? next : in.from, r < left);
        if (in.beside && thread < ROWS / 4)
            copy16_async(at + R::beside + (place.stage * ROWS + thread * 4) * 4, in.beside + row + thread * 4, true);
        copies_commit();
        if (t >= AHEAD) {
            copies_wait<AHEAD>();
            operands_written();
            gate_arrive(R::full(at, ready.stage));
            ready.next();
        }
        place.next();
    }
    copies_wait<0>();
    operands_written();
    for (int32_t t = max(tiles - AHEAD, 0); t < tiles; t++, ready.next())
        gate_arrive(R::full(at, ready.stage));
}
#endif
