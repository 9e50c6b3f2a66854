"""What a manifest says of the rows of a batch, in words: whoever joins or splits calls takes for granted that they are independent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def dependence(rows: Mapping[str, Any] | None, dimension: str) -> str | None:
    """Return how rows along a dimension were shown to depend on one another, None if they were not."""
    if not rows or (rows["verdict"], rows["dimension"]) != ("dependent", dimension):
        return None
    share = rows.get("difference")
    much = "to something else" if share is None else f"by {share:g} × its largest value"
    return (
        f"rows of {dimension} depend on one another (beside other rows, output {rows.get('output')} of a row changes {much}; "
        f"cases {', '.join(rows.get('cases') or ())})"
    )


def doubt(rows: Mapping[str, Any] | None, dimension: str) -> str | None:
    """Return what speaks against joining calls along a dimension, None if its rows were shown to be independent."""
    if not rows:
        return f"this release does not say whether rows of {dimension} depend on one another; export it again to have it shown"
    if (rows["verdict"], rows["dimension"]) == ("independent", dimension):
        return None
    reason = rows.get("reason") or f"it was asked of {rows['dimension']}"
    return dependence(rows, dimension) or f"that rows of {dimension} are independent was not shown: {reason}"
