"""What a replica shows its peers on the data plane, and what it asks of theirs: certificate, authority, tokens.

Promises: it is whole. The certificate is tried on itself in a TLS handshake in memory, once as the server and once as
the client, so that a wrong key, authority, name or date shows at start and says which file is at fault.
"""

import pathlib
import ssl
from dataclasses import dataclass, field

from drafthouse.config.security import DataPlaneConfig
from drafthouse.errors import ConfigError
from drafthouse.security.api_keys import check_secret
from drafthouse.security.watched_files import read_text

PEER_NAME = "drafthouse-data-plane"
"""The DNS name in every replica's certificate. Peers are dialled by addresses that nobody knows when certificates are issued."""


@dataclass(frozen=True, eq=False)
class TlsIdentity:
    """PEM, and tokens of which the first is sent and all are accepted."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes
    tokens: tuple[str, ...] = field(repr=False)


def read_identity(files: DataPlaneConfig) -> TlsIdentity:
    """Raises ConfigError naming the key of the configuration and the file."""
    pem = {name: _named(name, getattr(files, name)).encode() for name in ("certificate", "key", "authority")}
    tokens = tuple(_named("token_file", files.token_file).split())
    try:
        for token in tokens or ("",):
            check_secret(token)
    except ConfigError as error:
        raise ConfigError(f"security.data_plane.token_file: {files.token_file}: {error}") from error
    _check_certificate(files)
    return TlsIdentity(pem["certificate"], pem["key"], pem["authority"], tokens)


def _named(name: str, path: pathlib.Path) -> str:
    try:
        return read_text(path)
    except ConfigError as error:
        raise ConfigError(f"security.data_plane.{name}: {error}") from error


def _check_certificate(files: DataPlaneConfig) -> None:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        try:
            context.load_verify_locations(files.authority)
        except ssl.SSLError as error:
            raise ConfigError(f"security.data_plane.authority: {files.authority}: {_reason(error)}") from error
        try:
            # A password that is asked for on the terminal would stop the replica.
            context.load_cert_chain(files.certificate, files.key, password="")
        except ssl.SSLError as error:
            both = f"{files.certificate} and {files.key}"
            raise ConfigError(f"security.data_plane.certificate and key: {both}: {_reason(error)}") from error
    try:
        _shake_hands(server, client)
    except ssl.SSLError as error:
        raise ConfigError(
            f"security.data_plane.certificate: {files.certificate}: peers with {files.authority} would refuse it, "
            f"which must be for the DNS name {PEER_NAME} and for servers and clients both: {_reason(error)}"
        ) from error


def _shake_hands(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=PEER_NAME)
    pending = [client, server]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                pass


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's words, without its error codes and source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).lower().replace("_", " ")
