#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""gpu_peers.py sdpa|topk|prefill|decode|kvpress - torch, transformers and kvpress at the shapes of bench-gpu.sh, one JSON object
a line: {"name", "us"} (medians). Random weights and inputs, bf16, 32/8 heads of 128, Llama-3.1-8B's shape."""
import json
import sys

import torch

ROUNDS = 9


def timed(call, rounds=ROUNDS):
    """Median microseconds of one call, measured on the device after two that warm up."""
    times = []
    for i in range(rounds + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end) * 1000)
    return sorted(times)[len(times) // 2]


def tell(name, us):
    print(json.dumps({"name": name, "us": round(us, 3), "torch": torch.__version__}), flush=True)


def sdpa():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    for heads, groups, dim, tokens in ((32, 8, 128, 2048), (32, 8, 128, 4096), (32, 8, 128, 8192), (32, 8, 128, 32768), (9, 3, 64, 8192)):
        q = torch.randn(1, heads, tokens, dim, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(1, groups, tokens, dim, device="cuda", dtype=torch.bfloat16) for _ in "kv")
        wide = [x.repeat_interleave(heads // groups, 1) for x in (k, v)]
        best = []
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]), torch.no_grad():
            for keys, values, gqa in ((*wide, False), (k, v, True)):
                try:
                    best.append(timed(lambda: [torch.nn.functional.scaled_dot_product_attention(
                        q, keys, values, is_causal=True, enable_gqa=gqa) for _ in range(4)]) / 4)
                except RuntimeError:
                    pass    # this torch has no such path
        tell(f"attention {heads}/{groups} x {dim}, 1 x {tokens}", min(best))


def topk():
    for tokens in (4096, 32768, 131072, 262144):
        score = torch.randn(8, tokens, device="cuda")
        tell(f"select per head 8 x {tokens}", timed(lambda: [torch.topk(score, tokens // 2, sorted=False) for _ in range(4)]) / 4)


def model():
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, max_position_embeddings=131072, rope_theta=500000.0, attn_implementation="sdpa")
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        made = LlamaForCausalLM(config)
    return made.eval()


def ids(batch, tokens):
    return ((100 + 7919 * torch.arange(tokens, device="cuda") % 40000).repeat(batch, 1))


@torch.no_grad()
def prefill():
    m = model()
    for tokens in (4096, 8192):
        tell(f"prefill {tokens}", timed(lambda: m(ids(1, tokens), use_cache=True, logits_to_keep=1), 5))


@torch.no_grad()
def decode():
    m = model()
    for batch in (1, 16):
        from transformers import DynamicCache
        cache, last = DynamicCache(), None
        for begin in range(0, 4096, 512):   # in parts: the activations of 16 whole contexts are large
            last = m(ids(batch, 4096)[:, begin:begin + 512], past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        state = {"ids": last.argmax(-1)}

        def step():
            state["ids"] = m(state["ids"], past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        tell(f"decode {batch} x 4096", timed(step, 15))


@torch.no_grad()
def kvpress():
    """What kvpress's hooks add to a prefill of transformers."""
    import kvpress as kv
    m = model()
    presses = {"knorm": kv.KnormPress(0.5), "snapkv": kv.SnapKVPress(0.5), "tova": kv.TOVAPress(0.5), "expected": kv.ExpectedAttentionPress(0.5),
               "snapkv | adakv": kv.AdaKVPress(kv.SnapKVPress(0.5)), "snapkv | critical": kv.CriticalKVPress(kv.SnapKVPress(0.5))}
    tokens = ids(1, 4096)

    def run():
        m(tokens, use_cache=True, logits_to_keep=1)

    for name, press in presses.items():
        plain = timed(run, 5)
        with press(m):
            tell(f"{name} 4096", timed(run, 5) - plain)


if __name__ == "__main__":
    torch.manual_seed(1)
    {"sdpa": sdpa, "topk": topk, "prefill": prefill, "decode": decode, "kvpress": kvpress}[sys.argv[1]]()
