"""Lets single modules of mmf 1.0.0rc10 be imported beside today's libraries.

`import mmf` imports all of mmf, which current libraries break. Its packages stand here as empty ones at the installed
place, so that a module brings only what it names itself. Import this module before any of mmf's.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

PACKAGES = ("mmf", "mmf.datasets", "mmf.datasets.databases")


def _register() -> None:
    spec = find_spec("mmf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("mmf is not installed; this image's requirements.lock names it", name="mmf")
    root = Path(next(iter(spec.submodule_search_locations)))
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package


if "mmf" not in sys.modules:
    _register()
