/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c - opens and closes what both kinds of nodes have. */
#include "common/node/parts.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "common/model/roles.h"
#include "common/rpc/rpc_token.h"
#include "presses/chain.h"

#include <stdlib.h>
#include <string.h>

enum { METRICS_MAX = 96, TURN_S = 300 };

void parts_init(struct node_parts *p, const struct node_options *opt, struct signals *signals)
{
    memset(p, 0, sizeof *p);
    p->opt = opt;
    p->signals = signals;
    p->metrics = metrics_open(METRICS_MAX);
    p->m_fallbacks = metrics_counter(p->metrics, "platen_device_fallbacks_total", NULL,
                                     "shapes that something slower does, as a library of the device refused them");
}

/* ---- trace ----------------------------------------------------------------------------------------------------- */

/* SIGUSR1, and the end. */
static void write_trace(void *parts)
{
    const struct node_parts *p = parts;
    struct err err = { 0 };
    struct log_text why;

    if (trace_write(p->trace, &err) == ST_OK)
        log_event(LOG_INFO, "trace", "file=%s", log_quote(&why, p->opt->trace));
    else
        log_event(LOG_ERROR, "trace", "why=%s", log_quote(&why, err.text));
}

enum status parts_open_trace(struct node_parts *p, struct err *err)
{
    enum status st = trace_open(&p->trace, p->opt->trace, err);

    if (p->trace)
        signals_on_user(p->signals, write_trace, p);
    return st;
}

void parts_close_trace(struct node_parts *p)
{
    if (!p->trace)
        return;
    signals_on_user(p->signals, NULL, NULL);
    write_trace(p);
    trace_close(p->trace);
    p->trace = NULL;
}

/* ---- doors ----------------------------------------------------------------------------------------------------- */

enum status parts_bind(struct node_parts *p, const char *program, const char *const *names, size_t count,
                       struct err *err)
{
    struct service_options o = {
        .metrics_listen = p->opt->metrics, .metrics = p->metrics, .names = names, .name_count = count
    };
    enum status st = rpc_token_read(&p->token, p->opt->token_file, err);

    if (st != ST_OK)
        return st;
    rpc_server_options_init(&o.rpc);
    o.rpc.listen = p->opt->listen;
    o.rpc.tls = (struct rpc_tls){ p->opt->tls_cert, p->opt->tls_key, p->opt->tls_ca, NULL };
    o.rpc.token = p->token;
    st = service_open(&p->service, &o, err);
    if (st != ST_OK)
        return st;
    p->name = service_name(p->service);
    trace_name(p->trace, program, p->name);
    return ST_OK;
}

/* ---- model and device ------------------------------------------------------------------------------------------- */

enum status parts_open_model(struct node_parts *p, struct err *err)
{
    enum status st = ST_OK;

    for (size_t i = 0; st == ST_OK && i < p->opt->press_plugin.count; i++)
        st = press_plugin_open(p->opt->press_plugin.items[i], err);
    if (st == ST_OK)
        st = checkpoint_open(&p->checkpoint, p->opt->model, err);
    if (st == ST_OK)
        st = press_config_open(&p->files, &p->opt->press_file, checkpoint_hparams(p->checkpoint), err);
    if (st == ST_OK)
        st = tokenizer_open(&p->tokenizer, p->checkpoint, err);
    if (st != ST_OK)
        return st;
    checkpoint_identify(p->checkpoint, &p->identity);
    if (p->opt->random_weights)
        p->identity.weights ^= RANDOM_WEIGHTS; /* a node that has the true ones is another */
    p->tokenizer_hash = tokenizer_hash(p->tokenizer);
    return ST_OK;
}

enum status parts_open_device(struct node_parts *p, int64_t rows_max, struct err *err)
{
    const struct hparams *hp = checkpoint_hparams(p->checkpoint);
    const struct backend_config config = { .dtype = p->opt->dtype == 1 ? DT_F32 : DT_BF16,
                                           .threads = (int32_t)p->opt->threads,
                                           .memory_fraction = p->opt->memory_fraction,
                                           .rows_max = rows_max,
                                           .cache_dir = p->opt->cache_dir };
    enum status st = backend_open(&p->be, p->opt->backend, &config, err);

    if (st == ST_OK)
        st = weights_open(&p->weights, p->be, hp, p->opt->random_weights ? NULL : checkpoint_rows, p->checkpoint,
                          RANDOM_WEIGHTS, err);
    if (st != ST_OK)
        return st;
    p->shape = (struct kv_shape){ hp->layers, hp->kv_heads, hp->head_dim, p->be->kv, 0 };
    p->threads = p->opt->threads > 0 ? (int32_t)p->opt->threads : thread_cores();
    return ST_OK;
}

static void on_missing(void *ctx, const char *name, const char *why)
{
    struct log_text quoted;

    (void)ctx;
    log_event(LOG_WARN, "transport-missing", "transport=%s why=%s", name, log_quote(&quoted, why));
}

enum status parts_open_stations(struct node_parts *p, struct err *err)
{
    const struct station_config config = { .device = stations_device(p->opt->backend) };
    enum status st = stations_open(&p->stations, p->opt->transport, p->opt->stations ? p->opt->stations : &config,
                                   on_missing, NULL, err);

    if (st == ST_OK)
        log_event(LOG_INFO, "transports", "transports=%s", stations_list(p->stations));
    return st;
}

void parts_log_sizes(const struct node_parts *p, const char *more)
{
    struct device_bytes b;

    p->be->ops->device_bytes(p->be, &b);
    log_event(LOG_INFO, "sizes",
              "capacity_bytes=%llu weights_bytes=%llu activations_bytes=%llu blocks_bytes=%llu tails_bytes=%llu "
              "other_bytes=%llu %s",
              (unsigned long long)b.capacity, (unsigned long long)b.weights, (unsigned long long)b.activations,
              (unsigned long long)b.blocks, (unsigned long long)b.tails, (unsigned long long)b.other, more);
}

void parts_device_failed(struct node_parts *p, const struct err *why)
{
    struct log_text quoted;

    if (__atomic_exchange_n(&p->device_failed, true, __ATOMIC_RELAXED))
        return;
    log_event(LOG_ERROR, "device", "why=%s", log_quote(&quoted, why->text));
    health_set(service_health(p->service), NULL, false);
    signals_raise(p->signals);
}

static void tell_fallbacks(struct node_parts *p)
{
    const struct backend_ops *ops = p->be->ops;
    char shape[FALLBACK_SHAPE_BYTES];
    struct log_text why;
    const struct fallback *f;

    for (; ops->fallback_at && (f = ops->fallback_at(p->be, p->fallbacks_told)) != NULL; p->fallbacks_told++) {
        metric_add(p->m_fallbacks, 1);
        log_event(LOG_WARN, "fallback", "instead=\"%s\" shape=%s library=%s why=%s library_status=%d", f->instead,
                  fallback_shape(f, shape), f->library, log_quote(&why, f->why), f->status);
    }
}

/* Waits of an engine have deadlines of their own; a call of the driver has none. */
static void watch_turn(struct node_parts *p)
{
    const int64_t since = p->turn_ns ? __atomic_load_n(p->turn_ns, __ATOMIC_RELAXED) : 0;
    struct err err = { 0 };

    if (since == 0 || p->be->ops->host_is_device || clock_now_ns() - since < TURN_S * NS_PER_S)
        return;
    err_set(&err, ST_EINTERNAL, "the engine has not come back from %s for %d s", p->opt->backend, TURN_S);
    parts_device_failed(p, &err);
}

void parts_watch(struct node_parts *p)
{
    tell_fallbacks(p);
    watch_turn(p);
}

void parts_close(struct node_parts *p)
{
    weights_close(p->weights, p->be);
    backend_close(p->be);
    press_files_close(p->files);
    tokenizer_close(p->tokenizer);
    checkpoint_close(p->checkpoint);
    metrics_close(p->metrics);
    free(p->token);
    memset(p, 0, sizeof *p);
}
