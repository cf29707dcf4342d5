"""Learned or patched network parts, one part of a paper per file."""

from elevator.models.inflate import CrossFrameAttention
from elevator.models.windows import FrameWindows

__all__ = ["CrossFrameAttention", "FrameWindows"]
