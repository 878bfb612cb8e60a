/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codecs.c - what coding a context's rows does to the answers: a step's logits over int8, fp8 and int4 rows against those
 * over plain rows of the same context.
 *
 *   bench_codecs MODEL f32|bf16 PRESS TEXT...
 *
 * Each text is a context, pressed with PRESS and packed with every codec; the four copies are asked to retell it and then
 * fed the same tokens, step by step, in one batch: the best ones by the plain rows' logits, TOKENS of them (an end of
 * text too: the model goes on). A line of a Markdown table for each codec, over all positions of all texts:
 *
 *   bytes       of rows, scales included, as a share of plain's
 *   mean KL     sum p log(p / q) of the next token, p by the plain rows, q by the coded ones, in nats
 *   p99 KL      99 of 100 positions lie below
 *   agreement   share of positions where the best token is the same
 */
#include "client/local.h"
#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/base/order.h"
#include "common/base/text.h"
#include "common/kv/block.h"
#include "common/kv/codec.h"
#include "decode-node/forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 256, TAIL_PAGES = 6, TEXTS_MAX = 16, CONTEXT_MAX = 4096 };

struct measure {
    struct local local;
    struct chain *chain;
    struct kv_block *block; /* [KV_CODECS][layers] */
    struct forward forward;
    int32_t step;
    double bytes[KV_CODECS], kl[KV_CODECS];
    float *all[KV_CODECS]; /* KL of every position */
    int64_t agreed[KV_CODECS], positions;
};

static void check(enum status st, const struct err *err)
{
    if (st == ST_OK)
        return;
    fprintf(stderr, "bench_codecs: %s\n", err->text);
    exit(1);
}

static struct kv_block *blocks_of(const struct measure *m, int codec)
{
    return m->block + codec * m->local.hp.layers;
}

static enum status pack_layer(void *ctx, const struct press_layer *layer, const struct press_result *result,
                              struct err *err)
{
    struct measure *m = ctx;
    enum status st = result ? ST_OK : err_set(err, ST_EUNIMPLEMENTED, "layer %d has a window", layer->layer);

    for (int codec = 0; codec < KV_CODECS && st == ST_OK; codec++) {
        struct press_result kept = *result;
        struct kv_block *b = &blocks_of(m, codec)[layer->layer];

        kept.codec = (enum kv_codec)codec;
        st = press_run_plan(m->local.press, &kept, b, err);
        if (st == ST_OK)
            st = m->local.be->ops->alloc(m->local.be, b->bytes, "blocks", &b->data, err);
        if (st == ST_OK)
            st = press_run_pack(m->local.press, &kept, b, err);
        m->bytes[codec] += (double)kv_block_row_bytes(b);
    }
    m->local.be->ops->wait(m->local.be, LANE_PRESS);
    return st;
}

static void encode(struct measure *m, const struct text *text, const struct tok_span *special, struct token_list *ids)
{
    struct err err = { 0 };
    uint64_t dropped;

    check(tokenizer_encode(m->local.tokenizer, text_str(text), text->bytes, special, ids, &dropped, &err), &err);
}

static void read_context(struct measure *m, const char *path, struct token_list *context, struct token_list *question)
{
    static const char ask[] = "Retell the text above from beginning to end, with all that it says.";
    struct text text = { 0 };
    struct tok_span special;
    struct file file;
    struct err err = { 0 };
    size_t hashes;

    check(file_open(&file, path, &err), &err);
    hashes = chat_context(m->local.chat, (const char *)file.data, file.bytes, &text, &special);
    encode(m, &text, &special, context);
    text_clear(&text);
    chat_question(m->local.chat, hashes, ask, sizeof ask - 1, "", 0, &text, &special);
    encode(m, &text, &special, question);
    text_fini(&text);
    file_close(&file);
    if (context->count > CONTEXT_MAX || question->count + TOKENS > TAIL_PAGES * KV_PAGE_TOKENS) {
        fprintf(stderr, "bench_codecs: %s: too long\n", path);
        exit(1);
    }
}

static int32_t best(const float *logits, int32_t vocab)
{
    int32_t top = 0;

    for (int32_t i = 1; i < vocab; i++)
        top = logits[i] > logits[top] ? i : top;
    return top;
}

static double log_sum(const float *logits, int32_t vocab)
{
    double top = (double)logits[best(logits, vocab)], sum = 0;

    for (int32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - top);
    return top + log(sum);
}

static double divergence(const float *p, const float *q, int32_t vocab)
{
    const double p_sum = log_sum(p, vocab), q_sum = log_sum(q, vocab);
    double kl = 0;

    for (int32_t i = 0; i < vocab; i++)
        kl += exp((double)p[i] - p_sum) * ((double)p[i] - p_sum - (double)q[i] + q_sum);
    return kl;
}

/* One token for all copies. */
static void feed(struct measure *m, int32_t token, int64_t position)
{
    struct step_seq seq[KV_CODECS];
    int32_t tokens[KV_CODECS], positions[KV_CODECS], output[KV_CODECS], chosen[KV_CODECS];
    const struct step step = {
        .rows = KV_CODECS, .seqs = KV_CODECS, .seq = seq, .token = tokens, .position = positions, .output = output
    };

    for (int32_t s = 0; s < KV_CODECS; s++) {
        seq[s] = (struct step_seq){ .slot = s, .row = s, .rows = 1, .tail = m->step };
        tokens[s] = token;
        positions[s] = (int32_t)position;
        output[s] = s;
    }
    forward_step(&m->forward, &step);
    m->local.be->ops->step_result(m->local.be, 0, chosen);
    m->step++;
}

/* Compares the logits of the last step; gives plain's choice. */
static int32_t compare(struct measure *m)
{
    const int32_t vocab = m->local.hp.vocab;
    const float *plain = m->forward.logits;
    const int32_t choice = best(plain, vocab);

    for (int codec = 1; codec < KV_CODECS; codec++) {
        const float *coded = plain + (int64_t)codec * vocab;
        const double kl = divergence(plain, coded, vocab);

        m->kl[codec] += kl;
        m->all[codec][m->positions] = (float)kl;
        m->agreed[codec] += best(coded, vocab) == choice;
    }
    m->positions++;
    return choice;
}

static void open_cache(struct measure *m)
{
    const struct hparams *hp = &m->local.hp;
    const struct cache_config config = { .slots = KV_CODECS,
                                         .pages = KV_CODECS * TAIL_PAGES,
                                         .pages_per_slot = TAIL_PAGES,
                                         .rows_max = KV_CODECS,
                                         .layers = hp->layers,
                                         .q_heads = hp->q_heads,
                                         .kv_heads = hp->kv_heads,
                                         .dim = hp->head_dim };
    struct err err = { 0 };

    check(m->local.be->ops->cache_open(m->local.be, &config, &err), &err);
    check(forward_open(&m->forward, m->local.be, m->local.weights, KV_CODECS, KV_CODECS, &err), &err);
    for (int s = 0; s < KV_CODECS; s++) {
        for (int page = 0; page < TAIL_PAGES; page++)
            m->local.be->ops->slot_page(m->local.be, s, page, s * TAIL_PAGES + page);
    }
}

static void measure_text(struct measure *m, const char *path)
{
    struct token_list context = { 0 }, question = { 0 };
    struct err err = { 0 };
    int64_t position;

    read_context(m, path, &context, &question);
    check(local_prefill(&m->local, context.ids, (int64_t)context.count, 0, m->chain, pack_layer, m, NULL, NULL, &err),
          &err);
    position = chain_next_position(m->chain, false, (int64_t)context.count, press_run_rows_most(m->local.press));
    for (int s = 0; s < KV_CODECS; s++)
        m->local.be->ops->slot_blocks(m->local.be, s, blocks_of(m, s));
    m->step = 0;
    for (size_t i = 0; i < question.count; i++)
        feed(m, question.ids[i], position++);
    for (int i = 0; i < TOKENS; i++) {
        int32_t token = compare(m);

        if (i + 1 < TOKENS)
            feed(m, token, position++);
    }
    for (int i = 0; i < KV_CODECS * m->local.hp.layers; i++)
        m->local.be->ops->free(m->local.be, m->block[i].data);
    token_list_fini(&context);
    token_list_fini(&question);
}

static void print_line(struct measure *m, int codec)
{
    qsort(m->all[codec], (size_t)m->positions, sizeof(float), order_f32);
    printf("| `%s` | %.1f %% | %.2e | %.2e | %.2f %% |\n", codec_word((enum kv_codec)codec),
           100 * m->bytes[codec] / m->bytes[KV_PLAIN], m->kl[codec] / (double)m->positions,
           (double)m->all[codec][m->positions * 99 / 100], 100.0 * (double)m->agreed[codec] / (double)m->positions);
}

int main(int argc, char **argv)
{
    static struct measure m;
    struct local_options options = { .backend = "cpu" };
    struct err err = { 0 };

    if (argc < 5 || argc > 4 + TEXTS_MAX) {
        fprintf(stderr, "usage: bench_codecs MODEL f32|bf16 PRESS TEXT...\n");
        return 2;
    }
    options.model = argv[1];
    options.dtype = strcmp(argv[2], "f32") == 0 ? DT_F32 : DT_BF16;
    check(local_open_model(&m.local, &options, &err), &err);
    check(chat_open(&m.local.chat, m.local.checkpoint, NULL, &err), &err);
    check(local_open_device(&m.local, &options, CONTEXT_MAX, KV_CODECS, &err), &err);
    check(chain_parse(&m.chain, argv[3], strlen(argv[3]), NULL, &err), &err);
    m.block = mem_zero((size_t)KV_CODECS * (size_t)m.local.hp.layers, sizeof *m.block);
    for (int codec = 0; codec < KV_CODECS; codec++)
        m.all[codec] = mem_zero(TEXTS_MAX * TOKENS, sizeof *m.all[codec]);
    open_cache(&m);
    for (int i = 4; i < argc; i++)
        measure_text(&m, argv[i]);
    printf("| kv | bytes | mean KL | p99 KL | agreement |\n| --- | --- | --- | --- | --- |\n");
    for (int codec = 1; codec < KV_CODECS; codec++)
        print_line(&m, codec);
    forward_close(&m.forward);
    m.local.be->ops->cache_close(m.local.be);
    local_close(&m.local);
    chain_close(m.chain);
    free(m.block);
    for (int codec = 0; codec < KV_CODECS; codec++)
        free(m.all[codec]);
    return 0;
}
