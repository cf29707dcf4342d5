"""`VideoUpscalePipeline` as a way to make the frames of a stretch larger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from elevator.filters import DIS, FlowEstimator
from elevator.pipelines.identity import computed_on, name_of, parts_of, weights_fingerprint
from elevator.pipelines.video_upscale import VideoUpscalePipeline
from elevator.recipes import upscale_preset_for

__all__ = ["ClipUpscaler"]


@final
@dataclass(frozen=True)
class ClipUpscaler:
    """Stretches of a clip by `VideoUpscalePipeline`, noise by absolute frame.

    Text is encoded once, for the first stretch. Flow is estimated once a stretch, on the CPU beside
    the steps that come before propagation.

    Attributes:
        pipeline: where its networks lie is where they compute.
        weights: SHA-256 of its weights; taken when asked for its identity where it is empty.
        prompt: what the clip shows.
        settings: further arguments of the pipeline's call, such as `noise_level`, `propagate`,
            `colour` or `tile`.
        flow: estimator for propagation.
        seed: of all noise.
        fade: frames over which one stretch is cross-faded into the next.
    """

    pipeline: VideoUpscalePipeline
    weights: str = ""
    prompt: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    flow: FlowEstimator = field(default_factory=DIS)
    seed: int = 0
    fade: int = 4
    _text: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def scale(self) -> int:
        return self.pipeline.scale

    @property
    def reach(self) -> int:
        return 0

    def __call__(
        self, frames: Float[Tensor, "f 3 h w"], first_frame: int
    ) -> Float[Tensor, "f 3 H W"]:
        made: Any = self.pipeline(
            (2 * frames - 1).transpose(0, 1)[None],
            self.prompt,
            flow=self.flow,
            first_frame=first_frame,
            generator=torch.Generator().manual_seed(self.seed),
            output_type="pt",
            return_dict=False,
            **{**self.settings, **self._encoded()},
        )
        return made[0][0].to(frames)

    def _encoded(self) -> Mapping[str, Tensor]:
        """The prompts as embeddings, where they were not given as such."""
        told = self.settings
        if told.get("prompt_embeds") is not None or told.get("negative_prompt_embeds") is not None:
            return {}
        if not self._text:
            names = {"negative_prompt", "guidance_scale", "preset"} & told.keys()
            rows, against = self.pipeline.encode_prompts(
                self.prompt, **{name: told[name] for name in names}
            )
            self._text["prompt_embeds"] = rows
            if against is not None:
                self._text["negative_prompt_embeds"] = against
        return self._text

    def identity(self) -> Mapping[str, object]:
        preset = upscale_preset_for(self.settings.get("preset") or self.pipeline.config.preset)
        return {
            "method": "diffusion",
            "scale": self.scale,
            "weights": self.weights or weights_fingerprint(self.pipeline),
            "parts": parts_of(self.pipeline),
            "preset": repr(preset),
            "prompt": self.prompt,
            "settings": {name: repr(value) for name, value in sorted(self.settings.items())},
            "flow": name_of(self.flow),
            "seed": self.seed,
            "fade": self.fade,
            "computed": computed_on(self.pipeline),
        }
