"""Checks kustomize folders: `python -m tests.manifests.check k8s/overlays/gpu ...` prints what is wrong with them."""

import pathlib
import sys
from typing import Any

from tests.manifests import front, roles, rules, schemas
from tests.manifests.kustomize import RenderError, real_command, render, render_with_tool


def faults(objects: list[dict[str, Any]]) -> list[str]:
    """Schemas first: the rules take for granted what the schemas demand."""
    return schemas.faults(objects) or rules.faults(objects) + roles.faults(objects) + front.faults(objects)


def main(folders: list[str]) -> int:
    """The number of faults. The real kustomize renders where it is installed."""
    command, count = real_command(), 0
    for folder in map(pathlib.Path, folders):
        try:
            found = faults(render_with_tool(folder, command) if command else render(folder))
        except RenderError as error:
            found = [str(error)]
        print(*(f"{folder}: {line}" for line in found or ["ok"]), sep="\n")
        count += len(found)
    return count


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
