"""Learned or patched network parts, one part of a paper per file."""

from elevator.models.inflate import CrossFrameAttention

__all__ = ["CrossFrameAttention"]
