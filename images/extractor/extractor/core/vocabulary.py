"""What the numbers of classes mean: the names that a backbone has for them, unless its weights bring their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

OBJECTS, ATTRIBUTES = FILES = ("objects_vocab.txt", "attributes_vocab.txt")
"""What a vocabulary's files are called, in a folder of weights too: a class a line, its synonyms behind commas."""


@dataclass(frozen=True)
class Vocabulary:
    """The first name of every class, by its number; the background is none of them."""

    objects: tuple[str, ...]
    attributes: tuple[str, ...] = ()

    def of(self, file: str) -> tuple[str, ...]:
        """The names that a file of `FILES` holds."""
        return self.objects if file == OBJECTS else self.attributes


def parse(text: str) -> tuple[str, ...]:
    """The names in a vocabulary's file."""
    return tuple(line.split(",")[0].strip() for line in text.splitlines())


@cache
def visual_genome() -> Vocabulary:
    """The 1,600 objects and 400 attributes of Visual Genome that bottom-up attention was trained on.

    Facts from `data/genome/1600-400-20` of github.com/peteanderson80/bottom-up-attention, misspellings included.
    """
    folder = resources.files("extractor.core") / "visual_genome"
    return Vocabulary(*(parse((folder / file).read_text()) for file in FILES))


def name(number: int, names: Sequence[str] | None) -> str:
    """A class's name, or its number where names are not known."""
    return names[number] if names is not None and number < len(names) else str(number)
