"""How a request fails: the text for the node, and the class that decides whether it is tried again."""


class RequestFailed(Exception):
    """No usable response. `kind` is connection, timeout, refused (never retried) or http:<status>."""

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
