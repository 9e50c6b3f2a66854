"""An S3 server that runs here (moto's, over HTTP), and what can go wrong in front of it.

    python -m tests.s3 [--seed NUMBER --rate SHARE --late SECONDS]

It prints its address and serves until its standard input ends. With a rate, that share of requests meets one of: 503, a
create-only write that is answered with 412 though nothing was there (done, and not done), a body that is cut short with its length announced, and without.
What was written is seen by others only after up to `late` seconds. `GET /counts` says how many of each there were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "results"
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_THERE = (
    b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code><Message>At least one of the pre-conditions you specified "
    b"did not hold</Message><Condition>If-None-Match</Condition></Error>"
)
_GONE = (
    b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
)


class Faulty:
    """A WSGI application in front of another: what it does to requests is drawn from a seed."""

    def __init__(self, inner: Any, seed: int, rate: float, late_s: float) -> None:
        self._inner, self._rate, self._late_s = inner, rate, late_s
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._seen_at: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/counts":
            return _answer(start, "200 OK", json.dumps(self.counts).encode(), "application/json")
        conditional = environ.get("HTTP_IF_NONE_MATCH") == "*"
        with self._lock:
            self.counts["requests"] += 1
            fault = self._fault(method, conditional=conditional)
            self.counts[fault] += 1
        if fault == "503":
            return _answer(start, "503 Slow Down", _BUSY)
        if fault == "412, not done":
            return _answer(start, "412 Precondition Failed", _THERE)
        if method == "GET" and time.monotonic() < self._seen_at.get(path, 0):
            self.counts["late"] += 1
            return _answer(start, "404 Not Found", _GONE)
        return self._passed_on(environ, start, fault)

    def _passed_on(self, environ: dict[str, Any], start: Any, fault: str) -> list[bytes]:
        status, headers, body = self._asked(environ, environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if fault == "412, done":
            return _answer(start, "412 Precondition Failed", _THERE)
        if fault.startswith("cut") and status.startswith("20") and len(body) > 1:
            short = body[: len(body) // 2]
            length = len(body) if fault == "cut, told" else len(short)
            headers = [each for each in headers if each[0].lower() not in {"content-length", "etag"}]
            headers.append(("Content-Length", str(length)))
            body = short
        start(status, headers)
        return [body]

    def _fault(self, method: str, *, conditional: bool) -> str:
        if self._draw.random() >= self._rate:
            return ""
        kinds = ["503", *(["412, done", "412, not done"] if conditional else [])]
        kinds += ["cut, told", "cut, untold"] if method == "GET" else []
        return self._draw.choice(kinds)

    def _asked(self, environ: dict[str, Any], method: str, path: str) -> tuple[str, list[tuple[str, str]], bytes]:
        said: list[Any] = []
        with self._lock:  # moto looks and writes in two steps: a create-only write must be one
            body = b"".join(self._inner(environ, lambda status, headers, _=None: said.append((status, headers))))
            status, headers = said[-1]
            if method == "PUT" and status.startswith("200") and self._late_s:
                self._seen_at.setdefault(path, time.monotonic() + self._draw.uniform(0, self._late_s))
        if method == "GET" and path.count("/") <= 2 and self._late_s:
            body = self._listed(path, body)
            headers = [each for each in headers if each[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        return status, headers, body

    def _listed(self, path: str, body: bytes) -> bytes:
        """Take what is not seen yet out of a listing."""

        def kept(match: re.Match[bytes]) -> bytes:
            key = f"{path.rstrip('/')}/{match[1].decode()}"
            return b"" if time.monotonic() < self._seen_at.get(key, 0) else match[0]

        return re.sub(rb"<Contents>\s*<Key>(.*?)</Key>.*?</Contents>", kept, body, flags=re.DOTALL)


def _answer(start: Any, status: str, body: bytes, kind: str = "application/xml") -> list[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


@contextlib.contextmanager
def serving(seed: int = 0, rate: float = 0.0, late_s: float = 0.0) -> Iterator[dict[str, str]]:
    """Yield environment variables with which S3 is a server here, with a bucket, as long as the block lasts."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.s3", "--seed", seed, "--rate", rate, "--late", late_s]
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout
            address = server.stdout.readline().strip()
            assert address, "the server did not start"
            yield {
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": address,
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        finally:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--late", type=float, default=0)
    chosen = parser.parse_args()
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    # A body that is too short ends with its connection; where none is, connections are kept.
    WSGIRequestHandler.protocol_version = "HTTP/1.0" if chosen.rate else "HTTP/1.1"
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(BUCKET, "us-east-1")
    inner = DomainDispatcherApplication(create_backend_app)
    faulty = Faulty(inner, chosen.seed, chosen.rate, chosen.late)
    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
