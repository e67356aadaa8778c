"""Podman over the layers that `images/build` keeps, and containers as locked down as a pod."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
IMAGES = sorted((REPOSITORY / "tests" / "golden" / "images").glob("*.jpg"), key=lambda file: file.stat().st_size)[:2]
MEMORY = "8g"


@dataclass(frozen=True)
class Podman:
    """Podman over the layers that images/build keeps."""

    storage: Path

    def argv(self, *arguments: str) -> list[str]:
        root = ("--root", str(self.storage / "storage"), "--runroot", "/run/featurise-containers")
        return ["podman", "--runtime", "runc", *root, *arguments]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*arguments), capture_output=True, text=True, check=False)

    def as_a_pod(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """The command of a container as locked down as the pod template's.

        Podman would give the image's user a name, which Kubernetes does not.
        """
        return self.argv(
            *("run", "--rm", "--passwd=false", "--network=host", "--read-only", "--cap-drop=all"),
            "--security-opt=no-new-privileges",
            *("--tmpfs=/tmp:mode=1777", "--tmpfs=/scratch:mode=1777", "--env=TMPDIR=/scratch", "--env=HOME=/tmp"),
            *("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", f"--memory={MEMORY}"),
            *options,
            image,
            *arguments,
        )
