# SPDX-License-Identifier: Apache-2.0
"""A client that is not ours: Python's grpcio, with stubs made from proto/ by the usual generator."""
import os
import signal
import subprocess
import sys
import threading
import time

from nodes import Skip, wait_until
from tiny_model import LAYERS

try:
    import grpc
    import grpc_tools  # noqa: F401
except ImportError as why:
    grpc = None
    missing = why


def stubs(scene):
    """Generates them once per build, into the build tree."""
    if grpc is None:
        raise Skip(f"no grpcio here ({missing}); tests/run.sh installs it into build/venv")
    folder = os.path.join(scene.build, "tests", "e2e", f"stubs-{sys.version_info[0]}{sys.version_info[1]}")
    proto = os.path.join(scene.root, "proto")
    if not os.path.isdir(folder):
        part = f"{folder}.{os.getpid()}"
        os.makedirs(part)
        files = [os.path.relpath(os.path.join(at, f), proto) for at, _, names in os.walk(proto) for f in names if f.endswith(".proto")]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--python_out={part}",
                        f"--grpc_python_out={part}", *files], check=True)
        try:
            os.rename(part, folder)
        except OSError:
            pass  # another test was faster
    # The modules lie under grpc/ and platen/: the first must not hide the library of that name.
    sys.path.insert(0, folder)
    grpc.__path__.append(os.path.join(folder, "grpc"))
    from platen.v1 import control_pb2_grpc, inference_pb2, inference_pb2_grpc, control_pb2
    return inference_pb2, inference_pb2_grpc, control_pb2, control_pb2_grpc


def fails(call, code):
    try:
        list(call) if hasattr(call, "__iter__") else call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error
    raise AssertionError(f"it did not fail with {code}")


TEXT = "A foreign client asks. " * 20


def test_events_stream_and_the_last_one_has_the_figures(scene):
    pb, rpc, _, _ = stubs(scene)
    prefill, decode = scene.pair()
    with grpc.insecure_channel(decode.address) as channel:
        request = pb.GenerateRequest(context=TEXT, questions=["one?", "two?"], max_new_tokens=7, press="knorm|ratio=0.5",
                                     request_id="mine-1")
        events = list(rpc.InferenceStub(channel).Generate(request, timeout=60))
    for index in (0, 1):
        mine = [e for e in events if e.question_index == index and (e.WhichOneof("has_token") or e.finish_reason)]
        assert len([e for e in mine if e.WhichOneof("has_token")]) == 7
        assert [e.finish_reason for e in mine if e.finish_reason] == ["length"] and mine[-1].generated_tokens == 7
    figures = events[-1].figures
    assert figures.press == "knorm | ratio=0.5" and figures.request_id == "mine-1" and figures.context_tokens == len(TEXT) + 1
    assert all(not e.HasField("figures") for e in events[:-1])
    asked = scene.ask(decode, "--context", TEXT, "--question", "one?", "--press", "knorm|ratio=0.5", "--max-new-tokens", "7").json()
    assert [e.token_id for e in events if e.question_index == 0 and e.WhichOneof("has_token")] == asked["answers"][0]["tokens"]


def test_default_is_50_tokens_and_0_is_0(scene):
    pb, rpc, _, _ = stubs(scene)
    prefill, decode = scene.pair()
    with grpc.insecure_channel(decode.address) as channel:
        stub = rpc.InferenceStub(channel)
        count = lambda request: sum(1 for e in stub.Generate(request, timeout=60) if e.WhichOneof("has_token"))
        assert count(pb.GenerateRequest(context=TEXT)) == 50
        assert count(pb.GenerateRequest(context=TEXT, max_new_tokens=0)) == 0
        assert count(pb.GenerateRequest(context="nul \0 inside", max_new_tokens=3)) == 3


def test_a_cancelled_call_leaves_nothing(scene):
    pb, rpc, _, _ = stubs(scene)
    prefill, decode = scene.pair()
    baselines = [(n, n.work()) for n in (prefill, decode)]
    with grpc.insecure_channel(decode.address) as channel:
        call = rpc.InferenceStub(channel).Generate(pb.GenerateRequest(context=TEXT, max_new_tokens=30000))
        wait_until("a token came", lambda: next(call).WhichOneof("has_token"), 30)
        call.cancel()
        fails(call, grpc.StatusCode.CANCELLED)
        call = rpc.InferenceStub(channel).Generate(pb.GenerateRequest(context_tokens=[2 + i % 200 for i in range(scene.long_tokens())]), timeout=1)
        fails(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    for node, baseline in baselines:
        node.wait_idle(baseline, 8)


def test_a_caller_that_does_not_read_holds_nobody_up(scene):
    pb, rpc, _, _ = stubs(scene)
    prefill, decode = scene.pair()
    with grpc.insecure_channel(decode.address) as channel:
        silent = rpc.InferenceStub(channel).Generate(pb.GenerateRequest(context=TEXT, max_new_tokens=20000))
        begin = time.monotonic()
        assert scene.ask(decode, "--context", TEXT, "--max-new-tokens", "20").code == 0
        assert time.monotonic() - begin < 30
        silent.cancel()


def test_errors_have_the_status_that_fits(scene):
    pb, rpc, control, control_rpc = stubs(scene)
    prefill, decode = scene.pair()
    code = grpc.StatusCode
    with grpc.insecure_channel(decode.address) as channel:
        stub, contexts = rpc.InferenceStub(channel), rpc.ContextsStub(channel)
        both = pb.GenerateRequest(context="x", context_tokens=[5])
        for request, want in ((pb.GenerateRequest(), code.INVALID_ARGUMENT), (both, code.INVALID_ARGUMENT),
                              (pb.GenerateRequest(context="x", press="nope"), code.INVALID_ARGUMENT),
                              (pb.GenerateRequest(context="x", position="sideways"), code.INVALID_ARGUMENT),
                              (pb.GenerateRequest(context="x", max_new_tokens=-1), code.INVALID_ARGUMENT),
                              (pb.GenerateRequest(context="x", max_context_length=0), code.INVALID_ARGUMENT),
                              (pb.GenerateRequest(context="x", max_new_tokens=2**30), code.OUT_OF_RANGE)):
            fails(stub.Generate(request, timeout=20), want)
        for call in (lambda: contexts.Get(pb.GetRequest(handle="none"), timeout=5), lambda: contexts.Release(pb.ReleaseRequest(handle="none"), timeout=5)):
            fails(call, code.NOT_FOUND)
        raw = lambda method, bytes: lambda: channel.unary_unary(method)(bytes, timeout=5)
        fails(raw("/platen.v1.Inference/Nothing", b""), code.UNIMPLEMENTED)
        fails(raw("/no.such.Service/Nothing", b""), code.UNIMPLEMENTED)
        fails(raw("/platen.v1.Contexts/Get", b"\xff\xff\xff\xff"), code.INVALID_ARGUMENT)
        fails(raw("/platen.v1.Contexts/Get", b"\x0a\x02\xc3\x28"), code.INVALID_ARGUMENT)
        run = channel.stream_stream("/platen.internal.v1.Prefill/Run")
        fails(run(iter([b""]), timeout=5), code.UNIMPLEMENTED)


def test_a_full_queue_says_when_to_come_again(scene):
    """As the trailer retry-after-ms, and as google.rpc.RetryInfo for libraries that know it."""
    pb, rpc, _, _ = stubs(scene)
    prefill = scene.prefill(more=("--queue-tokens", str(scene.long_tokens())))
    decode = scene.decode([prefill])
    scene.ready(decode)
    ids = [2 + i % 200 for i in range(scene.long_tokens())]
    with grpc.insecure_channel(decode.address) as channel:
        calls = [rpc.InferenceStub(channel).Generate(pb.GenerateRequest(context_tokens=ids), timeout=100) for _ in range(6)]
        full = lambda: [c for c in calls if c.done() and c.code() == grpc.StatusCode.RESOURCE_EXHAUSTED]
        wait_until("somebody is refused", full, 30)
        told = dict(full()[0].trailing_metadata())
        for call in calls:
            call.cancel()
    assert int(told["retry-after-ms"]) > 0
    details = told["grpc-status-details-bin"]
    assert details.startswith(b"\x08\x08\x12") and b"type.googleapis.com/google.rpc.RetryInfo" in details, details


def test_contexts_are_created_asked_and_released(scene):
    pb, rpc, _, _ = stubs(scene)
    prefill, decode = scene.pair()
    with grpc.insecure_channel(decode.address) as channel:
        contexts = rpc.ContextsStub(channel)
        made = contexts.Create(pb.CreateRequest(context=TEXT, press="knorm|ratio=0.5", ttl_seconds=60), timeout=60)
        assert made.ttl_seconds == 60 and made.figures.kept_bytes * 2 <= made.figures.dense_bytes
        tokens = lambda: [e.token_id for e in contexts.Ask(pb.AskRequest(handle=made.handle, questions=["?"]), timeout=60) if e.WhichOneof("has_token")]
        assert tokens() == tokens() and len(tokens()) == 50
        got = contexts.Get(pb.GetRequest(handle=made.handle), timeout=5)
        assert got.handle == made.handle and 0 < got.ttl_seconds <= 60
        contexts.Release(pb.ReleaseRequest(handle=made.handle), timeout=5)
        fails(lambda: contexts.Get(pb.GetRequest(handle=made.handle), timeout=5), grpc.StatusCode.NOT_FOUND)


def test_control_tells_info_loads_and_presses(scene):
    _, _, pb, rpc = stubs(scene)
    prefill, decode = scene.pair()
    for node, role in ((prefill, "prefill"), (decode, "decode")):
        with grpc.insecure_channel(node.address) as channel:
            stub = rpc.ControlStub(channel)
            info = stub.GetInfo(pb.GetInfoRequest(), timeout=5)
            assert info.role == role and info.node == node.address and info.model.layers == LAYERS
            assert not stub.GetLoads(pb.GetLoadsRequest(), timeout=5).draining
            presses = {p.name: p for p in stub.ListPresses(pb.ListPressesRequest(), timeout=5).presses}
            assert presses["snapkv"].built and presses["snapkv"].text == "snapkv:window=64,kernel=5"
            assert not presses["kvgrad"].built


def health(channel):
    from grpc.health.v1 import health_pb2, health_pb2_grpc
    stub = health_pb2_grpc.HealthStub(channel)
    check = lambda name="": stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
    watch = lambda name="": stub.Watch(health_pb2.HealthCheckRequest(service=name))
    return check, watch, health_pb2.HealthCheckResponse


def test_health_follows_the_prefill_nodes(scene):
    stubs(scene)
    prefill = scene.prefill()
    decode = scene.decode([prefill])
    scene.ready(decode)
    seen = []
    with grpc.insecure_channel(decode.address) as channel:
        check, watch, word = health(channel)
        call = watch()

        def look():
            try:
                for answer in call:
                    seen.append(answer.status)
            except grpc.RpcError:
                pass

        threading.Thread(target=look, daemon=True).start()
        wait_until("it serves", lambda: check() == word.SERVING and seen[-1:] == [word.SERVING], 15)
        assert check("platen.v1.Inference") == word.SERVING
        fails(lambda: check("no.such.Service"), grpc.StatusCode.NOT_FOUND)
        prefill.signal(signal.SIGKILL)
        wait_until("it does not serve", lambda: check() == word.NOT_SERVING and seen[-1] == word.NOT_SERVING, 15)
        scene.prefill("again", listen=prefill.address)
        wait_until("it serves again", lambda: check() == word.SERVING and seen[-1] == word.SERVING, 15)
        call.cancel()


def test_a_drain_does_not_wait_for_a_watch(scene):
    stubs(scene)
    prefill, decode = scene.pair()
    with grpc.insecure_channel(decode.address) as channel, grpc.insecure_channel(prefill.address) as other:
        calls = [health(c)[1]() for c in (channel, other)]
        for call in calls:
            next(call)
        for node in (decode, prefill):
            node.signal(signal.SIGTERM)
            code, seconds = node.ended(10)
            assert code == 0 and seconds < 3, (node.name, code, seconds)


def test_a_decode_node_without_prefill_nodes_serves_and_says_not_serving(scene):
    stubs(scene)
    decode = scene.decode(["127.0.0.1:1"])
    with grpc.insecure_channel(decode.address) as channel:
        check, _, word = health(channel)
        assert check() == word.NOT_SERVING


def reflected(channel, version):
    import importlib
    pb = importlib.import_module(f"grpc.reflection.{version}.reflection_pb2")
    rpc = importlib.import_module(f"grpc.reflection.{version}.reflection_pb2_grpc")
    ask = lambda **what: next(rpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([pb.ServerReflectionRequest(**what)]), timeout=10))
    names = {s.name for s in ask(list_services="").list_services_response.service}
    files = ask(file_containing_symbol="platen.v1.Inference").file_descriptor_response.file_descriptor_proto
    unknown = ask(file_containing_symbol="no.such.Thing")
    return names, files, unknown.error_response.error_code


def test_reflection_in_both_versions_tells_the_services(scene):
    stubs(scene)
    from google.protobuf import descriptor_pb2
    prefill, decode = scene.pair()
    with grpc.insecure_channel(decode.address) as channel:
        for version in ("v1", "v1alpha"):
            names, files, unknown = reflected(channel, version)
            assert {"platen.v1.Inference", "platen.v1.Contexts", "platen.v1.Control", "grpc.health.v1.Health"} <= names, names
            assert "platen.internal.v1.Prefill" not in names
            parsed = [descriptor_pb2.FileDescriptorProto.FromString(f) for f in files]
            assert any(s.name == "Inference" for f in parsed for s in f.service)
            assert unknown == grpc.StatusCode.NOT_FOUND.value[0]
