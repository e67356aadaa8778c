"""What the restricted unpickler reads, and what it refuses before anything runs."""

import builtins
import collections
import contextlib
import io
import os
import pickle
import random
import resource
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractor.core import pickle_machine, safe_pickle
from extractor.core.pickle_machine import MAX_DEPTH, MAX_STEPS, PickleRefused

MARKER = "ran"


@pytest.fixture
def load(tmp_path: Path, monkeypatch):
    """Write bytes as a file and read it, in a folder where code that runs would leave a mark."""
    monkeypatch.chdir(tmp_path)

    def load(data: bytes) -> Any:
        path = tmp_path / "file.pkl"
        path.write_bytes(data)
        return safe_pickle.load(path)

    return load


ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    np.arange(4, dtype=">i2"),
    np.zeros((0, 5), np.float16),
    np.array(7, dtype=np.int64),
    np.array([True, False]),
    np.arange(24).reshape(2, 3, 4)[:, ::2],
    np.array([1 + 2j], np.complex64),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays_of_numbers_come_out_as_they_went_in(load, array: np.ndarray, protocol: int):
    data = pickle.dumps({"model": [array]}, protocol=protocol)
    found = load(data)["model"][0]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == pickle.loads(data)["model"][0].dtype


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_module_names_of_before_numpy_2(load, protocol: int):
    data = pickle.dumps(ARRAYS[0], protocol=protocol)
    old = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    assert old != data
    np.testing.assert_array_equal(load(old), ARRAYS[0])


def test_arrays_that_python_2_wrote(load):
    written = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tb."
    )
    np.testing.assert_array_equal(load(written), np.array([1, -2], np.float32))


def test_plain_containers_and_scalars(load):
    content = {"a": [1, 2.5, "x", b"y", None, True], "b": (np.float32(1.5), {"c": np.int64(-3)}), "c": [()]}
    assert load(pickle.dumps(content)) == content
    assert load(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.how = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how


class Sets:
    """Makes an object and then sets its state."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any) -> None:
        self.how = function, arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how


class Odd(np.ndarray):
    pass


HOSTILE = {
    "os.system": Calls(os.system, f"touch {MARKER}"),
    "subprocess": Calls(subprocess.Popen, ["touch", MARKER]),
    "eval": Calls(builtins.eval, f"open({MARKER!r}, 'w')"),
    "exec": Calls(builtins.exec, f"open({MARKER!r}, 'w')"),
    "open": Calls(io.open, MARKER, "w"),
    "getattr": Calls(getattr, "", "join"),
    "a torch tensor": torch.ones(2),
    "a numpy file": Calls(np.load, MARKER),
    "an array of objects": np.array([{}, []], dtype=object),
    "an array of objects inside a structure": np.zeros(2, [("a", "f4"), ("b", "O")]),
    "an array of text": np.array(["a"]),
    "an array of dates": np.array(["2020-01-01"], "datetime64[D]"),
    "a subclass of an array": np.ones(2).view(Odd),
    "an array without bytes": Calls(np.ndarray, (2,), np.dtype("f4")),
    "a function's code": Calls(collections.OrderedDict.fromkeys, "ab"),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_and_does_not_run(load, tmp_path: Path, name: str, protocol: int):
    with pytest.raises(PickleRefused):
        load(pickle.dumps({"model": HOSTILE[name]}, protocol=protocol))
    assert not (tmp_path / MARKER).exists()


NDARRAY, DTYPE, RECONSTRUCT = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\n_reconstruct\n"
BYTES_DTYPE = DTYPE + b"X\x02\x00\x00\x00u1\x85R"
EMPTY_ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"

CRAFTED = {
    "state set on numpy.ndarray": NDARRAY + b"}X\x01\x00\x00\x00aK\x01sb.",
    "attributes set on a function": RECONSTRUCT + b"N}X\x05\x00\x00\x00_makeK\x01s\x86b.",
    "attributes set on numpy.dtype": DTYPE + b"N}X\x06\x00\x00\x00_dtypeK\x01s\x86b.",
    "numpy.ndarray by NEWOBJ": NDARRAY + b"K\x08\x85\x81.",
    "numpy.ndarray by INST": b"(K\x08inumpy\nndarray\n.",
    "a shape larger than its bytes": EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + BYTES_DTYPE + b"\x89C\x01atb.",
    "a negative shape": EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + BYTES_DTYPE + b"\x89C\x00tb.",
    "a shape that is no tuple": EMPTY_ARRAY + b"(K\x01K\x01" + BYTES_DTYPE + b"\x89C\x01atb.",
    "objects as an array's bytes": EMPTY_ARRAY + b"(K\x01K\x01\x85" + DTYPE + b"X\x01\x00\x00\x00O\x85R\x89]K\x01atb.",
    "a list as an array's bytes": EMPTY_ARRAY + b"(K\x01K\x01\x85" + BYTES_DTYPE + b"\x89]K\x01atb.",
    "text as an array's type": EMPTY_ARRAY + b"(K\x01K\x01\x85X\x01\x00\x00\x00O\x89C\x01atb.",
    "a type from a structure": DTYPE + b"]\x85R.",
    "an order that is none": BYTES_DTYPE + b"(K\x03X\x01\x00\x00\x00xNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "fields added to a type": BYTES_DTYPE + b"(K\x03X\x01\x00\x00\x00<N)}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    "an object kept elsewhere": b"K\x01Q.",
    "an extension's number": b"\x82\x01.",
    "text in another encoding": b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "a dotted name": b"\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
    "a name of a module inside a module": b"cnumpy\nos.system\n.",
    "more bytes than the file has": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "an unfinished file": pickle.dumps(ARRAYS[0])[:-20],
    "no pickle": b"\x00\x01\x02",
    "nothing": b"",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused(load, name: str):
    with pytest.raises(PickleRefused):
        load(b"\x80\x04" + CRAFTED[name] if CRAFTED[name][:1] not in (b"\x80", b"\x00", b"") else CRAFTED[name])


def test_one_file_changes_nothing_for_the_next(load):
    for crafted in CRAFTED.values():
        with pytest.raises(PickleRefused):
            load(b"\x80\x04" + crafted)
    np.testing.assert_array_equal(load(pickle.dumps(ARRAYS[0])), ARRAYS[0])


def test_the_refusal_names_what_the_file_asked_for(load):
    with pytest.raises(PickleRefused, match=r"it names posix\.system, for which a file of arrays has no use"):
        load(pickle.dumps(HOSTILE["os.system"]))


def peak() -> int:
    """The most memory this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("memo", [b"r" + struct.pack("<I", 100_000_000), b"p100000000\n"])
def test_a_far_place_in_the_memo_takes_no_gigabytes(load, memo: bytes):
    before = peak()
    assert load(b"\x80\x03}" + memo + b".") == {}
    assert peak() - before < 100 << 20


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


FILLED = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R" + b"(K\x01M\x00\x10\x85" + BYTES_DTYPE + b"\x89h\x00tb0"
"""An array of 4096 bytes, all of which the file has in memo place 0."""


def test_the_same_bytes_fill_no_more_arrays_than_the_file_could_hold(load):
    raw = b"B" + struct.pack("<I", 4096) + bytes(4096) + b"q\x000"
    assert load(b"\x80\x03" + raw + FILLED + b"K\x01.") == 1
    with pytest.raises(PickleRefused, match="the same bytes copied again and again"):
        load(b"\x80\x03" + raw + FILLED * 20 + b"K\x01.")


def test_the_same_text_is_encoded_no_more_often_than_the_file_could_hold(load):
    encoded = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R0"
    start = b"\x80\x02" + text("a" * 4096) + b"q\x000"
    assert load(start + encoded + b"K\x01.") == 1
    with pytest.raises(PickleRefused, match="the same bytes copied again and again"):
        load(start + encoded * 20 + b"K\x01.")


def test_the_same_items_make_no_more_dictionaries_than_there_are_steps(load, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickle_machine, "MAX_STEPS", 1000)
    items = b"](" + b"".join(b"K" + bytes([i]) + b"N\x86" for i in range(100)) + b"eq\x000"
    made = b"ccollections\nOrderedDict\nh\x00\x85R0"
    assert load(b"\x80\x02" + items + made * 2 + b"K\x01.") == 1
    with pytest.raises(PickleRefused, match="more than 1,000 steps"):
        load(b"\x80\x02" + items + made * 20 + b"K\x01.")


@pytest.mark.parametrize("as_key", [b"}K\x01K\x02\x86K\x03s.", b"}(K\x01\x85Nu.", b"(K\x01\x85Nd.", b"}]K\x03s."])
def test_only_plain_keys_are_hashed(load, as_key: bytes):
    with pytest.raises(PickleRefused, match="it has a key of type"):
        load(b"\x80\x02" + as_key)


def test_a_dictionary_made_from_pairs_has_plain_keys_too(load):
    pairs = b"ccollections\nOrderedDict\n]K\x01K\x02\x86K\x03\x86a\x85R."
    with pytest.raises(PickleRefused, match="it has a key of type tuple"):
        load(b"\x80\x02" + pairs)


@pytest.mark.parametrize("number", [b"\x8a\x20" + b"\x7f" * 32, b"L" + b"9" * 60 + b"L\n", b"I" + b"9" * 60 + b"\n"])
def test_whole_numbers_have_a_size(load, number: bytes):
    with pytest.raises(PickleRefused, match=r"a whole number of \d+ bits; expected 128 at most"):
        load(b"\x80\x02" + number + b".")


def test_containers_are_nested_to_a_depth(load):
    sound: Any = []
    for _ in range(MAX_DEPTH - 1):
        sound = [sound]
    assert load(pickle.dumps(sound)) == sound
    for nested in ([sound], (sound,), {"a": sound}):
        with pytest.raises(PickleRefused, match=f"nests containers more than {MAX_DEPTH} deep"):
            load(pickle.dumps(nested))


def test_a_list_within_itself_is_refused(load):
    within: list[Any] = []
    within.append([within])
    with pytest.raises(PickleRefused, match="contains itself"):
        load(pickle.dumps(within))


def test_what_a_list_holds_twice_is_walked_through_once(load):
    shared: Any = [1]
    for _ in range(12):
        shared = [shared, shared]
    assert len(load(pickle.dumps(shared))) == 2


def test_a_long_program_is_refused_before_it_runs(load):
    nested = b"\x80\x03})" + b"\x85" * (MAX_STEPS + 1) + b"K\x01s."
    with pytest.raises(PickleRefused, match="more than 250,000 steps"):
        load(nested)


def test_an_error_repeats_no_more_than_a_line_of_the_file(load, tmp_path: Path):
    for crafted in (b"c" + b"a" * 100_000 + b"\nb\n.", DTYPE + text("O" * 100_000) + b"\x85R.", b"K\x01Q" * 3):
        with pytest.raises(PickleRefused) as error:
            load(b"\x80\x04" + crafted)
        assert str(error.value).startswith(f"{tmp_path / 'file.pkl'}: ")
        assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pickletools', of escapes that damage made up
def test_damage_is_refused_by_name(load):
    sound, chance = pickle.dumps({"model": ARRAYS, "__author__": "x"}, protocol=3), random.Random(0)
    for _ in range(2000):
        damaged = bytearray(sound)
        for _ in range(chance.choice((0, 1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if chance.random() < 0.4:
            del damaged[chance.randrange(len(damaged)) :]
        with contextlib.suppress(PickleRefused):
            load(bytes(damaged))
