"""Noise: a function of its key, a stream, or a recording."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elevator.errors import HookError
from elevator.noise import Key, KeyedNoise, Noise, RecordedNoise, StreamedNoise, seed_of
from tests.builders import make_latent, make_run, make_step

CPU = torch.device("cpu")

keys = st.builds(
    Key,
    step=st.integers(0, 60),
    place=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    name=st.sampled_from(["noise", "renoise", "sdedit", "1", ""]),
    first_frame=st.integers(0, 500),
)
seeds = st.integers(0, 2**62)


@given(keys, seeds)
def test_the_same_key_gives_the_same_bits_in_any_order(key: Key, seed: int) -> None:
    shape = (1, 2, 3, 2, 4)
    first = KeyedNoise((seed,))(key, shape, CPU)
    KeyedNoise((seed,))(key._replace(name="other"), shape, CPU)
    assert torch.equal(first, KeyedNoise((seed,))(key, shape, CPU))
    assert first.shape == shape
    assert first.dtype == torch.float32


@given(keys, keys, seeds, seeds)
def test_other_keys_and_seeds_give_other_noise(one: Key, other: Key, a: int, b: int) -> None:
    shape = (1, 2, 1, 2, 4)
    same = torch.equal(KeyedNoise((a,))(one, shape, CPU), KeyedNoise((b,))(other, shape, CPU))
    assert same == ((one, a) == (other, b))


@pytest.mark.parametrize(
    "other",
    [Key(2, (0, 1), "x", 3), Key(1, (0,), "x", 3), Key(1, (0, 1), "y", 3), Key(1, (1, 0), "x", 3)],
)
def test_every_part_of_the_key_counts(other: Key) -> None:
    noise, shape = KeyedNoise((5,)), (1, 2, 1, 3, 3)
    assert not torch.equal(noise(Key(1, (0, 1), "x", 3), shape, CPU), noise(other, shape, CPU))


@given(keys, st.integers(1, 6), st.integers(0, 5), st.integers(1, 4))
def test_a_window_sees_the_noise_of_its_frames(
    key: Key, frames: int, start: int, length: int
) -> None:
    noise = KeyedNoise((1, 2))
    whole = noise(key, (2, 2, start + length + frames, 2, 3), CPU)
    window = noise(key._replace(first_frame=key.first_frame + start), (2, 2, length, 2, 3), CPU)
    assert torch.equal(window, whole[:, :, start : start + length])


def test_a_run_tells_its_first_frame() -> None:
    whole = make_step(make_run((1, 4, 9, 4, 4))).draw("x")
    chunk = make_step(make_run((1, 4, 5, 4, 4), first_frame=3)).draw("x")
    assert torch.equal(chunk, whole[:, :, 3:8])


@given(keys, st.lists(seeds, min_size=1, max_size=3, unique=True))
def test_a_batch_row_depends_on_its_own_seed_only(key: Key, per_row: list[int]) -> None:
    shape = (len(per_row), 2, 2, 3, 2)
    together = KeyedNoise(tuple(per_row))(key, shape, CPU)
    for row, seed in enumerate(per_row):
        alone = KeyedNoise((seed,))(key, (1, *shape[1:]), CPU)
        assert torch.equal(together[row : row + 1], alone)


def test_rows_past_the_last_seed_have_noise_of_their_own() -> None:
    key, shape = Key(0, (), "x"), (4, 2, 2, 3, 3)
    rows = KeyedNoise((7, 8))(key, shape, CPU)
    assert torch.equal(rows[:3], KeyedNoise((7, 8))(key, (3, *shape[1:]), CPU))
    assert all(not torch.equal(rows[i], rows[j]) for i in range(4) for j in range(i))


def test_keyed_noise_is_standard_normal() -> None:
    noise = KeyedNoise((0,))(Key(0, (), "x"), (2, 4, 16, 32, 32), CPU)
    count = noise.numel()
    assert abs(noise.mean()) < 4 / math.sqrt(count)
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / count)
    neighbours = (noise[:, :, 1:] * noise[:, :, :-1]).mean()
    assert abs(neighbours) < 4 / math.sqrt(count), "frames are not independent"


def test_keyed_noise_is_the_same_in_every_process_and_version() -> None:
    noise = KeyedNoise((42,))(Key(3, (0, 1), "renoise", 5), (1, 1, 1, 1, 3), CPU)
    expected = torch.tensor(PINNED).view(1, 1, 1, 1, 3)
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-6)


PINNED = [1.6377280950546265, -1.0259160995483398, -1.364770770072937]


def test_drawing_advances_no_generator() -> None:
    before = torch.get_rng_state()
    make_step(make_run()).draw()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_is_read_off_a_generator_without_advancing_it() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    seed = seed_of(generator)
    assert seed == seed_of(generator) == seed_of(torch.Generator().manual_seed(3))
    assert torch.equal(generator.get_state(), before)
    assert seed != seed_of(torch.Generator().manual_seed(4))
    torch.randn(1, generator=generator)
    assert seed_of(generator) != seed
    assert 0 <= seed < 2**63


def test_a_stream_draws_in_order_with_frames_as_the_batch() -> None:
    noise = StreamedNoise(torch.Generator().manual_seed(3))
    by_hand = torch.Generator().manual_seed(3)
    for step in range(2):
        got = noise(Key(step, (), "x"), (2, 4, 3, 2, 2), CPU)
        drawn = torch.randn(6, 4, 2, 2, generator=by_hand)
        for row in range(2):
            for frame in range(3):
                assert torch.equal(got[row, :, frame], drawn[3 * row + frame])


def test_a_recording_is_found_by_key_then_taken_in_order() -> None:
    first, second = make_latent((1, 4, 3, 2, 2), 1), make_latent((3, 4, 2, 2), 2)
    keyed = make_latent((1, 4, 3, 2, 2), 3).double()
    noise = RecordedNoise(by_key={(5, "x"): keyed}, in_order=[first, second])
    shape = (1, 4, 3, 2, 2)
    assert torch.equal(noise(Key(0, (), "x"), shape, CPU), first)
    assert torch.equal(noise(Key(5, (9,), "x"), shape, CPU), keyed.float())
    got = noise(Key(1, (), "y"), shape, CPU)
    for frame in range(3):
        assert torch.equal(got[0, :, frame], second[frame])
    with pytest.raises(HookError) as error:
        noise(Key(2, (0,), "y"), shape, CPU)
    assert str(error.value) == (
        "no noise was recorded for Key(step=2, place=(0,), name='y', first_frame=0); "
        "record a tensor of shape (1, 4, 3, 2, 2)"
    )


@pytest.mark.parametrize("noise", [KeyedNoise(), StreamedNoise(torch.Generator())])
def test_on_the_meta_device_nothing_is_drawn(noise: Noise) -> None:
    before = noise.generator.get_state() if isinstance(noise, StreamedNoise) else None
    got = noise(Key(0, (), "x"), (1, 2, 3, 4, 5), torch.device("meta"))
    assert got.shape == (1, 2, 3, 4, 5)
    assert got.device.type == "meta"
    if isinstance(noise, StreamedNoise):
        assert before is not None
        assert torch.equal(noise.generator.get_state(), before)
