# SPDX-License-Identifier: Apache-2.0
"""Runs the lines of press_vectors.json whose press is a class of chains.py through kvpress again (make_vectors --check).

The data are module inputs, not tokens: attention modules with the given weights are called directly.
"""
import reference as ref

ref.install_ragged_attention()

import kvpress as kv  # noqa: E402
import pressing  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from chains import SCORES, Context, parse  # noqa: E402
from decoding import decode_press, following, split  # noqa: E402
from kvpress.presses.fastkvzip_press import FastKVzipGate  # noqa: E402
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM  # noqa: E402

OFFSETS = (300, 0, 100, 200)
SCORES_LEFT_OUT = ("leverage", "compactor", "kvgrad", "restorekv", "kvzip", "kvcompose")   # drawn numbers, second passes
WORDS_LEFT_OUT = ("random=on", "rule=", "cam:", "probe=")


def tensor(seed, *shape):
    return torch.from_numpy(tiny.value(seed, shape)).float()


class Fill(pressing.Prefill):
    """Four layers, each with its own X: nothing flows from one to the next."""

    def __init__(self, attention=False):
        config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=4,
                             num_key_value_heads=2, head_dim=8, attention_bias=True,
                             rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
        config._attn_implementation = "eager" if attention else "sdpa"
        self.model, self.length, self.calls, self.attention, self.scores = LlamaForCausalLM(config).eval(), 64, [], [], {}
        self.ids = list(range(64))
        cache = DynamicCache()
        self.rotary = self.model.model.rotary_emb
        for layer, offset in zip(self.model.model.layers, OFFSETS):
            module = layer.self_attn
            module.rotary_emb, module.masked_key_indices = self.rotary, None
            for proj, seed, rows in ((module.q_proj, 2, 32), (module.k_proj, 4, 16), (module.v_proj, 6, 16)):
                proj.weight.data, proj.bias.data = tensor(seed + offset, rows, 16), tensor(seed + 1 + offset, rows)
            module.o_proj.weight.data, module.o_proj.bias.data = tensor(8 + offset, 16, 32), torch.zeros(16)
            hook = module.register_forward_hook(self._record, with_kwargs=True)
            self.call(module, tensor(1 + offset, 64, 16), 0, cache)
            hook.remove()
        self.rows = [(layer.keys, layer.values) for layer in cache.layers]

    def call(self, module, x, position, cache):
        positions = torch.arange(position, position + len(x))
        mask = torch.full((len(x), position + len(x)), float("-inf")).triu(position + 1)[None, None]
        module(hidden_states=x[None], position_embeddings=self.rotary(x[None], positions[None]),
               attention_mask=mask if module.config._attn_implementation == "eager" else None,
               past_key_values=cache, cache_position=positions, position_ids=positions[None])


def files():
    linear = [torch.nn.Linear(16, 2) for _ in OFFSETS]
    mlps = [torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)) for _ in OFFSETS]
    gates, mu, cov = [], [], []
    for l, o in enumerate(OFFSETS):
        linear[l].weight.data, linear[l].bias.data = tensor(9 + o, 2, 16), tensor(10 + o, 2)
        mlps[l][0].weight.data, mlps[l][0].bias.data = tensor(14 + o, 8, 16), tensor(15 + o, 8)
        mlps[l][2].weight.data, mlps[l][2].bias.data = tensor(16 + o, 2, 8), tensor(17 + o, 2)
        gate = FastKVzipGate(l, 16, 2, 2, torch.float32)
        gate.load_state_dict({"q_proj.weight": tensor(20 + o, 64, 16), "q_proj.bias": tensor(21 + o, 64),
                              "k_proj.weight": tensor(22 + o, 32, 16), "q_norm.weight": tensor(23 + o, 16),
                              "k_norm.weight": tensor(24 + o, 16), "k_base": tensor(25 + o, 2, 16, 16)[:, None],
                              "b": tensor(26 + o, 2, 2)[:, None]})
        gates.append(gate)
        a = tensor(13 + o, 4, 8, 8)
        mu.append(tensor(12 + o, 4, 8))
        cov.append(a @ a.transpose(-1, -2) / 8)

    class Net:
        def __init__(self, layers):
            self.layers = layers

    return {"qfilter": torch.stack([tensor(11 + o, 2, 8) for o in OFFSETS]), "stats": (torch.stack(mu), torch.stack(cov)),
            "kvzap-linear": Net(linear), "kvzap-mlp": Net(mlps), "fast": gates,
            "duo": ((tiny.value(31, (4, 2)) + 1) / 2, 4, 8), "lukv": 0.75 + tiny.value(35, (99, 4, 2)) / 4}


def decode(fill, item, context):
    before, part = split(item["chain"])
    pressed = pressing.press_rows(fill, before, context)
    press, later = decode_press(part, context), tensor(40, 16, 16)
    module = fill.model.model.layers[1].self_attn
    with following(fill.model, pressed, press) as follow:
        for step in range(item["steps"]):
            fill.call(module, later[step:step + 1], follow.next, follow.cache)
            follow.next += 1
    return follow.pos[1]


def go_on(fill, item, context):
    """Rows that DMSPress masks once more tokens are fed, and the share of all that it has masked then."""
    (score, _, options), (_, _, rule) = parse(item["chain"])
    press = kv.DMSPress(SCORES[score](options, context), threshold=float(rule["threshold"]),
                        sliding_window_size=int(rule["window"]), decoding=True)
    module, cache, later = fill.model.model.layers[1].self_attn, DynamicCache(), tensor(40, 16, 16)
    fill.call(fill.model.model.layers[0].self_attn, tensor(1 + OFFSETS[0], 64, 16), 0, cache)
    module.masked_key_indices = None
    hook = module.register_forward_hook(press.forward_hook, with_kwargs=True)
    fill.call(module, tensor(1, 64, 16), 0, cache)
    before = masked(module)
    for step in range(item["decoding"]["steps"]):
        fill.call(module, later[step:step + 1], 64 + step, cache)
    hook.remove()
    gone = [ref.ranges(sorted(later - earlier)) for later, earlier in zip(masked(module), before)]
    module.masked_key_indices = None
    return {"steps": item["decoding"]["steps"], "gone": gone, "ratio": round(press.compression_ratio, 6)}


def masked(module):
    _, heads, rows = module.masked_key_indices
    return [set(rows[heads == head].tolist()) for head in range(2)]


def check(items):
    plain, eager, params = Fill(), Fill(attention=True), files()
    right, left = 0, []
    for item in items:
        chain = item["chain"]
        if "keep" not in item or chain.startswith(SCORES_LEFT_OUT) or any(word in chain for word in WORDS_LEFT_OUT):
            left.append(item["name"])
            continue
        fill = eager if chain.startswith("observed") else plain
        context = Context(fill.model, files=params)
        if "steps" in item:
            heads = decode(fill, item, context)
        else:
            pressed = pressing.press_rows(fill, chain, context)
            heads = pressed.pos[1]
            if "counts" in item:
                assert [[len(rows) for rows in layer] for layer in pressed.pos] == item["counts"], item["name"]
        assert [ref.ranges(head) for head in heads] == item["keep"], (item["name"], [ref.ranges(h) for h in heads])
        if "decoding" in item:
            assert (made := go_on(fill, item, context)) == item["decoding"], (item["name"], made)
        right += 1
    print(right, "lines found again; not run:", ", ".join(left))
