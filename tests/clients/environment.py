"""An environment of its own for a client: a virtual environment or an npm folder, made once for each set of packages."""

import os
import pathlib
import shutil
import subprocess
import sys

from tests.clients.catalogue import Client

SCENARIOS = pathlib.Path(__file__).parent / "scenarios"
DONE = "installed.txt"


def default_root() -> pathlib.Path:
    """Outside of the repository."""
    return pathlib.Path.home() / ".cache" / "drafthouse-clients"


def prepared(client: Client, root: pathlib.Path) -> list[str]:
    """The command that runs the client's scenario. Raises CalledProcessError where it cannot be installed."""
    folder, wanted = root / client.name, "\n".join(client.packages)
    done = folder / DONE
    if not done.is_file() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (_install_python if client.kind == "python" else _install_node)(client, folder)
        done.write_text(wanted)
    if client.kind == "python":
        return [str(folder / "bin" / "python"), str(SCENARIOS / client.scenario)]
    for script in SCENARIOS.glob("*.mjs"):  # node looks for packages beside the script
        shutil.copy(script, folder)
    return ["node", str(folder / client.scenario)]


def _install_python(client: Client, folder: pathlib.Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *client.packages])


def _install_node(client: Client, folder: pathlib.Path) -> None:
    _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *client.packages])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"})
