#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""peers.py MODEL.gguf - prefill and decode of platen beside llama.cpp and torch, in turn, in bf16.

    pip install llama-cpp-python torch==2.15.0 transformers==5.2.0 gguf     (CMAKE_ARGS="-DGGML_NATIVE=ON")
    tests/bench/peers.py build/models/SmolLM2-135M-Instruct.Q4_1.gguf --platen build/dev/bin/platen --rounds 5

Every program gets the same token ids (100 + 7919 i mod 40000), the same threads and the same weights: the file is turned
into bf16 once, beside --work. A round runs every program once; figures are medians over the rounds, tokens a second.
llama.cpp runs with flash attention on and off and the faster counts. Prints one JSON object and a table.

--only WORD runs the lines whose name begins so. --backend cpu:avx2 holds ours to one instruction set, beside a llama.cpp
that was built for no more.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))


def ids(count):
    return [100 + 7919 * i % 40000 for i in range(count)]


def bf16_copy(path, out):
    """The same model with every matrix in bf16 and everything else as it is."""
    import gguf
    import numpy as np

    if os.path.exists(out):
        return out
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out + ".part", "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, 1 if key == "general.quantization_version" else field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if data.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quants.quantize(data, gguf.GGMLQuantizationType.BF16),
                              raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(out + ".part", out)
    return out


class Platen:
    def __init__(self, program, model, threads, backend):
        self.base = [program, "bench", "--model", model, "--dtype", "bf16", "--threads", str(threads), "--rounds", "1", "--json",
                     "--backend", backend]

    def run(self, *options):
        return json.loads(subprocess.run(self.base + [str(o) for o in options], check=True, capture_output=True).stdout)

    def prefill(self, tokens):
        return self.run("--prefill", tokens)["prefill_tok_s"]

    def decode(self, batch, context, steps):
        return self.run("--decode", steps, "--batch", batch, "--context", context)["decode_tok_s"]


class Llama:
    """llama.cpp's own calls: one context, `batch` sequences."""

    def __init__(self, model, threads, flash):
        import llama_cpp as c

        self.c, self.threads, self.flash = c, threads, flash
        self.quiet = c.llama_log_callback(lambda *_: None)  # kept: the library calls it as long as it runs
        c.llama_log_set(self.quiet, None)
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(model.encode(), c.llama_model_default_params())

    def context(self, tokens, sequences):
        p = self.c.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = tokens, max(512, tokens if sequences == 1 else 512), 512, sequences
        p.n_threads = p.n_threads_batch = self.threads
        if hasattr(p, "flash_attn_type"):
            p.flash_attn_type = 1 if self.flash else 0
        else:
            p.flash_attn = self.flash
        if hasattr(p, "kv_unified"):
            p.kv_unified = False
        return self.c.llama_init_from_model(self.model, p)

    def feed(self, ctx, rows):
        """rows: (token, position, sequence, wants logits)"""
        batch = self.c.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        code = self.c.llama_decode(ctx, batch)
        self.c.llama_batch_free(batch)
        assert code == 0, f"llama_decode: {code}"

    def prefill(self, tokens):
        ctx = self.context(tokens + 8, 1)
        rows = [(t, i, 0, i == tokens - 1) for i, t in enumerate(ids(tokens))]
        self.feed(ctx, rows[:32])
        self.c.llama_memory_clear(self.c.llama_get_memory(ctx), True)
        begin = time.perf_counter()
        self.feed(ctx, rows)
        self.c.llama_synchronize(ctx)
        took = time.perf_counter() - begin
        self.c.llama_free(ctx)
        return tokens / took

    def decode(self, batch, context, steps):
        ctx = self.context((context + steps + 64) * batch, batch)
        for sequence in range(batch):
            self.feed(ctx, [(t, i, sequence, i == context - 1) for i, t in enumerate(ids(context))])
        step = [[(1000 + s, context + n, s, True) for s in range(batch)] for n in range(steps + 2)]
        for rows in step[:2]:
            self.feed(ctx, rows)
        begin = time.perf_counter()
        for rows in step[2:]:
            self.feed(ctx, rows)
            self.c.llama_synchronize(ctx)
        took = time.perf_counter() - begin
        self.c.llama_free(ctx)
        return batch * steps / took


class Torch:
    def __init__(self, path, threads):
        os.environ["GOLDEN_THREADS"] = str(threads)
        import reference
        import torch

        self.torch, self.model = torch, reference.load_model(path, torch.bfloat16)

    def prefill(self, tokens):
        batch = self.torch.tensor([ids(tokens)])
        begin = time.perf_counter()
        self.model(batch, use_cache=True, logits_to_keep=1)
        return tokens / (time.perf_counter() - begin)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--platen", default="build/dev/bin/platen")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--work", default="/var/tmp")
    p.add_argument("--no-torch", action="store_true")
    p.add_argument("--only", default="", help="the lines whose name begins so: prefill, \"decode 16\", ...")
    p.add_argument("--backend", default="cpu", help="cpu, or cpu:NAME of one instruction set")
    o = p.parse_args()

    copy = bf16_copy(o.model, os.path.join(o.work, os.path.basename(o.model) + ".bf16.gguf"))
    programs = {"platen": Platen(o.platen, copy, o.threads, o.backend), "llama.cpp": Llama(copy, o.threads, False),
                "llama.cpp, flash": Llama(copy, o.threads, True)}
    if not o.no_torch:
        programs["torch"] = Torch(o.model, o.threads)
    lines = {"prefill 512": lambda x: x.prefill(512), "prefill 2048": lambda x: x.prefill(2048),
             "decode 1 at 512": lambda x: x.decode(1, 512, 48), "decode 16 at 512": lambda x: x.decode(16, 512, 24)}
    figures = {}
    for name, run in lines.items():
        if not name.startswith(o.only):
            continue
        able = [w for w in programs if hasattr(programs[w], name.split()[0])]
        got = {w: [] for w in able}
        for n in range(o.rounds + 1):  # the first warms up
            for w in able:
                figure = run(programs[w])
                if n > 0:
                    got[w].append(figure)
        figures[name] = {w: {"median": round(statistics.median(v), 1), "all": [round(x, 1) for x in v]} for w, v in got.items()}
        ours, llama = figures[name]["platen"]["median"], max(figures[name][w]["median"] for w in able if w.startswith("llama"))
        figures[name]["ratio to llama.cpp"] = round(ours / llama, 2)
        if "torch" in able:
            figures[name]["ratio to torch"] = round(ours / figures[name]["torch"]["median"], 2)
    print(json.dumps(figures))
    print("| | " + " | ".join(programs) + " | of llama.cpp | of torch |")
    for name, row in figures.items():
        cells = [str(row[w]["median"]) if w in row else "" for w in programs]
        print(f"| {name} | " + " | ".join(cells) + f" | {row['ratio to llama.cpp']} | {row.get('ratio to torch', '')} |")


if __name__ == "__main__":
    main()
