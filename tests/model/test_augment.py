import numpy as np
import torch

from model import augment
from model.geometry import decode_heatmaps, encode_heatmaps
from model.keypoints import FLIP_INDEX
from model.pose_dataset import gaussians

STILL = augment.Jitter(scale=(1.0, 1.0), rotation=0, rotated=0, shift=0)
LIVELY = augment.Jitter(scale=(0.75, 1.3), rotation=35, rotated=1, shift=0.05)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dots(points: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Images (n, 3, height, width) with one soft dot at points (n, 2)."""
    ys, xs = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    distance = (xs - points[:, 0, None, None]) ** 2 + (ys - points[:, 1, None, None]) ** 2
    return (255 * (-distance / 18).exp())[:, None].repeat(1, 3, 1, 1)


def brightest(images: torch.Tensor) -> torch.Tensor:
    """Sub-pixel brightest points (n, 2) of images (n, 3, H, W)."""
    return torch.from_numpy(decode_heatmaps(images[:, :1].numpy() / 255, 1)[:, 0, :2])


def test_points_move_with_the_pixels() -> None:
    points = torch.tensor([[120.0, 160.0]]) + 15 * torch.randn(16, 2, generator=generator(3))
    centre, scale = torch.tensor([[119.5, 159.5]]).repeat(16, 1), torch.full((16,), 1.0)
    affine, _ = augment.random_affine(centre, scale, (256, 192), LIVELY, generator())
    warped = augment.warp(dots(points, 320, 240), affine, (256, 192))
    moved = augment.move_points(points[:, None], affine)[:, 0]
    inside = ((moved > 8) & (moved < torch.tensor([184, 248]))).all(1)
    assert inside.sum() >= 10
    torch.testing.assert_close(brightest(warped)[inside], moved[inside], atol=0.25, rtol=0)


def test_half_of_the_crops_are_mirrored_about_their_centre() -> None:
    centre, scale = torch.tensor([[119.5, 159.5]]).repeat(64, 1), torch.full((64,), 1.0)
    affine, mirrored = augment.random_affine(centre, scale, (256, 192), STILL, generator())
    moved = augment.move_points(torch.tensor([[[129.5, 159.5]]]).repeat(64, 1, 1), affine)[:, 0]
    expected = torch.where(mirrored, 95.5 - 10, 95.5 + 10)
    torch.testing.assert_close(moved[:, 0], expected)
    assert 16 <= int(mirrored.sum()) <= 48


def test_mirroring_exchanges_left_and_right() -> None:
    values = torch.arange(17.0)[None].repeat(2, 1)
    mirrored = augment.mirror_keypoints(values, torch.tensor([True, False]))
    assert mirrored[0].tolist() == list(map(float, FLIP_INDEX)) and mirrored[1].tolist() == list(range(17))


def test_pixels_outside_the_source_are_filled() -> None:
    affine = torch.tensor([[[1.0, 0, -50], [0, 1, 0]]])
    warped = augment.warp(torch.full((1, 3, 40, 40), 200.0), affine, (40, 100), fill=114)
    assert warped[..., :48].unique().tolist() == [114.0] and warped[0, 0, 20, 60] == 200


def test_half_body_frames_the_chosen_joints_of_well_labelled_persons() -> None:
    points = torch.zeros(40, 17, 2)
    points[:, :11] = 100 + 20 * torch.rand(11, 2, generator=generator())
    points[:, 11:] = 300 + 20 * torch.rand(6, 2, generator=generator())
    known = torch.ones(40, 17, dtype=torch.bool)
    known[20:, 4:] = False  # too few joints
    centre, height, halved = augment.half_body(points, known, 1.0, generator())
    assert halved.tolist() == [True] * 20 + [False] * 20
    near = centre[:20, 0]
    assert (((near > 100) & (near < 120)) | ((near > 300) & (near < 320))).all()
    assert (near < 120).any() and (near > 300).any()
    assert (height[:20] < 60).all()


def test_colour_and_occlusion_stay_in_range_and_repeat_with_the_seed() -> None:
    images = 255 * torch.rand(8, 3, 64, 48, generator=generator())
    once = augment.occlude(augment.recolour(images, generator(5)), 1.0, generator(6))
    again = augment.occlude(augment.recolour(images, generator(5)), 1.0, generator(6))
    assert once.min() >= 0 and once.max() <= 255 and torch.equal(once, again)
    flat = augment.occlude(torch.zeros(64, 3, 64, 48), 0.5, generator(1))
    covered = flat.flatten(1).any(1).sum()
    assert 16 <= int(covered) <= 48


def test_targets_are_the_heatmaps_that_serving_decodes() -> None:
    points = torch.tensor([[[30.0, 40.0], [100.3, 200.7], [-1e4, -1e4]]])
    ours = gaussians(points, (256, 192), 2.0)
    theirs = encode_heatmaps(points[0].numpy(), (256, 192), 4, 2.0)
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-6)
    decoded = decode_heatmaps(ours.numpy(), 4)
    np.testing.assert_allclose(decoded[0, :2, :2], points[0, :2].numpy(), atol=0.1)
    assert decoded[0, 2, 2] == 0
