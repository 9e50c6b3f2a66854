"""What a pickle does with the globals outside the allow-list."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.weights.pickle_records import Object, is_module

_USES = ("names", "makes", "changes", "calls")


@dataclass(slots=True)
class Uses:
    """The globals outside the allow-list, each with the most that is done with it, and the objects made of them.

    `acting` are those with which more is done than to name them, to make an object and to fill it.
    """

    most: dict[str, str] = field(default_factory=dict)
    acting: set[str] = field(default_factory=set)
    objects: list[Object] = field(default_factory=list)

    def add(self, dotted: str, how: str) -> None:
        """Keep the most that is done with a global."""
        self.most[dotted] = max(self.most.get(dotted, "names"), how, key=_USES.index)

    def act(self, dotted: str, how: str) -> None:
        """Keep that a global does something."""
        self.add(dotted, how)
        self.acting.add(dotted)

    def made(self, made: Object) -> Object:
        """Return an object, having kept it."""
        self.objects.append(made)
        return made

    def own(self) -> frozenset[str]:
        """Return the classes that networks are made of, and nothing else."""
        others = {each.maker for each in self.objects if not is_module(each)}
        return frozenset(
            each.maker for each in self.objects if each.maker not in others and self.most.get(each.maker) == "makes"
        )
