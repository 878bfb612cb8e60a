/* SPDX-License-Identifier: Apache-2.0 */
/*
 * context.c - counting pressed contexts, and finding the kept ones by handle.
 *
 * A handle is 128 random bits in hexadecimal: nobody finds another caller's context by trying. Kept contexts are few
 * (`--contexts-limit`), so the table is a list.
 */
#include "decode-node/context.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "presses/chain.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct context *context_open(struct blocks *arena, int32_t layers)
{
    struct context *c = mem_zero(1, sizeof *c);

    c->arena = arena;
    c->layers = layers;
    c->block = mem_zero((size_t)layers, sizeof *c->block);
    c->figures.codec = "plain";
    c->refs = 1;
    return c;
}

void context_ref(struct context *c)
{
    /* relaxed: whoever refs holds a count already, so nothing needs to be seen first */
    __atomic_fetch_add(&c->refs, 1, __ATOMIC_RELAXED);
}

void context_unref(struct context *c)
{
    /* acq_rel: the last holder must see everybody's reads done before it frees */
    if (c == NULL || __atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    blocks_release(c->arena, c->extent);
    chain_close(c->chain);
    free(c->block);
    free(c);
}

int32_t context_refs(const struct context *c)
{
    return __atomic_load_n(&c->refs, __ATOMIC_RELAXED);
}

void context_moved(struct context *c, int64_t by)
{
    for (int32_t l = 0; l < c->layers; l++)
        c->block[l].data = (uint8_t *)c->block[l].data + by;
}

struct kept {
    struct kept *next;
    struct context *context;
    int64_t ttl_ns, until_ns;
    char handle[HANDLE_CHARS + 1];
};

struct contexts {
    pthread_mutex_t lock; /* guards everything below */
    struct kept *first;
    int32_t count, limit;
};

struct contexts *contexts_open(int32_t limit)
{
    struct contexts *t = mem_zero(1, sizeof *t);

    pthread_mutex_init(&t->lock, NULL);
    t->limit = limit;
    return t;
}

static void kept_free(struct kept *k)
{
    context_unref(k->context);
    free(k);
}

void contexts_close(struct contexts *t)
{
    if (t == NULL)
        return;
    while (t->first) {
        struct kept *k = t->first;
        t->first = k->next;
        kept_free(k);
    }
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static enum status handle_make(char handle[HANDLE_CHARS + 1], struct err *err)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t raw[HANDLE_CHARS / 2];

    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return err_set(err, ST_EINTERNAL, "the system gives no random bytes for a handle");
    for (size_t i = 0; i < sizeof raw; i++) {
        handle[2 * i] = hex[raw[i] >> 4];
        handle[2 * i + 1] = hex[raw[i] & 15];
    }
    handle[HANDLE_CHARS] = '\0';
    return ST_OK;
}

enum status contexts_keep(struct contexts *t, struct context *c, int64_t ttl_s, char handle[HANDLE_CHARS + 1],
                          struct err *err)
{
    struct kept *k = mem_zero(1, sizeof *k);
    enum status st = handle_make(k->handle, err);

    if (st != ST_OK) {
        free(k);
        return st;
    }
    pthread_mutex_lock(&t->lock);
    if (t->count >= t->limit) {
        pthread_mutex_unlock(&t->lock);
        free(k);
        return err_set(err, ST_EEXHAUSTED, "%d contexts are kept already, as many as --contexts-limit allows",
                       t->limit);
    }
    context_ref(c);
    k->context = c;
    k->ttl_ns = ttl_s * NS_PER_S;
    k->until_ns = clock_now_ns() + k->ttl_ns;
    k->next = t->first;
    t->first = k;
    t->count++;
    memcpy(handle, k->handle, sizeof k->handle);
    pthread_mutex_unlock(&t->lock);
    return ST_OK;
}

/* The link that points to the kept context of that handle and still lives; NULL: there is none. Lock held. */
static struct kept **kept_find(struct contexts *t, const char *handle)
{
    int64_t now = clock_now_ns();

    for (struct kept **k = &t->first; *k; k = &(*k)->next)
        if (strcmp((*k)->handle, handle) == 0)
            return (*k)->until_ns > now ? k : NULL;
    return NULL;
}

static enum status not_kept(struct err *err, const char *handle)
{
    return err_set(err, ST_ENOTFOUND,
                   "no context with handle '%.64s' is kept here: released, expired, or another node's", handle);
}

enum status contexts_find(struct contexts *t, const char *handle, bool renew, struct context **out, int64_t *ttl_left_s,
                          struct err *err)
{
    struct kept **at;

    pthread_mutex_lock(&t->lock);
    at = kept_find(t, handle);
    if (at == NULL) {
        pthread_mutex_unlock(&t->lock);
        return not_kept(err, handle);
    }
    if (renew)
        (*at)->until_ns = clock_now_ns() + (*at)->ttl_ns;
    if (ttl_left_s)
        *ttl_left_s = ((*at)->until_ns - clock_now_ns() + NS_PER_S - 1) / NS_PER_S;
    context_ref((*at)->context);
    *out = (*at)->context;
    pthread_mutex_unlock(&t->lock);
    return ST_OK;
}

static struct kept *kept_unlink(struct contexts *t, struct kept **at)
{
    struct kept *k = *at;

    *at = k->next;
    t->count--;
    return k;
}

enum status contexts_drop(struct contexts *t, const char *handle, struct err *err)
{
    struct kept *k = NULL, **at;

    pthread_mutex_lock(&t->lock);
    at = kept_find(t, handle);
    if (at)
        k = kept_unlink(t, at);
    pthread_mutex_unlock(&t->lock);
    if (k == NULL)
        return not_kept(err, handle);
    kept_free(k);
    return ST_OK;
}

void contexts_expire(struct contexts *t)
{
    int64_t now = clock_now_ns();
    struct kept *gone = NULL;

    pthread_mutex_lock(&t->lock);
    for (struct kept **k = &t->first; *k;) {
        if ((*k)->until_ns > now || context_refs((*k)->context) > 1) { /* an answer is running: not yet */
            k = &(*k)->next;
            continue;
        }
        struct kept *dead = kept_unlink(t, k);
        dead->next = gone;
        gone = dead;
    }
    pthread_mutex_unlock(&t->lock);
    while (gone) {
        struct kept *k = gone;
        gone = k->next;
        kept_free(k);
    }
}

int32_t contexts_count(struct contexts *t)
{
    int32_t count;

    pthread_mutex_lock(&t->lock);
    count = t->count;
    pthread_mutex_unlock(&t->lock);
    return count;
}
