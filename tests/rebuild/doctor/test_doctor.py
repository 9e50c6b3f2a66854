"""The doctor's bar: of generated misfits, the printed change loads strictly in nine of ten, and is never a wrong one."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.rebuild.doctor.diagnosis import diagnose, possible_exceptions
from pipeline.rebuild.doctor.prefixes import align
from pipeline.rebuild.doctor.renames import renamed
from pipeline.rebuild.shapes import shapes_only
from tests.rebuild.doctor.drawn import Named, draw, draw_named, draw_twins
from tests.rebuild.doctor.misfits import (
    BERT,
    MISFITS,
    RESNET,
    SIMPLE,
    BertEncoder,
    EfficientNetLite,
    Misfit,
    ResNet,
    SimpleNet,
    explained,
    loads_strictly,
)
from tests.rebuild.doctor.zoo import ZOO
from tests.sweeps.doctor import judged


def test_there_are_misfits_enough_and_a_third_has_two_causes() -> None:
    assert len(MISFITS) >= 60
    assert sum(case.causes >= 2 for case in MISFITS) * 3 >= len(MISFITS)
    assert len({case.name for case in MISFITS}) == len(MISFITS)


@pytest.mark.parametrize("case", MISFITS, ids=lambda case: case.name)
def test_the_printed_change_loads_strictly_or_none_is_printed(case: Misfit) -> None:
    with shapes_only():
        expected = list(case.make(**case.configured).state_dict())
    tensors, _ = align(case.file(), expected)
    misfit = explained(case, tensors)
    if misfit is None:  # the prefix that was removed and said was all
        with shapes_only():
            case.make(**case.configured).load_state_dict(tensors, strict=True, assign=True)
        return
    assert misfit.changes is not None, misfit.message(lambda key: key)
    assert loads_strictly(case, misfit)
    for value in misfit.changes.values():
        assert repr(value) in misfit.message(lambda key: key).splitlines()[0]


def _unfit() -> dict[str, tuple[Misfit, dict[str, torch.Tensor]]]:
    """Return files that no change of the config makes fit."""
    simple = Misfit(SimpleNet, SIMPLE, SIMPLE)
    bert = Misfit(BertEncoder, BERT, BERT)
    resnet = Misfit(ResNet, RESNET, RESNET)
    turned = {name: t.t() if t.ndim == 2 else t for name, t in simple.file().items()}
    halves = dict(list(bert.file().items())[::2])
    fused = {name: t for name, t in bert.file().items() if ".self.key." not in name and ".self.value." not in name}
    normed = {n.replace("fc1.weight", "fc1.weight_g"): t for n, t in simple.file().items()}
    other = {f"other.{name}": t for name, t in resnet.file().items()}
    return {
        "transposed": (simple, turned),
        "half the shards missing": (bert, halves),
        "fused query, key and value": (bert, fused),
        "weight normalisation": (simple, normed | {"fc1.weight_v": torch.empty(20, 10, device="meta")}),
        "another architecture": (simple, other),
        "a tensor of another rank": (simple, simple.file() | {"fc1.weight": torch.empty(20, 10, 1, device="meta")}),
        "one name too few": (simple, {n: t for n, t in simple.file().items() if n != "fc2.bias"}),
    }


@pytest.mark.parametrize("name", list(_unfit()))
def test_where_nothing_fits_no_change_is_presented(name: str) -> None:
    case, tensors = _unfit()[name]
    misfit = explained(case, tensors, seconds=3.0)
    assert misfit is not None
    assert misfit.changes is None
    first = misfit.message(lambda key: key).splitlines()[0]
    assert "was found with which it fits" in first
    assert "set model." not in first


def test_a_further_layer_is_another_depth_and_never_left_out() -> None:
    """The head is renamed and the file is deeper: leaving the deeper layers out would fit strictly, and be wrong."""
    shallow = Misfit(ResNet, RESNET, {**RESNET, "depth": 34}, {"fc": "classifier"})
    misfit = explained(shallow, shallow.file())
    assert misfit is not None
    assert (misfit.changes, misfit.ignore) == ({"depth": 34}, ())
    unbuildable = diagnose(
        {"layers.0.weight": (2,), "fc.weight": (1,)},
        {"layers.0.weight": (2,), "layers.1.weight": (2,), "fc.weight": (1,)},
        arguments={},
        build_shapes=None,
        owner="Net",
        weights_name="w.pth",
    )
    assert unbuildable is not None
    assert unbuildable.changes is None


def test_a_further_layer_under_another_name_is_not_left_out_but_a_copy_may_be() -> None:
    layers: dict[str, tuple[int, ...]] = {f"layers.{index}.weight": (2, 2) for index in range(3)}
    for beside, ignore in (("last", ()), ("ema_of_the_last", ("ema_of_the_last",)), ("criterion", ("criterion",))):
        found = layers | {f"{beside}.weight": (2, 3) if beside == "criterion" else (2, 2)}
        misfit = diagnose(layers, found, arguments={}, build_shapes=None, owner="Net", weights_name="w.pth")
        assert misfit is not None
        assert misfit.ignore == ignore


def test_what_is_beside_renamed_modules_is_left_out_by_name() -> None:
    case = Misfit(SimpleNet, SIMPLE, SIMPLE, {"fc1": "b.final", "fc2": "a"}, extra=("criterion",))
    misfit = explained(case, case.file())
    assert misfit is not None
    assert (misfit.rename, misfit.ignore) == ({"b.final": "fc1", "a": "fc2"}, ("criterion",))
    assert loads_strictly(case, misfit)


def test_of_two_modules_that_could_be_meant_none_is_chosen() -> None:
    case = Misfit(SimpleNet, SIMPLE, SIMPLE, {"fc2": "head"})
    twin = {
        name.replace("head", "other_head"): tensor.clone() for name, tensor in case.file().items() if "head" in name
    }
    misfit = explained(case, case.file() | twin, seconds=3.0)
    assert misfit is not None
    assert misfit.changes is None


DRAWN = [
    case for case in draw(3, 14) if case.make not in (ResNet, EfficientNetLite)
]  # these take seconds: the sweep has them


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: case.name)
def test_a_misfit_that_nobody_chose_is_never_explained_wrongly(case: Misfit) -> None:
    assert judged(case)[0] != "wrong"


@pytest.mark.parametrize(
    "named", draw_named(1, 20), ids=lambda named: f"{named.case.make.__name__} {named.scheme.name}"
)
def test_the_names_of_other_libraries_are_told_if_they_tell(named: Named) -> None:
    assert judged(named.case)[0] == ("right" if named.scheme.told else "none")


SMALL_TWINS = [case for case in draw_twins(1, 20) if case.make in ZOO]


@pytest.mark.parametrize("case", SMALL_TWINS, ids=lambda case: case.name[:80])
def test_nothing_is_proposed_for_twins_but_what_is_left_holds_the_right_one(case: Misfit) -> None:
    assert judged(case)[0] == "none"
    shapes = {name: tuple(tensor.shape) for name, tensor in case.file().items()}
    expected = {name: tuple(tensor.shape) for name, tensor in case.state.items()}
    ways = [{name: renamed(name, rename) for name in shapes} for rename, _ in possible_exceptions(expected, shapes)]
    assert len(ways) > 1
    assert case.homes in ways


def test_the_order_of_a_file_changes_nothing() -> None:
    """The whole explanation is the same, whatever the order in which a file has its tensors."""
    small = [case for case in (*draw(11, 30), *draw_twins(11, 10)) if case.make in ZOO]
    for case in small[::9]:
        told = set()
        for seed in range(2):
            names = list(case.file())
            random.Random(seed).shuffle(names)
            misfit = explained(case, {name: case.file()[name] for name in names})
            assert misfit is not None
            told.add((str(misfit.changes), frozenset(misfit.rename.items()), frozenset(misfit.ignore)))
        assert len(told) == 1, case.name
