"""Rules of the kernel's packet filter, in tables of their own, by the program nft."""

import os
import shutil
import subprocess

from drafthouse.errors import ConfigError


def possible() -> bool:
    """Needs root and the program nft (Debian: apt install nftables)."""
    return os.geteuid() == 0 and shutil.which("nft") is not None


def nft(command: str) -> None:
    """Raises ConfigError with nft's words."""
    done = subprocess.run(["nft", command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"nft {command}: {done.stderr.strip()}")
