"""What a person sees while a run works: stages with what is left of them by the last run, a row a step, and no long silence."""

import io
import json
import threading

import pytest
from rich.console import Console

from pipeline.report import live, log, progress
from pipeline.worker.event import Event


def stage(name, status="started", **more):
    return Event(name, "it", status, is_stage=True, **more)


@pytest.fixture
def told(monkeypatch, capsys):
    """Return the lines that events become in a pipe."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)

    def tell(*events):
        with progress.progress("it") as show:
            for each in events:
                show(each)
        return [line.rpartition(" (")[0] or line for line in capsys.readouterr().err.splitlines()]

    return tell


def test_a_stage_has_a_line_with_its_reason_and_what_is_left_by_the_last_run(told):
    assert told(stage("sample", detail="not built before"), stage("sample", "ended"), stage("export", usual_s=8.4)) == [
        "it: sample · not built before",
        "it: export · about 8 s left",
    ]


def test_a_step_of_another_stage_that_runs_beside_does_not_change_the_stage(told):
    events = [stage("export"), Event("parity", "onnx audit", "started"), Event("export", "onnx", "ended")]
    assert told(*events) == ["it: export"]


def test_where_there_are_no_stages_each_kind_of_step_has_a_line(told):
    events = [Event("files", "a", "working", "1 of 2", 0.5), Event("files", "b", "working", "2 of 2", 1.0)]
    assert told(*events) == ["it: files · 1 of 2"]


def test_remarks_are_told_at_once(told):
    assert told(Event("cache", "", "noted", "full")) == ["it: full"]


def test_silence_is_broken_by_what_is_being_done(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SILENCE_S", 0.01)
    spoken = threading.Event()
    say = progress._Lines.go_on
    monkeypatch.setattr(progress._Lines, "go_on", lambda lines: (say(lines), spoken.set()))
    with progress.progress("it") as show:
        show(stage("export", usual_s=100.0))
        show(Event("export", "onnx", "started"))
        spoken.clear()
        assert spoken.wait(60)
    assert "it: export · onnx · about 100 s left" in capsys.readouterr().err


@pytest.fixture
def terminal(monkeypatch):
    """Return the rows of a terminal, and what was printed on it."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    monkeypatch.setattr(live, "Console", lambda **_: console)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    return written


def test_a_terminal_has_a_row_a_step_that_goes_with_it_and_bars_by_the_last_run(terminal):
    with progress.board(2) as begin, begin("it") as show:
        show(stage("parity", usual_s=50.0))
        show(Event("parity", "torchscript", "started", usual_s=20.0))
        show(Event("parity", "onnxruntime-cpu", "started"))
        bar = show.__closure__ and next(
            cell.cell_contents._bar for cell in show.__closure__ if isinstance(cell.cell_contents, progress._Rows)
        )
        rows = [task.description for task in bar.tasks]
        assert rows == ["2 configs", "it · parity", "  torchscript", "  onnxruntime-cpu"]
        _, run, first, second = bar.tasks
        assert (run.total, first.total, second.total) == (50.0, 20.0, None)
        assert "about" in live._Left().render(first).plain
        assert live._Left().render(second).plain == ""
        show(Event("parity", "torchscript", "ended"))
        show(Event("cache", "", "noted", "full"))
        assert [task.description for task in bar.tasks][2:] == ["  onnxruntime-cpu"]
        show(Event("parity", "onnxruntime-cpu", "working", "half", 0.5))
        assert bar.tasks[-1].percentage == 50
    assert "it: full" in terminal.getvalue()
    assert bar.tasks[0].completed == 1


def test_the_next_run_is_told_how_long_each_step_took(tmp_path):
    shown = []
    first = log.Recorder(shown.append)
    for each in (stage("export"), Event("export", "onnx", "started"), Event("export", "onnx", "ended")):
        first(each)
    first(stage("export", "ended"))
    assert shown[0].usual_s is None
    (tmp_path / log.RUN).write_text(json.dumps(first.summary("it", exit_code=0)))
    known = log.usual_s(tmp_path / log.RUN)
    assert known.keys() == {"export/it", "export/onnx"}
    again = log.Recorder(shown.append, known)
    again(stage("export"))
    assert shown[-1].usual_s == known["export/it"]
    again(Event("export", "onnx", "reused"))
    again(stage("export", "ended"))
    assert (
        again.summary("it", exit_code=0)["usual_s"] == known
    )  # what was found, and a stage with it, tells nothing new


@pytest.mark.parametrize("text", ["", "{", "[]", '{"usual_s": 3}', '{"usual_s": {"a": "b"}}'])
def test_a_log_that_cannot_be_read_tells_nothing(tmp_path, text):
    (tmp_path / log.RUN).write_text(text)
    assert log.usual_s(tmp_path / log.RUN) == {}
    assert log.usual_s(tmp_path / "none") == {}


def test_where_the_time_went_names_the_stages_and_the_longest_step_of_each(monkeypatch):
    clock = iter([0.0, 0.0, 0.5, 1.0, 8.0, 9.0, 9.0, 9.01, 10.0])
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    recorder = log.Recorder(lambda _: None)
    recorder(stage("export"))
    recorder(Event("export", "torchscript", "started"))
    recorder(Event("export", "onnx", "started"))
    recorder(Event("export", "onnx", "ended"))
    recorder(stage("export", "ended"))
    recorder(stage("benchmark"))
    recorder(stage("benchmark", "ended"))
    assert recorder.where_time_went() == "took 10.0 s: export 9.0 s (onnx 7.0 s)"


def test_a_run_that_nobody_waited_for_says_nothing_of_time():
    assert log.Recorder(lambda _: None).where_time_went() == ""
