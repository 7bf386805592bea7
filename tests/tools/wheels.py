"""Small wheels that pip takes. Importing what is in one fails."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_wheel(folder: Path, package: str, version: str, files: Mapping[str, bytes]) -> Path:
    """A wheel of the package in the folder, with the files in its `data`. A second call replaces it."""
    module = package.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content: dict[str, bytes] = {f"{module}/data/{name}": value for name, value in files.items()}
    content |= {
        f"{module}/__init__.py": b"raise RuntimeError('imported')",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*content, f"{info}/RECORD")).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return path


def install(wheel: Path, site: Path) -> None:
    """Unpack it as pip does."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def sha256(content: bytes | Path) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
