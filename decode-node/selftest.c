/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selftest.c - Control.SelfTest.
 *
 *   generate   the same question twice in one batch, without a context: both must give the same tokens, all of them ids
 *   transfer   test blocks from a prefill node, as an order would bring its own; checksums checked, seconds taken
 *
 * One test at a time, on a thread of its own: it waits, which nobody else here may.
 */
#include "decode-node/selftest.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/rpc/rpc_message.h"
#include "decode-node/node.h"
#include "decode-node/pull.h"
#include "proto/platen/v1/control.pb-c.h"

#include <stdio.h>
#include <string.h>

enum { TOKENS = 8, LOCAL_MS = 30000, MIB_DEFAULT = 64, MIB_MAX = 4096 };

struct selftest {
    struct node *node;
    struct rpc_call *call; /* one count */
    const Platen__V1__SelfTestRequest *request;
};

/* ---- generate -------------------------------------------------------------------------------------------------- */

struct twin {
    struct sequence sequence;
    int32_t prompt[TOKENS], made[TOKENS];
};

static void twin_submit(struct node *n, struct twin *t, struct context *c, const bool *stop)
{
    for (int32_t i = 0; i < TOKENS; i++)
        t->prompt[i] = (i * 37 + 11) % n->parts.weights->hp.vocab;
    t->sequence = (struct sequence){ .context = c,
                                     .prompt = t->prompt,
                                     .prompt_tokens = TOKENS,
                                     .max_new = TOKENS,
                                     .cancelled = stop,
                                     .deadline_ns = clock_in_ms(LOCAL_MS),
                                     .made = t->made };
    batcher_submit(n->batcher, &t->sequence);
}

/* A sequence always ends: at the latest by its deadline. */
static void twin_await(struct node *n, struct twin *t)
{
    while (__atomic_load_n(&t->sequence.finish, __ATOMIC_ACQUIRE) == FINISH_NONE)
        signals_wait(n->parts.signals, clock_in_ms(5));
    batcher_release(n->batcher, sequence_tail_rows(TOKENS, TOKENS));
}

static enum status twins_agree(const struct node *n, const struct twin *t, struct err *err)
{
    for (int i = 0; i < 2; i++)
        if (t[i].sequence.finish != FINISH_LENGTH && t[i].sequence.finish != FINISH_STOP)
            return err_set(err, ST_EINTERNAL, "generate: ended as '%s'",
                           finish_word((enum finish)t[i].sequence.finish));
    if (t[0].sequence.made_count != t[1].sequence.made_count ||
        memcmp(t[0].made, t[1].made, sizeof(int32_t) * (size_t)t[0].sequence.made_count) != 0)
        return err_set(err, ST_EINTERNAL, "generate: the same question gave two answers");
    for (int32_t i = 0; i < t[0].sequence.made_count; i++)
        if (t[0].made[i] < 0 || t[0].made[i] >= n->parts.weights->hp.vocab)
            return err_set(err, ST_EINTERNAL, "generate: %d is no token", t[0].made[i]);
    return ST_OK;
}

/* A context without rows, whose blocks are as good as any. */
static struct context *empty_context(struct node *n)
{
    struct context *c = context_open(n->blocks, n->parts.shape.layers);

    for (int32_t l = 0; l < n->parts.shape.layers; l++) {
        struct kv_block *b = &c->block[l];
        b->layer = l;
        b->heads = n->parts.shape.heads;
        b->dim = b->k_dim = n->parts.shape.dim;
        b->dtype = n->parts.shape.dtype;
        kv_block_plan(b, NULL);
    }
    return c;
}

static enum status test_generate(struct node *n, struct err *err)
{
    static const bool never = false;
    struct twin *t = mem_zero(2, sizeof *t);
    struct context *c = empty_context(n);
    enum status st = ST_OK;
    int held = 0;

    while (held < 2 && st == ST_OK) {
        st = batcher_reserve(n->batcher, sequence_tail_rows(TOKENS, TOKENS), err);
        held += st == ST_OK;
    }
    if (st != ST_OK) {
        if (held > 0)
            batcher_release(n->batcher, sequence_tail_rows(TOKENS, TOKENS));
        goto out;
    }
    for (int i = 0; i < 2; i++)
        twin_submit(n, &t[i], c, &never);
    for (int i = 0; i < 2; i++)
        twin_await(n, &t[i]);
    st = twins_agree(n, t, err);
out:
    context_unref(c);
    free(t);
    return st;
}

/* ---- transfer -------------------------------------------------------------------------------------------------- */

/* A share of the bytes over one connection. */
struct share {
    struct node *node;
    struct peer *peer;
    const char *transport;
    uint64_t bytes;
    double seconds;
    struct err err;
    pthread_t thread;
    bool started;
};

static void *share_run(void *arg)
{
    struct share *s = arg;

    pull_bytes(s->node, s->peer, s->transport, s->bytes, &s->seconds, &s->err);
    return NULL;
}

/* As orders of one time would: a transfer for each connection. Seconds from the first's begin to the last's end. */
static enum status pull_shares(struct node *n, struct peer *peer, const char *transport, uint64_t bytes,
                               double *seconds, struct err *err)
{
    const int32_t count = strcmp(transport, "grpc") == 0 ? (int32_t)n->opt.grpc_channels : 1;
    struct share *shares = mem_zero((size_t)count, sizeof *shares);
    const int64_t begin = clock_now_ns();
    enum status st = ST_OK;

    for (int32_t i = 0; i < count; i++) {
        shares[i] = (struct share){
            .node = n, .peer = peer, .transport = transport, .bytes = (bytes + (uint64_t)count - 1) / (uint64_t)count
        };
        if (count == 1)
            share_run(&shares[i]);
        else
            shares[i].started =
                thread_start(&shares[i].thread, "transfer", share_run, &shares[i], &shares[i].err) == ST_OK;
    }
    for (int32_t i = 0; i < count; i++) {
        if (shares[i].started)
            pthread_join(shares[i].thread, NULL);
        if (st == ST_OK && shares[i].err.code != ST_OK)
            st = err_set(err, shares[i].err.code, "%s", shares[i].err.text);
    }
    *seconds = count == 1 ? shares[0].seconds : (double)(clock_now_ns() - begin) / 1e9;
    free(shares);
    return st;
}

static void test_transfer(struct node *n, const char *transport, int64_t mib, Platen__V1__TransferResult *out,
                          char detail[ERR_TEXT_MAX])
{
    struct err err = { 0 };
    struct peer *peer = NULL;
    double seconds = 0;
    enum status st = peers_pick(n->peers, 0, NULL, 0, &peer, &err);

    platen__v1__transfer_result__init(out);
    out->transport = (char *)transport;
    out->mib = mib;
    if (st == ST_OK) {
        st = pull_shares(n, peer, transport, (uint64_t)mib << 20, &seconds, &err);
        out->prefill_node = (char *)peer_address(peer);
        peer_give_back(peer, 0);
    }
    out->checksum_ok = st == ST_OK;
    out->gib_s = seconds > 0 ? (double)mib / 1024 / seconds : 0;
    memcpy(detail, err.text, ERR_TEXT_MAX);
    out->detail = detail;
}

/* ---- the call -------------------------------------------------------------------------------------------------- */

static void answer(struct selftest *t)
{
    const Platen__V1__SelfTestRequest *request = t->request;
    int64_t mib = request->has_mib_case ? request->mib : MIB_DEFAULT;
    size_t count = request->n_transfer;
    Platen__V1__SelfTestResponse reply = PLATEN__V1__SELF_TEST_RESPONSE__INIT;
    Platen__V1__TransferResult *results = mem_zero(count + 1, sizeof *results);
    Platen__V1__TransferResult **list = mem_zero(count + 1, sizeof *list);
    char(*details)[ERR_TEXT_MAX] = mem_zero(count + 1, ERR_TEXT_MAX);
    struct err err = { 0 };

    reply.ok = test_generate(t->node, &err) == ST_OK;
    reply.detail = err.text;
    for (size_t i = 0; i < count; i++) {
        test_transfer(t->node, request->transfer[i], mib, &results[i], details[i]);
        if (!results[i].checksum_ok && reply.ok) {
            reply.ok = false;
            reply.detail = details[i];
        }
        list[i] = &results[i];
    }
    reply.n_transfers = count;
    reply.transfers = list;
    rpc_call_reply(t->call, &reply.base);
    free(details);
    free(list);
    free(results);
}

static void *run(void *arg)
{
    struct selftest *t = arg;
    struct node *n = t->node;

    answer(t);
    rpc_message_free((ProtobufCMessage *)t->request);
    rpc_call_unref(t->call);
    free(t);
    __atomic_store_n(&n->selftest, SELFTEST_ENDED, __ATOMIC_RELEASE);
    return NULL;
}

/* Takes the one place for a test; a thread that ended is joined first. */
static bool take_place(struct node *n)
{
    int32_t ended = SELFTEST_ENDED, none = SELFTEST_NONE;

    if (__atomic_compare_exchange_n(&n->selftest, &ended, SELFTEST_RUNNING, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED)) {
        pthread_join(n->selftest_thread, NULL);
        return true;
    }
    return __atomic_compare_exchange_n(&n->selftest, &none, SELFTEST_RUNNING, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

void selftest_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct node *n = owner;
    const Platen__V1__SelfTestRequest *request = (const Platen__V1__SelfTestRequest *)msg;
    struct err err = { 0 };
    struct selftest *t;

    if (request->has_mib_case && (request->mib < 1 || request->mib > MIB_MAX)) {
        err_set(&err, ST_EINVAL, "mib is %lld, allowed are 1 to %d", (long long)request->mib, MIB_MAX);
        rpc_call_fail(call, &err);
        return;
    }
    if (!take_place(n)) {
        rpc_call_finish(call, ST_EEXHAUSTED, "a self test is running already", 1000);
        return;
    }
    t = mem_zero(1, sizeof *t);
    t->node = n;
    t->call = call;
    t->request = request;
    rpc_call_keep(call);
    rpc_call_ref(call);
    if (thread_start(&n->selftest_thread, "selftest", run, t, &err) == ST_OK)
        return;
    rpc_call_fail(call, &err);
    rpc_message_free((ProtobufCMessage *)msg);
    rpc_call_unref(call);
    free(t);
    __atomic_store_n(&n->selftest, SELFTEST_NONE, __ATOMIC_RELEASE);
}

void selftest_close(struct node *n)
{
    if (__atomic_load_n(&n->selftest, __ATOMIC_ACQUIRE) != SELFTEST_NONE)
        pthread_join(n->selftest_thread, NULL);
    n->selftest = SELFTEST_NONE;
}
