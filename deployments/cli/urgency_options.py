"""Options `--priority`, `--first-token-ms` and `--per-token-ms`, and what they make of a request's body."""

from typing import Annotated, Any

import typer

from drafthouse.objective import FIELDS, FIRST_PRIORITY, LAST_PRIORITY, LEAST_MS

Priority = Annotated[
    int | None, typer.Option(help="The lower one goes first; by default the key's or the server's.", min=FIRST_PRIORITY, max=LAST_PRIORITY)
]
FirstTokenMs = Annotated[float | None, typer.Option(help="Objective: milliseconds to the first token.", min=LEAST_MS)]
PerTokenMs = Annotated[float | None, typer.Option(help="Objective: milliseconds for each later token, on average.", min=LEAST_MS)]


def urgency_fields(
    priority: int | None, first_token_ms: float | None, per_token_ms: float | None, speculation: dict[str, Any]
) -> dict[str, Any]:
    """Fields of the body; `speculation` is what it says of that otherwise."""
    said = {name: value for name, value in zip(FIELDS, (first_token_ms, per_token_ms), strict=True) if value is not None}
    speculation = speculation | ({"objective": said} if said else {})
    return ({"speculation": speculation} if speculation else {}) | ({} if priority is None else {"priority": priority})
