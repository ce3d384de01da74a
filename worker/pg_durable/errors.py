"""The error of a command."""


class CommandError(Exception):
    """Something that whoever typed the command can put right."""
