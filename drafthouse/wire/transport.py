"""How peers of the data plane reach each other: in plaintext, or by mutual TLS with a shared token.

Promises: with TLS on, a server answers nobody whose certificate is not from the authority, and runs no method
for a call without an accepted token; a client sends its token to nobody whose certificate is not from the
authority and for PEER_NAME. New files count from the next connection on; those that exist go on.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc

from drafthouse.config.security import DataPlaneConfig
from drafthouse.security.api_keys import bearer, hash_of, matches
from drafthouse.security.watched_files import WatchedFiles
from drafthouse.wire.settings import CHANNEL_OPTIONS
from drafthouse.wire.tls_identity import PEER_NAME, TlsIdentity, read_identity

logger = logging.getLogger(__name__)

Options = Sequence[tuple[str, Any]]


class Transport(Protocol):
    def server(self, address: str) -> tuple[grpc.aio.Server, int]:
        """A server that is bound to `host:port` and not started, and its port."""

    def channel(self, address: str, options: Options = CHANNEL_OPTIONS) -> grpc.aio.Channel: ...

    def identity(self) -> object:
        """Channels opened while this was another object show an old certificate."""


class Plaintext:
    def server(self, address: str) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        return server, server.add_insecure_port(address)

    def channel(self, address: str, options: Options = CHANNEL_OPTIONS) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address, options=list(options))

    def identity(self) -> object:
        return None


PLAINTEXT = Plaintext()


class MutualTls:
    """Raises ConfigError naming the file that cannot be used."""

    def __init__(self, files: DataPlaneConfig) -> None:
        paths = (files.certificate, files.key, files.authority, files.token_file)
        self._watched = WatchedFiles(paths, lambda: read_identity(files))

    def identity(self) -> TlsIdentity:
        return self._watched.current()

    def server(self, address: str) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(interceptors=[_TokenGate(self.identity)], options=CHANNEL_OPTIONS)
        shown = self.identity()

        def renewed() -> Any:
            nonlocal shown
            if (identity := self.identity()) is shown:
                return None
            shown = identity
            return _certificates(identity)

        credentials = grpc.dynamic_ssl_server_credentials(_certificates(shown), renewed, require_client_authentication=True)
        return server, server.add_secure_port(address, credentials)

    def channel(self, address: str, options: Options = CHANNEL_OPTIONS) -> grpc.aio.Channel:
        identity = self.identity()
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate),
            grpc.access_token_call_credentials(identity.tokens[0]),
        )
        return grpc.aio.secure_channel(address, credentials, options=[*options, ("grpc.ssl_target_name_override", PEER_NAME)])


def load_transport(config: DataPlaneConfig | None) -> Transport:
    """Raises ConfigError."""
    return PLAINTEXT if config is None else MutualTls(config)


def _certificates(identity: TlsIdentity) -> Any:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], root_certificates=identity.authority)


class _TokenGate(grpc.aio.ServerInterceptor):
    def __init__(self, identity: Callable[[], TlsIdentity]) -> None:
        self._identity = identity

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        token = bearer(dict(handler_call_details.invocation_metadata).get("authorization"))
        if handler is None or (token is not None and matches(token, [hash_of(known) for known in self._identity().tokens])):
            return handler
        # All methods of the data plane stream their replies. The request is not even decoded.
        refusing = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        return refusing(_refuse)


async def _refuse(request: object, context: Any) -> None:
    logger.warning("refused %s: its data-plane token is missing or wrong", context.peer())
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the data-plane token is missing or wrong")
