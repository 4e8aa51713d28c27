"""`python -m tests.chaos`: kills and stops replicas under running streams. `make chaos` runs it."""

from tests.chaos.command import chaos_app

chaos_app()
