"""Calls as Llama 3's models write them: {"name": ..., "parameters": {...}}, several with `;` between, behind <|python_tag|> or not."""

from deployments.parsers.call_form import CallForm
from deployments.parsers.json_calls import JsonCallsParser

PYTHON_TAG = "<|python_tag|>"
FORM = CallForm(('{"name": "',), ('", "parameters": ',), ("}",), between=("; ",))


class Llama3Parser(JsonCallsParser):
    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names, marker=PYTHON_TAG, separators=";,")
