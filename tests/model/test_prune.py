from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import detector
from model.prune import fit, main, pruned
from tests.model.shards import write_shard

SMALL = replace(
    detector.DetectorConfig(),
    input_size=(64, 64),
    backbone=((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (4, 32, 2), (4, 48, 2)),
)


def network() -> detector.PersonDetector:
    torch.manual_seed(0)
    return detector.PersonDetector(SMALL).eval()


def test_channels_that_repeat_others_leave_without_an_error() -> None:
    torch.manual_seed(0)
    base = torch.randn(500, 4)
    hidden = torch.cat([base, base @ torch.randn(4, 4)], 1)
    wanted = hidden @ torch.randn(8, 3) + 2
    fitted = fit([hidden[:250], hidden[250:]], [wanted[:250], wanted[250:]], 4)
    assert len(fitted.channels) == 4
    assert fitted.error < 1e-4
    torch.testing.assert_close(
        hidden[:, fitted.channels] @ fitted.weight.T + fitted.bias, wanted, rtol=0, atol=0.02
    )


def test_the_channel_that_matters_least_leaves_first() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1000, 5)
    fitted = fit([hidden], [hidden @ torch.diag(torch.tensor([3.0, 0.1, 2.0, 1.0, 4.0]))], 4)
    assert fitted.channels.tolist() == [0, 2, 3, 4]
    assert fitted.error == pytest.approx(0.01 / 30.01, rel=0.2)


def test_a_network_that_keeps_all_channels_stays_the_same() -> None:
    whole, images = network(), torch.rand(10, 3, 64, 64) * 255
    same = pruned(whole, images, [1.0] * 5)
    with torch.no_grad():
        torch.testing.assert_close(same.predict(images)[1], whole.predict(images)[1], rtol=0, atol=2e-3)


def test_a_pruned_network_is_fitted_to_the_original(tmp_path: Path) -> None:
    whole, images = network(), torch.rand(16, 3, 64, 64) * 255
    smaller = pruned(whole, images, [0.5] * 5)
    assert [round(spec[0], 3) for spec in smaller.config.backbone] == [1, 3, 3, 3, 2, 2]
    detector.save(smaller, tmp_path / "small.safetensors")
    loaded = detector.load(tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded.predict(images)[1], smaller.predict(images)[1])


def test_the_command_writes_a_smaller_network_and_keeps_the_input(tmp_path: Path) -> None:
    write_shard(tmp_path / "data" / "coco.tar", "train", 8, seed=0)
    detector.save(network(), tmp_path / "whole.safetensors")
    arguments = [str(tmp_path / "whole.safetensors"), "--data", str(tmp_path / "data"), "--photos", "8"]
    main([*arguments, "--keep", "0.5", "--out", str(tmp_path / "small.safetensors")])
    smaller = detector.load(tmp_path / "small.safetensors")
    assert smaller.config.input_size == (64, 64)
    count = [sum(p.numel() for p in each.backbone.parameters()) for each in (smaller, network())]
    assert count[0] < 0.6 * count[1]
    with pytest.raises(SystemExit):
        main([*arguments, "--keep", "0.5", "0.5", "--out", str(tmp_path / "other.safetensors")])
    assert not (tmp_path / "other.safetensors").exists()
