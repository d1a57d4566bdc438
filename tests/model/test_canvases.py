from pathlib import Path

import numpy as np
import pytest
import torch

from model.detector_dataset import CANVAS, Canvases, pack
from model.pose_dataset import read_data


@pytest.fixture(scope="module")
def photos(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Canvases:
    folder = tmp_path_factory.mktemp("photos")
    pack(read_data(shards, "train"), folder)
    return Canvases([folder], (320, 320), torch.device("cpu"))


def test_photos_are_letterboxed_at_the_top_left(photos: Canvases) -> None:
    images, _, _ = photos.photos.draw(np.eye(12, dtype=np.float32)[0], 0, 1, 0)  # the first photo
    assert len(photos) == 12 and images.shape == (1, 3, *CANVAS)
    width = round(160 * CANVAS[0] / 200)  # photos are 160 wide and 200 high
    assert (images[..., width:] == 114).all()
    assert not (images[..., : width - 1] == 114).all(dim=1).all(dim=1).any()


def test_a_batch_depends_on_its_step_and_seed_alone(photos: Canvases) -> None:
    first = photos.batch(5, 3, 1)
    assert first.shape == (3, 3, 320, 320) and first.min() >= 0 and first.max() <= 255
    assert torch.equal(first, photos.batch(5, 3, 1))
    assert not torch.equal(first, photos.batch(6, 3, 1))
    assert not torch.equal(first, photos.batch(5, 3, 2))
