"""The keys of encrypted secrets: AES-256-GCM, by clients that set them and workers that send them. The server has none.

What is encrypted says for which role and name: nobody can have it sent under another one.
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pg_durable.errors import CommandError

SCHEME = "aes256gcm"
KEY_BYTES, NONCE_BYTES = 32, 12
MAKE_A_KEY = "openssl rand -base64 32 > FILE"
OPTION = "--secret-key-file (PG_DURABLE_SECRET_KEY_FILE)"


class UndecryptableError(Exception):
    """A secret that this worker cannot decrypt; the message says why and what to do."""


class KeyRing:
    """The keys of a file, in its order: the first encrypts, each decrypts what it has encrypted."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = {_id(key): _cipher(key) for key in keys}

    @classmethod
    def read(cls, path: str | None) -> "KeyRing":
        """The keys of a file, in base64, one a line; none where there is no file."""
        if path is None:
            return cls()
        lines = Path(path).read_bytes().split(b"\n")
        try:
            keys = [base64.b64decode(line.strip(), validate=True) for line in lines if line.strip()]
        except binascii.Error:
            keys = []
        if not keys or {len(key) for key in keys} != {KEY_BYTES}:
            raise CommandError(f"{path} does not hold keys of {KEY_BYTES} bytes in base64, one a line\n{MAKE_A_KEY}")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def encrypt(self, role: str, name: str, value: str) -> str:
        """What df.set_secret takes as an encrypted value, with the first key."""
        key, cipher = next(iter(self._keys.items()))
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, value.encode(), _about(role, name))
        return f"{SCHEME}:{key}:{base64.b64encode(sealed).decode()}"

    def decrypt(self, role: str, name: str, stored: str) -> str:
        """The value; raises UndecryptableError."""
        _, key, sealed = stored.split(":")
        if not self._keys:
            raise UndecryptableError(
                f'secret "{name}" is encrypted, and this worker has no key: start it with {OPTION}'
            )
        if key not in self._keys:
            raise UndecryptableError(
                f'secret "{name}" is encrypted with key {key}, which is not in the key file of this worker: '
                f"add that key, or set the secret anew"
            )
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only who has keys needs the library

        data = base64.b64decode(sealed)
        try:
            return str(self._keys[key].decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _about(role, name)).decode())
        except InvalidTag:
            why = f'secret "{name}" was not encrypted for role {role} and this name: set it anew'
            raise UndecryptableError(why) from None


def _id(key: bytes) -> str:
    """How stored values name their key; it tells nothing of a key that is random."""
    return hashlib.sha256(b"pg_durable key" + key).hexdigest()[:8]


def _about(role: str, name: str) -> bytes:
    return json.dumps([role, name]).encode()


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    except ImportError as error:
        raise CommandError("a key file needs the library cryptography: pip install 'pg-durable[secrets]'") from error
    return AESGCM(key)
