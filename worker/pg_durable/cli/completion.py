"""`pg-durable completion bash | zsh | fish`: prints what a shell needs to
complete commands and options.

bash, zsh: eval "$(pg-durable completion bash)", in ~/.bashrc for example;
fish: pg-durable completion fish | source
"""

import argparse
from collections.abc import Iterator
from typing import Any

from pg_durable.printing import say

BASH = """\
_pg_durable() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  case "${{COMP_WORDS[1]}}" in
{cases}
  *) words="" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="{commands}"
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _pg_durable pg-durable"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser(
        "completion", help="print a script that lets a shell complete commands", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("shell", choices=("bash", "zsh", "fish"))
    command.set_defaults(run=lambda arguments: run(arguments, subparsers.choices))


def run(arguments: argparse.Namespace, commands: dict[str, argparse.ArgumentParser]) -> int:
    """Prints the script."""
    words = {name: list(completed(command)) for name, command in commands.items()}
    if arguments.shell == "fish":
        lines = [f"complete -c pg-durable -n __fish_use_subcommand -f -a {name}" for name in words]
        for name, known in words.items():
            seen = f"-n '__fish_seen_subcommand_from {name}'"
            lines += [f"complete -c pg-durable {seen} {fish(word)}" for word in known]
        say("\n".join(lines))
        return 0
    cases = "\n".join(f'  {name}) words="{" ".join(known)}" ;;' for name, known in words.items())
    script = BASH.format(cases=cases, commands=" ".join([*words, "--help", "--version"]))
    say((ZSH if arguments.shell == "zsh" else "") + script)
    return 0


def completed(command: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a command, and the words that its arguments can be."""
    for action in command._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if not action.option_strings and action.choices:
            yield from map(str, action.choices)


def fish(word: str) -> str:
    """How fish is told of an option, or of a word."""
    return f"-l {word.removeprefix('--')}" if word.startswith("--") else f"-f -a {word}"
