#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nodes.py - prefill and decode nodes as one service on one host, each with its own GPU: see tests/bench-nodes.sh.

Parts, in this order; each prints JSON lines and ends within its share of the seconds:

    links    blocks from two GPUs at once, to one GPU and to two, against one alone
    equal    every decode node with every prefill node over every transport: the same answers
    ttft     one order at a time: what pressing and shipping add to a plain prefill
    goodput  orders/s whose first token came in time, for 1+1, 1+2, 2+1, 2+2, by context and ratio
    kill     kill -9 of a prefill and of a decode node under load, and new ones in their places

Python's own library only.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import shape_model  # noqa: E402

KEEP = "knorm | ratio={ratio}"
SLACK = 4  # the first token is in time within so many times the unloaded time


def press_of(ratio):
    return "none" if ratio == 0 else KEEP.format(ratio=ratio)


def free_port():
    """Below the ports that outgoing connections are given: it is still free when the node wants it."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))] if values else None


def rounded(value, digits=3):
    return None if value is None else round(value, digits)


class Node:
    """One process of prefill-node or decode-node."""

    def __init__(self, bench, kind, name, gpu, more=()):
        self.bench, self.kind, self.name, self.gpu, self.more = bench, kind, name, gpu, list(more)
        self.port, self.metrics_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = None
        self.trace = os.path.join(bench.o.trace_dir, f"{name}.json") if bench.o.trace_dir else None

    def start(self):
        o = self.bench.o
        self.out = os.path.join(self.bench.folder, f"{self.name}.out")
        backend = "cpu" if o.cpu else f"cuda:{self.gpu}"
        trace = ["--trace", self.trace] if self.trace else []
        arguments = [os.path.join(o.bin, f"{self.kind}-node"), "--model", self.bench.model, "--random-weights", "--backend", backend,
                     "--listen", self.address, "--metrics", f"127.0.0.1:{self.metrics_port}", "--log-level", "info", *trace, *self.more]
        if o.cpu:
            arguments += ["--threads", "1"]
        self.begun = time.monotonic()
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=open(self.out, "w"),
                                        stderr=open(os.path.join(self.bench.folder, f"{self.name}.log"), "a"))
        self.bench.running.append(self)
        return self

    def log(self):
        return open(os.path.join(self.bench.folder, f"{self.name}.log")).read()

    def wait_serving(self, seconds=120):
        end = time.monotonic() + seconds
        while f"serving {self.address}" not in open(self.out).read():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"nodes: {self.name} does not serve: {self.log()[-1500:]}")
            time.sleep(0.02)
        return self

    def metric(self, name):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as page:
                rows = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", page.read().decode(), re.M)
        except OSError:
            return None
        return sum(map(float, rows)) if rows else None

    def wait_peers(self, count, seconds=60):
        end = time.monotonic() + seconds
        while self.metric("platen_decode_prefill_nodes_cached") != count:
            if time.monotonic() > end:
                raise SystemExit(f"nodes: {self.name} does not know {count} prefill nodes: {self.log()[-1500:]}")
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


class Answer:
    """One order as its client saw it."""

    def __init__(self, decode, begun, process):
        self.decode, self.begun, self.end = decode, begun, time.monotonic()
        self.ok = process.returncode == 0
        self.error = "" if self.ok else process.stderr.strip()[-300:]
        self.reply = json.loads(process.stdout) if self.ok else {}
        self.tokens = self.reply["answers"][0]["tokens"] if self.ok else []
        self.first_ms = self.reply["timings_ms"]["first_token"] if self.ok else None


class Bench:
    def __init__(self, o):
        self.o, self.running, self.rows = o, [], []
        self.begun = time.monotonic()
        self.folder = tempfile.mkdtemp(prefix="platen-nodes-")
        self.use_shape(o.shape)
        self.transport = ["--transport", o.transport] if o.transport else []
        self.files = {}

    def use_shape(self, name):
        self.model = os.path.join(self.folder, name)
        self.vocab = shape_model.shape_of(name)["vocab"]
        if not os.path.isdir(self.model):
            shape_model.write(name, self.model)

    def say(self, row):
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def left(self):
        return self.o.seconds - (time.monotonic() - self.begun)

    def context(self, tokens):
        if tokens not in self.files:
            self.files[tokens] = os.path.join(self.folder, f"context-{tokens}")
            with open(self.files[tokens], "w") as out:
                out.write(" ".join(str(100 + 7919 * i % min(40000, self.vocab - 100)) for i in range(tokens)))
        return self.files[tokens]

    def ask(self, decode, tokens, ratio, new_tokens=4, press=None, seconds=120):
        begun = time.monotonic()
        process = subprocess.run(
            [os.path.join(self.o.bin, "platen"), "ask", "--json", "--server", decode.address, "--context-tokens",
             self.context(tokens), "--question", "And?", "--max-new-tokens", str(new_tokens), "--press", press or press_of(ratio),
             "--timeout", str(seconds)], capture_output=True, text=True)
        return Answer(decode, begun, process)

    def sure(self, *arguments, **more):
        answer = self.ask(*arguments, **more)
        if not answer.ok:
            raise SystemExit(f"nodes: {answer.error}\n" + "\n".join(n.log()[-600:] for n in self.running))
        return answer

    def end_all(self):
        for node in self.running:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in self.running:
            node.end()
        self.running = []

    def gpu(self, index):
        return index % max(1, self.o.gpus)

    # ---- nodes --------------------------------------------------------------------------------------------------------

    def prefill(self, i, gpu, longest, more=()):
        return Node(self, "prefill", f"prefill-{i}", gpu, ["--max-context-tokens", str(longest), "--queue-tokens", "4000000", *more])

    def decode(self, j, gpu, prefills, block_mib, more=()):
        return Node(self, "decode", f"decode-{j}", gpu, ["--prefill", ",".join(p.address for p in prefills), "--block-mib",
                                                         str(block_mib), *more])

    def group(self, p, d):
        """p + d nodes, each its own GPU as far as there are; only the first prefill node is started."""
        longest = max(self.o.contexts) + 64
        self.prefills = [self.prefill(i, self.gpu(i), longest) for i in range(p)]
        block_mib = 512 if self.o.cpu else self.o.block_mib
        self.decodes = [self.decode(j, self.gpu(p + j), self.prefills, block_mib, self.transport) for j in range(d)]
        for node in [self.prefills[0], *self.decodes]:
            node.start()
        for node in [self.prefills[0], *self.decodes]:
            node.wait_serving()
        for node in self.decodes:
            node.wait_peers(1)

    # ---- load ---------------------------------------------------------------------------------------------------------

    def load(self, decodes, clients, tokens, ratio, stop, pause=0.0, seconds=120):
        """Clients that ask one order after the other, spread over the decode nodes, until `stop` is set."""
        answers, lock, threads = [], threading.Lock(), []

        def client(k):
            while not stop.is_set():
                answer = self.ask(decodes[k % len(decodes)], tokens, ratio, seconds=seconds)
                with lock:
                    answers.append(answer)
                if pause or not answer.ok:
                    stop.wait(pause or 0.05)

        for k in range(clients):
            threads.append(threading.Thread(target=client, args=(k,)))
            threads[-1].start()
        return answers, threads

    # ---- parts --------------------------------------------------------------------------------------------------------

    def part_links(self):
        wire = next((p for p in (os.path.join(self.o.bin, "gpu_wire"), os.path.join(self.o.bin, "../tests/bin/gpu_wire"))
                     if os.path.exists(p)), None)
        if self.o.cpu or self.o.gpus < 3 or not wire:
            self.say({"part": "links", "skipped": "needs gpu_wire and three GPUs"})
            return

        def start(a, b, rounds=4000):
            return subprocess.Popen([wire, "bench", "ipc", str(a), str(b), str(rounds), "256"], stdout=subprocess.PIPE, text=True)

        def rate(process):
            out = process.communicate(timeout=60)[0]
            return json.loads(out.splitlines()[-1])["gb_s"] if process.returncode == 0 else 0

        alone = {}
        pairs = [((0, 2), (1, 2))] + ([((0, 2), (1, 3))] if self.o.gpus >= 4 else [])
        for both in pairs:
            for pair in both:
                if pair not in alone:
                    alone[pair] = rate(start(*pair, rounds=1500))
            together = [rate(p) for p in [start(*pair) for pair in both]]
            total = sum(alone[pair] for pair in both)
            self.say({"part": "links", "pairs": [f"{a}->{b}" for a, b in both], "alone_gb_s": [alone[p] for p in both],
                      "together_gb_s": together, "share_of_sum": rounded(sum(together) / total if total else 0)})

    def part_equal(self):
        shape, tokens = ("tiny", 300) if self.o.cpu else ("llama-1b", 2048)
        self.use_shape(shape)
        f32 = ["--dtype", "f32"]
        gpus = min(2, max(1, self.o.gpus))
        prefills = [self.prefill(f"e{i}", i % gpus, tokens + 64, f32) for i in range(2)]
        ways = ["grpc"] if self.o.cpu else ["grpc", "ipc,nccl,grpc", "nccl,grpc"]
        decodes = [self.decode(f"e{i}-{way.split(',')[0]}", i % gpus, prefills, 512, [*f32, "--transport", way])
                   for way in ways for i in range(2)]
        for node in [*prefills, *decodes]:
            node.start()
        for node in [*prefills, *decodes]:
            node.wait_serving()
        for node in decodes:
            node.wait_peers(2)
        wanted, seen, differ = {}, {}, 0
        for press in ("none", "snapkv:window=16 | adakv | ratio=0.5", "knorm | ratio=0.75"):
            for node in decodes:
                for answer in self.both_prefills(node, tokens, press):
                    r = answer.reply
                    wanted.setdefault(press, answer.tokens)
                    differ += answer.tokens != wanted[press]
                    way = f"{self.place(r['prefill_node'], prefills)}->{node.name.split('-')[1]} {r['transport']}"
                    seen[way] = seen.get(way, 0) + 1
        self.say({"part": "equal", "shape": shape, "answers": sum(seen.values()), "differ": differ, "ways": seen, "holds": differ == 0})
        self.end_all()
        self.use_shape(self.o.shape)

    def place(self, address, nodes):
        return next((n.name.split("-")[1] for n in nodes if n.address == address), address)

    def both_prefills(self, node, tokens, press):
        """Two at a time, so that the decode node takes both of its prefill nodes."""
        out = [None, None]

        def one(i):
            out[i] = self.sure(node, tokens, 0, new_tokens=12, press=press)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if None in out:
            raise SystemExit("nodes: an order of the part `equal` failed")
        return out

    def plain_ms(self, tokens):
        """A prefill in one process, without press or wire."""
        backend = ["--backend", "cpu", "--threads", "1"] if self.o.cpu else ["--backend", "cuda:0"]
        done = subprocess.run([os.path.join(self.o.bin, "platen"), "bench", "--random", self.o.shape, *backend, "--prefill", str(tokens),
                               "--rounds", "3", "--json"], capture_output=True, text=True)
        return json.loads(done.stdout)["prefill_ms"] if done.returncode == 0 else None

    def part_ttft(self, plain):
        self.limits, self.wires = {}, {}
        for tokens in self.o.contexts:
            row = {"part": "ttft", "context": tokens, "plain_ms": rounded(plain.get(tokens))}
            for ratio in self.o.ratios:
                self.sure(self.decodes[0], tokens, ratio)
                answers = [self.sure(self.decodes[0], tokens, ratio) for _ in range(3)]
                first = statistics.median(a.first_ms for a in answers)
                times = {k: statistics.median(a.reply["timings_ms"][k] for a in answers)
                         for k in ("order", "queue", "forward", "press", "pack", "ship", "adopt")}
                row[f"ratio_{ratio:g}"] = {"first_token_ms": rounded(first), **{k: rounded(v) for k, v in times.items()},
                                           "transport": answers[-1].reply["transport"]}
                self.wires[tokens, ratio] = answers[-1].reply["wire_bytes"]
                if ratio == 0:
                    self.limits[tokens] = SLACK * first
                if plain.get(tokens):  # the first token takes a step of the decode node, which is none of the wire's
                    step = statistics.median(a.reply["timings_ms"]["decode"] / max(1, len(a.tokens) - 1) for a in answers)
                    row[f"ratio_{ratio:g}"]["step_ms"] = rounded(step)
                    row[f"ratio_{ratio:g}"]["added"] = rounded((first - step) / plain[tokens] - 1, 4)
            for ratio in self.o.ratios[1:]:
                row[f"wire_share_{ratio:g}"] = rounded(self.wires[tokens, ratio] / self.wires[tokens, 0], 6)
            row["wire_holds"] = all(abs(self.wires[tokens, r] / self.wires[tokens, 0] / (1 - r) - 1) <= 0.001 for r in self.o.ratios[1:])
            if not self.o.cpu:  # a tiny model's headers are not small, nor is its first token late
                row["holds"] = row["wire_holds"] and row.get("ratio_0.5", {}).get("added", 0) <= 0.015
            self.say(row)
            self.draw(tokens)

    def draw(self, tokens):
        """The last order as a picture of what both nodes did."""
        if not self.o.trace_dir:
            return
        pair = [self.prefills[0], self.decodes[0]]
        for node in pair:
            seen = node.log().count("event=trace ")
            node.process.send_signal(signal.SIGUSR1)
            for _ in range(100):
                if node.log().count("event=trace ") > seen:
                    break
                time.sleep(0.05)
        picture = os.path.join(self.o.trace_dir, f"timeline-{tokens}.svg")
        script = os.path.join(HERE, "..", "..", "docs", "timeline.py")
        done = subprocess.run([sys.executable, "-B", script, "--out", picture, "--title",
                               f"{self.o.shape}, {tokens} tokens, {press_of(self.o.ratios[-1])}", *(n.trace for n in pair)],
                              capture_output=True, text=True)
        self.say({"part": "timeline", "context": tokens, "picture": picture,
                  **(json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-300:]})})

    def cell(self, decodes, p, tokens, ratio, seconds):
        stop = threading.Event()
        answers, threads = self.load(decodes, max(3 * p, len(decodes)), tokens, ratio, stop)
        time.sleep(seconds)
        stop.set()
        for t in threads:
            t.join()
        good = sorted((a for a in answers if a.ok), key=lambda a: a.end)
        steady = good[p:]  # the first ones met empty queues
        span = steady[-1].end - steady[0].end if len(steady) > 1 else 0
        rate = (len(steady) - 1) / span if span > 0 else 0
        timely = sum(a.first_ms <= self.limits[tokens] for a in steady) / len(steady) if steady else 0
        by = {}
        for a in good:
            way = f"{self.place(a.reply['prefill_node'], self.prefills)}->{a.decode.name.split('-')[1]} {a.reply['transport']}"
            by[way] = by.get(way, 0) + 1
        first = [a.first_ms for a in steady]
        self.say({"part": "goodput", "nodes": f"{p}+{len(decodes)}", "context": tokens, "ratio": ratio, "orders": len(good),
                  "errors": len(answers) - len(good), "orders_s": rounded(rate), "goodput": rounded(rate * timely),
                  "first_token_ms": {"p50": rounded(percentile(first, 0.5), 1), "p99": rounded(percentile(first, 0.99), 1)},
                  "limit_ms": rounded(self.limits[tokens], 1), "ways": by})
        return rate * timely

    def cells(self, p, d, seconds):
        """Longer contexts get longer: as many orders of each."""
        weight = sum(self.o.contexts)
        each = {t: max(1.5, seconds * t / weight / len(self.o.ratios)) for t in self.o.contexts}
        return {(t, r): self.cell(self.decodes[:d], p, t, r, each[t]) for t in self.o.contexts for r in self.o.ratios}

    def part_goodput(self, seconds):
        got, shapes = {}, [(p, d) for p in range(1, len(self.prefills) + 1) for d in range(1, len(self.decodes) + 1)]
        for p, d in shapes:
            for node in self.prefills[:p]:
                if node.process is None:
                    node.start().wait_serving()
                    for decode in self.decodes:
                        decode.wait_peers(p)
                    for decode in self.decodes: # the first meeting makes what two nodes make once
                        for ratio in self.o.ratios[:2]:
                            self.both_prefills(decode, min(self.o.contexts), press_of(ratio))
            got[p, d] = self.cells(p, d, seconds / len(shapes))
        most = shapes[-1]
        if most != (1, 1):
            share = {f"{t} ratio {r:g}": rounded(got[most][t, r] / got[1, 1][t, r] if got[1, 1][t, r] else 0)
                     for t in self.o.contexts for r in self.o.ratios}
            self.say({"part": "scale", "nodes": f"{most[0]}+{most[1]}", "against_1+1": share,
                      "holds": all(v >= 0.95 * min(most) for v in share.values())})

    # ---- kill ---------------------------------------------------------------------------------------------------------

    def window(self, answers, begin, end, decode=None):
        return [a for a in answers if begin <= a.begun and a.end <= end and (decode is None or a.decode is decode)]

    def figures(self, answers, wanted):
        good = [a for a in answers if a.ok]
        total = [a.reply["timings_ms"]["total"] for a in good]
        return {"answers": len(good), "errors": len(answers) - len(good), "again": sum(a.reply["attempts"] > 1 for a in good),
                "wrong": sum(a.tokens != wanted for a in good), "p50_ms": rounded(percentile(total, 0.5), 1),
                "p99_ms": rounded(percentile(total, 0.99), 1)}

    def revive(self, node, served):
        """A new process in the dead one's place; seconds until the first order through it was answered."""
        node.start()
        while time.monotonic() - node.begun < 60:
            if served(node):
                return rounded(time.monotonic() - node.begun, 2)
            time.sleep(0.05)
        return None

    def part_kill(self, seconds):
        if len(self.prefills) < 2 or len(self.decodes) < 2:
            self.say({"part": "kill", "skipped": "needs 2+2"})
            return
        tokens, ratio, phase = min(self.o.contexts), 0.5, max(2.0, seconds / 6)
        wanted = self.sure(self.decodes[1], tokens, ratio).tokens
        pause = self.limits[tokens] / SLACK / 1000  # so that one prefill node can carry the load of two
        stop = threading.Event()
        answers, threads = self.load(self.decodes, 2 * len(self.decodes), tokens, ratio, stop, pause, seconds=20)
        since = lambda: time.monotonic()
        try:
            start = since()
            time.sleep(phase)
            before = self.figures(self.window(answers, start, since()), wanted)
            killed = since()
            self.prefills[0].kill()
            time.sleep(phase)
            after = self.figures(self.window(answers, start, since()), wanted)
            dead = self.figures([a for a in answers if a.end > killed], wanted)
            served = lambda node: any(a.ok and a.begun > node.begun and a.reply["prefill_node"] == node.address for a in list(answers))
            back = self.revive(self.prefills[0], served)
            self.say({"part": "kill", "killed": "prefill", "before": before, "after": dead, "all": after, "takes_work_s": back,
                      "p99_share": rounded(dead["p99_ms"] / before["p99_ms"]) if before["p99_ms"] and dead["p99_ms"] else None,
                      "holds": dead["errors"] == 0 and dead["wrong"] == 0 and back is not None and back < 10})
            start = since()
            time.sleep(phase)
            other = self.decodes[1]
            before = self.figures(self.window(answers, start, since(), other), wanted)
            killed = since()
            self.decodes[0].kill()
            time.sleep(phase)
            dead = self.figures(self.window(answers, killed, since(), other), wanted)
            lost = sum(not a.ok for a in self.window(answers, start, since(), self.decodes[0]))
            served = lambda node: any(a.ok and a.begun > node.begun and a.decode is node for a in list(answers))
            back = self.revive(self.decodes[0], served)
            share = dead["p99_ms"] / before["p99_ms"] if before["p99_ms"] and dead["p99_ms"] else None
            self.say({"part": "kill", "killed": "decode", "other_before": before, "other_after": dead, "p99_share": rounded(share),
                      "its_clients_saw_errors": lost, "takes_work_s": back,
                      "holds": dead["errors"] == 0 and dead["wrong"] == 0 and share is not None and share <= 1.2 and back is not None
                      and back < 10})
        finally:
            stop.set()
            for t in threads:
                t.join()

    def run(self):
        p, d = self.o.p, self.o.d
        parts = self.o.parts
        if "links" in parts:
            self.part_links()
        if "equal" in parts:
            self.part_equal()
        plain = {t: self.plain_ms(t) for t in self.o.contexts} if "ttft" in parts else {}
        self.group(p, d)
        self.part_ttft(plain)
        kill = 0.25 if "kill" in parts else 0
        if "goodput" in parts:
            self.part_goodput(max(10, self.left() * (1 - kill) - 10))
        for node in self.prefills:
            if node.process is None:
                node.start().wait_serving()
        for node in self.decodes:
            node.wait_peers(p)
        if "kill" in parts:
            self.part_kill(max(12, self.left() - 15))

    def table(self):
        rows = [r for r in self.rows if r["part"] == "goodput"]
        if rows:
            print("\n| nodes | context | ratio | orders/s | in time /s | first token p50 / p99 ms | limit | errors |\n"
                  "| --- | --- | --- | --- | --- | --- | --- | --- |")
        for r in rows:
            print(f"| {r['nodes']} | {r['context']} | {r['ratio']:g} | {r['orders_s']} | {r['goodput']} | {r['first_token_ms']['p50']} / "
                  f"{r['first_token_ms']['p99']} | {r['limit_ms']} | {r['errors']} |")
        held = [r for r in self.rows if "holds" in r]
        broken = [f"{r['part']} {r.get('killed', '')}".strip() for r in held if not r["holds"]]
        print(f"\n{len(held) - len(broken)} of {len(held)} hold; missed: {', '.join(broken) or 'none'}; "
              f"{time.monotonic() - self.begun:.0f} s")
        return broken


def gpus_here():
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.count("GPU ")
    except OSError:
        return 0


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--nodes", default="2+2", metavar="P+D")
    p.add_argument("--seconds", type=float, default=240)
    p.add_argument("--bin", required=True)
    p.add_argument("--json", default="bench-nodes.json")
    p.add_argument("--shape")
    p.add_argument("--contexts")
    p.add_argument("--ratios", default="0,0.5,0.75")
    p.add_argument("--parts", default="links,equal,ttft,goodput,kill")
    p.add_argument("--block-mib", type=int, default=36864)
    p.add_argument("--transport", metavar="LIST", help="decode nodes' --transport, but for the part `equal`, which tries each")
    p.add_argument("--trace-dir", metavar="DIR", help="every node's trace, and pictures of single orders")
    p.add_argument("--cpu", action="store_true")
    p.add_argument("--keep", action="store_true", help="keeps the folder with logs")
    o = p.parse_args()
    o.p, o.d = (int(n) for n in o.nodes.split("+"))
    o.gpus = 0 if o.cpu else gpus_here()
    if not o.cpu and o.gpus == 0:
        print("nodes: no GPU here")
        sys.exit(77)
    o.shape = o.shape or ("tiny" if o.cpu else "llama-8b")
    o.contexts = [int(t) for t in (o.contexts or ("300,900" if o.cpu else "8192,32768")).split(",")]
    o.ratios = [float(r) for r in o.ratios.split(",")]
    o.parts = o.parts.split(",")
    if not o.cpu and o.gpus < o.p + o.d:  # two nodes on one GPU
        o.block_mib = min(o.block_mib, 12288)
    if o.trace_dir:
        os.makedirs(o.trace_dir, exist_ok=True)
    o.bin = os.path.abspath(o.bin)
    return o


def main():
    o = options()
    bench = Bench(o)
    bench.say({"part": "start", "nodes": o.nodes, "gpus": o.gpus, "shape": o.shape, "contexts": o.contexts, "ratios": o.ratios})
    try:
        bench.run()
        broken = bench.table()
    finally:
        bench.end_all()
        with open(o.json, "w") as out:
            out.writelines(json.dumps(row) + "\n" for row in bench.rows)
        if o.keep:
            print(f"logs: {bench.folder}")
        else:
            shutil.rmtree(bench.folder)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
