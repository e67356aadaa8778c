"""Without a cluster, the command says exactly what is missing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import namespace
import needs

HERE = Path(__file__).parent
BARE = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE)], env={**BARE, **variables}, capture_output=True, text=True, check=False
    )


def kubeconfig(folder: Path, port: int) -> Path:
    file = folder / "kubeconfig"
    file.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, users: [{name: a, user: {}}],"
        f" clusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{port}'}}}}],"
        " contexts: [{name: a, context: {cluster: a, user: a}}]}"
    )
    return file


@contextmanager
def api_server(status: int, review: dict[str, Any], asked: list[dict[str, Any]]) -> Iterator[int]:
    """Tells anyone its version, and answers each question after a right with `status` and `review`; gives its port."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = ("buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "major", "minor")
            self._answer(200, dict.fromkeys([*names, "platform"], "1"))

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["spec"]["resourceAttributes"])
            self._answer(status, review)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, code: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def test_everything_that_is_missing_is_named_at_once() -> None:
    said = run()

    assert said.returncode == 2
    for name in ("KUBECONFIG", "IMAGE", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert f"{name} is not set" in said.stdout


def test_what_is_there_is_tried(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}

    said = run(KUBECONFIG=str(kubeconfig(tmp_path, 9)), IMAGE="registry.example/x:1", S3_ENDPOINT=nowhere, **secrets)

    assert said.returncode == 2
    assert "does not answer" in said.stdout
    assert f"the object store does not answer at {nowhere}" in said.stdout
    assert "is not set" not in said.stdout


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no such file" in run(KUBECONFIG=str(tmp_path / "none")).stdout


def test_a_cluster_that_does_not_know_its_user(tmp_path: Path) -> None:
    with api_server(403, {"kind": "Status", "code": 403, "reason": "Forbidden"}, []) as port:
        said = run(KUBECONFIG=str(kubeconfig(tmp_path, port)))

    assert said.returncode == 2, said.stderr
    assert "does not say what its user may do: 403 Forbidden; expected are credentials that it knows" in said.stdout


def test_all_rights_that_lack_are_named(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    with api_server(201, {"spec": {}, "status": {"allowed": False}}, asked) as port:
        said = run(KUBECONFIG=str(kubeconfig(tmp_path, port)))

    line = next(line for line in said.stdout.splitlines() if "may not:" in line)
    for right in ("create configmaps", "create serviceaccounts/token", "get namespaces", "delete pods", "get pods/log"):
        assert right in line.partition("may not: ")[2].split(", ")
    assert {"verb": "get", "group": "", "resource": "pods", "subresource": "log", "namespace": ""} in asked


def test_the_rights_are_enough_to_grant_the_launcher_s(tmp_path: Path) -> None:
    given = {"KUBECONFIG": str(tmp_path), "IMAGE": "registry.example/x:1", "S3_ENDPOINT": "http://10.0.0.5:8333"}
    objects = namespace.rendered("featurise-test", needs.read(given))

    rules = next(each["rules"] for each in objects if each["kind"] == "Role")
    held = {(verb, resource) for verbs, _, resource in needs.RIGHTS for verb in verbs.split()}
    assert {(verb, kind) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]} <= held


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"S3_ENDPOINT": "10.0.0.5:8333"}, "S3_ENDPOINT=10.0.0.5:8333 is not the URL of an S3 endpoint: expected http"),
        ({"S3_ENDPOINT": "http://a", "S3_ENDPOINT_HERE": "localhost"}, "S3_ENDPOINT_HERE=localhost is not the URL"),
        ({"S3_ENDPOINT": "http://my!host"}, "the object store does not answer at http://my!host: Invalid endpoint"),
        ({"TIMEOUT_MINUTES": "an hour"}, "TIMEOUT_MINUTES=an hour: expected a whole number of minutes"),
        ({"TIMEOUT_MINUTES": "0"}, "TIMEOUT_MINUTES=0: expected a whole number of minutes"),
    ],
)
def test_what_is_given_in_a_wrong_form(variables: dict[str, str], says: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}

    said = run(**keys, **variables)

    assert said.returncode == 2, said.stderr
    assert says in said.stdout


def test_pods_are_given_the_token_of_temporary_keys() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}

    assert needs.credentials({**keys, "PATH": "/bin"}) == keys
    assert needs.credentials({**keys, "AWS_SESSION_TOKEN": "c"}) == {**keys, "AWS_SESSION_TOKEN": "c"}
