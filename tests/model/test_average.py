from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import detector
from model.average import average, main


def saved(folder: Path, name: str, seed: int) -> Path:
    torch.manual_seed(seed)
    detector.save(detector.PersonDetector(), folder / name)
    return folder / name


def test_the_mean_of_weights_is_a_network_of_the_same_configuration(tmp_path: Path) -> None:
    files = [saved(tmp_path, f"{seed}.safetensors", seed) for seed in range(3)]
    out = tmp_path / "mean.safetensors"
    main([*map(str, files), "--out", str(out)])
    name = "backbone.layers.0.conv.weight"
    expected = torch.stack([load_file(file)[name].float() for file in files]).mean(0)
    torch.testing.assert_close(detector.load(out).state_dict()[name], expected, atol=1e-3, rtol=1e-2)
    with pytest.raises(SystemExit):
        main([*map(str, files), "--out", str(out)])


def test_half_precision_is_not_summed_in_half_precision(tmp_path: Path) -> None:
    large = torch.tensor([60_000.0], dtype=torch.float16)  # two of them exceed its range
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        save_file({"weight": large}, file)
    assert average(files)["weight"].tolist() == large.tolist()


def test_weights_of_different_networks_have_no_mean(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, one)
    save_file({"weight": torch.ones(3)}, other)
    with pytest.raises(ValueError, match="is not of the same network"):
        average([one, other])
    assert load_file(one)["weight"].tolist() == [1, 1]
