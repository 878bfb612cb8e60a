/* SPDX-License-Identifier: Apache-2.0 */
/* reply.c - what the press did and what it cost, as a message. */
#include "decode-node/reply.h"

#include "common/base/clock.h"
#include "decode-node/node.h"

static double ms_between(int64_t from, int64_t to)
{
    return to > from ? (double)(to - from) / 1e6 : 0;
}

static void fill_answer_times(Platen__V1__StageTimes *t, const struct request *r)
{
    int64_t first = 0, last = 0, begin = INT64_MAX;

    for (int32_t i = 0; i < r->questions; i++) {
        const struct sequence *s = &r->question[i].sequence;
        if (s->made_count == 0)
            continue;
        if (i == 0)
            first = s->first_ns;
        if (s->last_ns > last)
            last = s->last_ns;
        if (s->begin_ns < begin)
            begin = s->begin_ns;
    }
    t->first_token = ms_between(r->begin_ns, first);
    t->decode = last ? ms_between(begin, last) : 0;
    t->total = ms_between(r->begin_ns, clock_now_ns());
}

void reply_fill(struct figures_message *m, const struct context *c, const char *decode_node, const struct request *r)
{
    const struct figures *f = &c->figures;
    Platen__V1__Figures *out = &m->figures;

    platen__v1__figures__init(out);
    platen__v1__row_counts__init(&m->rows);
    platen__v1__stage_times__init(&m->times);
    out->press = (char *)f->press;
    out->context_tokens = f->context_tokens;
    out->dense_bytes = f->dense_bytes;
    out->kept_bytes = f->kept_bytes;
    out->wire_bytes = f->wire_bytes;
    m->rows.min = f->rows_min;
    m->rows.mean = f->rows_mean;
    m->rows.max = f->rows_max;
    out->kept_rows = &m->rows;
    out->transport = (char *)f->transport;
    out->transport_note = (char *)f->transport_note;
    out->prefill_node = (char *)f->prefill_node;
    out->decode_node = (char *)decode_node;
    out->truncated_tokens = f->truncated_tokens;
    out->dropped_bytes = f->dropped_bytes + (r ? (int64_t)r->dropped_bytes : 0);
    out->held_layers = f->held_layers;
    out->attempts = f->attempts;
    out->kv = (char *)f->codec;
    out->request_id = r ? (char *)r->id : (char *)"";
    m->times.tokenize = f->ms.tokenize;
    m->times.order = f->ms.order;
    m->times.queue = f->ms.queue;
    m->times.forward = f->ms.forward;
    m->times.press = f->ms.press;
    m->times.pack = f->ms.pack;
    m->times.ship = f->ms.ship;
    m->times.adopt = f->ms.adopt;
    if (r)
        fill_answer_times(&m->times, r);
    out->timings_ms = &m->times;
}

enum status reply_figures(struct request *r, enum status (*send)(struct request *r, const Platen__V1__Event *event))
{
    Platen__V1__Event event = PLATEN__V1__EVENT__INIT;
    struct figures_message m;

    reply_fill(&m, r->context, r->node->parts.name, r);
    event.question_index = r->questions > 0 ? r->questions - 1 : 0;
    event.figures = &m.figures;
    return send(r, &event);
}

void reply_create(struct request *r, const char *handle)
{
    Platen__V1__CreateResponse reply = PLATEN__V1__CREATE_RESPONSE__INIT;
    struct figures_message m;

    reply_fill(&m, r->context, r->node->parts.name, r);
    reply.handle = (char *)handle;
    reply.ttl_seconds = r->ttl_s;
    reply.figures = &m.figures;
    rpc_call_reply(r->call, &reply.base);
}
