/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - what a decode node's slots look like inside the CUDA back end: shared by cache.c and step.c. */
#ifndef PLATEN_KERNELS_CUDA_CACHE_H
#define PLATEN_KERNELS_CUDA_CACHE_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { STEPS_KEPT = 4, GRAPHS_MAX = 128, STEP_ROW_ARRAYS = 9, STEP_OUTPUT_ARRAYS = 3 };

/* A recorded step: every step of this shape is replayed by it. */
struct step_graph {
    int32_t rows, outputs; /* padded */
    bool seen;             /* ran once as it is; the next one is recorded */
    cudaGraphExec_t exec;
    size_t nodes; /* what it launches */
};

/* One step on its way: what the host wrote, what came back. */
struct step_flight {
    int32_t *upload; /* pinned: STEP_ROW_ARRAYS x [rows_max], STEP_OUTPUT_ARRAYS x [slots] */
    int32_t *ids;    /* pinned [slots] */
    bool *wanted;    /* [slots] */
    int32_t seqs;
    cudaEvent_t done;
};

/* owned by: the engine thread. */
struct cuda_cache {
    struct cache_config config;
    int64_t block_bytes;    /* of one slot_block */
    void *pool;             /* kv [layers][pages or ring_pages] of K [G][64][D], V [G][64][D] */
    int64_t *page_first;    /* [layers]: pages of the pool before the layer's */
    char *blocks;           /* device [slots][layers] of slot_block */
    char *blocks_host;      /* [layers] of one slot, being filled */
    int32_t *pages;         /* device [2][slots][pages_per_slot]: of the full layers, of those with a ring */
    int32_t *window;        /* host [layers]: as in the config, zeros where it has none */
    int32_t *window_device; /* the same there */
    int32_t *upload;        /* device, as step_flight.upload */
    int32_t *chosen;        /* device [slots]: each slot's last token */
    int32_t *ids;           /* device [slots]: by sequence */
    struct decode_shape decode;
    struct step_flight flight[STEPS_KEPT];
    struct step_graph graph[GRAPHS_MAX];
    int32_t graphs;
    int64_t steps;
    /* the step at hand */
    int32_t rows, rows_pad, outputs, outputs_pad;
    bool open, recording, outputs_reached, replayed;
    bool planned; /* the plan of this step was launched */
    struct step_graph *current;
};

/* What the kernels of one layer read: the step's shape with the layer's pages. */
struct decode_shape cuda_layer_shape(const struct cuda *c, int32_t layer);

#ifdef __cplusplus
}
#endif
#endif
