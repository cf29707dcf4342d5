"""Learned or patched network parts, one part of a paper per file."""
