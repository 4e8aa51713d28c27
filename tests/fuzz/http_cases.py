"""HTTP requests made from the server's own /openapi.json: such as fit it, and such as do not in one place.

Promises: the same document, seed and number make the same request. Generations stay short, and few choices are asked for.
"""

import contextlib
import random
import warnings
from collections.abc import Mapping
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import HypothesisDeprecationWarning, Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.fuzz.findings import Outcome
from tests.fuzz.http_exchange import exchange
from tests.fuzz.seeds import MOST_TOKENS

BATCH = 50
OWN_KEYS = 4
"""One request of so many has the API key that was made for it, which no server knows."""

MOST_CHOICES = 3
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMITS = ("max_tokens", "max_completion_tokens")
SETTINGS = settings(
    max_examples=BATCH, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False
)


class HttpCases:
    name = "http, by /openapi.json"

    def __init__(self, client: httpx.AsyncClient, document: Mapping[str, Any], seed: int) -> None:
        operations = [found.ok() for found in schemathesis.openapi.from_dict(dict(document)).get_all_operations()]
        self._client, self._seed = client, seed
        self._kinds = [(operation, mode) for operation in operations for mode in schemathesis.GenerationMode]
        self._bodies = [kind for kind in self._kinds if kind[0].method.lower() == "post"]
        self._cases: list[schemathesis.Case] = []
        self._batches = 0

    async def send(self, number: int) -> tuple[Outcome, str]:
        while len(self._cases) <= number:
            self._make()  # in no thread: CPython 3.11 counts the depths of two threads' ast.parse together, and fails
        case = self._cases[number]
        request = self._request(case, own_keys=number % OWN_KEYS == 0)
        if request is None:
            return Outcome("cannot be sent"), repr(case)
        return await exchange(self._client, request, lambda answer: faults_of(case, answer)), _shown(request)

    def _make(self) -> None:
        """A batch: each operation in turn once, then those that take a body."""
        kinds = self._kinds if self._batches < len(self._kinds) else self._bodies
        operation, mode = kinds[self._batches % len(kinds)]
        rng = random.Random(f"{self._seed}/{self._batches}")
        self._batches += 1

        @seeded(rng.getrandbits(64))
        @SETTINGS
        @given(case=operation.as_strategy(generation_mode=mode))
        def keep(case: schemathesis.Case) -> None:
            self._cases.append(shortened(case))

        with contextlib.suppress(Unsatisfiable), warnings.catch_warnings():  # nothing in it may be open to faults
            warnings.simplefilter("ignore", HypothesisDeprecationWarning)  # schemathesis draws from `random`, which hypothesis seeds
            keep()

    def _request(self, case: schemathesis.Case, own_keys: bool) -> httpx.Request | None:
        """None where the client would not send it. Without `own_keys` it has the client's."""
        try:
            prepared = requests.Request(**case.as_transport_kwargs(base_url=str(self._client.base_url).rstrip("/"))).prepare()
            body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
            left_out = {"content-length"} if own_keys else {"content-length", "authorization"}
            headers = {name: value for name, value in prepared.headers.items() if name.lower() not in left_out}
            return self._client.build_request(prepared.method or "", prepared.url or "", headers=headers, content=body)
        except (ValueError, httpx.InvalidURL, requests.RequestException):
            return None


def _shown(request: httpx.Request) -> str:
    return f"{request.method} {request.url} {request.headers.get('content-type')} {request.content!r}"


def shortened(case: schemathesis.Case) -> schemathesis.Case:
    """Whatever else is wrong with it, what it generates is short."""
    if isinstance(case.body, dict):
        limited = [name for name in LIMITS if name in case.body]
        for name in limited or LIMITS[:1]:
            value = case.body.get(name)
            if value is None or type(value) in (int, float) and value > MOST_TOKENS:
                case.body[name] = MOST_TOKENS
        if type(case.body.get("n")) is int and case.body["n"] > MOST_CHOICES:
            case.body["n"] = MOST_CHOICES
    return case


def faults_of(case: schemathesis.Case, answer: httpx.Response) -> str:
    """What of the answer is not as the document says; empty where all is."""
    try:
        case.validate_response(schemathesis.Response.from_any(answer), checks=CHECKS)
    except FailureGroup as group:
        return "; ".join(f"{type(failure).__name__}: {str(failure)[:300]}" for failure in group.exceptions)
    return ""
