/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.cuh - a ring of stages in shared memory: some warps copy into it, others work on what has arrived.
 *
 *   full[s]    completes when every copying thread's copies to stage s are there
 *   empty[s]   completes when every working warp is done with it
 *
 * Both sides walk the stages in the same order and wait for nothing but the stage at hand (mbarrier, sm_80).
 */
#ifndef PLATEN_KERNELS_CUDA_RING_CUH
#define PLATEN_KERNELS_CUDA_RING_CUH

#include "kernels/cuda/device.cuh"

__device__ __forceinline__ void barrier_open(uint32_t at, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(at), "r"(arrivals) : "memory");
}

/* Waits for the barrier to have completed as often as makes `parity` its last turn. */
__device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra AGAIN;\n}\n" ::
            "r"(at),
        "r"(parity)
        : "memory");
#else
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n@!done bra AGAIN;\n}\n" ::
            "r"(at),
        "r"(parity)
        : "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t at)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(at) : "memory");
}

/* Arrives when all copies that the calling thread has asked for so far are there. */
__device__ __forceinline__ void barrier_arrive_copied(uint32_t at)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\n" ::"r"(at) : "memory");
}

/* One side's place in the ring. */
struct ring {
    uint32_t data, full, empty; /* shared addresses: stages, 8 bytes of barrier each */
    int32_t stage_bytes, stages;
    int32_t stage;
    uint32_t turn; /* parity of this time around */
    __device__ uint32_t at() const
    {
        return data + (uint32_t)(stage * stage_bytes);
    }
    __device__ void wait_empty() const
    {
        barrier_wait(empty + 8 * stage, turn ^ 1);
    }
    __device__ void wait_full() const
    {
        barrier_wait(full + 8 * stage, turn);
    }
    __device__ void copied() const
    {
        barrier_arrive_copied(full + 8 * stage);
    }
    __device__ void done() const
    {
        barrier_arrive(empty + 8 * stage);
    }
    __device__ void next()
    {
        if (++stage == stages) {
            stage = 0;
            turn ^= 1;
        }
    }
};

/* By one thread, before the thread block's first barrier. */
__device__ __forceinline__ void ring_open(const struct ring &r, uint32_t copying_threads, uint32_t working_warps)
{
    for (int32_t s = 0; s < r.stages; s++) {
        barrier_open(r.full + 8 * s, copying_threads);
        barrier_open(r.empty + 8 * s, working_warps);
    }
}

#endif
