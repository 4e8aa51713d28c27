"""What replicas say to each other, as frozen dataclasses, and the way to protobuf and back.

Promises: `from_proto` raises WireError on anything that breaks the form (sizes, ranges, missing
kinds), naming the field; what passes has the types and limits stated here. Every message carries
what the receiver needs to see that it is stale: (session, epoch, base_len) or (request, attempt).
"""

from dataclasses import asdict, dataclass, field

from drafthouse.errors import RequestError, WireError
from drafthouse.sampling import MAX_SEED, SamplingParams
from drafthouse.speculation import Speculation as Speculation
from drafthouse.token_tree import TokenTree
from protos import dataplane_pb2 as pb

MAX_TOKENS = 1 << 22
"""No sequence on the wire is longer than this."""

MAX_WIDTH = 64
"""No session has more children drafted below one node."""


@dataclass(frozen=True, slots=True)
class Open:
    """A new session. `tokens` are the prompt and all committed tokens; the last is the root. `width` 0: the drafter's own.
    `cache_key` names whose traffic may be remembered together; empty: nobody's."""

    session: str
    epoch: int
    tokens: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    noise_version: int
    target_fingerprint: str
    max_nodes: int
    max_depth: int
    price: float
    vocab_size: int
    width: int = 0
    cache_key: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """`tokens` follow the first `base_len` committed tokens; below `price` tokens a node is not worth growing."""

    session: str
    epoch: int
    base_len: int
    tokens: tuple[int, ...]
    price: float


@dataclass(frozen=True, slots=True)
class Close:
    session: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Opened:
    session: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Refused:
    session: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Grow:
    """Nodes `first_index ...` of the tree below the first `base_len` committed tokens.

    `first_index` 0 carries the whole tree. `eta_us` (0: none planned) and `expected_tokens`
    announce the next pass: when its nodes should arrive and how many accepted tokens they promise.
    """

    session: str
    epoch: int
    base_len: int
    first_index: int
    nodes: TokenTree
    eta_us: int
    expected_tokens: float


@dataclass(frozen=True, slots=True)
class Dropped:
    session: str
    epoch: int
    reason: str


ToDrafterMessage = Open | Commit | Close
ToVerifierMessage = Opened | Refused | Grow | Dropped


@dataclass(frozen=True, slots=True)
class SpeculationUsage:
    """Tokens drafted for a request, verified by the target and accepted, and its decode steps; `synthetic` marks a text whose
    acceptance was drawn instead of compared, which is not the target's."""

    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    steps: int = 0
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One attempt at one request. `emitted` are output tokens that earlier attempts delivered."""

    request: str
    attempt: int
    prompt: tuple[int, ...]
    emitted: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int
    stop_tokens: tuple[int, ...]
    speculation: Speculation
    cache_key: str = ""


@dataclass(frozen=True, slots=True)
class GenerateReply:
    """Output tokens `first_index ...`; `finish_reason` (stop, length, error) is empty while it goes on."""

    request: str
    attempt: int
    first_index: int
    tokens: tuple[int, ...]
    finish_reason: str = ""
    error: str = ""
    usage: SpeculationUsage = field(default_factory=SpeculationUsage)


def to_drafter_proto(message: ToDrafterMessage) -> pb.DrafterMessage:
    match message:
        case Open():
            fields = {name: getattr(message, name) for name in Open.__slots__}
            fields["sampling"] = pb.Sampling(**asdict(message.sampling))
            return pb.DrafterMessage(open=pb.Open(**fields))
        case Commit(session, epoch, base_len, tokens, price):
            return pb.DrafterMessage(commit=pb.Commit(session=session, epoch=epoch, base_len=base_len, tokens=tokens, price=price))
        case Close(session, epoch):
            return pb.DrafterMessage(close=pb.Close(session=session, epoch=epoch))


def from_drafter_proto(message: pb.DrafterMessage) -> ToDrafterMessage:
    match message.WhichOneof("kind"):
        case "open":
            return _open(message.open)
        case "commit":
            m = message.commit
            if not m.tokens:
                raise WireError("commit.tokens is empty")
            _length("commit.tokens", m.base_len + len(m.tokens))
            return Commit(_session(m.session), m.epoch, m.base_len, tuple(m.tokens), _price(m.price))
        case "close":
            return Close(_session(message.close.session), message.close.epoch)
    raise WireError("message to a drafter without a kind")


def _open(m: pb.Open) -> Open:
    _length("open.tokens", len(m.tokens))
    if not m.tokens:
        raise WireError("open.tokens is empty")
    if m.vocab_size and max(m.tokens) >= m.vocab_size:
        raise WireError(f"open.tokens holds {max(m.tokens)}, outside the vocabulary of {m.vocab_size}")
    if m.width > MAX_WIDTH:
        raise WireError(f"open.width is {m.width}, the limit is {MAX_WIDTH}")
    return Open(
        session=_session(m.session), epoch=m.epoch, tokens=tuple(m.tokens), sampling=_sampling(m.sampling), seed=_seed(m.seed),
        noise_version=m.noise_version, target_fingerprint=m.target_fingerprint, max_nodes=m.max_nodes, max_depth=m.max_depth,
        price=_price(m.price), vocab_size=m.vocab_size, width=m.width, cache_key=_cache_key(m.cache_key),
    )  # fmt: skip


def to_verifier_proto(message: ToVerifierMessage) -> pb.VerifierMessage:
    match message:
        case Grow():
            n = message.nodes
            return pb.VerifierMessage(
                grow=pb.Grow(
                    session=message.session, epoch=message.epoch, base_len=message.base_len, first_index=message.first_index,
                    tokens=n.tokens, parents=n.parents, edges=n.edges, sources=n.sources,
                    next_pass_eta_us=message.eta_us, next_pass_expected_tokens=message.expected_tokens,
                )
            )  # fmt: skip
        case Opened(session, epoch):
            return pb.VerifierMessage(opened=pb.Opened(session=session, epoch=epoch))
        case Refused(session, epoch, reason):
            return pb.VerifierMessage(refused=pb.Refused(session=session, epoch=epoch, reason=reason))
        case Dropped(session, epoch, reason):
            return pb.VerifierMessage(dropped=pb.Dropped(session=session, epoch=epoch, reason=reason))


def from_verifier_proto(message: pb.VerifierMessage) -> ToVerifierMessage:
    match message.WhichOneof("kind"):
        case "grow":
            m = message.grow
            if not len(m.tokens) == len(m.parents) == len(m.edges) == len(m.sources):
                raise WireError("grow: tokens, parents, edges and sources differ in length")
            nodes = TokenTree(list(m.tokens), list(m.parents), list(m.edges), list(m.sources))
            expected = m.next_pass_expected_tokens
            if not 0.0 <= expected < 1e6:
                raise WireError(f"grow.next_pass_expected_tokens is {expected}")
            return Grow(_session(m.session), m.epoch, m.base_len, m.first_index, nodes, m.next_pass_eta_us, expected)
        case "opened":
            return Opened(_session(message.opened.session), message.opened.epoch)
        case "refused":
            return Refused(_session(message.refused.session), message.refused.epoch, message.refused.reason)
        case "dropped":
            return Dropped(_session(message.dropped.session), message.dropped.epoch, message.dropped.reason)
    raise WireError("message to a verifier without a kind")


def to_request_proto(request: GenerateRequest) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        request=request.request, attempt=request.attempt, prompt=request.prompt, emitted=request.emitted,
        sampling=pb.Sampling(**asdict(request.sampling)), seed=request.seed, max_tokens=request.max_tokens,
        stop_tokens=request.stop_tokens, speculation=pb.Speculation(**asdict(request.speculation)),
        cache_key=request.cache_key,
    )  # fmt: skip


def from_request_proto(m: pb.GenerateRequest) -> GenerateRequest:
    _length("prompt", len(m.prompt) + len(m.emitted))
    if not m.prompt:
        raise WireError("prompt is empty")
    if len(m.emitted) >= m.max_tokens:
        raise WireError(f"max_tokens is {m.max_tokens}, but {len(m.emitted)} tokens are emitted already")
    speculation = Speculation(m.speculation.mode, m.speculation.nodes, m.speculation.depth, m.speculation.width)
    try:
        speculation.check()
    except RequestError as error:
        raise WireError(str(error)) from error
    return GenerateRequest(
        request=_session(m.request), attempt=m.attempt, prompt=tuple(m.prompt), emitted=tuple(m.emitted),
        sampling=_sampling(m.sampling), seed=_seed(m.seed), max_tokens=m.max_tokens, stop_tokens=tuple(m.stop_tokens),
        speculation=speculation, cache_key=_cache_key(m.cache_key),
    )  # fmt: skip


def to_reply_proto(reply: GenerateReply) -> pb.GenerateReply:
    usage = pb.SpeculationUsage(**asdict(reply.usage))
    return pb.GenerateReply(
        request=reply.request, attempt=reply.attempt, first_index=reply.first_index, tokens=reply.tokens,
        finish_reason=reply.finish_reason, error=reply.error, usage=usage,
    )  # fmt: skip


def from_reply_proto(m: pb.GenerateReply) -> GenerateReply:
    usage = SpeculationUsage(m.usage.drafted, m.usage.verified, m.usage.accepted, m.usage.steps, m.usage.synthetic)
    return GenerateReply(m.request, m.attempt, m.first_index, tuple(m.tokens), m.finish_reason, m.error, usage)


def _session(value: str) -> str:
    if not value or len(value) > 256:
        raise WireError("a session or request id has 1 to 256 characters")
    return value


def _cache_key(value: str) -> str:
    if len(value) > 256:
        raise WireError("a cache key has at most 256 characters")
    return value


def _sampling(m: pb.Sampling) -> SamplingParams:
    sampling = SamplingParams(m.temperature, m.top_k, m.top_p, m.min_p, m.repetition_penalty)
    try:
        sampling.check()
    except RequestError as error:
        raise WireError(str(error)) from error
    return sampling


def _seed(value: int) -> int:
    if value > MAX_SEED:
        raise WireError(f"seed {value} is above 2**63 - 1")
    return value


def _price(value: float) -> float:
    if not 0.0 <= value < 1e9:
        raise WireError(f"price is {value}, not a number of tokens")
    return value


def _length(name: str, length: int) -> None:
    if length > MAX_TOKENS:
        raise WireError(f"{name} has {length} tokens, the limit is {MAX_TOKENS}")


def session_of(message: pb.DrafterMessage | pb.VerifierMessage) -> tuple[str, int] | None:
    """(session, epoch) of a message whose content may be malformed, or None if it has none."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    content = getattr(message, kind)
    return (content.session, content.epoch) if content.session else None
