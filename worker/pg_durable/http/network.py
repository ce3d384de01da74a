"""Connections to checked addresses: the name is resolved once, and what passed the filter is what is connected to."""

from collections.abc import Iterable
from logging import WARNING

import httpcore

from pg_durable.http.addresses import Resolver, restricted
from pg_durable.http.errors import RequestFailed
from pg_durable.log import event


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """The network of one request; TLS and Host keep the original name, since only the address is replaced."""

    def __init__(self, resolver: Resolver, allow_private: bool, timeout: float) -> None:
        self._resolver = resolver
        self._allow_private = allow_private
        self._timeout = timeout
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._addresses(host, port)
        share = self._timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._sockets.connect_tcp(address, port, timeout=share)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._sockets.connect_tcp(addresses[-1], port)

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await self._resolver.resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise RequestFailed("connection", f'cannot resolve "{host}": {error}') from error
        allowed = [address for address in found if self._allow_private or not restricted(address)]
        if not allowed:
            # Which one is for administrators: a role that may not go there could map the network with it.
            event(WARNING, "http request blocked", host=host, addresses=", ".join(found))
            raise RequestFailed("refused", f'Blocked: "{host}" resolves to a restricted address')
        return allowed
