"""Official clients that are tried in environments of their own: what is installed, and which scenario runs there.

Promises: versions are pinned; nothing is installed into this repository or its environment.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Client:
    """`packages`: as pip or npm name them, with their versions. `scenario`: a file in the folder `scenarios`."""

    name: str
    kind: Literal["python", "node"]
    packages: tuple[str, ...]
    scenario: str


CLIENTS = {
    client.name: client
    for client in (
        Client("anthropic", "python", ("anthropic==2.14.0",), "anthropic_client.py"),
        Client("openai-python", "python", ("openai==3.52.0",), "openai_client.py"),
        Client("openai-node", "node", ("openai@7.59.0",), "openai_node.mjs"),
        Client("ai-sdk", "node", ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/openai-compatible@3.0.92", "zod@4.6.7"), "ai_sdk.mjs"),
        Client("langchain-openai", "python", ("langchain-openai==1.7.4",), "langchain_client.py"),
        Client("llama-index", "python", ("llama-index-llms-openai-like==0.8.1",), "llama_index_client.py"),
        Client("pydantic-ai", "python", ("pydantic-ai-slim[openai]==2.68.0",), "pydantic_ai_client.py"),
        Client("instructor", "python", ("instructor==1.17.0",), "instructor_client.py"),
        Client("litellm", "python", ("litellm==1.110.2",), "litellm_client.py"),
        Client("guidellm", "python", ("guidellm==0.8.1",), "guidellm_client.py"),
        Client("aiperf", "python", ("aiperf==0.13.0",), "aiperf_client.py"),
    )
}
