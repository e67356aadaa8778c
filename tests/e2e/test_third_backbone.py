"""A backbone that no line of shared code knows: installed, declared, and run through a night."""

import io
from typing import Any

import h5py

FIRST = "2026-11-02"
DAG = "third__tiny"


def test_a_third_backbone_is_a_package_and_a_few_lines_of_the_declaration(
    installation: Any, image: bytes, photo: bytes
) -> None:
    installation.put("third", FIRST, tiny_png=image, flower_jpg=photo, torn_jpg=photo[: len(photo) // 3])
    run = installation.night(DAG, FIRST)
    assert installation.api.run(DAG, run)["state"] == "success", installation.explain(DAG, run)

    assert {row["image_id"]: row["boxes"] for row in installation.images("third")} == {"tiny": 4, "flower": 4}
    assert [row["reason"] for row in installation.rejects("third")] == ["truncated"]
    (uri,) = (key for key in installation.objects("features/third/tiny/") if key.endswith(".h5"))
    with h5py.File(io.BytesIO(installation.read(f"s3://featurise/{uri}"))) as file:
        assert file.attrs["backbone"] == "tiny"
        assert file.attrs["synthetic"]
        found = {name: data.shape for name, data in file["flower"].items()}
    assert found["features"] == (4, 32)
    assert found["cls_prob"] == (4, 20)
    assert "attr_id" not in found
