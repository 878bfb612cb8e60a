/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.c - a decode node put together.
 *
 *   ports bound ─▶ model ─▶ device, weights, blocks ─▶ tails, engine ─▶ stream, front threads ─▶ prefill nodes watched
 *     ─▶ doors open
 *
 * Opened in this order and closed in the reverse, with one exception: at the end the doors are shut and drained first,
 * so that everything behind them is idle when it is taken away.
 */
#include "decode-node/node.h"

#include "common/base/bytes.h"
#include "common/model/rope.h"
#include "common/rpc/rpc_token.h"
#include "decode-node/control.h"
#include "decode-node/generate.h"
#include "decode-node/selftest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAGING_BYTES_MAX (UINT64_C(4) << 30)

static const char *const health_names[] = { "platen.v1.Inference", "platen.v1.Contexts" };

static enum status open_model(struct node *n, struct err *err)
{
    enum status st = parts_open_model(&n->parts, err);

    return st == ST_OK ? chat_open(&n->chat, n->parts.checkpoint, n->opt.chat_template, err) : st;
}

static enum status set_rope(struct node_parts *p, struct err *err)
{
    const struct hparams *hp = &p->weights->hp;
    struct rope_tables tables;
    enum status st;

    rope_tables_open(&tables, hp, hp->max_positions);
    st = weights_rope(p->weights, p->be, &tables, err);
    rope_tables_close(&tables);
    return st;
}

/* The most rows of one step. */
static int64_t rows_max(const struct node *n)
{
    return n->opt.step_rows > n->opt.slots ? n->opt.step_rows : n->opt.slots;
}

static enum status open_device(struct node *n, struct err *err)
{
    struct node_parts *p = &n->parts;
    enum status st = parts_open_device(p, rows_max(n), err);

    if (st == ST_OK)
        st = set_rope(p, err);
    if (st != ST_OK)
        return st;
    if (!p->be->ops->host_is_device)
        n->staging = staging_open(p->be, STAGING_BYTES_MAX);
    return blocks_open(&n->blocks, p->be, (uint64_t)n->opt.block_mib << 20, err);
}

static enum status open_engine(struct node *n, struct err *err)
{
    const int64_t positions = n->parts.weights->hp.max_positions, tail = n->opt.tail_tokens;
    struct batcher_config config = { .be = n->parts.be,
                                     .weights = n->parts.weights,
                                     .slots = (int32_t)n->opt.slots,
                                     .sequences_max = (int32_t)n->opt.sequences,
                                     .tail_tokens = (int32_t)tail / KV_PAGE_TOKENS * KV_PAGE_TOKENS,
                                     .tail_tokens_max = (int32_t)(positions < tail ? positions : tail),
                                     .rows_max = (int32_t)rows_max(n),
                                     .metrics = n->parts.metrics,
                                     .trace = n->parts.trace };
    enum status st = stream_open(&n->stream, err);

    if (st != ST_OK)
        return st;
    config.wake = stream_semaphore(n->stream);
    st = batcher_open(&n->batcher, &config, err);
    if (st == ST_OK)
        n->parts.turn_ns = batcher_turn(n->batcher);
    return st;
}

/* How many tokens of plain rows blocks and tails hold. */
static void log_sizes(const struct node *n)
{
    const struct kv_shape *k = &n->parts.shape;
    const uint64_t token = 2 * (uint64_t)k->layers * (uint64_t)k->heads * dtype_bytes(k->dtype, (uint64_t)k->dim);
    struct device_bytes b;
    char tokens[96];

    n->parts.be->ops->device_bytes(n->parts.be, &b);
    snprintf(tokens, sizeof tokens, "block_tokens=%llu tail_tokens=%llu",
             (unsigned long long)(blocks_capacity(n->blocks) / token), (unsigned long long)(b.tails / token));
    parts_log_sizes(&n->parts, tokens);
}

static enum status open_stations(struct node *n, struct err *err)
{
    enum status st = parts_open_stations(&n->parts, err);

    return st == ST_OK ? intake_open(&n->intake, n->staging, err) : st;
}

/* Serving means: some prefill node answers, and the device works. */
static void update_health(struct node *n, int32_t alive)
{
    struct err err = { 0 };
    bool works = batcher_health(n->batcher, &err) == ST_OK;

    if (!works)
        parts_device_failed(&n->parts, &err);
    health_set(service_health(n->parts.service), NULL, works && alive > 0);
}

static void on_peers(void *ctx, int32_t alive)
{
    struct node *n = ctx;

    update_health(n, alive);
    orders_tick(n->orders);
}

static void on_tick(void *ctx)
{
    struct node *n = ctx;

    contexts_expire(n->contexts);
    orders_tick(n->orders);
    stations_tick(n->parts.stations);
    if (batcher_health(n->batcher, NULL) != ST_OK)
        update_health(n, 0);
}

static enum status open_front(struct node *n, struct err *err)
{
    struct rpc_server *server = service_server(n->parts.service);

    generate_add(n, server);
    decode_control_add(n, server);
    return front_open(n, err);
}

static enum status watch_peers(struct node *n, struct err *err)
{
    struct peers_config config = { .client = n->client,
                                   .channel = &n->channel,
                                   .target = n->opt.prefill.items,
                                   .targets = n->opt.prefill.count,
                                   .changed = on_peers,
                                   .tick = on_tick,
                                   .ctx = n };

    config.channels = (int32_t)n->opt.grpc_channels;
    config.floor_gb_s = n->opt.link_floor_gb_s;
    rpc_channel_options_init(&n->channel);
    n->channel.tls = (struct rpc_tls){ n->opt.prefill_tls_cert, n->opt.prefill_tls_key, n->opt.prefill_tls_ca, NULL };
    n->channel.token = n->prefill_token;
    return peers_open(&n->peers, &config, err);
}

static enum status open_all(struct node *n, struct err *err)
{
    enum status st = peers_check(n->opt.prefill.items, n->opt.prefill.count, err);

    if (st == ST_OK)
        st = parts_open_trace(&n->parts, err);
    if (st == ST_OK)
        st = rpc_token_read(&n->prefill_token, n->opt.prefill_token_file, err);
    if (st == ST_OK)
        st = parts_bind(&n->parts, "decode-node", health_names, ARRAY_LEN(health_names), err);
    if (st == ST_OK)
        st = open_model(n, err);
    if (st == ST_OK)
        st = open_device(n, err);
    if (st == ST_OK)
        st = open_stations(n, err);
    if (st == ST_OK)
        st = open_engine(n, err);
    if (st == ST_OK)
        log_sizes(n);
    if (st == ST_OK)
        st = rpc_client_open(&n->client, 2, err);
    if (st == ST_OK)
        st = open_front(n, err);
    if (st == ST_OK)
        st = watch_peers(n, err);
    if (st == ST_OK)
        st = service_start(n->parts.service, err);
    if (st == ST_OK)
        st = links_open(&n->links, n, err);
    return st;
}

static void close_all(struct node *n)
{
    service_unpublish(n->parts.service);
    selftest_close(n);
    front_close(n);
    stream_end(n->stream); /* waits for every request, and so for every order; those use peers and links */
    links_close(n->links);
    peers_close(n->peers);
    n->peers = NULL;
    rpc_client_close(n->client);
    service_close(n->parts.service);
    batcher_close(n->batcher); /* after the rpc threads: their last count of a request gives tails back */
    stream_close(n->stream);   /* after everybody who posts its semaphore */
    contexts_close(n->contexts);
    orders_close(n->orders);
    intake_close(n->intake);
    parts_close_trace(&n->parts); /* after everybody who adds to it */
    stations_close(n->parts.stations);
    blocks_close(n->blocks);
    staging_close(n->staging);
    chat_close(n->chat);
    parts_close(&n->parts);
    free(n->prefill_token);
    memset(n, 0, sizeof *n);
}

enum status node_open(struct node *n, const struct options *opt, struct signals *signals, struct err *err)
{
    enum status st;

    memset(n, 0, sizeof *n);
    n->opt = *opt;
    parts_init(&n->parts, &n->opt.node, signals);
    node_register_metrics(n);
    n->contexts = contexts_open((int32_t)opt->contexts);
    n->orders = orders_open();
    st = open_all(n, err);
    if (st != ST_OK)
        close_all(n);
    return st;
}

bool node_close(struct node *n, int64_t deadline_ns)
{
    bool clean = service_drain(n->parts.service, deadline_ns);

    close_all(n);
    return clean;
}
