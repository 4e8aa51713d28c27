"""The acceptance traces that come with the package."""

import pathlib

DEMO = pathlib.Path(__file__).parent / "demo.jsonl.gz"
"""Recorded from the demo pair: both workloads of `bench load`."""
