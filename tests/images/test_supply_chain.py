"""What the images are made of: pinned bases and tools, the list of what is inside, and the audit against advisories."""

import datetime
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from containers import REPOSITORY

IMAGES = REPOSITORY / "images"
DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
LOCKS = (IMAGES / "requirements.uv.lock", *IMAGES.glob("*/requirements*.lock"), REPOSITORY / "requirements.lock")
SITE = next((REPOSITORY / ".venv" / "lib").glob("python3*/site-packages"))


def loaded(name: str) -> ModuleType:
    """A script that is no package's module."""
    spec = importlib.util.spec_from_file_location(name, IMAGES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit, sbom = loaded("audit"), loaded("sbom")


# Pins


def test_every_base_image_is_pinned_by_one_digest():
    bases = {re.findall(r"^ARG BASE_IMAGE(.*)$", file.read_text(), re.MULTILINE)[0] for file in DOCKERFILES}
    assert len(DOCKERFILES) == 3
    assert len(bases) == 1
    assert re.fullmatch(r"=docker\.io/library/python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", bases.pop())


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_no_stage_stands_on_another_image(file: Path):
    text = file.read_text()
    stages = set(re.findall(r" AS (\w+)$", text, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"${BASE_IMAGE}", *stages}


def test_a_base_without_a_digest_is_refused():
    ended = subprocess.run(
        [str(IMAGES / "build"), "airflow"],
        env={**os.environ, "BASE_IMAGE": "docker.io/library/python:3.11"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "BASE_IMAGE=docker.io/library/python:3.11 names no digest" in ended.stderr


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(REPOSITORY)))
def test_every_locked_package_has_its_hash(lock: Path):
    blocks = re.split(r"^(?=[a-zA-Z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize(
    "file", [REPOSITORY / "Makefile", *DOCKERFILES], ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_uv_and_all_that_it_installs_come_by_hash(file: Path):
    installs = re.findall(r"^.*\b(?:pip install|pip sync)\b.*$", file.read_text(), re.MULTILINE)
    from_an_index = [line for line in installs if "--no-deps" not in line]
    assert len(from_an_index) >= 3
    assert [line for line in from_an_index if "--require-hashes" not in line] == []


# What is inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's file system as far as it is read: two packages of Debian's, and this environment's Python packages."""
    files = {
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "var/lib/dpkg/status": (
            "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u13\n"
            "Description: two\n lines\n\n"
            "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
            "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.15-2+b8\n"
        ),
        "usr/share/doc/libc6/copyright": "the text is in /usr/share/common-licenses/LGPL-2.1.",
        "usr/share/doc/bash/copyright": (
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-3+\n"
            " text\n\nLicense: MIT\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    site = tmp_path / "opt/venv/lib/python3.11/site-packages"
    site.parent.mkdir(parents=True)
    site.symlink_to(SITE)
    return tmp_path


def test_the_list_is_valid_cyclonedx_and_the_same_each_time(root: Path, tmp_path: Path):
    written = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        sbom.main("featurise/airflow", "v1-2-gabc", folder, root)
        written.append([(folder / name).read_bytes() for name in ("sbom.cdx.json", "licences.tsv")])
    assert written[0] == written[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written[0][0].decode()) is None
    found = json.loads(written[0][0])
    assert found["metadata"]["component"] == {
        "type": "container",
        "name": "featurise/airflow",
        "version": "v1-2-gabc",
    }
    by_purl = {one.get("purl"): one for one in found["components"]}
    libc = by_purl["pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12"]
    assert libc["licenses"] == [{"license": {"name": "LGPL-2.1"}}]
    assert not any("gone" in (purl or "") for purl in by_purl)
    assert any(re.fullmatch(r"pkg:pypi/pydantic-core@[\d.]+", purl or "") for purl in by_purl)


def test_every_package_has_a_row_with_its_licences(root: Path, tmp_path: Path):
    sbom.main("featurise/airflow", "v1", tmp_path, root)
    head, *rows = [line.split("\t") for line in (tmp_path / "licences.tsv").read_text().splitlines()]
    assert head == ["kind", "package", "version", "licences"]
    assert ["debian", "bash", "5.2.15-2+b8", "GPL-3+; MIT"] in rows
    assert all(len(row) == 4 and all(row) for row in rows)
    assert {row[1] for row in rows if row[0] == "python"} >= {"apache-airflow", "featurise", "featurise-extractor"}


def test_our_own_packages_name_no_place_on_an_index(root: Path):
    ours = {package.name: package.purl for package in sbom.python(root / "opt/venv/lib/python3.11/site-packages")}
    assert ours["featurise"] is ours["featurise-extractor"] is None
    assert ours["boto3"] is not None


@pytest.mark.parametrize(
    ("stated", "licences"),
    [
        (f"License-Expression: {' AND '.join(['MIT'] * 40)}", (" AND ".join(["MIT"] * 40),)),
        ("License: Apache 2.0\nClassifier: License :: OSI Approved :: MIT License", ("Apache 2.0",)),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", ("MIT License",)),
        (f"License: {'the whole text ' * 9}\nClassifier: License :: OSI Approved :: ISC", ("ISC",)),
    ],
)
def test_a_licence_is_what_the_metadata_states(tmp_path: Path, stated: str, licences: tuple[str, ...]):
    folder = tmp_path / "some-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: some\nVersion: 1\n{stated}\n")
    assert [package.licences for package in sbom.python(tmp_path)] == [licences]


def test_a_package_without_a_licence_stops_the_build(tmp_path: Path):
    folder = tmp_path / "odd-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\nLicense: UNKNOWN\n")
    with pytest.raises(sbom.LicenceUnknown, match=r"odd 1: its metadata names no licence; find it"):
        list(sbom.python(tmp_path))


# Known advisories


class OSV(BaseHTTPRequestHandler):
    """osv.dev as far as pip-audit asks it: one package and version for a question."""

    asked: ClassVar[list[str]] = []
    status: ClassVar[int] = 200

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name, answer = question["package"]["name"], {}
        self.asked.append(f"{name}=={question['version']}")
        if name == "jinja2":
            versions = {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.9"}]}
            affected = [{"package": question["package"], "ranges": [versions]}]
            answer = {"vulns": [{"id": "GHSA-0000", "aliases": ["CVE-2000-1"], "summary": "s", "affected": affected}]}
        body = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(OSV, "asked", [])
    monkeypatch.setattr(OSV, "status", 200)
    server = ThreadingHTTPServer(("127.0.0.1", 0), OSV)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of two packages, one of which the service knows something about."""
    wanted = {"jinja2", "markupsafe"}
    blocks = re.split(r"^(?=[a-z0-9])", (REPOSITORY / "requirements.lock").read_text(), flags=re.MULTILINE)
    file = tmp_path / "two.lock"
    file.write_text("".join(block for block in blocks if block.split("==")[0] in wanted))
    return file


Accept = Callable[..., Path]


@pytest.fixture
def accept(tmp_path: Path) -> Accept:
    def accept(**fields: str) -> Path:
        file = tmp_path / "audit.toml"
        lines = [f"{name} = {value if name == 'until' else json.dumps(value)}" for name, value in fields.items()]
        file.write_text("\n".join(["[[accepted]]", *lines]) if fields else "accepted = []")
        return file

    return accept


FOUND = [audit.Advisory("jinja2", "3.1.6", ("CVE-2000-1", "GHSA-0000"), (), "requirements.lock")]
TODAY = datetime.date(2026, 11, 27)


def faults(**fields: Any) -> list[str]:
    accepted = {
        "package": "jinja2",
        "id": "GHSA-0000",
        "until": "2026-11-27",
        "why": "templates here are our own files",
    }
    return list(audit.faults(FOUND, [audit.Accepted.model_validate(accepted | fields)], TODAY))


@pytest.mark.parametrize("name", ["GHSA-0000", "CVE-2000-1"])
def test_an_advisory_that_is_accepted_with_a_reason_is_no_fault(name: str):
    assert faults(id=name) == []


def test_one_whose_day_has_passed_is_one_again():
    (told,) = faults(until="2026-11-26")
    assert "no version without it yet: accepted until 2026-11-26, which has passed: look again at" in told


def test_what_applies_to_nothing_is_to_be_removed():
    advisory, unused = faults(package="markupsafe")
    assert "accept it in audit.toml with a reason" in advisory
    assert unused == "markupsafe: GHSA-0000 is accepted in audit.toml and applies to nothing here: remove it"


@pytest.mark.parametrize("why", ["", "later"])
def test_a_reason_is_needed(service: str, lock: Path, accept: Accept, why: str):
    accepted = accept(id="GHSA-0000", package="jinja2", until="2999-01-01", why=why)
    assert audit.main([lock], service, accepted) == audit.UNUSABLE
    assert OSV.asked == []


@pytest.mark.parametrize("status", [None, 500, 404])
def test_a_service_that_gives_no_answer_is_no_clean_audit(service: str, lock: Path, accept: Accept, capsys, status):
    if status is None:
        service = "http://127.0.0.1:9/v1/query"  # the port `discard`, where nobody listens
    else:
        OSV.status = status
    assert audit.main([lock], service, accept()) == audit.NOT_REACHED
    said = capsys.readouterr()
    assert said.err.startswith(f"NOT AUDITED: the advisory service {service} gave no answer")
    assert said.out == ""


def test_the_kept_list_can_be_read_and_the_audit_asks_about_all_that_ships():
    assert audit._List.model_validate(audit.tomllib.loads(audit.ACCEPTED.read_text()))
    audited = {pin for lock in audit.LOCKS for pin in pins(REPOSITORY / lock)}
    assert {pin for lock in LOCKS for pin in pins(lock)} <= audited


def pins(lock: Path) -> set[str]:
    return set(re.findall(r"^[a-z0-9._-]+==[^ ;]+", lock.read_text(), re.MULTILINE))


def test_make_audit_is_no_part_of_make_test():
    said = subprocess.run(["make", "--dry-run", "audit"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "images/audit.py" in said.stdout
    whole = subprocess.run(["make", "--dry-run", "test"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "audit.py" not in whole.stdout
