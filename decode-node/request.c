/* SPDX-License-Identifier: Apache-2.0 */
/* request.c - a request's life: made, handed on, given back. */
#include "decode-node/request.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/rpc/rpc_message.h"
#include "decode-node/batcher.h"
#include "decode-node/node.h"
#include "decode-node/stream.h"
#include "presses/chain.h"

#include <stdlib.h>
#include <string.h>

struct request *request_open(struct node *node, enum request_kind kind, struct rpc_call *call,
                             const ProtobufCMessage *msg)
{
    struct request *r = mem_zero(1, sizeof *r);

    r->node = node;
    r->kind = kind;
    r->call = call;
    r->msg = msg;
    r->begin_ns = clock_now_ns();
    r->refs = 2;
    r->retry_ms = -1;
    r->max_new = MAX_NEW_TOKENS_DEFAULT;
    r->ttl_s = TTL_SECONDS_DEFAULT;
    rpc_call_ref(call);
    metric_add(node->m_requests_running, 1);
    return r;
}

static void question_fini(struct request *r, struct question *q)
{
    if (q->tail_rows > 0)
        batcher_release(r->node->batcher, q->tail_rows);
    batcher_repressed_close(r->node->batcher, q->sequence.own);
    token_list_fini(&q->prompt);
    free(q->sequence.made);
}

void request_unref(struct request *r)
{
    /* acq_rel: the last one frees what the other wrote */
    if (__atomic_sub_fetch(&r->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    metric_add(r->node->m_requests_running, -1);
    for (int32_t i = 0; i < r->questions; i++)
        question_fini(r, &r->question[i]);
    free(r->question);
    token_list_fini(&r->tokens);
    token_list_fini(&r->suffix);
    if (!r->context) /* which takes it over */
        chain_close(r->chain);
    context_unref(r->context);
    rpc_message_free((ProtobufCMessage *)r->msg);
    rpc_call_unref(r->call);
    free(r);
}

void request_fail(struct request *r, const struct err *err, int64_t retry_ms)
{
    struct stream *stream = r->node->stream; /* after the store the request may be gone */

    r->failure = *err;
    r->retry_ms = retry_ms;
    __atomic_store_n(&r->phase, PHASE_FAILED, __ATOMIC_RELEASE);
    stream_wake(stream);
}

void request_forget(struct request *r)
{
    struct err gone = { 0 }; /* twice, or it expired: all the same */

    (void)contexts_drop(r->node->contexts, r->handle, &gone);
}

void request_ready(struct request *r)
{
    struct stream *stream = r->node->stream; /* after the store the request may be gone */

    for (int32_t i = 0; i < r->questions; i++) {
        struct question *q = &r->question[i];
        q->sequence.context = r->context;
        if (q->sequence.max_new > 0)
            batcher_submit(r->node->batcher, &q->sequence);
        else
            q->sequence.finish = FINISH_LENGTH;
    }
    __atomic_store_n(&r->phase, PHASE_READY, __ATOMIC_RELEASE);
    stream_wake(stream);
}
