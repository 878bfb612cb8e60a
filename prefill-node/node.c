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
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "common/model/roles.h"
#include "common/transport/transfer.h"
#include "prefill-node/control.h"
#include "prefill-node/forward.h"
#include "prefill-node/run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUIET_MS = 60000, QUEUE_CONTEXTS = 16, TOKENS_FLOOR = 512 };

static const char *const health_names[] = { "platen.internal.v1.Prefill" };

/* ---- the model ------------------------------------------------------------------------------------------------- */

static enum status open_model(struct prefill_node *n, struct err *err)
{
    struct tokenizer *tokenizer = NULL;
    enum status st = ST_OK;

    for (size_t i = 0; st == ST_OK && i < n->opt.press_plugin.count; i++)
        st = press_plugin_open(n->opt.press_plugin.items[i], err);
    if (st == ST_OK)
        st = checkpoint_open(&n->checkpoint, n->opt.model, err);
    if (st == ST_OK)
        st = tokenizer_open(&tokenizer, n->checkpoint, err);
    if (st != ST_OK)
        return st;
    checkpoint_identify(n->checkpoint, &n->identity);
    if (n->opt.random_weights)
        n->identity.weights ^= RANDOM_WEIGHTS; /* a node that has the true ones is another */
    n->tokenizer_hash = tokenizer_hash(tokenizer);
    st = prompt_texts_open(&n->texts, tokenizer, err);
    tokenizer_close(tokenizer); /* orders come as tokens */
    if (st != ST_OK)
        return st;
    return press_config_open(&n->files, &n->opt.press_file, checkpoint_hparams(n->checkpoint), err);
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
    const struct hparams *hp = checkpoint_hparams(n->checkpoint);
    char *name = strndup(n->opt.backend, strcspn(n->opt.backend, ":"));
    struct backend_config config = { .dtype = n->opt.dtype == 1 ? DT_F32 : DT_BF16,
                                     .threads = (int32_t)n->opt.threads,
                                     .memory_fraction = n->opt.memory_fraction,
                                     .cache_dir = n->opt.cache_dir };
    enum status st;

    n->tokens_max = longest_context(n, hp);
    n->queue_tokens = n->opt.queue_tokens > 0 ? n->opt.queue_tokens : QUEUE_CONTEXTS * n->tokens_max;
    n->threads = n->opt.threads > 0 ? (int32_t)n->opt.threads : thread_cores();
    config.rows_max = prefill_rows(name, n->tokens_max);
    free(name);
    st = backend_open(&n->be, n->opt.backend, &config, err);
    if (st == ST_OK)
        st = weights_open(&n->weights, n->be, hp, n->opt.random_weights ? NULL : checkpoint_rows, n->checkpoint,
                          RANDOM_WEIGHTS, err);
    if (st == ST_OK)
        n->shape = (struct kv_shape){ hp->layers, hp->kv_heads, hp->head_dim, n->be->kv };
    return st;
}

/* What the device's memory goes to, and the longest context that is taken. */
static void log_sizes(const struct prefill_node *n)
{
    struct device_bytes b;

    n->be->ops->device_bytes(n->be, &b);
    log_event(LOG_INFO, "sizes",
              "capacity_bytes=%llu weights_bytes=%llu activations_bytes=%llu blocks_bytes=%llu tails_bytes=%llu "
              "other_bytes=%llu context_tokens=%lld",
              (unsigned long long)b.capacity, (unsigned long long)b.weights, (unsigned long long)b.activations,
              (unsigned long long)b.blocks, (unsigned long long)b.tails, (unsigned long long)b.other,
              (long long)n->tokens_max);
}

static void on_missing(void *ctx, const char *name, const char *why)
{
    (void)ctx;
    log_event(LOG_WARN, "transport-missing", "transport=%s why=\"%s\"", name, why);
}

/* The test block of transports that read the device's memory; one for all transfers, which only read it. */
static enum status open_transfer_device(struct prefill_node *n, struct err *err)
{
    struct transfer *t = NULL;
    const struct kv_block *b;
    uint64_t checksum;
    enum status st = transfer_open(&t, &n->shape, TRANSFER_BLOCK_BYTES, err);

    if (st != ST_OK)
        return st;
    b = transfer_block(t, 0, &checksum);
    st = n->be->ops->alloc(n->be, b->bytes, "other", &n->transfer_device, err);
    if (st == ST_OK) {
        n->be->ops->upload(n->be, LANE_COPY, n->transfer_device, b->data, b->bytes);
        n->be->ops->wait(n->be, LANE_COPY);
    }
    transfer_close(t);
    return st;
}

static enum status open_stations(struct prefill_node *n, struct err *err)
{
    const struct station_config config = { .device = stations_device(n->opt.backend) };
    enum status st =
        stations_open(&n->stations, n->opt.transport, n->opt.stations ? n->opt.stations : &config, on_missing, n, err);

    if (st != ST_OK)
        return st;
    log_event(LOG_INFO, "transports", "transports=%s", stations_list(n->stations));
    return stations_place_device(n->stations) ? open_transfer_device(n, err) : ST_OK;
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
    struct metrics *m = n->metrics;

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
    struct prefill_node *n = ctx;

    log_event(LOG_ERROR, "device", "why=\"%s\"", why->text);
    health_set(service_health(n->service), NULL, false);
}

static enum status bind_door(struct prefill_node *n, struct err *err)
{
    struct service_options o = { .metrics_listen = n->opt.metrics,
                                 .metrics = n->metrics,
                                 .names = health_names,
                                 .name_count = ARRAY_LEN(health_names) };
    enum status st;

    rpc_server_options_init(&o.rpc);
    o.rpc.listen = n->opt.listen;
    o.rpc.tls = (struct rpc_tls){ n->opt.tls_cert, n->opt.tls_key, n->opt.tls_ca, NULL };
    o.rpc.token = n->token;
    st = service_open(&n->service, &o, err);
    if (st != ST_OK)
        return st;
    n->name = service_name(n->service);
    trace_name(n->trace, "prefill-node", n->name);
    run_add(n, service_server(n->service));
    prefill_control_add(n, service_server(n->service));
    return ST_OK;
}

static enum status open_work(struct prefill_node *n, struct err *err)
{
    const struct scheduler_config config = { .queue_tokens = n->queue_tokens, .queue_orders = n->opt.queue_orders };
    struct engine_config engine = { .be = n->be, .weights = n->weights, .tokens_max = n->tokens_max };
    enum status st;

    n->scheduler = scheduler_open(&config);
    st = mover_open(&n->mover, n->scheduler, &n->stats, n->be, err);
    if (st != ST_OK)
        return st;
    engine.scheduler = n->scheduler;
    engine.mover = n->mover;
    engine.broken = on_broken;
    engine.ctx = n;
    return engine_open(&n->engine, &engine, err);
}

/* A token file's text without the newline at its end. */
static enum status read_token(struct prefill_node *n, struct err *err)
{
    struct file f = { 0 };
    size_t bytes;
    enum status st;

    if (!n->opt.token_file)
        return ST_OK;
    st = file_open(&f, n->opt.token_file, err);
    if (st != ST_OK)
        return st;
    for (bytes = f.bytes; bytes > 0 && (f.data[bytes - 1] == '\n' || f.data[bytes - 1] == '\r'); bytes--)
        ;
    if (bytes == 0)
        st = err_set(err, ST_EINVAL, "%s: the token file is empty", n->opt.token_file);
    else
        n->token = strndup((const char *)f.data, bytes);
    file_close(&f);
    return st;
}

/* SIGUSR1, and the end. */
static void write_trace(void *node)
{
    struct prefill_node *n = node;
    struct err err = { 0 };

    if (trace_write(n->trace, &err) == ST_OK)
        log_event(LOG_INFO, "trace", "file=%s", n->opt.trace);
    else
        log_event(LOG_ERROR, "trace", "why=\"%s\"", err.text);
}

static enum status open_trace(struct prefill_node *n, struct err *err)
{
    enum status st = trace_open(&n->trace, n->opt.trace, err);

    if (n->trace)
        signals_on_user(n->signals, write_trace, n);
    return st;
}

static void close_trace(struct prefill_node *n)
{
    if (!n->trace)
        return;
    signals_on_user(n->signals, NULL, NULL);
    write_trace(n);
    trace_close(n->trace);
}

static enum status open_all(struct prefill_node *n, struct err *err)
{
    enum status st = n->opt.transport ? transport_list_check(n->opt.transport, err) : ST_OK;

    if (st == ST_OK)
        st = open_trace(n, err);
    if (st == ST_OK)
        st = read_token(n, err);
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
        st = service_start(n->service, err);
    if (st == ST_OK)
        health_set(service_health(n->service), NULL, true);
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
    service_unpublish(n->service);
    if (n->scheduler)
        scheduler_stop(n->scheduler);
    engine_close(n->engine);
    mover_close(n->mover);
    scheduler_close(n->scheduler);
    service_close(n->service);
    close_trace(n); /* after everybody who adds to it */
    stations_close(n->stations);
    if (n->transfer_device)
        n->be->ops->free(n->be, n->transfer_device);
    weights_close(n->weights, n->be);
    backend_close(n->be);
    prompt_texts_close(&n->texts);
    press_files_close(n->files);
    checkpoint_close(n->checkpoint);
    metrics_close(n->metrics);
    free(n->token);
    memset(n, 0, sizeof *n);
}

enum status prefill_node_open(struct prefill_node *n, const struct prefill_options *opt, struct signals *signals,
                              struct err *err)
{
    enum status st;

    memset(n, 0, sizeof *n);
    n->opt = *opt;
    n->signals = signals;
    n->metrics = metrics_open(64);
    register_metrics(n);
    st = open_all(n, err);
    if (st != ST_OK)
        close_all(n);
    return st;
}

bool prefill_node_close(struct prefill_node *n, int64_t deadline_ns)
{
    const bool clean = service_drain(n->service, deadline_ns);

    close_all(n);
    return clean;
}
