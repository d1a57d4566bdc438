import pytest
import torch

from model.blocks import LARM
from model.detector import PersonDetector
from model.fuse import for_bgr, fused
from model.lgmpose import LGMPose, LGMPoseConfig


@pytest.mark.parametrize("residual", [True, False])
def test_a_fused_larm_gives_the_same_map(residual: bool) -> None:
    torch.manual_seed(0)
    larm = LARM((8, 9), (4, 3), 2, residual=residual)
    for mlp in (larm.across, larm.within):
        torch.nn.init.uniform_(mlp[0].weight, 0.5, 2)
        torch.nn.init.uniform_(mlp[0].bias, -1, 1)
    maps = 5 * torch.randn(3, 6, 8, 9) + 20
    with torch.inference_mode():
        torch.testing.assert_close(fused(torch.nn.Sequential(larm))(maps), larm(maps), atol=1e-4, rtol=1e-4)


def test_every_larm_of_the_network_is_fused_and_the_network_stays_as_it_was() -> None:
    network = LGMPose(LGMPoseConfig())
    copy = fused(network)
    assert not [module for module in copy.modules() if isinstance(module, LARM)]
    assert len([module for module in network.modules() if isinstance(module, LARM)]) == 3
    assert network.training and not copy.training


@pytest.mark.parametrize("network", [LGMPose(LGMPoseConfig()).eval(), PersonDetector().eval()])
def test_a_network_for_bgr_sees_in_bgr_what_it_saw_in_rgb(network: torch.nn.Module) -> None:
    rgb = 255 * torch.rand(1, 3, 256, 192)
    with torch.inference_mode():
        before, after, other = network(rgb), for_bgr(network)(rgb.flip(1)), network(rgb.flip(1))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    first = (each if isinstance(each, torch.Tensor) else each[0] for each in (before, other))
    assert not torch.equal(*first)
