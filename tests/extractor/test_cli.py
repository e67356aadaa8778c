"""`extractor weights` and `extractor inspect`: what a person is told of a checkpoint and of a file."""

import hashlib

import pytest
from shards import picture

from extractor import cli

TENSORS = {
    # SHA-256 over names, shapes and values, as the reference generator of these checkpoints prints it for seed 0
    "resnet101": "1ca0d953ee22b945f450fd9593226ab1aa84d397683fa0af25fc7643f0c27837",
    "resnext101": "b2aefc29743819943cb1c39db72941d6bad177d09db838748579b99ad777e518",
}
FILES = {"resnet101": "faster_rcnn_from_caffe_attr.pkl", "resnext101": "detectron_model.pth"}


@pytest.fixture
def command(capsys):
    """Run a command; its exit code and all that it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return int(ended.value.code), captured.out + captured.err

    return run


@pytest.mark.parametrize("backbone", FILES)
def test_synthetic_checkpoint_is_made_and_recognised(command, tmp_path, backbone):
    path = tmp_path / FILES[backbone]
    code, text = command("weights", "make", backbone, path)
    assert (code, "synthetic" in text, TENSORS[backbone] in text) == (0, True, True)
    code, text = command("weights", "check", path)
    assert code == 0
    assert f"a {backbone} checkpoint, synthetic weights" in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text


def test_other_files_are_no_checkpoint(command, tmp_path):
    path = tmp_path / FILES["resnet101"]
    path.write_bytes(b"not a pickle")
    code, text = command("weights", "check", path)
    assert (code, str(path) in text) == (23, True)


def test_folder_without_a_checkpoint_is_named(command, tmp_path):
    code, text = command("weights", "check", tmp_path)
    assert code == 23
    assert "expected one .pkl (resnet101) or .pth (resnext101) checkpoint" in text


def test_file_is_described(command, make_shard, extract):
    shard = make_shard({"one.png": picture(1), "two.png": picture(2)})
    extract([*shard.arguments(), "--dataset", "flickr30k"])
    code, text = command("inspect", shard.output, "--first", "1")
    assert code == 0
    assert "SYNTHETIC WEIGHTS" in text
    assert "flickr30k" in text
    assert "2 images, 6 boxes (3 to 3 an image)" in text
    assert "one: 24 x 16 pixels, 3 boxes" in text
    assert "two:" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"text", "HDF5 cannot read it"), (b"", "HDF5 cannot read it")],
)
def test_what_is_no_feature_file_is_named(command, tmp_path, content, said):
    path = tmp_path / "file.h5"
    if content is not None:
        path.write_bytes(content)
    code, text = command("inspect", path)
    assert code != 0
    assert said in text
    assert str(path) in text


def test_truncated_file_is_named(command, make_shard, extract):
    shard = make_shard({"one.png": picture(1)})
    extract(shard.arguments())
    whole = shard.output.read_bytes()
    shard.output.write_bytes(whole[: len(whole) // 2])
    code, text = command("inspect", shard.output)
    assert (code, "HDF5 cannot read it" in text) == (2, True)
