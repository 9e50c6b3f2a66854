"""The options of a TorchScript export, and those of a second try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.formats.format import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.formats.artifact import Written


class TorchScriptOptions(Options):
    """Options of a TorchScript export."""

    method: Literal["auto", "script", "trace"] = Field(
        "auto", description="script keeps control flow; trace records one run; auto scripts, and traces if that fails"
    )


def alternative(options: Options, written: Written | None) -> Mapping[str, object] | None:
    """Return the options that a second try is to be made with where a file is wrong, or could not be written (None)."""
    assert isinstance(options, TorchScriptOptions)  # noqa: S101 - the table pairs them
    is_first = options.method == "auto" and (written is None or written.facts.get("method") == "script")
    return {"method": "trace"} if is_first else None
