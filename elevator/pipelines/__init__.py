"""Recipes as one object each, in the shape of a diffusers pipeline."""
