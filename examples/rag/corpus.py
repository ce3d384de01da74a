"""The corpus: passages.txt, written by hand with a question each, among documents made of the parts in parts.txt.

The same number of documents is the same text everywhere: nothing depends on time, place or Python's version.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MARKS = "?!"
Kind = tuple[str, str, str, list[str]]  # topic, language, title, sentences
PARAGRAPHS, SENTENCES = (5, 8), (3, 5)


@dataclass(frozen=True)
class Document:
    """A row of the source."""

    id: int
    topic: str
    lang: str
    title: str
    body: str


@dataclass(frozen=True)
class Question:
    """What somebody asks, and the document that has the answer; `quotes` says whether it has words of that."""

    text: str
    document: int
    quotes: bool


def documents(count: int = 500) -> list[Document]:
    """The corpus, with so many documents besides the passages; 500 give more than 2,000 chunks of 512 characters."""
    written, parts = [document for document, _ in passages()], Parts()
    return written + [parts.document(number, len(written) + number) for number in range(1, count + 1)]


def questions() -> list[Question]:
    """The questions, all about passages."""
    return [question for _, asked in passages() for question in asked]


def passages() -> Iterator[tuple[Document, list[Question]]]:
    """What was written by hand, with its questions."""
    blocks = (HERE / "passages.txt").read_text("utf-8").split("\n\n")[1:]
    for number, block in enumerate(blocks, 1):
        head, *lines = block.strip().split("\n")
        topic, lang, title = head.split(" | ")
        asked = [Question(line[2:], number, line[0] == "!") for line in lines if line[0] in MARKS]
        body = " ".join(line for line in lines if line[0] not in MARKS)
        yield Document(number, topic, lang, title, body), asked


class Dice:
    """Numbers that look drawn by lot: those of a linear congruential generator."""

    def __init__(self, seed: int) -> None:
        self._state = seed * 2654435761 + 12345

    def below(self, bound: int) -> int:
        """A number from 0 on."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % bound

    def pick(self, words: str) -> str:
        """One of some words, which bars divide."""
        listed = words.split("|")
        return listed[self.below(len(listed))].strip()

    def between(self, bounds: tuple[int, int]) -> int:
        """A number from one to another."""
        return bounds[0] + self.below(bounds[1] - bounds[0] + 1)


class Parts:
    """What documents are made of: a paragraph is some sentences of a kind that follow each other."""

    def __init__(self) -> None:
        _, words, *kinds = (HERE / "parts.txt").read_text("utf-8").strip().split("\n\n")
        self._words = dict(line.split(": ", 1) for line in words.split("\n")[1:])
        self._kinds = [kind(block) for block in kinds]

    def document(self, number: int, identity: int) -> Document:
        """The document of a number."""
        dice = Dice(number)
        topic, lang, title, sentences = self._kinds[number % len(self._kinds)]
        paragraphs = [self._paragraph(sentences, dice) for _ in range(dice.between(PARAGRAPHS))]
        return Document(identity, topic, lang, f"{self._filled(title, dice)} ({number})", "\n\n".join(paragraphs))

    def _paragraph(self, sentences: list[str], dice: Dice) -> str:
        count, first = dice.between(SENTENCES), dice.below(len(sentences))
        chosen = [sentences[(first + step) % len(sentences)] for step in range(count)]
        return " ".join(self._filled(sentence, dice) for sentence in chosen)

    def _filled(self, template: str, dice: Dice) -> str:
        """A template with a word in each place, and a number where {#} stands."""
        text, *places = template.split("{")
        for place in places:
            name, _, rest = place.partition("}")
            text += (str(2 + dice.below(890)) if name == "#" else dice.pick(self._words[name])) + rest
        return text


def kind(block: str) -> Kind:
    """A kind of documents, as parts.txt has it."""
    head, *sentences = block.split("\n")
    topic, lang, title = head.strip("[]").split(" | ")
    return topic, lang, title, sentences
