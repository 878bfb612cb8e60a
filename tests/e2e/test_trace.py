# SPDX-License-Identifier: Apache-2.0
"""--trace: what each node did when, per layer, in the format that Perfetto opens; and the picture that is drawn of it."""
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree

from nodes import wait_until
from tiny_model import LAYERS

PRESS = "snapkv:window=16 | ratio=0.5"


def traced_pair(scene):
    files = [os.path.join(scene.folder, name) for name in ("prefill.json", "decode.json")]
    prefill = scene.prefill(more=["--trace", files[0]])
    decode = scene.decode([prefill], more=["--trace", files[1]])
    scene.ready(decode)
    return prefill, decode, files


def ask(scene, decode, **more):
    return scene.ask(decode, "--context-tokens", scene.long_context(1500), "--question", "And?", "--max-new-tokens", "8",
                     "--press", PRESS, "--request-id", "traced").json()


def spans(path, what):
    return [e for e in json.load(open(path))["traceEvents"] if e["ph"] == "X" and e["cat"] == what]


def by_layer(path, what):
    """Begin and end of each layer's one span."""
    found = {e["args"]["layer"]: (e["ts"], e["ts"] + e["dur"]) for e in spans(path, what)}
    assert sorted(found) == list(range(LAYERS)) and len(spans(path, what)) == LAYERS, f"{what}: {sorted(found)}"
    return found


def test_each_layer_is_traced_from_compute_to_adopt(scene):
    prefill, decode, files = traced_pair(scene)
    reply = ask(scene, decode)
    for node in (decode, prefill):
        node.signal(signal.SIGTERM)
        assert node.ended(30)[0] == 0
    compute, press, pack, send = (by_layer(files[0], what) for what in ("compute", "press", "pack", "send"))
    receive, adopt = (by_layer(files[1], what) for what in ("receive", "adopt"))
    slack = 0.01  # microseconds: times are written with three decimals
    for layer in range(LAYERS):
        assert compute[layer][1] <= press[layer][0] + slack and press[layer][1] <= pack[layer][0] + slack
        assert pack[layer][1] <= send[layer][0] + slack, "a block left before it was packed"
        assert send[layer][0] <= receive[layer][0] + slack and receive[layer][1] <= adopt[layer][0] + slack
    commit, = spans(files[1], "commit")
    assert commit["ts"] + commit["dur"] + slack >= max(end for _, end in adopt.values())
    kept = sum(e["args"]["bytes"] for e in spans(files[0], "send"))
    assert 0 < kept <= reply["wire_bytes"] <= kept * 1.1
    orders = {e["args"]["order"] for path in files for e in json.load(open(path))["traceEvents"]
              if e["ph"] == "X" and "order" in e["args"]}
    assert len(orders) == 1, "both nodes name the order alike"
    assert len(spans(files[1], "step")) >= 8

def test_sigusr1_writes_and_the_node_goes_on(scene):
    prefill, decode, files = traced_pair(scene)
    ask(scene, decode)
    prefill.signal(signal.SIGUSR1)
    wait_until("the trace is written", lambda: os.path.getsize(files[0]) > 0, 10)
    assert len(spans(files[0], "compute")) == LAYERS
    ask(scene, decode)
    prefill.signal(signal.SIGUSR1)
    wait_until("the second order is in it", lambda: len(spans(files[0], "compute")) == 2 * LAYERS, 10)


def test_nodes_without_a_trace_survive_sigusr1(scene):
    prefill, decode = scene.pair()
    prefill.signal(signal.SIGUSR1)
    decode.signal(signal.SIGUSR1)
    ask(scene, decode)


def test_a_trace_that_cannot_be_written_is_said_at_once(scene):
    node = scene.prefill(more=["--trace", "/nowhere/at/all"], wait=False)
    assert node.ended(30)[0] == 1
    assert "/nowhere/at/all" in node.log()


def test_the_timeline_is_drawn(scene):
    prefill, decode, files = traced_pair(scene)
    ask(scene, decode)
    for node in (decode, prefill):
        node.signal(signal.SIGTERM)
        node.ended(30)
    picture = os.path.join(scene.folder, "timeline.svg")
    script = os.path.join(scene.root, "docs", "timeline.py")
    done = subprocess.run([sys.executable, "-B", script, "--out", picture, *files], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["layers"] == LAYERS and 0 <= said["send_hidden"] <= 1 and said["bytes"] > 0
    root = xml.etree.ElementTree.parse(picture).getroot()
    boxes = [e for e in root.iter("{http://www.w3.org/2000/svg}rect") if len(e)]
    assert len(boxes) >= 6 * LAYERS + 1
