"""What the target is asked to write: one task for each text's number.

Promises: a task depends on the seed, its number, the attempt and the user's prompts alone, so a run that was killed goes on with the
tasks that it would have had. About half of all user turns are the target's own (Magpie, arXiv 2406.08464); of the others half are the
user's, as far as they go, and the rest comes from the seeds that ship.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from drafthouse.distillation.seeds import KINDS, Draws, Seeds
from drafthouse.noise import derive_seed

TEMPERATURES = (0.0, 0.7, 1.0)

OWN_TEMPERATURE = 1.0
"""Of the turns that the target writes in the user's place."""

ATTEMPTS = 4
"""Turns of its own that the target may write for one text; when all are refused a seed takes their place."""

FOLLOWED = 8
"""One in this many of the seeds has a second turn."""

OWN, USERS, BEGINNING = "own", "user", "beginning"
"""Kinds of text beside those of the seeds: the target's own turns, the user's prompts, and beginnings that a base model goes on with."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """One text to be written. Either `messages` are there, and the target answers; or `beginning`, and the target goes on with it; or
    `opening`, and the target first writes the user's turn, which begins so. `follow_up`: what the user says to the answer; empty:
    nothing."""

    number: int
    kind: str
    temperature: float
    seed: int
    messages: tuple[Message, ...] | None = None
    beginning: str | None = None
    opening: str | None = None
    follow_up: str = ""


class Prompts:
    """`users`: conversations that the user gave. `chat`: whether the target has a chat template."""

    def __init__(self, seeds: Seeds, users: Sequence[tuple[Message, ...]], seed: int, chat: bool):
        self._seeds, self._users, self._seed, self._chat = seeds, users, seed, chat

    def task(self, number: int, attempt: int = 0) -> Task:
        """The task of this number; with `attempt` above 0, when what came before was refused."""
        temperature = TEMPERATURES[number // (2 * len(KINDS)) % len(TEMPERATURES)]
        draws = Draws(self._seed, number, attempt)
        seed = derive_seed(self._seed, number * (ATTEMPTS + 1) + attempt)
        if number % 4 == 1 and attempt == 0 and number // 4 < len(TEMPERATURES) * len(self._users):
            return self._of_user(number, seed)
        own = number % 2 == 0 and attempt < ATTEMPTS
        if not self._chat:
            beginning = "" if own else self._seeds.compose(self._seeds.beginnings, draws)
            return Task(number, OWN if own else BEGINNING, temperature, seed, beginning=beginning)
        if own:
            return Task(number, OWN, temperature, seed, opening=draws.pick(self._seeds.openings))
        kind = KINDS[number // 2 % len(KINDS)]
        asked = self._seeds.compose(self._seeds.kinds[kind], draws)
        follow_up = self._seeds.compose(self._seeds.follow_ups, draws) if draws.one_in(FOLLOWED) else ""
        return Task(number, kind, temperature, seed, ({"role": "user", "content": asked},), follow_up=follow_up)

    def _of_user(self, number: int, seed: int) -> Task:
        """Each prompt is answered once at each temperature."""
        turn, at = divmod(number // 4, len(self._users))
        temperature = TEMPERATURES[(at + turn) % len(TEMPERATURES)]
        messages = self._users[at]
        if not self._chat:
            return Task(number, USERS, temperature, seed, beginning=messages[-1]["content"])
        return Task(number, USERS, temperature, seed, messages)
