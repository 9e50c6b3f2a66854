"""Where onnxruntime really ran a graph: each execution provider's share of nodes and time, from its own profile.

A session that was asked for a GPU may run any node on the CPU, and says so in no result. Its profile does. Some nodes
belong there: onnxruntime keeps what only computes shapes on the CPU, where shapes are. Its rule (GetCpuPreferredNodes in
onnxruntime/core/framework/fallback_cpu_capability.cc): a node that reads at least one value known on the CPU, and else only
such values, graph inputs, and initializers of at most 100 elements. Known on the CPU are at first the outputs of Shape and
Size, then the outputs of the nodes so found. Any other node on the CPU computes what the GPU was asked for.

A provider that computes in the host's memory itself (OpenVINO, oneDNN, XNNPACK, Core ML) takes the nodes that it knows, and the CPU
provider beside it computes the rest: that is how it is meant, and its share is told. That it ran no node at all is a fault of any
provider: the session is then another one than was asked for. A provider that compiles counts what it compiled as one node.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CPU = "CPUExecutionProvider"
COPIES = frozenset({"MemcpyToHost", "MemcpyFromHost"})
_SIZES = frozenset({"Shape", "Size"})
_SMALL_ELEMENTS = 100
_SUFFIX = "_kernel_time"
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Ran:
    """One execution of a node: its name and operator in the graph as it ran, the provider, and how long it took.

    On a GPU that is the time its launch took on the host.
    """

    node: str
    operator: str
    provider: str
    duration_us: int


class Share(TypedDict):
    """What one provider ran: nodes, and milliseconds, with their share of all."""

    nodes: int
    node_share: float
    ms: float
    time_share: float


class OnCpu(TypedDict):
    """A node that computed on the CPU."""

    node: str
    operator: str
    ms: float


class Placement(TypedDict):
    """Where nodes ran (JSON values).

    `providers`: by name the nodes each ran at least once, their share of all, the milliseconds and their share; copies between
    devices are counted apart. `left_on_cpu`: the nodes that computed on the CPU beside another provider, although they might
    have run there. `idle`: the provider that was asked for, where it ran no node; missing otherwise.
    """

    providers: dict[str, Share]
    copies: int
    left_on_cpu: list[OnCpu]
    idle: NotRequired[str]


def read(profile: bytes) -> list[Ran]:
    """Return the executions that a profile of onnxruntime (a JSON list of Chrome trace events) records."""
    return [
        Ran(event["name"].removesuffix(_SUFFIX), event["args"]["op_name"], event["args"]["provider"], int(event["dur"]))
        for event in json.loads(profile)
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX) and event["args"].get("provider")
    ]


def kept_on_cpu(graph: Any) -> set[str]:
    """Return the names of the nodes of an onnx.GraphProto, subgraphs included, that onnxruntime keeps on the CPU by design.

    The graph must be the one that ran (after optimisation), its nodes in topological order.
    """
    free = {each.name for each in graph.initializer if math.prod(each.dims) <= _SMALL_ELEMENTS}
    free |= {each.name for each in graph.input}
    on_cpu: set[str] = set()
    kept: set[str] = set()
    for node in graph.node:
        read_ = {name for name in node.input if name}
        if node.op_type in _SIZES or (read_ & on_cpu and read_ <= on_cpu | free):
            kept.add(node.name)
            on_cpu.update(node.output)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                kept |= kept_on_cpu(inner)
    return kept


def summary(ran: Sequence[Ran], kept: Iterable[str], asked: str = CPU, *, takes_part: bool = False) -> Placement:
    """Return the placement of a session that `asked` for a provider; the nodes `kept` are on the CPU by design.

    `takes_part`: the provider takes what it knows, and the CPU provider computes the rest by design.
    """
    computing = [each for each in ran if each.operator not in COPIES]
    nodes = {(each.provider, each.node): each for each in computing}
    spent: Counter[str] = Counter()
    by_node: Counter[tuple[str, str]] = Counter()
    for each in computing:
        spent[each.provider] += each.duration_us
        by_node[each.provider, each.node] += each.duration_us
    counted = Counter(provider for provider, _ in nodes)
    expected = set(kept)
    watched = not takes_part and (asked != CPU or set(counted) - {CPU})
    left = [nodes[key] for key in nodes if key[0] == CPU and key[1] not in expected] if watched else []
    found: Placement = {
        "providers": {
            name: {
                "nodes": count,
                "node_share": count / len(nodes),
                "ms": spent[name] / 1e3,
                "time_share": spent[name] / total if (total := spent.total()) else 0.0,
            }
            for name, count in counted.most_common()
        },
        "copies": len({each.node for each in ran if each.operator in COPIES}),
        "left_on_cpu": [
            {"node": each.node, "operator": each.operator, "ms": by_node[CPU, each.node] / 1e3} for each in left
        ],
    }
    if nodes and asked not in counted:
        found["idle"] = asked
    return found


def in_words(placement: Placement) -> str:
    """Say in one line which provider got how much."""
    shares = ", ".join(
        f"{_short(name)} {each['nodes']} nodes ({each['node_share']:.0%}), {each['time_share']:.0%} of the time"
        for name, each in placement["providers"].items()
    )
    return shares + (f"; {placement['copies']} copies between devices" if placement["copies"] else "")


def problems(placement: Placement | None) -> list[str]:
    """Say that the provider which was asked for ran nothing, or which nodes computed on the CPU beside it; nothing if neither."""
    if not placement:
        return []
    if idle := placement.get("idle"):
        nodes = sum(each["nodes"] for each in placement["providers"].values())
        return [f"none of its {nodes} nodes ran on {_short(idle)}: {in_words(placement)}"]
    if not placement["left_on_cpu"]:
        return []
    left = placement["left_on_cpu"]
    named = ", ".join(f"{each['node']} ({each['operator']})" for each in left[:_NAMED])
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return [f"{len(left)} of its nodes computed on the CPU: {named}{more}"]


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")
