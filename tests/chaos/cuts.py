"""Cuts a replica's data plane off: packets to and from its port are dropped, while the process runs and its heartbeats go on.

Promises: each cut is an nftables table of its own; after `heal_all` none that was made here is left.
"""

from benchmarks.harness.nftables import nft

TABLE = "drafthouse_cut_"


class Cuts:
    def __init__(self) -> None:
        self._ports: set[int] = set()

    def cut(self, port: int) -> None:
        """Both ways: on one machine each packet goes out once. Raises ConfigError with nft's words."""
        self._ports.add(port)
        table = f"inet {TABLE}{port}"
        nft(f"add table {table}")
        nft(f"add chain {table} out {{ type filter hook output priority 0; }}")
        for side in ("dport", "sport"):
            nft(f"add rule {table} out tcp {side} {port} drop")

    def heal(self, port: int) -> None:
        if port in self._ports:
            self._ports.remove(port)
            nft(f"delete table inet {TABLE}{port}")

    def heal_all(self) -> None:
        for port in list(self._ports):
            self.heal(port)
