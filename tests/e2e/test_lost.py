# SPDX-License-Identifier: Apache-2.0
"""A peer that dies, freezes or comes back, at every stage."""
import os
import re
import resource
import signal
import socket
import time

from nodes import Skip, wait_until
from test_refused import refused

TEXT = "A context."
STAGES = "order|queue|forward|press|pack|ship|adopt|commit"


def running(node):
    return lambda: node.busy()


def lost(asked):
    """UNAVAILABLE, and the sentence names the stage."""
    refused(asked, 1, "UNAVAILABLE")
    assert re.search(rf"\b({STAGES})\b", asked.err), asked.err


def test_a_prefill_node_killed_before_commit_is_unavailable_with_its_stage(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context())
    wait_until("the prefill runs", running(prefill), 30)
    prefill.signal(signal.SIGKILL)
    lost(asking.end(60))
    decode.wait_idle(baseline)


def test_an_order_goes_on_elsewhere_when_its_prefill_node_is_killed(scene):
    first, second = scene.prefill("first"), scene.prefill("second")
    decode = scene.decode([first, second])
    scene.ready(decode, 2)
    baseline = decode.work()
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context(), "--max-new-tokens", "3")
    busy = wait_until("a prefill runs", lambda: next((n for n in (first, second) if n.busy()), None), 30)
    busy.signal(signal.SIGKILL)
    r = asking.end(180).json()
    other = second if busy is first else first
    assert r["prefill_node"] == other.address and r["attempts"] == 2, r
    decode.wait_idle(baseline)


def elsewhere(scene, unfit, fit, arguments, unfit_says):
    """Whichever of the two is asked first, the one that fits does it; alone, the other one says why not."""
    attempts = []
    for nodes in [unfit, fit], [fit, unfit]:
        decode = scene.decode(nodes, f"decode{len(attempts)}")
        scene.ready(decode, 2)
        reply = scene.ask(decode, *arguments).json()
        assert reply["prefill_node"] == fit.address, reply
        attempts.append(reply["attempts"])
        assert decode.metrics()["platen_decode_order_retries_total"] == reply["attempts"] - 1
    assert sorted(attempts) == [1, 2], attempts  # of two idle nodes the place in the list says which is asked first
    alone = scene.decode([unfit], "alone")
    scene.ready(alone)
    refused(scene.ask(alone, *arguments), 1, *unfit_says)
    assert alone.metrics()["platen_decode_order_retries_total"] == 0


def test_a_context_too_long_for_one_prefill_node_goes_to_a_larger_one(scene):
    small, large = scene.prefill("small", more=("--max-context-tokens", "200")), scene.prefill("large")
    elsewhere(scene, small, large, ("--context-tokens", scene.long_context(300), "--max-new-tokens", "3"),
              ("OUT_OF_RANGE", "300 context tokens; this node takes 200 at most"))


def test_a_prefill_node_of_another_dtype_does_not_stand_in_the_way(scene):
    other, same = scene.prefill("other", more=("--dtype", "bf16")), scene.prefill("same")
    elsewhere(scene, other, same, ("--context", "some text", "--max-new-tokens", "3"), ("FAILED_PRECONDITION", "dtype is bf16 here"))


def test_a_node_too_small_does_not_hide_that_the_larger_one_is_full(scene):
    small = scene.prefill("small", more=("--max-context-tokens", "200"))
    large = scene.prefill("large", more=("--queue-tokens", str(scene.long_tokens())))
    decode = scene.decode([small, large])
    scene.ready(decode, 2)
    context = scene.long_context()
    asking = [scene.start_ask(decode, "--json", "--context-tokens", context) for _ in range(6)]
    wait_until("somebody is refused", lambda: any(a.process.poll() is not None for a in asking), 30)
    for a in asking:
        if a.process.poll() is not None:
            refused(a.end(5), 1, "RESOURCE_EXHAUSTED", "queue")
        else:
            a.process.terminate()
            a.end(3)


def test_a_prefill_node_killed_after_commit_harms_nothing(scene):
    prefill, decode = scene.pair()
    handle = scene.platen("create", "--server", decode.address, "--context", "kept for later", "--json").json()["handle"]
    before = scene.ask(decode, "--handle", handle, "--question", "?").json()["answers"]
    asking = scene.start_ask(decode, "--json", "--handle", handle, "--question", "?", "--max-new-tokens", "400")
    wait_until("the answer is running", running(decode), 30)
    prefill.signal(signal.SIGKILL)
    assert asking.end().json()["answers"][0]["tokens"][:50] == before[0]["tokens"]
    assert scene.ask(decode, "--handle", handle, "--question", "?").json()["answers"] == before


def test_a_decode_node_killed_leaves_the_prefill_node_idle(scene):
    prefill = scene.prefill()
    baseline = prefill.work()
    decode = scene.decode([prefill])
    scene.ready(decode)
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context())
    wait_until("the prefill runs", running(prefill), 30)
    decode.signal(signal.SIGKILL)
    refused(asking.end(30), 1, "UNAVAILABLE")
    prefill.wait_idle(baseline, 20)


def test_a_frozen_prefill_node_ends_with_the_callers_deadline(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context(), "--timeout", "4")
    wait_until("the prefill runs", running(prefill), 30)
    prefill.signal(signal.SIGSTOP)
    asked = asking.end(30)
    refused(asked, 1, "DEADLINE_EXCEEDED")
    assert asked.seconds < 6, asked.seconds
    decode.wait_idle(baseline)


def test_a_frozen_prefill_node_is_noticed_without_a_deadline(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context())
    wait_until("the prefill runs", running(prefill), 30)
    prefill.signal(signal.SIGSTOP)
    asked = asking.end(100)
    lost(asked)
    assert asked.seconds < 90, asked.seconds
    decode.wait_idle(baseline)


def test_a_frozen_decode_node_is_noticed_by_the_caller(scene):
    prefill, decode = scene.pair()
    asking = scene.start_ask(decode, "--json", "--context-tokens", scene.long_context())
    wait_until("the prefill runs", running(prefill), 30)
    decode.signal(signal.SIGSTOP)
    asked = asking.end(100)
    refused(asked, 1, "UNAVAILABLE")
    assert asked.seconds < 90, asked.seconds


def test_a_prefill_node_that_comes_back_is_used_again(scene):
    prefill, decode = scene.pair()
    prefill.signal(signal.SIGKILL)
    prefill.ended(5)
    wait_until("the decode node sees it gone", lambda: decode.metrics()["platen_decode_prefill_nodes_cached"] == 0, 15)
    scene.prefill("again", listen=prefill.address)
    begin = time.monotonic()
    wait_until("the decode node uses it again", lambda: scene.ask(decode, "--context", "back?").code == 0, 12)
    assert time.monotonic() - begin < 12


def test_more_connections_than_descriptors_do_not_close_the_port(scene):
    with open(os.path.join(scene.build, "CMakeCache.txt")) as cache:
        if re.search(r"^PLATEN_SANITIZE:\w+=thread", cache.read(), re.M):
            raise Skip("ThreadSanitizer has an accept4 of its own")
    prefill, decode = scene.pair()
    _, _, open_now = decode.process_counts()
    host, port = decode.address.split(":")
    resource.prlimit(decode.process.pid, resource.RLIMIT_NOFILE, (open_now + 16, open_now + 16))
    callers = [socket.create_connection((host, int(port)), 10) for _ in range(64)]
    wait_until("some were turned away", lambda: "event=connections-turned-away" in decode.log(), 20)
    for caller in callers:
        caller.close()
    wait_until("descriptors are back", lambda: decode.process_counts()[2] <= open_now + 4, 20)
    assert scene.ask(decode, "--context", TEXT).code == 0


def test_nodes_take_as_many_descriptors_as_they_may(scene):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        prefill = scene.prefill()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert resource.prlimit(prefill.process.pid, resource.RLIMIT_NOFILE) == (before[1], before[1])
