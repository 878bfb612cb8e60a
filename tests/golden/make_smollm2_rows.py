# SPDX-License-Identifier: Apache-2.0
"""rows_smollm2.json: what the presses that need no training keep of three real texts.  make_smollm2_rows.py MODEL.gguf

Every third layer is told in full, and every head that has rows on the edge; of the other heads count and CRC-32.
"""
import os
import sys

import reference as ref

ref.install_ragged_attention()

import torch  # noqa: E402
from chains import Context  # noqa: E402
from pressing import Prefill, context_copy, edges_of  # noqa: E402

CONTEXTS = ("recipe", "minutes", "survey")
CHAINS = [
    "knorm", "streaming", "keydiff", "lagkv:lag=32", "cur", "snapkv:window=32", "tova", "observed", "expected",
    "expected:eps=0.01 | adakv", "cap", "noncausal", "snapkv:window=32 | adakv", "keydiff | adakv",
    "snapkv:window=32 | critical", "snapkv:window=32 | criticaladakv", "snapkv:window=16 | pyramid",
    "knorm | chunk:length=100", "snapkv:window=32 | chunkkv", "snapkv:window=32 | egchunkkv", "keydiff | block",
    "kvzip", "kvzip:plus=on,layerwise=on", "kvcompose", "kvcompose:structured=off",
]

LONG, SECOND_PASS = "survey", ("kvzip", "kvcompose")    # these take minutes there, and their rows no new code


def main(path):
    tokenizer = ref.load_tokenizer(path)
    single, double = ref.load_model(path), ref.load_model(path, torch.float64)
    empty, after = ref.template_split(tokenizer, "")
    c32 = Context(single, prefix_length=len(ref.encode(tokenizer, empty)), suffix_ids=ref.encode(tokenizer, after),
                  encode=lambda text: ref.encode(tokenizer, text))
    c64 = context_copy(c32, model=double)
    items = []
    for name in CONTEXTS:
        ids, _ = ref.context_ids(tokenizer, name)
        fills = None
        for eager in (False, True):
            fills = Prefill(single, ids, eager=eager), Prefill(double, ids, eager=eager)
            for chain in (f"{c} | ratio={r}" for c in CHAINS for r in ("0.25", "0.5", "0.75")):
                if chain.startswith("observed") != eager or name == LONG and chain.startswith(SECOND_PASS):
                    continue
                pressed, edge = edges_of(*fills, chain, c32, c64)
                kept, edges = ref.layers_text(pressed.pos, edge, len(ids), lambda layer: layer % 3 == 0)
                items.append({"context": name, "tokens": len(ids), "chain": chain, "layers": kept, "edge": edges})
                print(name, chain, len(edges), sum(len(rows) for heads in edge for rows in heads), flush=True)
            fills = None
    head = {"versions": ref.versions(), "model": os.path.basename(path)}
    ref.write_json(os.path.join(ref.HERE, "rows_smollm2.json"), head, rows=items)


if __name__ == "__main__":
    main(sys.argv[1])
