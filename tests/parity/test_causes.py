"""A cause is named where it is the cause, and nowhere else."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch

from pipeline.backends.variant import Variant
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.parity import causes, oracle, prove
from pipeline.parity.budget import Rule
from pipeline.parity.candidate import Names
from pipeline.rebuild import cases
from pipeline.rebuild.network import Network
from pipeline.worker.inprocess import InProcessRunner
from tests.parity import suspects

BATCH, LENGTH = Dimension("batch", 1, 9), Dimension("length", 1, 7)
PLAIN = Interface((InputSpec("x", "float32", ("batch", 4)),), (BATCH,), ("y",))
BYTES = Interface((InputSpec("ids", "uint8", ("batch", 4), 0, 255),), (BATCH,), ("y",))
SIGNED = Interface((InputSpec("ids", "int64", ("batch", 4), -9, 9),), (BATCH,), ("y",))
NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
MASK = InputSpec("mask", "int64", ("batch", "length"), values="mask")


def masked(features):
    return Interface(
        (InputSpec("x", "float32", ("batch", "length", features)), MASK), (Dimension("batch", 1, 4), LENGTH), ("y",)
    )


HIDING = Interface(
    (InputSpec("x", "float32", ("batch", "length", 4)), InputSpec("keep", "bool", ("batch", "length", "length"))),
    (Dimension("batch", 1, 4), LENGTH),
    ("y",),
)


def looked(name, theirs, interface, folder, *, change=lambda _: None, training=False):
    """Return what is said of a trace of `theirs`, with the network's weights but for a change, in place of `name`."""
    torch.manual_seed(1)
    module, other = getattr(suspects, name)().eval(), getattr(suspects, theirs)().eval()
    other.load_state_dict(module.state_dict())
    torch.save(module.state_dict(), folder / "weights.pth")
    with torch.no_grad():
        change(other)
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        made = torch.jit.trace(
            other.train(training), tuple(map(torch.from_numpy, examples.values())), check_trace=False
        )
        made.save(str(folder / "theirs.torchscript"))
    torch.backends.mha.set_fastpath_enabled(fastpath)
    sampled = cases.sample(interface, seed=0, cap_elements=1000)
    references, reason = oracle.evaluate(module, interface, [case.inputs for case in sampled], seed=0)
    known = prove.truth(sampled, references, reason, {"y": Rule()})
    network = Network(f"tests.parity.suspects:{name}", {}, str(folder / "weights.pth"), ("tests",), {})
    conditions = prove.Conditions(interface, network, threads=1, timeout_s=60, runner=InProcessRunner())
    variant = Variant("theirs", "torchscript", "theirs", required=True, file=folder / "theirs.torchscript")
    (proof,) = prove.prove([variant], conditions, known)
    assert proof.status == "fail", proof.reason
    assert "specialised" not in proof.reason
    return proof, causes.look(proof, conditions, known, Names.same(interface), seed=0)


def line_of(name, text):
    lines, first = inspect.getsourcelines(getattr(suspects, name))
    return f"suspects.py:{first + next(index for index, line in enumerate(lines) if text in line)}"


def scaled(name):
    return lambda module: module.get_parameter(name).mul_(1.02)


def test_a_trace_that_fixed_a_size_is_said_to_have_specialised_it(tmp_path):
    _, found = looked("MeanOfBatch", "MeanOfBatch", PLAIN, tmp_path)
    (said,) = found.causes
    assert said.startswith("specialised to the size batch=2: right there on 6 inputs, and wrong at batch=1, batch=3")
    assert "fix: " in said


@pytest.mark.parametrize(
    ("name", "theirs", "interface"),
    [
        ("Masked", "Unmasked", masked(4)),
        ("Plain", "OffInLargeBatches", PLAIN),
        ("Plain", "Clamped", PLAIN),
        ("BranchClamped", "Clamped", PLAIN),
    ],
)
def test_what_is_wrong_for_other_reasons_is_specialised_to_nothing(name, theirs, interface, tmp_path):
    _, found = looked(name, theirs, interface, tmp_path)
    assert found.causes == ()


def test_a_trace_that_fixed_a_branch_is_said_to_have_with_its_line(tmp_path):
    _, found = looked("Branch", "Branch", PLAIN, tmp_path)
    (said,) = found.causes
    line = line_of("Branch", "x = x * 2")
    assert f"specialised to a branch: the network passes by {line} where the file is wrong" in said
    assert found.settled


def test_a_file_that_is_wrong_where_the_network_branches_but_not_by_its_branch_has_specialised_none(tmp_path):
    _, found = looked("Branch", "BranchClamped", PLAIN, tmp_path)
    assert found.causes == ()


def test_a_file_with_a_wrong_weight_has_no_cause_beside_it_and_is_shrunk(tmp_path):
    _, found = looked("Branch", "Branch", PLAIN, tmp_path, change=scaled("fc.weight"))
    assert found.causes == ()
    assert found.smallest.cases[0].sizes == {"batch": 1}


def test_a_file_that_normalises_with_the_batch_is_said_to_have_been_exported_in_training_mode(tmp_path):
    _, found = looked("Normed", "Normed", PLAIN, tmp_path, training=True)
    (said,) = found.causes
    assert "training mode: it computes what the network does with the statistics of the batch at 'norm'" in said


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_other_statistics_are_no_training_mode(buffer, tmp_path):
    _, found = looked("Normed", "Normed", PLAIN, tmp_path, change=lambda module: getattr(module.norm, buffer).mul_(1.1))
    assert found.causes == ()


def test_a_network_that_computes_something_else_while_it_is_exported_is_told_where_it_asks(tmp_path):
    _, found = looked("Asking", "Asking", masked(4), tmp_path)
    (said,) = found.causes
    line = line_of("Asking", "torch.jit.is_tracing()")
    assert "computes something else while it is exported" in said
    assert f"it asks torch.jit.is_tracing() at {line}" in said
    assert found.settled
    assert not torch.jit.is_tracing()


def test_a_case_with_every_flag_set_is_shrunk_with_them_set():
    inputs = (masked(4).inputs[0], InputSpec("mask", "bool", ("batch", "length")))
    interface = Interface(inputs, masked(4).dimensions, ("y",))
    network = Network("tests.parity.suspects:Asking", {}, "none", ("tests",), {})
    conditions = prove.Conditions(interface, network, threads=1, timeout_s=60, runner=InProcessRunner())
    found = cases.sample(interface, seed=0, cap_elements=1000)
    (whole,) = (each for each in found if each.name == "flags set")
    smaller = causes._smaller(whole, conditions, 0)
    assert len(smaller) > 3
    assert all(each.inputs["mask"].all() for each in (whole, *smaller))


def test_what_is_wrong_for_other_reasons_is_not_put_down_to_the_question(tmp_path):
    _, found = looked("Asking", "Asking", masked(4), tmp_path, change=scaled("fc.weight"))
    assert found.causes == ()


@NESTED
def test_the_fused_fast_path_is_named_with_the_line_and_the_argument_that_avoid_it(tmp_path):
    _, found = looked("Encoder", "Encoder", masked(8), tmp_path)
    (said,) = found.causes
    line = line_of("Encoder", "nn.TransformerEncoder(")
    assert "without torch's fused fast path of nn.TransformerEncoder 'encoder'" in said
    assert "leaves padded positions at 0" in said
    assert f"fix: give enable_nested_tensor=False to nn.TransformerEncoder 'encoder' ({line})" in said
    assert found.settled


@NESTED
def test_a_wrong_encoder_is_not_excused_by_the_fast_path(tmp_path):
    _, found = looked("Encoder", "Encoder", masked(8), tmp_path, change=scaled("encoder.layers.0.linear2.weight"))
    assert found.causes == ()


@pytest.mark.parametrize(
    ("name", "theirs", "interface", "words"),
    [
        ("Attention", "AttentionByHand", HIDING, "rows of an attention mask that hide every position give 0"),
        ("Cast", "CastSaturating", PLAIN, "cast to integers that do not hold them"),
        ("Nearest", "NearestOfLast", PLAIN, "several values are equal"),
        ("Wraps", "WrapsNot", BYTES, "runs over their range"),
        ("Divides", "DividesTowardsZero", SIGNED, "whole numbers of unlike sign are divided"),
        ("Largest", "LargestOfNumbers", PLAIN, "NaN goes through maximum"),
    ],
)
def test_what_torch_does_in_its_own_way_is_named_with_its_line(name, theirs, interface, words, tmp_path):
    _, found = looked(name, theirs, interface, tmp_path)
    (said,) = found.causes
    assert words in said
    assert "suspects.py:" in said
    assert not found.settled


@pytest.mark.parametrize(
    ("name", "theirs", "interface"),
    [("Attention", "AttentionOff", HIDING), ("Attention", "Attention", HIDING)],
)
def test_what_is_wrong_elsewhere_too_is_not_put_down_to_hidden_rows(name, theirs, interface, tmp_path):
    _, found = looked(name, theirs, interface, tmp_path, change=scaled("fc.weight"))
    assert found.causes == ()
