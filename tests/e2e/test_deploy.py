# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes.yaml: its command lines start nodes that answer, and what it says of them twice is the same."""
import json
import os
import re

KINDS = ("prefill", "decode")


def written(scene):
    with open(os.path.join(scene.root, "deploy/kubernetes.yaml"), encoding="utf-8") as file:
        return file.read()


def arguments(scene, kind):
    part = written(scene).split(f"name: {kind}-node", 1)[1]
    return json.loads(re.search(r"args: (\[.*\])", part)[1])


def option(words, name):
    return words[words.index("--" + name) + 1]


def here(scene, words, prefill=None):
    """The same words for this machine: a port of its own, a small model, the CPU."""
    swap = {"model": scene.tiny, "backend": "cpu", "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "drain-seconds": "5",
            "prefill": prefill and f"dns:localhost:{prefill.address.split(':')[1]}"}
    names = [word[2:] for word in words[::2]]
    assert set(names) <= set(swap), names
    return [word for name in names for word in ("--" + name, swap[name])]


def test_nodes_start_with_the_words_that_kubernetes_gets_and_answer(scene):
    prefill = scene.node("prefill-node", "prefill", here(scene, arguments(scene, "prefill")))
    decode = scene.node("decode-node", "decode", here(scene, arguments(scene, "decode"), prefill))
    scene.ready(decode)
    answer = scene.ask(decode, "--context", "a small context", "--question", "?", "--max-new-tokens", "4").json()
    assert len(answer["answers"][0]["tokens"]) == 4


def test_ports_and_times_agree(scene):
    text = written(scene)
    for kind in KINDS:
        words, part = arguments(scene, kind), text.split(f"metadata: {{ name: platen-{kind} }}\nspec:\n  replicas", 1)[1].split("\n---", 1)[0]
        port, metrics = (option(words, name).split(":")[1] for name in ("listen", "metrics"))
        assert re.findall(r"containerPort: (\d+)", part) == [port, metrics], kind
        assert set(re.findall(r"(?:grpc|tcpSocket): \{ port: (\d+)", part)) == {port}, kind
        assert f'prometheus.io/port: "{metrics}"' in part, kind
        assert int(re.search(r"terminationGracePeriodSeconds: (\d+)", part)[1]) > int(option(words, "drain-seconds")), kind
        assert f"ports: [{{ name: grpc, port: {port} }}]" in text, kind
    assert option(arguments(scene, "decode"), "prefill") == "dns:platen-prefill:" + option(arguments(scene, "prefill"), "listen").split(":")[1]


def test_what_more_nodes_are_asked_for_by_is_a_metric(scene):
    prefill, decode = scene.pair()
    names = re.findall(r"metric: \{ name: (\w+) \}", written(scene))
    assert len(names) == 2
    for name, node in zip(names, (prefill, decode)):
        assert name in node.metrics(), name
