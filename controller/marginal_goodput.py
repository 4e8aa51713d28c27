"""What one more replica of either pool would add, in committed tokens per second, with the sequences of now.

Promises: pure arithmetic on figures of the whole pool; never negative. Models and alternatives: docs/controller.md.
"""

SLACK = 0.8
"""Below this utilisation drafters keep up: what one more drafts is not waited for by anyone."""


def one_more_verifier(
    committed_per_s: float, verifiers: int, batch: float, waiting: int, step_s: float, seconds_per_sequence: float
) -> float:
    """The same sequences spread over one more verifier, and places for some that wait.

    `batch` sequences share a step of `step_s` seconds on each of the `verifiers`; one of them fewer
    saves `seconds_per_sequence`. A step cannot save more than in proportion, nor hold less than one sequence.
    """
    if verifiers < 1 or batch <= 0.0 or step_s <= 0.0:
        return 0.0
    in_all = batch * verifiers
    served = in_all + min(waiting, batch)
    later = min(batch, max(1.0, served / (verifiers + 1)))
    later_s = max(step_s - seconds_per_sequence * (batch - later), step_s * later / batch)
    return max(0.0, committed_per_s * (served / in_all * step_s / later_s - 1.0))


def one_more_drafter(
    drafted_per_s: float, drafters: int, utilisation: float, asked: float, price: float, sessions_won_per_s: float
) -> float:
    """Nodes that the floor refuses now, or sessions that no drafter takes: whichever brings more, since both want the same time.

    One more drafter makes the pool 1 + 1/n times as fast. Where demand falls as 1 / price, the price asked of nodes sinks
    from `asked` to n / (n + 1) of it, and nodes in between promise their path confidence and cost the
    verifiers `price` (tokens per node). `sessions_won_per_s`: what sequences that were refused would gain.
    """
    if drafters < 1 or utilisation <= SLACK:
        return 0.0
    short = min(1.0, (utilisation - SLACK) / (1.0 - SLACK))
    least = asked * drafters / (drafters + 1)
    deeper = drafted_per_s / drafters * max(0.0, (asked + least) / 2 - price)
    return short * max(deeper, sessions_won_per_s)
