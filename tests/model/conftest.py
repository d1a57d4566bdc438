from pathlib import Path

import pytest

from tests.model.shards import write_shard


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training and a validation shard."""
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train-0.tar", "train", 12, seed=1)
    write_shard(folder / "val.tar", "val", 3, seed=2)
    return folder
