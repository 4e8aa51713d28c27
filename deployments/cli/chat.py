"""`drafthouse chat`: a conversation with a running server in a terminal, or one prompt a line from a pipe.

Promises: standard output gets the answers' text as it comes; what else a person wants to see (greeting, prompt sign, numbers, colours)
is for terminals only. Ctrl-C ends the answer at work, here and on the server; what was said until then stays in the conversation.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from deployments.cli.draft_colours import DraftColours, draft_colours, legend
from deployments.cli.http_client import DEFAULT_URL, TOKEN_TIMEOUT_S, Url, events, only_model, server
from deployments.cli.urgency_options import FirstTokenMs, PerTokenMs, Priority, urgency_fields

COMMANDS = "/reset starts again; /exit or Ctrl-D leaves; Ctrl-C stops an answer"


def chat(
    url: Url = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Model name; by default the server's one model.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one answer at most.", min=1)] = 1024,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
    priority: Priority = None,
    first_token_ms: FirstTokenMs = None,
    per_token_ms: PerTokenMs = None,
    show_drafts: Annotated[bool, typer.Option("--show-drafts", help="Colour each token by what drafted it.")] = False,
) -> None:
    """Talk to the model. Where standard input is a pipe, its lines are the prompts, and nothing but the answers is printed."""
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature} | ({} if seed is None else {"seed": seed})
    options |= urgency_fields(priority, first_token_ms, per_token_ms, {})
    with server(url, TOKEN_TIMEOUT_S) as client:
        options["model"] = model or only_model(client)
        conversation = Conversation(client, options, system, draft_colours() if show_drafts else None)
        if sys.stdin.isatty() and sys.stdout.isatty():
            _talk(conversation, options["model"])
        else:
            _answer_lines(conversation)


@dataclass
class Answer:
    """`seconds` until the end, `first_s` until the first text; `usage` is the server's account, empty for an answer that was stopped."""

    text: str = ""
    seconds: float = 0.0
    first_s: float | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    def numbers(self) -> str:
        """One line for a person. The tokens a second are those of the whole answer, the wait for the first one included."""
        first = "" if self.first_s is None else f"first text after {self.first_s:.2f} s"
        if not self.usage:
            return ", ".join(part for part in ("stopped", first) if part)
        tokens = self.usage.get("completion_tokens", 0)
        line = f"{tokens} tokens, {tokens / max(self.seconds, 1e-9):.1f} tokens/s" + (f", {first}" if first else "")
        if speculation := self.usage.get("speculation"):
            line += f"; accepted {speculation['accepted']} of {speculation['verified']} verified"
            line += f", {tokens / max(1, speculation['steps']):.2f} tokens a step"
            line += "; SYNTHETIC acceptance, not the target's text" if speculation.get("synthetic") else ""
        return line


class Conversation:
    """The messages so far. A prompt that got no answer is not among them."""

    def __init__(self, client: httpx.Client, options: dict[str, Any], system: str | None, colours: DraftColours | None = None):
        self._client, self._options, self._system, self.colours = client, options, system, colours
        self.reset()

    def reset(self) -> None:
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def ask(self, prompt: str) -> Answer:
        """Writes the answer to standard output as it comes, until it ends or Ctrl-C is pressed.

        Raises typer.Exit for what the server refuses, when the reason has been printed, and httpx.TransportError.
        """
        asked = [*self.messages, {"role": "user", "content": prompt}]
        answer, started = Answer(), time.monotonic()
        if self.colours is not None:
            self.colours.begin()
        with contextlib.suppress(KeyboardInterrupt):
            for piece in self._pieces(asked, answer):
                if answer.first_s is None:
                    answer.first_s = time.monotonic() - started
                answer.text += piece
                self._write(piece)
        answer.seconds = time.monotonic() - started
        sys.stdout.write("\n")
        if answer.text or answer.usage:
            self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        return answer

    def _write(self, piece: str) -> None:
        sys.stdout.write(piece if self.colours is None else self.colours.coloured(piece))
        sys.stdout.flush()

    def _pieces(self, messages: list[dict[str, str]], answer: Answer) -> Iterator[str]:
        wanted = {"include_usage": True} | ({"include_trace": True} if self.colours is not None else {})
        body = self._options | {"messages": messages, "stream": True, "stream_options": wanted}
        for event in events(self._client, "/v1/chat/completions", body):
            for choice in event.get("choices", []):
                if self.colours is not None:
                    self.colours.learn(choice.get("trace", []))
                if text := choice.get("delta", {}).get("content"):
                    yield text
            answer.usage = event.get("usage") or answer.usage


def _answer_lines(conversation: Conversation) -> None:
    for line in sys.stdin:
        if line.strip() == "/exit":
            return
        if line.strip() == "/reset":
            conversation.reset()
        elif line.strip():
            conversation.ask(line.strip())


def _talk(conversation: Conversation, model: str) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives `input` line editing and a history

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{model}; {COMMANDS}", style="dim", markup=False)
    if conversation.colours is not None:
        typer.echo(legend())
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:  # gives up a line that is being typed
            console.print()
            continue
        if prompt == "/exit":
            return
        if prompt == "/reset":
            conversation.reset()
            console.print("a new conversation", style="dim")
        elif prompt:
            with contextlib.suppress(typer.Exit):  # what a server refuses once it may grant after /reset
                console.print(conversation.ask(prompt).numbers(), style="dim", markup=False)
