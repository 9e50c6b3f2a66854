"""What the network gave where it was trained, read from a file: inputs with the outputs that came of them.

A file that `pipeline.record` wrote says more than arrays (see there). One made by hand holds inputs and outputs of one call
under the config's names.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping  # noqa: TC003 - read when requests are validated
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, suggestion
from pipeline.interface import Array, Case  # noqa: TC001 - as above
from pipeline.rebuild import cases
from pipeline.rebuild.doctor.prefixes import STEP_COUNTER, WRAPPERS
from pipeline.rebuild.record import FORMAT, META

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.interface import Arrays, Interface

_KEY = re.compile(r"(?P<call>\d{1,4})/(?P<kind>input|output|module)(?:/(?P<name>.*))?")
_MAX_META_BYTES = 64 * 2**20
_SHOWN = 6
_AGAIN = "record it again: weighbridge record CONFIG prints the line, with the names of the config"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded call: the inputs as a case, the outputs by the config's names, and what modules gave on the way.

    `modules` holds name, class, shape and some elements (float64) of what each call of a module returned, in order.
    """

    case: Case
    outputs: Mapping[str, Array]
    modules: tuple[tuple[str, str, list[int], Array], ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """All recorded calls, and what is known of where they were made; `meta` is {} for a file made by hand."""

    name: str
    calls: tuple[Recorded, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The inputs, as cases."""
        return tuple(each.case for each in self.calls)

    @property
    def attributes(self) -> dict[str, Any]:
        """The plain attributes of the recorded network itself."""
        settings = self.meta.get("settings", {})
        found: Any = next((settings[name] for name in ("", "module", "_orig_mod") if name in settings), {})
        return dict(found) if isinstance(found, dict) else {}

    @property
    def place(self) -> str:
        """Where it was recorded, in words."""
        if not self.meta:
            return "made by hand"
        extra = [word for word in ("tf32", "autocast") if self.meta.get(word)]
        return ", ".join([f"torch {self.meta['torch']}", str(self.meta["device"]), *self.meta["dtypes"], *extra])


def parse(arrays: Arrays, interface: Interface, name: str) -> Recording:
    """Return what the arrays of a file hold, under the config's names.

    Raises:
        InputError: inputs or outputs are missing, of another dtype or rank, or of sizes that the config does not allow.
    """
    meta = _meta(arrays, name)
    calls = _by_call({key: array for key, array in arrays.items() if key != META}, interface, name)
    found = []
    for index, (inputs, outputs, samples) in sorted(calls.items()):
        label = f"reference {index}"
        given = _renamed(inputs, [spec.name for spec in interface.inputs], f"{name}, call {index}: input")
        case = cases.from_samples(interface, _as_declared(given, interface), name=label, what=f"{name}, call {index}")
        _require_allowed(case, interface, f"{name}, call {index}")
        stated = {each: interface.paths.get(each, each) for each in interface.outputs}
        wanted = _renamed(outputs, list(stated.values()), f"{name}, call {index}: output", may_have_more=True)
        modules = [
            (*each, samples[str(place)]) for place, each in enumerate(_called(meta, index)) if str(place) in samples
        ]
        found.append(Recorded(case, {each: wanted[path] for each, path in stated.items()}, tuple(modules)))
    if not found:
        raise InputError(f"{name} holds no call", hint="record it with: from pipeline import record")
    return Recording(name, tuple(found), meta)


def _meta(arrays: Arrays, name: str) -> dict[str, Any]:
    if META not in arrays:
        return {}
    array = arrays[META]
    try:
        if array.dtype.name != "uint8" or array.nbytes > _MAX_META_BYTES:
            raise ValueError("no text")
        meta = json.loads(array.tobytes())
        known = {"format", "torch", "device", "dtypes", "calls", "state", "settings"}
        if not isinstance(meta, dict) or meta.get("format") != FORMAT or not known <= meta.keys():
            raise ValueError(
                f"its format is {meta.get('format') if isinstance(meta, dict) else None!r}, not {FORMAT!r}"
            )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: what it says of itself cannot be read: {error}", hint="record it again") from error
    return meta


def _called(meta: Mapping[str, Any], index: int) -> list[tuple[str, str, list[int]]]:
    try:
        return [
            (str(name), str(kind), [int(size) for size in shape])
            for name, kind, shape in meta["calls"][index]["modules"]
        ]
    except (KeyError, IndexError, TypeError, ValueError):
        return []


Call = tuple[dict[str, "Array"], dict[str, "Array"], dict[str, "Array"]]


def _by_call(arrays: Arrays, interface: Interface, name: str) -> dict[int, Call]:
    """Return inputs, outputs and samples of modules by call; a file without numbers is one call, by the config's names."""
    matches = {key: _KEY.fullmatch(key) for key in arrays}
    calls: dict[int, Call] = {}
    if not any(matches.values()):
        inputs = {spec.name for spec in interface.inputs}
        outputs = {key: array for key, array in arrays.items() if key not in inputs}
        return {0: ({key: array for key, array in arrays.items() if key in inputs}, outputs, {})}
    for key, match in matches.items():
        if match is None:
            raise InputError(
                f"{name} holds {key!r:.80}, which is neither a recorded input nor an output", hint="record it again"
            )
        call = calls.setdefault(int(match["call"]), ({}, {}, {}))
        call[("input", "output", "module").index(match["kind"])][match["name"] or ""] = arrays[key]
    return calls


def _renamed(found: Arrays, wanted: Sequence[str], what: str, *, may_have_more: bool = False) -> dict[str, Array]:
    """Return arrays under the names wanted: their own, or in order where not one of them is."""
    known = [name for name in wanted if name in found]
    if len(known) == len(wanted) and (may_have_more or len(found) == len(wanted)):
        return {name: found[name] for name in wanted}
    if not known and len(found) == len(wanted):
        return dict(zip(wanted, found.values(), strict=True))
    lost = next((name for name in wanted if name not in found), None)
    listed = ", ".join(name or "one value" for name in found) or "none"
    if lost is None:
        raise InputError(f"{what}s {listed} were recorded, the config names {', '.join(wanted)}", hint=_AGAIN)
    raise InputError(f"{what} {lost!r} was not recorded{suggestion(lost, found)}; recorded: {listed}", hint=_AGAIN)


def _as_declared(arrays: Arrays, interface: Interface) -> dict[str, Array]:
    """Return inputs in the declared dtype where that holds every value exactly: what was recorded in half precision, say."""
    import numpy as np

    made = dict(arrays)
    for spec in interface.inputs:
        array = made[spec.name]
        if (
            array.dtype.kind == "f"
            and spec.dtype in {"float16", "float32", "float64"}
            and array.dtype.name != spec.dtype
        ):
            converted = array.astype(spec.dtype)
            if np.array_equal(converted.astype(np.float64), array.astype(np.float64), equal_nan=True):
                made[spec.name] = converted
    return made


def _require_allowed(case: Case, interface: Interface, what: str) -> None:
    for dimension in interface.dimensions:
        size = case.sizes[dimension.name]
        if dimension.formula is None and size not in cases.allowed(dimension):
            raise InputError(
                f"{what}: {dimension.name} is {size}, and the config allows {dimension.min} to {dimension.max}"
                + (f" in steps of {dimension.multiple_of}" if dimension.multiple_of > 1 else ""),
                hint=f"widen dimensions.{dimension.name}, or record another size",
            )


# What the file says of the network


def differences(meta: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what the rebuilt network (see `record.fingerprint`) is not the one that was recorded: weights and settings."""
    if not meta:
        return
    yield from _weights(meta["state"], found["state"], same_dtypes=set(meta["dtypes"]) == set(found["dtypes"]))
    yield from _settings(meta["settings"], found["settings"], own=False)


def hints(recording: Recording, interface: Interface, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what may explain a difference: attributes of the user's own modules, arguments of the call."""
    if not recording.meta:
        return
    yield from _settings(recording.meta["settings"], found["settings"], own=True)
    for call in recording.meta["calls"]:
        for name, value in call.get("constants", {}).items():
            if name not in interface.constants:
                yield f"it was recorded with {name}={value!r}, which `constants` leaves out"
            elif interface.constants[name] != value:
                yield f"it was recorded with {name}={value!r}, and `constants` says {interface.constants[name]!r}"


def _weights(theirs: Mapping[str, str], ours: Mapping[str, str], *, same_dtypes: bool) -> Iterator[str]:
    """Compare digests by name; what was saved in another precision has others."""
    if not same_dtypes:
        return
    recorded = {
        _plain_name(name): digest for name, digest in theirs.items() if not name.endswith(STEP_COUNTER) and digest
    }
    rebuilt = {_plain_name(name): digest for name, digest in ours.items() if not name.endswith(STEP_COUNTER) and digest}
    if recorded.keys() != rebuilt.keys():
        lacking = sum((Counter(recorded.values()) - Counter(rebuilt.values())).values())
        if lacking:
            yield f"{lacking} of the {len(recorded)} tensors that were recorded are not in the rebuilt network"
        return
    wrong = [name for name in recorded if recorded[name] != rebuilt[name]]
    owner = {digest: name for name, digest in recorded.items()}
    moved = {name: owner[rebuilt[name]] for name in wrong if rebuilt[name] in owner}
    for name, other in list(moved.items())[:_SHOWN]:
        yield f"{name} holds the values that {other} was recorded with"
    others = [name for name in wrong if name not in moved]
    if others:
        listed = ", ".join(others[:_SHOWN]) + (" …" if len(others) > _SHOWN else "")
        all_of = len(others) == len([name for name in recorded if name in rebuilt])
        hint = ": weights of another epoch, or an average of them" if all_of or len(others) * 2 > len(recorded) else ""
        yield f"{len(others)} of {len(recorded)} tensors have other values than were recorded ({listed}){hint}"


def _plain_name(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _settings(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, own: bool) -> Iterator[str]:
    """Compare modules of one name and class: torch's, or the user's own."""
    recorded = {_plain_name(f"{name}.").rstrip("."): each for name, each in theirs.items()}
    for name, mine in ours.items():
        other = recorded.get(name)
        if not isinstance(other, dict) or other.get("class") != mine["class"]:
            continue
        if mine["class"].startswith("torch.nn.") == own:
            continue
        for key in sorted(mine.keys() & other.keys()):
            if mine[key] != other[key]:
                place = f"{name}.{key}" if name else key
                yield f"{place} is {mine[key]!r}, and was {other[key]!r} where it was recorded"
