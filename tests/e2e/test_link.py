# SPDX-License-Identifier: Apache-2.0
"""What a link moves: measured between running nodes, told, and held against the operator's floor."""
from nodes import wait_until


def loads(scene, node):
    return scene.platen("info", "--server", node.address, "--json").json()["loads"]


def test_the_self_test_names_transport_and_speed(scene):
    prefill, decode = scene.pair()
    reply = scene.platen("selftest", "--server", decode.address, "--transfer", "grpc", "--mib", "32", "--json").json()
    one, = reply["transfers"]
    assert one["transport"] == "grpc" and one["mib"] == 32 and one["checksum_ok"] and one["gib_s"] > 0, one
    assert one["prefill_node"] == prefill.address
    refused = scene.platen("selftest", "--server", decode.address, "--transfer", "nccl", "--mib", "1", "--json")
    assert refused.code != 0 and "grpc" in refused.out + refused.err, "a transport that is not here is told, not replaced"


def test_a_link_below_the_floor_is_not_serving_and_says_why(scene):
    prefill = scene.prefill()
    slow = scene.decode([prefill], name="slow", more=["--link-floor-gb-s", "9000"])
    wait_until("the link is measured", lambda: "event=link-slow" in slow.log(), 30)
    why = loads(scene, slow)["not_serving"]
    assert prefill.address in why and "floor is 9000" in why, why
    assert slow.metrics()["platen_decode_prefill_nodes_cached"] == 0
    assert "NOT_SERVING: the link" in scene.platen("info", "--server", slow.address).out
    good = scene.decode([prefill], name="good", more=["--link-floor-gb-s", "0.000001"])
    scene.ready(good)
    assert loads(scene, good)["not_serving"] == ""


def test_why_a_node_without_prefill_nodes_does_not_serve(scene):
    prefill, decode = scene.pair()
    prefill.process.kill()
    wait_until("it noticed", lambda: prefill.address in loads(scene, decode)["not_serving"], 20)


def test_the_transport_is_named_in_reply_log_and_metrics(scene):
    prefill, decode = scene.pair()
    reply = scene.ask(decode, "--context-tokens", scene.long_context(700), "--question", "And?", "--max-new-tokens", "4").json()
    assert reply["transport"] == "grpc" and reply["transport_note"] == ""
    wait_until("the prefill node logs the end", lambda: "event=order-end" in prefill.log(), 10)
    assert "transport=grpc" in next(line for line in prefill.log().splitlines() if "event=order-end" in line)
    assert decode.metrics()['platen_decode_wire_bytes_total{transport="grpc"}'] == reply["wire_bytes"]
    assert prefill.metrics()['platen_prefill_wire_bytes_total{transport="grpc"}'] > 0
