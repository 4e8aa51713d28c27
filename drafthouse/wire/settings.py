"""Settings that both ends of the data plane share, and how a refusal says when to come again."""

from collections.abc import Iterable

DRAFTER_METADATA = "drafthouse-drafter"
"""A drafter that takes a verifier's stream says its name at once under this key; a refusal comes without."""

VERIFIER_METADATA = "drafthouse-verifier"
"""A verifier that takes a gateway's stream says its name at once under this key; a refusal comes without."""

MAX_MESSAGE_BYTES = 64 << 20
"""A coalesced message may open many sessions with long prompts at once."""

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A peer whose machine vanished sends no reset: pings clean up behind it. What must be noticed soon is noticed by
    # silence (drafthouse.silence), which a busy CPU does not mislead as it does these.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
]

RETRY_METADATA = "grpc-retry-pushback-ms"
"""Trailing metadata of RESOURCE_EXHAUSTED: gRPC's own key, which clients with a retry policy obey by themselves (gRFC A6)."""


def retry_metadata(retry_after_s: float) -> tuple[tuple[str, str], ...]:
    return ((RETRY_METADATA, str(round(1e3 * retry_after_s))),)


def retry_after_s(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Seconds, of the metadata of a refusal; None where nothing fit to read is said."""
    said = next((str(value) for name, value in metadata if name == RETRY_METADATA), "")
    return int(said) / 1e3 if said.isdecimal() else None
