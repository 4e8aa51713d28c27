"""Chain length by batch size: the fixed policy that vLLM's `num_speculative_tokens_per_batch_size` stands for, as a baseline."""

from collections.abc import Sequence


def chain_length(table: Sequence[tuple[int, int]], sequences: int) -> int:
    """The length in the first row (sequences up to, length) that holds for so many sequences; 0 beyond the last row."""
    return next((length for most, length in table if sequences <= most), 0)
