#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""gpu-model.py --model GGUF [--bin DIR] [--golden DIR] [--backend cuda|cpu] [--only WORD] [--limit S] [--json FILE]

The default model (SmolLM2-135M-Instruct) on a card, through the programs, against the golden data and the CPU:

    logits    the largest logits of three contexts against transformers'
    rows      kept rows against kvpress's (f32; rows on the edge may differ), and of every training-free press against the
              CPU's in the same dtype: all equal in f32 but for rows on the edge, 99.5 % equal in bf16. On the edge: kept by
              one and not by the other in the place of a row whose score, by the CPU, is the same to 1e-5 of it, or, in the
              first layer, of a row of the same token where the score looks at keys alone and not at where they stand. Beyond
              those no more rows than twice what two instruction sets of the CPU differ by (block makes many out of one)
    answers   greedy tokens of 20 questions, plain and pressed, and of four in which dms goes on (by knorm, by kvzap), through a
              prefill and a decode node in f32: equal to the reference's but after a step whose two best logits differ by
              less than 0.001

Jobs are spread over the GPUs of this machine. One line for whatever does not hold, a summary line, a JSON line. Exit code
0: all hold; 1: not; 77: no GPU or no model here. Python's own library only.
"""
import argparse
import concurrent.futures
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
NEAR = 1e-3
EDGE = 1e-5
BY_TOKEN = ("knorm", "leverage")            # scores that rows of one token share in the first layer, but for rounding
LOGITS_OFF = {"f32": 2e-3, "bf16": 0.5}     # a bf16 logit near 30 is a multiple of 0.125
CHAINS = [
    "knorm", "streaming", "keydiff", "lagkv:lag=32", "cur", "snapkv:window=32", "tova", "observed", "expected",
    "expected:eps=0.01 | adakv", "cap", "noncausal", "leverage", "compactor", "random", "snapkv:window=32 | adakv",
    "keydiff | adakv", "snapkv:window=32 | critical", "snapkv:window=32 | criticaladakv", "snapkv:window=16 | pyramid",
    "knorm | chunk:length=100", "snapkv:window=32 | chunkkv", "keydiff | block", "expected | block", "kvzip", "kvcompose",
    "snapkv:window=32 | egchunkkv", "snapkv:window=32 | ratio=0.5 | merge", "knorm | dms:threshold=-12,window=32",
    "simlayer:threshold=0.9,recent=64", "keydiff | ratio=0.3 | rerotate | knorm | ratio=0.3",
    "snapkv:window=32 | ratio=0.3 | think | keydiff | ratio=0.3",
]


GATES = {0: "", 16: ""}    # kvzap's networks by width: files, once they are written
GATED = (30, 576, 3)       # layers, width, KV heads of the model


def golden(name):
    with open(os.path.join(args.golden, name), encoding="utf-8") as file:
        return json.load(file)


def environment(gpu):
    return dict(os.environ, CUDA_VISIBLE_DEVICES=gpu) if gpu else dict(os.environ)


def gpus():
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told:
        return told.split(",")
    try:
        asked = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    except FileNotFoundError:
        return [""]
    return asked.stdout.split() or [""]


def left():
    return max(1, args.limit - (time.monotonic() - BEGIN))


def inspect(ids, chain, dtype, backend, *more):
    """The object that `platen inspect` prints; raises RuntimeError with its sentence."""
    gpu = FREE.get()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".ids") as file:
            file.write(" ".join(map(str, ids)))
            file.flush()
            done = subprocess.run(
                [os.path.join(args.bin, "platen"), "inspect", "--model", args.model, "--press", chain, "--dtype", dtype,
                 "--backend", backend, "--json", "--context-tokens", file.name, *more], capture_output=True, text=True,
                timeout=left(), env=environment(gpu))
    except subprocess.TimeoutExpired:
        raise RuntimeError("no time left")
    finally:
        FREE.put(gpu)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip()[:300]}")
    return json.loads(done.stdout)


# ---- logits ----

def logits_job(item, ids, dtype):
    made = {i: v for i, v in map(pair_of, inspect(ids, "none", dtype, CARD, "--logits", "40")["logits"])}
    off, count = 0.0, 0
    for token, value in item["top"]:
        if token in made:
            off, count = max(off, abs(made[token] - value)), count + 1
    if count < 15 or off > LOGITS_OFF[dtype]:
        return f"off by {off:.4f} where {LOGITS_OFF[dtype]} is allowed; {count} of 20 largest found", {"off": off}
    return None, {"off": off}


def pair_of(entry):
    """`platen inspect` tells a logit as an object or a pair."""
    return (entry["id"], entry["logit"]) if isinstance(entry, dict) else (entry[0], entry[1])


# ---- rows ----

def golden_rows_job(item, ids):
    item = item | {"edge": COMPARE.edge_of(item, ids)}
    faults = COMPARE.compare(item, inspect(ids, item["chain"], "f32", CARD)["layers"])
    return (f"{len(faults)} heads differ; {faults[0]}" if faults else None), {"heads": len(faults)}


def share(a, b):
    same = total = 0
    for ours, theirs in zip(a, b):
        for x, y in zip(ours["heads"], theirs["heads"]):
            same, total = same + len(set(x) & set(y)), total + max(len(x), len(y))
    return same, total


def unequal(share):
    same, total = share
    return total - same


def exchanged(layer, made, token):
    """Rows of a layer that were decided otherwise, and those of them that changed places with a row of the same score, by
    the CPU's scores or (token: of every row, or None) as of the same token: (rows, on the edge). Both as (kept by the CPU,
    head, row)."""
    differ = [(kept, head, row) for kept in (True, False) for head, rows in enumerate(zip(layer["heads"], made["heads"]))
              for row in (set(rows[0]) - set(rows[1]) if kept else set(rows[1]) - set(rows[0]))]
    scores = layer.get("scores")

    def same(head, row, h, r):
        if token and head == h and token[row] == token[r]:
            return True
        a, b = (scores[head][row], scores[h][r]) if scores else (None, None)
        return a is not None and b is not None and abs(a - b) <= EDGE * max(abs(a), abs(b))

    return differ, [(kept, head, row) for kept, head, row in differ if any(k != kept and same(head, row, h, r) for k, h, r in differ)]


def rows_job(ids, chain):
    """Rows of the card against the CPU's, each dtype by itself; how far bf16 is from the CPU's f32 is told beside it. Rounds
    of block make many rows out of one near tie: where the CPU's own ways differ, the card may differ by twice as many."""
    cpu = {"f32": inspect(ids, chain, "f32", "cpu", "--scores")["layers"], "bf16": inspect(ids, chain, "bf16", "cpu")["layers"]}
    card = {dtype: inspect(ids, chain, dtype, CARD)["layers"] for dtype in cpu}
    out = {dtype: share(card[dtype], cpu[dtype]) for dtype in cpu}
    out |= {"bf16 card to f32": share(card["bf16"], cpu["f32"]), "bf16 cpu to f32": share(cpu["bf16"], cpu["f32"])}
    first = ids if re.match(r"\w+", chain)[0] in BY_TOKEN else None
    found = [(index, *exchanged(layer, made, first if index == 0 else None)) for index, (layer, made) in enumerate(zip(cpu["f32"], card["f32"]))]
    wrong = [(index, *row) for index, differ, edge in found for row in differ if row not in edge]
    out["edge"] = sum(kept for _, _, edge in found for kept, _, _ in edge)
    if not wrong:
        return None, out
    plain = inspect(ids, chain, "f32", "cpu:plain")["layers"]
    out["spread"] = unequal(share(plain, cpu["f32"]))
    if unequal(out["f32"]) <= 2 * out["spread"]:
        return None, out
    index, kept, head, row = wrong[0]
    return (f"f32: {out['f32'][1] - out['f32'][0]} of {out['f32'][1]} rows are not the CPU's, {out['edge']} of them on the edge; "
            f"layer {index} head {head} row {row} is {'missing' if kept else 'not wanted'}"), out


# ---- answers ----

class Nodes:
    """A prefill node and a decode node on one GPU."""

    def __init__(self, gpu, folder):
        self.processes = []
        common = ["--model", args.model, "--listen", "127.0.0.1:0", "--dtype", "f32", "--backend", CARD, "--memory-fraction", "0.3"]
        common += [word for width, path in GATES.items() for word in ("--press-file", f"gate-{width}={path}")]
        prefill = self.start("prefill-node", common, gpu, folder)
        self.address = self.start("decode-node", [*common, "--prefill", prefill], gpu, folder)

    def start(self, program, arguments, gpu, folder):
        out, log = (os.path.join(folder, f"{program}.{end}") for end in ("out", "log"))
        process = subprocess.Popen([os.path.join(args.bin, program), *arguments], stdout=open(out, "w"), stderr=open(log, "w"),
                                   env=environment(gpu))
        self.processes.append(process)
        end = time.monotonic() + min(90, left())
        while time.monotonic() < end and process.poll() is None:
            for line in open(out).read().splitlines():
                if line.startswith("serving "):
                    return line.split(" ", 1)[1]
            time.sleep(0.1)
        raise RuntimeError(f"{program} does not serve: {open(log).read()[-300:]}")

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


def field(value):
    return json.loads(value) if isinstance(value, str) else value


def answer_fault(answer, made):
    wanted, gaps = field(answer["tokens"]), field(answer["gaps"])
    if made == wanted or int(answer.get("edges", 0)) > 0:
        return None
    at = next((i for i, (a, b) in enumerate(zip(made, wanted)) if a != b), min(len(made), len(wanted)))
    if at < len(gaps) and gaps[at] < NEAR:
        return None
    return f"{answer['context']} | {answer['question']}: token {at} is {made[at:at + 1]}, not {wanted[at:at + 1]}"


def context_text(name):
    context = next(c for c in golden("contexts.json")["contexts"] if c["name"] == name)
    texts = (n if n.endswith(".txt") else n + ".txt" for n in field(context["texts"]))
    return "".join(open(os.path.join(args.golden, "texts", n), encoding="utf-8").read() for n in texts)


def answers_job(nodes, chain, context, answers, most):
    questions = [word for a in answers for word in ("--question", a["question"])]
    press = [] if chain == "none" else ["--press", chain]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(context_text(context))
        file.flush()
        done = subprocess.run([os.path.join(args.bin, "platen"), "ask", "--server", nodes.address, "--json", "--context-file",
                               file.name, *questions, *press, "--max-new-tokens", str(most)], capture_output=True, text=True,
                              timeout=left())
    if done.returncode:
        return f"exit {done.returncode}: {done.stderr.strip()[:300]}", {}
    faults = [answer_fault(a, m["tokens"]) for a, m in zip(answers, json.loads(done.stdout)["answers"])]
    faults = [f for f in faults if f]
    return (faults[0] if faults else None), {"answers": len(answers), "differ": len(faults)}


def answers_of(chain, data, gpu):
    """All contexts of one chain, through one pair of nodes."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = None
        try:
            nodes = Nodes(gpu, folder)
            groups = {}
            for a in data["answers"]:
                if a["chain"] == chain:
                    groups.setdefault(a["context"], []).append(a)
            found = [answers_job(nodes, chain, c, some, data.get("max_new_tokens") or some[0]["max_new_tokens"])
                     for c, some in groups.items()]
        finally:
            if nodes:
                nodes.end()
    faults = [f for f, _ in found if f]
    return (faults[0] if faults else None), {"answers": sum(n.get("answers", 0) for _, n in found),
                                             "differ": sum(n.get("differ", 0) for _, n in found)}


def answers_job_on_a_gpu(chain, data):
    gpu = FREE.get()
    try:
        return answers_of(chain, data, gpu)
    finally:
        FREE.put(gpu)


# ---- all of it ----

def jobs():
    ids = {c["name"]: field(c["ids"]) for c in golden("contexts.json")["contexts"]}
    data = golden("smollm2_answers.json")
    for item in golden("smollm2_logits.json")["sequences"]:
        for dtype in ("f32", "bf16"):
            yield f"logits.{dtype}.{item['context']}", logits_job, (item, ids[item["context"]], dtype)
    for chain in sorted({a["chain"] for a in data["answers"]}):
        yield f"answers.{chain}", answers_job_on_a_gpu, (chain, data)
    more = golden("dms_answers.json")
    for chain in sorted({a["chain"] for a in more["answers"]}):
        yield f"answers.{chain}", answers_job_on_a_gpu, (chain, more)
    for item in data["rows"]:
        if item["context"] in ("fox", "minutes", "survey"):
            yield f"rows.{item['context']}.{item['chain']}", golden_rows_job, (item, ids[item["context"]])
    for chain in CHAINS + [f'kvzap:file="{path}"' for path in GATES.values()]:
        for context in ("recipe", "minutes"):
            text = chain if "ratio=" in chain or "threshold=" in chain else f"{chain} | ratio=0.5"
            yield f"rows.cpu.{context}.{text}", rows_job, (ids[context], text)


def run(name, job, arguments):
    if time.monotonic() - BEGIN > args.limit:
        return name, "not run: no time left", {}
    try:
        fault, numbers = job(*arguments)
    except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as failure:
        fault, numbers = f"{type(failure).__name__}: {failure}", {}
    return name, fault, numbers


def main():
    if not os.path.exists(args.model) or not os.path.isdir(args.golden):
        print(f"gpu-model: no model at {args.model}, or no golden data at {args.golden}")
        return 77
    if args.backend != "cpu":
        seen = subprocess.run([os.path.join(args.bin, "platen"), "bench", "--random", "tiny", "--backend", CARD, "--prefill", "16",
                               "--rounds", "1"], capture_output=True, text=True)
        if seen.returncode and "no CUDA device" in seen.stderr + seen.stdout:
            print(seen.stderr.strip())
            return 77
    with tempfile.TemporaryDirectory() as folder:
        for width in GATES:
            GATES[width] = os.path.join(folder, f"gate-{width}")
            with open(GATES[width], "wb") as file:
                file.write(MAKE_GATES.safetensors(MAKE_GATES.tensors(*GATED, width)))
        return check([j for j in jobs() if args.only in j[0]])


def check(wanted):
    found = []
    with concurrent.futures.ThreadPoolExecutor(FREE.qsize()) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, *j) for j in wanted]):
            found.append(done.result())
            if found[-1][1]:
                print(f"BROKEN {found[-1][0]}: {found[-1][1]}", flush=True)
    failed = [name for name, fault, _ in found if fault]
    shares = {}
    for dtype in ("f32", "bf16", "bf16 card to f32", "bf16 cpu to f32"):
        pairs = {n: v[dtype] for n, _, v in found if dtype in v}
        same, total = (sum(p[i] for p in pairs.values()) for i in (0, 1))
        shares[dtype] = same / total if total else None
        for name, (same, total) in sorted(pairs.items(), key=lambda p: p[1][0] / max(1, p[1][1]))[:5]:
            print(f"{dtype} {name}: {same / max(1, total):.5f} of the rows are equal")
    if shares["bf16"] is not None and shares["bf16"] < 0.995:
        failed.append("rows.cpu in bf16")
    off = {d: max([v["off"] for n, _, v in found if n.startswith(f"logits.{d}") and "off" in v], default=None) for d in LOGITS_OFF}
    edges = sum(v.get("edge", 0) for _, _, v in found)
    for name, _, numbers in found:
        if "spread" in numbers:
            print(f"f32 {name}: {unequal(numbers['f32'])} rows are not the CPU's, whose own ways differ by {numbers['spread']}")
    summary = {"passed": len(found) - len([f for f in found if f[1]]), "failed": sorted(failed), "rows_equal": shares,
               "rows_on_the_edge": edges, "logits_off": off,
               "answers": sum(v.get("answers", 0) for _, _, v in found), "answers_differ": sum(v.get("differ", 0) for _, _, v in found),
               "seconds": round(time.monotonic() - BEGIN)}
    print(f"{summary['passed']} model checks hold, {len(failed)} do not; rows equal {shares}, {edges} on the edge in f32; "
          f"logits off {off}; {summary['answers_differ']} of {summary['answers']} answers differ")
    print(json.dumps(summary))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(summary, file)
    return 1 if failed else 0


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default=os.path.join(HERE, "..", "build", "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
parser.add_argument("--bin", default=os.path.join(HERE, "..", "bin"))
parser.add_argument("--golden", default=os.path.join(HERE, "golden"))
parser.add_argument("--backend", default="cuda")
parser.add_argument("--only", default="")
parser.add_argument("--limit", type=float, default=600)
parser.add_argument("--each", type=int, default=3, help="processes that share a GPU")
parser.add_argument("--json", default="")

if __name__ == "__main__":
    args = parser.parse_args()
    BEGIN = time.monotonic()
    CARD = "cuda:0" if args.backend == "cuda" else args.backend
    sys.path.insert(0, args.golden)
    import compare as COMPARE
    import gates as MAKE_GATES
    FREE = queue.Queue()
    for index in gpus() * args.each if args.backend == "cuda" else [""] * args.each:
        FREE.put(index)
    sys.exit(main())
