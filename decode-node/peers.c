/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers.c - watching prefill nodes.
 *
 *   watch thread   looks names up (lookup.c), makes a peer per address, ticks every second
 *   peer threads   ask GetLoads of their node (at first GetInfo, too)         every second, 3 s at most
 *
 * A node's work is what it reported last plus what was sent to it since then. Peers are never freed while the node runs
 * (an order may hold one); an address that left the name is only not picked any more.
 */
#include "decode-node/peers_inside.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "common/rpc/rpc.h"
#include "common/rpc/rpc_message.h"
#include "decode-node/lookup.h"
#include "proto/platen/v1/control.pb-c.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEERS_MAX = 256, LOOKUP_S = 5, ASK_MS = 3000 };

/* Sleeps, at most until stopping. False: stopping. Lock held. */
static bool rest(struct peers *p, int64_t ms)
{
    const int64_t deadline = clock_in_ms(ms);

    while (!p->stopping && cond_wait(&p->stop, &p->lock, deadline))
        ;
    return !p->stopping;
}

static void set_alive(struct peer *x, bool alive, int64_t tokens, const char *why)
{
    struct peers *p = x->owner;
    struct log_text quoted;
    int32_t now;
    bool news;

    pthread_mutex_lock(&p->lock);
    news = x->alive != alive || !x->told;
    x->told = true;
    if (alive && !x->alive)
        x->measured_ns = 0;
    x->alive = alive;
    x->reported = tokens;
    snprintf(x->why, sizeof x->why, "%s", why);
    now = peers_alive_now(p);
    pthread_mutex_unlock(&p->lock);
    if (!news)
        return;
    log_event(alive ? LOG_INFO : LOG_WARN, alive ? "prefill-node-answers" : "prefill-node-silent",
              "prefill_node=%s%s%s", x->address, alive ? "" : " why=", alive ? "" : log_quote(&quoted, why));
    p->cfg.changed(p->cfg.ctx, now);
}

void peer_suspect(struct peer *peer)
{
    set_alive(peer, false, 0, "it failed an order");
}

/* What answers may be a decode node: its control service is the same, but no order would be taken. */
static enum status ask_role(struct peer *x, struct err *err)
{
    Platen__V1__GetInfoRequest request = PLATEN__V1__GET_INFO_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    enum status st = rpc_call_unary(x->channel, "/platen.v1.Control/GetInfo", &request.base,
                                    &platen__v1__get_info_response__descriptor, clock_in_ms(ASK_MS), &reply, err);
    const Platen__V1__GetInfoResponse *info = (const Platen__V1__GetInfoResponse *)reply;

    if (st == ST_OK && strcmp(info->role, "prefill") != 0)
        st = err_set(err, ST_EUNAVAILABLE, "it is a %.20s node, not a prefill node", info->role);
    rpc_message_free(reply);
    return st;
}

/* `known`: since when it last failed to answer, it has said that it is a prefill node. */
static void ask(struct peer *x, bool *known)
{
    Platen__V1__GetLoadsRequest request = PLATEN__V1__GET_LOADS_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    struct err err = { 0 };
    enum status st = rpc_call_unary(x->channel, "/platen.v1.Control/GetLoads", &request.base,
                                    &platen__v1__get_loads_response__descriptor, clock_in_ms(ASK_MS), &reply, &err);

    if (st == ST_OK && !*known)
        st = ask_role(x, &err);
    *known = st == ST_OK;
    if (st == ST_OK) {
        const Platen__V1__GetLoadsResponse *loads = (const Platen__V1__GetLoadsResponse *)reply;
        set_alive(x, !loads->draining, loads->queued_tokens, loads->draining ? "it is draining" : "");
    } else {
        set_alive(x, false, 0, err.text);
    }
    rpc_message_free(reply);
}

static void *peer_run(void *arg)
{
    struct peer *x = arg;
    bool known = false, go_on;

    do {
        ask(x, &known);
        pthread_mutex_lock(&x->owner->lock);
        go_on = rest(x->owner, 1000);
        pthread_mutex_unlock(&x->owner->lock);
    } while (go_on);
    return NULL;
}

static void close_channels(struct peer *x)
{
    for (int32_t i = 0; i < PEER_CHANNELS_MAX; i++)
        rpc_channel_close(x->orders[i]);
    rpc_channel_close(x->channel);
}

/* One for questions; where orders have several, those are apart from it and from each other. */
static enum status open_channels(struct peer *x, struct err *err)
{
    const struct peers_config *cfg = &x->owner->cfg;
    struct rpc_channel_options own = *cfg->channel;
    enum status st = rpc_channel_open(&x->channel, cfg->client, x->address, cfg->channel, err);

    own.own_connection = true;
    for (int32_t i = 0; i < cfg->channels && cfg->channels > 1 && st == ST_OK; i++)
        st = rpc_channel_open(&x->orders[i], cfg->client, x->address, &own, err);
    return st;
}

static struct peer *find(struct peers *p, const char *address)
{
    for (struct peer *x = p->first; x; x = x->next)
        if (strcmp(x->address, address) == 0)
            return x;
    return NULL;
}

/* An address that a target has: a new peer, or one that is there already. */
static void see(struct peers *p, size_t target, const char *address)
{
    struct err err = { 0 };
    struct log_text quoted;
    struct peer *x;

    pthread_mutex_lock(&p->lock);
    x = find(p, address);
    if (x)
        x->listed = true;
    pthread_mutex_unlock(&p->lock);
    if (x)
        return;
    if (p->count == PEERS_MAX) { /* of a name: peers_check counts targets */
        if (!p->full)
            log_event(LOG_WARN, "prefill-nodes-full", "prefill_node=%s limit=%d", address, PEERS_MAX);
        p->full = true;
        return;
    }
    x = mem_zero(1, sizeof *x);
    x->owner = p;
    x->target = target;
    x->listed = true;
    snprintf(x->address, sizeof x->address, "%s", address);
    snprintf(x->why, sizeof x->why, "it has not answered yet");
    if (open_channels(x, &err) != ST_OK || thread_start(&x->thread, "peer", peer_run, x, &err) != ST_OK) {
        log_event(LOG_ERROR, "peer", "prefill_node=%s why=%s", address, log_quote(&quoted, err.text));
        close_channels(x);
        free(x);
        return;
    }
    pthread_mutex_lock(&p->lock);
    x->next = p->first;
    p->first = x;
    p->count++;
    pthread_mutex_unlock(&p->lock);
}

/* Once a second, whatever else the watch thread does. */
static void tick(struct peers *p)
{
    if (clock_now_ns() - p->ticked_ns < NS_PER_S)
        return;
    p->ticked_ns = clock_now_ns();
    p->cfg.tick(p->cfg.ctx);
}

/* While a name server takes its time. */
static bool goes_on(void *ctx)
{
    struct peers *p = ctx;
    bool stopping;

    tick(p);
    pthread_mutex_lock(&p->lock);
    stopping = p->stopping;
    pthread_mutex_unlock(&p->lock);
    return !stopping;
}

/* The addresses of a name. False: it is not found; what was known of it is kept, since a name server that is away does not
 * take the nodes away. */
static bool see_name(struct peers *p, size_t target, const char *host, int port, const char **why)
{
    struct addrinfo *list;
    char service[16], ip[INET6_ADDRSTRLEN + 8], address[PEER_ADDRESS_MAX];
    int failed;

    snprintf(service, sizeof service, "%d", port);
    failed = lookup(host, service, goes_on, p, &list);
    *why = failed != 0 ? gai_strerror(failed) : "";
    if (failed != 0)
        return false;
    pthread_mutex_lock(&p->lock);
    for (struct peer *x = p->first; x; x = x->next)
        if (x->target == target)
            x->listed = false;
    pthread_mutex_unlock(&p->lock);
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        if (getnameinfo(a->ai_addr, a->ai_addrlen, ip, sizeof ip, NULL, 0, NI_NUMERICHOST) != 0)
            continue;
        snprintf(address, sizeof address, a->ai_family == AF_INET6 ? "[%s]:%d" : "%s:%d", ip, port);
        see(p, target, address);
    }
    freeaddrinfo(list);
    return true;
}

/* Told when it is another target, not at every look, nor when the name server gives another reason. */
static void tell_unknown(struct peers *p, const char *unknown)
{
    const size_t target = strcspn(unknown, " ");
    struct log_text quoted;
    bool news;

    pthread_mutex_lock(&p->lock);
    news = strcspn(p->unknown, " ") != target || memcmp(p->unknown, unknown, target) != 0;
    snprintf(p->unknown, sizeof p->unknown, "%s", unknown);
    pthread_mutex_unlock(&p->lock);
    if (news && unknown[0])
        log_event(LOG_WARN, "name-unknown", "why=%s", log_quote(&quoted, unknown));
    else if (news)
        log_event(LOG_INFO, "names-known", "targets=%zu", p->cfg.targets);
}

static void look_up(struct peers *p)
{
    char unknown[sizeof p->unknown] = "";

    for (size_t i = 0; i < p->cfg.targets; i++) {
        const char *target = p->cfg.target[i];
        char host[RPC_ADDRESS_MAX];
        const char *why;
        int port;

        if (strncmp(target, "dns:", 4) != 0)
            see(p, i, target);
        else if (rpc_address_parse(target + 4, host, &port, NULL) == ST_OK && !see_name(p, i, host, port, &why))
            snprintf(unknown, sizeof unknown, "%s: %s", target, why);
    }
    tell_unknown(p, unknown);
}

static void *watch(void *arg)
{
    struct peers *p = arg;
    bool go_on = true;

    for (int second = 0; go_on; second++) {
        if (second % LOOKUP_S == 0)
            look_up(p);
        tick(p);
        pthread_mutex_lock(&p->lock);
        go_on = rest(p, 1000);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

static enum status target_check(const char *target, struct err *err)
{
    char host[RPC_ADDRESS_MAX];
    int port;
    enum status st = rpc_address_parse(strncmp(target, "dns:", 4) == 0 ? target + 4 : target, host, &port, err);

    if (st == ST_OK && port == 0)
        st = err_set(err, ST_EINVAL, "'%s': port 0 is no prefill node's port", target);
    if (st != ST_OK)
        err_prefix(err, "--prefill");
    return st;
}

enum status peers_check(const char *const *target, size_t targets, struct err *err)
{
    enum status st = ST_OK;

    if (targets > PEERS_MAX)
        return err_set(err, ST_EINVAL, "--prefill names %zu nodes, at most %d are watched", targets, PEERS_MAX);
    for (size_t i = 0; i < targets && st == ST_OK; i++)
        st = target_check(target[i], err);
    return st;
}

enum status peers_open(struct peers **out, const struct peers_config *config, struct err *err)
{
    struct peers *p = mem_zero(1, sizeof *p);
    enum status st = peers_check(config->target, config->targets, err);

    p->cfg = *config;
    if (st != ST_OK) {
        free(p);
        return st;
    }
    pthread_mutex_init(&p->lock, NULL);
    cond_init(&p->stop);
    st = thread_start(&p->thread, "watch", watch, p, err);
    if (st != ST_OK) {
        pthread_cond_destroy(&p->stop);
        pthread_mutex_destroy(&p->lock);
        free(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void peers_close(struct peers *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->stop);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL); /* first: it makes peers */
    for (struct peer *x = p->first; x; x = x->next)
        pthread_join(x->thread, NULL); /* all, before the first goes: each looks at the others */
    while (p->first) {
        struct peer *x = p->first;

        p->first = x->next;
        close_channels(x);
        free(x);
    }
    pthread_cond_destroy(&p->stop);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
