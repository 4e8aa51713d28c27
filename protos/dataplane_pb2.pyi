from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens", "logit_bias", "allowed_token_ids", "bad_words", "thinking", "grammar")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BAD_WORDS_FIELD_NUMBER: _ClassVar[int]
    THINKING_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    min_tokens: int
    logit_bias: _containers.RepeatedCompositeFieldContainer[TokenBias]
    allowed_token_ids: _containers.RepeatedScalarFieldContainer[int]
    bad_words: _containers.RepeatedCompositeFieldContainer[TokenRun]
    thinking: ThinkingBudget
    grammar: Grammar
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., min_tokens: _Optional[int] = ..., logit_bias: _Optional[_Iterable[_Union[TokenBias, _Mapping]]] = ..., allowed_token_ids: _Optional[_Iterable[int]] = ..., bad_words: _Optional[_Iterable[_Union[TokenRun, _Mapping]]] = ..., thinking: _Optional[_Union[ThinkingBudget, _Mapping]] = ..., grammar: _Optional[_Union[Grammar, _Mapping]] = ...) -> None: ...

class Grammar(_message.Message):
    __slots__ = ("kind", "text", "thought")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    THOUGHT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    text: str
    thought: Thought
    def __init__(self, kind: _Optional[str] = ..., text: _Optional[str] = ..., thought: _Optional[_Union[Thought, _Mapping]] = ...) -> None: ...

class Thought(_message.Message):
    __slots__ = ("opening", "closing", "inside")
    OPENING_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    opening: int
    closing: int
    inside: bool
    def __init__(self, opening: _Optional[int] = ..., closing: _Optional[int] = ..., inside: _Optional[bool] = ...) -> None: ...

class ThinkingBudget(_message.Message):
    __slots__ = ("tokens", "opening", "closing", "inside")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    opening: int
    closing: int
    inside: bool
    def __init__(self, tokens: _Optional[int] = ..., opening: _Optional[int] = ..., closing: _Optional[int] = ..., inside: _Optional[bool] = ...) -> None: ...

class TokenBias(_message.Message):
    __slots__ = ("token", "bias")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    token: int
    bias: float
    def __init__(self, token: _Optional[int] = ..., bias: _Optional[float] = ...) -> None: ...

class TokenRun(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class Speculation(_message.Message):
    __slots__ = ("mode", "nodes", "depth", "width")
    MODE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    mode: str
    nodes: int
    depth: int
    width: int
    def __init__(self, mode: _Optional[str] = ..., nodes: _Optional[int] = ..., depth: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class ToDrafter(_message.Message):
    __slots__ = ("verifier", "messages", "echo_us")
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ECHO_US_FIELD_NUMBER: _ClassVar[int]
    verifier: str
    messages: _containers.RepeatedCompositeFieldContainer[DrafterMessage]
    echo_us: int
    def __init__(self, verifier: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[DrafterMessage, _Mapping]]] = ..., echo_us: _Optional[int] = ...) -> None: ...

class ToVerifier(_message.Message):
    __slots__ = ("drafter", "messages", "echo_us", "echo_delay_us")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ECHO_US_FIELD_NUMBER: _ClassVar[int]
    ECHO_DELAY_US_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    messages: _containers.RepeatedCompositeFieldContainer[VerifierMessage]
    echo_us: int
    echo_delay_us: int
    def __init__(self, drafter: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[VerifierMessage, _Mapping]]] = ..., echo_us: _Optional[int] = ..., echo_delay_us: _Optional[int] = ...) -> None: ...

class DrafterMessage(_message.Message):
    __slots__ = ("open", "commit", "close", "hold")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    open: Open
    commit: Commit
    close: Close
    hold: Hold
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ...) -> None: ...

class VerifierMessage(_message.Message):
    __slots__ = ("opened", "refused", "grow", "dropped")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    GROW_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    refused: Refused
    grow: Grow
    dropped: Dropped
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., grow: _Optional[_Union[Grow, _Mapping]] = ..., dropped: _Optional[_Union[Dropped, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("session_id", "epoch", "tokens", "sampling", "seed", "noise_version", "target_fingerprint", "max_nodes", "max_depth", "min_confidence", "vocab_size", "width", "cache_key", "vocabulary", "prompt_len", "stop_tokens", "traceparent", "states_to_come", "worth")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NOISE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CACHE_KEY_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LEN_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    STATES_TO_COME_FIELD_NUMBER: _ClassVar[int]
    WORTH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    seed: int
    noise_version: int
    target_fingerprint: str
    max_nodes: int
    max_depth: int
    min_confidence: float
    vocab_size: int
    width: int
    cache_key: str
    vocabulary: str
    prompt_len: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    traceparent: str
    states_to_come: int
    worth: float
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., seed: _Optional[int] = ..., noise_version: _Optional[int] = ..., target_fingerprint: _Optional[str] = ..., max_nodes: _Optional[int] = ..., max_depth: _Optional[int] = ..., min_confidence: _Optional[float] = ..., vocab_size: _Optional[int] = ..., width: _Optional[int] = ..., cache_key: _Optional[str] = ..., vocabulary: _Optional[str] = ..., prompt_len: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., traceparent: _Optional[str] = ..., states_to_come: _Optional[int] = ..., worth: _Optional[float] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("session_id", "epoch", "base_len", "tokens", "min_confidence", "states", "worth")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    WORTH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    base_len: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    min_confidence: float
    states: bytes
    worth: float
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., base_len: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., min_confidence: _Optional[float] = ..., states: _Optional[bytes] = ..., worth: _Optional[float] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("session_id", "epoch", "finished")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    finished: bool
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., finished: _Optional[bool] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("session_id", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("session_id", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("session_id", "epoch", "reason", "scope")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    reason: str
    scope: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., reason: _Optional[str] = ..., scope: _Optional[int] = ...) -> None: ...

class Grow(_message.Message):
    __slots__ = ("session_id", "epoch", "base_len", "first_node", "tokens", "parents", "edges", "sources", "next_pass_eta_us", "next_pass_expected_tokens")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    FIRST_NODE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PASS_ETA_US_FIELD_NUMBER: _ClassVar[int]
    NEXT_PASS_EXPECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    base_len: int
    first_node: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    parents: _containers.RepeatedScalarFieldContainer[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    sources: _containers.RepeatedScalarFieldContainer[int]
    next_pass_eta_us: int
    next_pass_expected_tokens: float
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., base_len: _Optional[int] = ..., first_node: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., parents: _Optional[_Iterable[int]] = ..., edges: _Optional[_Iterable[float]] = ..., sources: _Optional[_Iterable[int]] = ..., next_pass_eta_us: _Optional[int] = ..., next_pass_expected_tokens: _Optional[float] = ...) -> None: ...

class Dropped(_message.Message):
    __slots__ = ("session_id", "epoch", "reason", "scope")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    reason: str
    scope: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., reason: _Optional[str] = ..., scope: _Optional[int] = ...) -> None: ...

class FromGateway(_message.Message):
    __slots__ = ("starts", "cancels", "give_back")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    GIVE_BACK_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedCompositeFieldContainer[GenerateRequest]
    cancels: _containers.RepeatedCompositeFieldContainer[Cancel]
    give_back: GiveBack
    def __init__(self, starts: _Optional[_Iterable[_Union[GenerateRequest, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., give_back: _Optional[_Union[GiveBack, _Mapping]] = ...) -> None: ...

class GiveBack(_message.Message):
    __slots__ = ("count", "begun")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    count: int
    begun: bool
    def __init__(self, count: _Optional[int] = ..., begun: _Optional[bool] = ...) -> None: ...

class ToGateway(_message.Message):
    __slots__ = ("replies", "refusals", "draining", "stalled")
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    STALLED_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[GenerateReply]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    draining: bool
    stalled: bool
    def __init__(self, replies: _Optional[_Iterable[_Union[GenerateReply, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., draining: _Optional[bool] = ..., stalled: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("request_id", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("request_id", "attempt", "kind", "reason", "retry_after_s")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    kind: int
    reason: str
    retry_after_s: float
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., kind: _Optional[int] = ..., reason: _Optional[str] = ..., retry_after_s: _Optional[float] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "attempt", "prompt", "delivered", "sampling", "seed", "max_tokens", "stop_tokens", "speculation", "cache_key", "resumed", "top_logprobs", "prompt_top_logprobs", "logprobs_mode", "scored", "prediction", "trace", "traceparent", "priority", "objective", "had_turn")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    CACHE_KEY_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_MODE_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    HAD_TURN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    prompt: _containers.RepeatedScalarFieldContainer[int]
    delivered: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    seed: int
    max_tokens: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    speculation: Speculation
    cache_key: str
    resumed: bool
    top_logprobs: int
    prompt_top_logprobs: int
    logprobs_mode: str
    scored: int
    prediction: _containers.RepeatedScalarFieldContainer[int]
    trace: bool
    traceparent: str
    priority: int
    objective: Objective
    had_turn: bool
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., prompt: _Optional[_Iterable[int]] = ..., delivered: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., speculation: _Optional[_Union[Speculation, _Mapping]] = ..., cache_key: _Optional[str] = ..., resumed: _Optional[bool] = ..., top_logprobs: _Optional[int] = ..., prompt_top_logprobs: _Optional[int] = ..., logprobs_mode: _Optional[str] = ..., scored: _Optional[int] = ..., prediction: _Optional[_Iterable[int]] = ..., trace: _Optional[bool] = ..., traceparent: _Optional[str] = ..., priority: _Optional[int] = ..., objective: _Optional[_Union[Objective, _Mapping]] = ..., had_turn: _Optional[bool] = ...) -> None: ...

class Objective(_message.Message):
    __slots__ = ("first_token_ms", "per_token_ms", "waited_s", "since_first_s")
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    PER_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIRST_S_FIELD_NUMBER: _ClassVar[int]
    first_token_ms: float
    per_token_ms: float
    waited_s: float
    since_first_s: float
    def __init__(self, first_token_ms: _Optional[float] = ..., per_token_ms: _Optional[float] = ..., waited_s: _Optional[float] = ..., since_first_s: _Optional[float] = ...) -> None: ...

class GenerateReply(_message.Message):
    __slots__ = ("request_id", "attempt", "first_token_index", "tokens", "finish_reason", "error", "usage", "logprobs", "first_prompt_index", "prompt_logprobs", "trace")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FIRST_PROMPT_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    first_token_index: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    finish_reason: str
    error: str
    usage: SpeculationUsage
    logprobs: TokenLogprobs
    first_prompt_index: int
    prompt_logprobs: TokenLogprobs
    trace: StepTrace
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., first_token_index: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., finish_reason: _Optional[str] = ..., error: _Optional[str] = ..., usage: _Optional[_Union[SpeculationUsage, _Mapping]] = ..., logprobs: _Optional[_Union[TokenLogprobs, _Mapping]] = ..., first_prompt_index: _Optional[int] = ..., prompt_logprobs: _Optional[_Union[TokenLogprobs, _Mapping]] = ..., trace: _Optional[_Union[StepTrace, _Mapping]] = ...) -> None: ...

class StepTrace(_message.Message):
    __slots__ = ("step", "base_len", "tokens", "parents", "edges", "confidences", "sources", "verified", "chosen", "accepted", "left_out", "price", "wait_s", "device_s", "step_s")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_S_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    step: int
    base_len: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    parents: _containers.RepeatedScalarFieldContainer[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    confidences: _containers.RepeatedScalarFieldContainer[float]
    sources: _containers.RepeatedScalarFieldContainer[int]
    verified: _containers.RepeatedScalarFieldContainer[int]
    chosen: _containers.RepeatedScalarFieldContainer[int]
    accepted: _containers.RepeatedScalarFieldContainer[int]
    left_out: int
    price: float
    wait_s: float
    device_s: float
    step_s: float
    def __init__(self, step: _Optional[int] = ..., base_len: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., parents: _Optional[_Iterable[int]] = ..., edges: _Optional[_Iterable[float]] = ..., confidences: _Optional[_Iterable[float]] = ..., sources: _Optional[_Iterable[int]] = ..., verified: _Optional[_Iterable[int]] = ..., chosen: _Optional[_Iterable[int]] = ..., accepted: _Optional[_Iterable[int]] = ..., left_out: _Optional[int] = ..., price: _Optional[float] = ..., wait_s: _Optional[float] = ..., device_s: _Optional[float] = ..., step_s: _Optional[float] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("logprobs", "ranks", "top_ids", "top_logprobs")
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, logprobs: _Optional[_Iterable[float]] = ..., ranks: _Optional[_Iterable[int]] = ..., top_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class SpeculationUsage(_message.Message):
    __slots__ = ("drafted", "verified", "accepted", "steps", "synthetic", "cached_tokens", "predicted", "predicted_accepted", "forced")
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    drafted: int
    verified: int
    accepted: int
    steps: int
    synthetic: bool
    cached_tokens: int
    predicted: int
    predicted_accepted: int
    forced: int
    def __init__(self, drafted: _Optional[int] = ..., verified: _Optional[int] = ..., accepted: _Optional[int] = ..., steps: _Optional[int] = ..., synthetic: _Optional[bool] = ..., cached_tokens: _Optional[int] = ..., predicted: _Optional[int] = ..., predicted_accepted: _Optional[int] = ..., forced: _Optional[int] = ...) -> None: ...
