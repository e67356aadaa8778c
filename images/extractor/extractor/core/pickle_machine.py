"""A machine for pickles of unknown origin, with bounds on time, memory and depth.

A pickle is a program that may call any importable object, and a few hundred bytes of one can ask for more memory or
time than there is. `pickletools` reads its instructions here, and the machine carries out those that a file of arrays
needs: it knows only the names that it is given, hashes nothing but plain keys, copies no more bytes than the file has,
and stops after a number of steps.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_STEPS = 250_000
"""Instructions of the longest pickle that is read; one of arrays takes about 25 for each."""
MAX_DEPTH = 32
"""Containers within containers; checkpoints with the state of an optimizer have six."""
MAX_BITS = 128
"""Of a whole number; torch writes one of 77 at the head of its files."""
SHOWN = 80
"""Characters of a file's own text that an error repeats."""


class PickleRefused(Exception):
    """Raised when a file is no pickle, a damaged one, or one of something else than numbers in plain containers."""


class Allowance:
    """What is left to one pickle: of steps, and of bytes that it may have copied."""

    def __init__(self, size: int) -> None:
        # Python 2's text becomes bytes, and bytes become an array: each of the file's may be copied twice.
        self._bytes = 2 * size
        self._steps = MAX_STEPS

    def copy(self, count: int) -> None:
        """Pay for bytes. Raises PickleRefused when there are not as many left."""
        self._bytes -= count
        if self._bytes < 0:
            raise PickleRefused("it has the same bytes copied again and again; expected each array's own in the file")

    def step(self, count: int = 1) -> None:
        """Pay for instructions, or for items that one copies. Raises PickleRefused when there are none left."""
        self._steps -= count
        if self._steps < 0:
            raise PickleRefused(f"it takes more than {MAX_STEPS:,} steps; expected arrays, with about 25 for each")


class Named:
    """A stand-in for an importable callable, or for a name that means something to others only."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        """`make`: takes the pickle's Allowance, then the arguments that the pickle gives."""
        self.make = make


Admitted = Mapping[tuple[str, str], Named]
"""What a pickle may name, by module and name."""


def read(
    content: mmap.mmap | io.BytesIO, size: int, admitted: Admitted, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """What the pickle at the content's position makes; the position is then after it.

    `content`: a map or a buffer (a file makes room for as many bytes as it is asked for, whatever it has). `size`, the
    file's, bounds what is copied; `persistent` takes the identities of objects outside the pickle.
    Raises PickleRefused.
    """
    machine = _Machine(Allowance(size), admitted, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(content):  # type: ignore[arg-type]  # a map reads like a file
            machine.allowance.step()
            if opcode.name == "STOP":
                break
            machine.carry_out(opcode.name, argument)
        (value,) = machine.stack
    except (PickleRefused, OSError, MemoryError):
        raise
    except Exception as error:  # the bytes say what is done, and damage makes that anything
        raise PickleRefused(f"not a whole pickle: {type(error).__name__}: {shown(error)}") from error
    _check_depth(value)
    return value


def shown(value: object) -> str:
    """A file's own text, cut to a length that belongs into an error; of anything else, its type."""
    text = str(value) if isinstance(value, str | Exception) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_NEW: Mapping[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict},
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Carries out instructions one after the other: a stack, marks on it, and a memo, as Python's own has them.

    The standard library's pickletools.py says what each instruction does.
    """

    def __init__(self, allowance: Allowance, admitted: Admitted, persistent: Callable[[Any], Any] | None) -> None:
        self.allowance = allowance
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._admitted = admitted
        self._persistent = persistent

    def carry_out(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > MAX_BITS:
                raise PickleRefused(
                    f"it holds a whole number of {argument.bit_length():,} bits; expected {MAX_BITS} at most"
                )
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _CARRIED_OUT:
            _CARRIED_OUT[name](self, argument)
        else:
            raise PickleRefused(f"its instruction {name} has no use in a file of arrays")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) - (self._marks[-1] if self._marks else 0) < count:
            raise IndexError("an instruction takes more than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise PickleRefused(f"it changes a {type(self.stack[-1]).__name__} as if it were a {kind.__name__}")
        return self.stack[-1]

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def _drop(self, _: Any) -> None:
        self._pop(1)

    def _drop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _remember(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self.stack[-1]

    def _recall(self, place: int) -> None:
        self.stack.append(self._memo[place])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._pop_mark())

    def _append(self, _: Any) -> None:
        items = self._pop(1)
        self._top(list).extend(items)

    def _appends(self, _: Any) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _dict(self, _: Any) -> None:
        items = self._pop_mark()
        self.stack.append({})
        self._set(items)

    def _set_item(self, _: Any) -> None:
        self._set(self._pop(2))

    def _set_items(self, _: Any) -> None:
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _global(self, argument: str) -> None:
        self._name(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        self._name(*self._pop(2))

    def _name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleRefused("it names something by what is no text")
        if (module, name) not in self._admitted:
            raise PickleRefused(
                f"it names {shown(f'{module}.{name}')}, for which a file of arrays has no use; refused before it ran"
            )
        self.stack.append(self._admitted[module, name])

    def _reduce(self, _: Any) -> None:
        function, arguments = self._pop(2)
        if not (isinstance(function, Named) and isinstance(arguments, tuple)):
            raise PickleRefused(f"it calls a {type(function).__name__}; expected a function that it names")
        self.stack.append(function.make(self.allowance, *arguments))

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        build = getattr(type(self.stack[-1]), "built_from", None)
        if build is None:
            raise PickleRefused(
                f"it assigns to a {type(self.stack[-1]).__name__}; expected arrays only to be filled later"
            )
        build(self.stack[-1], self.allowance, state)

    def _refer(self, _: Any) -> None:
        if self._persistent is None:
            raise PickleRefused("it refers to objects outside the file; expected one that is complete in itself")
        (identity,) = self._pop(1)
        self.stack.append(self._persistent(identity))


_CARRIED_OUT: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda _machine, _argument: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._recall),
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_mark,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "DICT": _Machine._dict,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._refer,
}


def checked_key(key: object) -> Any:
    """A dictionary's key; hashing a tuple takes all that is in it, again for each time that it is in there."""
    if type(key) not in _PLAIN_KEYS:
        raise PickleRefused(f"it has a key of type {type(key).__name__}; expected text or numbers")
    return key


def copied(allowance: Allowance, items: object = ()) -> Iterator[tuple[Any, Any]]:
    """Keys and values of what a dictionary is made from, each of them paid for."""
    if not isinstance(items, dict | list | tuple):
        raise PickleRefused(f"it makes a dictionary from a {type(items).__name__}")
    for key, value in items.items() if isinstance(items, dict) else items:
        allowance.step()
        yield checked_key(key), value


def _check_depth(root: object) -> None:
    """Refuse what is nested so that a walk through it, as Python takes one to show it, never ends."""
    depths: dict[int, int] = {}  # 0 while a container's own items are looked at
    waiting = [(root, False)]
    while waiting:
        value, looked_at = waiting.pop()
        inner = [item for item in _items(value) if isinstance(item, list | tuple | dict)]
        if looked_at:
            depths[id(value)] = 1 + max((depths[id(item)] for item in inner), default=0)
            if depths[id(value)] > MAX_DEPTH:
                raise PickleRefused(f"it nests containers more than {MAX_DEPTH} deep; expected arrays by name")
        elif id(value) not in depths:
            depths[id(value)] = 0
            if any(depths.get(id(item)) == 0 for item in inner):
                raise PickleRefused("it holds a container that contains itself")
            waiting += [(value, True), *((item, False) for item in inner)]


def _items(value: object) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
