"""Artifacts of a precision of their own: what each is made from, what it needs, and which of them says what another computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.formats.table import formats

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.config.models import ExportConfig


def precision(wanted: ExportConfig) -> str:
    """Return the precision of its own that an artifact is to have; empty for the network's."""
    chosen = formats()[wanted.format]
    return chosen.precision(chosen.options.model_validate(wanted.options))


def speaking(config: Config) -> dict[str, str]:
    """Return, by artifact, the one that says what it computes: itself, or what it was made from; none where the network does."""
    found: dict[str, str] = {}
    for each in config.exports:
        if precision(each):
            found[each.name] = each.name
        elif each.made_from in found:
            found[each.name] = found[each.made_from]
    return found


def require(config: Config) -> None:
    """Check what artifacts are made from, and whether real inputs are there for those that need them.

    Raises:
        ConfigError: an artifact of a precision of its own is made from nothing, or from what it cannot be made from; its inputs for
            calibration are missing, are no file, or are of no use.
    """
    by_name = {each.name: each for each in config.exports}
    for index, each in enumerate(config.exports):
        place = config.place(f"exports.{index}")
        if wrong := _wrong_source(each, by_name) or _wrong_calibration(each):
            said, hint = wrong
            raise ConfigError(f"{place}: {each.name} {said}", hint=hint)


def _wrong_source(wanted: ExportConfig, by_name: dict[str, ExportConfig]) -> tuple[str, str] | None:
    chosen, own = formats()[wanted.format], precision(wanted)
    source = by_name.get(wanted.made_from or "")
    if source is None:
        fitting = [each.name for each in by_name.values() if each.format == wanted.format and not precision(each)]
        hint = (
            f"add `from: {fitting[0]}`"
            if fitting
            else f"add `{wanted.format}` to `exports` before it, and `from` to it"
        )
        return (f"is in {own}, and is made from no other artifact", hint) if own else None
    needed = chosen.derived_from or chosen.name
    if chosen.derive is None:
        return "is made from the network, not from an artifact", "leave out `from`"
    if source.format != needed:
        return f"is made from {source.name}, a {source.format} artifact", f"name one of the format {needed} in `from`"
    if own and precision(source):
        return f"is made from {source.name}, which is in {precision(source)} already", "make it from the float32 one"
    if not own and chosen.derived_from is None:
        return (
            f"is made from {source.name}, and nothing says in which precision",
            "add `precision`, or leave out `from`",
        )
    return None


def _wrong_calibration(wanted: ExportConfig) -> tuple[str, str] | None:
    chosen = formats()[wanted.format]
    is_needed = chosen.calibrates(chosen.options.model_validate(wanted.options))
    if is_needed and not wanted.calibration:
        return (
            f"is in {precision(wanted)} and has no `calibration`: ranges measured on random inputs hide real failures",
            "give real inputs (`calibration: FILE.npz`), or take int8-dynamic, which measures at every call",
        )
    if wanted.calibration and not is_needed:
        return "has a `calibration`, and nothing in it is measured", "leave `calibration` out, or set `precision: int8`"
    if wanted.calibration and not Path(wanted.calibration).is_file():
        return f"has no file {wanted.calibration}", "correct the path of `calibration`, which starts at the config"
    return None
