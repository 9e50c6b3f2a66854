"""A release whose digests agree with each other is opened no more carelessly than any file that somebody brings."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import onnx
import pytest
import torch

from pipeline.errors import DigestError, InputError, UnsafeError, WorkerError
from pipeline.release import bundle, packages, standalone
from pipeline.release.golden import safetensors_bytes
from pipeline.release.load import load_release
from pipeline.release.verify import check, verify
from pipeline.run.benchmark import benchmark
from pipeline.run.compare import compare
from pipeline.run.plan import Settings
from pipeline.run.report import rewrite
from tests.formats.torchscript import programs
from tests.rebuild.test_trust import DANGEROUS
from tests.release.forgery import forge, state
from tests.weights.corpus import ours

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is:DeprecationWarning")
LIMIT_BYTES = 200 * 2**20
X = np.ones((3, 4), np.float32)


def refusals(release):
    """Every way into a release."""
    return (
        lambda: check(release),
        lambda: verify(release),
        lambda: load_release(release),
        lambda: load_release(release, verify=False),
        lambda: packages.package(release, "zip", release.parent / "release.zip"),
        lambda: benchmark(release, Settings(out=release.parent)),
    )


def test_a_forged_release_that_is_harmless_is_opened(release, onnx_path):
    forge(release, {"model.onnx": onnx_path.read_bytes()})
    assert verify(release).passed
    assert load_release(release)(x=X)["logits"].shape == (3, 3)


def test_hostile_files_with_digests_that_agree_are_refused_as_unsafe_wherever_they_are(release, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "files").mkdir()
    places = itertools.cycle(["model.onnx", "model.torchscript", "golden.safetensors"])
    whole = {name: (release / name).read_bytes() for name in itertools.islice(places, 3)}
    for (name, path), place in zip(ours(tmp_path / "files", marker).items(), places, strict=False):
        forge(release, {**whole, place: path.read_bytes()})
        with pytest.raises(UnsafeError):
            check(release)  # what every way in calls; the sweep runs the commands, and every file in every place
        assert not marker.exists(), name


def test_a_program_that_runs_code_when_it_is_loaded_is_never_loaded(release, tmp_path):
    marker = tmp_path / "marker"
    program = programs.saved(programs.Restores(str(marker)), tmp_path / "model.torchscript").read_bytes()
    marker.unlink(missing_ok=True)
    forge(release, {"model.torchscript": program})
    for attempt in (*refusals(release), lambda: load_release(release, backend="torchscript")):
        with pytest.raises(UnsafeError, match=r"model\.torchscript \(code/.*\) runs code"):
            attempt()
    assert not marker.exists()
    torch.jit.load(str(release / "model.torchscript"))
    assert marker.exists()


def external(location):
    """Return an ONNX model that takes its one weight from a file."""
    tensor = onnx.TensorProto(name="w", dims=[4, 3], data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [given], [result], [tensor])).SerializeToString()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "golden.safetensors", "*/_ORT_MEM_ADDR_/*", ""])
def test_a_model_reads_no_file_but_those_the_manifest_lists_with_it(location, release):
    (release.parent / "secret").write_bytes(bytes(48))
    forge(release, {"model.onnx": external(location)})
    for attempt in refusals(release):
        with pytest.raises(UnsafeError, match="which is no file of the release"):
            attempt()


def test_a_file_of_another_kind_is_a_failed_check_and_not_a_crash(release, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "state.pt")
    forge(release, {"model.torchscript": (tmp_path / "state.pt").read_bytes()})
    assert check(release) == ["model.torchscript: it is a state dict, not a TorchScript program"]
    with pytest.raises(DigestError, match="not a TorchScript program"):
        load_release(release)


STATED = {
    "a name that leads elsewhere": lambda m: m.update(name="../../outside"),
    "a version that leads elsewhere": lambda m: m.update(version="../outside"),
    "a model outside": lambda m: m["models"][0].update(path="../x.onnx"),
    "an absolute model": lambda m: m["models"][0].update(path="/etc/passwd"),
    "a model that is not listed": lambda m: m["models"][0].update(path="other.onnx", files=["other.onnx"]),
    "data that is not listed": lambda m: m["models"][0]["files"].append("other.data"),
    "a dtype of objects": lambda m: m["inputs"][0].update(dtype="object"),
    "a negative size": lambda m: m["inputs"][0].update(shape=["batch", -4]),
    "a size beyond 64 bits": lambda m: m["inputs"][0].update(shape=["batch", 2**53]) or m["inputs"][0]["shape"].append("x"),
    "a size that is no dimension": lambda m: m["inputs"][0].update(shape=["nobody", 4]),
    "a dimension without a size": lambda m: m["dimensions"]["batch"].update(min=9),
    "steps beyond the maximum": lambda m: m["dimensions"]["batch"].update(multiple_of=100),
    "steps of zero": lambda m: m["dimensions"]["batch"].update(multiple_of=0),
    "a key of its own": lambda m: m.update(python="os.system"),
    "a config that is a list": lambda m: m.update(config={"release": []}),
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_a_manifest_that_states_what_no_release_of_ours_does_is_refused(name, release):
    forge(release, edit=STATED[name])
    assert check(release)
    for attempt in refusals(release)[2:]:
        with pytest.raises(DigestError):
            attempt()
    assert not (release.parent.parent / "outside").exists()


AUDIT = """
import json, sys
import numpy
from pathlib import Path
from pipeline.release.load import load_release
from pipeline.release.verify import check
from tests.release.forgery import forge
events = []
def use(target):
    forge(release, edit=lambda manifest: manifest["architecture"].update(name=target))
    assert check(release) == []
    load_release(release, backend="onnxruntime-cpu")(x=numpy.ones((3, 4), numpy.float32))
def watch(event, _):
    if event in ("import", "exec", "os.system", "subprocess.Popen", "ctypes.dlopen", "socket.connect"):
        events.append(event)
release = Path(sys.argv[1])
use("tests.conftest:Tiny")  # what the libraries themselves import late
sys.addaudithook(watch)
for target in json.loads(sys.stdin.read()):
    use(target)
seen = list(events)
import colorsys  # the control: the hook does see an import
assert len(events) > len(seen)
print(json.dumps(seen))
"""


def test_an_architecture_that_a_manifest_names_is_never_imported(release):
    """It is a statement of where the weights came from. Verifying against a config takes the architecture from that."""
    assert len(DANGEROUS) >= 30
    ran = subprocess.run(
        [sys.executable, "-c", AUDIT, release], input=json.dumps(DANGEROUS), capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == []


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"backend": "os:system", "format": "onnx"}, "there is no backend"),
        ({"backend": "onnxruntime-cpu", "format": "onnx", "options": {"custom_ops_library": "x.so"}}, "does not take"),
        ({"backend": "onnxruntime-cpu", "format": "onnx", "options": {"intra_op_num_threads": 10**6}}, "does not take"),
    ],
)
def test_a_manifest_chooses_no_library_and_no_backend_of_its_own(stated, problem, release):
    forge(release, edit=lambda m: m.update(backends={"fast": {"options": {}, "verdict": "pass", **stated}}))
    with pytest.raises(InputError, match=problem):
        load_release(release, backend="fast")


def _deep(depth):
    return b'{"schema_version":1,"a":' + b"[" * depth + b"]" * depth + b"}"


MANIFESTS = {
    "deep": _deep(400),
    "deeper": _deep(200_000),
    "many lists": b'{"schema_version":1,"a":[' + b"[]," * 650_000 + b"[]]}",
    "large": b'{"schema_version":1,"a":"' + bytes(65 * 2**20) + b'"}',
    "a huge integer": b'{"schema_version":' + b"9" * 100_000 + b"}",
    "a key twice": b'{"schema_version":1,"schema_version":1}',
    "an infinite number": b'{"schema_version":1e999}',
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_is_a_bomb_is_refused_in_little_time_and_memory(name, release):
    state(release, MANIFESTS[name])
    _refused_cheaply(release)


def _header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


MANY = b"{" + b",".join(b'"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % index for index in range(700_000))
GOLDEN = {
    "700,000 tensors": _header(MANY + b"}"),
    "a key twice": _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4)),
    "deep": _header(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a huge integer": _header(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 5000), bytes(4)),
    "zero-dimension overflow": _header(
        b'{"a/input/x":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0]}}'
    ),
    "more than it holds": _header(b'{"a/input/x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}', bytes(4)),
    "a floor of no output": safetensors_bytes({"a/floor/y": np.zeros(3)}, {"limit": "16"}),
    "a floor of another shape": safetensors_bytes(
        {"a/output/y": np.zeros(2, np.float32), "a/floor/y": np.zeros(3)}, {"limit": "16"}
    ),
    "a tolerance that is a text": safetensors_bytes(
        {"a/output/y": np.zeros(2, np.float32)}, {"limit": "16", "tolerances": json.dumps({"y": {"atol": "x", "rtol": 0}})}
    ),
    "a limit that is none": safetensors_bytes({"a/output/y": np.zeros(2, np.float32)}, {"limit": str(math.inf)}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_cases_that_are_a_bomb_are_refused_in_little_time_and_memory(name, release):
    forge(release, {"golden.safetensors": GOLDEN[name]})
    _refused_cheaply(release)
    # The verifier that ships has the same reader, and no other.
    with pytest.raises(standalone.DamagedError):
        standalone.read_golden(release / "golden.safetensors")


def _refused_cheaply(release):
    tracemalloc.start()
    start = time.process_time()
    for attempt in refusals(release)[2:4]:
        with pytest.raises((DigestError, UnsafeError)):
            attempt()
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LIMIT_BYTES
    assert seconds < 2 * 2 * 4  # two attempts, and tracing makes allocation several times slower


@pytest.mark.parametrize("name", ["SHA256SUMS", "manifest.json.sig", "report/SHA256SUMS"])
def test_a_list_or_signature_that_does_not_end_is_not_read(name, release):
    with (release / name).open("ab") as file:
        file.truncate(2**34)  # sparse: it takes no room on the disk
    tracemalloc.start()
    assert check(release)
    assert tracemalloc.get_traced_memory()[1] < LIMIT_BYTES
    tracemalloc.stop()


REPORTS = {
    "deep": b"[" * 200_000,
    "many lists": b"[" + b"[]," * 5_000_000 + b"[]]",
    "of other things": b'{"sizes": [{"rows": [{"name": [], "median_ms": "x"}]}], "backends": 3}',
    "a list": b"[1, 2]",
    "huge numbers": b'{"sizes": [{"rows": [{"name": "onnxruntime-cpu", "median_ms": 1e999}]}]}',
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_is_a_bomb_or_nonsense_neither_chooses_nor_breaks_anything(name, release):
    for document in ("parity.json", "benchmark.json"):
        (release / "report" / document).write_bytes(REPORTS[name])
    state(release, (release / "manifest.json").read_bytes())
    tracemalloc.start()
    assert load_release(release)(x=X)["logits"].shape == (3, 3)
    with pytest.raises(InputError, match="report"):
        rewrite(release)
    assert tracemalloc.get_traced_memory()[1] < LIMIT_BYTES
    tracemalloc.stop()


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_other_forms_are_compared_with_nothing(name, release, pristine):
    for document in ("parity.json", "benchmark.json"):
        (release / "report" / document).write_bytes(REPORTS[name])
    with pytest.raises(InputError):
        compare(pristine, release, margin=0.03, force=True)
    with pytest.raises(InputError):
        compare(release, release, margin=0.03, force=True)


@pytest.mark.parametrize("text", [b"../../etc", b"/etc", b"\xff\x00", b"x" * 2**20])
def test_latest_names_a_folder_beside_it_and_is_read_up_to_a_limit(text, tmp_path):
    with (tmp_path / "latest").open("wb") as file:
        file.write(text)
        file.truncate(2**34)
    with pytest.raises(InputError, match="which is no release"):
        bundle.find(tmp_path)


@pytest.mark.parametrize("link", ["report", "report/report.md", "report/scripts"])
def test_a_report_is_written_through_no_link(link, release, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    path = release / link
    if path.is_dir():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("mine")
    path.symlink_to(elsewhere)
    for name in ("parity", "benchmark"):
        (release / "report" / f"{name}.json").write_text("{}")
    before = _seen(elsewhere)
    with pytest.raises(UnsafeError, match="is a link"):
        rewrite(release)
    assert _seen(elsewhere) == before


def _seen(path):
    return path.read_text() if path.is_file() else sorted(path.iterdir())


def test_a_model_that_its_runtime_refuses_is_a_named_failure_and_no_traceback(release, onnx_path):
    model = onnx.load(onnx_path)
    model.graph.node[0].op_type = "NoSuchOperator"
    forge(release, {"model.onnx": model.SerializeToString()})
    with pytest.raises(WorkerError, match=r"on onnxruntime-cpu failed: .*NoSuchOperator"):
        load_release(release, backend="onnxruntime-cpu")


def test_sizes_that_would_exhaust_memory_are_not_made(release):
    def edit(manifest):
        manifest["dimensions"]["batch"] = {"min": 2**40, "max": 2**41, "multiple_of": 1}

    forge(release, edit=edit)
    with pytest.raises(UnsafeError, match="asks to be timed with inputs of"):
        benchmark(release, Settings(out=release.parent))
