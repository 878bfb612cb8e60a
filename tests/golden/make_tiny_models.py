# SPDX-License-Identifier: Apache-2.0
"""A tiny random model of every family, as transformers writes it, and what transformers computes with it.

    pip install transformers==5.2.0 torch==2.15.0 gguf==0.19.0 && python make_tiny_models.py

Writes families/<name>/: config.json, model.safetensors (bf16, which f32 represents exactly), generation_config.json, tokenizer.json (one
token a byte), model.gguf for some (phi3_partial is in shards), and expected.json: rotation frequencies of every kind of layer, logits in f32 after some positions of a
300-token context (past the original length where rotation is scaled, past the window where there is one), the same where the tokens are
fed one by one if that differs, and greedy tokens.
"""
import copy
import json
import os
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from transformers import (Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config, SmolLM3Config)

torch.set_num_threads(1)
torch.set_grad_enabled(False)
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
COMMON = dict(vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=512, bos_token_id=1, eos_token_id=[0, 2], pad_token_id=0)
LONG = [1.0 + 0.25 * i for i in range(8)]
SHORT = [1.0 + 0.01 * i for i in range(8)]

FAMILIES = {
    "llama": LlamaConfig(**COMMON, head_dim=16, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}),
    "llama_linear": LlamaConfig(**COMMON, tie_word_embeddings=True, rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "llama_dynamic": LlamaConfig(**(COMMON | {"max_position_embeddings": 128}), tie_word_embeddings=True, rope_parameters={
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
    "llama_yarn": LlamaConfig(**COMMON, tie_word_embeddings=True, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}),
    "llama_bias": LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True,
                              rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "qwen2": Qwen2Config(**COMMON, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, sliding_window=64),
    "qwen3": Qwen3Config(**COMMON, head_dim=16, tie_word_embeddings=True,
                         rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    "mistral": MistralConfig(**COMMON, head_dim=16, sliding_window=48, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "phi3": Phi3Config(**(COMMON | {"hidden_size": 64}), original_max_position_embeddings=128, sliding_window=512,
                       rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "long_factor": LONG, "short_factor": SHORT}),
    "phi3_partial": Phi3Config(**(COMMON | {"hidden_size": 64}), partial_rotary_factor=0.5, tie_word_embeddings=True,
                               rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "gemma3": Gemma3TextConfig(**(COMMON | {"num_hidden_layers": 7}), head_dim=16, sliding_window=32, query_pre_attn_scalar=24,
                               rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                                                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
    "smollm3": SmolLM3Config(**COMMON, rope_parameters={"rope_type": "default", "rope_theta": 2000000.0}),
}
GGUF = {"llama": "llama", "llama_bias": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "mistral": "llama", "phi3": "phi3", "gemma3": "gemma3",
        "smollm3": "smollm3"}
PERMUTED = ("llama", "smollm3")
TOKENS = [(7919 * i * i + 31 * i + 5) % 253 + 3 for i in range(300)]
POSITIONS = [0, 40, 127, 255, 299]


def build(name, config):
    torch.manual_seed(sum(name.encode()))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for key, p in model.named_parameters():
        scale = 0.25 if p.ndim == 2 else 0.1
        p.copy_((torch.randn_like(p) * scale + (1.0 if "norm" in key and name != "gemma3" else 0.0)).to(torch.bfloat16).float())
    model.tie_weights()
    return model


def frequencies(model, config, length):
    """inv_freq and attention factor of full and of windowed layers, after a forward pass of that length."""
    rotary = model.model.rotary_emb
    if hasattr(rotary, "full_attention_inv_freq"):
        return {"full": rotary.full_attention_inv_freq.tolist(), "local": rotary.sliding_attention_inv_freq.tolist(), "factor": 1.0}
    return {"full": rotary.inv_freq.tolist(), "factor": float(rotary.attention_scaling)}


def stepped(model, ids):
    """Logits where the tokens are fed one by one: each position rotates by the frequencies of its own length."""
    cache, out = transformers.DynamicCache(config=model.config), []
    for p in range(ids.shape[1]):
        logits = model(input_ids=ids[:, p:p + 1], position_ids=torch.tensor([[p]]), past_key_values=cache).logits[0, 0]
        if p in POSITIONS:
            out.append({"position": p, "values": [float(np.float32(v)) for v in logits]})
    return out


def asked(model, ids, context, question, most):
    """Greedy tokens as the pipeline of kvpress makes them: context, then question, each at once, then one by one."""
    cache = transformers.DynamicCache(config=model.config)
    model(input_ids=ids[:, :context], past_key_values=cache)
    feed, at, made = ids[:, context:context + question], context, []
    while len(made) < most:
        logits = model(input_ids=feed, position_ids=torch.arange(at, at + feed.shape[1])[None], past_key_values=cache).logits[0, -1]
        made.append(int(logits.argmax()))
        feed, at = torch.tensor([made[-1:]]), at + feed.shape[1]
    return {"context": context, "question": question, "made": made}


@torch.no_grad()
def bf16_error(model, answer):
    """How far this model's logits in bf16 are from those of `answer`, as a share of their norm: the worst position."""
    got = model(torch.tensor([TOKENS])).logits[0].float()
    wanted = [(got[item["position"]], torch.tensor(item["values"])) for item in answer["logits"]]
    return round(max(((a - b).norm() / b.norm()).item() for a, b in wanted), 4)


def all_asked(fresh, ids, original):
    """Where frequencies change with the length: questions and answers that cross the original one, and one behind it."""
    return [asked(fresh(), ids, *how) for how in ((original - 28, 60, 16), (original - 28, 8, 40), (original + 12, 30, 16))]


def expected(model, config):
    ids = torch.tensor([TOKENS])
    model(input_ids=ids[:, :40])
    out = {"freqs_40": frequencies(model, config, 40)}
    if config.rope_parameters.get("rope_type") in ("dynamic", "longrope"):  # first: dynamic frequencies never shrink again
        out["stepped"] = stepped(model, ids)
    logits = model(input_ids=ids).logits[0]
    out["freqs_300"] = frequencies(model, config, 300)
    out["tokens"] = TOKENS
    out["logits"] = [{"position": p, "values": [float(np.float32(v)) for v in logits[p]]} for p in POSITIONS]
    greedy = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    out["greedy"] = greedy[0, ids.shape[1]:].tolist()
    return out


def byte_tokenizer():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars, extra = {}, 256
    for b in range(256):
        chars[b] = chr(b) if b in keep else chr(extra)
        extra += b not in keep
    return {"version": "1.0", "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "vocab": {c: b for b, c in chars.items()}, "merges": []}}


NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
         "post_attention_layernorm": "ffn_norm"}
GEMMA_NAMES = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}


def gguf_name(name, arch):
    stem, kind = name.rsplit(".", 1)
    names = NAMES | (GEMMA_NAMES if arch == "gemma3" else {})
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{names[rest]}.{kind}"
    return f"{names[stem]}.{kind}"


def permute(weight, heads):
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, name, model, config):
    arch = GGUF[name]
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    w.add_rope_freq_base(rope["rope_theta"])
    if arch == "gemma3":
        w.add_sliding_window(config.sliding_window)
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if name == "mistral":
        w.add_sliding_window(config.sliding_window)
    if name == "phi3":
        w.add_rope_dimension_count(head_dim)
        w.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        w.add_sliding_window(config.sliding_window)
        w.add_tensor("rope_factors_long.weight", np.array(LONG, np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(SHORT, np.float32))
    if name == "llama":  # what llama.cpp's converter writes for Llama 3: one divisor for each channel pair
        plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim)
        w.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32))
    for key, p in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = p.float().numpy()
        if arch in PERMUTED and ("q_proj." in key or "k_proj." in key):
            value = permute(value, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        if arch == "gemma3" and key.endswith("norm.weight"):
            value = value + 1
        if value.ndim == 2:
            bf16 = gguf.quants.quantize(value, gguf.GGMLQuantizationType.BF16)
            w.add_tensor(gguf_name(key, arch), bf16, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            w.add_tensor(gguf_name(key, arch), value.astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main(names):
    for name, config in FAMILIES.items():
        if names and name not in names:
            continue
        folder = os.path.join(OUT, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        model = build(name, config)
        fresh = copy.deepcopy(model)
        answer = expected(model, config) | {"made_by": "make_tiny_models.py", "transformers": transformers.__version__,
                                            "torch": torch.__version__.split("+")[0]}
        if name in GGUF:
            write_gguf(f"{folder}/model.gguf", name, model, config)
        if "stepped" in answer:  # a fresh model each: dynamic frequencies never shrink again
            answer["asked"] = all_asked(lambda: copy.deepcopy(fresh), torch.tensor([TOKENS]), 128)
        answer["bf16_error"] = bf16_error(copy.deepcopy(fresh).to(torch.bfloat16), answer)
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB" if name == "phi3_partial" else "1GB")
        json.dump(byte_tokenizer(), open(f"{folder}/tokenizer.json", "w"))
        json.dump(answer, open(f"{folder}/expected.json", "w"))
        print(name, *(f"{f}:{os.path.getsize(os.path.join(folder, f))}" for f in sorted(os.listdir(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
