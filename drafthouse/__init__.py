"""Drafthouse: speculative decoding with separate pools of draft and target models."""

__version__ = "0.1.0"
