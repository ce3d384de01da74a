"""multipart/form-data bodies."""

import base64
import binascii
import secrets
from typing import Any

from pg_durable.http.errors import RequestFailed

# What browsers write for a quote; a backslash would escape the closing quote for some servers.
ESCAPES = str.maketrans({'"': "%22", "\\": "%5C"})
WHITE_SPACE = str.maketrans("", "", " \t\r\n")


def encode_parts(parts: list[dict[str, Any]]) -> tuple[bytes, bytes]:
    """The Content-Type and the body of a form with these parts."""
    boundary = secrets.token_hex(16)
    body = bytearray()
    for part in parts:
        body += f"--{boundary}\r\n{_head(part)}\r\n\r\n".encode()
        body += _decoded(part["data_b64"])
        body += b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}".encode(), bytes(body)


def _head(part: dict[str, Any]) -> str:
    disposition = f'Content-Disposition: form-data; name="{_quoted(part["name"])}"'
    if part.get("filename") is not None:
        disposition += f'; filename="{_quoted(part["filename"])}"'
    if part.get("content_type") is not None:
        disposition += f"\r\nContent-Type: {_one_line(part['content_type'])}"
    return disposition


def _quoted(text: str) -> str:
    return _one_line(text).translate(ESCAPES)


def _one_line(text: str) -> str:
    if any(character in text for character in "\r\n\0"):
        raise RequestFailed("refused", "parts: name, filename and content_type must not contain line breaks")
    return text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.translate(WHITE_SPACE), validate=True)
    except binascii.Error as error:
        raise RequestFailed("refused", f"parts: data_b64 is not valid base64: {error}") from error
