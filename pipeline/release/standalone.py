#!/usr/bin/env python3
"""Check a release: every file's digest, then the golden cases through whichever of its runtimes is installed.

    python verify.py [RELEASE] [--key PUBLIC.pem] [--at-least 1.2.0]      (RELEASE: by default where this file lies)

Needs the standard library and numpy; onnxruntime, openvino or executorch for the golden cases; cryptography for `--key`. Exits 0 if everything
holds, 1 if something does not, 2 for arguments that make no sense. Digests prove that nothing changed since the release was
written; who wrote it is for `--key` to prove, and that it is no older one of theirs for `--at-least`.
"""

# Every release carries this file as verify.py and `weighbridge verify` calls the same functions, so that there is one
# implementation. It therefore imports nothing of the package it is developed in.

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
SUMS = "SHA256SUMS"
GOLDEN = "golden.safetensors"
REPORT = "report"
DIGEST_DIGITS = 12
"""How many of the content's digest are the version, where the config names none."""

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""safetensors' name of a dtype → numpy's."""

# Parsed JSON takes up to 24 times its text in memory.
_MAX_JSON_BYTES = 2 * 2**20
_MAX_GOLDEN_BYTES = 2**30
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n]+)")


class DamagedError(ValueError):
    """A file of the release, or a tensor file, is not what its format demands."""


# Digests


def check_files(root: Path) -> list[str]:
    """Return what is wrong with the files of a release: changed, missing, added, linked; nothing if all is well."""
    try:
        present = list_files(root)
    except (OSError, DamagedError) as error:
        return [str(error)]
    outside = [name for name in present if not name.startswith(f"{REPORT}/")]
    inside = [name.removeprefix(f"{REPORT}/") for name in present if name.startswith(f"{REPORT}/")]
    return _check_sums(root, outside) + [f"{REPORT}/{problem}" for problem in _check_sums(root / REPORT, inside)]


def check_manifest(root: Path) -> list[str]:
    """Return where the manifest contradicts its format, the list of digests or the signature."""
    try:
        manifest = read_manifest(root)
        listed = {entry["path"]: entry for entry in manifest["files"]}
        sums = read_sums(root / SUMS)
        is_signed = sums.pop(SIGNATURE, None) is not None
        sums.pop(MANIFEST, None)
        if is_signed != (manifest["signed_by"] is not None):
            return [f"{SIGNATURE}: {'not announced in' if is_signed else 'missing, and announced in'} {MANIFEST}"]
        if is_signed:
            read_signature(root, manifest["signed_by"])
        digests = {name: entry["sha256"] for name, entry in listed.items()}
        if len(listed) != len(manifest["files"]) or digests != sums:
            return [f"{MANIFEST}: its files and digests differ from {SUMS}"]
        wrong_sizes = [
            f"{name}: {MANIFEST} says {entry['size_bytes']} bytes"
            for name, entry in listed.items()
            if entry["size_bytes"] != (root / name).stat().st_size
        ]
        return wrong_sizes or _check_digest((root / MANIFEST).read_bytes())
    except (DamagedError, OSError) as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{MANIFEST}: not as schema version {SCHEMA_VERSION} has it ({error!r})"]


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a release; raises DamagedError for one that is unreadable or of another schema."""
    manifest = _json_object(_small_file(root / MANIFEST), MANIFEST)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise DamagedError(f"{MANIFEST}: schema version {manifest.get('schema_version')}, this reads {SCHEMA_VERSION}")
    return manifest


class _Number(str):
    """A number as a JSON text writes it."""

    __slots__ = ()


def _canonical(value: Any) -> str:
    """Return the canonical JSON (RFC 8785) of what was read from canonical JSON, whose numbers stay as they are."""
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: pair[0].encode("utf-16-be"))
        return f"{{{','.join(f'{_canonical(name)}:{_canonical(each)}' for name, each in pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    return value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _check_digest(text: bytes) -> list[str]:
    """Return where a manifest contradicts its own digest, or its version the digest and the config."""
    manifest = json.loads(text, parse_int=_Number, parse_float=_Number)
    try:
        if _canonical(manifest).encode() != text:
            return [f"{MANIFEST}: not canonical JSON"]
    except UnicodeEncodeError:
        return [f"{MANIFEST}: not valid Unicode"]
    stated = {name: value for name, value in manifest.items() if name not in {"version", "digest", "files"}}
    files = sorted([entry["path"], entry["sha256"]] for entry in manifest["files"])
    digest = hashlib.sha256(_canonical({"files": files, "manifest": stated}).encode()).hexdigest()
    if manifest["digest"] != digest:
        return [f"{MANIFEST}: states the digest {manifest['digest']}, its content has {digest}"]
    version = manifest["config"]["release"].get("version") or digest[:DIGEST_DIGITS]
    return [] if manifest["version"] == version else [f"{MANIFEST}: states another version than {version}"]


# Signature: an in-toto statement about the manifest's digest in a DSSE envelope, signed with Ed25519
# (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md)

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def key_id(public_key: bytes) -> str:
    """Return the name of a raw Ed25519 public key (32 bytes): its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()


def signed_bytes(payload: bytes) -> bytes:
    """Return what is signed for a payload: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def read_signature(root: Path, signed_by: str) -> tuple[bytes, bytes]:
    """Return the payload and the signature of a release; raises DamagedError unless they are of this manifest and key."""
    envelope = _json_object(_small_file(root / SIGNATURE), SIGNATURE)
    try:
        (entry,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(entry["sig"], validate=True)
        (subject,) = _json_object(payload, SIGNATURE)["subject"]
        named = (envelope["payloadType"], entry["keyid"], subject["name"], subject["digest"]["sha256"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise DamagedError(f"{SIGNATURE}: not a DSSE envelope of one signature ({error!r})") from error
    digest = hashlib.sha256((root / MANIFEST).read_bytes()).hexdigest()
    if named != (PAYLOAD_TYPE, signed_by, MANIFEST, digest):
        raise DamagedError(f"{SIGNATURE}: of another manifest, or by another key than {MANIFEST} states")
    return payload, signature


def check_signature(root: Path, public_key: bytes) -> list[str]:
    """Return why a release is not signed by an Ed25519 key (PEM); raises ValueError for a key that is none."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public_key)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{type(key).__name__}, and releases are signed with Ed25519")  # noqa: TRY004 — of the file, not of an argument
    try:
        signed_by = read_manifest(root)["signed_by"]
        if signed_by is None:
            return [f"{SIGNATURE}: missing: nobody signed this release"]
        if signed_by != key_id(key.public_bytes_raw()):
            return [f"{SIGNATURE}: by another key: {signed_by[:16]}…"]
        payload, signature = read_signature(root, signed_by)
        key.verify(signature, signed_bytes(payload))
    except (DamagedError, OSError, KeyError) as error:
        return [str(error)]
    except InvalidSignature:
        return [f"{SIGNATURE}: not valid for this key"]
    return []


# Order of versions (https://semver.org, section 11)

_VERSION = re.compile(r"(\d{1,15})\.(\d{1,15})\.(\d{1,15})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")


def precedence(version: str) -> tuple[Any, ...]:
    """Return what orders versions of the form 1.2.3 or 1.2.3-rc.1; raises ValueError for others: digests have no order."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"{version} is no version of the form 1.2.3, and others have no order")
    parts = match[4].split(".") if match[4] else []
    before = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return (*map(int, match.group(1, 2, 3)), not before, before)


def check_at_least(version: str, least: str) -> list[str]:
    """Return why a version is older than `least`; raises ValueError if `least` has no order."""
    wanted = precedence(least)
    try:
        return [] if precedence(version) >= wanted else [f"version {version} is older than {least}"]
    except ValueError as error:
        return [f"{error}: set release.version"]


# Lists of digests


def read_sums(path: Path) -> dict[str, str]:
    """Return file name → SHA-256 from a list that `sha256sum -c` accepts; raises DamagedError unless it is canonical."""
    try:
        text = _small_file(path).decode()
    except UnicodeDecodeError as error:
        raise DamagedError(f"{SUMS}: cannot be read ({error})") from error
    matches = [_SUM_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    sums = {match[2]: match[1] for match in matches if match}
    if format_sums(sums) != text:
        raise DamagedError(f"{SUMS}: not a sorted list of `<sha256>  <name>` lines")
    return sums


def format_sums(sums: Mapping[str, str]) -> str:
    """Return the text of a list of digests, sorted by file name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def list_files(root: Path) -> list[str]:
    """Return the files below a directory by relative name; raises DamagedError for links, devices, empty directories."""
    names: list[str] = []
    for directory, directories, files in os.walk(root, onerror=_raise):
        place = Path(directory)
        if not directories and not files and place != root:
            raise DamagedError(f"{place.relative_to(root).as_posix()}: an empty directory that is no part of a release")
        for name in (*directories, *files):
            path = place / name
            relative = path.relative_to(root).as_posix()
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise DamagedError(f"{relative}: a link or special file, and a release holds plain files only")
            if stat.S_ISREG(mode):
                names.append(relative)
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def _check_sums(directory: Path, present: list[str]) -> list[str]:
    try:
        sums = read_sums(directory / SUMS)
    except DamagedError as error:
        return [str(error)]
    files = set(present) - {SUMS}
    problems = [f"{name}: missing" for name in sorted(sums.keys() - files)]
    problems += [f"{name}: not part of the release" for name in sorted(files - sums.keys())]
    for name in sorted(files & sums.keys()):
        with (directory / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sums[name]:
                problems.append(f"{name}: its digest differs from the recorded one")
    return problems


def _small_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise DamagedError(f"{path.name}: larger than {_MAX_JSON_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path.name}: cannot be read ({error.strerror})") from error


def _json_object(text: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{name}: not a JSON object")
    return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


# Tensors (https://huggingface.co/docs/safetensors: 8 bytes of header length, a JSON header, the tensors end to end)


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file, writable and in the file's order.

    Strict: raises DamagedError unless lengths, offsets and sizes account for every byte exactly once.
    """
    import numpy as np

    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or header_bytes > min(size_bytes - 8, _MAX_JSON_BYTES):
            raise DamagedError(f"{path.name}: header of {header_bytes} bytes in a file of {size_bytes}")
        header = _json_object(file.read(header_bytes), path.name)
        buffer = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedError(f"{path.name}: metadata that is not text")
    arrays: dict[str, Array] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[1], f"{path.name}: {item[0]}")):
        dtype, shape = _dtype_and_shape(entry, f"{path.name}: {name}")
        begin, stop = _offsets(entry, name)
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize or stop > len(buffer):
            raise DamagedError(f"{path.name}: {name} lies at {begin}:{stop}, which its neighbours or shape contradict")
        arrays[name] = (
            np.frombuffer(buffer, dtype, math.prod(shape), begin).reshape(shape)
            if stop > begin
            else (np.empty(shape, dtype))
        )
        end = stop
    if end != len(buffer):
        raise DamagedError(f"{path.name}: {len(buffer) - end} bytes that belong to no tensor")
    return arrays, metadata


def _offsets(entry: Any, place: str) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        raise DamagedError(f"{place}: offsets that are not two sizes")
    return offsets[0], offsets[1]


def _dtype_and_shape(entry: dict[str, Any], place: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    import numpy as np

    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DamagedError(f"{place}: dtype {dtype}, and numpy has {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape) or len(shape) > 32:
        raise DamagedError(f"{place}: a shape that is no list of sizes")
    if math.prod(size for size in shape if size) >= 2**60:
        raise DamagedError(f"{place}: a shape beyond what memory can address")
    return np.dtype(DTYPES[dtype]).newbyteorder("<"), tuple(shape)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


# Golden cases


@dataclass(frozen=True)
class GoldenCase:
    """Inputs, the oracle's outputs in the output's dtype, and the noise floor (float64, broadcastable) of each output.

    An output of whole numbers has one where indices may come out otherwise.
    """

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    floors: Mapping[str, Array]


@dataclass(frozen=True)
class Golden:
    """The cases and the error they allow: limit × floor, or atol + rtol × |expected| where an output names them."""

    cases: tuple[GoldenCase, ...]
    limit: float
    tolerances: Mapping[str, Mapping[str, float]]


def read_golden(path: Path) -> Golden:
    """Return the golden cases of a release; raises DamagedError if the file holds anything else."""
    if path.stat().st_size > _MAX_GOLDEN_BYTES:
        raise DamagedError(f"{path.name}: larger than {_MAX_GOLDEN_BYTES} bytes")
    arrays, metadata = read_safetensors(path)
    cases: dict[str, GoldenCase] = {}
    for key in sorted(arrays):
        case_name, _, rest = key.partition("/")
        kind, _, tensor_name = rest.partition("/")
        case = cases.setdefault(case_name, GoldenCase(case_name, {}, {}, {}))
        kinds = {"input": case.inputs, "output": case.outputs, "floor": case.floors}
        if kind not in kinds or not tensor_name:
            raise DamagedError(f"{path.name}: {key} is not <case>/input|output|floor/<name>")
        kinds[kind][tensor_name] = arrays[key]  # type: ignore[index]  # the dicts made two lines above
    try:
        limit = float(metadata["limit"])
    except (KeyError, ValueError) as error:
        raise DamagedError(f"{path.name}: its metadata holds no limit") from error
    if not cases or not 0 <= limit < math.inf:
        raise DamagedError(f"{path.name}: {len(cases)} cases and a limit of {limit}")
    golden = Golden(tuple(cases.values()), limit, _json_object(metadata.get("tolerances", "{}").encode(), path.name))
    _check_budgets(golden, path.name)
    return golden


def _check_budgets(golden: Golden, place: str) -> None:
    """Raise DamagedError for a tolerance that is no pair of numbers, and a floor that does not fit its output."""
    import numpy as np

    for name, tolerance in golden.tolerances.items():
        numbers = list(tolerance.values()) if isinstance(tolerance, dict) else []
        if not isinstance(tolerance, dict) or set(tolerance) != {"atol", "rtol"} or not all(map(_is_number, numbers)):
            raise DamagedError(f"{place}: the tolerance of {name} is not atol and rtol")
    for case in golden.cases:
        for name, floor in case.floors.items():
            try:
                np.broadcast_to(floor, case.outputs[name].shape)
            except (KeyError, ValueError) as error:
                raise DamagedError(f"{place}: {case.name} has a floor that is of no output, {name}") from error


def golden_name(manifest: Mapping[str, Any], model: str) -> str:
    """Return the file with the golden cases of one model file: its own, where it has a precision of its own."""
    return next((each.get("golden") for each in manifest["models"] if each["path"] == model), None) or GOLDEN


def golden_of(root: Path, manifest: Mapping[str, Any], model: str) -> Golden:
    """Return the golden cases that one model file is held to, with the budget that it has."""
    name = golden_name(manifest, model)
    if name not in {each["path"] for each in manifest["files"] if each["role"] == "golden"}:
        raise DamagedError(f"{MANIFEST}: {name!r}, which {model} is held to, is no file of golden cases")
    return gated(read_golden(root / name), manifest, model)


def gated(golden: Golden, manifest: Mapping[str, Any], model: str) -> Golden:
    """Return golden cases with the budget of one model file, where the manifest states one of its own for it."""
    gate = next((each.get("gate") for each in manifest["models"] if each["path"] == model), None)
    if not gate:
        return golden
    usual = manifest["parity"]
    scales = {
        name: own["limit"] / (usual[name].get("limit") or golden.limit)
        for name, own in gate.items()
        if own.get("limit") is not None
    }
    cases = tuple(
        replace(case, floors={name: floor * scales.get(name, 1.0) for name, floor in case.floors.items()})
        for case in golden.cases
    )
    kept = {name: each for name, each in golden.tolerances.items() if name not in scales}
    explicit = {name: own for name, own in gate.items() if name not in scales}
    return replace(golden, cases=cases, tolerances={**kept, **explicit})


def judge(golden: Golden, case: GoldenCase, outputs: Mapping[str, Array]) -> list[str]:
    """Return where outputs leave what the case allows: names, shapes, dtypes, values."""
    import numpy as np

    if set(outputs) != set(case.outputs):
        return [f"{case.name}: outputs {sorted(outputs)}, expected {sorted(case.outputs)}"]
    problems = []
    for name, expected in case.outputs.items():
        problem = _differs(np.asarray(outputs[name]), expected, case.floors.get(name), golden, name)
        if problem:
            problems.append(f"{case.name}: {name} {problem}")
    return problems


def _differs(got: Array, expected: Array, floor: Array | None, golden: Golden, name: str) -> str | None:
    import numpy as np

    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"is {got.dtype}{list(got.shape)}, expected {expected.dtype}{list(expected.shape)}"
    is_same = got == expected  # also what decides for infinities
    if expected.dtype.kind == "f":
        is_same |= np.isnan(got) & np.isnan(expected)
    allowed = allowance(expected, floor, golden, name)
    if allowed is None:
        wrong = int(np.count_nonzero(~is_same))
        return f"differs in {wrong} of {expected.size} elements, and must be exact" if wrong else None
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - expected.astype(np.float64))
        is_good = is_same | (np.isfinite(error) & (error <= allowed))
        worst = error[~is_good]
    if is_good.all():
        return None
    largest = worst.max() if np.isfinite(worst).all() else math.nan
    return f"is off by {largest:.3g} at most, {worst.size} of {expected.size} elements beyond what is allowed"


def allowance(expected: Array, floor: Array | None, golden: Golden, name: str) -> NDArray[np.float64] | None:
    """Return how far each element of an output may be off: atol + rtol × |expected|, or limit × floor; None where it must be exact."""
    import numpy as np

    if name in golden.tolerances:
        tolerance = golden.tolerances[name]
        return tolerance["atol"] + tolerance["rtol"] * np.abs(expected.astype(np.float64))
    if floor is None:
        return None
    return np.asarray(np.broadcast_to(golden.limit * floor.astype(np.float64), expected.shape))


# Running

_PROVIDERS = {"onnxruntime-cpu": "CPUExecutionProvider", "onnxruntime-cuda": "CUDAExecutionProvider"}


def open_onnx(path: Path, backend: str) -> Callable[[Mapping[str, Array]], dict[str, Array]] | None:
    """Return a function from inputs to outputs by name, or None where the backend's provider does not load."""
    import onnxruntime

    provider = _PROVIDERS[backend]
    if provider not in onnxruntime.get_available_providers():
        return None
    if backend == "onnxruntime-cuda" and hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN from pip lie where no linker looks; what it does not find, it prints.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a provider that cannot load prints a page; the check below says it in a line
    known = read_manifest(path.parent) if (path.parent / MANIFEST).is_file() else {"models": []}
    if proven_options(known, path.name, backend).get("precise_products") is True:
        options.add_session_config_entry("session.x64quantprecision", "1")
    # TF32 alone loses 1e-3: what is proven here is the model, not that mode.
    chosen = (provider, {"use_tf32": "0"}) if backend == "onnxruntime-cuda" else provider
    try:
        # With the fallback on, onnxruntime would print to stdout and go on with the CPU.
        session = onnxruntime.InferenceSession(str(path), options, providers=[chosen], enable_fallback=0)
    except Exception:
        if backend == "onnxruntime-cpu":
            raise
        return None  # built in, but without a driver or a device
    if provider not in session.get_providers():
        return None
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def open_openvino(path: Path, backend: str) -> Callable[[Mapping[str, Array]], dict[str, Array]] | None:
    """Return a function from inputs to outputs by name, or None where OpenVINO would not compute in float32."""
    openvino = _import_untold("openvino", "openvino_telemetry")
    core = openvino.Core()
    chosen = {"INFERENCE_PRECISION_HINT": "f32"}  # where a processor can, it would compute in bfloat16
    if proven_options(read_manifest(path.parent), path.name, backend).get("snippets") is False:
        chosen["SNIPPETS_MODE"] = "DISABLE"
    compiled = core.compile_model(core.read_model(str(path)), "CPU", chosen)
    if compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.f32:
        return None
    dtypes = {name: port.get_element_type().to_dtype() for port in compiled.inputs for name in port.get_names()}
    names = [(name, index) for index, port in enumerate(compiled.outputs) for name in port.get_names()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            if array.dtype != dtypes[name]:  # it would cast
                raise ValueError(f"{name} is {array.dtype}, the file takes {dtypes[name]}")
            request.set_tensor(name, openvino.Tensor(array, shared_memory=False))
        request.infer()
        return {name: request.get_output_tensor(index).data.copy() for name, index in names}

    return run


def open_executorch(path: Path, backend: str) -> Callable[[Mapping[str, Array]], dict[str, Array]] | None:
    """Return a function from inputs to outputs by name; a constant method of the program says which is which."""
    del backend
    torch = importlib.import_module("torch")
    # executorch.runtime is the same behind an import of the exporter, which takes seconds.
    runtime = importlib.import_module("executorch.extension.pybindings._C")
    with contextlib.redirect_stderr(io.StringIO()):  # it says how it looks for what processor this is
        program = runtime._load_program(str(path), program_verification=runtime.Verification.InternalConsistency)  # noqa: SLF001 - it has no other name
        forward, names = program.load_method("forward"), json.loads(program.load_method("weighbridge")(())[0])

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [torch.from_numpy(inputs[name].copy()) for name in names["inputs"]]
        return {name: value.numpy() for name, value in zip(names["outputs"], forward(tensors), strict=True)}

    return run


def _import_untold(name: str, telemetry: str) -> Any:
    """Import a package that would tell its makers of its import, as if what it tells them with were not installed."""
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    finally:
        if hidden:
            del sys.modules[telemetry]


def proven_options(manifest: Mapping[str, Any], model: str, backend: str) -> Mapping[str, Any]:
    """Return the options that a backend was proven with on a file of the release, the fewest of several; none if it was not."""
    names = {each.get("name") or each["format"] for each in manifest["models"] if each["path"] == model}
    proven = [
        each["options"]
        for each in manifest.get("backends", {}).values()
        if each["backend"] == backend and (each.get("artifact") or each["format"]) in names
    ]
    return min(proven, key=len, default={})


@dataclass(frozen=True)
class Runner:
    """How the files of a format are run here: `packages` must be importable; `open` returns None where its backend cannot run.

    `open` is given the file and the backend's name, and returns a function from inputs to outputs by name. `needs_key`: nobody can
    tell from a file's bytes what it does, so that it is only run once the signature was checked.
    """

    format: str
    packages: tuple[str, ...]
    open: Callable[[Path, str], Callable[[Mapping[str, Array]], dict[str, Array]] | None]
    needs_key: bool = False


RUNNERS = {
    "onnxruntime-cpu": Runner("onnx", ("onnxruntime",), open_onnx),
    "onnxruntime-cuda": Runner("onnx", ("onnxruntime",), open_onnx),
    "openvino-cpu": Runner("openvino", ("openvino",), open_openvino),
    "executorch-xnnpack": Runner("executorch", ("executorch", "torch"), open_executorch, needs_key=True),
}
"""Backend name → how it runs the files of its format."""


def check_golden(root: Path, model: str, backend: str) -> list[str] | None:
    """Run the golden cases on a file of the release; return the problems, or None if the backend cannot run."""
    runner = RUNNERS[backend]
    if any(importlib.util.find_spec(each) is None for each in runner.packages):
        return None
    try:
        golden = golden_of(root, read_manifest(root), model)
        run = runner.open(root / model, backend)
        if run is None:
            return None
        return [f"{backend}: {problem}" for case in golden.cases for problem in judge(golden, case, run(case.inputs))]
    except Exception as error:  # noqa: BLE001 — whatever a runtime raises on this file is a failed check
        return [f"{backend}: {type(error).__name__}: {error}"]


def main(arguments: list[str]) -> int:
    """Check the release named, or the one this file lies in; print what is wrong and one line of verdict."""
    parser = argparse.ArgumentParser(description="Check a release: digests, signature, golden cases.")
    parser.add_argument("release", nargs="?", default=__file__, help="by default where this file lies")
    parser.add_argument("--key", type=Path, help="the public key (PEM) it must be signed with")
    parser.add_argument("--at-least", metavar="VERSION", help="refuse an older version than this")
    asked = parser.parse_args(arguments)
    root = Path(asked.release).resolve()
    root = root if root.is_dir() else root.parent
    try:
        problems = check_files(root) or check_manifest(root) or _check_origin(root, asked.key, asked.at_least)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    ran = [] if problems else _run_golden(root, problems, is_signed=asked.key is not None)
    for problem in problems:
        print(problem, file=sys.stderr)
    checked = "digests, signature" if asked.key else "digests"
    golden = f"golden cases on {', '.join(ran)}" if ran else "no file that this runs, so no golden case was run"
    print(f"{root.name}: {f'FAILED: {len(problems)} problem(s)' if problems else f'ok: {checked}, {golden}'}")
    return 1 if problems else 0


def _check_origin(root: Path, key: Path | None, least: str | None) -> list[str]:
    problems = check_signature(root, key.read_bytes()) if key else []
    return problems + (check_at_least(read_manifest(root)["version"], least) if least else [])


def _run_golden(root: Path, problems: list[str], *, is_signed: bool) -> list[str]:
    """Run the golden cases on every backend found, add what is wrong to `problems`, and return the backends that ran.

    What needs a key is left out, and said to be, unless the release `is_signed` by the one that was given.
    """
    ran = []
    runners = [
        (backend, " and ".join(runner.packages), model["path"])
        for model in read_manifest(root)["models"]
        for backend, runner in RUNNERS.items()
        if runner.format == model["format"]
    ]
    kept = [each for each in runners if RUNNERS[each[0]].needs_key and not is_signed]
    for backend, _, path in kept:
        print(f"{backend} did not run {path}: nobody can tell from its bytes what it does; give --key", file=sys.stderr)
    runners = [each for each in runners if each not in kept]
    for backend, _, path in runners:
        found = check_golden(root, path, backend)
        if found is not None:
            ran.append(backend)
            problems += found
    if runners and not ran:
        packages = " or ".join(dict.fromkeys(package for _, package, _ in runners))
        problems.append(f"nothing here could run the golden cases: install {packages}")
    return list(dict.fromkeys(ran))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
