"""Lists what is in an image: sbom.cdx.json (CycloneDX 1.6) and licences.tsv, written by the build into the image.

    python3 sbom.py NAME VERSION FOLDER

Found are Debian's packages, the Python packages below /opt/venv, and a Python that was built into the base. Libraries
that a wheel brings inside itself (CUDA's apart, which are packages) have no metadata, so they are not listed.
The same image gives the same bytes: no time, no random number. Only the standard library, since the image has no more.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

SHORT = 80
"""Characters of the longest text that is a licence's name and not the licence."""
STATED_ELSEWHERE = {
    "axe-playwright-python": "MIT",  # its file LICENSE; the axe-core in it is under MPL-2.0
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # names other packages and has no file; NVIDIA's EULA holds for it
    "openlineage-sql": "Apache-2.0",  # the LICENSE of its repository, github.com/OpenLineage/OpenLineage
}
"""Packages whose metadata says nothing of their licence."""


@dataclass(frozen=True, order=True)
class Package:
    """One package of an image."""

    kind: str
    name: str
    version: str
    licences: tuple[str, ...]
    purl: str | None

    @property
    def component(self) -> dict[str, Any]:
        """As CycloneDX has it."""
        found: dict[str, Any] = {"type": "library", "name": self.name, "version": self.version}
        found["licenses"] = [{"license": {"name": licence}} for licence in self.licences]
        if self.purl is not None:
            found |= {"purl": self.purl, "bom-ref": self.purl}
        return found


class LicenceUnknown(Exception):
    """Raised when nothing in a package says under which licence it is."""


def debian(root: Path) -> Iterator[Package]:
    """Debian's packages that are installed below a root.

    Raises LicenceUnknown.
    """
    status = root / "var/lib/dpkg/status"
    release = _fields((root / "etc/os-release").read_text().replace("=", ": ")) if status.exists() else {}
    distro = f"{release.get('ID', '')}-{release.get('VERSION_ID', '')}".replace('"', "")
    for paragraph in status.read_text().split("\n\n") if status.exists() else ():
        fields = _fields(paragraph)
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            where = f"arch={fields['Architecture']}&distro={distro}"
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?{where}"
            yield Package("debian", name, version, _debian_licences(root, name), purl)


def _fields(paragraph: str) -> dict[str, str]:
    return dict(HeaderParser().parsestr(paragraph))


def _debian_licences(root: Path, name: str) -> tuple[str, ...]:
    """The short names in a package's copyright file, or the common licences that it refers to.

    https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    file = root / "usr/share/doc" / name / "copyright"
    if not file.exists():
        raise LicenceUnknown(f"{name}: there is no {file}")
    text = file.read_text(errors="replace")
    if "copyright-format/1" in text[:1000]:
        found = set(re.findall(r"^License:[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE | re.IGNORECASE))
    else:
        found = set(re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])", text))
    return tuple(sorted(found)) or (f"see /usr/share/doc/{name}/copyright",)


def python(site: Path) -> Iterator[Package]:
    """The Python packages in a folder `site-packages`.

    Raises LicenceUnknown.
    """
    for found in distributions(path=[str(site)]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        # What was installed from a file of ours is on no index.
        local = found.read_text("direct_url.json") is not None
        purl = None if local else f"pkg:pypi/{name}@{quote(found.version, safe='')}"
        yield Package("python", name, found.version, _python_licences(name, found), purl)


def _python_licences(name: str, found: Distribution) -> tuple[str, ...]:
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return (" ".join(expression.split()),)
    text = (metadata.get("License") or "").strip()
    if text and text != "UNKNOWN" and len(text) <= SHORT and "\n" not in text:
        return (text,)
    prefix = "License :: "
    classifiers = [one for one in metadata.get_all("Classifier") or [] if one.startswith(prefix)]
    if classifiers:
        return tuple(sorted({one.rsplit(" :: ", 1)[1] for one in classifiers}))
    if name in STATED_ELSEWHERE:
        return (STATED_ELSEWHERE[name],)
    raise LicenceUnknown(f"{name} {found.version}: its metadata names no licence; find it, and add it to {__file__}")


def interpreter() -> Iterator[Package]:
    """The running Python, where it was built into the base and is no package of Debian's."""
    if sys.base_prefix == "/usr/local":
        version = sys.version.split()[0]
        yield Package("python itself", "cpython", version, ("PSF-2.0",), f"pkg:generic/cpython@{version}")


def sbom(name: str, version: str, packages: list[Package]) -> dict[str, Any]:
    """A CycloneDX 1.6 document."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": [package.component for package in packages],
    }


def main(name: str, version: str, folder: Path, root: Path = Path("/")) -> None:
    """Write both files."""
    (site,) = root.glob("opt/venv/lib/python3*/site-packages")
    packages = sorted([*debian(root), *python(site), *interpreter()])
    document = json.dumps(sbom(name, version, packages), indent=1, ensure_ascii=False)
    (folder / "sbom.cdx.json").write_text(document + "\n")
    rows = ["\t".join((one.kind, one.name, one.version, "; ".join(one.licences))) for one in packages]
    (folder / "licences.tsv").write_text("\n".join(["kind\tpackage\tversion\tlicences", *rows]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
