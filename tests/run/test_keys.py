"""A release is built again exactly if something it depends on has changed, and the change is said."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.rebuild import trust
from pipeline.run import keys as dependencies
from pipeline.run import plan as planning
from pipeline.run import up_to_date
from pipeline.run.plan import Settings

SIMPLENET = Path("configs/simplenet.yaml").resolve()
WEIGHTS = Path("configs/weights/simplenet.pth").resolve()


def found_for(config, release, **settings):
    """Ask for a config's release where `release` was built."""
    chosen = Settings(**{"out": release.parent.parent, "benchmark": False} | settings)
    planned = planning.plan(config, chosen)
    return up_to_date.find(chosen.out, planned.config.name, dependencies.of_release(planned, chosen))


def changed(folder, *replacements):
    """Write a changed copy of the config, and return it."""
    text = SIMPLENET.read_text().replace("weights/simplenet.pth", str(WEIGHTS))
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "simplenet.yaml"
    path.write_text(text)
    return path


FIELDS = {
    "limit": ("parity: {limit: 16}", "parity: {limit: 17}", "parity.limit changed: 16 → 17"),
    "seed": ("parity: {limit: 16}", "parity: {limit: 16, seed: 1}", "seed changed: 0 → 1"),
    "explicit tolerance": ("parity: {limit: 16}", "parity: {atol: 1.0e-5, rtol: 0}", "parity.atol changed"),
    "cap": ("parity: {limit: 16}", "parity: {limit: 16, cap_elements: 500}", "cap_elements changed"),
    "largest size": ("max: 64", "max: 65", "dimensions.batch.max changed: 64 → 65"),
    "values": (
        "shape: [batch, 10]}",
        "shape: [batch, 10], values: uniform, low: 0, high: 1}",
        "inputs.x.values changed",
    ),
    "scale": ("shape: [batch, 10]}", "shape: [batch, 10], scale: 2}", "inputs.x.scale changed: 1 → 2"),
    "output": ("[logits]", "[scores]", "outputs[0] changed: logits → scores"),
    "exports": ("exports: [torchscript, onnx]", "exports: [onnx, torchscript]", "exports[0]"),
    "option": ("exports: [torchscript, onnx]", "exports: [torchscript, {format: onnx, opset: 18}]", "exports[1]"),
    "required": ("require: [torchscript, onnxruntime-cpu]", "require: [onnxruntime-cpu]", "require"),
    "backends": (", onnxruntime-cuda]\nrequire", "]\nrequire", "backend"),
    "reference": ("reference: eager", "reference: torchscript", "benchmark.reference changed: eager → torchscript"),
    "seconds": ("seconds: 20", "seconds: 21", "benchmark.seconds changed: 20 → 21"),
    "version": ("release: {", "release: {version: v1, ", "release.version changed: none → v1"),
    "license": ("Apache-2.0", "MIT", "release.license changed: Apache-2.0 → MIT"),
    "state dict in the file": ("  arguments: {", "  key: .\n  arguments: {", "model.key changed: none → ."),
    "name": ("name: simplenet", "name: other", "not built before"),
}


@pytest.mark.parametrize(("old", "new", "said"), FIELDS.values(), ids=FIELDS)
def test_a_changed_field_of_the_config_is_a_miss_and_is_said(built, tmp_path, old, new, said):
    found = found_for(changed(tmp_path, (old, new)), built)
    assert found.release is None
    assert said in found.why


def test_changed_weights_are_a_miss_and_their_digests_are_said(built, tmp_path):
    state = torch.load(WEIGHTS, weights_only=True)
    state["fc1.bias"][0] += 1e-7
    torch.save(state, tmp_path / "simplenet.pth")
    config = changed(tmp_path, (str(WEIGHTS), str(tmp_path / "simplenet.pth")))
    config.write_text("".join(line for line in config.read_text().splitlines(keepends=True) if "sha256" not in line))
    found = found_for(config, built)
    assert found.release is None
    assert "weights changed: 1a990fdca4d6 → " in found.why


def test_what_stands_beside_the_weights_is_a_part_of_what_they_say(built, tmp_path):
    shutil.copytree("configs", tmp_path / "configs")
    assert found_for(tmp_path / "configs" / "simplenet.yaml", built).release == built
    (tmp_path / "configs" / "weights" / "config.json").write_text("{}")
    found = found_for(tmp_path / "configs" / "simplenet.yaml", built)
    assert found.release is None
    assert "config.json beside the weights changed: none → " in found.why


def test_a_timed_release_or_a_signed_one_is_not_an_untimed_or_unsigned_one(built, tmp_path):
    from pipeline.release.signing import generate

    key, _ = generate(tmp_path / "key")
    assert found_for(SIMPLENET, built, benchmark=True).why == "benchmark changed: left out → yes"
    assert "signing key changed: none → " in found_for(SIMPLENET, built, sign=key).why


def _in_another_checkout(folder):
    shutil.copytree("configs", folder / "else where" / "configs")
    return folder / "else where" / "configs" / "simplenet.yaml"


def _touched(folder):
    config = _in_another_checkout(folder)
    os.utime(config.parent / "weights" / "simplenet.pth", (0, 0))
    return config


def _extended(folder):
    path = folder / "derived.yaml"
    path.write_text(f"extends: {SIMPLENET}\n")
    return path


IRRELEVANT = {
    "nothing": changed,
    "a comment": lambda folder: changed(folder, ("name: simplenet", "name: simplenet  # mine")),
    "an empty line": lambda folder: changed(folder, ("name: simplenet", "\n\nname: simplenet")),
    "order of keys": lambda folder: changed(
        folder,
        ("{input_size: 10, hidden_size: 20, output_size: 2}", "{output_size: 2, input_size: 10, hidden_size: 20}"),
    ),
    "order of sections": lambda folder: changed(
        folder, ("parity: {limit: 16}\n", ""), ("name: simplenet\n", "parity: {limit: 16}\nname: simplenet\n")
    ),
    "quotes": lambda folder: changed(folder, ("name: simplenet", "name: 'simplenet'")),
    "block style": lambda folder: changed(folder, ("parity: {limit: 16}", "parity:\n  limit: 16")),
    "a float for an integer": lambda folder: changed(folder, ("limit: 16", "limit: 16.0")),
    "a default written down": lambda folder: changed(folder, ("limit: 16", "limit: 16, seed: 0")),
    "a digest in capitals": lambda folder: changed(folder, ("1a990fdca", "1A990FDCA")),
    "time limits": lambda folder: changed(folder, ("name: simplenet", "limits: {run_seconds: 99}\nname: simplenet")),
    "an anchor": lambda folder: changed(folder, ("[batch, 10]", "&shape [batch, 10]")),
    "the name of the file": lambda folder: changed(folder).rename(folder / "my.yaml"),
    "the path of the checkout": _in_another_checkout,
    "times of files": _touched,
    "inheritance": _extended,
    "Windows line ends": lambda folder: _rewritten(changed(folder), "\r\n"),
}


def _rewritten(path, newline):
    path.write_text(path.read_text(), newline=newline)
    return path


@pytest.mark.parametrize("write", IRRELEVANT.values(), ids=IRRELEVANT)
def test_what_does_not_matter_is_a_hit(built, tmp_path, write):
    found = found_for(write(tmp_path), built)
    assert found.why == "nothing changed"
    assert found.release == built


@pytest.mark.parametrize(
    "settings",
    [{"trust": ("mine",)}, {"max_bytes": 10**6}, {"overrides": ("parity.limit=16",)}, {"threads": 1}],
    ids=str,
)
def test_settings_that_do_not_matter_are_a_hit(built, settings):
    assert found_for(SIMPLENET, built, **settings).release == built


def test_the_release_itself_is_checked(built, tmp_path):
    out = tmp_path / "artifacts"
    shutil.copytree(built.parent.parent, out, symlinks=True)
    copy = out / "simplenet" / built.name
    assert found_for(SIMPLENET, copy).release == copy
    (out / "simplenet" / "latest").unlink()
    assert "`latest` names another" in found_for(SIMPLENET, copy).why
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "damaged: " in found_for(SIMPLENET, copy).why
    shutil.rmtree(copy)
    assert "is gone" in found_for(SIMPLENET, copy).why
    (out / "simplenet" / up_to_date.RECORD).write_bytes(b'{"parts": [1')
    assert found_for(SIMPLENET, copy).why == "not built before"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of somebody's own: a package and a module that import each other, beside things that they do not."""
    (tmp_path / "nets" / "parts").mkdir(parents=True)
    for name, text in {
        "nets/__init__.py": "",
        "nets/net.py": "import helper, json\nfrom nets.parts import block\n",
        "nets/parts/__init__.py": "",
        "nets/parts/block.py": "    from more.deep import thing\n",
        "helper.py": "",
        "more/deep.py": "",
        "unrelated.py": "",
        "alone.py": "import helper",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(module):
    path = Path(module.replace(".", "/") + ".py").resolve()
    return set(dependencies.sources(trust.Located(module, "Net", path, "", None)))


@pytest.mark.usefixtures("project")
def test_a_networks_code_is_its_package_and_what_that_imports_from_beside_it():
    assert names_of("alone") == {"alone.py", "helper.py"}
    package = {"nets/__init__.py", "nets/net.py", "nets/parts/__init__.py", "nets/parts/block.py"}
    assert names_of("nets.net") == package | {"helper.py", "more/deep.py"}


def test_an_installed_network_is_its_own_package_alone(project):
    (project / "site-packages").mkdir()
    for name in ("nets", "more"):
        shutil.move(project / name, project / "site-packages" / name)
    path = project / "site-packages" / "nets" / "net.py"
    found = dependencies.sources(trust.Located("nets.net", "Net", path, "", None))
    assert {name.partition("/")[0] for name in found} == {"nets"}


def test_our_own_networks_are_part_of_our_code():
    located = trust.locate("pipeline.architectures.simplenet:SimpleNet", [trust.ALWAYS_TRUSTED])
    assert dependencies.sources(located) == {}


def test_what_changed_is_said_in_one_line_the_first_few_by_name():
    before = {"a": 1, "b": "x" * 100, "c": None, "d": 0, "e": "0" * 64}
    now = {"a": 1.0, "b": "y", "c": "new", "d": 0, "f": 2}
    said = up_to_date.describe_changes(before, now)
    assert "\n" not in said
    assert said.startswith("b changed: xxx")
    assert "c changed: none → new" in said
    assert "e changed: 000000000000 → none" in said
    assert said.endswith("(and 1 more)")
    assert up_to_date.describe_changes(now, now) == ""


def keys(config, tmp_path):
    planned = planning.plan(config, Settings(out=tmp_path))
    variant = next(each for each in planned.variants if each.name == "eager")
    return {
        "export": dependencies.of_export(
            planned,
            planned.config.exports[-1] if planned.config.exports[-1].format == "onnx" else planned.config.exports[0],
            {},
            None,
        ),
        "oracle": dependencies.of_oracle(planned),
        "proof": dependencies.of_proof(planned, variant, None, 1),
    }


def test_a_proof_holds_for_the_device_that_it_was_made_on(tmp_path, monkeypatch):
    """The same config and bytes on another GPU, or under another driver, are proven again; nothing else is made again."""
    before = keys(SIMPLENET, tmp_path)
    table = dependencies.backends()
    other = replace(table["eager"], device_facts=lambda: "another GPU; driver 2")
    monkeypatch.setattr(dependencies, "backends", lambda: {**table, "eager": other})
    after = keys(SIMPLENET, tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"proof"}


@pytest.mark.parametrize(
    ("old", "new", "misses"),
    [
        ("limit: 16", "limit: 17", {"proof"}),
        ("limit: 16", "limit: 16, cap_elements: 500", {"oracle", "proof"}),
        ("limit: 16", "limit: 16, seed: 1", {"export", "oracle", "proof"}),
        ("max: 64", "max: 65", {"export", "oracle", "proof"}),
        ("  arguments: {", "  key: .\n  arguments: {", {"export", "oracle", "proof"}),
        ("seconds: 20", "seconds: 21", set()),
        ("Apache-2.0", "MIT", set()),
        ("exports: [torchscript, onnx]", "exports: [onnx, torchscript]", set()),
        ("sha256: 1a990fdca4d6fec56e5b45906c43ea23c2d744bd4706af1d229d20b3f383289c", "ignore: []", set()),
    ],
    ids=["limit", "cap", "seed", "range", "key", "seconds", "license", "order of exports", "digest not stated"],
)
def test_a_change_makes_only_those_results_again_that_it_touches(tmp_path, old, new, misses):
    before = keys(changed(tmp_path), tmp_path)
    after = keys(changed(tmp_path, (old, new)), tmp_path)
    assert {name for name in before if before[name] != after[name]} == misses
