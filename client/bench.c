/* SPDX-License-Identifier: Apache-2.0 */
/* bench.c - platen bench: prefill or decode measured in one process, no network; medians over the rounds. */
#include "client/bench.h"

#include "client/command.h"
#include "client/shapes.h"
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/thread.h"
#include "common/kv/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench_options {
    bool help;
    const char *model, *random, *backend, *press;
    int64_t dtype; /* index into "bf16|f32" */
    int64_t threads, prefill, decode, batch, context, rounds;
    double ragged;
    const char *kv;
    bool probe, json;
};

#define AT(field) offsetof(struct bench_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    { "model", OPT_TEXT, AT(model), 0, 0, NULL, NULL, "PATH",
      "directory of a model as the hub gives it, or a GGUF file", false },
    { "random", OPT_TEXT, AT(random), 0, 0, NULL, NULL, "SHAPE",
      "random weights instead: llama-8b, llama-1b, smollm2, tiny", false },
    { "dtype", OPT_WORD, AT(dtype), 0, 0, "bf16|f32", "bf16", "f32|bf16", "type of products and of the cache", false },
    { "backend", OPT_TEXT, AT(backend), 0, 0, NULL, "cpu", "NAME", "cpu, cpu:ISA, or cuda[:N]", false },
    { "threads", OPT_INT, AT(threads), 0, 1024, NULL, "0", "N", "threads of the cpu back end; 0: all cores", false },
    { "prefill", OPT_INT, AT(prefill), 1, 1 << 24, NULL, NULL, "N", "measures the prefill of N tokens", false },
    { "decode", OPT_INT, AT(decode), 1, 1 << 20, NULL, NULL, "N", "measures N steps", false },
    { "batch", OPT_INT, AT(batch), 1, BENCH_BATCH_MAX, NULL, "1", "B", "decode: sequences in a step", false },
    { "context", OPT_INT, AT(context), 1, 1 << 24, NULL, "512", "N", "decode: tokens of each sequence's context",
      false },
    { "press", OPT_TEXT, AT(press), 0, 0, NULL, NULL, "TEXT", "presses the context", false },
    { "ragged", OPT_FLOAT, AT(ragged), 0, 100, NULL, "0", "S",
      "decode: spreads head lengths by S around their mean, the sum kept", false },
    { "kv", OPT_TEXT, AT(kv), 0, 0, NULL, NULL, "CODEC",
      "how rows of contexts are coded: plain (or the dtype), int8, fp8, int4; prefill: codes them only if it is given",
      false },
    { "probe", OPT_FLAG, AT(probe), 0, 0, NULL, "off", NULL,
      "adds what copy, product and attention alone reach before and after; always on devices", false },
    { "rounds", OPT_INT, AT(rounds), 1, BENCH_ROUNDS_MAX, NULL, "5", "R", "measured rounds, after one that warms up",
      false },
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static enum status check(const void *options_, struct err *err)
{
    const struct bench_options *o = options_;
    struct hparams shape;

    if ((o->model != NULL) == (o->random != NULL))
        return err_set(err, ST_EINVAL, "give one of --model PATH and --random SHAPE");
    if ((o->prefill > 0) == (o->decode > 0))
        return err_set(err, ST_EINVAL, "give one of --prefill N and --decode N");
    if (o->prefill > 0 && o->batch > 1)
        return err_set(err, ST_EINVAL, "--batch %lld is for --decode N; --prefill N measures one context",
                       (long long)o->batch);
    if (o->prefill > 0 && o->ragged > 0)
        return err_set(err, ST_EINVAL, "--ragged %g is for --decode N; with --prefill N lengths are those of --press",
                       o->ragged);
    return o->random ? shape_find(o->random, &shape, err) : ST_OK;
}

struct bench_run {
    const struct bench_options *o;
    struct local local;
    struct chain *chain;
    enum kv_codec codec;
    struct bench_result result;
    struct bench_roofs roofs;
};

static const char *dtype_of(const struct bench_options *o)
{
    return o->dtype == 1 ? "f32" : "bf16";
}

/* The dtype of the cache is a name of `plain` here. */
static enum status read_kv(const struct bench_options *o, enum kv_codec *codec, struct err *err)
{
    enum status st = codec_parse(o->kv && strcmp(o->kv, dtype_of(o)) == 0 ? "plain" : o->kv, codec, err);

    if (st == ST_OK && *codec == KV_INT4 && o->ragged > 0) /* which rows are whole depends on how long heads are */
        return err_set(err, ST_EUNIMPLEMENTED, "--ragged spreads rows of plain, int8 and fp8 only");
    return st;
}

static enum status open_all(struct bench_run *r, struct bench *b, struct err *err)
{
    const struct bench_options *o = r->o;
    struct local_options local = { o->model, o->random, o->backend, o->dtype == 1 ? DT_F32 : DT_BF16,
                                   (int32_t)o->threads };
    int64_t tokens = o->prefill > 0 ? o->prefill : o->context;
    const char *press = o->press ? o->press : "none";
    enum status st = read_kv(o, &r->codec, err);

    if (st == ST_OK)
        st = local_open_model(&r->local, &local, err);
    if (st == ST_OK && (o->press || o->kv || o->decode > 0)) /* coded and decoded are blocks, also of everything */
        st = chain_parse(&r->chain, press, strlen(press), NULL, err);
    if (st == ST_OK && tokens + o->decode > r->local.hp.max_positions)
        st = err_set(err, ST_ERANGE, "%lld tokens and %lld steps: the model has %lld positions", (long long)tokens,
                     (long long)o->decode, (long long)r->local.hp.max_positions);
    if (st == ST_OK)
        st = local_open_device(&r->local, &local, tokens, o->batch, err);
    if (st == ST_OK)
        st = codec_admit(r->codec, r->local.be->ops->codecs, r->local.be->ops->name, err);
    if (st == ST_OK && r->chain)
        st = chain_check(r->chain, &r->local.hp, r->local.be->ops, tokens, 0, err);
    if (st != ST_OK)
        return st;
    b->token = mem_zero((size_t)tokens, sizeof *b->token);
    bench_tokens(b->token, tokens, r->local.hp.vocab);
    b->chain = r->chain;
    b->codec = r->codec;
    b->coded = o->kv != NULL;
    return ST_OK;
}

static void add_prefill(struct text *out, const struct bench_run *r)
{
    text_printf(out, ",\"prefill\":%lld,\"prefill_ms\":%.3f,\"prefill_tok_s\":%.2f,\"press_ms\":%.3f",
                (long long)r->o->prefill, r->result.prefill_ms, (double)r->o->prefill * 1000 / r->result.prefill_ms,
                r->result.press_ms);
    if (r->o->kv)
        text_printf(out, ",\"kv\":\"%s\"", codec_word(r->codec));
}

/* What a step reads of the weights: every matrix once, and of the embedding only the rows asked for. */
static double weight_bytes(const struct local *l)
{
    const struct hparams *hp = &l->hp;
    double width = (double)hp->q_heads * hp->head_dim, kv_width = (double)hp->kv_heads * hp->head_dim;
    double layer = hp->dim * (2 * width + 2 * kv_width + 3.0 * hp->ff_dim);

    return (layer * hp->layers + (double)hp->vocab * hp->dim) * (double)dtype_bytes(l->be->kv, 1);
}

static void add_decode(struct text *out, const struct bench_run *r)
{
    text_printf(out, ",\"context\":%lld,\"batch\":%lld,\"decode\":%lld,\"decode_ms\":%.3f,\"step_ms\":%.4f",
                (long long)r->o->context, (long long)r->o->batch, (long long)r->o->decode, r->result.decode_ms,
                r->result.decode_ms / (double)r->o->decode);
    text_printf(out, ",\"kv\":\"%s\"", codec_word(r->codec));
    text_printf(out, ",\"decode_tok_s\":%.2f,\"kv_bytes\":%.0f,\"bytes_per_step\":%.0f",
                (double)(r->o->decode * r->o->batch) * 1000 / r->result.decode_ms, r->result.kv_bytes,
                r->result.kv_bytes + weight_bytes(&r->local));
}

static void add_roofs(struct text *out, const struct bench_run *r)
{
    if (r->roofs.copy_gb_s > 0)
        text_printf(out, ",\"copy_gb_s\":%.2f,\"gemm_tflops\":%.4f,\"sdpa_tflops\":%.4f", r->roofs.copy_gb_s,
                    r->roofs.gemm_tflops, r->roofs.sdpa_tflops);
}

static void add_device(struct text *out, const struct bench_run *r)
{
    struct backend *be = r->local.be;
    struct device_bytes bytes;
    unsigned long long all;
    char kernels[1024];

    backend_describe(be, kernels, sizeof kernels);
    be->ops->device_bytes(be, &bytes);
    all = bytes.weights + bytes.activations + bytes.blocks + bytes.tails + bytes.other;
    text_puts(out, ",\"kernels\":");
    text_json(out, kernels, strlen(kernels));
    text_puts(out, ",\"device\":");
    text_json(out, r->o->backend, strlen(r->o->backend));
    text_printf(out, ",\"device_bytes\":%llu", all);
    if (r->result.step_launches > 0)
        text_printf(out, ",\"step_launches\":%d", r->result.step_launches);
}

static void print_json(const struct bench_run *r)
{
    struct text out = { 0 };
    int32_t firsts = r->o->prefill > 0 ? 1 : (int32_t)r->o->batch;

    text_printf(&out, "{\"dtype\":\"%s\",\"threads\":%d,\"rounds\":%lld", dtype_of(r->o),
                r->o->threads > 0 ? (int)r->o->threads : thread_cores(), (long long)r->o->rounds);
    r->o->prefill > 0 ? add_prefill(&out, r) : add_decode(&out, r);
    text_printf(&out, ",\"total_ms\":%.3f,\"first_tokens\":[", r->result.total_ms);
    for (int32_t i = 0; i < firsts; i++)
        text_printf(&out, "%s%d", i > 0 ? "," : "", r->result.first_token);
    text_puts(&out, "],\"press\":");
    text_json(&out, r->chain ? chain_text(r->chain) : "none", strlen(r->chain ? chain_text(r->chain) : "none"));
    add_roofs(&out, r);
    add_device(&out, r);
    text_puts(&out, "}\n");
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
}

static void print_lines(const struct bench_run *r)
{
    struct backend *be = r->local.be;
    char kernels[1024];

    backend_describe(be, kernels, sizeof kernels);
    if (r->o->prefill > 0)
        printf("prefill of %lld tokens: %.1f ms, %.0f tokens/s; the press added %.2f ms\n", (long long)r->o->prefill,
               r->result.prefill_ms, (double)r->o->prefill * 1000 / r->result.prefill_ms, r->result.press_ms);
    else
        printf("%lld steps of %lld sequences at %lld tokens: %.2f ms a step, %.1f tokens/s, %.1f MB of cache read a "
               "step\n",
               (long long)r->o->decode, (long long)r->o->batch, (long long)r->o->context,
               r->result.decode_ms / (double)r->o->decode,
               (double)(r->o->decode * r->o->batch) * 1000 / r->result.decode_ms, r->result.kv_bytes / 1e6);
    printf("%s, %s, kv %s, medians of %lld rounds\n", kernels, dtype_of(r->o), codec_word(r->codec),
           (long long)r->o->rounds);
}

/* The measurement between two looks at what the device can do. */
static enum status measure(struct bench_run *r, const struct bench *b, struct err *err)
{
    bool probe = r->o->probe || !r->local.be->ops->host_is_device;
    int64_t tokens = b->prefill > 0 ? b->prefill : b->context;
    enum status st = probe ? bench_probe(&r->local, tokens, &r->roofs, err) : ST_OK;

    if (st == ST_OK)
        st = b->prefill > 0 ? bench_prefill(b, &r->result, err) : bench_decode(b, &r->result, err);
    if (st == ST_OK && probe)
        st = bench_probe(&r->local, tokens, &r->roofs, err);
    return st;
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    struct bench_run r = { .o = options_ };
    struct bench b = { .local = &r.local,
                       .prefill = r.o->prefill,
                       .decode = r.o->decode,
                       .context = r.o->context,
                       .batch = (int32_t)r.o->batch,
                       .ragged = r.o->ragged,
                       .rounds = (int32_t)r.o->rounds };
    enum status st = open_all(&r, &b, err);

    (void)arena;
    if (st == ST_OK)
        st = measure(&r, &b, err);
    if (st == ST_OK)
        r.o->json ? print_json(&r) : print_lines(&r);
    free(b.token);
    local_close(&r.local);
    chain_close(r.chain);
    return st;
}

const struct command command_bench = {
    .name = "bench",
    .summary = "measures prefill or decode in this process, without a network",
    .usage = "(--model PATH | --random SHAPE) (--prefill N | --decode N --batch B --context N) "
             "[--press TEXT] [--kv CODEC] [--json]",
    .options = &options,
    .options_bytes = sizeof(struct bench_options),
    .check = check,
    .run = run,
};
