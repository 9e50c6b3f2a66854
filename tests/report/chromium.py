"""A page in a real Chromium, through its driver's HTTP interface (W3C WebDriver); no package is needed for that."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
STARTING_S = 20.0


def missing() -> str | None:
    """Why there is no browser to test with, or None."""
    if not shutil.which("chromedriver"):
        return "chromedriver is not installed (Debian: chromium-driver)"
    return None if any(map(shutil.which, BROWSERS)) else "chromium is not installed (Debian: chromium)"


class Page:
    """An open page."""

    def __init__(self, session: str) -> None:
        self._session = session

    def script(self, code: str) -> Any:
        """Run JavaScript and return what it returns."""
        return _ask("POST", f"{self._session}/execute/sync", {"script": code, "args": []})

    def errors(self) -> list[str]:
        """What the console has logged as severe since the last time."""
        logged = _ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [each["message"] for each in logged if each["level"] == "SEVERE"]

    def resize(self, width: int, height: int = 900) -> None:
        """Emulate a screen of this width; a window cannot be narrower than 500 px."""
        parameters = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._command("Emulation.setDeviceMetricsOverride", parameters)

    def prefer(self, scheme: str) -> None:
        """Emulate a user who prefers `light` or `dark`."""
        self._command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def wait(self, code: str, seconds: float = 20.0) -> Any:
        """Run JavaScript until what it returns is true."""
        until = time.monotonic() + seconds
        while not (found := self.script(code)) and time.monotonic() < until:
            time.sleep(0.1)
        return found

    def keys(self, *names: str) -> None:
        """Press keys, one after the other, on what has the focus: a character, or Enter, Space or Tab."""
        codes = {"Enter": ("Enter", 13, "\r"), "Space": (" ", 32, " "), "Tab": ("Tab", 9, "")}
        for name in names:
            key, code, text = codes.get(name, (name, ord(name[0].upper()), name))
            pressed = {
                "key": key,
                "windowsVirtualKeyCode": code,
                "code": name if name in codes else f"Key{name.upper()}",
            }
            self._command("Input.dispatchKeyEvent", {"type": "keyDown", **pressed, **({"text": text} if text else {})})
            self._command("Input.dispatchKeyEvent", {"type": "keyUp", **pressed})

    def screenshot(self, file: Path) -> None:
        """Write the whole page as PNG."""
        height = self.script("return document.documentElement.scrollHeight")
        width = self.script("return window.innerWidth")
        self.resize(width, min(height, 12_000))
        file.write_bytes(base64.b64decode(_ask("GET", f"{self._session}/screenshot")))

    def _command(self, name: str, parameters: dict[str, Any]) -> None:
        _ask("POST", f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})


@contextmanager
def opened(file: Path) -> Iterator[Page]:
    """Open a file in a headless browser without network."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}", "--log-level=OFF"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        session = _session(f"http://127.0.0.1:{port}", file)
        yield Page(session)
        _ask("DELETE", session)
    finally:
        driver.terminate()
        driver.wait()


def _session(driver: str, file: Path) -> str:
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1440,900"]
    arguments.append("--host-resolver-rules=MAP * ~NOTFOUND")
    wanted = {
        "capabilities": {
            "alwaysMatch": {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        }
    }
    until = time.monotonic() + STARTING_S
    while True:
        try:
            found = _ask("POST", f"{driver}/session", wanted)
            break
        except URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    session = f"{driver}/session/{found['sessionId']}"
    _ask("POST", f"{session}/url", {"url": file.resolve().as_uri()})
    return session


def _ask(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - ours
        return json.load(answer)["value"]
