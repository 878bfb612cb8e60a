# SPDX-License-Identifier: Apache-2.0
"""Contexts that are pressed once and asked many times, and the page that counts them."""
import re

from nodes import wait_until
from test_refused import refused

TEXT = "Pressed once, asked many times. " * 10


def create(scene, decode, *more):
    return scene.platen("create", "--server", decode.address, "--context", TEXT, "--json", *more).json()


def at(decode, handle):
    return ("--server", decode.address, "--handle", handle)


def test_a_kept_context_answers_like_a_fresh_one_every_time(scene):
    prefill, decode = scene.pair()
    press = ("--press", "snapkv:window=16 | adakv | ratio=0.5")
    fresh = scene.ask(decode, "--context", TEXT, "--question", "a?", "--question", "b?", *press).json()
    made = create(scene, decode, *press)
    assert made["kept_bytes"] == fresh["kept_bytes"] and made["ttl_seconds"] == 600, made
    for _ in range(3):
        r = scene.ask(decode, "--handle", made["handle"], "--question", "a?", "--question", "b?").json()
        assert r["answers"] == fresh["answers"] and r["kept_rows"] == fresh["kept_rows"]
    prefilled = prefill.metrics()
    scene.ask(decode, "--handle", made["handle"], "--question", "c?").json()
    assert {n: v for n, v in prefill.metrics().items() if n.startswith("platen_prefill_orders")} == \
        {n: v for n, v in prefilled.items() if n.startswith("platen_prefill_orders")}


def test_a_released_context_is_gone_and_its_memory_is_back(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    handle = create(scene, decode)["handle"]
    got = scene.platen("get", *at(decode, handle), "--json").json()
    assert got["handle"] == handle and 590 <= got["ttl_seconds"] <= 600 and got["running"] == 0, got
    assert decode.metrics()["platen_decode_contexts_cached"] == 1
    assert scene.platen("release", *at(decode, handle)).code == 0
    decode.wait_idle(baseline)
    for asked in (scene.ask(decode, "--handle", handle), scene.platen("get", *at(decode, handle)),
                  scene.platen("release", *at(decode, handle))):
        refused(asked, 1, "NOT_FOUND", handle)


def test_a_context_outlives_its_time_only_while_it_is_used(scene):
    prefill, decode = scene.pair()
    handle = create(scene, decode, "--ttl", "2")["handle"]
    assert scene.ask(decode, "--handle", handle).code == 0
    wait_until("it is gone", lambda: scene.platen("get", *at(decode, handle)).code == 1, 6)
    refused(scene.ask(decode, "--handle", handle), 1, "NOT_FOUND", handle)


def test_an_unknown_handle_is_not_found(scene):
    prefill, decode = scene.pair()
    refused(scene.ask(decode, "--handle", "0" * 32), 1, "NOT_FOUND")
    refused(scene.ask(decode, "--handle", "no such thing"), 1, "NOT_FOUND")


def test_handle_and_context_together_are_a_usage_error(scene):
    refused(scene.ask("127.0.0.1:1", "--handle", "x", "--context", "y"), 2, "INVALID_ARGUMENT", "--handle")


def test_more_contexts_than_the_limit_are_refused(scene):
    prefill, decode = scene.pair(more=("--contexts-limit", "2"))
    create(scene, decode)
    create(scene, decode)
    refused(scene.platen("create", "--server", decode.address, "--context", TEXT), 1, "RESOURCE_EXHAUSTED", "2")


def test_the_metrics_page_is_prometheus_text(scene):
    prefill, decode = scene.pair()
    baseline = [n.work() for n in (prefill, decode)]
    scene.ask(decode, "--context", TEXT, "--press", "knorm|ratio=0.5").json()
    for node, before in zip((prefill, decode), baseline):
        page = node.page()
        for line in page.splitlines():
            assert re.fullmatch(r'# (HELP|TYPE) \S+ .+|[a-zA-Z_:][\w:]*(\{[^{}]*\})? (-?[\d.]+(e[+-]?\d+)?|\+Inf|NaN)', line), line
        node.wait_idle(before)
    assert decode.metrics()['platen_decode_requests_total{result="ok"}'] == 1


def sizes(node):
    line = next(l for l in node.log().splitlines() if "event=sizes" in l)
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?:\s|$)", line)}


def test_nodes_say_at_start_what_memory_goes_to_and_how_many_tokens_that_holds(scene):
    prefill, decode = scene.pair()
    first, second = sizes(prefill), sizes(decode)
    assert first["weights_bytes"] > 0 and first["context_tokens"] > 0, first
    assert second["weights_bytes"] > 0 and second["blocks_bytes"] > 0 and second["block_tokens"] > 0, second
    assert second["tails_bytes"] > 0 and second["tail_tokens"] >= 64, second
    used = sum(second[name + "_bytes"] for name in ("weights", "activations", "blocks", "tails", "other"))
    assert used <= second["capacity_bytes"], second


def test_what_is_said_of_a_context_to_press_is_usage_beside_a_handle(scene):
    for flag, value in (("--context", "x"), ("--query", "x"), ("--press", "knorm | ratio=0.5"), ("--kv", "int8"),
                        ("--position", "compact"), ("--max-context-length", "9")):
        asked = scene.platen("ask", "--server", "127.0.0.1:1", "--handle", "0" * 32, flag, value)
        refused(asked, 2, "INVALID_ARGUMENT", "--handle", "a context" if flag == "--context" else flag.strip("-"))
