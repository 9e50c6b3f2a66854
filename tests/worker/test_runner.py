"""Every runner keeps the same promises, wherever its jobs are done."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from pipeline.errors import DefectError, InputError, WorkerError
from pipeline.interface import Case
from pipeline.worker.inprocess import InProcessRunner
from pipeline.worker.job import Context, Request
from pipeline.worker.process import LocalRunner
from tests.worker import jobs

RUNNERS = {"a process": LocalRunner(packages=("tests",)), "this process": InProcessRunner(("tests",))}


class Elsewhere(Request[None]):
    """A job of a package that nobody named."""

    def run(self, _: Context) -> None:
        raise AssertionError


Elsewhere.__module__ = "json.decoder"


@pytest.fixture(scope="module", params=list(RUNNERS))
def runner(request):
    return RUNNERS[request.param]


@pytest.fixture(scope="module")
def worker(runner):
    with runner.start("the worker", threads=1) as started:
        yield started


def test_an_answer_has_the_promised_type_whatever_goes_over_the_wire(worker):
    given = jobs.Grown(case=Case("one", {"batch": 2}, {"x": np.ones((2, 3), np.float32)}), number=1, words=("a",))
    found = worker.call(jobs.Grow(given=given), timeout_s=60)
    assert isinstance(found, jobs.Grown)
    assert (found.number, found.words) == (2, ("a", "more"))
    assert isinstance(found.case, Case)
    assert found.case.sizes == {"batch": 2}
    assert np.array_equal(found.case.inputs["x"], given.case.inputs["x"])


def test_json_values_may_be_made_of_tuples_and_numpys_floats(worker):
    found = worker.call(jobs.Describe(given={"a": ({"b": (1, 2)},)}), timeout_s=60)
    assert found == {"a": [{"b": [1, 2]}], "pair": [1, {"inner": []}], "number": 0.5}


def test_arrays_survive_with_their_type_shape_and_bytes_and_are_none_of_the_senders(worker):
    given = {
        "empty": np.zeros((0, 3), np.int64),
        "scalar": np.asarray(np.float64(0.1)),
        "not finite": np.array([np.nan, -np.inf, -0.0], np.float32),
        "turned": np.arange(6, dtype=np.uint8).reshape(2, 3).T,
        "bfloat16": np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16),
    }
    found = worker.call(jobs.Echo(values=given), timeout_s=60)
    assert list(found) == list(given)
    for name, array in found.items():
        assert (array.dtype, array.shape) == (given[name].dtype, given[name].shape)
        assert array.tobytes() == given[name].tobytes()
        assert not np.shares_memory(array, given[name])


def test_an_error_of_ours_arrives_as_it_was_raised_and_the_worker_goes_on(worker):
    with pytest.raises(InputError, match="this is wrong") as caught:
        worker.call(jobs.Refuse(), timeout_s=60)
    assert caught.value.hint == "do that"
    assert worker.alive
    assert worker.call(jobs.Ping(), timeout_s=60) == "pong"


def test_any_other_error_is_the_workers_with_its_class(worker):
    with pytest.raises(WorkerError, match="the worker failed: ZeroDivisionError: division by zero"):
        worker.call(jobs.Divide(), timeout_s=60)


def test_an_answer_of_another_type_is_an_error_of_the_job(worker):
    with pytest.raises(WorkerError, match=r"(?s)the worker failed: ValidationError: .*valid integer"):
        worker.call(jobs.BreakPromise(), timeout_s=60)


def test_a_job_of_a_package_that_nobody_named_is_not_even_imported(worker):
    with pytest.raises(DefectError, match=r"json\.decoder:Elsewhere is no job: json is neither pipeline nor a plugin"):
        worker.call(Elsewhere(), timeout_s=60)


@pytest.mark.parametrize("name", ["Nowhere", "np", "Context"])
def test_what_is_no_request_is_no_job(worker, name):
    request = type(name, (jobs.Ping,), {"__module__": jobs.__name__})
    with pytest.raises(DefectError, match=f"tests.worker.jobs:{name} is no job"):
        worker.call(request(), timeout_s=60)


def test_what_a_job_leaves_is_there_for_later_ones_until_one_takes_it(worker):
    with pytest.raises(DefectError, match="needs its Grown, which no job has left"):
        worker.call(jobs.Recall(), timeout_s=60)
    for word in ("first", "second"):
        worker.call(jobs.Remember(word=word), timeout_s=60)
        assert worker.call(jobs.Recall(), timeout_s=60) == word
    assert worker.call(jobs.Forget(), timeout_s=60) == "second"
    with pytest.raises(DefectError):
        worker.call(jobs.Recall(), timeout_s=60)


def test_workers_share_nothing_and_one_that_was_ended_answers_no_more(runner):
    with runner.start("one", threads=1) as one:
        one.call(jobs.Remember(word="one's"), timeout_s=60)
        other = runner.start("other", threads=1)
        with pytest.raises(DefectError):
            other.call(jobs.Recall(), timeout_s=60)
        other.end()
        assert not other.alive
        with pytest.raises(WorkerError, match="other"):
            other.call(jobs.Ping(), timeout_s=60)
        assert one.call(jobs.Recall(), timeout_s=60) == "one's"


def test_a_plugins_job_is_done_without_being_named(tmp_path):
    (tmp_path / "plugin_of_jobs.py").write_text(
        "from pipeline.worker.job import Request\n\n\nclass Greet(Request[str]):\n"
        "    def run(self, _):\n        return 'hello'\n"
    )
    info = tmp_path / "plugin_of_jobs-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-jobs\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[weighbridge.jobs]\ngreet = plugin_of_jobs:Greet\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.worker.process import LOCAL; import plugin_of_jobs\n"
        "with LOCAL.start('a worker', threads=1) as worker: print(worker.call(plugin_of_jobs.Greet(), timeout_s=60))"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert ran.stdout == "hello\n", ran.stderr
