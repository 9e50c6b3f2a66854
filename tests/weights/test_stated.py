"""What a checkpoint says of its network's arguments: read as plain values, by exact name, with its source."""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.weights import headers, stated
from tests.weights import inert_corpus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STATE = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}
DEFAULTS = {"width": 16, "depth": 2, "scale": 1.0, "residual": False, "activation": "relu", "limit": None}
SAID = {"width": 32, "depth": 3, "scale": 2.5, "residual": True, "activation": "gelu", "limit": 0.5}


def _configured(**values: Any) -> Any:
    made = inert_corpus.Meter()  # a dataclass is told by its attributes, as any object
    made.__dict__ = values
    return made


def said(saved: Any, folder: Path, *, key: str | None = None, fits: Any = lambda _: True) -> stated.Stated:
    torch.save(saved, folder / "net.pth")
    return _read(folder / "net.pth", key, fits)


def _read(path: Path, key: str | None = None, fits: Any = lambda _: True) -> stated.Stated:
    return stated.read(path, headers.read(path, key=key), DEFAULTS, key=key, fits=fits)


def _values(found: stated.Stated) -> dict[str, Any]:
    return {name: claim.value for name, claim in found.claims.items()}


@pytest.mark.parametrize(
    ("saved", "source"),
    [
        ({"state_dict": STATE, "hyper_parameters": SAID, "epoch": 3}, "net.pth: hyper_parameters"),
        ({"state_dict": STATE, "hparams": {**SAID, "lr": 1e-3, "betas": (0.9, 0.99)}}, "net.pth: hparams"),
        ({"model": STATE, "config": {"seed": 1, "model": SAID, "data": {"path": "x"}}}, "net.pth: config.model"),
        ({"model": STATE, "args": SAID}, "net.pth: args"),
        ({"model": STATE, "model_args": SAID}, "net.pth: model_args"),
        ({"model": STATE, "hyper_parameters": {"lr": 1, "net": {"init_args": SAID}}}, "net.pth: hyper_parameters.net.init_args"),
        ({"model": STATE, "whatever": {"kwargs": SAID}}, "net.pth: whatever.kwargs"),
        ({"model_state": STATE, **SAID, "words": ["a"]}, "net.pth: top level"),
        ({**STATE, **SAID}, "net.pth: top level"),
    ],
)  # fmt: skip
def test_arguments_are_found_wherever_scripts_keep_them(saved: Any, source: str, tmp_path: Path) -> None:
    found = said(saved, tmp_path)
    assert _values(found) == SAID
    assert {claim.source for claim in found.claims.values()} == {source}
    assert all(claim.is_certain for claim in found.claims.values())


@pytest.mark.parametrize(
    ("hyper", "source"),
    [
        (inert_corpus.omegaconf(SAID), "hyper_parameters"),
        (inert_corpus.omegaconf({**SAID, "width": "${sizes.inner}", "sizes": {"inner": 32}}), "hyper_parameters"),
        (inert_corpus.omegaconf({"lr": 1, "model": {"net": SAID}}), "hyper_parameters.model.net"),
        (argparse.Namespace(**SAID), "hyper_parameters"),
        (argparse.Namespace(model=types.SimpleNamespace(**SAID)), "hyper_parameters.model"),
        (inert_corpus.AttributeDict(SAID), "hyper_parameters"),
        ({"config": _configured(**SAID)}, "hyper_parameters.config"),
        (collections.defaultdict(dict, {"net": SAID}), "hyper_parameters.net"),
    ],
)
def test_configs_namespaces_and_dataclasses_are_tables_of_what_they_hold(
    hyper: Any, source: str, tmp_path: Path
) -> None:
    found = _read(inert_corpus.save({"state_dict": STATE, "hyper_parameters": hyper}, tmp_path / "net.pth"))
    assert _values(found) == SAID
    assert {claim.source for claim in found.claims.values()} == {f"net.pth: {source}"}
    assert all(claim.is_certain for claim in found.claims.values())


def test_objects_that_are_no_values_are_named(tmp_path: Path) -> None:
    omegaconf = inert_corpus.omegaconf
    hyper = {
        "width": inert_corpus.Phase.TRAIN, "depth": torch.nn.Linear(1, 1), "scale": omegaconf("${oc.env:HOME}"),
        "limit": omegaconf("???"), "activation": pathlib.PurePosixPath("runs/a"), "residual": pathlib.PurePosixPath("/etc/a"),
    }  # fmt: skip
    found = _read(inert_corpus.save({"state_dict": STATE, "hyper_parameters": hyper}, tmp_path / "net.pth"))
    assert _values(found) == {"activation": "runs/a"}
    holds = "net.pth: hyper_parameters holds"
    assert found.unread == {
        "width": f"{holds} an object of my_project.kinds.Phase for it",
        "depth": f"{holds} an object of torch.nn.modules.linear.Linear for it",
        "scale": f"{holds} an object of omegaconf.nodes.AnyNode for it",
        "limit": f"{holds} an object of omegaconf.nodes.AnyNode for it",
        "residual": f"{holds} a path or an address, which a file may not choose, for it",
    }


def test_configs_that_refer_to_one_another_in_a_circle_have_no_value(tmp_path: Path) -> None:
    circle = {**SAID, "width": "${depth}", "depth": "${width}"}
    hyper = inert_corpus.omegaconf(circle)
    found = _read(inert_corpus.save({"state_dict": STATE, "hyper_parameters": hyper}, tmp_path / "net.pth"))
    assert found.unread.keys() == {"width", "depth"}
    hyper.__dict__["_content"]["width"].__dict__["_val"] = hyper
    found = _read(inert_corpus.save({"state_dict": STATE, "hyper_parameters": hyper}, tmp_path / "net.pth"))
    assert "width" in found.unread


def test_a_config_beside_the_weights_is_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", **SAID}))
    found = _read(tmp_path / "model.safetensors")
    assert _values(found) == SAID
    assert found.claims["scale"].source == "config.json"
    for useless in ("[1]", "{", "\xff", "[" * 100_000):
        (tmp_path / "config.json").write_text(useless, encoding="latin-1")
        assert _read(tmp_path / "model.safetensors") == stated.Stated()


@pytest.mark.parametrize(
    ("metadata", "values"),
    [
        ({"scale": "2.5", "width": "32", "residual": "True", "limit": "null", "activation": "gelu", "format": "pt"},
         {"scale": 2.5, "width": 32, "residual": True, "limit": None, "activation": "gelu"}),
        ({"config": json.dumps(SAID)}, SAID),
        ({"residual": "false", "activation": "7"}, {"residual": False, "activation": "7"}),
        ({"fc2.weight": "fc.weight"}, {}),
    ],
)  # fmt: skip
def test_the_metadata_of_safetensors_are_texts_that_are_read(
    metadata: dict[str, str], values: Mapping[str, Any], tmp_path: Path
) -> None:
    save_file(STATE, tmp_path / "net.safetensors", metadata=metadata)
    assert _values(_read(tmp_path / "net.safetensors")) == values


@pytest.mark.parametrize(
    "saved",
    [
        {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"scale": 3.0}], "scale": 3.0}},
        {"model": STATE, "lr_scheduler": {"scale": 3.0}},
        {"model": STATE, "loops": {"depth": 7}, "callbacks": {"X": {"limit": 3}}},
        {"model": {**STATE, "scale": torch.ones(3)}},
        {"model": STATE, "Config": {"Width": 3, "SCALE": 1}},
        {"model": STATE, "config": {"hidden_width": 3, "scale_factor": 2}},
    ],
)
def test_what_is_about_something_else_is_not_taken(saved: Any, tmp_path: Path) -> None:
    assert said(saved, tmp_path) == stated.Stated()


def test_the_section_that_holds_most_arguments_decides_and_the_others_are_kept_beside_it(tmp_path: Path) -> None:
    config = {"student": SAID, "teacher": {"width": 64, "scale": 2.5, "limit": 9}, "data": {"depth": 8}}
    found = said({"model": STATE, "config": config}, tmp_path)
    assert _values(found) == SAID
    assert found.claims["width"].others == (("net.pth: config.teacher", 64),)
    assert found.claims["limit"].others == (("net.pth: config.teacher", 9),)
    assert found.claims["scale"].is_certain
    assert not found.claims["depth"].is_certain


def test_where_another_section_says_as_much_what_only_one_of_them_says_is_uncertain(tmp_path: Path) -> None:
    less = {name: value for name, value in SAID.items() if name != "scale"}
    found = said({"model": STATE, "teacher": SAID, "student": less}, tmp_path)
    assert found.claims["scale"].others == (("net.pth: student", stated.NOTHING),)
    assert all(claim.is_certain for name, claim in found.claims.items() if name != "scale")
    few = {"width": 32, "depth": 3}
    assert said({"model": STATE, "teacher": SAID, "data": few}, tmp_path).claims["scale"].is_certain
    fits = lambda values: values.get("width") != 99  # noqa: E731
    wrong = {**less, "width": 99}
    assert said({"model": STATE, "teacher": SAID, "student": wrong}, tmp_path, fits=fits).claims["scale"].is_certain


def test_a_section_with_which_the_weights_do_not_fit_is_uncertain_in_all_that_it_says(tmp_path: Path) -> None:
    found = said({"model": STATE, "args": SAID}, tmp_path, fits=lambda values: "width" not in values)
    assert not any(claim.is_sound or claim.is_certain for claim in found.claims.values())
    # One value that the constructor does not take is another matter.
    found = said({"model": STATE, "args": SAID}, tmp_path, fits=lambda values: None if "activation" in values else True)
    assert all(claim.is_certain for claim in found.claims.values())


def test_of_two_sections_that_tell_as_much_the_deeper_one_decides_and_then_the_one_that_fits(tmp_path: Path) -> None:
    saved = {"model": STATE, "old": {**SAID, "width": 99}, "new": {"net": {**SAID, "scale": 4.0}}}
    assert said(saved, tmp_path).claims["scale"].value == 4.0
    fits = said(saved, tmp_path, fits=lambda values: values["width"] == 99).claims["width"]
    assert (fits.value, fits.others) == (99, (("net.pth: new.net", 32),))


def test_a_section_named_like_the_state_dict_that_was_picked_decides(tmp_path: Path) -> None:
    networks = {name: {"fc.weight": torch.ones(size, 2)} for name, size in (("d", 1), ("g", 2))}
    config = {"d": {**SAID, "scale": 9.0}, "g": SAID}
    assert said({**networks, "config": config}, tmp_path, key="g").claims["scale"].value == 2.5
    assert said({**networks, "config": config}, tmp_path, key="d").claims["scale"].value == 9.0


def test_an_argument_of_an_outer_section_fills_in_and_one_of_another_is_uncertain(tmp_path: Path) -> None:
    most = {name: value for name, value in SAID.items() if name not in {"scale", "limit"}}
    config = {"scale": 2.5, "net": most, "data": {"limit": 3}}
    found = said({"model": STATE, "config": config}, tmp_path)
    assert found.claims["scale"].is_certain
    assert found.claims["limit"].value == 3
    assert not found.claims["limit"].is_certain


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.1), 0.1),
        (np.float16(65500), 65500.0),
        (np.float64(1) / 3, 1 / 3),
        (np.int64(-200), -200),
        (np.uint8(200), 200),
        (np.bool_(True), True),
        (np.dtype(">f4").type(2.5), 2.5),
        ((3, (1, 2)), [3, [1, 2]]),
        (torch.Size([2, 3]), [2, 3]),
        ({"a": (1, None)}, {"a": [1, None]}),
        ("ä", "ä"),
        ("ViT-B/32", "ViT-B/32"),
    ],
)
def test_values_are_plain_as_in_json(value: Any, plain: Any, tmp_path: Path) -> None:
    found = said({"model": STATE, "args": {"limit": value}}, tmp_path).claims["limit"].value
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.tensor(2.5), "a tensor"),
        (torch.float32, "torch.float32"),
        (float("nan"), "nan"),
        (10**30, "a number beyond 64 bits"),
        ("a\nb", "a text that is too long or not printable"),
        (b"ab", "a value of type bytes"),
        ([torch.ones(2)], "a tensor"),
        ({3: 4}, "a table whose keys are no texts"),
        (list(range(5000)), "more than 1,000 values"),
        (np.complex64(1), "a numpy number of type c8"),
        ("/etc/passwd", "a path or an address, which a file may not choose,"),
        ("https://example.org/x.bin", "a path or an address, which a file may not choose,"),
        (["a/../../b"], "a path or an address, which a file may not choose,"),
    ],
)
def test_what_is_no_plain_value_is_named_and_left_alone(value: Any, what: str, tmp_path: Path) -> None:
    found = said({"model": STATE, "args": {"limit": value, "width": 32}}, tmp_path)
    assert _values(found) == {"width": 32}
    assert found.unread == {"limit": f"net.pth: args holds {what} for it"}


def test_values_that_share_without_measure_are_named_in_time(tmp_path: Path) -> None:
    bomb: Any = [1]
    for _ in range(200):
        bomb = [bomb, bomb]
    tables: Any = {"width": 3}
    for _ in range(200):
        tables = {"a": tables, "b": tables}
    found = said({"model": STATE, "args": {"limit": bomb, **tables}}, tmp_path)
    assert found.unread == {"limit": "net.pth: args holds more than 1,000 values for it"}


def test_a_source_that_a_file_names_stays_in_one_line(tmp_path: Path) -> None:
    found = said({"model": STATE, "a\nevil: true": SAID}, tmp_path)
    assert found.claims["width"].source == "net.pth: a\\nevil: true"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1, 2], (1, 2), True),
        (1, 1.0, True),
        (True, 1, True),
        ("1", 1, False),
        (None, 0, False),
        (0.1, 0.1 + 1e-12, False),
        ({"_target_": "a:B", "x": 1}, {"x": 1}, True),
        ({"x": 1}, {"x": 1, "y": 2}, False),
        ([1, [2]], [1, [3]], False),
        ([1], 1, False),
        (torch.ones(2), torch.ones(2), False),
    ],
)
def test_values_are_compared_as_a_constructor_sees_them(one: Any, other: Any, same: bool) -> None:
    assert stated.is_same(one, other) is same
    assert stated.is_same(other, one) is same
    assert stated.is_same(one, one)


def _contradicted(
    found: stated.Stated, arguments: Mapping[str, Any], fits: Any = lambda _: True, **defaults: Any
) -> dict[str, bool]:
    return {
        each.name: each.is_written for each in stated.contradictions(found, {**DEFAULTS, **defaults}, arguments, fits)
    }


def test_a_contradiction_is_what_fits_and_is_not_what_is_used(tmp_path: Path) -> None:
    found = said({"model": STATE, "args": {"width": 32, "scale": 2.5, "depth": 2}}, tmp_path)
    assert _contradicted(found, {}) == {"width": False, "scale": False}
    assert _contradicted(found, {"width": 32, "scale": 1.0}) == {"scale": True}
    assert _contradicted(found, {"scale": 2.5}, fits=lambda changes: "width" not in changes) == {}
    # Neither fits alone, both do together: a number of heads and the width of each.
    assert _contradicted(found, {}, fits=lambda changes: len(changes) == 2) == {"width": False, "scale": False}


def test_what_cannot_be_compared_or_is_disputed_is_no_contradiction(tmp_path: Path) -> None:
    found = said({"model": STATE, "args": {"activation": "gelu"}}, tmp_path)
    assert _contradicted(found, {}, activation=torch.nn.ReLU) == {}
    assert _contradicted(found, {}) == {"activation": False}
    elsewhere = {"net": {"width": 16, "depth": 2}, "loader": {"scale": 9.0}}
    assert _contradicted(said({"model": STATE, "config": elsewhere}, tmp_path), {}) == {}
    disputed = said({"model": STATE, "a": {"scale": 2.5}, "b": {"scale": 1.0}}, tmp_path)
    assert _contradicted(disputed, {}) == {}
    assert _contradicted(disputed, {"scale": 7.0}) == {"scale": True}
