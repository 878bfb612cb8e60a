# SPDX-License-Identifier: Apache-2.0
"""press_rows.json: what every press keeps of small random models (tiny.py), row by row, with the rows on the edge.

Every chain below runs on four models (groups of 1, 2, 3 and 4; heads of 64 and 128) and contexts of 64, 257 and 1000
tokens, as far as it is built for that length. Presses that draw random numbers (random, leverage, compactor,
cur:random=on) are not here.
"""
import os
import sys

import reference as ref

ref.install_ragged_attention()

import tiny  # noqa: E402
import torch  # noqa: E402
from chains import Context  # noqa: E402
from pressing import Prefill, context_copy, edges_of  # noqa: E402

LENGTHS = (64, 257, 1000)

# shortest and longest context of a chain, chain; the query of `finch` is the context's last 16 tokens
CHAINS = """
64 1000 ; none
64 1000 ; knorm | ratio=0.5
64 1000 ; knorm | ratio=0.99
64 1000 ; knorm | rows=40
64 1000 ; streaming | ratio=0.6
64 1000 ; streaming:sink=8 | ratio=0.25
64 1000 ; keydiff | ratio=0.75
64 64   ; lagkv:lag=12 | ratio=0.3
257 1000 ; lagkv:lag=32 | ratio=0.5
257 1000 ; lagkv:lag=20,sink=7,cross=on | ratio=0.5
257 1000 ; lagkv | ratio=0.4
64 1000 ; cur | ratio=0.5
64 1000 ; cur:leverage=key,local=off | ratio=0.5
64 1000 ; cur:leverage=value,window=10 | ratio=0.75
64 1000 ; cur:sink=6,leverage=kv_avg | ratio=0.75
64 1000 ; qfilter:file=qfilter | ratio=0.5
64 1000 ; snapkv:window=8 | ratio=0.5
257 1000 ; snapkv | ratio=0.5
64 1000 ; snapkv:window=5,kernel=7 | ratio=0.75
64 1000 ; snapkv:window=16,kernel=1 | ratio=0.3
64 1000 ; tova | ratio=0.75
64 1000 ; finch | ratio=0.5
64 1000 ; finch:normalize=off | ratio=0.7
64 1000 ; finch:window=12 | ratio=0.5 | rerotate
257 1000 ; finch:chunk=100 | ratio=0.5 | rerotate
64 1000 ; observed | ratio=0.5
64 1000 ; observed | ratio=0.8
64 1000 ; expected | ratio=0.5
64 1000 ; expected:future=100,sink=2,eps=0.02 | ratio=0.75
64 1000 ; expected:cov=off,vnorm=off | ratio=0.5
64 1000 ; expected-stats:file=stats | ratio=0.5
64 1000 ; expected-stats:file=stats,cov=off,eps=0.01 | ratio=0.75
64 1000 ; cap | ratio=0.5
64 1000 ; cap:tau=2,future=64,sink=1,eps=0.001 | ratio=0.75
64 1000 ; noncausal:chunk=48 | ratio=0.5
64 1000 ; noncausal | ratio=0.75
64 1000 ; kvzap:file=kvzap-linear | ratio=0.5
64 1000 ; kvzap:file=kvzap-mlp | ratio=0.75
64 1000 ; fastkvzip:file=fast | ratio=0.5
64 1000 ; fastkvzip:file=fast,sink=2,layerwise=on | ratio=0.75
64 1000 ; kvzip | ratio=0.5
64 1000 ; kvzip:plus=on | ratio=0.75
64 1000 ; kvzip:sink=6,layerwise=on,chunk=50 | ratio=0.5
64 1000 ; kvcompose | ratio=0.5
64 1000 ; kvcompose:task=mean,group=max,head=max,share=off | ratio=0.75
64 1000 ; kvcompose:vnorm=on | ratio=0.5
64 1000 ; kvcompose:structured=off | ratio=0.5
64 1000 ; kvcompose:structured=off,task=mean,vnorm=on,share=off | ratio=0.75
64 1000 ; kvcompose:floor=12 | ratio=0.75
64 1000 ; snapkv:window=8 | adakv | ratio=0.5
64 1000 ; knorm | adakv:alpha=0 | ratio=0.5
64 1000 ; expected:eps=0.01 | adakv:alpha=0.5 | ratio=0.75
64 1000 ; keydiff | adakv:alpha=1 | ratio=0.5
64 1000 ; keydiff | adakv | rows=20
64 1000 ; snapkv:window=8 | critical | ratio=0.5
64 1000 ; expected:vnorm=off | critical:eps=0.01,first=0.3 | ratio=0.75
64 1000 ; knorm | critical:first=0 | ratio=0.5
64 1000 ; snapkv:window=8 | critical | adakv | ratio=0.5
64 1000 ; snapkv:window=8 | criticaladakv | ratio=0.5
64 1000 ; keydiff | criticaladakv:alpha=0.4,eps=0.001,first=0.7 | ratio=0.75
64 1000 ; snapkv:window=4 | pyramid | ratio=0.5
64 1000 ; snapkv:window=2 | pyramid:beta=2 | ratio=0.75
64 1000 ; snapkv:window=4 | pyramid:beta=10 | ratio=0.9
64 1000 ; knorm | chunk:length=20 | ratio=0.5
64 64 ; snapkv:window=6 | chunk:length=32 | ratio=0.5
257 1000 ; snapkv:window=6 | chunk:length=40 | ratio=0.5
64 1000 ; expected | chunk:length=50 | ratio=0.5
64 1000 ; snapkv:window=8 | chunkkv | ratio=0.5
64 1000 ; knorm | chunkkv:length=7 | ratio=0.75
64 1000 ; keydiff | chunkkv:length=2000 | ratio=0.5
64 1000 ; snapkv:window=6,kernel=3 | egchunkkv | ratio=0.5
64 1000 ; keydiff | egchunkkv:length=6,low=3 | ratio=0.75
64 1000 ; expected:sink=0 | egchunkkv:length=5,low=2 | ratio=0.75
64 64 ; keydiff | block:size=16 | ratio=0.5
257 1000 ; keydiff | block | ratio=0.5
64 1000 ; knorm | block:size=50 | ratio=0.75
64 257 ; expected:sink=0,eps=0.01 | block:size=40 | ratio=0.5
64 1000 ; expected:eps=0.02 | lukv:file=lukv | ratio=0.5
64 1000 ; knorm | lukv:file=lukv,sink=2,window=8 | ratio=0.75
64 1000 ; knorm | dms:threshold=-13,window=16
257 1000 ; kvzap:file=kvzap-linear | dms:threshold=0
64 1000 ; duo:file=duo,heads=0.5
64 1000 ; duo:file=duo,heads=0.3
64 1000 ; simlayer:threshold=0.3,recent=24
64 1000 ; simlayer:threshold=0.2,last=3,recent=20,initial=2
64 1000 ; knorm | ratio=0.5 | rerotate
64 1000 ; snapkv:window=8 | ratio=0.75 | rerotate
64 1000 ; knorm | ratio=0.5 | merge
64 1000 ; keydiff | ratio=0.75 | merge:threshold=0.2
64 1000 ; snapkv:window=8 | ratio=0.5 | merge:threshold=0.1,fraction=0.5
64 1000 ; think:ratio=0.5
64 1000 ; think:ratio=0.3,window=8
64 1000 ; snapkv:window=8 | ratio=0.5 | think:ratio=0.25
64 1000 ; knorm | ratio=0.3 | snapkv:window=8 | ratio=0.3
64 1000 ; keydiff | ratio=0.4 | expected | ratio=0.5
64 1000 ; tova | ratio=0.3 | knorm | ratio=0.3 | keydiff | ratio=0.3
64 1000 ; noncausal:chunk=40 | chunk | ratio=0.5
64 257 ; noncausal:chunk=30 | block:size=1000 | ratio=0.3
64 1000 ; tova | critical | chunkkv | ratio=0.7
64 1000 ; tova | critical | egchunkkv:length=6,low=2 | ratio=0.7
64 1000 ; cap:sink=0 | critical:first=1 | chunkkv:length=9 | ratio=0.5
64 257 ; knorm | critical | lukv:file=lukv | ratio=0.5
64 1000 ; snapkv:window=8 | critical:first=0.3 | adakv:alpha=0.5 | ratio=0.75
64 1000 ; cur:window=7 | criticaladakv:first=0.3 | ratio=0.6
64 1000 ; kvzap:file=kvzap-mlp | ratio=0.6 | merge
64 257 ; kvzap:file=kvzap-mlp | block:size=40 | ratio=0.5
257 257 ; knorm | ratio=0.3 | tova | chunk:length=77 | rows=101
257 257 ; knorm | ratio=0.333 | snapkv:window=5 | chunk:length=77 | ratio=0.5
257 257 ; knorm | ratio=0.3 | expected | chunk:length=50 | ratio=0.5
257 257 ; noncausal:chunk=25 | chunk:length=50 | ratio=0.333
"""

PER_LAYER = {2: "0.1/0.6", 3: "0/0.3/0.8", 4: "0.2/0.4/0.6/0.8"}


def number(x):
    return float(f"{float(x):.7g}")


def sample(pressed, chain, original):
    """Values of rows that an edit has changed: [layer, head, position, "k" or "v", [..]], or the channels dropped."""
    out = {}
    if "rerotate" in chain or "merge" in chain:
        word = "k" if "rerotate" in chain else "v"
        values = []
        for index in (len(pressed.pos) - 1,):
            layer = pressed.cache.layers[index]
            tensor = layer.keys if word == "k" else layer.values
            for head in (0, tensor.shape[1] - 1):
                rows = pressed.pos[index][head]
                for slot in sorted({len(rows) // 2, len(rows) - 1}):
                    values.append([index, head, rows[slot], word, [number(x) for x in tensor[0, head, slot]]])
        out["values"] = values
    if "think" in chain:
        out["channels_gone"] = [[ref.ranges((layer.keys[0, head] == 0).all(0).nonzero()[:, 0].tolist())
                                 for head in range(layer.keys.shape[1])] for layer in pressed.cache.layers]
    return out


def run(names, lengths):
    items = []
    for name in names:
        single, double = tiny.model(name), tiny.model(name, torch.float64)
        c32 = Context(single, window=16, suffix_ids=tiny.encode("\n"), encode=tiny.encode, files=tiny.files(name))
        c64 = context_copy(c32, model=double, files=tiny.files(name, torch.float64))
        for length in lengths:
            ids = tiny.context(name, length)
            plain = Prefill(single, ids), Prefill(double, ids)
            eager = Prefill(single, ids, eager=True), Prefill(double, ids, eager=True)
            count = edged = 0
            layers = tiny.MODELS[name]["layers"]
            lines = CHAINS.strip().splitlines() + [f"64 1000 ; knorm | ratios={PER_LAYER[layers]}"]
            for line in lines:
                bounds, _, chain = line.partition(" ; ")
                if not int(bounds.split()[0]) <= length <= int(bounds.split()[1]):
                    continue
                try:
                    pressed, edge = edges_of(*(eager if chain.startswith("observed") else plain), chain, c32, c64)
                except Exception as error:
                    raise RuntimeError(f"{name} {length} {chain}") from error
                kept, edges = ref.layers_text(pressed.pos, edge, length)
                item = {"model": name, "tokens": length, "chain": chain}
                if chain.startswith("finch") and "window=" not in chain:
                    item["query"] = c32.window
                items.append(item | {"layers": kept, "edge": edges} | sample(pressed, chain, plain[0]))
                if pressed.next != length:
                    items[-1]["next"] = pressed.next
                count, edged = count + 1, edged + bool(edges)
            print(name, length, count, "chains,", edged, "with edges", flush=True)
    models = {name: dict(m, config=tiny.hf_config(name)) for name, m in tiny.MODELS.items()}
    head = {"versions": ref.versions(), "weights": tiny.__doc__.split("Parameter files")[0].strip(), "models": models}
    ref.write_json(os.path.join(ref.HERE, "press_rows.json"), head, rows=items)


if __name__ == "__main__":
    run(sys.argv[1:2] or list(tiny.MODELS), [int(a) for a in sys.argv[2:]] or LENGTHS)
