"""Settings that both ends of the data plane share."""

DRAFTER_METADATA = "drafthouse-drafter"
"""A drafter that takes a verifier's stream says its name at once under this key; a refusal comes without."""

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
