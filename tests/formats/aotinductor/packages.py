"""AOTInductor packages as torch lays them out, around whatever library."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER = "data/aotinductor/model"
METADATA = {
    "AOTI_DEVICE_KEY": "cpu",
    "AOTI_PLATFORM": "linux",
    "AOTI_MACHINE": platform.machine(),
    "AOTI_CPU_ISA": "INVALID_VEC_ISA",
}


def package(
    path: Path,
    metadata: Mapping[str, str] | None = None,
    library: bytes = b"\x7fELF",
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a package and return its path; `more` are further entries, by name below the archive's root."""
    described = json.dumps({**METADATA, **(metadata or {})}).encode()
    entries = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"3\n",
        f"{FOLDER}/weighbridge.wrapper.so": library,
        f"{FOLDER}/weighbridge.wrapper_metadata.json": described,
        **(more or {}),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"model/{name}", content)
    return path


def edited(source: Path, target: Path, change: Mapping[str, str]) -> Path:
    """Copy a package with some of its metadata changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for each in old.infolist():
            content = old.read(each)
            if each.filename.endswith("_metadata.json"):
                content = json.dumps({**json.loads(content), **change}).encode()
            new.writestr(each.filename, content)
    return target


def hostile_library(folder: Path, marker: Path) -> bytes:
    """Return a real shared library that writes a file as soon as anybody loads it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make a hostile library with")
    source, made = folder / "hostile.c", folder / "hostile.so"
    source.write_text(
        "#include <stdio.h>\n"
        f'__attribute__((constructor)) static void run(void) {{ fclose(fopen("{marker}", "w")); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made.read_bytes()
