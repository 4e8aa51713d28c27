"""Which models can draft for which: those whose tokenizers read every id alike, however far each pads its output layer."""


def agree(one: str, other: str) -> bool:
    """Whether two digests (`drafthouse.engine.vocabulary`) may be of one vocabulary; one that is not known, empty, agrees with all."""
    return not one or not other or one == other
