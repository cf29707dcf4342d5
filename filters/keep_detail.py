"""Detail that stays while another model refines: only the coarse part of a change arrives."""

from dataclasses import dataclass
from typing import Any, final

from elevator.combine import Wrapper
from elevator.filters.lowpass import LowPass
from elevator.hook import Hook, Run, Step
from elevator.latent import Latent

__all__ = ["KeepDetail"]


@final
@dataclass(frozen=True)
class KeepDetail(Wrapper):
    r"""Let a hook change frames, but only as far as a low-pass filter lets the change through.

    With the hook $h$ inside and the filter $M$, for the clean estimate $c$:

    $$y = c + M\,(h(c) - c) .$$

    So $y$ has the low frequencies of $h(c)$ and the high ones of $c$, with a step at the filter's
    stop frequency if it is `ideal`, else a slope around it. A T2V that has learnt from soft footage
    knows where things are and how they move, but its estimates lack the fine detail that the T2I
    has painted already; taken whole, they blur the clip, as whatever is above the T2I's noise by
    then stays as soft as the T2V left it. So place and motion are the T2V's, detail the T2I's:

        soft = LowPass("butterworth", temporal=None, spatial=0.6)
        el.at({1, 7, 11}, KeepDetail(SDEdit(t2v, 8), soft))

    Neutral: a filter or a hook that changes nothing: the very latent that the hook inside returns.

    References:
        This library's own. That the low frequencies of one estimate and the high ones of another
        go together is FreeInit's idea (Wu et al. 2023), arXiv 2312.07537, there for noise.

    Attributes:
        hook: any hook.
        lowpass: what of the change arrives; `LowPass.spatial` of 0.5 to 0.75 for a T2V whose
            footage was several times as soft as the T2I's stills.

    Raises:
        TypeError: `hook` is no hook, or `lowpass` no `LowPass`.
    """

    lowpass: LowPass

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.lowpass, LowPass):
            raise TypeError(
                f"KeepDetail takes a LowPass for what of a change arrives, got {self.lowpass!r}; "
                'give LowPass("butterworth", temporal=None, spatial=0.6), say'
            )

    def inner(self) -> tuple[Hook[Any], ...]:
        """The hook inside, and the filter."""
        return (self.hook, self.lowpass)

    def init(self, run: Run) -> Any:
        """The states of both."""
        return self.hook.init(run), self.lowpass.init(run)

    def update(self, clean: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        """The estimate, with the coarse part of what the hook inside changes."""
        own, mask = state
        changed, own = self.hook.update(clean, step, own)
        if changed is clean or mask is None:
            return changed, (own, mask)
        change, mask = self.lowpass.update(changed - clean, step, mask)
        return clean + change, (own, mask)

    def finish(self, clean: Latent, proposed: Latent, step: Step, state: Any) -> tuple[Latent, Any]:
        """As the hook inside does."""
        own, mask = state
        finished, own = self.hook.finish(clean, proposed, step, own)
        return finished, (own, mask)
