# SPDX-License-Identifier: Apache-2.0
"""Nodes and clients as processes on loopback, and what may be asked of them. Python's own library only."""
import json
import math
import os
import re
import signal
import subprocess
import time
import urllib.request

START_S = 60  # under the sanitizers, with other tests beside
POOL_MIN_KIB = 512 << 10  # the default --block-mib is 1024; a thread's heap reserves 64 MiB
DRAIN_S = 120  # what a test waits for may be slow where many run; how long a drain takes is not this limit's to say


class Skip(Exception):
    """The test needs something that is not here; ctest shows it as skipped."""


class Pace:
    """How much longer a program takes here than an optimised one: the promises in seconds are the optimised one's."""
    factor = 1

    @classmethod
    def of(cls, build):
        with open(os.path.join(build, "CMakeCache.txt")) as cache:
            cls.factor = 6 if re.search(r"^PLATEN_SANITIZE:\w+=\w", cache.read(), re.M) else 1


def wait_until(what, true, seconds):
    """Waits until true() is; what it gave. Fails with `what`."""
    end = time.monotonic() + seconds * Pace.factor
    while True:
        got = true()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def is_work(name):
    """Gauges of work in hand must go back to their baseline; sizes and what is kept for later need not."""
    return not re.search(r"cached|capacity|limit|^process_", name)


class Node:
    """One prefill-node or decode-node. Ended by the scene that made it."""

    def __init__(self, scene, program, name, arguments):
        self.name, self.log_path = name, os.path.join(scene.folder, name + ".log")
        self.out_path = os.path.join(scene.folder, name + ".out")
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [scene.program(program), *arguments], stdin=subprocess.DEVNULL,
            stdout=open(self.out_path, "w"), stderr=open(self.log_path, "a"))
        self.address = self.metrics_address = None

    def lines(self):
        return open(self.out_path).read().splitlines()

    def started(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.log()[-800:]}")
        for line in self.lines():
            word, address = line.split(" ", 1)
            if word == "serving":
                self.address = address
            if word == "metrics":
                self.metrics_address = address
        return self.address and self.metrics_address

    def log(self):
        return open(self.log_path).read()

    def signal(self, number):
        self.process.send_signal(number)

    def ended(self, seconds):
        """Its exit code, and how long it took from now."""
        begin = time.monotonic()
        code = self.process.wait(timeout=seconds)
        return code, time.monotonic() - begin

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def page(self):
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as page:
            return page.read().decode()

    def metrics(self):
        values = {}
        for line in self.page().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def work(self):
        """The gauges of work in hand."""
        gauges = set(re.findall(r"^# TYPE (\S+) gauge$", self.page(), re.M))
        return {n: v for n, v in self.metrics().items() if n.split("{")[0] in gauges and is_work(n)}

    def busy(self):
        return any(v != 0 for v in self.work().values())

    def wait_idle(self, baseline, seconds=5):
        try:
            wait_until(f"{self.name} is idle", lambda: self.work() == baseline, seconds)
        except AssertionError as late:
            now = self.work()
            raise AssertionError(f"{late}: {({n: (baseline.get(n), v) for n, v in now.items() if v != baseline.get(n)})}")

    def status(self, name):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"^{name}:\s+(\d+)", status.read(), re.M).group(1))

    def resident(self):
        """Bytes, but for the room for contexts: reserved at open in one piece, its pages become resident when a context
        first lies there, as many as --block-mib says."""
        with open(f"/proc/{self.process.pid}/smaps") as maps:
            pieces = re.findall(r"^Size:\s+(\d+) kB\n.*?^Rss:\s+(\d+) kB$", maps.read(), re.M | re.S)
        return sum(int(rss) for size, rss in pieces if int(size) < POOL_MIN_KIB) << 10

    def process_counts(self):
        """Resident bytes as above, threads and descriptors."""
        return self.resident(), self.status("Threads"), len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def heap(self):
        """Bytes allocated and not freed."""
        return self.metrics()["process_heap_bytes"]


class Asked:
    """A `platen` process and how it went."""

    def __init__(self, process):
        self.process, self.begin = process, time.monotonic()

    def end(self, seconds=120):
        self.out, self.err = self.process.communicate(timeout=seconds)
        self.code, self.seconds = self.process.returncode, time.monotonic() - self.begin
        return self

    def json(self):
        assert self.code == 0, f"exit {self.code}: {self.err}"
        return json.loads(self.out)


class Scene:
    """What one test has started, and ends however the test ends."""

    def __init__(self, build, name):
        self.build, self.name = build, name
        Pace.of(build)
        self.root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
        self.folder = os.path.join(build, "tests", "e2e", name)
        os.makedirs(self.folder, exist_ok=True)
        for old in os.listdir(self.folder):
            path = os.path.join(self.folder, old)
            if os.path.isfile(path):
                os.unlink(path)
        self.nodes, self.clients = [], []
        self.tiny = os.path.join(build, "tests", "e2e", "tiny")

    def program(self, name):
        return os.path.join(self.build, "bin", name)

    def default_model(self):
        path = os.environ.get("PLATEN_MODEL") or os.path.join(self.root, "build/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        if not os.path.exists(path):
            raise Skip(f"no default model at {path}; tests/run.sh fetches it")
        return path

    def file(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as out:
            out.write(content if isinstance(content, bytes) else content.encode())
        return path

    def node(self, program, name, arguments, wait=True):
        node = Node(self, program, name, arguments)
        self.nodes.append(node)
        if wait:
            wait_until(f"{name} serves", node.started, START_S)
        return node

    def prefill(self, name="prefill", model=None, listen="127.0.0.1:0", more=(), wait=True):
        return self.node("prefill-node", name, ["--model", model or self.tiny, "--listen", listen, "--threads", "1", "--dtype", "f32",
                                                "--metrics", "127.0.0.1:0", "--drain-seconds", str(DRAIN_S * Pace.factor),
                                                *more], wait)

    def decode(self, prefills, name="decode", model=None, listen="127.0.0.1:0", more=(), wait=True):
        targets = ",".join(p if isinstance(p, str) else p.address for p in prefills)
        return self.node("decode-node", name, ["--model", model or self.tiny, "--listen", listen, "--prefill", targets,
                                               "--threads", "1", "--dtype", "f32", "--metrics", "127.0.0.1:0",
                                               "--drain-seconds", str(DRAIN_S * Pace.factor), *more], wait)

    def pair(self, **decode):
        """One prefill node and one decode node that has met it."""
        prefill = self.prefill()
        decode = self.decode([prefill], **decode)
        self.ready(decode)
        return prefill, decode

    def ready(self, decode, prefills=1, seconds=START_S):
        wait_until("the decode node knows its prefill nodes",
                   lambda: decode.metrics()["platen_decode_prefill_nodes_cached"] == prefills, seconds)

    def start(self, *arguments, stdin=subprocess.DEVNULL):
        process = subprocess.Popen([self.program("platen"), *arguments], stdin=stdin, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.clients.append(process)
        return Asked(process)

    def platen(self, *arguments, seconds=120):
        return self.start(*arguments).end(seconds)

    def start_ask(self, decode, *arguments):
        return self.start("ask", "--server", decode if isinstance(decode, str) else decode.address, *arguments)

    def ask(self, decode, *arguments, seconds=120):
        return self.start_ask(decode, "--json", *arguments).end(seconds)

    def slowness(self):
        """Milliseconds that this build, on this machine, takes for 2,000 tokens of the tiny model (with sanitizers: seconds)."""
        return float(open(self.tiny + ".speed").read())

    def long_tokens(self, seconds=5):
        """So many tokens that their prefill takes about so long; a twelfth of it is one layer."""
        return max(600, min(16000, int(2000 * math.sqrt(seconds * 1000 / self.slowness()))))

    def long_answer(self):
        """So many tokens that their generation takes some seconds."""
        return str(max(300, min(4000, int(600000 / self.slowness()))))

    def long_context(self, tokens=None):
        """A file of so many ids; of as many as take seconds to prefill."""
        tokens = tokens or self.long_tokens()
        return self.file(f"long-{tokens}", " ".join(str(2 + (i * 7919) % 255) for i in range(tokens)))

    def close(self):
        for client in self.clients:
            if client.poll() is None:
                client.kill()
                client.communicate()
        for node in self.nodes:
            node.end()

    def logs(self):
        return "".join(f"--- {n.name}\n{n.log()[-2500:]}\n" for n in self.nodes)
