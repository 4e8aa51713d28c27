"""Errors of a chat request under the names of the body that it was made from."""

import pytest

from deployments.api.field_names import FieldNames
from drafthouse.errors import RequestError

NAMES = FieldNames({"messages": "input", "messages.1": "input.3", "tools": "tools", "max_tokens": "limit", "tools.0.function": "tools.0"})


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("messages", "input"),
        ("messages.1.content", "input.3.content"),
        ("messages.10", "input.10"),
        ("tools.0.function.name", "tools.0.name"),
        ("seed", "seed"),
    ],
)
def test_the_longest_beginning_that_has_a_name_of_its_own_counts(path, own):
    assert NAMES.own(path) == own


def test_what_is_raised_names_the_clients_fields():
    with pytest.raises(RequestError) as raised, NAMES.named():
        raise RequestError("messages.1.content: no messages; min_tokens is above max_tokens", "messages.1.content", "c", 413)
    error = raised.value
    assert str(error) == "input.3.content: no messages; min_tokens is above limit"
    assert (error.param, error.code, error.status) == ("input.3.content", "c", 413)


def test_a_path_within_another_or_beside_it_stays():
    said = NAMES.said("max_tokens.a and (max_tokens), not x.max_tokens or max_tokens_a; messages; messages.1.a-b", "messages.1.a-b")
    assert said == "limit.a and (limit), not x.max_tokens or max_tokens_a; messages; input.3.a-b"


class Unlisted(dict[str, str]):
    """Names that are looked up and never gone through: a request may have thousands."""

    def __iter__(self):
        raise AssertionError


def test_a_message_costs_what_it_is_long_however_many_names_there_are():
    names = FieldNames(Unlisted({f"messages.{i}.tool_calls": f"input.{i}" for i in range(9)}))
    assert names.said("messages.7.tool_calls is bad", "messages.7.tool_calls") == "input.7 is bad"


def test_an_error_of_no_field_names_none():
    with pytest.raises(RequestError, match="^too many messages for limit$") as raised, NAMES.named():
        raise RequestError("too many messages for max_tokens")
    assert raised.value.param is None
