"""An object store with images and a synthetic checkpoint, and images built from this checkout."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from containers import IMAGES, REPOSITORY, Podman
from extractor.core import storage
from featurise_demo.embedded import ObjectStore, object_store
from featurise_demo.state import EXTRACTOR
from featurise_demo.weights import provide

MISSING = "podman and runc are not here (apt-get install podman runc debootstrap), so the images are not tested"


@pytest.fixture(scope="session")
def podman() -> Podman:
    if not (shutil.which("podman") and shutil.which("runc")):
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return Podman(Path(os.environ.get("STORAGE", REPOSITORY / ".cache" / "containers")))


@pytest.fixture(scope="session")
def image(podman: Podman) -> Callable[[str], str]:
    """The name of an image, built from the checkout as it is, once."""

    @cache
    def build(name: str) -> str:
        # Debian's mirror is what every machine that runs the tests has; a registry of images need not be.
        environment = {"BASE_IMAGE": "debootstrap", **os.environ}
        subprocess.run([str(REPOSITORY / "images" / "build"), name], check=True, env=environment)
        return f"localhost/featurise/{name}:dev"

    return build


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("seaweedfs")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        storage.client.cache_clear()
        storage.client().create_bucket(Bucket="images")
        for file in IMAGES:
            storage.write_bytes(f"s3://images/images/{file.name}", file.read_bytes())
        yield running
        storage.client.cache_clear()


@pytest.fixture(scope="session")
def weights(store: ObjectStore) -> Callable[[str], str]:
    """The address of a backbone's synthetic checkpoint, made once."""

    @cache
    def make(backbone: str) -> str:
        checkpoints = provide(REPOSITORY / ".cache" / "weights", EXTRACTOR, print)
        path = next(found.path for found in checkpoints if found.backbone == backbone)
        uri = f"s3://images/weights/{path.name}"
        storage.upload(path, uri)
        return uri

    return make
