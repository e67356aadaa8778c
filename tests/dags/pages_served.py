"""The monitoring pages as a server of their own, and what somebody with a role gets from it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from featurise_demo import embedded, processes


@dataclass(frozen=True)
class Pages:
    """The pages' server, its registry, and a token for each role."""

    url: str
    registry: str
    tokens: dict[str, str]

    def get(self, path: str, role: str | None = "viewer", **headers: str) -> httpx.Response:
        """A page, as somebody with this role sees it."""
        return httpx.get(f"{self.url}{path}", headers=self.by(role) | headers, timeout=60)

    def post(self, path: str, role: str | None, /, origin: str | None = None, **form: str) -> httpx.Response:
        """Send a form."""
        sent = {} if origin is None else {"Origin": origin}
        return httpx.post(f"{self.url}{path}", data=form, headers=self.by(role) | sent, timeout=60)

    def by(self, role: str | None) -> dict[str, str]:
        """The header that says who asks."""
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}


@contextmanager
def served(home: Path, registry: str, declaration: str, run: str = "run-1") -> Iterator[Pages]:
    """The pages on a registry, until the block ends; Airflow's own database is in `home`, and knows this run."""
    port = embedded.free_ports(1)[0]
    (home / "featurise.yaml").write_text(declaration)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FEATURISE"))}
    ours = {"AIRFLOW_HOME": str(home), "FEATURISE_REGISTRY": registry}
    ours |= {"FEATURISE_DECLARATION": str(home / "featurise.yaml"), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    ours["FEATURISE_POD_URL"] = "https://dashboard.example/pods/{pod}"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("pages_server.py")), str(port), run],
        env={**clean, **ours},
        stdout=subprocess.PIPE,
        stderr=(home / "stderr").open("w"),
        text=True,
        cwd=home,
    )
    try:
        assert process.stdout is not None
        told = next((line for line in process.stdout if line.startswith("{")), "")
        assert told, (home / "stderr").read_text()[-3000:]
        found = Pages(f"http://127.0.0.1:{port}/featurise", registry, json.loads(told))
        processes.wait_until(lambda: _answers(found.url), 120, "the pages to answer")
        yield found
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/", timeout=60).status_code == 401
    except httpx.HTTPError:
        return False
