# SPDX-License-Identifier: Apache-2.0
"""What is wrong is refused with the status and a sentence that helps, before any work is done."""
import os
import re
import socket
import time

from nodes import wait_until

TEXT = "A short context."


def refused(asked, code, status, *words):
    assert asked.code == code, (asked.code, asked.out, asked.err)
    assert asked.err.startswith(f"platen: {status}: "), asked.err
    for word in words:
        assert word in asked.err, f"{word!r} is not in {asked.err!r}"
    assert asked.out == "", asked.out


def test_a_wrong_press_names_the_word_with_a_caret_under_it(scene):
    prefill, decode = scene.pair()
    for press, word, help in (("snapkv | ratoi=0.5", "ratoi", "ratio"), ("snapvk | ratio=0.5", "snapvk", "snapkv"),
                              ("snapkv:windov=3 | ratio=0.5", "windov", "window"), ("knorm | ratio=1.5", "1.5", "ratio"),
                              ("knorm | ratios=0.1/0.2", "ratios", "pressed layers"), ("schlüssel | ratio=0.5", "schlüssel", "snapkv"),
                              ("knorm" + " " * 500 + "| ratoi=0.5", "ratoi", "ratio"),
                              ("knorm | qfilter:file=\"größe\" | ratoi=0.5", "\"größe\"", "qfilter")):
        asked = scene.ask(decode, "--context", TEXT, "--press", press)
        refused(asked, 1, "INVALID_ARGUMENT", word, help)
        sentence, text, caret = asked.err.rstrip("\n").split("\n")
        assert text == press and caret.strip() == "^" and press[caret.index("^"):].startswith(word), asked.err


def test_bad_requests_are_invalid_arguments(scene):
    prefill, decode = scene.pair()
    bad = scene.file("bad", b"good \xff\xfe bad")
    refused(scene.ask(decode, "--context-file", bad), 1, "INVALID_ARGUMENT")
    refused(scene.ask(decode, "--context", TEXT, "--question", b"\xc3\x28"), 1, "INVALID_ARGUMENT")
    refused(scene.ask(decode, "--context", ""), 1, "INVALID_ARGUMENT", "empty")
    refused(scene.platen("inspect", "--model", scene.tiny, "--context", "", "--press", "none"), 1, "INVALID_ARGUMENT", "empty")
    refused(scene.ask(decode, "--context-tokens", scene.file("ids", "1 2 999999")), 1, "INVALID_ARGUMENT", "999999")
    refused(scene.ask(decode, "--context", TEXT, "--kv", "int9"), 1, "INVALID_ARGUMENT", "int9")
    refused(scene.ask(decode, "--context", TEXT, *["--question", "?"] * 65), 1, "INVALID_ARGUMENT", "64")


def test_a_token_file_without_a_token_is_refused_by_all(scene):
    for content, why in (("\n", "the token file is empty"), ("a\nb\n", "byte 2 of the token is not a printable ASCII character")):
        path = scene.file("token", content)
        sentence = f"INVALID_ARGUMENT: {path}: {why}"
        asked = scene.ask("127.0.0.1:1", "--context", TEXT, "--token-file", path)
        assert (asked.code, asked.err) == (1, f"platen: {sentence}\n"), asked.err
        for name, start in (("prefill-node", scene.prefill), ("decode-node", lambda **o: scene.decode(["127.0.0.1:1"], **o))):
            node = start(name=name, more=("--token-file", path), wait=False)
            code, _ = node.ended(20)
            assert 1 <= code <= 125 and f"{name}: {sentence}" in node.log(), (code, node.log())


def test_too_long_is_out_of_range_before_any_prefill(scene):
    prefill, decode = scene.pair()
    before = prefill.metrics()
    begin = time.monotonic()
    refused(scene.ask(decode, "--context", TEXT, "--max-new-tokens", str(1 << 20)), 1, "OUT_OF_RANGE", str(1 << 20))
    assert time.monotonic() - begin < 10
    count = lambda m: {n: v for n, v in m.items() if n.startswith("platen_prefill_orders")}
    assert count(prefill.metrics()) == count(before)


def test_a_press_that_holds_all_layers_says_what_would_fit(scene):
    roomy = scene.prefill(name="roomy", more=("--max-context-tokens", "4096"))
    size = {w: int(n) for w, n in re.findall(r"(\w+)_bytes=(\d+)", re.search("event=sizes.*", roomy.log()).group())}
    room = 6 << 20
    share = (sum(size.values()) - size["capacity"] + room) / (size["capacity"] / 0.9)
    prefill = scene.prefill(more=("--max-context-tokens", "4096", "--memory-fraction", f"{share:.12f}"))
    decode = scene.decode([prefill])
    scene.ready(decode)
    ask = lambda tokens: scene.ask(decode, "--context-tokens", scene.long_context(tokens), "--press", "kvcompose | ratio=0.5",
                                   "--max-new-tokens", "2")
    before = prefill.metrics()
    asked = ask(4000)
    refused(asked, 1, "OUT_OF_RANGE", "kvcompose holds all 12 layers", "4000 tokens need", "bytes, there are")
    needed, there, fits = (int(n) for n in re.search(r"need (\d+) bytes, there are (\d+); (\d+) tokens would fit", asked.err).groups())
    assert abs(there - room) < 4096 and there < needed and 100 < fits < 4000, asked.err
    assert prefill.metrics()["platen_prefill_tokens_total"] == before["platen_prefill_tokens_total"]
    refused(ask(fits + 1), 1, "OUT_OF_RANGE", f"{fits} tokens would fit")
    assert ask(fits).json()["context_tokens"] == fits
    assert scene.ask(decode, "--context-tokens", scene.long_context(4000), "--press", "knorm | ratio=0.5",
                     "--max-new-tokens", "2").json()["context_tokens"] == 4000


def test_a_prefill_node_that_is_asked_says_that_decode_nodes_answer(scene):
    prefill = scene.prefill()
    refused(scene.ask(prefill, "--context", TEXT), 1, "UNIMPLEMENTED", "not a decode node")
    for verb, more in ("create", ("--context", TEXT)), ("get", ("--handle", "x")), ("release", ("--handle", "x")):
        refused(scene.platen(verb, "--server", prefill.address, *more), 1, "UNIMPLEMENTED", "not a decode node")


def test_what_a_decode_node_cannot_do_is_not_laid_on_its_kind(scene):
    model = os.path.join(scene.root, "tests/golden/families/mistral")
    decode = scene.decode([scene.prefill(model=model)], model=model)
    scene.ready(decode)
    asked = scene.ask(decode, "--context", TEXT, "--position", "compact")
    refused(asked, 1, "UNIMPLEMENTED", "windowed layers")
    assert "not a decode node" not in asked.err, asked.err


def test_a_decode_node_is_not_taken_for_a_prefill_node(scene):
    prefill, decode = scene.pair()
    wrong = scene.decode([decode], name="wrong")
    why = f"{decode.address}{{}}it is a decode node, not a prefill node"
    wait_until("it has asked", lambda: "it is a decode node" in wrong.log(), 10)
    told = scene.platen("info", "--server", wrong.address, "--json").json()["loads"]["not_serving"]
    assert why.format(" does not answer: ") in told, told
    refused(scene.ask(wrong, "--context", TEXT, "--timeout", "60"), 1, "UNAVAILABLE", why.format(": "))
    both = scene.decode([decode, prefill], name="both")
    scene.ready(both)
    assert scene.ask(both, "--context", TEXT).code == 0


def test_a_prefill_node_that_was_not_heard_of_yet_is_told(scene):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = "127.0.0.1:%d" % silent.getsockname()[1]
        decode = scene.decode([address])
        told = scene.platen("info", "--server", decode.address, "--json").json()["loads"]["not_serving"]
        assert told.startswith(f"prefill node {address} does not answer: ") and not told.endswith(": "), told


def test_more_prefill_nodes_than_are_watched_are_refused(scene):
    node = scene.decode([f"127.0.0.1:{port}" for port in range(1, 258)], wait=False)
    code, _ = node.ended(20)
    assert 1 <= code <= 125 and "257 nodes, at most 256" in node.log(), (code, node.log())


def test_usage_errors_come_before_anything_is_connected(scene):
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    server = "127.0.0.1:%d" % silent.getsockname()[1]
    for arguments, words in ((["--sever", server], ["--sever", "--server"]),
                             (["--server", server, "--context", "x", "--max-new-tokens", "many"], ["--max-new-tokens", "many"]),
                             (["--server", server, "--context", "x", "--max-new-tokens", "-1"], ["--max-new-tokens"]),
                             (["--server", server, "--context", "x", "--timeout", "soon"], ["--timeout"]),
                             (["--server", server, "--context", "x", "--context-file", "y"], ["--context", "--context-file"]),
                             (["--server", server, "--context", "x", "--context", "y"], ["--context", "twice"]),
                             (["--server", server, "--context", "x", "--bogus"], ["--bogus", "--context-tokens", "--json"]),
                             (["--server", server], ["--context"]),
                             (["--server", "127.0.0.1", "--context", "x"], ["--server"]),
                             (["--server", "http://" + server, "--context", "x"], ["--server", "HOST:PORT"]),
                             (["--server", server, "--context", "x", "--tls-cert", "c", "--tls-key", "k"], ["--tls-cert", "--tls-ca"]),
                             (["--server", server, "--context", "x", "--tls-ca", "a", "--tls-key", "k"], ["--tls-cert and --tls-key"]),
                             (["--server", server, "--context", "x", "--tls-name", "n"], ["--tls-name needs --tls-ca"]),
                             (["--context", "x"], ["--server"]),
                             (["--server", server, "--context", "x", "--position", "left"], ["--position", "compact"]),
                             (["--server", server, "--context", "x", "stray"], ["stray"])):
        refused(scene.platen("ask", *arguments), 2, "INVALID_ARGUMENT", *words)
    refused(scene.platen("bench", "--random", "lama-8b", "--prefill", "9"), 2, "INVALID_ARGUMENT", "--random", "llama-8b")
    for measured, words in ((["--prefill", "9", "--batch", "2"], ["--batch 2", "--decode N", "--prefill N"]),
                            (["--ragged", "1.5", "--prefill", "9"], ["--ragged 1.5", "--decode N", "--prefill N"]),
                            (["--prefill", "9", "--decode", "9"], ["--prefill N", "--decode N"])):
        refused(scene.platen("bench", "--random", "tiny", *measured), 2, "INVALID_ARGUMENT", *words)
    for where in ([], ["--server", server]):
        refused(scene.platen("selftest", "--mib", "64", *where), 2, "INVALID_ARGUMENT", "--mib", "--transfer TRANSPORT")
    refused(scene.platen("aks"), 2, "INVALID_ARGUMENT", "ask")
    refused(scene.platen(), 2, "INVALID_ARGUMENT", "--help")
    silent.settimeout(0.2)
    try:
        silent.accept()
        raise AssertionError("a usage error connected")
    except TimeoutError:
        pass


def test_help_goes_to_stdout(scene):
    for arguments in (["--help"], *([c, "--help"] for c in ("ask", "create", "get", "release", "inspect", "bench", "presses",
                                                            "info", "selftest", "config"))):
        asked = scene.platen(*arguments)
        assert asked.code == 0 and "usage: platen" in asked.out and asked.err == "", (arguments, asked.out, asked.err)
    import subprocess
    for program in ("prefill-node", "decode-node"):
        done = subprocess.run([scene.program(program), "--help"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and "--listen" in done.stdout and done.stderr == "", done


def test_a_missing_file_is_named(scene):
    prefill, decode = scene.pair()
    refused(scene.ask(decode, "--context-file", "/no/such/file"), 1, "NOT_FOUND", "/no/such/file")
    refused(scene.ask(decode, "--context-tokens", scene.file("ids", "1 2 three")), 1, "INVALID_ARGUMENT", "three")
    refused(scene.platen("inspect", "--model", "/no/such/model", "--context", "x", "--press", "none"), 1, "NOT_FOUND",
            "/no/such/model")


def test_a_server_that_is_not_there_is_unavailable_soon(scene):
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    address = "127.0.0.1:%d" % free.getsockname()[1]
    asked = scene.ask(address, "--context", TEXT)
    refused(asked, 1, "UNAVAILABLE", address)
    assert asked.seconds < 8
    free.listen()  # connects, never speaks
    asked = scene.ask(address, "--context", TEXT)
    refused(asked, 1, "UNAVAILABLE", address)
    assert asked.seconds < 8


def test_a_deadline_before_the_connection_is_the_deadlines_fault(scene):
    mute = socket.socket()
    mute.bind(("127.0.0.1", 0))
    mute.listen()
    asked = scene.ask("127.0.0.1:%d" % mute.getsockname()[1], "--context", TEXT, "--timeout", "0.3")
    refused(asked, 1, "DEADLINE_EXCEEDED")


def test_no_prefill_node_is_unavailable_with_the_stage(scene):
    decode = scene.decode(["127.0.0.1:1"])
    asked = scene.ask(decode, "--context", TEXT)
    refused(asked, 1, "UNAVAILABLE", "order")


def test_a_name_that_is_not_found_is_told(scene):
    decode = scene.decode(["dns:no-such-host.invalid:7001"])
    wait_until("the log says so", lambda: "event=name-unknown" in decode.log(), 30)
    asked = scene.ask(decode, "--context", TEXT)
    refused(asked, 1, "UNAVAILABLE", "order: no prefill node is known yet: dns:no-such-host.invalid:7001: ")
    info = scene.platen("info", "--server", decode.address, "--json").json()
    assert "dns:no-such-host.invalid:7001: " in info["loads"]["not_serving"], info
    time.sleep(6)  # names are looked up every five seconds
    assert decode.log().count("event=name-unknown") == 1


def test_a_prefill_node_with_another_model_is_a_failed_precondition(scene):
    import tiny_model
    other = os.path.join(scene.folder, "other")
    if not os.path.isdir(other):
        tiny_model.write(other, seed=2)
    decode = scene.decode([scene.prefill(model=other)])
    scene.ready(decode)
    refused(scene.ask(decode, "--context", TEXT), 1, "FAILED_PRECONDITION", "weights")


def refuses_to_start(scene, program, name, arguments, *words):
    node = scene.node(program, name, arguments, wait=False)
    code, seconds = node.ended(20)
    assert 1 <= code <= 125, (code, node.log())
    for word in words:
        assert word in node.log(), f"{word!r} is not in {node.log()!r}"
    assert node.lines() == []


def test_a_node_that_cannot_start_says_why(scene):
    prefill = ["--listen", "127.0.0.1:0", "--model"]
    refuses_to_start(scene, "prefill-node", "no-model", [*prefill, "/no/such/model"], "/no/such/model")
    refuses_to_start(scene, "prefill-node", "no-listen", ["--model", scene.tiny], "--listen")
    refuses_to_start(scene, "prefill-node", "bad-listen", ["--model", scene.tiny, "--listen", "nowhere"], "nowhere")
    refuses_to_start(scene, "decode-node", "no-prefill", [*prefill, scene.tiny], "--prefill")
    refuses_to_start(scene, "decode-node", "bad-flag", [*prefill, scene.tiny, "--prefil", "x:1"], "--prefil", "--prefill")
    refuses_to_start(scene, "decode-node", "bad-backend", [*prefill, scene.tiny, "--prefill", "x:1", "--backend", "gpu"], "gpu", "cpu")
    refuses_to_start(scene, "decode-node", "bad-target", [*prefill, scene.tiny, "--prefill", "nowhere"], "nowhere")
    refuses_to_start(scene, "prefill-node", "bad-threads", [*prefill, scene.tiny, "--threads", "-3"], "--threads")
    refuses_to_start(scene, "prefill-node", "bad-metrics", [*prefill, scene.tiny, "--metrics", "x"], "x")


def test_a_damaged_model_is_refused(scene):
    broken = os.path.join(scene.folder, "broken")
    os.makedirs(broken, exist_ok=True)
    for name in os.listdir(scene.tiny):
        data = open(os.path.join(scene.tiny, name), "rb").read()
        with open(os.path.join(broken, name), "wb") as out:
            out.write(data[:len(data) // 2] if name == "model.safetensors" else data)
    refuses_to_start(scene, "prefill-node", "cut-safetensors", ["--listen", "127.0.0.1:0", "--model", broken], "model.safetensors")
    gguf = scene.file("cut.gguf", b"GGUF\x03\0\0\0" + b"\x05\0\0\0\0\0\0\0" * 2)
    refuses_to_start(scene, "prefill-node", "cut-gguf", ["--listen", "127.0.0.1:0", "--model", gguf], "cut.gguf")


def test_a_port_in_use_is_refused_and_never_shared(scene):
    prefill = scene.prefill()
    refuses_to_start(scene, "prefill-node", "second", ["--model", scene.tiny, "--listen", prefill.address],
                     prefill.address.split(":")[1])
    refuses_to_start(scene, "decode-node", "third",
                     ["--model", scene.tiny, "--listen", "127.0.0.1:0", "--prefill", prefill.address, "--metrics",
                      prefill.metrics_address], prefill.metrics_address.split(":")[1])


def test_a_decode_node_says_a_port_in_use_before_it_reads_a_model(scene):
    prefill = scene.prefill()
    refuses_to_start(scene, "decode-node", "late", ["--model", "/no/such/model", "--listen", prefill.address, "--prefill",
                                                    prefill.address], prefill.address.split(":")[1])
    refuses_to_start(scene, "decode-node", "target", ["--model", "/no/such/model", "--listen", "127.0.0.1:0", "--prefill",
                                                      "127.0.0.1:1,nowhere"], "nowhere", "--prefill")
