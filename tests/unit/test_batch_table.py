"""Chain length by the number of sequences in the step."""

import pytest
from pydantic import ValidationError

from drafthouse.config.serving import VerifierConfig
from drafthouse.policy.batch_table import chain_length


def test_each_row_holds_up_to_its_number_of_sequences() -> None:
    table = ((2, 5), (4, 3), (8, 0), (16, 1))
    assert [chain_length(table, n) for n in (1, 2, 3, 4, 5, 8, 9, 16, 17, 1000)] == [5, 5, 3, 3, 0, 0, 1, 1, 0, 0]
    assert chain_length((), 1) == 0


@pytest.mark.parametrize("table", [[[4, 1], [4, 2]], [[8, 1], [4, 2]], [[0, 1]], [[4, -1]], [[4, 257]], [[4]], [["x", 1]]])
def test_a_table_that_makes_no_sense_is_refused_by_name(table: list[list[int]]) -> None:
    with pytest.raises(ValidationError, match="batch_table"):
        VerifierConfig.model_validate({"batch_table": table})
