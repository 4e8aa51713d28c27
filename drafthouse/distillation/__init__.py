"""Makes a draft for a target: the target writes text, and a small decoder learns from it."""
