/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.c - a decode node put together.
 *
 *   ports bound ─▶ model ─▶ device ─▶ weights ─▶ blocks, tails, engine ─▶ stream, front threads ─▶ prefill nodes watched
 *     ─▶ doors open
 *
 * Ports are bound before the weights are read, so that one in use is said at once.
 * Opened in this order and closed in the reverse, with one exception: at the end the doors are shut and drained first,
 * so that everything behind them is idle when it is taken away.
 */
#include "decode-node/node.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/roles.h"
#include "common/model/rope.h"
#include "decode-node/control.h"
#include "decode-node/generate.h"
#include "decode-node/selftest.h"
#include "presses/chain.h"

#include <string.h>

#define STAGING_BYTES_MAX (UINT64_C(4) << 30)

static const char *const health_names[] = { "platen.v1.Inference", "platen.v1.Contexts" };

static enum status open_model(struct node *n, struct err *err)
{
    enum status st = ST_OK;

    for (size_t i = 0; st == ST_OK && i < n->opt.press_plugin.count; i++)
        st = press_plugin_open(n->opt.press_plugin.items[i], err);
    if (st == ST_OK)
        st = checkpoint_open(&n->checkpoint, n->opt.model, err);
    if (st == ST_OK)
        st = press_config_open(&n->files, &n->opt.press_file, checkpoint_hparams(n->checkpoint), err);
    if (st == ST_OK)
        st = tokenizer_open(&n->tokenizer, n->checkpoint, err);
    if (st == ST_OK)
        st = chat_open(&n->chat, n->checkpoint, n->opt.chat_template, err);
    if (st != ST_OK)
        return st;
    checkpoint_identify(n->checkpoint, &n->identity);
    if (n->opt.random_weights)
        n->identity.weights ^= RANDOM_WEIGHTS; /* a node that has the true ones is another */
    n->tokenizer_hash = tokenizer_hash(n->tokenizer);
    return ST_OK;
}

static enum status set_rope(struct node *n, const struct hparams *hp, struct err *err)
{
    struct rope_tables tables;
    enum status st;

    rope_tables_open(&tables, hp, hp->max_positions);
    st = weights_rope(n->weights, n->be, &tables, err);
    rope_tables_close(&tables);
    return st;
}

static enum status open_device(struct node *n, struct err *err)
{
    const struct hparams *hp = checkpoint_hparams(n->checkpoint);
    int64_t rows = n->opt.step_rows > n->opt.slots ? n->opt.step_rows : n->opt.slots;
    struct backend_config config = { .dtype = n->opt.dtype == 1 ? DT_F32 : DT_BF16,
                                     .threads = (int32_t)n->opt.threads,
                                     .memory_fraction = n->opt.memory_fraction,
                                     .rows_max = rows,
                                     .cache_dir = n->opt.cache_dir };
    enum status st = backend_open(&n->be, n->opt.backend, &config, err);

    if (st == ST_OK)
        st = weights_open(&n->weights, n->be, hp, n->opt.random_weights ? NULL : checkpoint_rows, n->checkpoint,
                          RANDOM_WEIGHTS, err);
    if (st == ST_OK)
        st = set_rope(n, hp, err);
    if (st != ST_OK)
        return st;
    n->shape = (struct kv_shape){ hp->layers, hp->kv_heads, hp->head_dim, n->be->kv };
    if (!n->be->ops->host_is_device)
        n->staging = staging_open(n->be, STAGING_BYTES_MAX);
    return blocks_open(&n->blocks, n->be, (uint64_t)n->opt.block_mib << 20, err);
}

static enum status open_engine(struct node *n, struct err *err)
{
    int64_t tail_max =
        n->weights->hp.max_positions < n->opt.tail_tokens ? n->weights->hp.max_positions : n->opt.tail_tokens;
    struct batcher_config config = { .be = n->be,
                                     .weights = n->weights,
                                     .slots = (int32_t)n->opt.slots,
                                     .sequences_max = (int32_t)n->opt.sequences,
                                     .tail_tokens = (int32_t)n->opt.tail_tokens / KV_PAGE_TOKENS * KV_PAGE_TOKENS,
                                     .tail_tokens_max = (int32_t)tail_max,
                                     .metrics = n->metrics,
                                     .trace = n->trace };
    enum status st = stream_open(&n->stream, err);

    if (st != ST_OK)
        return st;
    config.rows_max = (int32_t)(n->opt.step_rows > n->opt.slots ? n->opt.step_rows : n->opt.slots);
    config.wake = stream_semaphore(n->stream);
    return batcher_open(&n->batcher, &config, err);
}

/* What the device's memory goes to, and how many tokens of plain rows blocks and tails hold. */
static void log_sizes(const struct node *n)
{
    const struct kv_shape *k = &n->shape;
    const uint64_t token = 2 * (uint64_t)k->layers * (uint64_t)k->heads * dtype_bytes(k->dtype, (uint64_t)k->dim);
    struct device_bytes b;

    n->be->ops->device_bytes(n->be, &b);
    log_event(LOG_INFO, "sizes",
              "capacity_bytes=%llu weights_bytes=%llu activations_bytes=%llu blocks_bytes=%llu tails_bytes=%llu "
              "other_bytes=%llu block_tokens=%llu tail_tokens=%llu",
              (unsigned long long)b.capacity, (unsigned long long)b.weights, (unsigned long long)b.activations,
              (unsigned long long)b.blocks, (unsigned long long)b.tails, (unsigned long long)b.other,
              (unsigned long long)(blocks_capacity(n->blocks) / token), (unsigned long long)(b.tails / token));
}

static void on_missing(void *ctx, const char *name, const char *why)
{
    (void)ctx;
    log_event(LOG_WARN, "transport-missing", "transport=%s why=\"%s\"", name, why);
}

static enum status open_stations(struct node *n, struct err *err)
{
    const struct station_config config = { .device = stations_device(n->opt.backend) };
    enum status st =
        stations_open(&n->stations, n->opt.transport, n->opt.stations ? n->opt.stations : &config, on_missing, n, err);

    if (st != ST_OK)
        return st;
    log_event(LOG_INFO, "transports", "transports=%s", stations_list(n->stations));
    return intake_open(&n->intake, n->staging, err);
}

static double read_blocks(void *arg)
{
    return (double)blocks_used(((struct node *)arg)->blocks);
}

static double read_block_capacity(void *arg)
{
    return (double)blocks_capacity(((struct node *)arg)->blocks);
}

static double read_contexts(void *arg)
{
    return contexts_count(((struct node *)arg)->contexts);
}

static double read_tails(void *arg)
{
    return (double)batcher_tail_tokens(((struct node *)arg)->batcher);
}

static double read_peers(void *arg)
{
    return peers_alive(((struct node *)arg)->peers);
}

static const struct {
    const char *name, *label;
} transports[NODE_TRANSPORTS] = {
#define TRANSPORT(name) { #name, "transport=\"" #name "\"" },
#include "common/transport/transport.def"
#undef TRANSPORT
};

static void count_transports(struct metrics *m, struct metric *rows[NODE_TRANSPORTS], const char *name,
                             const char *help)
{
    for (int i = 0; i < NODE_TRANSPORTS; i++)
        rows[i] = metrics_counter(m, name, transports[i].label, help);
}

struct metric *node_transport_metric(struct metric *const rows[NODE_TRANSPORTS], const char *transport)
{
    for (int i = 0; i < NODE_TRANSPORTS; i++) {
        if (strcmp(transports[i].name, transport) == 0)
            return rows[i];
    }
    return NULL;
}

static void register_metrics(struct node *n)
{
    struct metrics *m = n->metrics;

    n->m_requests_running = metrics_gauge(m, "platen_decode_requests_running", NULL, "calls of clients under way");
    n->m_requests_ok =
        metrics_counter(m, "platen_decode_requests_total", "result=\"ok\"", "calls of clients that ended");
    n->m_requests_failed =
        metrics_counter(m, "platen_decode_requests_total", "result=\"failed\"", "calls of clients that ended");
    n->m_orders_running = metrics_gauge(m, "platen_decode_orders_running", NULL, "contexts that prefill nodes work on");
    n->m_retries = metrics_counter(m, "platen_decode_order_retries_total", NULL, "orders sent again after a loss");
    count_transports(m, n->m_wire_bytes, "platen_decode_wire_bytes_total", "bytes of adopted contexts as they came");
    count_transports(m, n->m_transport_losses, "platen_decode_transport_losses_total",
                     "orders that lost their blocks in a transport");
    count_transports(m, n->m_transport_fallbacks, "platen_decode_transport_fallbacks_total",
                     "orders over this transport although another one is preferred");
    metrics_gauge_read(m, "platen_decode_blocks_bytes", NULL, "bytes of blocks in use", read_blocks, n);
    metrics_gauge_read(m, "platen_decode_blocks_capacity_bytes", NULL, "room for blocks", read_block_capacity, n);
    metrics_gauge_read(m, "platen_decode_tails_promised_tokens", NULL, "tail rows promised to answers", read_tails, n);
    metrics_gauge_read(m, "platen_decode_contexts_cached", NULL, "contexts kept to be asked again", read_contexts, n);
    metrics_gauge_read(m, "platen_decode_prefill_nodes_cached", NULL, "prefill nodes that answer", read_peers, n);
}

/* Serving means: some prefill node answers, and the device works. */
static void update_health(struct node *n, int32_t alive)
{
    struct err err = { 0 };
    bool works = batcher_health(n->batcher, &err) == ST_OK;

    if (!works)
        log_event(LOG_ERROR, "device", "why=%s", err.text);
    health_set(service_health(n->service), NULL, works && alive > 0);
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
    if (batcher_health(n->batcher, NULL) != ST_OK)
        update_health(n, 0);
}

static enum status bind_doors(struct node *n, struct err *err)
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
    trace_name(n->trace, "decode-node", n->name);
    return ST_OK;
}

static enum status open_front(struct node *n, struct err *err)
{
    generate_add(n, service_server(n->service));
    control_add(n, service_server(n->service));
    selftest_add(n, service_server(n->service));
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

/* A token file's text without the newline at its end. */
static enum status read_token(const char *path, char **out, struct err *err)
{
    struct file f = { 0 };
    size_t bytes;
    enum status st;

    if (path == NULL)
        return ST_OK;
    st = file_open(&f, path, err);
    if (st != ST_OK)
        return st;
    for (bytes = f.bytes; bytes > 0 && (f.data[bytes - 1] == '\n' || f.data[bytes - 1] == '\r'); bytes--)
        ;
    if (bytes == 0)
        st = err_set(err, ST_EINVAL, "%s: the token file is empty", path);
    else
        *out = strndup((const char *)f.data, bytes);
    file_close(&f);
    return st;
}

/* SIGUSR1, and the end. */
static void write_trace(void *node)
{
    struct node *n = node;
    struct err err = { 0 };

    if (trace_write(n->trace, &err) == ST_OK)
        log_event(LOG_INFO, "trace", "file=%s", n->opt.trace);
    else
        log_event(LOG_ERROR, "trace", "why=\"%s\"", err.text);
}

static enum status open_trace(struct node *n, struct err *err)
{
    enum status st = trace_open(&n->trace, n->opt.trace, err);

    if (n->trace)
        signals_on_user(n->signals, write_trace, n);
    return st;
}

static void close_trace(struct node *n)
{
    if (!n->trace)
        return;
    signals_on_user(n->signals, NULL, NULL);
    write_trace(n);
    trace_close(n->trace);
}

static enum status open_all(struct node *n, struct err *err)
{
    enum status st = peers_check(n->opt.prefill.items, n->opt.prefill.count, err);

    if (st == ST_OK)
        st = read_token(n->opt.token_file, &n->token, err);
    if (st == ST_OK)
        st = open_trace(n, err);
    if (st == ST_OK)
        st = read_token(n->opt.prefill_token_file, &n->prefill_token, err);
    if (st == ST_OK)
        st = bind_doors(n, err);
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
        st = service_start(n->service, err);
    if (st == ST_OK)
        st = links_open(&n->links, n, err);
    return st;
}

static void close_all(struct node *n)
{
    service_unpublish(n->service);
    selftest_close(n);
    front_close(n);
    stream_end(n->stream); /* waits for every request, and so for every order; those use peers and links */
    links_close(n->links);
    peers_close(n->peers);
    n->peers = NULL;
    rpc_client_close(n->client);
    service_close(n->service);
    batcher_close(n->batcher); /* after the rpc threads: their last count of a request gives tails back */
    stream_close(n->stream);   /* after everybody who posts its semaphore */
    contexts_close(n->contexts);
    orders_close(n->orders);
    intake_close(n->intake);
    close_trace(n); /* after everybody who adds to it */
    stations_close(n->stations);
    blocks_close(n->blocks);
    staging_close(n->staging);
    weights_close(n->weights, n->be);
    backend_close(n->be);
    press_files_close(n->files);
    chat_close(n->chat);
    tokenizer_close(n->tokenizer);
    checkpoint_close(n->checkpoint);
    metrics_close(n->metrics);
    free(n->token);
    free(n->prefill_token);
    memset(n, 0, sizeof *n);
}

enum status node_open(struct node *n, const struct options *opt, struct signals *signals, struct err *err)
{
    enum status st;

    memset(n, 0, sizeof *n);
    n->opt = *opt;
    n->signals = signals;
    n->metrics = metrics_open(96);
    register_metrics(n);
    n->contexts = contexts_open((int32_t)opt->contexts);
    n->orders = orders_open();
    st = open_all(n, err);
    if (st != ST_OK)
        close_all(n);
    return st;
}

bool node_close(struct node *n, int64_t deadline_ns)
{
    bool clean = service_drain(n->service, deadline_ns);

    close_all(n);
    return clean;
}
