/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admit.c - may this order be done here?            before: decode-node/order.c   after: scheduler.c
 *
 * Two nodes that differ in model, rotation, tokenizer, weights or cache type would exchange rows that mean nothing, and
 * nobody would notice but the reader of the answer. So every field is compared, and a refusal names all that differ.
 */
#include "prefill-node/admit.h"

#include "common/base/arena.h"
#include "common/kv/codec.h"
#include "common/kv/wire.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "prefill-node/room.h"
#include "presses/chain.h"

#include <stdio.h>
#include <string.h>

enum { TRANSFERS_MAX = 16 };

static void differs_hash(struct text *t, const char *field, uint64_t here, uint64_t there)
{
    if (here != there)
        text_printf(t, "%s%s is %016llx here and %016llx there", t->bytes > 0 ? ", " : "", field,
                    (unsigned long long)here, (unsigned long long)there);
}

static enum status check_identity(const struct prefill_node *n, const Platen__Internal__V1__Identity *id,
                                  struct err *err)
{
    const char *dtype = dtype_word(n->parts.shape.dtype);
    struct text t = { 0 };
    enum status st = ST_OK;

    if (!id)
        return err_set(err, ST_EINVAL, "order: without identity");
    if (id->wire_version != WIRE_VERSION)
        text_printf(&t, "wire_version is %d here and %u there", WIRE_VERSION, id->wire_version);
    differs_hash(&t, "hparams_hash", n->parts.identity.hparams, id->hparams_hash);
    differs_hash(&t, "tokenizer_hash", n->parts.tokenizer_hash, id->tokenizer_hash);
    differs_hash(&t, "weights_hash", n->parts.identity.weights, id->weights_hash);
    if (strcmp(id->dtype, dtype) != 0)
        text_printf(&t, "%sdtype is %s here and %.16s there", t.bytes > 0 ? ", " : "", dtype, id->dtype);
    if (t.bytes > 0)
        st = err_set(err, ST_EPRECONDITION, "order: the nodes do not match: %s", text_str(&t));
    text_fini(&t);
    return st;
}

/* Ids index the embedding. */
static enum status check_ids(const struct prefill_node *n, const char *what, const int32_t *id, size_t count,
                             struct err *err)
{
    const int32_t vocab = n->parts.weights->hp.vocab;

    for (size_t i = 0; i < count; i++) {
        if (id[i] < 0 || id[i] >= vocab)
            return err_set(err, ST_EINVAL, "order: %s %zu is %d; ids are 0 to %d", what, i, id[i], vocab - 1);
    }
    return ST_OK;
}

static enum status check_tokens(const struct prefill_node *n, const Platen__Internal__V1__Order *o, struct err *err)
{
    enum status st;

    if (o->n_token == 0)
        return err_set(err, ST_EINVAL, "order: the context is empty");
    if (o->n_token > (size_t)n->tokens_max)
        return err_set(err, ST_ERANGE, "order: %zu context tokens; this node takes %lld at most", o->n_token,
                       (long long)n->tokens_max);
    if (o->query_tokens < 0 || (uint64_t)o->query_tokens > o->n_token)
        return err_set(err, ST_EINVAL, "order: %lld query tokens of %zu", (long long)o->query_tokens, o->n_token);
    st = check_ids(n, "token", o->token, o->n_token, err);
    return st == ST_OK ? check_ids(n, "suffix token", o->suffix_token, o->n_suffix_token, err) : st;
}

static bool has_windows(const struct hparams *hp)
{
    for (int32_t l = 0; l < hp->layers; l++) {
        if (!hparams_layer_is_full(hp, l))
            return true;
    }
    return false;
}

/* What a second pass feeds besides the context. */
static void read_prompt(const struct prefill_node *n, const Platen__Internal__V1__Order *o, struct job *job)
{
    job->suffix = mem_alloc((o->n_suffix_token + 1) * sizeof *job->suffix);
    for (size_t i = 0; i < o->n_suffix_token; i++)
        job->suffix[i] = o->suffix_token[i];
    job->prompt = prompt_of(&n->texts, o->prefix_tokens, job->suffix, (int64_t)o->n_suffix_token);
}

static enum status read_press(struct prefill_node *n, const Platen__Internal__V1__Order *o, struct job *job,
                              struct err *err)
{
    const struct hparams *hp = &n->parts.weights->hp;
    enum status st = chain_parse(&job->chain, (const char *)o->press.data, o->press.len, n->parts.files, err);

    if (st == ST_OK)
        st = chain_check(job->chain, hp, n->parts.be->ops, job->tokens, job->query_tokens, err);
    if (st == ST_OK && has_windows(hp) && (job->compact || chain_rerotates(job->chain)))
        st = err_set(err, ST_EUNIMPLEMENTED, "compact positions and `rerotate` need a model without windowed layers");
    if (st != ST_OK) {
        err_prefix(err, "press");
        return st;
    }
    chain_needs_of(job->chain, job->query_tokens, false, &job->needs);
    if (job->needs.second_pass && (o->prefix_tokens < 0 || o->prefix_tokens > job->tokens))
        return err_set(err, ST_EINVAL, "order: %lld prefix tokens of a context of %lld", (long long)o->prefix_tokens,
                       (long long)job->tokens);
    if (job->needs.second_pass)
        read_prompt(n, o, job);
    return ST_OK;
}

/* What it takes of the device while it runs must be there, now or when others have ended. */
static enum status measure(const struct prefill_node *n, const Platen__Internal__V1__Order *o, struct job *job,
                           struct err *err)
{
    struct press_prompt prompt = job->prompt;
    const struct room_ask ask = { .prefill = engine_prefill(n->engine),
                                  .be = n->parts.be,
                                  .hp = &n->parts.weights->hp,
                                  .chain = job->chain,
                                  .needs = &job->needs,
                                  .prompt = &prompt,
                                  .tokens = job->tokens,
                                  .compact = job->compact };
    enum status st;

    prompt.token = o->token;
    prompt.tokens = job->tokens;
    st = room_admit(&ask, n->room, &job->room_bytes, err);
    if (st != ST_OK)
        err_prefix(err, "press");
    else if (n->room > 0)
        job->turn.share = (double)job->room_bytes / (double)n->room;
    return st;
}

static enum status read_kv(const struct prefill_node *n, const Platen__Internal__V1__Order *o, struct job *job,
                           struct err *err)
{
    const struct backend_ops *ops = n->parts.be->ops;
    enum status st = codec_parse(o->kv, &job->codec, err);

    if (st == ST_OK)
        st = codec_admit(job->codec, ops->codecs, ops->name, err);
    if (st != ST_OK)
        err_prefix(err, "order");
    return st;
}

static enum status choose_transport(const struct prefill_node *n, char *const *offered, size_t count,
                                    ProtobufCBinaryData hello, struct job *job, struct text *note, struct err *err)
{
    enum status st = stations_choose(n->parts.stations, (const char *const *)offered, count, hello.data, hello.len,
                                     &job->transport, note, err);

    if (st != ST_OK)
        err_prefix(err, "order");
    return st;
}

/* A name for logs: what is not printable there is replaced. */
static void copy_name(char to[JOB_NAME_MAX], const char *from)
{
    snprintf(to, JOB_NAME_MAX, "%s", from);
    for (char *c = to; *c; c++) {
        if ((unsigned char)*c <= ' ' || *c == '"' || *c == 0x7f)
            *c = '_';
    }
}

enum status admit_order(struct prefill_node *n, const Platen__Internal__V1__Order *o, struct job *job,
                        struct text *note, struct err *err)
{
    enum status st = check_identity(n, o->identity, err);

    if (st == ST_OK)
        st = check_tokens(n, o, err);
    if (st == ST_OK)
        st = read_kv(n, o, job, err);
    if (st == ST_OK)
        st = choose_transport(n, o->transport, o->n_transport, o->transport_hello, job, note, err);
    if (st != ST_OK)
        return st;
    copy_name(job->request_id, o->request_id);
    job->trace = n->parts.trace;
    job->trace_order = trace_order(job->request_id);
    copy_name(job->decode_node, o->decode_node);
    job->attempt = o->attempt;
    job->compact = o->compact;
    job->layers = n->parts.shape.layers;
    job->tokens = (int64_t)o->n_token;
    job->query_tokens = o->query_tokens;
    job->turn.tokens = job->tokens;
    job->turn.layers = job->layers;
    st = read_press(n, o, job, err);
    if (st == ST_OK)
        st = measure(n, o, job, err);
    if (st != ST_OK)
        return st;
    job->token = mem_alloc(o->n_token * sizeof *job->token);
    memcpy(job->token, o->token, o->n_token * sizeof *job->token);
    return ST_OK;
}

enum status admit_transfer(struct prefill_node *n, const Platen__Internal__V1__Transfer *t, struct job *job,
                           struct err *err)
{
    char *offered[] = { t->transport };
    struct text note = { 0 };
    enum status st = check_identity(n, t->identity, err);

    if (st == ST_OK)
        st = choose_transport(n, offered, 1, t->transport_hello, job, &note, err);
    text_fini(&note);
    if (st != ST_OK)
        return st;
    if (__atomic_add_fetch(&n->transfers, 1, __ATOMIC_RELAXED) > TRANSFERS_MAX)
        st = err_set(err, ST_EEXHAUSTED, "order: %d transfers run already", TRANSFERS_MAX);
    if (st == ST_OK)
        st = transfer_open(&job->transfer, &n->parts.shape, t->bytes, err);
    if (st != ST_OK) {
        __atomic_sub_fetch(&n->transfers, 1, __ATOMIC_RELAXED);
        return st;
    }
    job->transfer_device = n->transfer_device;
    snprintf(job->request_id, sizeof job->request_id, "transfer");
    job->layers = transfer_blocks(job->transfer);
    return ST_OK;
}
