#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares what `platen inspect` keeps with press_rows.json (small models) or rows_smollm2.json (default model).

    compare.py tiny  PLATEN FOLDER [WORD]        FOLDER: made by `tiny.py --write FOLDER`
    compare.py model PLATEN MODEL.gguf [WORD]

Needs only Python's own library. With WORD only chains that contain it. Chains that are not built yet are counted.
"""
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB, MASK = 2048, (1 << 64) - 1


def tiny_ids(m, length):
    """As tiny.context."""
    ids = []
    for i in range(length):
        z = (1000 * m + 900 + (i + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        ids.append((z ^ z >> 31) >> 40)
    return [u % VOCAB for u in ids]


def rows_of(text):
    if text.startswith("x"):
        data = bytes.fromhex(text[1:])
        return [i for i in range(8 * len(data)) if data[i // 8] >> i % 8 & 1]
    rows = []
    for part in text.split():
        first, _, last = part.partition("-")
        rows += range(int(first), int(last or first) + 1)
    return rows


def head_differs(text, ours, edge):
    """None, or what is wrong with one head."""
    if text.startswith("#"):
        crc = f"#{zlib.crc32(struct.pack(f'<{len(ours)}i', *ours)):08x} {len(ours)}"
        return None if crc == text else f"{text} is {crc}"
    theirs, may = set(rows_of(text)), set(rows_of(edge))
    wrong = (theirs ^ set(ours)) - may
    if not wrong and (len(theirs) == len(ours) or may):
        return None
    return f"missing {sorted(theirs - set(ours) - may)[:9]}, not wanted {sorted(set(ours) - theirs - may)[:9]}, {len(ours)} of {len(theirs)}"


def edge_of(item, ids):
    """The edge of an item. In the first layer a key follows from its token, but for the rounding of its rotation: where one row
    is on the edge, so is every other of the same token."""
    edge = dict(item["edge"])
    for head, rows in edge.items():
        if head.startswith("0."):
            tokens = {ids[r] for r in rows_of(rows)}
            edge[head] = " ".join(str(i) for i, token in enumerate(ids) if token in tokens)
    return edge


def compare(item, layers):
    faults = []
    for index, heads in enumerate(item["layers"]):
        text = ""
        for head, told in enumerate(heads):
            text = text if told == "=" else told
            fault = head_differs(text, layers[index]["heads"][head], item["edge"].get(f"{index}.{head}", ""))
            if fault:
                faults.append(f"layer {index} head {head}: {fault}")
    return faults


def inspect(platen, model, ids, query, chain, more=()):
    with tempfile.TemporaryDirectory() as folder:
        def file(name, numbers):
            path = os.path.join(folder, name)
            with open(path, "w") as out:
                out.write(" ".join(map(str, numbers)))
            return path
        args = [platen, "inspect", "--model", model, "--press", chain, "--dtype", "f32", "--json", "--context-tokens",
                file("context", ids[:len(ids) - query])]
        if query:
            args += ["--query-tokens", file("query", ids[len(ids) - query:])]
        done = subprocess.run([*args, *more], capture_output=True, text=True, timeout=600)
    if done.returncode:
        return None, done.stderr.strip()
    return json.loads(done.stdout)["layers"], ""


def main(kind, platen, where, word=""):
    with open(os.path.join(HERE, "press_rows.json" if kind == "tiny" else "rows_smollm2.json"), encoding="utf-8") as file:
        data = json.load(file)
    contexts = {}
    if kind != "tiny":
        with open(os.path.join(HERE, "contexts.json"), encoding="utf-8") as file:
            contexts = {c["name"]: c["ids"] for c in json.load(file)["contexts"]}
    right, wrong, unbuilt = 0, 0, 0
    for item in data["rows"]:
        if word not in item["chain"]:
            continue
        if kind == "tiny":
            model = os.path.join(where, item["model"])
            ids = tiny_ids(data["models"][item["model"]]["m"], item["tokens"])
            press = os.path.join(model, "press")
            chain = re.sub(r"file=([\w-]+)", lambda f: f'file="{press}/{f[1]}{FILES.get(f[1], ".safetensors")}"', item["chain"])
            name = f"{item['model']} {item['tokens']} {item['chain']}"
        else:
            model, ids, chain, name = where, contexts[item["context"]], item["chain"], f"{item['context']} {item['chain']}"
        layers, error = inspect(platen, model, ids, item.get("query", 0), chain)
        if layers is None:
            unbuilt += "not built yet" in error
            wrong += "not built yet" not in error
            if "not built yet" not in error:
                print(f"{name}: {error.splitlines()[0] if error else 'failed'}")
            continue
        faults = compare(item, layers)
        right, wrong = right + (not faults), wrong + bool(faults)
        if faults:
            print(f"{name}: {len(faults)} heads; {faults[0]}", flush=True)
    print(f"{right} equal, {wrong} differ, {unbuilt} not built yet")
    return 1 if wrong else 0


FILES = {"duo": ".tsv", "lukv": ".npy"}

if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in ("tiny", "model"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
