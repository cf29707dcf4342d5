"""Colours that stay while another model refines: AdaIN (`elevator.filters.adain`) on latents."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

from einops import rearrange

from elevator.combine import Wrapper
from elevator.filters.colour import adain
from elevator.hook import Step
from elevator.latent import Latent

__all__ = ["KeepColours"]

_ADAIN = """@inproceedings{huang2017adain,
  title={Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization},
  author={Huang, Xun and Belongie, Serge},
  booktitle={IEEE International Conference on Computer Vision},
  year={2017},
  eprint={1703.06868},
}"""


@final
@dataclass(frozen=True)
class KeepColours(Wrapper):
    r"""Let a hook change frames, but give every channel of each its mean and spread back.

    With the hook $h$ inside, for each frame and channel of the clean estimate $c$:

    $$y = \sigma(c)\, \frac{h(c) - \mu(h(c))}{\sigma(h(c))} + \mu(c), \qquad
      \sigma^2 = \mathrm{var} + 10^{-5}.$$

    A latent's channels carry colour and contrast. A T2V that refines a personalised T2I's frames
    paints them in colours of its own; so their place and shape are the T2V's, their colours stay
    the T2I's:

        el.at({1, 7, 11}, KeepColours(SDEdit(t2v, 8)))

    Neutral: a hook that changes nothing: the very same latent is returned.

    References:
        AdaIN (Huang & Belongie 2017), arXiv 1703.06868, equation 8, there on features. That a
        refinement keeps the colours is this library's own use of it.

    Attributes:
        hook: any hook.

    Raises:
        TypeError: `hook` is no hook.
    """

    paper: ClassVar[str | None] = _ADAIN

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        """What the hook inside makes of the estimate, in the estimate's colours."""
        changed, state = self.hook.update(clean, step, state)
        if changed is clean:
            return clean, state
        frames, reference = (rearrange(x, "b c f h w -> (b f) c h w") for x in (changed, clean))
        kept = adain(frames, reference)
        return rearrange(kept, "(b f) c h w -> b c f h w", b=len(clean)), state
