"""The fixtures of `sink_harness`, for every module here."""

from sink_harness import sink, store

__all__ = ["sink", "store"]
