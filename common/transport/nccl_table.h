/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl_table.h - what transports between devices use of NVIDIA's driver and of NCCL, as two tables of functions.
 *
 * Filled from the machine's own libraries when a station opens, so that one binary starts where there are none and builds
 * where their headers are not; tests bring tables of their own. Types are ours and equal to theirs on the call: handles
 * are pointers, results and enums int, device addresses pointers (the driver's are integers of the same size).
 *
 *   CUDA driver API (libcuda.so.1, from the driver)       results: 0 success, CUDA_NOT_READY, else an error
 *   NCCL 2.18 or later (libnccl.so.2)                     results: enum nccl_result
 */
#ifndef PLATEN_TRANSPORT_NCCL_TABLE_H
#define PLATEN_TRANSPORT_NCCL_TABLE_H

#include "common/base/status.h"

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_SUCCESS_CODE = 0, CUDA_NOT_READY = 600 };
enum { CUDA_STREAM_NON_BLOCKING = 1, CUDA_EVENT_NO_TIMING = 2, CUDA_IPC_PEER_ACCESS = 1 };
enum { CUDA_UUID_BYTES = 16, CUDA_IPC_BYTES = 64 };

struct cuda_uuid {
    uint8_t data[CUDA_UUID_BYTES];
};

struct cuda_ipc {
    uint8_t data[CUDA_IPC_BYTES];
};

struct cuda_table {
    int (*init)(unsigned flags);
    int (*device_get)(int *device, int ordinal);
    int (*device_uuid)(struct cuda_uuid *out, int device);
    int (*context_retain)(void **context, int device);
    int (*context_release)(int device);
    int (*context_set)(void *context);
    int (*priorities)(int *least, int *greatest);
    int (*stream_open)(void **stream, unsigned flags, int priority);
    int (*stream_close)(void *stream);
    int (*event_open)(void **event, unsigned flags);
    int (*event_close)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_query)(void *event);
    int (*copy)(void *to, const void *from, size_t bytes, void *stream);
    int (*range)(void **base, size_t *bytes, void *at);
    int (*ipc_get)(struct cuda_ipc *out, void *at);
    int (*ipc_open)(void **at, struct cuda_ipc handle, unsigned flags);
    int (*ipc_close)(void *at);
    int (*error_name)(int result, const char **name);
};

enum nccl_result { NCCL_OK = 0, NCCL_IN_PROGRESS = 7 };
enum { NCCL_ID_BYTES = 128, NCCL_BYTE = 1 };

struct nccl_id {
    char data[NCCL_ID_BYTES];
};

/* ncclConfig_t as of 2.18; NCCL takes the shorter struct of an older caller by its size and version. */
#define NCCL_CONFIG_MAGIC 0xcafebeefu
#define NCCL_CONFIG_VERSION 21800u
struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_size, ctas_min, ctas_max;
    const char *net_name;
    int split_share;
};

struct nccl_table {
    int (*version)(int *out);
    int (*id_get)(struct nccl_id *out);
    int (*comm_open)(void **comm, int ranks, struct nccl_id id, int rank, struct nccl_config *config);
    int (*comm_state)(void *comm, int *result);
    int (*comm_abort)(void *comm);
    int (*send)(const void *from, size_t count, int type, int peer, void *comm, void *stream);
    int (*recv)(void *into, size_t count, int type, int peer, void *comm, void *stream);
    const char *(*error_text)(int result);
};

/* ST_EUNAVAILABLE with the loader's sentence when the library or a function is not there. The libraries stay open as long
 * as the process: NCCL keeps threads of its own. */
enum status cuda_table_fill(struct cuda_table *out, struct err *err);
enum status nccl_table_fill(struct nccl_table *out, struct err *err);

/* ST_EINTERNAL with the driver's name of the error; ST_OK for 0. */
enum status cuda_check(const struct cuda_table *cuda, int result, const char *what, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
