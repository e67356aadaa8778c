"""Rendering this chart by Helm's own engine, with a chart of Airflow in it or without one."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm" / "featurise"
Json = dict[str, Any]


def merged(base: Json, changes: Json) -> Json:
    """`changes` laid over `base`, level by level, as Helm does it."""
    both = {key: merged(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return {**base, **changes, **both}


@contextmanager
def umbrella(airflow: Path) -> Iterator[Path]:
    """This chart with Airflow's, an archive or a folder, as `helm dependency build` leaves them."""
    with tempfile.TemporaryDirectory(prefix="featurise-") as name:
        chart = shutil.copytree(CHART, Path(name) / "featurise")
        shutil.rmtree(chart / "charts", ignore_errors=True)
        (chart / "charts").mkdir()
        if airflow.is_dir():
            shutil.copytree(airflow, chart / "charts" / "airflow")
        else:
            shutil.copy(airflow, chart / "charts" / airflow.name)
        yield chart


def rendered(values: Json, release: str = "night", *, chart: Path = CHART, revision: int = 1) -> list[Json]:
    """The objects that an installation, or a later revision of it, consists of.

    Raises helm_python.errors.HelmError.
    """
    with Chart.load(chart) as loaded:
        files = loaded.render(
            values=values,
            name=release,
            namespace="featurise",
            revision=revision,
            is_install=revision == 1,
            is_upgrade=revision > 1,
        )
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def one(objects: list[Json], kind: str, name: str) -> Json:
    """The object of that kind and name."""
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


def pods(objects: list[Json]) -> Iterator[tuple[str, Json]]:
    """The specs of all pods that come of these objects, each with whose it is; pod templates in ConfigMaps, too."""
    for each in objects:
        name, kind, spec = f"{each['kind']} {each['metadata']['name']}", each["kind"], each.get("spec") or {}
        if kind == "Pod":
            yield name, spec
        elif kind == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
        elif kind == "ConfigMap":
            for key, text in (each.get("data") or {}).items():
                if "kind: Pod" in text:
                    yield f"{name}, {key}", yaml.safe_load(text)["spec"]
        elif isinstance(spec.get("template"), dict) and "spec" in spec["template"]:
            yield name, spec["template"]["spec"]
