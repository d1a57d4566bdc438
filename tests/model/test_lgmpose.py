import dataclasses
import json
from pathlib import Path

import pytest
import torch

from model.blocks import LARM, Fusion, MobileNetV2, PairConv
from model.lgmpose import CONFIGS, LGMPose, config_from_json, for_input, load, save


@pytest.fixture(scope="module")
def network() -> LGMPose:
    torch.manual_seed(0)
    return LGMPose().eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(256, 192), (256, 256), (384, 288)])
def test_heatmaps_have_a_quarter_of_the_crops_size(name: str, size: tuple[int, int]) -> None:
    config = for_input(CONFIGS[name], *size, 17)
    with torch.inference_mode():
        heatmaps = LGMPose(config).eval()(torch.zeros(1, 3, *size))
    assert heatmaps.shape == (1, 17, size[0] // 4, size[1] // 4)


def test_a_batch_gives_what_its_crops_give_alone(network: LGMPose) -> None:
    crops = 255 * torch.rand(3, 3, 256, 192, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together, alone = network(crops), torch.cat([network(crop[None]) for crop in crops])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_every_weight_changes_in_training(network: LGMPose) -> None:
    trained = LGMPose().train()
    torch.nn.init.normal_(trained.head.weight)
    trained(255 * torch.rand(2, 3, 256, 192)).square().sum().backward()
    without = [name for name, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
    # the bias between the fusion's 3x3 and 1x1 is cancelled by the BatchNorm that follows: rounding decides
    assert [name for name in without if ".mix.0.1.bias" not in name] == []


def test_frozen_parts_keep_their_weights_and_the_rest_learns() -> None:
    network = LGMPose().train()
    network.backbone.freeze(4)
    torch.nn.init.normal_(network.head.weight)
    network(255 * torch.rand(2, 3, 256, 192)).square().sum().backward()
    frozen = [p.grad is None for p in network.backbone.layers[:4].parameters()]
    free = [p.grad is not None for p in network.backbone.layers[4:].parameters()]
    assert all(frozen) and all(free) and network.stages[0][0].expand.conv.weight.grad is not None


def test_saved_and_loaded_is_the_same_network(network: LGMPose, tmp_path: Path) -> None:
    save(network, tmp_path / "pose.safetensors")
    crops = torch.full((1, 3, 256, 192), 90.0)
    with torch.inference_mode():
        torch.testing.assert_close(load(tmp_path / "pose.safetensors")(crops), network(crops))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_configuration_survives_json(config: object) -> None:
    assert config_from_json(json.loads(json.dumps(dataclasses.asdict(config)))) == config  # type: ignore[call-overload]


def test_larm_mixes_patches_and_pixels_but_not_channels() -> None:
    torch.manual_seed(0)
    larm = LARM((8, 6), (4, 3), 2, residual=True)
    x = torch.randn(1, 2, 8, 6)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1
    moved = (larm(changed) - larm(x)).abs()[0]
    # LayerNorm's residue aside, one pixel reaches every place of its own channel and none of the other
    assert (moved[0] > 1e-7).all() and moved[1].max() == 0


def test_larm_refuses_a_patch_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        LARM((8, 6), (3, 3), 2, residual=True)


def test_pair_convolution_is_a_shuffle_and_a_grouped_convolution() -> None:
    torch.manual_seed(0)
    pair = PairConv(8)
    grouped = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    x = torch.randn(2, 8, 5, 7)
    shuffled = x.reshape(2, 2, 4, 5, 7).transpose(1, 2).reshape(2, 8, 5, 7)  # pairs (i, i + 4)
    with torch.no_grad():
        for i in range(4):
            for output, (own, partner) in enumerate([(i, i + 4), (i + 4, i)]):
                kernel = [pair.own.weight[own, 0], pair.partner.weight[own, 0]]
                grouped.weight[2 * i + output] = torch.stack(kernel if own < partner else kernel[::-1])
    order = [2 * i for i in range(4)] + [2 * i + 1 for i in range(4)]
    torch.testing.assert_close(pair(x), grouped(shuffled)[:, order])


@pytest.mark.parametrize("kind", ["sfusion", "dw1", "dw2", "conv3"])
def test_fusion_keeps_the_concatenated_width(kind: str) -> None:
    assert Fusion(12, kind, "relu")(torch.zeros(1, 8, 4, 4), torch.zeros(1, 4, 4, 4)).shape == (1, 12, 4, 4)


def test_backbone_gives_the_last_map_of_each_stride() -> None:
    backbone = MobileNetV2(8, ((1, 4, 1), (2, 6, 2), (2, 6, 1), (2, 10, 2)), "relu6", pretrained=True)
    shapes = {stride: tuple(x.shape[1:]) for stride, x in backbone(torch.zeros(1, 3, 32, 16)).items()}
    assert shapes == {2: (4, 16, 8), 4: (6, 8, 4), 8: (10, 4, 2)}


def test_folded_weights_reach_every_convolution_of_the_backbone() -> None:
    backbone = MobileNetV2(8, ((1, 4, 1), (2, 6, 2)), "relu6", pretrained=True)
    shapes = {
        "stem": (8, 3, 3, 3), "blocks.0.dw": (8, 1, 3, 3), "blocks.0.project": (4, 8, 1, 1),
        "blocks.1.expand": (8, 4, 1, 1), "blocks.1.dw": (8, 1, 3, 3), "blocks.1.project": (6, 8, 1, 1),
    }  # fmt: skip
    weights = {f"{name}.weight": torch.full(shape, 0.5) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": torch.full(shape[:1], 0.25) for name, shape in shapes.items()}
    backbone.load_folded(weights)
    assert {p.unique().item() for p in backbone.parameters()} == {0.5, 0.25}
    with pytest.raises(KeyError):
        backbone.load_folded({k: v for k, v in weights.items() if "blocks.1" not in k})
