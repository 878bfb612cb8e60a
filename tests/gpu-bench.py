#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench-gpu.sh [--only WORD] [--seconds N] [--json FILE] [--bin DIR] [--rounds R] [--list]

Every GPU bench line: single operations (gpu_ops), whole models with random weights (platen bench), and torch and transformers
on the same card just before and after (gpu_peers.py; left out, visibly, where python3 has no torch). A job is what must be
compared on one card: it has a GPU to itself, and jobs are spread over the GPUs of this machine.

    --only WORD    jobs and lines with WORD in the job's name (several: a,b)
    --seconds N    no job is begun after that, and what runs then is ended; what was not run is said
    --json FILE    one object a line: {"name", "value", "unit", "bar", "met", ...}; the last one is the summary

One line per figure (`ok`, `MISSED` or `-` where there is no bar), a summary line last. Exit code 0: all that was run ended
well (bars may be missed); 1: something failed; 77: no GPU here. Python's own library only.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PRESSES = {  # press: bars of its share of the prefill at 4k and at 32k
    "knorm": (0.02, 0.008), "snapkv": (0.02, 0.008), "tova": (0.02, 0.008), "streaming": (0.02, 0.008),
    "snapkv | adakv": (0.02, 0.008), "expected": (0.025, 0.01),
}


class Failed(Exception):
    pass


class Job:
    """One job on one GPU: runs programs, tells figures."""

    def __init__(self, name, gpu):
        self.name, self.gpu, self.figures = name, gpu, []

    def command(self, words):
        done = None
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=max(1, left()),
                                  env=dict(os.environ, CUDA_VISIBLE_DEVICES=self.gpu) if self.gpu else None)
        except subprocess.TimeoutExpired:
            raise Failed("no time left")
        if done.returncode:
            raise Failed(f"{' '.join(words)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def ops(self, only):
        """Lines of gpu_ops by name."""
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            self.command([program("gpu_ops"), "--backend", "cuda:0", "--only", only, "--json", file.name])
            return {item["name"]: item for item in map(json.loads, open(file.name))}

    def model(self, shape, *words):
        text = self.command([program("platen"), "bench", "--random", shape, "--backend", "cuda:0", "--rounds", str(args.rounds),
                             "--json", *map(str, words)])
        return json.loads(text.splitlines()[-1])

    def peer(self, what):
        """Lines of gpu_peers.py by name; None where there is no torch."""
        if not TORCH:
            tell(self, f"peer {what}", None, "", None, note="no torch here: not run")
            return None
        path = next(p for p in (os.path.join(HERE, "gpu_peers.py"), os.path.join(HERE, "bench", "gpu_peers.py")) if os.path.exists(p))
        return {item["name"]: item["us"] for item in map(json.loads, self.command([sys.executable, path, what]).splitlines())}


def tell(job, name, value, unit, bar, note="", at_most=False, **more):
    met = None if bar is None or value is None else (value <= bar if at_most else value >= bar)
    mark = {None: "-", True: "ok", False: "MISSED"}[met]
    with PRINT:
        shown = "" if value is None else f"{value:.4g} {unit}"
        wanted = "" if bar is None else f"(wanted {'<=' if at_most else '>='} {bar:g})"
        print(f"{mark:7}{job.name:18} {name}: {shown} {wanted} {note}".rstrip(), flush=True)
        FOUND.append({"job": job.name, "name": name, "value": value, "unit": unit, "bar": bar, "met": met, "note": note, **more})


# ---- the jobs ----

DECODE_BARS = {"B=64 4096 equal": 0.92, "B=1 8192 equal": 0.55, "B=1 32768 equal": 0.80, "B=1 131072 equal": 0.90}


def ops_decode(job):
    lines = job.ops("decode")
    for name, item in lines.items():
        bar = next((b for word, b in DECODE_BARS.items() if word in name and "32/8" in name), None)
        if name.startswith("decode"):
            tell(job, name, item["ratio"], f"of copy, {item['us']:.1f} us", bar, **item_of(item))
    equal, ragged = lines.get("decode 32/8 x 128 B=64 4096 equal"), lines.get("decode 32/8 x 128 B=64 4096 ragged")
    if equal and ragged:
        tell(job, "ragged against equal, B=64 at 4k", ragged["us"] / equal["us"], "x", 1.05, at_most=True)


def item_of(item):
    return {"us": item["us"], "per_second": item["value"], "per": item["unit"]}


def ops_attention(job):
    before = job.peer("sdpa")
    lines = job.ops("attention")
    after = job.peer("sdpa") if before else None
    for name, item in lines.items():
        if not name.startswith(("attention", "own attention")):
            continue
        theirs = (before[name] + after[name]) / 2 if before and name in before else None
        if theirs is None:
            tell(job, name, item["us"], f"us, {item['value']:.0f} TFLOP/s", None, **item_of(item))
            continue
        tell(job, f"{name} against torch's cuDNN", theirs / item["us"], f"x, {item['us']:.1f} us, {item['value']:.0f} TFLOP/s", 1.0,
             **item_of(item), peer_us=theirs)


def ops_presses(job):
    before = job.peer("topk")
    lines = job.ops("presses")
    for name, item in lines.items():
        if name.startswith("pack"):
            tell(job, name, item["ratio"], f"of copy, {item['us']:.1f} us", 0.85, **item_of(item))
        elif before and name in before:
            tell(job, f"{name} against torch.topk", before[name] / item["us"], f"x, {item['us']:.1f} us", 5.0, **item_of(item))
            if name.endswith("x 32768"):
                tell(job, name, item["us"], "us", 12, at_most=True)
        elif not name.startswith(("copy", "gemm")):
            tell(job, name, item["us"], "us", None, **item_of(item))


def ops_rest(job, only):
    for name, item in job.ops(only).items():
        tell(job, name, item["us"], f"us, {item['value']:.0f} {item['unit']}", None, ratio=item["ratio"], of=item["of"], **item_of(item))


def step(job, shape, bar, *words):
    """A decode step against weights and KV at copy speed."""
    r = job.model(shape, "--decode", 32, *words)
    ideal = r["bytes_per_step"] / (r["copy_gb_s"] * 1e6)
    if shape == "llama-8b":
        tell(job, f"launches of a step {' '.join(map(str, words))}", r["step_launches"], "", 5 * 32 + 3, at_most=True)
    tell(job, f"{shape} step {' '.join(map(str, words))}", ideal / r["step_ms"], f"of copy, {r['step_ms']:.3f} ms, {r['decode_tok_s']:.0f} tokens/s",
         bar, result=r)
    return r


def steps_pressed(job):
    """What a ratio gains at B = 64, 4k, and at B = 8, 32k, of what the bytes allow."""
    for batch, context in ((64, 4096), (8, 32768)):
        words = ("--batch", batch, "--context", context)
        plain = step(job, "llama-8b", {64: 0.85, 8: 0.87}[batch], *words)
        for ratio in (0.5, 0.75):
            r = step(job, "llama-8b", None, *words, "--press", f"snapkv | ratio={ratio}")
            gain, allowed = plain["step_ms"] / r["step_ms"], plain["bytes_per_step"] / r["bytes_per_step"]
            tell(job, f"B={batch} at {context}: gain of ratio {ratio}", gain / allowed, f"of what bytes allow, {gain:.3f} of {allowed:.3f} x", 0.92)
        if batch == 64:
            step(job, "llama-8b", None, *words, "--ragged", 0.8)


def steps_alone(job):
    step(job, "llama-8b", 0.88, "--batch", 1, "--context", 4096)
    step(job, "llama-1b", 0.65, "--batch", 1, "--context", 4096)
    step(job, "smollm2", None, "--batch", 1, "--context", 4096)


def steps_against_transformers(job):
    theirs = job.peer("decode")
    for batch in (1, 16):
        r = job.model("llama-8b", "--decode", 32, "--batch", batch, "--context", 4096)
        peer = theirs and theirs[f"decode {batch} x 4096"] / 1000
        tell(job, f"decode B={batch} at 4k against transformers' eager", peer and peer / r["step_ms"], f"x, {r['step_ms']:.2f} ms",
             4.0 if peer else None, result=r, peer_ms=peer)


def prefill_parts(tokens, r):
    """GEMMs and attention at the speed they have alone, in ms, and the other bytes at copy speed (x and qkv in f32; q, k, v, gate and up)."""
    gemm = 2 * tokens * (32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)) / (r["gemm_tflops"] * 1e9)
    attention = 32 * 4 * 128 * 32 * tokens * (tokens + 1) / 2 / (r["sdpa_tflops"] * 1e9)
    other = 32 * tokens * 2 * (6 * 4096 + 3 * 6144 + 3 * 14336) / (r["copy_gb_s"] * 1e6)
    return gemm + attention + other


def prefill(job, tokens, peer):
    theirs = job.peer("prefill") if peer else None
    r = job.model("llama-8b", "--prefill", tokens)
    parts = prefill_parts(tokens, r)
    tell(job, f"prefill {tokens} against its parts", parts / r["total_ms"], f"x, {r['total_ms']:.1f} ms, {r['prefill_tok_s']:.0f} tokens/s",
         0.90 if tokens == 8192 else None, result=r)
    if theirs:
        tell(job, f"prefill {tokens} against transformers", theirs[f"prefill {tokens}"] / 1000 / r["total_ms"], "x", 1.2)
    return r


def shares(job, tokens, presses):
    """What a press adds to the whole prefill, the plain one measured before and after."""
    plain = [job.model("llama-8b", "--prefill", tokens)["total_ms"]]
    pressed = {}
    for press in presses:
        pressed[press] = job.model("llama-8b", "--prefill", tokens, "--press", f"{press} | ratio=0.5")
    plain.append(job.model("llama-8b", "--prefill", tokens)["total_ms"])
    base = min(plain)
    for press, r in pressed.items():
        bar = PRESSES.get(press, (None, None))[0 if tokens == 4096 else 1]
        tell(job, f"{press} adds to a prefill of {tokens}", (r["total_ms"] - base) / base, f"of it, {r['total_ms'] - base:.2f} of {base:.1f} ms",
             bar, at_most=True, plain_ms=plain, result=r)


def observed(job):
    plain = job.model("llama-8b", "--prefill", 8192)
    r = job.model("llama-8b", "--prefill", 8192, "--press", "observed | ratio=0.5")
    attention = 32 * 4 * 128 * 32 * 8192 * 8193 / 2 / (plain["sdpa_tflops"] * 1e9)
    added = r["total_ms"] - plain["total_ms"]
    tell(job, "observed at 8192 against its attention", added / attention, f"x, {added:.1f} ms", 0.6, at_most=True, result=r)


def kvpress(job):
    """What a press adds to a prefill: kvpress's hooks to transformers', ours to ours; never less than plain runs of ours differ by."""
    theirs = job.peer("kvpress") if KVPRESS else None
    if not theirs:
        tell(job, "press time against kvpress", None, "", None, note="no kvpress here: not run")
        return
    plain, added = [job.model("llama-8b", "--prefill", 4096)["total_ms"]], {}
    for press in (name.removesuffix(" 4096") for name in theirs):
        r = job.model("llama-8b", "--prefill", 4096, "--press", f"{press} | ratio=0.5")
        plain.append(job.model("llama-8b", "--prefill", 4096)["total_ms"])
        added[press] = r["total_ms"] - sum(plain[-2:]) / 2
    least = max(abs(a - b) for a, b in zip(plain, plain[1:]))
    for press, ms in added.items():
        peer = theirs[f"{press} 4096"] / 1000
        tell(job, f"{press} at 4096 against kvpress", peer / max(ms, least), f"x, {ms:.2f} of {peer:.1f} ms", 10.0, added_ms=ms, peer_ms=peer,
             plain_ms=plain)


JOBS = [
    ("share.4k", lambda j: shares(j, 4096, PRESSES)),
    ("share.32k", lambda j: shares(j, 32768, [p for p in PRESSES if p != "streaming"])),
    ("peer.decode", steps_against_transformers),
    ("step.pressed", steps_pressed),
    ("step.alone", steps_alone),
    ("observed", observed),
    ("prefill.8k", lambda j: prefill(j, 8192, True)),
    ("ops.attention", ops_attention),
    ("ops.presses", ops_presses),
    ("ops.decode", ops_decode),
    ("prefill.32k", lambda j: prefill(j, 32768, False)),
    ("ops.products", lambda j: ops_rest(j, "products")),
    ("ops.stage", lambda j: ops_rest(j, "stage")),
    ("peer.kvpress", kvpress),
]


# ---- running them ----

def program(name):
    path = os.path.join(args.bin, name)
    return path if os.path.exists(path) else os.path.join(args.bin, "..", "tests", "bin", name)


def left():
    return args.seconds - (time.monotonic() - BEGIN)


def gpus():
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told:
        return told.split(",")
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        return []


def worker(gpu, waiting, failed):
    while True:
        with PRINT:
            if not waiting:
                return
            name, run = waiting.pop(0)
        job = Job(name, gpu)
        try:
            if left() <= 0:
                raise Failed("no time left")
            run(job)
        except (Failed, OSError, ValueError, KeyError, StopIteration) as failure:
            failed.append(name)
            with PRINT:
                print(f"FAILED {name:18} {type(failure).__name__}: {failure}", flush=True)


def main():
    wanted = [j for j in JOBS if not args.only or any(word in j[0] for word in args.only.split(","))]
    if args.list:
        print("\n".join(name for name, _ in wanted))
        return 0
    cards, failed, waiting = gpus(), [], list(wanted)
    if not cards:
        print("bench-gpu: no GPU here")
        return 77
    threads = [threading.Thread(target=worker, args=(gpu, waiting, failed)) for gpu in cards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    met, missed = (sum(f["met"] is value for f in FOUND) for value in (True, False))
    summary = {"figures": len(FOUND), "met": met, "missed": [f["name"] for f in FOUND if f["met"] is False], "failed": failed,
               "gpus": cards, "seconds": round(time.monotonic() - BEGIN)}
    print(f"{len(FOUND)} figures: {met} bars met, {missed} missed; {len(failed)} jobs failed: {' '.join(failed)}")
    with open(args.json, "w") as file:
        for figure in [*FOUND, summary]:
            file.write(json.dumps(figure) + "\n")
    return 1 if failed else 0


def has(modules):
    return subprocess.run([sys.executable, "-c", f"import torch, {modules}; assert torch.cuda.is_available()"],
                          capture_output=True).returncode == 0


parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1], usage=__doc__.splitlines()[0])
parser.add_argument("--only", default="")
parser.add_argument("--seconds", type=float, default=3600)
parser.add_argument("--json", default="bench-gpu.json")
parser.add_argument("--bin", default=os.path.join(HERE, "..", "bin"))
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--list", action="store_true")

if __name__ == "__main__":
    args = parser.parse_args()
    BEGIN, PRINT, FOUND = time.monotonic(), threading.RLock(), []
    TORCH, KVPRESS = (not args.list and has(modules) for modules in ("transformers", "kvpress"))
    sys.exit(main())
