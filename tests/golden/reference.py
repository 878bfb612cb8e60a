# SPDX-License-Identifier: Apache-2.0
"""The reference side of the golden data: the default model in torch, its tokenizer, and the pipeline's greedy loop.

Every golden file is made from what is here: a GGUF file is dequantised into a transformers LlamaForCausalLM, the
tokenizer is built from the GGUF's own metadata (transformers' conversion of this file's tokenizer is wrong: it loses
the Digits step), and `generate` does what kvpress' pipeline does with two differences that the project made on purpose:

* an end token stops also when it comes first (the pipeline never tests the first one);
* pairs that a head-wise press masked are dropped, by a mask of minus infinity, where kvpress overwrites their keys
  by a fake key; and the causal mask of a layer follows that layer's own number of rows, so that layers may differ.

Run alone it checks itself against the numbers of the specification:  reference.py MODEL.gguf
"""
import os
import sys
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

torch.set_num_threads(int(os.environ.get("GOLDEN_THREADS", "1")))
torch.set_grad_enabled(False)
transformers.logging.set_verbosity_error()


def versions():
    """What made the data; written into every golden file."""
    from importlib.metadata import version

    names = ("kvpress", "torch", "transformers", "tokenizers", "gguf", "numpy")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


# ---- the model ------------------------------------------------------------------------------------------------

def gguf_metadata(path):
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def unpermute(weight, heads):
    """Undoes llama.cpp's order of the rows of q and k: pairs (2j, 2j+1) back to halves (j, j + d/2)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def load_model(path, dtype=torch.float32):
    reader = gguf.GGUFReader(path)
    meta = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    layers = meta["llama.block_count"]
    config = LlamaConfig(
        vocab_size=meta["llama.vocab_size"], hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"], num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=meta["llama.rope.dimension_count"],
        max_position_embeddings=meta["llama.context_length"],
        rms_norm_eps=float(np.float32(meta["llama.attention.layer_norm_rms_epsilon"])),
        rope_parameters={"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
        bos_token_id=meta["tokenizer.ggml.bos_token_id"], eos_token_id=meta["tokenizer.ggml.eos_token_id"])
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in range(layers):
        to, of = f"model.layers.{layer}.", f"blk.{layer}."
        for ours, theirs in (("attn_norm", "input_layernorm"), ("attn_q", "self_attn.q_proj"),
                             ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
                             ("attn_output", "self_attn.o_proj"), ("ffn_norm", "post_attention_layernorm"),
                             ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")):
            names[f"{of}{ours}.weight"] = f"{to}{theirs}.weight"
    state = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            weight = unpermute(weight, heads)
        if ".attn_k." in tensor.name:
            weight = unpermute(weight, kv_heads)
        state[names.pop(tensor.name)] = torch.from_numpy(np.ascontiguousarray(weight)).to(dtype)
    assert not names, f"the file lacks {sorted(names)}"
    return model_from_state(config, state, dtype)


def model_from_state(config, state, dtype):
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state, strict=True, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.config.name_or_path = "golden"
    model.generation_config.eos_token_id = config.eos_token_id
    return model.to(dtype).eval()


# ---- the tokenizer --------------------------------------------------------------------------------------------

def load_tokenizer(path):
    """Byte-level BPE from the GGUF's metadata: every digit alone, then GPT-2's pattern; control tokens are special."""
    meta = gguf_metadata(path)
    assert meta["tokenizer.ggml.model"] == "gpt2" and meta["tokenizer.ggml.pre"] == "smollm"
    words = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    bpe = models.BPE(vocab={word: token for token, word in enumerate(words)}, merges=merges, fuse_unk=False)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens([tokenizers.AddedToken(words[token], special=True, normalized=False)
                                  for token in range(len(words)) if kinds[token] == gguf.TokenType.CONTROL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=meta["llama.context_length"],
        bos_token=words[meta["tokenizer.ggml.bos_token_id"]], eos_token=words[meta["tokenizer.ggml.eos_token_id"]])
    fast.chat_template = meta["tokenizer.chat_template"]
    return fast


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def template_split(tokenizer, context):
    """The context with the template's text before it, and the text after it, as the pipeline splits them."""
    separator = "#" * (len(context) + 10)
    text = tokenizer.apply_chat_template([{"role": "user", "content": context + separator}],
                                         add_generation_prompt=True, tokenize=False)
    return text.split(separator)


# ---- attention over ragged rows, and the greedy loop ----------------------------------------------------------

_sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]


def ragged_attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """kvpress' patched attention with the masked pairs dropped, and each layer's own length."""
    queries, rows = query.shape[2], key.shape[2]
    if queries == rows:
        module.masked_key_indices = None
        return _sdpa(module, query, key, value, None, dropout, scaling=scaling, **kwargs)
    heads, kv_heads = query.shape[1], key.shape[1]
    seen = torch.ones(queries, rows, dtype=torch.bool).tril(rows - queries).expand(1, kv_heads, queries, rows)
    masked = getattr(module, "masked_key_indices", None)
    if masked is not None and len(masked[0]):
        seen = seen.clone()
        seen[masked[0], masked[1], :, masked[2]] = False
    group = heads // kv_heads
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1),
        attn_mask=seen.repeat_interleave(group, 1), scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def install_ragged_attention():
    """After `import kvpress`, which wraps the table's functions itself."""
    import logging

    import kvpress  # noqa: F401

    logging.getLogger("kvpress").setLevel(logging.ERROR)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = ragged_attention


def generate(model, cache, question, position, max_new_tokens=50, gaps=True):
    """Greedy tokens and, for each, the gap between the two largest logits. Leaves the cache as it found it."""
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    end = model.generation_config.eos_token_id
    tokens, margin = [], []
    feed = list(question)
    while len(tokens) < max_new_tokens:
        positions = torch.arange(position, position + len(feed)).unsqueeze(0)
        logits = model(input_ids=torch.tensor([feed]), past_key_values=cache, position_ids=positions,
                       logits_to_keep=1).logits[0, -1]
        two = torch.topk(logits, 2)
        tokens.append(int(logits.argmax()))
        margin.append(float(two.values[0] - two.values[1]))
        position += len(feed)
        feed = tokens[-1:]
        if tokens[-1] == end:
            break
    for layer, rows in zip(cache.layers, lengths):
        layer.keys, layer.values = layer.keys[:, :, :rows], layer.values[:, :, :rows]
    return tokens, margin


# ---- compact forms --------------------------------------------------------------------------------------------

def ranges(rows):
    """[0,1,2,3,7,9,10] -> "0-3 7 9-10": ascending positions, runs with both ends."""
    out, start = [], None
    rows = sorted(int(row) for row in rows)
    for at, row in enumerate(rows):
        if start is None:
            start = row
        if at + 1 == len(rows) or rows[at + 1] != row + 1:
            out.append(str(row) if row == start else f"{start}-{row}")
            start = None
    return " ".join(out)


def rows_of(text):
    """The inverse of `ranges`."""
    rows = []
    for part in text.split():
        first, _, last = part.partition("-")
        rows += range(int(first), int(last or first) + 1)
    return rows


def rows_text(rows, length, full=True, before=None):
    """One head's kept rows as text: "=" like the head before, ranges, "x" + bitmap in hex (bit i%8 of byte i/8), or
    "#crc count", the CRC-32 of the positions as little-endian int32. The shorter of ranges and bitmap is taken."""
    if before is not None and list(rows) == list(before):
        return "="
    if not full:
        return f"#{zlib.crc32(np.asarray(rows, '<i4').tobytes()):08x} {len(rows)}"
    bits = np.zeros(length, np.uint8)
    bits[list(rows)] = 1
    bitmap = "x" + np.packbits(bits, bitorder="little").tobytes().hex()
    return min(ranges(rows), bitmap, key=len)


def layers_text(pos, edge, length, full=lambda layer: True):
    """[[head, ...], ...] for all layers, and {"layer.head": ranges} of the rows that may go either way."""
    layers, edges = [], {}
    for layer, heads in enumerate(pos):
        texts, before = [], None
        for head, rows in enumerate(heads):
            if edge and edge[layer][head]:
                edges[f"{layer}.{head}"] = ranges(edge[layer][head])
            texts.append(rows_text(rows, length, full(layer) or f"{layer}.{head}" in edges, before))
            before = rows
        layers.append(texts)
    return layers, edges


def write_json(path, head, **lists):
    """One item of a list a line: small in git, readable in a diff."""
    import json

    def line(value):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    with open(path, "w", encoding="utf-8") as out:
        out.write("{" + ",\n".join(f"{line(k)}: {line(v)}" for k, v in head.items()))
        for name, items in lists.items():
            out.write(f",\n{line(name)}: [\n" + ",\n".join(line(item) for item in items) + "\n]")
        out.write("}\n")


HERE = os.path.dirname(os.path.abspath(__file__))

# name -> the files under texts/ that follow one another, nothing between them
CONTEXTS = {
    "fox": ["fox"], "note": ["note"], "recipe": ["recipe"], "mixed": ["mixed"], "lighthouse": ["lighthouse"],
    "minutes": ["minutes"], "survey": ["survey"], "letters": ["note", "recipe", "minutes", "lighthouse"],
}


def context_text(name):
    parts = []
    for part in CONTEXTS[name]:
        with open(os.path.join(HERE, "texts", part + ".txt"), encoding="utf-8", newline="") as file:
            parts.append(file.read())
    return "".join(parts)


def context_ids(tokenizer, name):
    before, after = template_split(tokenizer, context_text(name))
    return encode(tokenizer, before), after


def _check(path):
    install_ragged_attention()
    import kvpress

    tokenizer, model = load_tokenizer(path), load_model(path)
    context = ("The quick brown fox jumps over the lazy dog. The secret number of Alice is 4172. "
               "Bob lives in Oslo and keeps nine cats.")
    before, after = template_split(tokenizer, context)
    ids = encode(tokenizer, before)
    expected = [int(i) for i in (
        "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 1 4093 198 504 "
        "2365 6354 16438 27003 690 260 23790 2767 30 378 4911 1230 282 8590 314 216 36 33 39 34 30 8363 2397 281 41730 "
        "284 8211 7462 7680 30").split()]
    assert ids == expected and encode(tokenizer, after) == [2, 198, 1, 520, 9531, 198]
    question = encode(tokenizer, "Where does Bob live?" + after)
    assert question == [9576, 1072, 8363, 2330, 47, 2, 198, 1, 520, 9531, 198]
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([ids]), past_key_values=cache)
    answer = tokenizer.decode(generate(model, cache, question, len(ids))[0], skip_special_tokens=True)
    print(answer)
    assert answer == "The answer is: Bob lives in Oslo, Norway."
    cache = DynamicCache()
    with kvpress.KnormPress(0.75)(model):
        model.model(input_ids=torch.tensor([ids]), past_key_values=cache)
    print(cache.layers[15].keys.shape)
    pipeline = kvpress.KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
    for press in (None, kvpress.KnormPress(0.3), kvpress.SnapKVPress(0.3, window_size=8)):
        theirs = pipeline(context, question="Where does Bob live?", press=press)["answer"]
        print(press, repr(theirs))


if __name__ == "__main__":
    _check(sys.argv[1])
