"""Objects that a checkpoint holds beside its tensors, which are read as records and never made.

The rule: beside tensors a file may name, make and fill objects of classes that are not Python's own, torch's or numpy's but for those
that are data only; a class is made by itself or with plain arguments, and filled with a state, items and keys. Whatever
else it does (a function called, something made called in turn, something imported changed), and whatever names a global
that is known to do harm, is refused as everywhere.

Nothing of such a file is unpickled: its tensors are read from its bytes (see `stored`), so that none of the classes is
imported and none of their code runs, whatever they are.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from pipeline.weights.danger import harm_of, require_harmless
from pipeline.weights.pickle_objects import DATA

if TYPE_CHECKING:
    from pipeline.weights.pickles import Parsed

_TYPING = re.compile(r"typing\.[A-Z]\w*")
# Classes that stand for themselves: what a defaultdict makes of a missing key, the type of a config's entry.
_TYPES = frozenset(
    f"builtins.{name}" for name in (
        "bool", "bytes", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "str", "tuple",
    )
)  # fmt: skip
# What scripts keep of torch beside weights: layers and losses, optimizers and schedulers, and what belongs to them.
_TORCH = (
    "torch.nn.", "torch._C._nn.", "torch.optim.", "torch.utils.data.", "torch.distributions.", "torch.amp.", "torch.cuda.amp.",
)  # fmt: skip
_SCRIPTS = ("__main__", "__mp_main__")


def require_inert(parsed: Parsed, name: str) -> None:
    """Refuse a pickle with tensors that does more than to hold inert objects beside them; raises UnsafeError."""
    strange = {
        dotted: how for dotted, how in parsed.foreign.items() if dotted in parsed.acting or not is_inert(dotted, how)
    }
    require_harmless(strange, name)


def is_inert(dotted: str, how: str) -> bool:
    """Tell whether a global may stand beside tensors, by its name and the most that is done with it (see `Parsed`)."""
    if how == "changes":
        return False
    if is_own(dotted):
        return dotted in DATA or how == "names"
    top, *rest = dotted.split(".")
    if not rest or not all(map(str.isidentifier, (top, *rest))) or any(part.startswith("__") for part in rest):
        return False
    if top in sys.stdlib_module_names or top == "numpy" or (top.startswith("__") and top not in _SCRIPTS):
        return False
    return harm_of(dotted) is None and (top != "torch" or dotted.startswith(_TORCH))


def is_own(dotted: str) -> bool:
    """Tell whether a global is a class of Python's own that is data only, or that stands for itself."""
    return dotted in DATA or dotted in _TYPES or bool(_TYPING.fullmatch(dotted))
