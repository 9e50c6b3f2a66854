"""A second machine exports without building anything, and says whose results those were; what was timed stays where it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.benchmark.document import UNTIMED
from pipeline.errors import InputError
from pipeline.release import bundle, signing
from pipeline.run.export import export
from pipeline.run.plan import Settings, results
from pipeline.run.sharing import SharedCache, opened
from pipeline.run.stages import timing as timing_stage
from pipeline.worker.inprocess import InProcessRunner

LIGHT = (
    "exports=[onnx]",
    "backends=[eager, onnxruntime-cpu]",
    "require=[onnxruntime-cpu]",
)


class _Nobody:
    """A runner that must not be asked for anything."""

    def expect(self, _modules):
        pass

    def start(self, name, **_):
        raise AssertionError(f"{name} was started")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A release of the first machine, and what both machines share."""
    folder = tmp_path_factory.mktemp("machines")
    signing.generate(folder / "ours")
    signing.generate(folder / "stranger")
    (folder / "configs" / "weights").mkdir(parents=True)
    for each in ("simplenet.yaml", "weights/simplenet.pth"):
        shutil.copy(Path("configs", each), folder / "configs" / each)
    shared = SharedCache(f"file://{folder}/shared", folder / "ours.pem")
    settings = Settings(
        out=folder / "first",
        overrides=LIGHT,
        shared=shared,
        benchmark=False,
        runner=InProcessRunner(),
        threads=1,
    )
    release = export(Path("configs/simplenet.yaml"), settings).release
    return folder, settings, release


def test_a_second_machine_builds_nothing_and_its_release_is_the_same(first):
    folder, settings, release = first
    trusting = SharedCache(settings.shared.url, None, (folder / "ours.pub.pem",))
    events = []
    second = replace(settings, out=folder / "second", shared=trusting, runner=_Nobody(), report=events.append)
    found = export(folder / "configs" / "simplenet.yaml", second).release
    assert found.name == release.name
    assert bundle.file_digests(found) == bundle.file_digests(release)
    reused = {each.subject: each.detail for each in events if each.status == "reused"}
    writer = signing.read_signer(folder / "ours.pem").key_id
    assert {each.split(";")[0] for each in reused.values()} == {f"made elsewhere by {writer[:16]}"}
    assert reused.keys() == {"oracle", "onnx", "onnx audit", "eager", "onnxruntime-cpu"}
    here, elsewhere = (json.loads((each / "report" / "parity.json").read_text()) for each in (release, found))
    assert {each["writer"] for each in elsewhere["elsewhere"]} == {writer}
    assert len(elsewhere.pop("elsewhere")) == 5
    assert elsewhere == here
    said = (found / "report" / "report.md").read_text()
    assert "5 results of this run were made elsewhere" in said
    assert writer in said
    assert "Made elsewhere" in (found / "report" / "report.html").read_text()
    steps = json.loads((found.parent / "run.json").read_text())["steps"]
    assert f"made elsewhere by {writer[:16]}" in {each.get("detail", "").split(";")[0] for each in steps}


def test_a_stranger_s_results_are_made_again(first):
    folder, settings, _ = first
    other = SharedCache(settings.shared.url, None, (folder / "stranger.pub.pem",))
    with pytest.raises(AssertionError, match="was started"):
        export(
            Path("configs/simplenet.yaml"),
            replace(settings, out=folder / "third", shared=other, runner=_Nobody(), report=lambda _: None),
        )


def test_what_is_timed_is_neither_added_nor_taken(first, monkeypatch):
    folder, settings, _ = first
    place = opened(settings.shared).objects
    before = {name for name, _ in place.sizes("actions")}
    monkeypatch.setattr(timing_stage, "measured", lambda *_: UNTIMED)
    timing = replace(settings, out=folder / "timed", benchmark=True, reuse_timings=True, runner=_Nobody())
    export(Path("configs/simplenet.yaml"), timing)
    kept = {each.about for each in results(timing).entries()}
    assert [each for each in kept if "timings" in each]
    assert {name for name, _ in place.sizes("actions")} == before
    assert not any("launch" in each or "timings" in each for each in _abouts(place))


def _abouts(place):
    import base64

    for name, size in place.sizes("actions"):
        envelope = json.loads(place.read(name, 0, size))
        yield json.loads(base64.b64decode(envelope["payload"]))["about"]


def test_everything_made_again_neither_takes_nor_adds(first):
    folder, settings, _ = first
    again = replace(settings, out=folder / "again", rebuild=True, runner=_Nobody())
    with pytest.raises(AssertionError, match="was started"):
        export(Path("configs/simplenet.yaml"), again)


def test_a_cache_without_a_key_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match="nothing says whose results count") as caught:
        opened(SharedCache(f"file://{tmp_path}"))
    assert "--cache-key" in caught.value.hint
    assert "--cache-trust" in caught.value.hint


def test_a_file_that_is_no_public_key_is_told(tmp_path):
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(InputError, match="is no public key"):
        opened(SharedCache(f"file://{tmp_path}", None, (tmp_path / "x.pem",)))
