# SPDX-License-Identifier: Apache-2.0
"""--grpc-channels: orders of one time over several connections to one prefill node; each whole, and the same answers."""
import json
import subprocess

PRESS = "snapkv:window=16 | ratio=0.5"


def connections(node, peer):
    """Established TCP connections of `node`'s process to the peer's port."""
    port = f"{int(peer.address.rsplit(':', 1)[1]):04X}"
    owned = set()
    for fd in subprocess.run(["ls", "-l", f"/proc/{node.process.pid}/fd"], capture_output=True, text=True).stdout.splitlines():
        if "socket:[" in fd:
            owned.add(fd.split("socket:[")[1].rstrip("]"))
    count = 0
    for table in ("tcp", "tcp6"):
        for line in open(f"/proc/{node.process.pid}/net/{table}").read().splitlines()[1:]:
            field = line.split()
            count += field[2].endswith(":" + port) and field[3] == "01" and field[9] in owned
    return count


def test_orders_of_one_time_go_over_several_connections(scene):
    prefill = scene.prefill()
    decode = scene.decode([prefill], more=["--grpc-channels", "3"])
    scene.ready(decode)
    baseline = decode.work()
    one = connections(decode, prefill)
    contexts = [scene.long_context(900), scene.long_context(1000)]
    asked = [scene.start_ask(decode, "--json", "--context-tokens", contexts[i % 2], "--question", "And?",
                             "--max-new-tokens", "8", "--press", PRESS) for i in range(8)]
    replies = [a.end().json() for a in asked]
    for i, reply in enumerate(replies):
        assert reply["answers"][0]["tokens"] == replies[i % 2]["answers"][0]["tokens"], "the connection changed the answer"
        assert reply["attempts"] == 1 and reply["transport"] == "grpc"
    assert one == 1 and connections(decode, prefill) == 4, "three for orders, one for questions"
    decode.wait_idle(baseline)


def test_the_self_test_measures_all_of_them(scene):
    prefill = scene.prefill()
    decode = scene.decode([prefill], more=["--grpc-channels", "4"])
    scene.ready(decode)
    reply = scene.platen("selftest", "--server", decode.address, "--transfer", "grpc", "--mib", "64", "--json").json()
    assert reply["ok"] and connections(decode, prefill) == 5, json.dumps(reply)
    assert reply["transfers"][0]["checksum_ok"] and reply["transfers"][0]["gib_s"] > 0


def test_a_prefill_node_that_dies_takes_all_its_connections_along(scene):
    first, second = scene.prefill(name="first"), scene.prefill(name="second")
    decode = scene.decode([first, second], more=["--grpc-channels", "2"])
    scene.ready(decode, prefills=2)
    context = scene.long_context()
    asked = [scene.start_ask(decode, "--json", "--context-tokens", context, "--question", "And?",
                             "--max-new-tokens", "4") for _ in range(4)]
    first.process.kill()
    replies = [a.end(300).json() for a in asked]
    assert all(r["prefill_node"] == second.address for r in replies)
    tokens = [r["answers"][0]["tokens"] for r in replies]
    assert tokens.count(tokens[0]) == len(tokens)
