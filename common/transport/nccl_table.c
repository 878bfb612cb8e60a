/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_table.c - dlopen of the driver and of NCCL. Names with _v2 are those that the headers' names stand for. */
#include "common/transport/nccl_table.h"

#include "common/base/bytes.h"

#include <dlfcn.h>
#include <string.h>

struct function {
    const char *name;
    size_t offset;
};

static enum status fill(void *table, const struct function *functions, size_t count, const char *file, struct err *err)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return err_set(err, ST_EUNAVAILABLE, "%s cannot be opened: %s", file, dlerror());
    for (size_t i = 0; i < count; i++) {
        void *at = dlsym(library, functions[i].name);

        if (!at)
            return err_set(err, ST_EUNAVAILABLE, "%s has no %s", file, functions[i].name);
        memcpy((char *)table + functions[i].offset, &at, sizeof at); /* POSIX has no other way to a function pointer */
    }
    return ST_OK;
}

enum status cuda_table_fill(struct cuda_table *out, struct err *err)
{
#define AT(field) offsetof(struct cuda_table, field)
    static const struct function functions[] = {
        { "cuInit", AT(init) },
        { "cuDeviceGet", AT(device_get) },
        { "cuDeviceGetUuid_v2", AT(device_uuid) },
        { "cuDevicePrimaryCtxRetain", AT(context_retain) },
        { "cuDevicePrimaryCtxRelease_v2", AT(context_release) },
        { "cuCtxSetCurrent", AT(context_set) },
        { "cuCtxGetStreamPriorityRange", AT(priorities) },
        { "cuStreamCreateWithPriority", AT(stream_open) },
        { "cuStreamDestroy_v2", AT(stream_close) },
        { "cuEventCreate", AT(event_open) },
        { "cuEventDestroy_v2", AT(event_close) },
        { "cuEventRecord", AT(event_record) },
        { "cuEventQuery", AT(event_query) },
        { "cuMemcpyAsync", AT(copy) },
        { "cuMemGetAddressRange_v2", AT(range) },
        { "cuIpcGetMemHandle", AT(ipc_get) },
        { "cuIpcOpenMemHandle_v2", AT(ipc_open) },
        { "cuIpcCloseMemHandle", AT(ipc_close) },
        { "cuGetErrorName", AT(error_name) },
    };
#undef AT
    return fill(out, functions, ARRAY_LEN(functions), "libcuda.so.1", err);
}

enum status nccl_table_fill(struct nccl_table *out, struct err *err)
{
#define AT(field) offsetof(struct nccl_table, field)
    static const struct function functions[] = {
        { "ncclGetVersion", AT(version) },
        { "ncclGetUniqueId", AT(id_get) },
        { "ncclCommInitRankConfig", AT(comm_open) },
        { "ncclCommGetAsyncError", AT(comm_state) },
        { "ncclCommAbort", AT(comm_abort) },
        { "ncclSend", AT(send) },
        { "ncclRecv", AT(recv) },
        { "ncclGetErrorString", AT(error_text) },
    };
#undef AT
    return fill(out, functions, ARRAY_LEN(functions), "libnccl.so.2", err);
}

enum status cuda_check(const struct cuda_table *cuda, int result, const char *what, struct err *err)
{
    const char *name = NULL;

    if (result == CUDA_SUCCESS_CODE)
        return ST_OK;
    if (cuda->error_name(result, &name) != CUDA_SUCCESS_CODE || !name)
        name = "an unknown error";
    return err_set(err, ST_EINTERNAL, "%s: %s", what, name);
}
