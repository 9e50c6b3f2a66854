"""A folder as Hugging Face's `save_pretrained` writes it: what its config.json says, and which file is what. Nothing of it is run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeGuard

from pipeline.errors import WeighbridgeError, WeightsError, command
from pipeline.weights import files, inspect, wrappers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.weights.inspect import Description

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What holds the weights, the first that is there: as transformers looks for them."""
_BESIDE = re.compile(
    r"tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|.*\.(spm|model|tiktoken|bpe)|chat_template\..*"
    r"|(pre|video_pre)?processor_config\.json|image_processor.*\.json|feature_extractor.*\.json|generation_config\.json"
)
"""What prepares inputs and reads outputs, which the network's answers are worth nothing without."""
_SIZES = (
    "vocab_size", "hidden_size", "d_model", "n_embd", "embed_dim", "hidden_sizes", "num_hidden_layers", "n_layer", "num_layers", "depths",
    "num_attention_heads", "n_head", "num_heads", "max_position_embeddings", "n_positions", "image_size", "patch_size", "num_mel_bins",
)  # fmt: skip
_TASKS = (
    ("ForSequenceClassification", "text classification"), ("ForTokenClassification", "a class for each token"),
    ("ForQuestionAnswering", "answers found in a text"), ("ForMultipleChoice", "one of several answers"), ("ForMaskedLM", "words that are hidden"),
    ("ForCausalLM", "text generation"), ("LMHeadModel", "text generation"), ("ForConditionalGeneration", "text from another text, image or sound"),
    ("ForImageClassification", "image classification"), ("ForSemanticSegmentation", "a class for each pixel"), ("ForObjectDetection", "objects in an image"),
    ("ForCTC", "speech recognition"), ("ForAudioClassification", "audio classification"), ("ForPreTraining", "what it was pretrained on"),
)  # fmt: skip
PROCESSOR = "preprocessor_config.json"
_NAMED = 4
_MOST_BYTES = 16 * 2**20
_LICENSE = re.compile(r"^license:\s*[\"']?([A-Za-z0-9.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Such a folder: its config.json, its weights (one file, or the index of several), and what belongs to it beside them."""

    folder: Path
    config: Mapping[str, Any]
    weights: Path
    beside: tuple[Path, ...]
    license: str | None

    @property
    def architecture(self) -> str | None:
        """The name of the class that was saved; None where the file does not say."""
        return _architecture(self.config)

    @property
    def task(self) -> str:
        """What it is for, as the name of its class has it."""
        name = self.architecture or ""
        return next(
            (task for ending, task in _TASKS if name.endswith(ending)), "vectors: the network without a head for a task"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its classes, in order."""
        named = self.config.get("id2label")
        return tuple(map(str, named.values())) if isinstance(named, dict) else ()

    @property
    def sizes(self) -> dict[str, Any]:
        """What config.json says of its sizes."""
        return {name: self.config[name] for name in _SIZES if self.config.get(name) is not None}


def is_pretrained(path: Path) -> bool:
    """Tell whether a path is such a folder."""
    return (path / CONFIG).is_file()


def architecture_in(folder: Path) -> str | None:
    """Return the name of the class that was saved in a folder; None where there is no config.json, or it does not say."""
    return _architecture(_config(folder / CONFIG)) if is_pretrained(folder) else None


def read(folder: Path) -> Pretrained:
    """Read such a folder.

    Raises WeightsError where config.json cannot be read, or where there are no weights beside it.
    """
    config = _config(folder / CONFIG)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        inside = files.weights_beside(folder)
        raise WeightsError(
            f"{folder} has a {CONFIG} and none of {', '.join(WEIGHTS)}",
            hint=f"name the weights file itself: {folder / inside[0]}" if inside else "download the weights into it",
        )
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    beside = tuple(folder / name for name in names if _BESIDE.fullmatch(name) and name not in WEIGHTS)
    return Pretrained(folder, config, weights, beside, _license(folder / "README.md"))


def pixels(found: Pretrained) -> dict[str, Any]:
    """Return what an image processor beside a network makes of pixels from 0 to 255, as `preprocess` of a config says it; {} if nothing."""
    try:
        stated = _config(found.folder / PROCESSOR)
    except (WeighbridgeError, OSError):
        return {}
    factor = stated.get("rescale_factor") if stated.get("do_rescale") else None
    numbers = {"mean": stated.get("image_mean"), "scale": stated.get("image_std")} if stated.get("do_normalize") else {}
    return {
        **({"divide_by": round(1 / factor, 6)} if _is_number(factor) and factor > 0 else {}),
        **{
            key: each for key, each in numbers.items() if isinstance(each, list) and each and all(map(_is_number, each))
        },
    }


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def describe(found: Pretrained, *, max_bytes: int | None = None) -> Description:
    """Say what a folder is that transformers saved: the network and its sizes, what it is for, and what belongs to it; raises as `inspect.description_of`."""
    weights = inspect.description_of(found.weights, max_bytes=max_bytes)
    labels = found.labels
    details = {
        "network": found.architecture or "not said",
        "for": found.task,
        "model type": found.config.get("model_type", "not said"),
        **found.sizes,
        **(
            {"labels": ", ".join(labels[:_NAMED]) + (f" and {len(labels) - _NAMED} more" if labels[_NAMED:] else "")}
            if labels
            else {}
        ),
        "license": found.license or "not said in its README.md",
        "weights": f"{found.weights.name}: {weights.kind}",
        "beside them": ", ".join(each.name for each in found.beside) or "nothing that prepares its inputs",
    }
    return replace(
        weights,
        name=found.folder.resolve().name,
        kind="Hugging Face folder",
        explanation="Written by transformers' save_pretrained: a network's configuration and its weights, without its code.",
        details={name: wrappers.printable(str(each)) for name, each in details.items()},
        likely=None,
        next=(command("init", found.folder, "--trust", "transformers"),),
    )


def _architecture(config: Mapping[str, Any]) -> str | None:
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def _config(path: Path) -> Mapping[str, Any]:
    files.require_below(path.stat().st_size, _MOST_BYTES, f"{path} has {path.stat().st_size:,} bytes", is_fixed=True)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint=files.COPY_AGAIN) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds no mapping, as the configuration of a network is", hint=files.COPY_AGAIN)
    return found


def _license(card: Path) -> str | None:
    """Return the licence that a model card states between its first lines of dashes."""
    try:
        with card.open(encoding="utf-8") as file:
            head = file.read(1 << 16)
    except (OSError, UnicodeDecodeError):
        return None
    stated = _LICENSE.search(head.split("\n---", 1)[0]) if head.startswith("---") else None
    return stated[1] if stated else None
