"""`pg-durable secret set | list | unset`: the secrets of the role that the command logs in as.

A value is read from the terminal without echo, or from standard input; never from the command line, which others see.
"""

import argparse
import getpass
import sys
from typing import Any

from psycopg import errors

from pg_durable.cli import operator_statements as statements
from pg_durable.cli.operator_commands import Connection, add, present, rows
from pg_durable.cli.operator_screen import table
from pg_durable.cli.worker_command import add_key_file
from pg_durable.errors import CommandError
from pg_durable.http.mask import LEAST
from pg_durable.printing import complain
from pg_durable.secret_keys import KeyRing

NO_ROOM = """\
this role may not make the temporary table in which the value passes by the server's log
GRANT TEMPORARY ON DATABASE, or encrypt the value here: --secret-key-file FILE"""


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    secret = subparsers.add_parser("secret", help="secrets that HTTP steps send", description=__doc__)
    commands = secret.add_subparsers(required=True, metavar="COMMAND")
    command = add(commands, "set", set_secret, "keep a secret, read from the terminal without echo or from stdin")
    command.add_argument("name", help="df.secret(name) and {secret:name} stand for it")
    add_key_file(command, "whose first key encrypts the value before it is sent to the server")
    add(commands, "list", list_secrets, "names and dates")
    command = add(commands, "unset", unset_secret, "remove a secret")
    command.add_argument("name", help="its name")


def set_secret(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable secret set`"""
    keys = KeyRing.read(arguments.secret_key_file)
    name, value = arguments.name, given(arguments.name)
    if keys:
        role = str(rows(conn, statements.WHO_AM_I)[0]["role"])
        rows(conn, statements.SET_ENCRYPTED_SECRET, name=name, value=keys.encrypt(role, name, value))
    else:
        set_plain(conn, name, value)
    if len(value.encode()) < LEAST:
        complain(f"a value of less than {LEAST} bytes is not masked in results and errors")
    done = {"name": name, "encrypted": bool(keys)}
    present(arguments, done, lambda: f"Secret {name} set{', encrypted' if keys else ''}")
    return 0


def given(name: str) -> str:
    """The value; a line break at the end of standard input is no part of it."""
    if sys.stdin.isatty():
        value = getpass.getpass(f"Value of {name}: ")
    else:
        try:
            value = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise CommandError("the value is not UTF-8") from None
        value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise CommandError("there is no value")
    if "\0" in value:
        raise CommandError("a value cannot hold a zero character")
    return value


def set_plain(conn: Connection, name: str, value: str) -> None:
    """Sends a value by COPY: the server can log statements and their parameters, and never what is copied."""
    try:
        with conn.transaction():
            conn.execute(statements.SECRET_TABLE)
            with conn.cursor().copy(statements.COPY_SECRET) as copy:
                copy.write_row([value])
            rows(conn, statements.SET_COPIED_SECRET, name=name)
    except errors.InsufficientPrivilege as error:
        if "temporary tables" in str(error.diag.message_primary):
            raise CommandError(NO_ROOM) from error
        raise


def list_secrets(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable secret list`"""
    found = rows(conn, statements.SECRETS)
    present(arguments, found, lambda: table(found))
    return 0


def unset_secret(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable secret unset`"""
    if not rows(conn, statements.UNSET_SECRET, name=arguments.name)[0]["found"]:
        raise CommandError(f"there is no secret {arguments.name}")
    present(arguments, {"name": arguments.name}, lambda: f"Secret {arguments.name} removed")
    return 0
