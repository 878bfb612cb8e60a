# SPDX-License-Identifier: Apache-2.0
"""family_rows.json: what kvpress keeps of the tiny models in families/, for the families that it knows and that have full layers.

    pip install kvpress==0.5.5 transformers==5.2.0 torch==2.15.0 && python make_family_rows.py

The context is `tokens`, no two alike: equal tokens would have keys of equal norm in the first layer, which rounding tells apart.
Rows are a bitmap in hex for each full layer and KV head: position i is bit i%8 (least first) of byte i/8.
`edge`: the same for rows that another correct program may decide otherwise (pressing.py); absent where there are none.
"""
import os

import reference as ref

ref.install_ragged_attention()

import torch  # noqa: E402
from chains import Context  # noqa: E402
from pressing import Prefill, context_copy, edges_of  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

FAMILIES = ("llama", "llama_linear", "llama_dynamic", "llama_yarn", "llama_bias", "qwen2", "qwen3", "phi3", "gemma3")  # kvpress does not rotate a part of a head
TOKENS = [(97 * i) % 253 + 3 for i in range(250)]
CHAINS = ("knorm | ratio=0.5", "keydiff | ratio=0.75", "snapkv:window=16 | ratio=0.5", "tova | ratio=0.75",
          "snapkv:window=16 | adakv | ratio=0.6", "expected | ratio=0.5",
          "snapkv:window=16 | critical | ratio=0.5")

# gemma3: kvpress asks for a rotation without saying of which kind of layer. llama_dynamic: it turns the 512 queries to
# come, and they alone, by the frequencies of 762 positions; here they turn as the context did.
LEFT_OUT = ("gemma3", "llama_dynamic")


def bitmap(rows, length):
    data = bytearray((length + 7) // 8)
    for row in rows:
        data[row // 8] |= 1 << row % 8
    return data.hex()


def load(name, dtype):
    model = AutoModelForCausalLM.from_pretrained(os.path.join(ref.HERE, "families", name), dtype=dtype).eval()
    config = model.config
    config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads  # critical asks
    return model


def items_of(name):
    single, double = load(name, torch.float32), load(name, torch.float64)
    c32 = Context(single)
    c64 = context_copy(c32, model=double)
    plain = Prefill(single, TOKENS, eager=True), Prefill(double, TOKENS, eager=True)  # with windows
    kinds = getattr(single.config, "layer_types", None) or ["full_attention"] * len(plain[0].calls)
    for chain in CHAINS:
        if name in LEFT_OUT and chain.startswith("expected"):
            continue
        pressed, edge = edges_of(*plain, chain, c32, c64)
        item = {"family": name, "chain": chain, "layers": {}, "edge": {}}
        for layer, heads in enumerate(pressed.pos):
            if kinds[layer] != "full_attention":
                continue
            item["layers"][str(layer)] = [bitmap(rows, len(TOKENS)) for rows in heads]
            if any(edge[layer]):
                item["edge"][str(layer)] = [bitmap(rows, len(TOKENS)) for rows in edge[layer]]
        yield item
    print(name, flush=True)


if __name__ == "__main__":
    ref.write_json(os.path.join(ref.HERE, "family_rows.json"), {"versions": ref.versions(), "tokens": TOKENS},
                   rows=[item for name in FAMILIES for item in items_of(name)])
