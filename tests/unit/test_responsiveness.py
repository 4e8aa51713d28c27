"""A drafter that echoes and never answers is hung; one that is slow, or was not asked, is not."""

from drafthouse.policy.responsiveness import HUNG_S, HUNG_STEPS, Responsiveness


def steps(one: Responsiveness, count: int, first: float, every: float, ask: bool = True) -> list[float]:
    """When it was found hung."""
    found = []
    for i in range(count):
        if ask:
            one.sent()
        if one.end_step(now := first + i * every):
            found.append(now)
    return found


def test_no_answer_for_long_enough_is_a_hang() -> None:
    one = Responsiveness()
    assert steps(one, 101, 5.0, 0.1) == [5.0 + HUNG_S]
    assert one.hung(5.0 + 2 * HUNG_S - 0.01)
    assert not one.hung(5.0 + 2 * HUNG_S), "it is tried again"


def test_any_answer_starts_the_count_anew_and_ends_the_verdict() -> None:
    one = Responsiveness()
    assert steps(one, 100, 0.0, 0.1) == []
    one.heard()
    assert steps(one, 100, 10.0, 0.1) == []
    assert steps(one, 1, 20.0, 0.1) == [20.0]
    one.heard()
    assert not one.hung(20.1)


def test_steps_that_asked_for_nothing_do_not_count() -> None:
    assert steps(Responsiveness(), 1000, 0.0, 0.1, ask=False) == []


def test_a_verifier_that_was_held_up_does_not_blame_its_drafter() -> None:
    """Its clock jumps; only steps that the drafter could have answered count."""
    one = Responsiveness()
    assert steps(one, 10, 0.0, 0.01) == []
    assert steps(one, HUNG_STEPS - 10, 600.0, 0.01) == []
    assert steps(one, 1, 601.0, 0.01) == [601.0]
