"""Open `weighbridge package --as mlflow` with MLflow itself: its pyfunc loader, and its HTTP server on localhost.

    MLFLOW_PYTHON scripts/sweep_mlflow.py PACKAGE RELEASE

Run it with the interpreter of an environment that holds mlflow-skinny, pandas, onnx and onnxruntime (`make sweep-mlflow`
makes one). Sends the release's golden inputs through both and compares with the outputs of onnxruntime on the release's own
file. Exits 1 if one differs.
"""

from __future__ import annotations

import json
import runpy
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np

START_S = 120


def main() -> int:
    package, release = map(Path, sys.argv[1:])
    verifier = runpy.run_path(str(release / "verify.py"), run_name="verify")
    run = verifier["open_onnx"](release / "model.onnx", "onnxruntime-cpu")
    case = verifier["read_golden"](release / "golden.safetensors").cases[0]
    expected = run(case.inputs)
    loaded = mlflow.pyfunc.load_model(str(package)).predict(dict(case.inputs))
    problems = [
        f"the loader's {name} differs" for name, value in expected.items() if not np.array_equal(loaded[name], value)
    ]
    served = serve(package, {"inputs": {name: value.tolist() for name, value in case.inputs.items()}})
    for name, value in expected.items():
        answer = np.asarray(served[name], value.dtype)
        if answer.shape != value.shape or not np.array_equal(answer, value):
            problems.append(f"the server's {name} differs")
    print("\n".join(problems) or f"mlflow {mlflow.__version__}: the loader and the server give onnxruntime's outputs")
    return 1 if problems else 0


def serve(package: Path, request: dict[str, object]) -> dict[str, object]:
    """Start `mlflow models serve`, send one request, stop it, return the answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(package), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            wait(f"http://127.0.0.1:{port}/ping", server)
            sent = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps(request).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(sent, timeout=60) as answer:  # noqa: S310 - the server above
                predictions: dict[str, object] = json.load(answer)["predictions"]
                return predictions
        finally:
            server.terminate()


def wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - the server above
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
