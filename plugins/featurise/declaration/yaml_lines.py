"""YAML with line numbers and `${NAME}` from the environment, so that a mistake can be named by its line."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from extractor.core import bounded_yaml

Path = tuple[str | int, ...]
SHORTEST = 4
VARIABLE = re.compile(r"\$\{(\w+)\}")


class VariableMissing(Exception):
    """Raised when a value names an environment variable that is not set."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name)
        self.path = path
        self.name = name


class InvalidYaml(Exception):
    """Raised when YAML says what nobody can have meant: a key twice in one mapping, or a value within itself."""

    def __init__(self, line: int, path: Path, what: str) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {what}")
        self.line = line


class Document:
    """One YAML file: its data, and the line on which each field stands.

    Raises yaml.YAMLError when the text is not YAML, YamlRefused when it stands for too much, InvalidYaml when a key
    stands twice or a value contains itself.
    """

    def __init__(self, text: str) -> None:
        self._root = bounded_yaml.compose(text)
        self.data: Any = yaml.safe_load(text)
        _refuse(self._root)

    def line(self, path: Path) -> tuple[int, int]:
        """The line of a field, and how many steps of the path the file has: the deepest that it has gives the line."""
        node, line = self._root, 1
        for depth, step in enumerate(path):
            for key, value in _children(node):
                if key == step:
                    node, line = value[0], value[1]
                    break
            else:
                return line, depth
        return line, len(path)


def _children(node: yaml.Node | None) -> Iterator[tuple[str | int, tuple[yaml.Node, int]]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield _name(key), (value, key.start_mark.line + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, (value, value.start_mark.line + 1)


def _name(key: yaml.Node) -> str:
    """A key as `str` shows what is read from it: `True` where the file says `yes`. The merging `<<` is never read."""
    if key.tag in SafeConstructor.yaml_constructors:
        return str(SafeConstructor().construct_object(key))
    return str(key.value)


def _refuse(node: yaml.Node | None) -> None:
    """Raises InvalidYaml when, from this node on, a key stands twice or a value contains itself."""
    _refuse_below(node, (), 1, (), set())


def _refuse_below(
    node: yaml.Node | None, path: Path, line: int, above: tuple[yaml.Node | None, ...], sound: set[yaml.Node | None]
) -> None:
    if node in above:
        raise InvalidYaml(line, path, "refers to a value that it is part of; write out what is meant")
    if node in sound:  # through another alias
        return
    first: dict[str | int, int] = {}
    for key, (value, at) in _children(node):
        if key in first:
            raise InvalidYaml(
                at, (*path, key), f"declared twice, first on line {first[key]}; remove or rename one of them"
            )
        first[key] = at
        _refuse_below(value, (*path, key), at, (*above, node), sound)
    sound.add(node)


def declared(value: Any, path: Path) -> Any:
    """What stands at a path of the data, before substitution; None where nothing does."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def unsubstituted(text: str, value: Any) -> str:
    """A text in which what `${NAME}` in the value stands for is `${NAME}` again: it may be a secret.

    What has fewer than SHORTEST characters stays, being a part of other words.
    """
    names = {name for each in _texts(value) for name in VARIABLE.findall(each)}
    for name in sorted(names, key=lambda name: len(os.environ.get(name, "")), reverse=True):
        found = os.environ.get(name, "")
        for form in (found, repr(found)[1:-1]):  # as it is, and as errors quote it
            text = text.replace(form, f"${{{name}}}") if len(found) >= SHORTEST else text
    return text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def substituted(value: Any, path: Path = ()) -> Any:
    """The value with every `${NAME}` in it replaced from the environment.

    Raises VariableMissing when NAME is not set or empty.
    """
    if isinstance(value, Mapping):
        return {key: substituted(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [substituted(item, (*path, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise VariableMissing(path, match[1])
        return found

    return VARIABLE.sub(replace, value)


def merged(below: Any, above: Any) -> Any:
    """Two mappings as one, field by field; where both have a value that is no mapping, the one above holds."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return above
