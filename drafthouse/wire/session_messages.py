"""What verifier and drafter say to each other, as frozen dataclasses, and the way to protobuf and back.

Promises: `from_..._proto` raises WireError on anything that breaks the form (sizes, ranges, missing
kinds), naming the field; what passes has the types and limits stated here. Every message carries
what the receiver needs to see that it is stale: (session_id, epoch, base_len).
"""

from dataclasses import dataclass
from enum import IntEnum

from drafthouse.errors import WireError
from drafthouse.sampling import SamplingParams
from drafthouse.token_tree import TokenTree
from drafthouse.wire.fields import (
    cache_key,
    check_length,
    identifier,
    min_confidence_of,
    sampling_of,
    sampling_proto,
    seed_of,
    traceparent_of,
    worth_of,
)
from drafthouse.wire.states import states_field
from protos import dataplane_pb2 as pb

MAX_WIDTH = 64
"""No session has more children drafted below one node."""


class Scope(IntEnum):
    """What a reason to refuse or to drop a session holds for: this moment, so that a later try may do; this sequence, for good;
    or this verifier and this drafter, for good."""

    MOMENT = 0
    SEQUENCE = 1
    PAIR = 2


@dataclass(frozen=True, slots=True)
class Open:
    """A new session. `tokens` are the prompt and all committed tokens; the last is the root. `width` 0: the drafter's own.
    `vocab_size` bounds the ids that may be drafted; `vocabulary` tells which token each id is (`drafthouse.engine.vocabulary`), empty
    where that is not known. `cache_key` names whose traffic may be remembered together; empty: nothing is remembered. The first
    `prompt_len` tokens are the prompt (0: not known, all count as prompt), and `stop_tokens` would end the output. States of the last
    `states_to_come` tokens should come with the first commit: a draft that reads them had better wait. `worth`: as in Commit.
    `traceparent`: the verifier's span of the request, for the drafter's own spans; empty: there is none."""

    session_id: str
    epoch: int
    tokens: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    noise_version: int
    target_fingerprint: str
    max_nodes: int
    max_depth: int
    min_confidence: float
    vocab_size: int
    width: int = 0
    cache_key: str = ""
    vocabulary: str = ""
    prompt_len: int = 0
    stop_tokens: tuple[int, ...] = ()
    states_to_come: int = 0
    traceparent: str = ""
    worth: float = 1.0


@dataclass(frozen=True, slots=True)
class Commit:
    """`tokens` follow the first `base_len` committed tokens. A node is worth growing if its path confidence, by the drafter's own
    edges, is at least `min_confidence`. `states` are rows (`drafthouse.wire.states`): the target's states that chose the last tokens
    that are committed by now, one of each, ending with that of the last one; empty where none are sent. `worth`: of the next tokens,
    beside those of other sessions."""

    session_id: str
    epoch: int
    base_len: int
    tokens: tuple[int, ...]
    min_confidence: float
    states: bytes = b""
    worth: float = 1.0


@dataclass(frozen=True, slots=True)
class Close:
    """The session is over. `finished`: so is the request, by a stop token or by its length."""

    session_id: str
    epoch: int
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """The tree is being verified: until the commit nothing is to grow. Sent only where `tree.grow_during_verification` is off."""

    session_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is open."""

    session_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The session was not opened; the verifier may ask another drafter."""

    session_id: str
    epoch: int
    reason: str
    scope: Scope = Scope.MOMENT


@dataclass(frozen=True, slots=True)
class Grow:
    """Nodes `first_node ...` of the tree below the first `base_len` committed tokens.

    With `first_node` 0 these are all nodes of the tree. `next_pass_eta_us` (0: none planned) and `next_pass_expected_tokens`
    announce the next pass: when its nodes should arrive and how many accepted tokens they promise.
    """

    session_id: str
    epoch: int
    base_len: int
    first_node: int
    nodes: TokenTree
    next_pass_eta_us: int
    next_pass_expected_tokens: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """The drafter has given an open session up, or does not know the session of a commit."""

    session_id: str
    epoch: int
    reason: str
    scope: Scope = Scope.MOMENT


ToDrafterMessage = Open | Commit | Close | Hold
ToVerifierMessage = Opened | Refused | Grow | Dropped


def to_drafter_proto(message: ToDrafterMessage) -> pb.DrafterMessage:
    match message:
        case Open():
            fields = {name: getattr(message, name) for name in Open.__slots__}
            fields |= {"sampling": sampling_proto(message.sampling), "worth": _unequal(message.worth)}
            return pb.DrafterMessage(open=pb.Open(**fields))
        case Commit():
            fields = {name: getattr(message, name) for name in Commit.__slots__}
            return pb.DrafterMessage(commit=pb.Commit(**fields | {"worth": _unequal(message.worth)}))
        case Close(session_id, epoch, finished):
            return pb.DrafterMessage(close=pb.Close(session_id=session_id, epoch=epoch, finished=finished))
        case Hold(session_id, epoch):
            return pb.DrafterMessage(hold=pb.Hold(session_id=session_id, epoch=epoch))


def from_drafter_proto(message: pb.DrafterMessage) -> ToDrafterMessage:
    match message.WhichOneof("kind"):
        case "open":
            return _open(message.open)
        case "commit":
            m = message.commit
            if not m.tokens:
                raise WireError("commit.tokens is empty")
            check_length("commit.tokens", m.base_len + len(m.tokens))
            states = states_field("commit.states", m.states)
            least, worth = min_confidence_of(m.min_confidence), worth_of("commit.worth", m)
            return Commit(identifier(m.session_id), m.epoch, m.base_len, tuple(m.tokens), least, states, worth)
        case "close":
            return Close(identifier(message.close.session_id), message.close.epoch, message.close.finished)
        case "hold":
            return Hold(identifier(message.hold.session_id), message.hold.epoch)
    raise WireError("message to a drafter without a kind")


def _open(m: pb.Open) -> Open:
    check_length("open.tokens", len(m.tokens))
    if not m.tokens:
        raise WireError("open.tokens is empty")
    if m.vocab_size and max(m.tokens) >= m.vocab_size:
        raise WireError(f"open.tokens holds {max(m.tokens)}, outside the vocabulary of {m.vocab_size}")
    if m.states_to_come >= len(m.tokens):
        raise WireError(f"open.states_to_come is {m.states_to_come}, of {len(m.tokens)} tokens, and no state chose the first")
    if m.width > MAX_WIDTH:
        raise WireError(f"open.width is {m.width}, the limit is {MAX_WIDTH}")
    return Open(
        session_id=identifier(m.session_id), epoch=m.epoch, tokens=tuple(m.tokens), sampling=sampling_of(m.sampling), seed=seed_of(m.seed),
        noise_version=m.noise_version, target_fingerprint=m.target_fingerprint, max_nodes=m.max_nodes, max_depth=m.max_depth,
        min_confidence=min_confidence_of(m.min_confidence), vocab_size=m.vocab_size, width=m.width, cache_key=cache_key(m.cache_key),
        vocabulary=m.vocabulary, prompt_len=m.prompt_len, stop_tokens=tuple(m.stop_tokens),
        states_to_come=m.states_to_come, traceparent=traceparent_of(m.traceparent), worth=worth_of("open.worth", m),
    )  # fmt: skip


def to_verifier_proto(message: ToVerifierMessage) -> pb.VerifierMessage:
    match message:
        case Grow():
            n = message.nodes
            return pb.VerifierMessage(
                grow=pb.Grow(
                    session_id=message.session_id, epoch=message.epoch, base_len=message.base_len, first_node=message.first_node,
                    tokens=n.tokens, parents=n.parents, edges=n.edges, sources=n.sources,
                    next_pass_eta_us=message.next_pass_eta_us, next_pass_expected_tokens=message.next_pass_expected_tokens,
                )
            )  # fmt: skip
        case Opened(session_id, epoch):
            return pb.VerifierMessage(opened=pb.Opened(session_id=session_id, epoch=epoch))
        case Refused(session_id, epoch, reason, scope):
            return pb.VerifierMessage(refused=pb.Refused(session_id=session_id, epoch=epoch, reason=reason, scope=scope))
        case Dropped(session_id, epoch, reason, scope):
            return pb.VerifierMessage(dropped=pb.Dropped(session_id=session_id, epoch=epoch, reason=reason, scope=scope))


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
            return Grow(identifier(m.session_id), m.epoch, m.base_len, m.first_node, nodes, m.next_pass_eta_us, expected)
        case "opened":
            return Opened(identifier(message.opened.session_id), message.opened.epoch)
        case "refused":
            m = message.refused
            return Refused(identifier(m.session_id), m.epoch, m.reason, _scope(m.scope))
        case "dropped":
            m = message.dropped
            return Dropped(identifier(m.session_id), m.epoch, m.reason, _scope(m.scope))
    raise WireError("message to a verifier without a kind")


def _unequal(worth: float) -> float | None:
    """Of a message: nothing where tokens are worth as much as others."""
    return None if worth == 1.0 else worth


def _scope(number: int) -> Scope:
    try:
        return Scope(number)
    except ValueError:
        raise WireError(f"scope is {number}, the largest is {max(Scope)}") from None


def session_of(message: pb.DrafterMessage | pb.VerifierMessage) -> tuple[str, int] | None:
    """(session_id, epoch) of a message whose content may be malformed, or None if it has none."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    content = getattr(message, kind)
    return (content.session_id, content.epoch) if content.session_id else None
