"""A tiny release through the real driver, cache and bundle, in a tenth of a second: only the work of the stages is stubbed."""

from __future__ import annotations

import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import WeighbridgeError
from pipeline.release import bundle, standalone
from pipeline.release.standalone import Golden, GoldenCase
from pipeline.run import cached
from pipeline.run.export import export as run_export
from pipeline.run.plan import Settings, results
from pipeline.run.stages import table
from pipeline.run.stages.results import Released
from pipeline.run.stages.state import Stage
from pipeline.storage.store import canonical_json, key
from pipeline.worker.event import Event
from pipeline.worker.inprocess import InProcessRunner
from tests import strace
from tests.conftest import MANIFEST
from tests.forking import forked

NAME = "simplenet"
_CONFIG = Path("configs/simplenet.yaml").resolve()
_ELEMENTS = 20_000


@dataclass(frozen=True)
class Stub:
    """What an exporter and an oracle would have made: a model file, and facts."""

    model: Path
    facts: dict[str, Any]


def _export(state):
    """Keep a model file that depends on the seed, as an exporter's would on the network."""
    seed = state.plan.config.parity.seed

    def work(folder):
        state.settings.report(Event("export", "stub", "working"))
        values = np.random.default_rng(seed).normal(size=_ELEMENTS)
        (folder / "model.onnx").write_bytes(values.tobytes())
        return {"seed": seed, "values": values[:3]}

    found = cached.get_or_make(results(state.settings), key({"stub": seed}), f"stub {seed}", work)
    return (Stub(found.folder / "model.onnx", found.answer),)


def _release(state):
    stub = state.need(Stub)
    facts, model = stub.facts, stub.model
    case = GoldenCase("one", {"x": np.ones(4, np.float32)}, {"y": facts["values"]}, {"y": np.ones(3)})
    content = bundle.ReleaseContent(
        name=state.plan.config.name,
        version=None,
        models=(bundle.ModelFile("onnx", "onnx", "model.onnx", model),),
        golden=Golden((case,), 16, {}),
        manifest=MANIFEST | {"parity": {"y": {"limit": 16 + facts["seed"]}}},
        report={"parity.json": canonical_json({}), "report.md": b"# A report\n" * 200},
    )
    return (Released(bundle.write(content, state.settings.out)),)


STAGES = (
    Stage("export", "a stub", (), (Stub,), _export),
    Stage("release", "the real one", (Stub,), (Released,), _release),
)


def export(out, seed, report=lambda _: None, name=NAME):
    """Export in this process with stubs for stages; return the exit code, with an error's message on stderr."""
    settings = Settings(
        out=out,
        benchmark=False,
        overrides=(f"parity.seed={seed}", f"name={name}"),
        report=report,
        runner=InProcessRunner(),
        threads=1,
    )
    real, table.STAGES = table.STAGES, STAGES
    try:
        run_export(_CONFIG, settings)
    except WeighbridgeError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    finally:
        table.STAGES = real
    return 0


@dataclass(frozen=True)
class Scene:
    """A folder to export to as it is before, the calls that an export makes there, and the bytes that must be there then.

    `old` and `new` are version → digests of the release before, if there is one, and of the one that is exported.
    """

    before: Path
    old: dict[str, Any]
    new: dict[str, Any]
    points: tuple[strace.Point, ...]

    def restored(self, out):
        """Make `out` the folder as it is before, and return it."""
        shutil.rmtree(out, ignore_errors=True)
        return Path(shutil.copytree(self.before, out))


def scene(folder, *, has_old):
    """Return a scene in which a release is exported to an empty folder, or beside an older one."""
    before, out = folder / "before", folder / "out"
    before.mkdir()
    export(folder / "warm", 1)  # what a process caches would otherwise be read again in each child
    if has_old:
        assert forked(lambda: export(before, 0)).code == 0
    old = versions(before)
    shutil.copytree(before, out)
    traced = strace.run(lambda: export(out, 1))
    assert traced.code == 0, traced.err
    new = {version: digests for version, digests in versions(out).items() if version not in old}
    return Scene(before, old, new, strace.below(traced.points, out))


def spread(cases, count, seed):
    """Return a few of many cases in their order: at equal distances from a random start, and all that are about `latest`."""
    step = len(cases) // count
    chosen = range(random.Random(seed).randrange(step), len(cases), step)
    return [case for index, case in enumerate(cases) if index in chosen or f"/{bundle.LATEST}" in str(case)]


def require_old_or_new(scene, out):
    """Fail unless a folder holds whole releases only, those that may be there, and `latest` names one of them."""
    found, latest = versions(out), latest_of(out)
    assert found.items() <= (scene.old | scene.new).items()
    assert found.items() >= scene.old.items()
    assert latest in found or (latest is None and not scene.old)


def require_next_run_succeeds(scene, out):
    """Fail unless the next export succeeds without any cleaning, gives the same bytes, and leaves nothing lying about."""
    again = forked(lambda: export(out, 1))
    assert again.code == 0, again.err
    assert versions(out) == scene.old | scene.new
    assert latest_of(out) in scene.new
    assert temporaries(out) == []


def versions(out, name=NAME):
    """Return the digests of every release in a folder by version; raise AssertionError where one is not whole."""
    folder = out / name
    found = {}
    if not folder.is_dir():
        return found
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in {bundle.FAILED, bundle.CRASHES}:
            assert standalone.check_files(path) == [], path
            found[path.name] = bundle.file_digests(path)
    latest = folder / bundle.LATEST
    if latest.exists():
        assert latest.read_text().strip() in found, latest.read_text()
    return found


def latest_of(out):
    """Return the version that `latest` names, None where it does not exist."""
    file = out / NAME / bundle.LATEST
    return file.read_text().strip() if file.exists() else None


def temporaries(out):
    """Return what interrupted runs have left in a folder."""
    return sorted(out.rglob(".tmp-*"))
