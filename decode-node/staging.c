/* SPDX-License-Identifier: Apache-2.0 */
/* staging.c - a few pinned buffers, taken and given back. */
#include "decode-node/staging.h"

#include "common/base/arena.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

struct staging {
    struct backend *be;
    pthread_mutex_t lock; /* guards free, bytes */
    pthread_mutex_t copy; /* one upload at a time: the copy lane has one user */
    struct stage_buffer *free;
    uint64_t bytes, limit_bytes;
};

struct staging *staging_open(struct backend *be, uint64_t limit_bytes)
{
    struct staging *s = mem_zero(1, sizeof *s);

    s->be = be;
    s->limit_bytes = limit_bytes;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->copy, NULL);
    return s;
}

static void buffer_free(struct staging *s, struct stage_buffer *b)
{
    s->bytes -= b->bytes;
    s->be->ops->host_free(s->be, b->host);
    free(b);
}

void staging_close(struct staging *s)
{
    if (s == NULL)
        return;
    while (s->free) {
        struct stage_buffer *b = s->free;
        s->free = b->next;
        buffer_free(s, b);
    }
    assert(s->bytes == 0);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->copy);
    free(s);
}

static enum status buffer_open(struct staging *s, uint64_t bytes, struct stage_buffer **out, struct err *err)
{
    struct stage_buffer *b = mem_zero(1, sizeof *b);
    enum status st = s->be->ops->host_alloc(s->be, bytes, &b->host, err);

    if (st != ST_OK) {
        free(b);
        return st;
    }
    b->bytes = bytes;
    s->bytes += bytes;
    *out = b;
    return ST_OK;
}

enum status staging_take(struct staging *s, uint64_t bytes, struct stage_buffer **out, struct err *err)
{
    enum status st = ST_OK;

    pthread_mutex_lock(&s->lock);
    for (struct stage_buffer **at = &s->free; *at; at = &(*at)->next) {
        struct stage_buffer *b = *at;
        if (b->bytes < bytes)
            continue;
        *at = b->next;
        *out = b;
        goto out;
    }
    while (s->free && s->bytes + bytes > s->limit_bytes) { /* too short for this one: room for one that is not */
        struct stage_buffer *b = s->free;
        s->free = b->next;
        buffer_free(s, b);
    }
    if (s->bytes + bytes > s->limit_bytes)
        st = err_set(err, ST_EEXHAUSTED, "adopt: %llu bytes of staging are in use, the limit is %llu",
                     (unsigned long long)s->bytes, (unsigned long long)s->limit_bytes);
    else
        st = buffer_open(s, bytes, out, err);
out:
    pthread_mutex_unlock(&s->lock);
    return st;
}

void staging_give(struct staging *s, struct stage_buffer *buffer)
{
    if (buffer == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    buffer->next = s->free;
    s->free = buffer;
    pthread_mutex_unlock(&s->lock);
}

void staging_upload(struct staging *s, void *device, const struct stage_buffer *buffer, uint64_t bytes)
{
    pthread_mutex_lock(&s->copy);
    s->be->ops->upload(s->be, LANE_COPY, device, buffer->host, bytes);
    s->be->ops->wait(s->be, LANE_COPY);
    pthread_mutex_unlock(&s->copy);
}

uint64_t staging_checksum(struct staging *s, const void *device, uint64_t bytes)
{
    uint64_t sum;

    pthread_mutex_lock(&s->copy);
    sum = s->be->ops->checksum(s->be, LANE_COPY, device, bytes);
    pthread_mutex_unlock(&s->copy);
    return sum;
}
