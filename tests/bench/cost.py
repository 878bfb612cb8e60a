#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cost.py - what each press adds to a prefill on the CPU, ours and kvpress's on torch in turn; the table of docs/BENCH.md.

    PYTHON cost.py run PLATEN MODEL.gguf RESULTS.json [--tokens 2048] [--rounds 3] [--only WORD] [--lines 0:6] [--machine NAME]
    cost.py write RESULTS.json                      the table into docs/BENCH.md

--only and --lines measure a part of the table; lines that RESULTS.json has already stay.
PYTHON has what tests/golden/README.md says. For every press, one after the other and with all cores: `platen bench --prefill
TOKENS --press TEXT --dtype f32`, its press_ms; and kvpress's own forward_hook over all layers of a recorded f32 prefill of the
same tokens, medians of the rounds after one that warms up. Presses that read the context twice (kvzip, kvcompose) have their whole
time counted, less a plain prefill, and no peer; `observed` needs eager attention in kvpress, which is counted as part of it.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
sys.dont_write_bytecode = True

PRESSES = (
    "random | ratio=0.5", "knorm | ratio=0.5", "streaming | ratio=0.5", "keydiff | ratio=0.5", "lagkv | ratio=0.5", "cur | ratio=0.5",
    "snapkv | ratio=0.5", "tova | ratio=0.5", "finch:window=64 | ratio=0.5", "observed | ratio=0.5", "expected | ratio=0.5",
    "cap | ratio=0.5", "noncausal | ratio=0.5", "leverage | ratio=0.5", "compactor | ratio=0.5", "kvzip | ratio=0.5",
    "kvcompose | ratio=0.5", "snapkv | adakv | ratio=0.5", "snapkv | critical | ratio=0.5", "snapkv | criticaladakv | ratio=0.5",
    "snapkv | pyramid | ratio=0.5", "keydiff | chunk:length=512 | ratio=0.5", "snapkv | chunkkv | ratio=0.5",
    "snapkv | egchunkkv | ratio=0.5", "keydiff | block | ratio=0.5", "simlayer:threshold=0.3,recent=512",
    "knorm | ratio=0.5 | rerotate", "knorm | ratio=0.5 | merge", "think",
)
SECOND_PASS = ("kvzip", "kvcompose")
BEGIN, END = "<!-- cost -->\n", "<!-- end of cost -->\n"


def ours(args, press):
    """Milliseconds that the press adds, and those of the prefill itself."""
    line = [args.platen, "bench", "--model", args.model, "--prefill", str(args.tokens), "--rounds", str(args.rounds), "--dtype", "f32", "--json"]
    done = json.loads(subprocess.run(line + (["--press", press] if press else []), check=True, capture_output=True, text=True).stdout)
    return done.get("press_ms", 0.0), done["prefill_ms"], done["total_ms"]


# ---- the peer --------------------------------------------------------------------------------------------------------


class Peer:
    """kvpress on torch: one recorded prefill; a press is its hook over the layers."""

    def __init__(self, args):
        sys.path.insert(0, os.path.join(ROOT, "tests", "golden"))
        import reference as ref
        ref.install_ragged_attention()
        import chains
        import kvpress
        import pressing
        import torch

        torch.set_num_threads(os.cpu_count())
        chains.SCORES |= {"random": lambda o, c: kvpress.RandomPress(), "leverage": lambda o, c: kvpress.LeverageScorePress(),
                          "compactor": chains._compactor}
        self.chains, self.kv, self.torch, self.rounds = chains, kvpress, torch, args.rounds
        self.model = ref.load_model(args.model)
        self.ids = [100 + 7919 * i % 40000 for i in range(args.tokens)]
        self.fill = pressing.Prefill(self.model, self.ids)

    def press(self, text):
        stages = self.chains.parse(text)
        (name, _, options), kv = stages[0], self.kv
        if name == "think":
            return kv.ThinKPress(key_channel_compression_ratio=0.5, window_size=32), None
        if name == "simlayer":
            return kv.SimLayerKVPress(lazy_threshold=float(options["threshold"]), n_recent=int(options["recent"])), None
        if name == "finch":
            made = kv.FinchPress(rerotate_keys=False)
            made.window_size = int(options["window"])
        else:
            made = self.chains.SCORES[name](options, None)
        for word, _, wrap in stages[1:]:
            if word in self.chains.WRAPS:
                made = self.chains.WRAPS[word](made, wrap, None)
            if word == "rerotate":
                made = kv.KeyRerotationPress(made)
            if word == "merge":
                made = kv.MergingPress(made)
        return made, 0.5

    def hooks_ms(self, press):
        cache, begin = self.fill.cache(), time.perf_counter()
        for module, args, kwargs, output in self.fill.calls:
            press.forward_hook(module, args, dict(kwargs, past_key_values=cache), (output, None))
            module.masked_key_indices = None
        return 1000 * (time.perf_counter() - begin)

    def forward_ms(self, press, attention):
        """A whole prefill with the press in it."""
        from transformers import DynamicCache

        self.model.config._attn_implementation = attention
        hooks = [layer.self_attn.register_forward_hook(press.forward_hook, with_kwargs=True)
                 for layer in self.model.model.layers] if press else []
        begin = time.perf_counter()
        self.model.model(input_ids=self.torch.tensor([self.ids]), past_key_values=DynamicCache())
        spent = 1000 * (time.perf_counter() - begin)
        for hook in hooks:
            hook.remove()
        self.model.config._attn_implementation = "sdpa"
        return spent

    def ms(self, text):
        press, ratio = self.press(text)
        if ratio is not None:
            press.compression_ratio = ratio
        if text.startswith("observed"):
            runs = [self.forward_ms(press, "eager") - self.forward_ms(None, "sdpa") for _ in range(self.rounds + 1)]
        else:
            runs = [self.hooks_ms(press) for _ in range(self.rounds + 1)]
        return statistics.median(runs[1:])


def rows_before(path):
    """What an earlier run has measured of the lines there are."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [row for row in json.load(file)["rows"] if row["press"] in PRESSES]


def run(args):
    peer = Peer(args)
    machine = args.machine or f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
    results = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "tokens": args.tokens, "rounds": args.rounds,
               "model": os.path.basename(args.model), "torch": peer.torch.__version__,
               "rows": rows_before(args.results)}
    begin, _, end = args.lines.partition(":")
    for text in PRESSES[int(begin or 0):int(end or len(PRESSES))]:
        if args.only not in text:
            continue
        twice = text.startswith(SECOND_PASS)
        added, plain, total = ours(args, text)
        if twice:
            plain = ours(args, "")[1]
        theirs = None if twice else peer.ms(text)
        row = {"press": text, "ms": total - plain if twice else added, "prefill_ms": plain, "torch_ms": theirs}
        results["rows"] = sorted([r for r in results["rows"] if r["press"] != text] + [row], key=lambda r: PRESSES.index(r["press"]))
        print(text, f"{row['ms']:.1f} ms of {plain:.0f}", "" if twice else f"torch {theirs:.1f} ms", flush=True)
        with open(args.results, "w") as out:
            json.dump(results, out, indent=1)


# ---- the page ------------------------------------------------------------------------------------------------------


def line(row):
    name = row["press"].removesuffix(" | ratio=0.5").replace("|", "\\|")
    share = f"{100 * row['ms'] / row['prefill_ms']:.1f} %"
    if row["torch_ms"] is None:
        return f"| `{name}` | {row['ms']:.1f} | {share} | | a second pass |"
    return f"| `{name}` | {row['ms']:.1f} | {share} | {row['torch_ms']:.1f} | {row['torch_ms'] / row['ms']:.1f} |"


def page(results):
    late = [row["press"] for row in results["rows"] if row["torch_ms"] is not None and row["torch_ms"] < 5 * row["ms"]]
    rounds = f"medians of {results['rounds']} rounds" if results["rounds"] > 1 else "one round"
    missed = "The bar of 5 times is **missed** by " + ", ".join(f"`{press}`" for press in late) + "." if late else "The bar of 5 times holds for all."
    return f"""{BEGIN}
## What a press costs
{results['date']}, {results['machine']}, {results['model']} in f32, {results['tokens']} tokens, ratio 0.5 where nothing else is said:
`tests/bench/cost.py run` and `write`, {rounds}. Milliseconds for all layers, the share of the prefill beside which they were
measured, kvpress 0.5.5 on torch {results['torch']} in the same run, and how many times longer that takes. {missed}

| press | ms | of the prefill | kvpress, ms | times |
| --- | --- | --- | --- | --- |
{chr(10).join(line(row) for row in results['rows'])}

{END}"""


def write(args):
    path = os.path.join(ROOT, "docs", "BENCH.md")
    text = open(path).read()
    before, found, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if found else ""
    with open(path, "w") as out:
        out.write((before if found else text.rstrip("\n") + "\n\n") + page(json.load(open(args.results))) + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("platen")
    one.add_argument("model")
    one.add_argument("results")
    one.add_argument("--tokens", type=int, default=2048)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--only", default="")
    one.add_argument("--lines", default=":")
    one.add_argument("--machine", default="")
    one.set_defaults(do=run)
    two = commands.add_parser("write")
    two.add_argument("results")
    two.set_defaults(do=write)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
