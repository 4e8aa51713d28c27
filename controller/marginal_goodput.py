"""What one more replica of either pool would add, and one fewer lose, in committed tokens per second, with the sequences of now.

Promises: pure arithmetic on figures of the whole pool; never negative. Models and alternatives: docs/controller.md.
"""

SLACK = 0.8
"""Below this utilisation drafters keep up: what one more drafts is not waited for by anyone."""

HEADROOM = 0.8
"""Places of one pool fewer, filled beyond this share, would soon be too few."""


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


def one_verifier_fewer(
    committed_per_s: float, verifiers: int, in_flight: float, waiting: int, fill: float, step_s: float, seconds_per_sequence: float
) -> float:
    """The sequences in steps at a time, `in_flight` on average, crowd onto the others; a step takes the longer.

    With a queue, or where the others would be filled beyond HEADROOM (`fill`: the share of places in use now), what it serves waits.
    """
    if verifiers < 2:
        return committed_per_s
    if waiting > 0 or fill * verifiers / (verifiers - 1) > HEADROOM:
        return committed_per_s / verifiers
    before, after = (max(1.0, in_flight / n) for n in (verifiers, verifiers - 1))
    longer_s = step_s + seconds_per_sequence * (after - before)
    return min(committed_per_s / verifiers, committed_per_s * (1.0 - step_s / longer_s)) if longer_s > 0.0 else 0.0


def one_more_drafter(
    drafted_per_s: float, drafters: int, utilisation: float, price_now: float, price: float, sessions_won_per_s: float, waited_per_s: float
) -> float:
    """Nodes that the floor refuses now, drafts that come late, or sessions that no drafter takes: whichever brings most, since all
    want the same time.

    One more drafter makes the pool 1 + 1/n times as fast. Where demand falls as 1 / price, the price asked of nodes sinks
    from `price_now` to n / (n + 1) of it, and nodes in between promise their path confidence and cost the
    verifiers `price` (tokens per node). `waited_per_s`: tokens that verifiers would commit in the time that sessions wait for each
    other at drafters. `sessions_won_per_s`: what sequences that were refused for want of places would gain, however busy drafters are.
    """
    if drafters < 1:
        return 0.0
    short = min(1.0, max(0.0, utilisation - SLACK) / (1.0 - SLACK))
    least = price_now * drafters / (drafters + 1)
    deeper = drafted_per_s / drafters * max(0.0, (price_now + least) / 2 - price)
    return max(short * deeper, short * waited_per_s / (drafters + 1), sessions_won_per_s)


def first_drafter(sequence_steps_per_s: float, best_edge: float, price: float) -> float:
    """Where there is none: one node in each sequence's step, accepted with the `best_edge` that drafts offered, at its `price`."""
    return sequence_steps_per_s * max(0.0, best_edge - price)


def one_drafter_fewer(accepted_per_s: float, drafters: int, fill: float, waited_per_s: float) -> float:
    """Without the last one, what drafts bring. With others: its sessions, where those would be filled beyond HEADROOM, or longer waits."""
    if drafters < 2 or fill * drafters / (drafters - 1) > HEADROOM:
        return accepted_per_s / max(1, drafters)
    return min(accepted_per_s / drafters, waited_per_s / (drafters - 1))
