from pathlib import Path

import numpy as np
import pytest
import torch

from model.packed import PackedImages, is_packed, pack_images

SIZE = 4, 6


def flat(value: int) -> np.ndarray:
    """A BGR image whose blue channel is `value`."""
    return np.full((*SIZE, 3), (value, 0, 0), np.uint8)


@pytest.fixture
def packed(tmp_path: Path) -> PackedImages:
    pack_images(tmp_path, (flat(v) for v in range(8)), ["near"] * 4 + ["far"] * 4, SIZE, "photo")
    return PackedImages([tmp_path], torch.device("cpu"))


def test_images_are_stored_as_rgb_and_drawn_with_their_index(packed: PackedImages) -> None:
    images, index, _ = packed.draw(np.ones(8, np.float32), 3, 16, 1)
    assert images.shape == (16, 3, *SIZE) and images.dtype == torch.float32
    assert (images[:, 2, 0, 0] == index).all() and (images[:, :2] == 0).all()


def test_packs_follow_each_other(packed: PackedImages, tmp_path: Path) -> None:
    pack_images(tmp_path / "more", (flat(v) for v in range(100, 103)), ["new"] * 3, SIZE, "photo")
    both = PackedImages([tmp_path, tmp_path / "more"], torch.device("cpu"))
    assert both.sources == ["near"] * 4 + ["far"] * 4 + ["new"] * 3
    images, index, _ = both.draw(np.ones(11, np.float32), 0, 64, 1)
    values = torch.tensor([*range(8), 100, 101, 102])
    assert (images[:, 2, 0, 0] == values[index]).all() and set(index.tolist()) == set(range(11))


def test_a_source_with_weight_zero_is_never_drawn(packed: PackedImages) -> None:
    weights = packed.weights({"far": 0.0})
    assert weights.tolist() == [1.0] * 4 + [0.0] * 4
    _, index, _ = packed.draw(weights, 0, 200, 1)
    assert index.max() < 4


def test_a_share_keeps_the_same_images_and_a_smaller_one_is_part_of_it(tmp_path: Path) -> None:
    pack_images(tmp_path, (flat(0) for _ in range(400)), ["far"] * 400, SIZE, "photo")
    packed = PackedImages([tmp_path], torch.device("cpu"))
    quarter, half, every = (packed.weights({"far": 2.0}, share) > 0 for share in (0.25, 0.5, 1.0))
    assert 80 <= quarter.sum() <= 120 and 170 <= half.sum() <= 230 and every.all()
    assert not (quarter & ~half).any()
    assert set(packed.weights({"far": 2.0}, 0.5).tolist()) == {0.0, 2.0}
    assert (packed.weights({"far": 2.0}, 0.5) == packed.weights({"far": 2.0}, 0.5)).all()


def test_a_draw_depends_on_its_step_and_seed_alone(packed: PackedImages) -> None:
    weights = np.ones(8, np.float32)
    _, first, random = packed.draw(weights, 3, 16, 1)
    _, again, random_again = packed.draw(weights, 3, 16, 1)
    assert torch.equal(first, again)
    assert torch.equal(torch.rand(3, generator=random), torch.rand(3, generator=random_again))
    assert not torch.equal(first, packed.draw(weights, 4, 16, 1)[1])
    assert not torch.equal(first, packed.draw(weights, 3, 16, 2)[1])


def test_an_incomplete_pack_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power"):
        pack_images(tmp_path, _fails_after(flat(1)), ["a", "b"], SIZE, "photo")
    assert not is_packed(tmp_path)


def _fails_after(image: np.ndarray):  # type: ignore[no-untyped-def]
    yield image
    raise RuntimeError("power cut")
