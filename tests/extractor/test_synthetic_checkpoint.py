"""Synthetic weights whose confidences are spread as those of the trained network, whose figures stand here."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import resnet101_detectron2.synthetic
import resnext101_mmf.synthetic
from extractor.tools import synthetic_checkpoint, synthetic_tensors
from extractor.tools.synthetic_checkpoint import Recipe
from extractor.tools.synthetic_tensors import State

MADE = {"resnet101": resnet101_detectron2.synthetic, "resnext101": resnext101_mmf.synthetic}
GOLDEN = Path(__file__).parents[1] / "golden"
HEADS = ("predictor.cls_score.", "predictor.cls_embedding.", "predictor.fc_attr.", "predictor.attr_score.", "fc7.")
QUANTILES = (1, 50, 99)
TRAINED_OBJECTS, TRAINED_ATTRIBUTES = (0.091, 0.379, 0.907), (0.015, 0.157, 0.677)
"""Of 360 boxes of ten COCO images by the trained Caffe network, 36 an image."""


def heads(backbone: str) -> State:
    network = MADE[backbone]
    keys = [key for key in network.listed() if any(part in key[0] for part in HEADS)]
    made = synthetic_tensors.state(keys, network.GAINS, network.OWN, seed=0)
    return {key.split("predictor.")[-1].split("extractor.")[-1]: value for key, value in made.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def confidences(backbone: str, tensors: State) -> tuple[np.ndarray, np.ndarray | None]:
    """Object and attribute confidences of the golden images' 36 best rows, from their features."""
    names = sorted(path for path in (GOLDEN / backbone).glob("*.npz") if "intermediate" not in path.stem)
    features = np.concatenate([np.load(path)["features"][:36] for path in names])
    if backbone == "resnext101":
        features = np.maximum(features @ tensors["fc7.weight"].T + tensors["fc7.bias"], 0)
        logits = features @ tensors["cls_score.weight"].T + tensors["cls_score.bias"]
        return softmax(logits)[:, 1:].max(axis=1), None
    logits = features @ tensors["cls_score.weight"].T + tensors["cls_score.bias"]
    embedded = tensors["cls_embedding.weight"][logits.argmax(axis=1)]
    hidden = np.hstack([features, embedded]) @ tensors["fc_attr.weight"].T + tensors["fc_attr.bias"]
    attributes = np.maximum(hidden, 0) @ tensors["attr_score.weight"].T + tensors["attr_score.bias"]
    return softmax(logits)[:, :1600].max(axis=1), softmax(attributes[:, :400]).max(axis=1)


def log_odds(share: np.ndarray) -> np.ndarray:
    return np.log(share / (1 - np.asarray(share)))


@pytest.mark.parametrize("backbone", MADE)
def test_spread_weights_have_the_confidences_of_trained_ones(backbone) -> None:
    tensors = heads(backbone)
    before, _ = confidences(backbone, tensors)
    renamed = {f"predictor.{key}": value for key, value in tensors.items()}
    synthetic_tensors.spread_scores(renamed, MADE[backbone].SPREAD, MADE[backbone].BACKGROUND, seed=0)
    objects, attributes = confidences(backbone, {key.removeprefix("predictor."): v for key, v in renamed.items()})

    def miss(found: np.ndarray, trained: tuple[float, ...]) -> float:
        return float(np.abs(log_odds(np.percentile(found, QUANTILES)) - log_odds(np.array(trained))).max())

    assert miss(objects, TRAINED_OBJECTS) < 1.2
    assert miss(before, TRAINED_OBJECTS) > 1.5
    if attributes is not None:
        assert miss(attributes, TRAINED_ATTRIBUTES) < 1.2


def test_two_may_make_the_same_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, replace = threading.Barrier(2), Path.replace

    def at_once(path: Path, final: Path) -> Path:
        both.wait(60)
        return replace(path, final)

    recipe = Recipe(lambda seed, *, spread: {"weight": np.zeros(3, np.float32)}, lambda named: b"weights")
    monkeypatch.setattr(synthetic_checkpoint, "recipe", lambda _: recipe)
    monkeypatch.setattr(Path, "replace", at_once)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda path: synthetic_checkpoint.make("resnet101", path), [tmp_path / "new" / "it"] * 2))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["it"]
