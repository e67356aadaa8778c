"""Real servers for the control plane's tests, and a stand-in for the extractor that writes files of the contract."""

import base64
import dataclasses
import functools
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import sqlalchemy
from steps import NIGHTS, finish

from extractor.core import contract, manifest, storage
from extractor.core.backbone_specs import FeaturesDtype, GivenRule
from extractor.core.contract import Provenance, Regions
from extractor.core.given import of_image
from extractor.core.manifest import Entry, IndexEntry, Manifest, Reject, RejectReason
from extractor.core.thumbnails import Look, Thumbnail, Why
from extractor.pipeline.given import fetched, spread
from featurise.declaration.feature_set import Boxes, FeatureSetSpec, Weights
from featurise.declaration.run import Run
from featurise.declaration.run_options import RunOptions
from featurise.objects import layout
from featurise.registry import engine, schema
from featurise.settings import settings
from featurise.steps import extract as job
from featurise.steps import plan
from featurise.steps.discover import step as discover
from featurise.steps.discover.step import Discovered
from featurise.steps.plan import Shard
from featurise.steps.report import step as report
from featurise_demo import embedded

DAY = "2026-11-23"
SMALL = Path(__file__).parents[1] / "golden/images/chelsea_gray.jpg"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.ObjectStore]:
    """SeaweedFS, and the environment that points to it."""
    with embedded.object_store(tmp_path_factory.mktemp("store")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        storage.client.cache_clear()
        yield running
    storage.client.cache_clear()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    # Not in pytest's folder: it runs as a user of its own, whom another pytest that starts would shut out.
    with (
        tempfile.TemporaryDirectory(prefix="featurise-") as folder,
        embedded.postgres(Path(folder) / "data", durable=False) as url,
    ):
        yield url


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's file with its tables and no row, to be copied."""
    file = tmp_path_factory.mktemp("registry") / "empty.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def sqlite_with_tables(empty_sqlite: Path) -> Path:
    """The file that a test's registry is a copy of."""
    return empty_sqlite


@pytest.fixture(scope="session")
def postgresql_with_tables(server: str) -> str:
    """The name of a database with the registry's tables and no row, to be copied."""
    _migrate(_new_database(server, "template1", name="with_tables"))
    return "with_tables"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Which database the registry is in."""
    return str(request.param)


@pytest.fixture
def empty_registry(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, as the registry that the settings name."""
    if database == "sqlite":
        url = f"sqlite:///{tmp_path / 'registry.db'}"
    else:
        url = _new_database(request.getfixturevalue("server"), template="template1")
    yield from _named_by_the_settings(url)


@pytest.fixture
def registry(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A registry with its tables, on SQLite and on PostgreSQL: a copy of one that was migrated once."""
    template = request.getfixturevalue(f"{database}_with_tables")
    if database == "sqlite":
        url = f"sqlite:///{shutil.copy(template, tmp_path / 'registry.db')}"
    else:
        url = _new_database(request.getfixturevalue("server"), template)
    yield from _named_by_the_settings(url)


def _named_by_the_settings(url: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURISE_REGISTRY", url)
        settings.cache_clear()
        yield url
        engine.of(url).dispose()
    settings.cache_clear()


def _new_database(server: str, template: str, name: str | None = None) -> str:
    """The URL of a database of its own."""
    name = name or f"test_{uuid.uuid4().hex[:12]}"
    admin = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    admin.dispose()
    return server.replace("@/postgres?", f"@/{name}?")


def _migrate(url: str) -> None:
    database = engine.of(url)
    schema.migrate(database)
    database.dispose()  # what is copied has no connection


@pytest.fixture
def bucket(store: embedded.ObjectStore) -> Iterator[str]:
    """A fresh bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    storage.client().create_bucket(Bucket=name)
    yield name
    storage.client().delete_bucket(Bucket=name)


@pytest.fixture
def spec(bucket: str) -> FeatureSetSpec:
    """A dataset under `resnet101`, complete as soon as it is there."""
    return _spec(bucket)


def _spec(bucket: str) -> FeatureSetSpec:
    return FeatureSetSpec(
        dataset="birds",
        backbone="resnet101",
        bucket=bucket,
        start_date="2026-11-01",
        weights=Weights(uri=f"s3://{bucket}/models/resnet101/", sha256="a" * 64),
        ready={"settle_seconds": 0},
        images_per_shard=4,
    )


Upload = Callable[[Mapping[str, bytes]], None]


@pytest.fixture
def upload(spec: FeatureSetSpec) -> Upload:
    """Put images below the dataset's prefix; to the control plane an image is bytes."""

    return functools.partial(_upload, spec)


def _upload(spec: FeatureSetSpec, images: Mapping[str, bytes]) -> None:
    for name, data in images.items():
        storage.write_bytes(f"s3://{spec.bucket}/{spec.prefix}{name}", data)


def regions(data: bytes, *, rows: int = 36, width: int = 640, height: int = 480, attributes: bool = True) -> Regions:
    """What a detector might find: numbers that depend on the image's bytes alone."""
    random = np.random.default_rng(list(hashlib.sha256(data).digest()))
    corners = random.uniform(0, 1, (rows, 4)).astype(np.float32)
    boxes = np.stack(
        [
            corners[:, 0] * width / 2,
            corners[:, 1] * height / 2,
            width / 2 + corners[:, 2] * width / 2,
            height / 2 + corners[:, 3] * height / 2,
        ],
        axis=1,
    ).astype(np.float32)
    return Regions(
        features=random.gamma(1, 1, (rows, 2048)).astype(np.float32),
        boxes=boxes,
        obj_id=random.integers(0, 1600, rows),
        obj_conf=np.sort(random.uniform(0, 1, rows).astype(np.float32))[::-1],
        num_boxes=rows,
        img_w=width,
        img_h=height,
        attr_id=random.integers(0, 400, rows) if attributes else None,
        attr_conf=random.uniform(0.01, 1, rows).astype(np.float32) if attributes else None,
    )


def thumbnail(line: IndexEntry | Reject, why: Why, found: Regions | None = None) -> Thumbnail:
    """What the extractor would leave of an image, whatever its bytes; of one called `gone` only why there is none."""
    facts = {"image_id": line.image_id, "key": line.key, "why": why, "look": Look.of(found) if found else None}
    if line.image_id == "gone":
        return Thumbnail(**facts, left_out="it was listed and is gone")
    return Thumbnail(**facts, width=640, height=480, jpeg=base64.b64encode(SMALL.read_bytes()).decode())


@dataclasses.dataclass
class Extractor:
    """Does to a shard what `extractor run` does, without a detector: bytes that start with `bad` are no image."""

    folder: Path
    synthetic: bool = True
    made: list[str] = dataclasses.field(default_factory=list)
    """The keys that were featurised, in order: a key twice was extracted twice."""
    find: Callable[[bytes], Regions] = regions
    thumbnails: bool = True

    def __call__(self, spec: FeatureSetSpec, shard: Shard, batch: str) -> str:
        """Write a shard's file, index and rejects; returns the file's address."""
        planned = manifest.read(shard.manifest_uri)
        uri = job.output(shard)
        local = self.folder / f"{uuid.uuid4().hex}.h5"
        small: list[Thumbnail] = []
        reasons = iter((Why.TYPICAL, Why.CONFIDENT, Why.STRANGE))
        done: list[IndexEntry] = []
        rejects: list[Reject] = []
        owners: dict[str, IndexEntry] = {}
        with h5py.File(local, "w") as file:
            for entry in planned.entries:
                data = storage.read_bytes(planned.uri(entry))
                facts = entry.model_dump(include={"image_id", "key", "etag", "size"})
                sha256 = hashlib.sha256(data).hexdigest()
                owner = owners.get(entry.image_id)
                if data.startswith(b"bad"):
                    rejects.append(Reject(**facts, reason=RejectReason.NOT_AN_IMAGE, detail="starts with `bad`"))
                elif owner is not None and owner.sha256 != sha256:
                    rejects.append(Reject(**facts, reason=RejectReason.DUPLICATE_ID, detail=f"belongs to {owner.key}"))
                    small.append(thumbnail(rejects[-1], Why.REJECTED))
                else:
                    found, flagged = self._found(spec, planned, entry, data)
                    done.append(IndexEntry(**facts, sha256=sha256, boxes=found.num_boxes, flagged=flagged))
                    self.made.append(entry.key)
                    if Look.of(found) is not None and (why := next(reasons, None)) is not None:
                        small.append(thumbnail(done[-1], why, found))
                    if owner is None:
                        owners[entry.image_id] = done[-1]
                        contract.write_image(file, entry.image_id, found)
            contract.write_provenance(file, self._provenance(spec, batch, planned.sha256, len(done), len(rejects)))
        if self.thumbnails:
            storage.write_bytes(layout.thumbnails(uri), manifest.dump(small))
        storage.write_bytes(layout.index(uri), manifest.dump(done))
        storage.write_bytes(layout.rejects(uri), manifest.dump(rejects))
        storage.upload(local, uri)
        return uri

    def _found(self, spec: FeatureSetSpec, planned: Manifest, entry: Entry, data: bytes) -> tuple[Regions, int | None]:
        """An image's rows, and how many of its given boxes are none."""
        if not isinstance(spec.rule, GivenRule):
            found = self.find(data)
            half = spec.outputs.features_dtype is FeaturesDtype.FLOAT16
            return contract.halved(found) if half else found, None
        asked = of_image(fetched(planned, entry), 640, 480, spec.rule)
        found = spread(asked, regions(data + asked.sound.tobytes(), rows=len(asked.sound)))
        return found, int(np.count_nonzero(asked.flags))

    def _provenance(self, spec: FeatureSetSpec, batch: str, digest: str, images: int, rejects: int) -> Provenance:
        return Provenance(
            dataset=spec.dataset,
            batch=batch,
            backbone=spec.backbone,
            revision=spec.revision,
            weights_uri=spec.weights.uri,
            weights_sha256=str(spec.weights.sha256),
            synthetic=self.synthetic,
            extractor_version="0",
            git_commit="unknown",
            torch_version="none",
            device="cpu",
            precision=spec.precision.value,
            box_rule=json.dumps(spec.rule.model_dump(mode="json"), sort_keys=True),
            manifest_sha256=digest,
            images=images,
            rejects=rejects,
            created_at="2026-11-24T02:00:00+00:00",
        )


@pytest.fixture
def extract(tmp_path: Path) -> Extractor:
    """The stand-in for the extractor."""
    return Extractor(tmp_path)


Night = Callable[..., Discovered]
Give = Callable[..., None]


@pytest.fixture
def night(registry: str, spec: FeatureSetSpec, extract: Extractor) -> Night:
    """One whole run, as the DAG does it; returns what `discover` found."""

    def run(
        batch: str = DAY, run_id: str | None = None, options: RunOptions | None = None, of: FeatureSetSpec = spec
    ) -> Discovered:
        return _night(of, extract, batch, run_id or f"scheduled__{batch}", options or RunOptions())

    return run


def _night(spec: FeatureSetSpec, extract: Extractor, batch: str, run_id: str, options: RunOptions) -> Discovered:
    this = Run(options.applied(spec), batch, run_id)
    found = discover.run(this, options)
    for shard in plan.run(this, found, options):
        extract(this.spec, shard, batch)
        finish(this, shard)
    report.run(this)
    return found


@pytest.fixture(scope="session")
def featurised_once(
    store: embedded.ObjectStore, empty_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Mapping[str, Mapping[str, bytes]]], tuple[str, Path]]:
    """Featurise the images of some days, by id, for tests that do no more than read them: the bucket, and a registry's
    file to be copied."""

    def make(days: Mapping[str, Mapping[str, bytes]]) -> tuple[str, Path]:
        folder, spec = tmp_path_factory.mktemp("featurised"), _spec(f"test-{uuid.uuid4().hex[:12]}")
        storage.client().create_bucket(Bucket=spec.bucket)
        file = folder / "registry.db"
        shutil.copy(empty_sqlite, file)
        with contextmanager(_named_by_the_settings)(f"sqlite:///{file}"):
            for day, images in days.items():
                _upload(spec, {f"{day}/{name}.jpg": data for name, data in images.items()})
                _night(spec, Extractor(folder), day, f"scheduled__{day}", RunOptions())
        return spec.bucket, file

    return make


@pytest.fixture
def given(spec: FeatureSetSpec) -> FeatureSetSpec:
    """The same dataset with boxes that a file of annotations names."""
    boxes = Boxes(given=f"s3://{spec.bucket}/boxes.json", format="coco", coordinates="xywh")
    return spec.model_copy(update={"boxes": boxes})


@pytest.fixture
def give(spec: FeatureSetSpec) -> Give:
    """Put COCO-like annotations there: boxes (x, y, width, height) by image."""

    def put(**boxes: list[list[float]]) -> None:
        images = [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(boxes)]
        annotations = [
            {"id": 100 * number + row, "image_id": number, "bbox": box}
            for number, own in enumerate(boxes.values())
            for row, box in enumerate(own)
        ]
        data = json.dumps({"images": images, "annotations": annotations}).encode()
        storage.write_bytes(f"s3://{spec.bucket}/boxes.json", data)

    return put


@pytest.fixture
def featurised(upload, night) -> dict[str, bytes]:
    """Two nights' images by id, featurised."""
    for day, images in NIGHTS.items():
        upload({f"{day}/{name}.jpg": data for name, data in images.items()})
        night(day)
    return {name: data for images in NIGHTS.values() for name, data in images.items()}
