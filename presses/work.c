/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c - what hooks may call: scratch, scores on the host, a round's score on a part of its rows.
 *
 * The k-th buffer asked for since a reset is the k-th of the last time, enlarged where it has to be. Back ends whose memory
 * the host reaches (CPU) are read and written in place; others are copied on LANE_PRESS and waited for.
 */
#include "presses/work.h"
#include "common/base/arena.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void work_fini(struct press_work *w)
{
    for (int32_t i = 0; i < WORK_BUFFERS; i++) {
        if (w->device[i])
            w->be->ops->free(w->be, w->device[i]);
        free(w->host[i]);
    }
    for (int32_t i = 0; i < w->files; i++)
        w->be->ops->free(w->be, w->file[i].device);
    free(w->file);
    memset(w, 0, sizeof *w);
}

struct press_scratch work_mark(const struct press_work *w)
{
    return (struct press_scratch){ w->device_used, w->host_used };
}

void work_back(struct press_work *w, struct press_scratch mark)
{
    w->device_used = mark.device;
    w->host_used = mark.host;
}

struct press_scratch press_scratch_mark(const struct press_round *round)
{
    return work_mark(round->work);
}

void press_scratch_back(struct press_round *round, struct press_scratch mark)
{
    work_back(round->work, mark);
}

enum status press_work_device(struct press_round *round, uint64_t bytes, void **out, struct err *err)
{
    struct press_work *w = round->work;
    int32_t i = w->device_used++;
    enum status st;

    assert(i < WORK_BUFFERS);
    if (w->device_bytes[i] < bytes) {
        if (w->device[i]) {
            w->be->ops->wait(w->be, LANE_PRESS); /* what is queued may still use it */
            w->be->ops->free(w->be, w->device[i]);
        }
        w->device[i] = NULL;
        w->device_bytes[i] = 0;
        st = w->be->ops->alloc(w->be, bytes, "presses", &w->device[i], err);
        if (st != ST_OK)
            return st;
        w->device_bytes[i] = bytes;
    }
    *out = w->device[i];
    return ST_OK;
}

void *press_work_host(struct press_round *round, uint64_t bytes)
{
    struct press_work *w = round->work;
    int32_t i = w->host_used++;

    assert(i < WORK_BUFFERS);
    if (w->host_bytes[i] < bytes) {
        free(w->host[i]);
        w->host[i] = mem_aligned(bytes);
        w->host_bytes[i] = bytes;
    }
    return w->host[i];
}

static uint64_t score_bytes(const struct kv_rows *view)
{
    return (uint64_t)view->at[view->heads] * sizeof(float);
}

float *press_scores_get(struct press_round *round, const struct kv_rows *view, const float *score)
{
    const struct backend_ops *ops = round->be->ops;
    float *host;

    ops->wait(round->be, LANE_PRESS);
    if (ops->host_is_device)
        return (float *)(uintptr_t)score;
    host = press_work_host(round, score_bytes(view));
    ops->download(round->be, LANE_PRESS, host, score, score_bytes(view));
    ops->wait(round->be, LANE_PRESS);
    return host;
}

void press_scores_put(struct press_round *round, const struct kv_rows *view, float *score, const float *host)
{
    if (host == score)
        return;
    round->be->ops->upload(round->be, LANE_PRESS, score, host, score_bytes(view));
    round->be->ops->wait(round->be, LANE_PRESS);
}

const int32_t *press_index_get(struct press_round *round, const int32_t *index, int64_t count)
{
    const struct backend_ops *ops = round->be->ops;
    int32_t *host;

    ops->wait(round->be, LANE_PRESS);
    if (ops->host_is_device)
        return index;
    host = press_work_host(round, (uint64_t)count * sizeof *host);
    ops->download(round->be, LANE_PRESS, host, index, (uint64_t)count * sizeof *host);
    ops->wait(round->be, LANE_PRESS);
    return host;
}

void press_index_put(struct press_round *round, int32_t *index, const int32_t *host, int64_t count)
{
    round->be->ops->upload(round->be, LANE_PRESS, index, host, (uint64_t)count * sizeof *host);
    round->be->ops->wait(round->be, LANE_PRESS);
}

enum status press_to_device(struct press_round *round, const void *host, uint64_t bytes, const void **out,
                            struct err *err)
{
    void *device;
    enum status st;

    *out = host;
    if (round->be->ops->host_is_device)
        return ST_OK;
    st = press_work_device(round, bytes, &device, err);
    if (st != ST_OK)
        return st;
    round->be->ops->upload(round->be, LANE_PRESS, device, host, bytes);
    round->be->ops->wait(round->be, LANE_PRESS);
    *out = device;
    return ST_OK;
}

/* Goes up for good. */
static enum status file_keep(struct press_work *w, const void *host, uint64_t bytes, const void **out, struct err *err)
{
    void *device;
    enum status st = w->be->ops->alloc(w->be, bytes, "presses", &device, err);

    if (st != ST_OK)
        return st;
    w->be->ops->upload(w->be, LANE_PRESS, device, host, bytes);
    w->be->ops->wait(w->be, LANE_PRESS);
    w->file = mem_grow(w->file, ((size_t)w->files + 1) * sizeof *w->file);
    w->file[w->files++] = (struct work_file){ host, device };
    *out = device;
    return ST_OK;
}

enum status press_file_to_device(struct press_round *round, const void *host, uint64_t bytes, const void **out,
                                 struct err *err)
{
    struct press_work *w = round->work;

    if (round->be->ops->host_is_device || !w->keeps_files)
        return press_to_device(round, host, bytes, out, err);
    for (int32_t i = 0; i < w->files; i++)
        if (w->file[i].host == host) {
            *out = w->file[i].device;
            return ST_OK;
        }
    return file_keep(w, host, bytes, out, err);
}

float press_protected(struct press_round *round, const struct kv_rows *view, const float *score)
{
    int32_t g = 0;
    float value = INFINITY;

    while (g < view->heads && view->rows[g] == 0)
        g++;
    if (g == view->heads || round->tail == 0)
        return INFINITY;
    round->be->ops->download(round->be, LANE_PRESS, &value, score + view->at[g] + view->rows[g] - 1, sizeof value);
    round->be->ops->wait(round->be, LANE_PRESS);
    return value;
}

enum status press_rescore(struct press_round *round, const struct press_stage *self, const struct kv_rows *view,
                          float *score, struct err *err)
{
    enum status st = ST_OK;

    for (const struct press_stage *s = round->stages + round->begin; s < self && st == ST_OK; s++) {
        struct press_scratch mark = work_mark(round->work);

        if (s->press->score)
            st = s->press->score(s, round, view, score, err);
        else if (s->press->refine)
            st = s->press->refine(s, round, view, score, err);
        work_back(round->work, mark);
    }
    return st;
}

enum status press_admit_op(const struct press_stage *stage, const struct press_door *door, bool has, const char *op,
                           struct err *err)
{
    if (has)
        return ST_OK;
    return err_set(err, ST_EUNIMPLEMENTED, "%s cannot run here: the back end %s has not got the operation %s",
                   stage->press->name, door->ops->name, op);
}
