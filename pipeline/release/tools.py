"""The versions of what a release's bytes and numbers depend on."""

from __future__ import annotations

from importlib import metadata

from pipeline import __version__

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


def tools() -> dict[str, str]:
    """Return the versions of what a release's bytes and numbers depend on, and our own."""
    found = {"weighbridge": __version__}
    for name in TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
