/* SPDX-License-Identifier: Apache-2.0 */
/* library.c - dlopen of cuBLASLt and cuDNN. The versions named are those whose headers this was built with. */
#include "kernels/cuda/library.h"

#include <dlfcn.h>
#include <string.h>

static enum status function_find(void *handle, const char *name, void *out, struct err *err)
{
    void *at = dlsym(handle, name);

    if (!at)
        return err_set(err, ST_EUNAVAILABLE, "%s", dlerror());
    memcpy(out, &at, sizeof at); /* a data pointer from dlsym becomes a function pointer; POSIX has no other way */
    return ST_OK;
}

#define FIND(member, name) \
    if (st == ST_OK)       \
        st = function_find(lib->handle, #name, &lib->member, err);

enum status blas_library_open(struct blas_library *lib, struct err *err)
{
    enum status st = ST_OK;

    memset(lib, 0, sizeof *lib);
    lib->handle = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle)
        return err_set(err, ST_EUNAVAILABLE, "cuBLASLt cannot be opened: %s", dlerror());
    BLAS_FUNCTIONS(FIND)
    if (st != ST_OK)
        blas_library_close(lib);
    return st;
}

void blas_library_close(struct blas_library *lib)
{
    if (lib->handle)
        dlclose(lib->handle);
    memset(lib, 0, sizeof *lib);
}

enum status dnn_library_open(struct dnn_library *lib, struct err *err)
{
    enum status st = ST_OK;

    memset(lib, 0, sizeof *lib);
    lib->handle = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle)
        return err_set(err, ST_EUNAVAILABLE, "cuDNN cannot be opened: %s", dlerror());
    DNN_FUNCTIONS(FIND)
    if (st != ST_OK)
        dnn_library_close(lib);
    return st;
}

void dnn_library_close(struct dnn_library *lib)
{
    if (lib->handle)
        dlclose(lib->handle);
    memset(lib, 0, sizeof *lib);
}
