/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.c - a prefill node put together.
 *
 *   model ─▶ device ─▶ weights ─▶ scheduler, mover ─▶ door bound ─▶ buffers, engine ─▶ door open
 *
 * The port is bound before the weights are read, so that a port in use is said at once. At the end the door is shut and
 * drained first; when no job is left, everything behind it is taken away in the reverse order.
 */
#include "prefill-node/node.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/transport/transfer.h"
#include "prefill-node/control.h"
#include "prefill-node/forward.h"
#include "prefill-node/room.h"
#include "prefill-node/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUIET_MS = 60000, QUEUE_CONTEXTS = 16, TOKENS_FLOOR = 512 };

static const char *const health_names[] = { "platen.internal.v1.Prefill" };

/* ---- the model ------------------------------------------------------------------------------------------------- */

static enum status open_model(struct prefill_node *n, struct err *err)
{
    struct node_parts *p = &n->parts;
    enum status st = parts_open_model(p, err);

    if (st != ST_OK)
        return st;
    st = prompt_texts_open(&n->texts, p->tokenizer, err);
    tokenizer_close(p->tokenizer); /* orders come as tokens */
    p->tokenizer = NULL;
    return st;
}

/* ---- the device ------------------------------------------------------------------------------------------------ */

/* Bytes on the device that one more token of the longest context costs, roughly. */
static uint64_t bytes_per_token(const struct hparams *hp)
{
    const uint64_t kv = 2 * (uint64_t)hp->kv_heads * (uint64_t)hp->head_dim * sizeof(float);
    const uint64_t x = (uint64_t)hp->dim * sizeof(float);

    return 2 * kv + SCHEDULER_TRACKS * (x + SCHEDULER_SLOTS * kv + 64);
}

/* The longest context: what was asked for, or what the model has positions for and a third of the memory holds. */
static int64_t longest_context(const struct prefill_node *n, const struct hparams *hp)
{
    const uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    const int64_t fits = (int64_t)(memory / 3 / bytes_per_token(hp));
    int64_t tokens = n->opt.context_tokens;

    if (tokens == 0)
        tokens = fits > TOKENS_FLOOR ? fits : TOKENS_FLOOR;
    return tokens < hp->max_positions ? tokens : hp->max_positions;
}

static enum status open_device(struct prefill_node *n, struct err *err)
{
    char *name = strndup(n->opt.node.backend, strcspn(n->opt.node.backend, ":"));
    int64_t rows_max;

    n->tokens_max = longest_context(n, checkpoint_hparams(n->parts.checkpoint));
    n->queue_tokens = n->opt.queue_tokens > 0 ? n->opt.queue_tokens : QUEUE_CONTEXTS * n->tokens_max;
    rows_max = prefill_rows(name, n->tokens_max);
    free(name);
    return parts_open_device(&n->parts, rows_max, err);
}

static void log_sizes(const struct prefill_node *n)
{
    char longest[48];

    snprintf(longest, sizeof longest, "context_tokens=%lld", (long long)n->tokens_max);
    parts_log_sizes(&n->parts, longest);
}

/* The test block of transports that read the device's memory; one for all transfers, which only read it. */
static enum status open_transfer_device(struct prefill_node *n, struct err *err)
{
    struct backend *be = n->parts.be;
    struct transfer *t = NULL;
    const struct kv_block *b;
    uint64_t checksum;
    enum status st = transfer_open(&t, &n->parts.shape, TRANSFER_BLOCK_BYTES, err);

    if (st != ST_OK)
        return st;
    b = transfer_block(t, 0, &checksum);
    st = be->ops->alloc(be, b->bytes, "other", &n->transfer_device, err);
    if (st == ST_OK) {
        be->ops->upload(be, LANE_COPY, n->transfer_device, b->data, b->bytes);
        be->ops->wait(be, LANE_COPY);
    }
    transfer_close(t);
    return st;
}

static enum status open_stations(struct prefill_node *n, struct err *err)
{
    enum status st = parts_open_stations(&n->parts, err);

    return st == ST_OK && stations_place_device(n->parts.stations) ? open_transfer_device(n, err) : st;
}

/* ---- metrics --------------------------------------------------------------------------------------------------- */

static struct scheduler_load load_of(const struct prefill_node *n)
{
    struct scheduler_load load = { 0 };

    scheduler_look(n->scheduler, &load);
    return load;
}

static double read_queued(void *arg)
{
    return load_of(arg).queued;
}

static double read_queued_tokens(void *arg)
{
    return (double)load_of(arg).queued_tokens;
}

/* Accepted and not ended, but for those that wait: also orders that only await Adopted. */
static double read_running(void *arg)
{
    const struct prefill_node *n = arg;
    const int32_t jobs = mover_jobs(n->mover), queued = load_of(n).queued;

    return jobs > queued ? jobs - queued : 0;
}

static double read_buffers(void *arg)
{
    return load_of(arg).buffers;
}

static double read_context_limit(void *arg)
{
    return (double)((const struct prefill_node *)arg)->tokens_max;
}

static double read_queue_limit(void *arg)
{
    return (double)((const struct prefill_node *)arg)->queue_tokens;
}

static void register_metrics(struct prefill_node *n)
{
    struct metrics *m = n->parts.metrics;

    stats_open(&n->stats, m);
    metrics_gauge_read(m, "platen_prefill_orders_queued", NULL, "orders that wait for their turn", read_queued, n);
    metrics_gauge_read(m, "platen_prefill_orders_running", NULL, "orders that are computed, shipped or adopted",
                       read_running, n);
    metrics_gauge_read(m, "platen_prefill_tokens_queued", NULL, "context tokens of the orders that wait",
                       read_queued_tokens, n);
    metrics_gauge_read(m, "platen_prefill_buffers_in_use", NULL, "packed blocks that have not left yet", read_buffers,
                       n);
    metrics_gauge_read(m, "platen_prefill_context_tokens_limit", NULL, "longest context", read_context_limit, n);
    metrics_gauge_read(m, "platen_prefill_queue_tokens_limit", NULL, "context tokens that may wait", read_queue_limit,
                       n);
}

/* ---- parts ----------------------------------------------------------------------------------------------------- */

static void on_broken(void *ctx, const struct err *why)
{
    parts_device_failed(&((struct prefill_node *)ctx)->parts, why);
}

static enum status bind_door(struct prefill_node *n, struct err *err)
{
    enum status st = parts_bind(&n->parts, "prefill-node", health_names, ARRAY_LEN(health_names), err);

    if (st != ST_OK)
        return st;
    run_add(n, service_server(n->parts.service));
    prefill_control_add(n, service_server(n->parts.service));
    return ST_OK;
}

static enum status open_work(struct prefill_node *n, struct err *err)
{
    const struct scheduler_config config = { .queue_tokens = n->queue_tokens, .queue_orders = n->opt.queue_orders };
    struct engine_config engine = { .be = n->parts.be, .weights = n->parts.weights, .tokens_max = n->tokens_max };
    enum status st;

    n->scheduler = scheduler_open(&config);
    st = mover_open(&n->mover, n->scheduler, &n->stats, n->parts.be, err);
    if (st != ST_OK)
        return st;
    engine.scheduler = n->scheduler;
    engine.mover = n->mover;
    engine.broken = on_broken;
    engine.ctx = n;
    st = engine_open(&n->engine, &engine, err);
    if (st == ST_OK)
        n->parts.turn_ns = engine_turn(n->engine);
    n->room = room_left(n->parts.be);
    return st;
}

static enum status open_all(struct prefill_node *n, struct err *err)
{
    const char *transports = n->opt.node.transport;
    enum status st = transports ? transport_list_check(transports, err) : ST_OK;

    if (st == ST_OK)
        st = parts_open_trace(&n->parts, err);
    if (st == ST_OK)
        st = bind_door(n, err);
    if (st == ST_OK)
        st = open_model(n, err);
    if (st == ST_OK)
        st = open_device(n, err);
    if (st == ST_OK)
        st = open_stations(n, err);
    if (st == ST_OK)
        st = open_work(n, err);
    if (st == ST_OK)
        log_sizes(n);
    if (st == ST_OK)
        st = service_start(n->parts.service, err);
    if (st == ST_OK)
        health_set(service_health(n->parts.service), NULL, true);
    return st;
}

/* Jobs end by themselves once their streams have: this only waits for it. */
static void wait_until_quiet(const struct prefill_node *n)
{
    const int64_t deadline = clock_in_ms(QUIET_MS);
    const struct timespec nap = { 0, 2 * NS_PER_MS };

    while (n->mover && mover_jobs(n->mover) > 0 && clock_now_ns() < deadline)
        nanosleep(&nap, NULL);
}

static void close_all(struct prefill_node *n)
{
    wait_until_quiet(n);
    service_unpublish(n->parts.service);
    if (n->scheduler)
        scheduler_stop(n->scheduler);
    engine_close(n->engine);
    mover_close(n->mover);
    scheduler_close(n->scheduler);
    service_close(n->parts.service);
    parts_close_trace(&n->parts); /* after everybody who adds to it */
    stations_close(n->parts.stations);
    if (n->transfer_device)
        n->parts.be->ops->free(n->parts.be, n->transfer_device);
    prompt_texts_close(&n->texts);
    parts_close(&n->parts);
    memset(n, 0, sizeof *n);
}

enum status prefill_node_open(struct prefill_node *n, const struct prefill_options *opt, struct signals *signals,
                              struct err *err)
{
    enum status st;

    memset(n, 0, sizeof *n);
    n->opt = *opt;
    parts_init(&n->parts, &n->opt.node, signals);
    register_metrics(n);
    st = open_all(n, err);
    if (st != ST_OK)
        close_all(n);
    return st;
}

bool prefill_node_close(struct prefill_node *n, int64_t deadline_ns)
{
    const bool clean = service_drain(n->parts.service, deadline_ns);

    close_all(n);
    return clean;
}
