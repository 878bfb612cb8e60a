# SPDX-License-Identifier: Apache-2.0
"""Learned parameters: operators name files, requests name entries; what is missing is refused before any work."""
import json
import struct

from test_refused import TEXT, refused
from tiny_model import HEAD, KV_HEADS, LAYERS


def safetensors(name, shape):
    """One f32 tensor of numbers that are not all the same."""
    count = 1
    for n in shape:
        count *= n
    data = struct.pack(f"<{count}f", *(((i * 7919) % 1000) / 500 - 1 for i in range(count)))
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def filters(scene, heads=KV_HEADS):
    return scene.file(f"filters-{heads}", safetensors("q_filters", [LAYERS, heads, HEAD]))


def orders(prefill):
    return {n: v for n, v in prefill.metrics().items() if n.startswith("platen_prefill_orders")}


def test_requests_name_the_entry_of_the_operator(scene):
    path = filters(scene)
    config = scene.file("nodes.conf", f"[press-files]\nq-tiny = {path}\n")
    prefill = scene.prefill(more=("--config", config))
    decode = scene.decode([prefill], more=("--config", config))
    scene.ready(decode)
    got = scene.ask(decode, "--context", TEXT, "--press", "qfilter:file=q-tiny | ratio=0.5").json()
    assert got["press"] == "qfilter:file=q-tiny | ratio=0.5" and got["kept_rows"]["max"] == got["context_tokens"] // 2
    here = scene.platen("inspect", "--model", scene.tiny, "--dtype", "f32", "--context", TEXT, "--json", "--press",
                        f'qfilter:file="{path}" | ratio=0.5').json()
    assert all(len(head) == here["tokens"] // 2 for layer in here["layers"] for head in layer["heads"])


def test_a_client_can_never_name_a_path(scene):
    path = filters(scene)
    prefill = scene.prefill(more=("--press-file", f"q={path}"))
    decode = scene.decode([prefill], more=("--press-file", f"q={path}"))
    scene.ready(decode)
    before = orders(prefill)
    for name in (path, "/etc/passwd", "../q", "./q", "~/q", "dir/q", "..\\\\q"):
        asked = scene.ask(decode, "--context", TEXT, "--press", f'qfilter:file="{name}" | ratio=0.5')
        refused(asked, 1, "INVALID_ARGUMENT", "never a path", "^")
    asked = scene.ask(decode, "--context", TEXT, "--press", "qfilter:file=other | ratio=0.5")
    refused(asked, 1, "INVALID_ARGUMENT", '"other"', "the operator named q")
    asked = scene.ask(decode, "--context", TEXT, "--press", "kvzap:file=q | ratio=0.5")  # nor learn of one
    refused(asked, 1, "INVALID_ARGUMENT", "kvzap: the file called q: there is no tensor called")
    assert scene.folder not in asked.err, asked.err
    assert orders(prefill) == before


def test_what_a_press_needs_and_is_not_there_is_refused_at_the_door(scene):
    prefill, decode = scene.pair()
    before = orders(prefill)
    for press, words in (("qfilter:file=q | ratio=0.5", ("the operator named none",)),
                         ("kvzap:file=q | dms:threshold=0", ("the operator named none",)),
                         ("knorm | lukv:file=q | ratio=0.5", ("the operator named none",)),
                         ("finch | ratio=0.5", ("query",)), ("vnorm | ratio=0.5", ("unknown press",)),
                         ("kvgrad | ratio=0.5", ("not built yet",)), ("restorekv:file=a | ratio=0.5", ("not built yet",)),
                         ("duo:heads=0.5", ("file", "probe")), ("knorm | ratios=0.1/0.2", ("12",))):
        refused(scene.ask(decode, "--context", TEXT, "--press", press), 1, "INVALID_ARGUMENT", *words)
    assert orders(prefill) == before


def test_a_file_that_no_press_can_use_stops_the_node(scene):
    for name, file, word in (("q", filters(scene, KV_HEADS + 1), "q_filters"), ("gone", "/nowhere/file", "/nowhere/file"),
                             ("a/b", filters(scene), "a/b")):
        node = scene.prefill(name=f"prefill-{name.replace('/', '-')}", more=("--press-file", f"{name}={file}"), wait=False)
        code, _ = node.ended(60)
        assert code != 0 and word in node.log(), (code, node.log())
