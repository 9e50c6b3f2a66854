"""MLflow's own loader and its HTTP server run `package --as mlflow` and give onnxruntime's outputs, to the bit.

MLflow runs in processes of its own and talks to nobody but this machine's loopback.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.release.load import load_release
from pipeline.release.packages import package

X = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
START_S, ANSWER_S = 90, 30
LOADER = """
import sys, mlflow, numpy
outputs = mlflow.pyfunc.load_model(sys.argv[1]).predict(dict(numpy.load(sys.argv[2])))
numpy.savez(sys.argv[3], **outputs)
"""


@pytest.fixture(scope="module")
def served(pristine, tmp_path_factory):
    """The package, and the outputs that onnxruntime gives for X on the release's own file."""
    folder = package(pristine, "mlflow", tmp_path_factory.mktemp("mlflow") / "package").path
    return folder, load_release(pristine, backend="onnxruntime-cpu")(x=X)


@pytest.fixture
def environment(tmp_path):
    """What MLflow starts `uvicorn` with: this interpreter's programs first, no telemetry, no home to write to."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": programs, "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
        "NO_PROXY": "127.0.0.1",
    }  # fmt: skip


def test_its_pyfunc_loader_gives_onnxruntimes_outputs(served, environment, tmp_path):
    folder, expected = served
    np.savez(tmp_path / "inputs.npz", x=X)
    command = [sys.executable, "-c", LOADER, folder, tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as outputs:
        assert set(outputs) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(outputs[name], value)


def test_its_server_gives_onnxruntimes_outputs_and_refuses_another_shape(served, environment, tmp_path):
    folder, expected = served
    with serving(folder, environment, tmp_path) as url:
        answer = post(f"{url}/invocations", {"inputs": {"x": X.tolist()}})["predictions"]
        assert set(answer) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(np.asarray(answer[name], value.dtype), value)
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(f"{url}/invocations", {"inputs": {"x": X[:, :3].tolist()}})
        with caught.value as refused:
            assert refused.code == 400


@contextmanager
def serving(folder, environment, cwd):
    """Run `mlflow models serve` on a free port of the loopback, and end it with everything it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", folder, "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    log = cwd / "server.log"
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, cwd=cwd, stdout=file, stderr=file, start_new_session=True) as server,
    ):
        try:
            await_ping(f"http://127.0.0.1:{port}/ping", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def await_ping(url, server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_S):  # noqa: S310 - the server above
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def post(url, document):
    sent = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(sent, timeout=ANSWER_S) as answer:  # noqa: S310 - the server above
        return json.load(answer)
