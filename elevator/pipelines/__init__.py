"""Recipes as one object each, in the shape of a diffusers pipeline.

`pipeline.py` says how diffusers' own loader finds them.
"""
