"""What is written to standard output and standard error: the text of others cannot steer the terminal that shows it."""

import re
import sys

# Control characters but for tab and line feed; line separators; what turns the direction of text; invisible tags.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Text that others wrote, with all that a terminal would obey written out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    """A JSON text, with the same characters written as JSON does: it means what it meant."""
    return CONTROL.sub(lambda found: "".join(f"\\u{unit:04x}" for unit in units(found[0])), text)


def units(character: str) -> list[int]:
    """The UTF-16 code units of a character."""
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]


def say(text: str) -> None:
    """Writes lines to standard output, where somebody may wait for them."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def say_json(text: str) -> None:
    """Writes a JSON text to standard output."""
    sys.stdout.write(f"{printable_json(text)}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Writes lines to standard error."""
    sys.stderr.write(f"{printable(text)}\n")
