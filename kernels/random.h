/* SPDX-License-Identifier: Apache-2.0 */
/* random.h - the counter-based numbers of the press `random`: the same on every back end, whatever order rows are scored
 * in. Plain integer arithmetic of 64 bits (splitmix64, Steele et al. 2014); read by C, C++ and CUDA. */
#ifndef PLATEN_KERNELS_RANDOM_H
#define PLATEN_KERNELS_RANDOM_H

#include <stdint.h>

#ifdef __CUDACC__
#define RANDOM_FN static inline __host__ __device__
#else
#define RANDOM_FN static inline
#endif

RANDOM_FN uint64_t random_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform in [0, 1), a multiple of 2^-24, from (seed, layer, head, token) alone. */
RANDOM_FN float random_unit(uint64_t seed, int32_t layer, int32_t head, int64_t token)
{
    uint64_t x = random_mix(seed);

    x = random_mix(x ^ (uint64_t)layer);
    x = random_mix(x ^ (uint64_t)head);
    x = random_mix(x ^ (uint64_t)token);
    return (float)(x >> 40) / 16777216.0f;
}

#undef RANDOM_FN

#endif
