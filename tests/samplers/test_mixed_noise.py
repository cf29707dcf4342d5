"""Initial noise that frames share: statistics, generators, errors."""

import pytest
import torch

from elevator.samplers import mixed_noise

SHAPE = (1, 4, 6, 64, 64)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0, 1.5])
def test_every_frame_is_standard_normal_and_correlated_as_told(shared: float) -> None:
    noise = mixed_noise(SHAPE, shared, torch.Generator().manual_seed(0))
    frames = noise[0].transpose(0, 1).flatten(1)
    assert frames.mean(1).abs().max() < 0.03
    assert (frames.std(1) - 1).abs().max() < 0.03
    correlation = torch.corrcoef(frames)[~torch.eye(6, dtype=torch.bool)]
    assert (correlation - shared**2 / (1 + shared**2)).abs().max() < 0.05


def test_a_seed_decides_and_a_clip_is_the_same_in_any_batch() -> None:
    def make(clips: int, seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return mixed_noise((clips, 4, 3, 5, 6), 1.0, generators)

    both = make(2, [1, 2])
    assert torch.equal(both[:1], make(1, [1]))
    assert torch.equal(both[1:], make(1, [2]))
    assert not torch.equal(both[0], both[1])
    one = mixed_noise((2, 4, 3, 5, 6), 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(one[0], both[0])  # one generator draws clip after clip
    assert not torch.equal(one[1], both[0])


def test_the_shared_part_is_drawn_first() -> None:
    generator = torch.Generator().manual_seed(4)
    base, own = (
        torch.randn(1, 4, 5, 6, generator=generator),
        torch.randn(3, 4, 5, 6, generator=generator),
    )
    wanted = ((2.0 * base + own) / 5**0.5).transpose(0, 1)[None]
    got = mixed_noise((1, 4, 3, 5, 6), 2.0, torch.Generator().manual_seed(4))
    assert torch.equal(got, wanted)


def test_dtype_and_the_global_generator() -> None:
    torch.manual_seed(0)
    one = mixed_noise((1, 4, 2, 3, 3), 0.5, dtype=torch.float16)
    assert one.dtype == torch.float16
    torch.manual_seed(0)
    assert torch.equal(one, mixed_noise((1, 4, 2, 3, 3), 0.5, dtype=torch.float16))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        mixed_noise(SHAPE, -1.0)
    with pytest.raises(ValueError, match="2 generators were given for 1 clips; give one per clip"):
        mixed_noise(SHAPE, 1.0, [torch.Generator(), torch.Generator()])
