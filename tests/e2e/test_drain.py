# SPDX-License-Identifier: Apache-2.0
"""SIGTERM asks, a second one insists."""
import contextlib
import http.client
import signal
import time

from nodes import Pace, wait_until
from test_lost import running
from test_refused import refused


def test_an_idle_node_leaves_within_three_seconds(scene):
    prefill, decode = scene.pair()
    scene.ask(decode, "--context", "once used").json()
    for node in (decode, prefill):
        node.signal(signal.SIGTERM)
        code, seconds = node.ended(10)
        assert code == 0 and seconds < 3, (node.name, code, seconds)


def test_a_node_that_nobody_uses_yet_leaves_too(scene):
    decode = scene.decode(["127.0.0.1:1"])
    decode.signal(signal.SIGTERM)
    code, seconds = decode.ended(10)
    assert code == 0 and seconds < 3, (code, seconds)


def test_a_busy_decode_node_finishes_its_answer_and_takes_no_new_one(scene):
    prefill, decode = scene.pair()
    asking = scene.start_ask(decode, "--json", "--context", "x" * 200, "--question", "?", "--max-new-tokens", scene.long_answer())
    wait_until("the answer runs", lambda: decode.metrics()["platen_decode_sequences_running"] == 1, 30)
    decode.signal(signal.SIGTERM)
    time.sleep(0.3)
    refused(scene.ask(decode, "--context", "too late"), 1, "UNAVAILABLE")
    assert len(asking.end().json()["answers"][0]["tokens"]) == int(scene.long_answer())
    code, seconds = decode.ended(10)
    assert code == 0 and seconds < 5, (code, seconds)


def test_the_metrics_page_answers_to_the_end_of_the_drain(scene):
    """What its gauges read is taken away after it; under the sanitizers a page that reads too late ends the node."""
    nodes = scene.pair()
    for node in reversed(nodes):
        node.signal(signal.SIGTERM)
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                node.metrics()
        code, seconds = node.ended(10)
        assert code == 0 and seconds < 3, (node.name, code, seconds)


def test_a_busy_prefill_node_finishes_its_order(scene):
    prefill, decode = scene.pair()
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context(scene.long_tokens(3)), "--max-new-tokens", "2")
    wait_until("the prefill runs", running(prefill), 30)
    prefill.signal(signal.SIGTERM)
    asking.end().json()
    code, seconds = prefill.ended(10)
    assert code == 0 and seconds < 5, (code, seconds)


def insist(scene, decode, prefill, busy, frozen):
    """Two signals while the order cannot end: the peer without which it does not go on is frozen, and lives."""
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context())
    wait_until("the prefill runs", running(prefill), 30)
    frozen.signal(signal.SIGSTOP)
    busy.signal(signal.SIGTERM)
    wait_until("it drains", lambda: "event=draining" in busy.log(), 10)
    time.sleep(0.5)
    assert busy.process.poll() is None, "the first signal let go of an order"
    busy.signal(signal.SIGTERM)
    code, seconds = busy.ended(10)
    assert code == 1 and seconds < 3 * Pace.factor, (busy.name, code, seconds)
    frozen.signal(signal.SIGCONT)
    asking.end(30)


def test_a_second_signal_ends_a_busy_node_at_once(scene):
    """Each in its turn: where the one ends, the other's order has nobody left to be for, and its drain is over."""
    prefill, decode = scene.pair()
    insist(scene, decode, prefill, busy=decode, frozen=prefill)
    decode = scene.decode([prefill], "second")
    scene.ready(decode)
    wait_until("the first order is let go of", lambda: not prefill.busy(), 30)
    insist(scene, decode, prefill, busy=prefill, frozen=decode)


def test_a_drain_has_a_limit(scene):
    prefill, decode = scene.pair(more=("--drain-seconds", "1"))
    asking = scene.start_ask(decode, "--json", "--context", "x" * 200, "--max-new-tokens", "60000")
    wait_until("the answer runs", lambda: decode.metrics()["platen_decode_sequences_running"] == 1, 30)
    decode.signal(signal.SIGTERM)
    code, seconds = decode.ended(10)
    assert code == 0 and 0.8 < seconds < 5, (code, seconds)
    assert asking.end(10).code == 1
