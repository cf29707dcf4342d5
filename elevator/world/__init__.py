"""The procedural video world: seeded, captioned clips of textured shapes that move.

Small enough to train on with two CPU cores, rich enough to show what the hooks do: the objects have
crisp edges and textures, the background has fine joints, and everything in a clip is known exactly.
"""

from elevator.world.degrade import MILD, degrade, watermark
from elevator.world.flow import flow, occlusion
from elevator.world.footage import Footage, shrink
from elevator.world.ink import ink
from elevator.world.lamp import lamp
from elevator.world.layout import Layout, layout
from elevator.world.low_resolution import Camera, downscale, low_resolution
from elevator.world.mosaic import mosaic
from elevator.world.render import render
from elevator.world.scene import (
    ACTIONS,
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    TEXTURES,
    Scene,
    Split,
    draw,
    scenes,
)
from elevator.world.texture import leaves, noise

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLOURS",
    "MILD",
    "MOTIONS",
    "SHAPES",
    "TEXTURES",
    "Camera",
    "Footage",
    "Layout",
    "Scene",
    "Split",
    "degrade",
    "downscale",
    "draw",
    "flow",
    "ink",
    "lamp",
    "layout",
    "leaves",
    "low_resolution",
    "mosaic",
    "noise",
    "occlusion",
    "render",
    "scenes",
    "shrink",
    "watermark",
]
