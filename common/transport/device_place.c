/* SPDX-License-Identifier: Apache-2.0 */
/* device_place.c - the driver's view of one device, and this process's name among others. */
#include "common/transport/device_place.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static enum status read_machine(uint8_t out[MACHINE_BYTES], struct err *err)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    size_t got = f ? fread(out, 1, MACHINE_BYTES, f) : 0;

    if (f)
        fclose(f);
    return got == MACHINE_BYTES ? ST_OK : err_set(err, ST_EUNAVAILABLE, "the machine's boot id cannot be read");
}

static enum status open_device(struct device_place *p, int ordinal, struct err *err)
{
    const struct cuda_table *cuda = p->cuda;
    enum status st = cuda_check(cuda, cuda->init(0), "CUDA", err);

    if (st == ST_OK)
        st = cuda_check(cuda, cuda->device_get(&p->device, ordinal), "CUDA device", err);
    if (st == ST_OK)
        st = cuda_check(cuda, cuda->device_uuid(&p->who.device, p->device), "CUDA device", err);
    if (st == ST_OK)
        st = cuda_check(cuda, cuda->context_retain(&p->context, p->device), "CUDA context", err);
    return st == ST_OK ? st : ST_EUNAVAILABLE;
}

enum status device_place_open(struct device_place *p, const struct station_config *config, struct err *err)
{
    enum status st = ST_OK;

    memset(p, 0, sizeof *p);
    if (config->device < 0)
        return err_set(err, ST_EUNAVAILABLE, "blocks lie in the host's memory here, not in a CUDA device's");
    p->cuda = config->cuda ? config->cuda : &p->own;
    if (!config->cuda)
        st = cuda_table_fill(&p->own, err);
    if (st == ST_OK)
        st = read_machine(p->who.machine, err);
    if (st == ST_OK && getrandom(p->who.process, PROCESS_BYTES, 0) != PROCESS_BYTES)
        st = err_set(err, ST_EUNAVAILABLE, "no random bytes");
    return st == ST_OK ? open_device(p, config->device, err) : st;
}

void device_place_close(struct device_place *p)
{
    if (p->context)
        p->cuda->context_release(p->device);
    memset(p, 0, sizeof *p);
}

void device_who_write(struct text *out, const struct device_who *who)
{
    text_add(out, (const char *)who->process, PROCESS_BYTES);
    text_add(out, (const char *)who->machine, MACHINE_BYTES);
    text_add(out, (const char *)who->device.data, CUDA_UUID_BYTES);
}

static void take(void *out, struct cursor *from, size_t bytes)
{
    const uint8_t *at = cursor_take(from, bytes);

    if (at)
        memcpy(out, at, bytes);
    else
        memset(out, 0, bytes);
}

void device_who_read(struct device_who *out, struct cursor *from)
{
    take(out->process, from, PROCESS_BYTES);
    take(out->machine, from, MACHINE_BYTES);
    take(out->device.data, from, CUDA_UUID_BYTES);
}

bool device_who_same_machine(const struct device_who *a, const struct device_who *b)
{
    return memcmp(a->machine, b->machine, MACHINE_BYTES) == 0;
}

bool device_who_same_device(const struct device_who *a, const struct device_who *b)
{
    return device_who_same_machine(a, b) && memcmp(&a->device, &b->device, sizeof a->device) == 0;
}
