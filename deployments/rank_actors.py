"""Ranks as Ray actors, one for each bundle of the replica's placement group: how a served replica gets its other ranks.

Promises: rank `i` runs in bundle `i`, so with what the configuration reserves for it and nowhere else. The
actors belong to the replica and end with it.
"""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.parallel.invitation import Invitation
from drafthouse.errors import ConfigError


class Rank:
    """The actor."""

    def follow(self, invitation: Invitation) -> None:
        from drafthouse.engine.parallel.follower import follow

        follow(invitation)


class RankActors:
    """Made where the application is built; started in the replica. `actor` are Ray's options of one rank."""

    def __init__(self, actor: dict[str, Any]):
        self.actor = actor
        self._actors: list[Any] = []
        self._ends: dict[int, ray.ObjectRef] = {}

    def start(self, config: ModelConfig, invitations: Sequence[Invitation]) -> None:
        group = ray.util.get_current_placement_group()
        present = group.bundle_count if group is not None else 1
        if present < config.parallel:
            raise ConfigError(f"{config.path}: parallel: {config.parallel} devices are asked for, and this replica was given {present}")
        for invitation in invitations:
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=invitation.rank)
            actor = ray.remote(Rank).options(**self.actor, scheduling_strategy=where).remote()
            self._actors.append(actor)
            self._ends[invitation.rank] = actor.follow.remote(invitation)

    def failure(self) -> str:
        ended, _ = ray.wait(list(self._ends.values()), num_returns=len(self._ends), timeout=0)
        return "; ".join(f"rank {rank} {_how(end)}" for rank, end in self._ends.items() if end in ended)


def _how(end: ray.ObjectRef) -> str:
    try:
        ray.get(end)
    except RayError as error:
        return f"could not be started: {error}"
    return "ended"
