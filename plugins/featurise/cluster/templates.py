"""The pod templates of the backbones, and fields of them that would be lost without a word.

A client of Kubernetes keeps the fields that its version knows; what it does not know, and what is misspelt, is dropped
from the pod that it asks for.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from featurise.errors import FeaturiseError
from featurise.settings import settings


class TemplateBroken(FeaturiseError):
    """Raised when a pod template is no pod, or has fields that would be lost."""


def path(backbone: str) -> Path:
    """Where a backbone's template is."""
    return settings().pod_templates / f"{backbone}.yaml"


def check(file: Path) -> None:
    """Raises TemplateBroken unless every field of a template reaches the cluster."""
    try:
        written = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise TemplateBroken(f"the pod template {file} cannot be read: {error}") from error
    if not isinstance(written, dict) or written.get("kind") != "Pod":
        raise TemplateBroken(f"{file} is no pod template: expected a manifest with kind: Pod")
    try:
        fields = lost(written)
    except (ValueError, TypeError) as error:  # what must be there is not, or is of another kind
        raise TemplateBroken(f"the pod template {file} is no pod that Kubernetes takes: {error}") from error
    if fields:
        from importlib.metadata import version

        raise TemplateBroken(
            f"the pod template {file} has fields that would be lost, since Kubernetes' client {version('kubernetes')} "
            f"does not know them: {', '.join(fields)}; look how they are spelt, or leave them out"
        )


def mistakes(backbones: Iterable[str]) -> list[str]:
    """What is wrong with the templates of these backbones that there are."""
    found = []
    for backbone in sorted(set(backbones)):
        if path(backbone).exists():
            try:
                check(path(backbone))
            except TemplateBroken as error:
                found.append(str(error))
    return found


def lost(written: dict[str, Any]) -> list[str]:
    """The paths of fields that the client drops, such as `spec.containers[0].nodeselector`."""
    from kubernetes import client

    api = client.ApiClient(client.Configuration())
    kept = api.deserialize(SimpleNamespace(data=json.dumps(written, default=str)), "V1Pod")
    return [*_missing(written, api.sanitize_for_serialization(kept), "")]


def _missing(written: Any, kept: Any, above: str) -> Iterator[str]:
    if isinstance(written, dict):
        for name, value in written.items():
            here = f"{above}.{name}" if above else str(name)
            if value is None:
                continue
            if not isinstance(kept, dict) or name not in kept:
                yield here
            else:
                yield from _missing(value, kept[name], here)
    elif isinstance(written, list):
        for index, value in enumerate(written):
            yield from _missing(value, kept[index] if isinstance(kept, list) else None, f"{above}[{index}]")
