"""YAML of unknown origin, looked through before anything is made of it.

A few lines of YAML can stand for more than any memory holds: an alias repeats all that its anchor names, a nest of
brackets is followed by recursion, and a number in base 60 takes time that grows with the square of its length.
"""

from collections.abc import Iterator

import yaml

MAX_LENGTH = 1_000_000
"""Characters of a file, also when all of its aliases are written out."""
MAX_DEPTH = 32
MAX_NUMBER = 100
"""Characters of a number."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlRefused(Exception):
    """Raised when a file would take more time or memory than a configuration can have a use for."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def compose(text: str) -> yaml.Node | None:
    """The file's nodes, each with its line; None when it is empty.

    Raises yaml.YAMLError when it is not YAML, YamlRefused.
    """
    if len(text) > MAX_LENGTH:
        raise YamlRefused(1, f"it has {len(text):,} characters; expected {MAX_LENGTH:,} at most")
    _check_nesting(text)
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        _check_expanded(root)
    return root


def _check_nesting(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # one after the other; nothing is nested yet
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlRefused(event.start_mark.line + 1, _TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


_TOO_DEEP = f"it nests values more than {MAX_DEPTH} deep; expected a configuration"


def _check_expanded(root: yaml.Node) -> None:
    """Refuse what is too long or too deep once its aliases are written out; each node is looked at once."""
    lengths: dict[int, int] = {}
    depths: dict[int, int] = {}
    waiting = [(root, False)]
    while waiting:
        node, inner_done = waiting.pop()
        inner = list(_inner(node))
        if inner_done:
            # What a value contains of itself has no length yet; the reader of the nodes decides about that.
            lengths[id(node)] = _own_length(node) + sum(lengths.get(id(each), 0) for each in inner)
            depths[id(node)] = 1 + max((depths.get(id(each), 0) for each in inner), default=0)
            if lengths[id(node)] > MAX_LENGTH:
                what = f"its aliases repeat more than {MAX_LENGTH:,} characters; write out what is meant"
                raise YamlRefused(node.start_mark.line + 1, what)
            if depths[id(node)] > MAX_DEPTH + 1:
                raise YamlRefused(node.start_mark.line + 1, _TOO_DEEP)
        elif id(node) not in depths:
            depths[id(node)] = 0
            waiting += [(node, True), *((each, False) for each in inner)]


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _own_length(node: yaml.Node) -> int:
    if not isinstance(node, yaml.ScalarNode):
        return 1
    if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER:
        raise YamlRefused(
            node.start_mark.line + 1, f"a number of more than {MAX_NUMBER} characters; quote what is text"
        )
    return 1 + len(node.value)
