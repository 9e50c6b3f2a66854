"""What an error says to do is done, word by word, and then the command goes on: a table of mistakes.

Each names the place of its error in the list of all (tests/messages.py), so that it is known how many are executed.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.architectures.bert import BertEncoder
from pipeline.architectures.efficientnet import EfficientNetLite
from pipeline.architectures.resnet import ResNet
from pipeline.architectures.simplenet import SimpleNet
from pipeline.errors import WeighbridgeError
from pipeline.release.load import load_release
from tests.fixes import Error, fixed
from tests.messages import ROOT, raised

if TYPE_CHECKING:
    from collections.abc import Callable

SIMPLENET = Path("configs/simplenet.yaml").resolve()
WEIGHTS = Path("configs/weights/simplenet.pth").resolve()
SOURCE = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.a = nn.Linear(3, width)

    def forward(self, x):
        y = self.a(x)
        return y, y.sum(1), 7

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x):
        return self.a(x), self.a(x).exp()

class Even(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(1, 2, 2, stride=2)
        self.b = nn.ConvTranspose1d(2, 1, 2, stride=2)

    def forward(self, x):
        return x[:, None] + self.b(self.a(x[:, None]))

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x):
        y = self.a(x)
        if y.sum() > 0:
            return y
        return -y

class Heads(nn.Module):
    def __init__(self, heads: int = 2):
        super().__init__()
        self.a, self.heads = nn.Linear(8, 8), heads

    def forward(self, x):
        y = self.a(x).unflatten(-1, (self.heads, -1))
        return (y.softmax(-1) * y).flatten(1)

class Tied(nn.Module):
    def __init__(self, tie: bool = True):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        if tie:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())

class Needs(nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.a = nn.Linear(*{"small": (3, 4), "large": (30, 40)}[layout])

    def forward(self, x):
        return self.a(x)

class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Embedding(12, 4)

    def forward(self, ids):
        return self.a(ids)
"""
LINEAR = {"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4)}


@dataclass
class Project:
    """A folder with the simplenet, a module of networks, and a release, in which a mistake is made."""

    folder: Path
    release: Path
    filled: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "c.yaml"

    @property
    def weights(self) -> Path:
        return self.folder / "w.pth"

    def edited(self, old: str, new: str) -> list[str]:
        """Return `check` of the simplenet's config with something else in it."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new, 1))
        return ["check", "c.yaml"]

    def of(self, name: str, state: dict[str, Any], **keys: str) -> list[str]:
        """Return `check` of a config of one of the networks."""
        torch.save(state, self.weights)
        width = next(iter(state.values())).shape[1] if "a.weight" in state else 4
        lines = {
            "inputs": f"{{x: {{dtype: float32, shape: [batch, {width}]}}}}",
            "dimensions": "{batch: {min: 1, max: 4}}",
            "outputs": "[y]",
            **keys,
        }
        head = f"name: c\nmodel:\n  architecture: fixing:{name}\n  weights: w.pth\n"
        tail = "exports: [torchscript]\nbackends: [eager, torchscript]\n"
        self.config.write_text(head + "".join(f"{key}: {value}\n" for key, value in lines.items()) + tail)
        return ["check", "c.yaml", "--trust", "fixing"]


@pytest.fixture
def project(tmp_path, release, monkeypatch):
    text = SIMPLENET.read_text().replace("weights/simplenet.pth", "w.pth")
    kept = [line for line in text.splitlines() if not line.strip().startswith(("sha256:", "#"))]
    (tmp_path / "c.yaml").write_text("\n".join(kept) + "\n")
    (tmp_path / "w.pth").write_bytes(WEIGHTS.read_bytes())
    (tmp_path / "fixing.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, release)


@pytest.fixture
def made(monkeypatch):
    """Return where in pipeline/ errors were made, as (file, line): in this process."""
    places, plain = set(), WeighbridgeError.__init__

    def noted(self, *given, **named):
        frame = sys._getframe(1)
        places.add((Path(frame.f_code.co_filename).relative_to(ROOT).as_posix(), frame.f_lineno))
        plain(self, *given, **named)

    monkeypatch.setattr(WeighbridgeError, "__init__", noted)
    return places


# --- mistakes: each makes its own and returns the command that meets it -------------------------------------------------


def circle(project):
    (project.folder / "base.yaml").write_text("extends: c.yaml\nname: base\n")
    project.config.write_text("extends: base.yaml\n" + project.config.read_text())
    return ["check", "c.yaml"]


def empty(project):
    project.config.unlink()
    (project.folder / "empty.yaml").touch()
    project.filled = {
        "FILE": "w.pth",
        "MODULE:CLASS": "pipeline.architectures.simplenet:SimpleNet --output empty.yaml --force",
    }
    return ["check", "empty.yaml"]


def several(project):
    torch.save(
        {"generator": torch.load(WEIGHTS), "other": {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}},
        project.weights,
    )
    return ["inspect", "w.pth#generatr"]


def untrusted_object(project):
    done = project.of("Plain", LINEAR, outputs="[y, z]")
    project.edited("  weights:", '  arguments: {config: {_target_: "fixing:Config"}}\n  weights:')
    return done[:2]


def both_keys(project):
    torch.save(
        {"generator": torch.load(WEIGHTS), "other": {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}},
        project.weights,
    )
    return project.edited("weights: w.pth", "weights: w.pth#generator\n  key: other")


def digest(project):
    return project.edited("weights: w.pth", f"weights: w.pth\n  sha256: {'ab' * 32}")


def renamed(project):
    torch.save(
        {f"encoder.{name}": tensor for name, tensor in torch.load(WEIGHTS).items()} | {"fc3.scale": torch.ones(7)},
        project.weights,
    )
    return ["check", "c.yaml"]


def contradicted(project):
    done = project.of("Heads", {"a.weight": torch.randn(8, 8), "a.bias": torch.randn(8)})
    torch.save({"state_dict": torch.load(project.weights), "hyper_parameters": {"heads": 4}}, project.weights)
    return done


def tied(project):
    return project.of(
        "Tied",
        {
            f"{name}.{part}": torch.randn(*shape)
            for name in "ab"
            for part, shape in (("weight", (4, 4)), ("bias", (4,)))
        },
    )


def odd(project):
    state = {
        "a.weight": torch.randn(2, 1, 2),
        "a.bias": torch.randn(2),
        "b.weight": torch.randn(2, 1, 2),
        "b.bias": torch.randn(1),
    }
    return project.of(
        "Even", state, inputs="{x: {dtype: float32, shape: [batch, length]}}",
        dimensions="{batch: {min: 1, max: 4}, length: {min: 2, max: 9}}",
    )  # fmt: skip


def required(project):
    return project.edited("require: [torchscript, onnxruntime-cpu]", "require: [torchscript, onnxruntime-cuda]")


def there_already(project):
    (project.folder / "mine.yaml").touch()
    return ["init", "w.pth", "--architecture", "pipeline.architectures.simplenet:SimpleNet", "--output", "mine.yaml"]


def needs_argument(project):
    torch.save(LINEAR, project.weights)
    project.filled = {"NAME=VALUE": "layout=small"}
    return ["init", "w.pth", "--architecture", "fixing:Needs", "--trust", "fixing", "--output", "mine.yaml"]


def integers(project):
    torch.save({"a.weight": torch.randn(12, 4)}, project.weights)
    return [
        "init",
        "w.pth",
        "--architecture",
        "fixing:Ids",
        "--trust",
        "fixing",
        "--output",
        "mine.yaml",
        "--input",
        "ids=int64[batch]",
    ]


def not_an_input(project):
    return [*there_already(project), "--force", "--input", "x: float32"]


def remote(project):
    return project.edited("weights: w.pth", f"weights: {project.weights.as_uri()}\n  sha256: {'ab' * 32}")


def no_candidate(_):
    return ["parity", "c.yaml", "--candidate", "w.pth"]


def refused(project):
    """A network whose branch on values torch.export refuses, and a script keeps."""
    project.of("Branch", LINEAR)
    project.edited("exports: [torchscript]", "exports: [{format: onnx, method: export}, torchscript]")
    project.edited("backends: [eager, torchscript]", "backends: [eager, onnxruntime-cpu, torchscript]")
    return ["export", "c.yaml", "--trust", "fixing", "--no-benchmark"]


def infinite(project):
    np.save("x.npy", np.full((1, 4), np.inf, np.float32))
    return ["predict", str(project.release), "--input", "x.npy"]


def two_inputs(project):
    np.save("x.npy", np.zeros((1, 4), np.float32))
    np.savez("x.npz", x=np.zeros((1, 4), np.float32), y=np.zeros(1, np.float32))
    return ["predict", str(project.release), "--input", "x=x.npz"]


def predicted(*more):
    def mistake(project):
        np.save("x.npy", np.zeros((1, 4), np.float32))
        return ["predict", str(project.release), "--input", "x.npy", *more]

    return mistake


def unsigned(project):
    (project.folder / "no.pem").write_text("no key")
    project.filled = {"NAME": "release"}
    return ["export", "c.yaml", "--sign", "no.pem"]


def hugging(project):
    folder = project.folder / "a folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"")
    return ["init", "a folder"]


def from_simplenet(*arguments):
    return lambda project: ["check", "c.yaml", *arguments] if project else []


@dataclass(frozen=True)
class Mistake:
    """A mistake, the place of its error as the list has it, and how the command must end once the fix is done."""

    place: str
    make: Callable[[Project], list[str]]
    then: str = ""  # words of the next error, where there is one: the fix has taken the command that far


TABLE = [
    Mistake("config/source.py: …: extends goes in a circle", circle),
    Mistake("config/source.py: … is a weights file, not a config", lambda _: ["check", "w.pth"], "is a weights file"),
    Mistake("config/source.py: … is empty", empty),
    Mistake(
        "config/source.py: --set …: not of the form",
        from_simplenet("--set", "hidden"),
        "model.arguments.hidden_size to 20",
    ),
    Mistake("config/loading.py: …", lambda p: p.edited("dimensions:", "dimentions:")),
    Mistake("config/loading.py: …", lambda p: p.edited("dtype: float32", "dtype: float31")),
    Mistake(
        "config/loading.py: …",
        lambda p: p.edited("onnxruntime-cuda]", "onnxruntime-gpu]"),
        "2 backends are named",
    ),
    Mistake("run/plan.py: …", lambda p: p.edited("hidden_size: 20", "hiden_size: 20")),
    Mistake("run/plan.py: …: model.key is", both_keys),
    Mistake("run/plan.py: … has sha256", digest),
    Mistake("run/plan.py: required backend", required),
    Mistake(
        "rebuild/sources.py: … has no … ……", lambda p: p.edited("architectures.simplenet:", "architectures.simplnet:")
    ),
    Mistake("rebuild/trust.py: … defines no", lambda p: p.edited(":SimpleNet", ":SimpelNet")),
    Mistake("rebuild/trust.py: …… is not trusted", lambda p: p.of("Plain", LINEAR, outputs="[y, z]")[:2]),
    Mistake("weights/files.py: there is no file", lambda p: (p.weights.rename("w1.pth"), ["check", "c.yaml"])[1]),
    Mistake("weights/files.py: …, more than the limit", lambda _: ["inspect", "w.pth", "--max-bytes", "100"]),
    Mistake("weights/headers.py: … has no state dict", several),
    Mistake("weights/read.py: … holds … state dicts", lambda p: (several(p), ["check", "c.yaml"])[1]),
    Mistake("rebuild/model.py: …", lambda p: p.edited("hidden_size: 20", "hidden_size: 30")),
    Mistake("rebuild/model.py: …", renamed),
    Mistake("rebuild/model.py: …; … leaves", contradicted),
    Mistake("rebuild/model.py: … and … are one tensor", tied),
    Mistake("rebuild/outputs.py: the network returns", lambda p: p.of("Pair", LINEAR, outputs="[y]")),
    Mistake("rebuild/outputs.py: the network returns", lambda p: p.of("Plain", LINEAR, outputs="[y, z, q]")),
    Mistake("rebuild/outputs.py: every output must be", lambda p: p.of("Pair", LINEAR, outputs="[y, z, q]")),
    Mistake("rebuild/rehearsal.py: the network itself fails", odd),
    Mistake("run/init.py: … is there already", there_already),
    Mistake("rebuild/infer.py: … could not be built", needs_argument),
    Mistake("run/init.py: --input …: integers need", integers),
    Mistake("run/init.py: --input … is not NAME", not_an_input),
    Mistake("weights/remote.py: … has sha256", remote),
    Mistake("parity/candidate.py: … is …; a candidate is", no_candidate, "a candidate is"),
    Mistake("parity/prove.py: a required backend did not run", refused),
    Mistake("release/outputs.py: output … holds NaN or infinity, which", infinite),
    Mistake("run/inspect.py: … would be a safetensors", lambda _: ["inspect", "w.pth", "--save-weights", "new.bin"]),
    Mistake("run/pretrained.py: …", hugging, "no package or source file 'transformers'"),
    Mistake("run/explain.py: nothing is called", lambda _: ["explain", "undecidd"]),
    Mistake("commands/schema.py: there is no schema", lambda _: ["schema", "--of", "nothing"]),
    Mistake("release/predict.py: … holds … arrays", two_inputs, "unknown y"),
    Mistake("release/outputs.py: a .npy holds one array", predicted("--output", "out.npy")),
    Mistake("release/load.py: no backend can run", predicted("--backend", "eager")),
    Mistake("release/load.py: there is no backend", predicted("--backend", "onnxruntim")),
    Mistake("release/load.py: there is no device", predicted("--device", "tpu")),
    Mistake("release/verify.py: there is no backend", lambda p: ["verify", str(p.release), "--backend", "onnx"]),
    Mistake("release/verify.py: … runs", lambda p: ["verify", str(p.release), "--backend", "eager"]),
    Mistake(
        "release/verify.py: --at-least",
        lambda p: ["verify", str(p.release), "--at-least", "new"],
        "set release.version",
    ),
    Mistake(
        "release/packages/__init__.py: there is no package", lambda p: ["package", str(p.release), "--as", "docker"]
    ),
    Mistake("release/signing.py: … is no private key", unsigned, "is no private key"),
]


def of_place(place):
    """Return the one entry of the list that a place names."""
    exact = [each for each in raised() if each.place == place]
    found = exact or [each for each in raised() if each.place.startswith(place)]
    assert len(found) == 1, (place, found)
    return found


@pytest.mark.parametrize("mistake", TABLE, ids=lambda each: each.place.replace("/", "-"))
def test_what_the_error_says_to_do_is_enough(mistake, project, weighbridge, made):
    arguments = mistake.make(project)
    failed = weighbridge(*arguments)
    assert failed.code in {1, 2, 3, 4}, failed.out
    error = Error.read(failed.err)
    places = {(each.file, line) for each in of_place(mistake.place) for line in range(each.line, each.end + 1)}
    assert places & made or any(each.made(error.message) for each in of_place(mistake.place)), (error, made)
    fix = fixed(arguments, error, project.config, project.filled)
    assert fix, f"nothing to do in: {error}"
    for command in fix.before:
        before = weighbridge(*command)
        assert before.code == 0 or (mistake.then and mistake.then in before.err), before.err
    again = weighbridge(*fix.arguments)
    assert (again.code == 0) or (mistake.then and mistake.then in again.err), f"{fix.arguments}: {again.err}"


# --- hints that are lines of Python ---------------------------------------------------------------------------------------


def whole(project):
    network = SimpleNet()
    torch.save(network, project.weights)
    return {"model": network}


def scripted(project):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(SimpleNet(), torch.ones(1, 10))
        torch.jit.save(module, project.weights)
    return {"module": module}


def arrays(project):
    np.savez(project.folder / "w.npz", **{name: each.numpy() for name, each in torch.load(WEIGHTS).items()})
    (project.folder / "w.npz").rename(project.weights)
    return {"file": str(project.weights), "numpy": np}


PYTHON = [("weights/read.py: … …", whole), ("weights/read.py: … …", scripted), ("weights/read.py: … …", arrays)]


@pytest.mark.parametrize(("place", "make"), PYTHON, ids=lambda each: getattr(each, "__name__", ""))
def test_the_line_of_python_in_a_hint_saves_what_is_wanted(place, make, project, weighbridge, made):
    names = make(project)
    error = Error.read(weighbridge("check", "c.yaml").err)
    (entry,) = of_place(place)
    assert any(file == entry.file and entry.line <= line <= entry.end for file, line in made)
    code = re.search(r"torch\.save\(.*?'weights\.pth'\)", error.fix)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "hint", "exec"), {"torch": torch, **names})  # noqa: S102 - what the hint says, of a file of ours
    again = weighbridge("check", "c.yaml", "--set", f"model.weights={project.folder}/weights.pth")
    assert again.code == 0, again.err


ARRAY = np.zeros((1, 4), np.float32)
CALLS = [
    ("architectures/bert.py: BertEncoder cannot split", lambda **given: BertEncoder(9, **given), {"hidden_size": 16, "layers": 1, "heads": 5, "intermediate_size": 8, "max_positions": 4}),
    ("architectures/efficientnet.py: EfficientNetLite has no variant", EfficientNetLite, {"variant": 7, "num_classes": 2}),
    ("architectures/resnet.py: ResNet has no depth", ResNet, {"depth": 20}),
    ("architectures/resnet.py: ResNet of depth", ResNet, {"depth": 18, "groups": 2, "width_per_group": 4}),
    ("backends/inputs.py: … is …, expected", None, {"x": ARRAY.astype(np.float64)}),
    ("backends/inputs.py: … is a …, expected a numpy array", None, {"x": ARRAY.tolist()}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "call", "given"), CALLS, ids=[place.replace("/", "-") for place, _, _ in CALLS])
def test_a_call_takes_what_the_hint_says(place, call, given, pristine, made):
    call = call or load_release(pristine)
    with torch.device("meta"), pytest.raises(WeighbridgeError) as caught:
        call(**given)
    (entry,) = of_place(place)
    assert any(file == entry.file and entry.line <= line <= entry.end for file, line in made)
    hint = caught.value.hint
    for name, value in re.findall(r"set model\.arguments\.(\w+) to (\w+)", hint):
        given = {**given, name: int(value)}
    if found := re.search(r"remove (\w+) and (\w+) from model\.arguments", hint):
        given = {name: value for name, value in given.items() if name not in found.groups()}
    if "np." in hint:
        given = {"x": eval(hint, {"np": np, **given})}  # noqa: S307 - what the hint says, of an array of ours
    with torch.device("meta"):
        call(**given)


def test_how_many_hints_are_executed_is_known():
    """Each place is counted once; what is left are hints for people: a file to get again, code to write, a maker to ask."""
    places = {of_place(each.place)[0] for each in TABLE} | {of_place(place)[0] for place, *_ in [*PYTHON, *CALLS]}
    hinted = [each for each in raised() if each.hint]
    assert len(places) >= 50
    assert len(hinted) >= 360
