# SPDX-License-Identifier: Apache-2.0
"""Token ids of 2,000 lines as the `tokenizers` library gives them; a test in C gives the same.

    make_tokenizer.py MODEL.gguf             writes tokenizer_lines.json, tokenizer_smollm2.txt
    make_tokenizer.py --small PACKAGES       writes tokenizer_<name>.json: vocabularies cut to their first merges, with ids
    make_tokenizer.py --full PACKAGES OUT    writes OUT/<name>/tokenizer.json and OUT/<name>/ids.txt, whole (not committed)

PACKAGES is a folder into which the wheels of llama-models 0.3.0, dashscope 2.0.2 and mistral-common 1.13.1 were unpacked; they carry
the vocabularies of Llama 3, Qwen, Mistral-Nemo (tekken) and Mistral 7B (SentencePiece).
    pip install tokenizers==0.22.2 transformers==5.2.0 gguf==0.19.0 sentencepiece protobuf
"""
import base64
import json
import os
import sys
from importlib.metadata import version

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tokenizer_lines import lines

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")
SMALL_MERGES = 800


def byte_chars():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in keep}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(keep))
    return table


BYTES = byte_chars()


def spell(token):
    return "".join(BYTES[b] for b in token)


def pair_of(ranks, token):
    """The two parts that were joined last: plain BPE over the ranks below this token's."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        best = min(((ranks.get(parts[i] + parts[i + 1], 1 << 30), i) for i in range(len(parts) - 1)))
        if best[0] >= ranks[token]:
            return None
        parts[best[1]:best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
    return parts if len(parts) == 2 else None


def from_ranks(ranks, specials, pattern, nfc, ignore_merges, limit):
    ranks = {t: r for t, r in ranks.items() if limit is None or r < 256 + limit}
    merges = []
    for token in sorted(ranks, key=ranks.get):
        parts = pair_of(ranks, token) if len(token) > 1 else None
        if parts:
            merges.append((spell(parts[0]), spell(parts[1])))
    vocab = {spell(token): rank for token, rank in ranks.items()}
    t = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    if nfc:
        t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated", False),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return t


def tiktoken_ranks(path):
    return {base64.b64decode(a): int(b) for a, b in (line.split() for line in open(path, "rb") if line.strip())}


def llama3(packages, limit):
    ranks = tiktoken_ranks(f"{packages}/llama_models/llama3/tokenizer.model")
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return from_ranks(ranks, specials, LLAMA3, False, True, limit)


def qwen(packages, limit):
    ranks = tiktoken_ranks(f"{packages}/dashscope/resources/qwen.tiktoken")
    return from_ranks(ranks, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], QWEN, True, False, limit)


def tekken(packages, limit):
    doc = json.load(open(f"{packages}/mistral_common/data/tekken_240718.json"))
    ranks = {base64.b64decode(e["token_bytes"]): e["rank"] for e in doc["vocab"]
             if e["rank"] < doc["config"]["default_vocab_size"] - doc["config"]["default_num_special_tokens"]}
    return from_ranks(ranks, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], doc["config"]["pattern"], False, True, limit)


def sentencepiece_parts(packages, limit):
    """Pieces and merges of Mistral 7B's SentencePiece model, in the order of the scores."""
    from sentencepiece import sentencepiece_model_pb2 as pb
    proto = pb.ModelProto()
    proto.ParseFromString(open(f"{packages}/mistral_common/data/tokenizer.model.v1", "rb").read())
    pieces = [p.piece for p in proto.pieces]
    if limit is not None:  # specials, bytes, the first merges, and European letters
        pieces = pieces[:259 + limit] + [p for p in pieces[259 + limit:] if len(p) == 1 and ord(p) < 0x250]
    vocab = {p: i for i, p in enumerate(pieces)}
    order = {p: i for i, p in enumerate(pieces)}
    merges = []
    for piece, rank in order.items():
        if rank < 259:
            continue
        local = [(order[piece[:i]], order[piece[i:]], piece[:i], piece[i:]) for i in range(1, len(piece))
                 if piece[:i] in vocab and piece[i:] in vocab]
        merges += [(a, b) for _, _, a, b in sorted(local)]
    return vocab, merges


def sentencepiece(packages, limit, style):
    """style: "legacy" (normalizer Prepend and Replace), "metaspace" (prepend first), "gemma" (no blank in front)."""
    vocab, merges = sentencepiece_parts(packages, limit)
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False))
    if style == "legacy":
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif style == "gemma":
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    t.decoder = decoders.Sequence(steps + ([] if style == "gemma" else [decoders.Strip(" ", 1, 0)]))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    t.add_special_tokens([AddedToken("[INST]", special=True, normalized=False, rstrip=True, lstrip=style == "metaspace")])
    t.add_tokens([AddedToken("<think>", normalized=style == "gemma", single_word=style == "legacy")])
    return t


def smollm2(path):
    import gguf
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    t = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i, k in enumerate(types) if k == 3])
    return t


NAMED = {
    "llama3": llama3, "qwen": qwen, "tekken": tekken,
    "spm_legacy": lambda p, n: sentencepiece(p, n, "legacy"),
    "spm_metaspace": lambda p, n: sentencepiece(p, n, "metaspace"),
    "spm_gemma": lambda p, n: sentencepiece(p, n, "gemma"),
}


def answers(tokenizer, texts):
    """Per line the ids, and the text that they decode to where it is not the line itself."""
    out = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        back = tokenizer.decode(ids, skip_special_tokens=True)
        out.append({"ids": " ".join(map(str, ids))} | ({} if back == text else {"back": back}))
    return out


def write(name, head, key, items):
    head = {"made_by": "make_tokenizer.py", "tokenizers": version("tokenizers")} | head
    with open(os.path.join(HERE, name), "w") as f:
        text = json.dumps(head, ensure_ascii=True, separators=(",", ":"))
        f.write(text[:-1] + f',"{key}":[\n')
        f.write(",\n".join(json.dumps(i, ensure_ascii=True, separators=(",", ":")) for i in items) + "\n]}\n")


def main(argv):
    texts = lines()
    if argv[0] == "--small":
        for name, make in NAMED.items():
            t = make(argv[1], SMALL_MERGES)
            chosen = range(0, len(texts), 7)
            rows = [{"line": i} | a for i, a in zip(chosen, answers(t, [texts[i] for i in chosen]))]
            write(f"tokenizer_{name}.json", {"tokenizer": json.loads(t.to_str())}, "rows", rows)
    elif argv[0] == "--full":
        for name, make in NAMED.items():
            os.makedirs(f"{argv[2]}/{name}", exist_ok=True)
            t = make(argv[1], None)
            t.save(f"{argv[2]}/{name}/tokenizer.json")
            json.dump({"rows": [{"line": i} | a for i, a in enumerate(answers(t, texts))]}, open(f"{argv[2]}/{name}/rows.json", "w"))
            print(name, t.get_vocab_size())
    else:
        write("tokenizer_lines.json", {}, "lines", texts)
        write("tokenizer_smollm2.json", {}, "rows", [{"line": i} | a for i, a in enumerate(answers(smollm2(argv[0]), texts))])


if __name__ == "__main__":
    main(sys.argv[1:])
