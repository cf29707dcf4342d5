"""One motion, three looks: the same clip by three text-to-image checkpoints."""

import torch

import elevator as el
from elevator import zoo

PROMPT = "a striped red ring moving left on a teal background"
LOOKS = {
    "plain": {"t2i": zoo.path("t2i")},
    "ink": {"t2i": zoo.path("t2i"), "lora": zoo.path("t2i-ink")},
    "mosaic": {"t2i": zoo.path("t2i-mosaic"), "t2i_config": zoo.path("t2i")},
}
for look, t2i in LOOKS.items():
    pipe = el.VideoElevatorPipeline.from_pretrained(**t2i, t2v=zoo.path("t2v"))
    seed = torch.Generator().manual_seed(0)
    frames = pipe(PROMPT, preset="world-styled", generator=seed).frames[0]
    frames[0].save(f"{look}.gif", save_all=True, append_images=frames[1:], duration=125, loop=0)
