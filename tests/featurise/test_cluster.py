"""Pod templates whose fields would be lost are refused by name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from featurise.cluster import templates
from featurise.settings import settings


def template(**spec: Any) -> dict[str, Any]:
    base = {"name": "base", "image": "a", "resources": {"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}}
    whole = {"containers": [base], "volumes": [{"name": "a", "emptyDir": {}}], "nodeSelector": None, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "labels": {"a": "b"}}, "spec": whole}


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, []),
        ({"nodeselector": {"gpu": "h100"}}, ["spec.nodeselector"]),
        ({"volumes": [{"name": "a", "emptyDir": {"sizelimit": "1Gi"}}]}, ["spec.volumes[0].emptyDir.sizelimit"]),
        ({"containers": [{"name": "a", "workingdir": "/"}]}, ["spec.containers[0].workingdir"]),
        ({"fieldOfTomorrow": {"name": "a"}, "hostUsers": False}, ["spec.fieldOfTomorrow"]),
    ],
)  # fmt: skip
def test_what_the_client_would_drop_is_found(spec: dict[str, Any], fields: list[str]) -> None:
    assert templates.lost(template(**spec)) == fields


def test_a_template_is_refused_by_the_names_of_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURISE_POD_TEMPLATES", str(tmp_path))
    settings.cache_clear()
    (tmp_path / "resnet101.yaml").write_text(yaml.safe_dump(template(nodeselector={})))
    (tmp_path / "resnext101.yaml").write_text(yaml.safe_dump(template()))
    (tmp_path / "none.yaml").write_text("kind: Job")
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(template(containers=[{"name": "base", "env": [{}]}])))

    with pytest.raises(templates.TemplateBroken, match=r"would be lost.*spec\.nodeselector; look how"):
        templates.check(templates.path("resnet101"))
    with pytest.raises(templates.TemplateBroken, match="is no pod template"):
        templates.check(templates.path("none"))
    with pytest.raises(templates.TemplateBroken, match="`name`, must not be"):
        templates.check(templates.path("bare"))
    assert len(templates.mistakes(["resnet101", "resnext101", "elsewhere", "resnet101"])) == 1
    settings.cache_clear()
