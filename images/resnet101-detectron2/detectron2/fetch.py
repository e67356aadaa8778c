"""Build hook: packs detectron2 v0.6's Python tree as a pure wheel.

detectron2 is not on the package index under its own name. `pb1-detectron2` there carries the same Python tree in a
source archive without the C++ sources, so its own build fails; torchvision has every compiled operator that we use. The
archive is found through whatever index the installer is configured for, and checked against its SHA-256 before anything
is unpacked.
"""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from unearth import PackageFinder

ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


def index_urls() -> list[str]:
    """The indexes of the installer's own settings: uv's and pip's environment variables, else the finder's default."""
    names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    return [os.environ[name] for name in names if os.environ.get(name)][:1]


def fetch_archive() -> bytes:
    """The archive's bytes.

    Raises RuntimeError when no configured index has it, or its SHA-256 differs.
    """
    urls = index_urls()
    finder = PackageFinder(index_urls=urls) if urls else PackageFinder()
    found = finder.find_best_match(ARCHIVE).best
    if found is None:
        raise RuntimeError(f"{ARCHIVE} is not on the configured package index: detectron2 cannot be built from it")
    response = finder.session.get(found.link.normalized)
    response.raise_for_status()
    archive = response.content
    digest = hashlib.sha256(archive).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{found.link.filename}: SHA-256 is {digest}, expected {SHA256}; do not use this archive")
    return archive


class FetchDetectron2(BuildHookInterface[Any]):
    """Unpacks the tree into the build directory and maps it into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 — hatchling's signature
        """Called by hatchling before the wheel is packed."""
        target = Path(self.directory) / "detectron2-0.6"
        with tarfile.open(fileobj=io.BytesIO(fetch_archive())) as archive:
            archive.extractall(target)  # noqa: S202 — its SHA-256 is known, and Debian's 3.11 has no filters yet
        (tree,) = target.glob("*/detectron2")
        build_data["force_include"][str(tree)] = "detectron2"
        build_data["pure_python"] = True
