"""`drafthouse hash-key`: the line for the server's file of keys.

Promises: standard output has that line alone, so that it can be appended to the file; a key that is made
here goes to standard error, once.
"""

import getpass
import sys
from typing import Annotated

import typer

from deployments.cli.options import errors


def hash_key(
    generate: Annotated[bool, typer.Option("--generate", help="Make a new key and show it on standard error.")] = False,
    note: Annotated[str, typer.Option(help="Whose key it is; a comment in the line.")] = "",
) -> None:
    """Print the hash of an API key, read from standard input or made here, for security.api_keys."""
    from drafthouse.security.api_keys import check_secret, generate_key, hash_of

    if generate:
        key = generate_key()
        typer.echo(f"the key, shown this once: {key}", err=True)
    else:
        key = (getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.read()).strip()
    with errors():
        check_secret(key)
    typer.echo(hash_of(key) + (f"  # {' '.join(note.split())}" if note else ""))
