"""Several configs at once: each gets its result, whatever becomes of the others."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from pipeline.errors import InputError
from pipeline.release.verify import check
from pipeline.run import many
from pipeline.run.plan import Settings

SIMPLENET = Path("configs/simplenet.yaml").resolve()


def test_results_come_in_order_and_an_error_stops_only_its_own_config(tmp_path):
    configs = []
    for name in ("first", "second", "third"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"extends: {SIMPLENET}\nname: {name}\nbenchmark: {{seconds: 1}}\n")
        configs.append(path)
    configs[1].write_text("name: [")
    running, most = set(), []

    def show(name):
        def note(event):
            (running.discard if event.stage == "release" and event.status == "ended" else running.add)(name)
            most.append((len(running), event.stage, frozenset(running)))

        return note

    settings = Settings(out=tmp_path / "out")
    first, second, third = many.export(configs, settings, 3, lambda name: nullcontext(show(name)))
    assert isinstance(second.error, InputError)
    assert second.config == configs[1]
    for each, name in ((first, "first"), (third, "third")):
        assert each.outcome.release.parent.name == name
        assert check(each.outcome.release) == []
    assert max(count for count, *_ in most) == 2
