"""Policy without torch, Ray or a clock: facts and `now` come in, verdicts go out."""
