"""The declaration: one YAML file that says which datasets run under which backbones.

    defaults:                      # any field of a dataset; each dataset's own hold over these
      bucket: ${FEATURISE_BUCKET}
      start_date: 2026-11-01
    backbones:
      resnet101:                   # fields of a backbone: weights, boxes, precision, cls_prob, launcher, limits
        weights:
          uri: s3://models/resnet101/
          sha256: ${RESNET101_SHA256}
    datasets:
      flickr30k:
        schedule: {cron: "0 2 * * *", timezone: Europe/Berlin}
        backbones: [resnet101]     # or a mapping: {resnet101: {precision: bf16}}

A mistake in one dataset breaks that dataset; the others' feature sets are returned.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from extractor.core.backbone_specs import specs
from extractor.core.bounded_yaml import YamlRefused
from extractor.core.redact import fit
from featurise.declaration import former_names, places, yaml_lines
from featurise.declaration.feature_set import FeatureSetSpec
from featurise.declaration.yaml_lines import Document, InvalidYaml, VariableMissing

TOP = ("defaults", "backbones", "datasets")


class Broken(BaseModel):
    """What is wrong with one dataset, one of its backbones, or (without a dataset) the whole file."""

    model_config = ConfigDict(frozen=True)

    dataset: str | None = None
    backbone: str | None = None
    message: Annotated[str, AfterValidator(fit)]


def load(path: Path) -> list[FeatureSetSpec | Broken]:
    """Every feature set that the file declares, and every mistake in it."""
    try:
        document = Document(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [
            Broken(message=f"{path}: cannot be read ({error.strerror}); set FEATURISE_DECLARATION to the declaration")
        ]
    except UnicodeDecodeError as error:
        found = f"found the byte {error.object[error.start]:#04x} at offset {error.start}"
        return [Broken(message=f"{path}: not UTF-8 text: {found}; save the file as UTF-8")]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        return [
            Broken(message=f"{where}: not YAML: {getattr(error, 'problem', None) or error}; correct the file's syntax")
        ]
    except (InvalidYaml, YamlRefused) as error:
        return [Broken(message=f"{path}, line {error.line}: {error}")]
    except ValueError as error:  # PyYAML's own, of a date that no calendar has
        return [Broken(message=f"{path}: a value that looks like a date is none ({error}); correct or quote it")]
    wrong = _shape(path, document)
    if wrong:
        return [Broken(message=wrong)]
    specs: list[FeatureSetSpec | Broken] = []
    for name in document.data["datasets"]:
        specs += [_placed(path, document, one, specs) for one in _dataset(path, document, name)]
    return [*_unknown_backbones(path, document), *specs]


def _placed(
    path: Path, document: Document, one: FeatureSetSpec | Broken, earlier: Sequence[FeatureSetSpec | Broken]
) -> FeatureSetSpec | Broken:
    """A feature set whose places are its own; of two that would share one, the first in the file has it."""
    if isinstance(one, Broken):
        return one
    sound = [each for each in earlier if isinstance(each, FeatureSetSpec)]
    where = _declared_in(one.dataset, one.backbone)
    message = "\n".join(
        _located(path, document, where, tuple(field.split(".")), what)
        for field, what in (*places.within(one), *places.between(one, sound))
    )
    return Broken(dataset=one.dataset, backbone=one.backbone, message=message) if message else one


def _declared_in(dataset: str, backbone: str) -> tuple[yaml_lines.Path, ...]:
    """The sections that can declare a field of a feature set, the first that does having the last word."""
    return (
        ("datasets", dataset, "backbones", backbone),
        ("datasets", dataset),
        ("backbones", backbone),
        ("defaults",),
    )


def _shape(path: Path, document: Document) -> str | None:
    """What is wrong with the file as a whole."""
    data = document.data
    if not isinstance(data, Mapping) or not isinstance(data.get("datasets"), Mapping):
        return f"{path}, line 1: datasets: expected a mapping of names to datasets, found {_shown(data)}"
    for name, value in data.items():
        line, _ = document.line((name,))
        if name not in TOP:
            return f"{path}, line {line}: {name}: unknown field; expected one of {', '.join(TOP)}"
        if not isinstance(value, Mapping):
            return f"{path}, line {line}: {name}: expected a mapping, found {_shown(value)}"
    return None


def _unknown_backbones(path: Path, document: Document) -> Iterator[Broken]:
    for name in document.data.get("backbones", {}):
        if name not in specs():
            line, _ = document.line(("backbones", str(name)))
            what = f"unknown backbone; expected one of {', '.join(specs())}"
            yield Broken(message=f"{path}, line {line}: backbones.{name}: {what}")


def _dataset(path: Path, document: Document, name: Any) -> Iterator[FeatureSetSpec | Broken]:
    if not isinstance(name, str):
        line, _ = document.line(("datasets", str(name)))
        message = f"{path}, line {line}: datasets.{name}: expected a text name, found {name!r}; quote it"
        yield Broken(dataset=str(name), message=message)
        return
    declared = document.data["datasets"][name]
    if not isinstance(declared, Mapping):
        line, _ = document.line(("datasets", name))
        yield Broken(
            dataset=name, message=f"{path}, line {line}: datasets.{name}: expected a mapping, found {_shown(declared)}"
        )
        return
    chosen = declared.get("backbones", document.data.get("defaults", {}).get("backbones"))
    if not isinstance(chosen, Mapping | list) or not chosen:
        line, _ = document.line(("datasets", name, "backbones"))
        found = f"found {_shown(chosen)}"
        message = f"{path}, line {line}: datasets.{name}.backbones: expected a list of backbones, {found}"
        yield Broken(dataset=name, message=message)
        return
    if isinstance(chosen, list):
        chosen = {str(backbone): {} for backbone in chosen}
    for backbone, own in chosen.items():
        yield _spec(path, document, name, str(backbone), own or {})


def _spec(path: Path, document: Document, dataset: str, backbone: str, own: Any) -> FeatureSetSpec | Broken:
    sections = _declared_in(dataset, backbone)
    data: Any = {}
    layers = (
        document.data.get("defaults", {}),
        document.data.get("backbones", {}).get(backbone, {}),
        document.data["datasets"][dataset],
        own,
    )
    try:
        for layer in layers:
            # Before they are merged: what a dataset says holds over the defaults, under whichever name.
            data = yaml_lines.merged(data, former_names.replaced(layer))
        if not isinstance(data, Mapping):
            raise TypeError(f"expected a mapping, found {_shown(data)}")
        fields = {key: value for key, value in data.items() if key != "backbones"}
        return FeatureSetSpec.model_validate(
            {**yaml_lines.substituted(fields), "dataset": dataset, "backbone": backbone}
        )
    except VariableMissing as error:
        what = f"expected a value from the environment, found that {error.name} is not set; export {error.name}"
        message = _located(path, document, sections, error.path, what)
    except ValidationError as error:
        message = "\n".join(
            _located(path, document, sections, found["loc"], _expected(found, data)) for found in error.errors()
        )
    except (TypeError, ValueError) as error:
        message = _located(path, document, sections, (), str(error))
    return Broken(dataset=dataset, backbone=backbone, message=message)


def _expected(error: ErrorDetails, data: Any) -> str:
    """What is wrong with a field, in the declaration's own words: what a `${NAME}` stands for may be a secret."""
    if error["type"] == "missing":
        return "required and not declared"
    found = yaml_lines.declared(data, error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown field, found {_shown(found)}; expected one of {', '.join(_siblings(error['loc']))}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = yaml_lines.unsubstituted(message, found)
    return message if isinstance(found, Mapping) or found is None else f"{message}, found {_shown(found)}"


def _siblings(field: yaml_lines.Path) -> list[str]:
    """The fields that a dataset, or the section of it that a field stands in, can have."""
    section: Any = FeatureSetSpec
    for step in field[:-1]:
        section = section.model_fields[step].annotation
    # A dataset's name is its key, and so is a backbone's.
    return [name for name in section.model_fields if name not in {"dataset", "backbone"}]


def _located(
    path: Path, document: Document, sections: tuple[yaml_lines.Path, ...], field: yaml_lines.Path, what: str
) -> str:
    """A message with file, line and field: the place that declares most of the field's path, else the dataset's."""
    if field == ("backbone",):
        sections, field = (sections[0][:-1], sections[0][:-1]), sections[0][-1:]
    line, depth, place = 0, -1, sections[1]
    for candidate in sections:
        at, steps = document.line((*candidate, *field))
        below = steps - len(candidate)
        if below > depth and (below > 0 or candidate == sections[1]):
            line, depth, place = at, below, candidate
    user = "" if place[0] == "datasets" else f" (used by {'.'.join(map(str, sections[0]))})"
    return f"{path}, line {line}: {'.'.join(map(str, (*place, *field)))}: {what}{user}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]
