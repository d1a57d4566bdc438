from pathlib import Path

import pytest
import torch

from model.canvases import CANVAS, Canvases, pack
from model.dataset import read_data


@pytest.fixture(scope="module")
def photos(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Canvases:
    folder = tmp_path_factory.mktemp("photos")
    pack(read_data(shards, "train"), folder)
    return Canvases(folder, (320, 320), torch.device("cpu"))


def test_photos_are_letterboxed_at_the_top_left(photos: Canvases) -> None:
    assert len(photos) == 12 and photos.canvases.shape == (12, *CANVAS, 3)
    width = round(160 * CANVAS[0] / 200)  # photos are 160 wide and 200 high
    assert (photos.canvases[0, :, width:] == 114).all()
    assert not (photos.canvases[0, :, : width - 1] == 114).all(axis=(0, 2)).any()


def test_a_batch_depends_on_its_step_and_seed_alone(photos: Canvases) -> None:
    first = photos.batch(5, 3, 1)
    assert first.shape == (3, 3, 320, 320) and first.min() >= 0 and first.max() <= 255
    assert torch.equal(first, photos.batch(5, 3, 1))
    assert not torch.equal(first, photos.batch(6, 3, 1))
    assert not torch.equal(first, photos.batch(5, 3, 2))
