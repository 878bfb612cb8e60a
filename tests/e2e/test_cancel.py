# SPDX-License-Identifier: Apache-2.0
"""Callers who go away: nothing of theirs stays."""
import signal

from nodes import wait_until
from test_lost import running
from test_refused import refused

LEAK_MAX = 2 << 10  # bytes a cancel
LAYER_S = 5  # generous: one layer's time, about half a second, on a machine that does other things too


def go_away(scene, number):
    prefill, decode = scene.pair()
    baselines = [(n, n.work()) for n in (prefill, decode)]
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context())
    wait_until("the prefill runs", running(prefill), 30)
    asking.process.send_signal(number)
    asked = asking.end(3)
    refused(asked, 1, "CANCELLED")
    for node, baseline in baselines:
        node.wait_idle(baseline, LAYER_S)


def test_an_interrupted_client_cancels_the_prefill(scene):
    go_away(scene, signal.SIGINT)


def test_a_terminated_client_cancels_the_prefill(scene):
    go_away(scene, signal.SIGTERM)


def test_a_client_killed_while_its_answer_runs_frees_its_sequence(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    asking = scene.start_ask(decode, "--context", "x" * 300, "--question", "?", "--max-new-tokens", "30000")
    wait_until("the answer runs", lambda: decode.metrics()["platen_decode_sequences_running"] == 1, 30)
    asking.process.kill()
    decode.wait_idle(baseline, LAYER_S)


def test_a_deadline_ends_the_prefill(scene):
    prefill, decode = scene.pair()
    baselines = [(n, n.work()) for n in (prefill, decode)]
    asked = scene.ask(decode, "--context-tokens", scene.long_context(), "--timeout", "1.5")
    refused(asked, 1, "DEADLINE_EXCEEDED")
    assert asked.seconds < 4, asked.seconds
    for node, baseline in baselines:
        node.wait_idle(baseline, LAYER_S)


def test_a_deadline_ends_an_answer(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    asked = scene.ask(decode, "--context", "x" * 300, "--max-new-tokens", "60000", "--timeout", "2")
    refused(asked, 1, "DEADLINE_EXCEEDED")
    assert asked.seconds < 4, asked.seconds
    decode.wait_idle(baseline)


def test_a_full_queue_is_refused_at_once_and_nothing_of_it_stays(scene):
    prefill = scene.prefill(more=("--queue-tokens", str(scene.long_tokens())))
    decode = scene.decode([prefill])
    scene.ready(decode)
    baselines = [(n, n.work()) for n in (prefill, decode)]
    context = scene.long_context()
    asking = [scene.start_ask(decode, "--json", "--context-tokens", context) for _ in range(6)]
    wait_until("somebody is refused", lambda: any(a.process.poll() is not None for a in asking), 30)
    refusals = [a.end(5) for a in asking if a.process.poll() is not None]
    for asked in refusals:
        refused(asked, 1, "RESOURCE_EXHAUSTED", "queue")
    for a in asking:
        if a.process.poll() is None:
            a.process.terminate()
            a.end(3)
    for node, baseline in baselines:
        node.wait_idle(baseline, 2 * LAYER_S)
    assert scene.ask(decode, "--context", "there is room again").code == 0


def test_300_cancels_leave_memory_threads_and_descriptors_where_they_were(scene):
    nodes = scene.pair()
    context = scene.long_context(scene.long_tokens(2))
    baselines = [n.work() for n in nodes]

    def cancel_60(*more):
        """Ten at a time, each at another moment of its order. What both nodes have allocated then."""
        for _ in range(6):
            asking = [scene.start_ask(nodes[1], "--json", "--context-tokens", context, "--timeout", f"{0.05 + 0.03 * j:.2f}", *more)
                      for j in range(10)]
            for a in asking:
                assert a.end(60).code == 1, a.out
            scene.clients.clear()
        for node, baseline in zip(nodes, baselines):
            node.wait_idle(baseline, 4 * LAYER_S)
        return [n.heap() for n in nodes]

    cancel_60()  # buffers that are kept to be used again have grown as far as they will
    before = [n.process_counts() for n in nodes]
    cancel_60()
    # After large blocks gRPC keeps read buffers of changing size, a megabyte and more: small ones show what is lost
    heaps = [cancel_60("--press", "knorm | rows=64") for _ in range(6)]
    for node, (bytes_before, threads_before, files_before), heap in zip(nodes, before, zip(*heaps)):
        wait_until(f"{node.name} has closed its connections", lambda: node.process_counts()[2] <= files_before, 10)
        bytes_now, threads_now, files_now = node.process_counts()
        assert threads_now <= threads_before + 2, (node.name, threads_before, threads_now)  # gRPC's own come and go
        assert bytes_now < bytes_before + (24 << 20), (node.name, bytes_before, bytes_now)
        assert min(heap[3:]) < min(heap[:3]) + 3 * 60 * LEAK_MAX, (node.name, heap)
    assert scene.ask(nodes[1], "--context", "still there?").code == 0
