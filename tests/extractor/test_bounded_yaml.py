"""Which YAML is too much; the bounds are lowered, so that no file here would take long without them."""

import pytest

from extractor.core import bounded_yaml
from extractor.core.bounded_yaml import MAX_DEPTH, YamlRefused, compose


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_yaml, "MAX_LENGTH", 200)


def test_aliases_and_merges_of_a_configuration_are_read():
    text = "a: &a {x: 1, y: [1, 2]}\nb: *a\nc: {<<: *a, x: 2}\n"
    assert compose(text) is not None
    assert compose("") is None


def test_what_aliases_repeat_counts_each_time(short):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 8)]
    compose("\n".join(lines[:4]))
    with pytest.raises(YamlRefused, match="its aliases repeat more than 200 characters") as error:
        compose("\n".join(lines))
    assert error.value.line == 7


def test_so_do_merged_mappings(short):
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 6)]
    with pytest.raises(YamlRefused, match="its aliases repeat more than 200 characters"):
        compose("\n".join(lines))


def test_so_does_one_long_text(short):
    with pytest.raises(YamlRefused, match="its aliases repeat"):
        compose(f"a: &a {'x' * 50}\nb: [{', '.join(['*a'] * 5)}]")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_values_are_nested_to_a_depth(opening: str, closing: str):
    compose(opening * MAX_DEPTH + closing * MAX_DEPTH)
    with pytest.raises(YamlRefused, match=f"nests values more than {MAX_DEPTH} deep"):
        compose(opening * (MAX_DEPTH + 1) + closing * (MAX_DEPTH + 1))


def test_also_through_aliases():
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, MAX_DEPTH + 2)]
    compose("\n".join(lines[: MAX_DEPTH - 1]))
    with pytest.raises(YamlRefused, match=f"nests values more than {MAX_DEPTH} deep"):
        compose("\n".join(lines))


@pytest.mark.parametrize("number", ["1" * 101, "1:" + ":".join(["1"] * 60), "0x" + "f" * 100, "1." + "0" * 100])
def test_numbers_have_a_length(number: str):
    with pytest.raises(YamlRefused, match="a number of more than 100 characters") as error:
        compose(f"a: 1\nb: {number}")
    assert error.value.line == 2
    compose(f"a: '{number}'")


def test_a_long_file_is_not_begun(short):
    with pytest.raises(YamlRefused, match="it has 402 characters; expected 200 at most"):
        compose("#" * 402)


def test_a_value_within_itself_ends(short):
    assert compose("a: &a [*a]") is not None
