"""How the outputs of a request are read: for calls of its tools, for reasoning, or as they are."""

from dataclasses import dataclass

from deployments.gateway.detokenizer import TokenBytes
from deployments.parsers.output_parser import OutputParser
from deployments.parsers.registry import ToolFormat
from deployments.parsers.thinking import ThinkParser, ThinkTags


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """`tools`: how the model writes calls, None where it may not call; `names` of those that it may. `inside`: it goes on thinking."""

    token_bytes: TokenBytes
    tools: ToolFormat | None = None
    names: frozenset[str] = frozenset()
    one_call: bool = False
    tags: ThinkTags | None = None
    inside: bool = False

    def parser(self) -> OutputParser | None:
        """For one output. None: all of it is content."""
        if self.tools is None and self.tags is None:
            return None
        thinking = ThinkParser(self.tags, self.inside) if self.tags is not None else None
        return OutputParser(thinking, self.tools.make(self.names) if self.tools is not None else None, self.one_call)
