import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from model.lgmpose import LGMPose
from model.muon import Muon, orthogonal, orthogonal_each
from model.tasks import make_task
from model.train import PRESETS, Run, TrainConfig, parse, rate_factor, train


def config(shards: Path, folder: Path) -> TrainConfig:
    """Two epochs of six batches of the tiny data set, with a checkpoint after each batch."""
    return TrainConfig(
        data=str(shards), run=str(folder / "run"), cache=str(folder / "cache"), epochs=2, batch=2, warmup=2,
        threads=1, checkpoint_minutes=0.0, frozen_stages=0,
    )  # fmt: skip


def options(config: TrainConfig) -> list[str]:
    default = PRESETS["cpu"]
    changed = {k: v for k, v in vars(config).items() if v != getattr(default, k)}
    return [part for name, value in changed.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.timeout(300)
def test_a_killed_run_resumes_with_the_next_batch(shards: Path, tmp_path: Path) -> None:
    whole, killed = (config(shards, tmp_path / name) for name in ("whole", "killed"))
    expected = train(whole)
    command = [sys.executable, "-m", "model.train", *options(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = Path(killed.run) / "checkpoint.pt"
    try:
        while not checkpoint.exists() or torch.load(checkpoint, weights_only=True)["step"] < 3:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert torch.load(checkpoint, weights_only=True)["step"] < 12
    resumed = train(killed)
    assert resumed.step == expected.step == 12
    for ours, theirs in zip(
        resumed.network.state_dict().values(), expected.network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_training_learns_and_leaves_metrics_curves_and_weights(shards: Path, tmp_path: Path) -> None:
    tiny = replace(config(shards, tmp_path), epochs=10, lr=3e-3, ema=0.5)
    task = make_task(tiny)
    before = sum(task.loss(task.network, step, 4, 99).item() for step in range(3))
    run = train(tiny)
    after = sum(task.loss(run.network, step, 4, 99).item() for step in range(3))
    assert after < 0.9 * before
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 60 and 0 <= records[-1]["AP"] <= 1
    for name in ("curves.png", "pose.safetensors", "pose.json", "config.json"):
        assert (run.folder / name).stat().st_size > 100


def test_workers_share_a_batch_on_the_same_weights(shards: Path, tmp_path: Path) -> None:
    """Two workers change the weights like one worker that processes both parts in turn."""
    shared = replace(config(shards, tmp_path), batch=4, workers=2)
    run = Run(shared, make_task(shared))
    losses, gradients = zip(*(run._share(part) for part in (0, 1)), strict=True)
    value = run.advance()
    assert value == pytest.approx(sum(losses) / 2, rel=1e-4)
    norm = torch.stack([((a + b) / 2).norm() for a, b in zip(*gradients, strict=True)]).norm()
    clipped = torch.stack([p.grad.norm() for p in run.parameters if p.grad is not None]).norm()
    assert clipped.item() == pytest.approx(min(5.0, norm.item()), rel=1e-3)
    assert run.step == 1


def test_chunks_share_a_batch_and_leave_the_statistics_of_batch_norm(shards: Path, tmp_path: Path) -> None:
    """Four chunks give the mean of their losses and gradients, each with the running statistics."""
    chunked = replace(config(shards, tmp_path), batch=4, chunk=1)
    run = Run(chunked, make_task(chunked))
    statistics = {name: value.clone() for name, value in run.network.named_buffers()}
    losses = [run.task.loss(run.network, part, 1, chunked.seed) for part in range(4)]
    expected = torch.autograd.grad(sum(losses) / 4, run.parameters)
    value, gradients = run._share(0)
    assert value == pytest.approx(sum(loss.item() for loss in losses) / 4, rel=1e-4)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    run.advance()
    for name, before in statistics.items():
        assert torch.equal(dict(run.network.named_buffers())[name], before), name


def test_a_loss_that_is_not_finite_stops_the_run(shards: Path, tmp_path: Path) -> None:
    tiny = config(shards, tmp_path)
    run = Run(tiny, make_task(tiny))
    assert isinstance(run.network, LGMPose)
    with torch.no_grad():
        run.network.head.bias.fill_(float("nan"))
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        run.advance()
    for name, value in run.network.named_parameters():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name
    assert run.step == 0


def test_paper_preset_divides_the_rate_at_epochs_200_and_240() -> None:
    paper = PRESETS["paper"]
    rates = [
        round(paper.lr * rate_factor(paper, 1, epoch / 260), 9) for epoch in (0, 199, 200, 239, 240, 259)
    ]
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    assert (paper.optimizer, paper.batch, paper.epochs) == ("adam", 32, 260)


def test_cooldown_warms_up_stays_and_falls() -> None:
    cpu = PRESETS["cpu"]
    assert rate_factor(cpu, 0, 0.0) == pytest.approx(1 / cpu.warmup)
    assert rate_factor(cpu, 10_000, 0.69) == 1
    assert rate_factor(cpu, 10_000, 1.0) == pytest.approx(0.02)


def test_command_line_changes_the_preset_and_asks_for_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = parse(["--preset", "gpu", "--minutes", "9", "--batch", "64"])
    assert (parsed.minutes, parsed.batch, parsed.lr) == (9, 64, PRESETS["gpu"].lr)
    with pytest.raises(SystemExit):
        parse(["--preset", "cpu"])
    assert "--minutes or --epochs" in capsys.readouterr().err


def test_the_help_describes_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for each in fields(TrainConfig):
        option, meaning = f"--{each.name.replace('_', '-')} ", each.metadata["help"]
        assert option in text and len(meaning) > 5 and meaning.split(";")[0] in text


@pytest.mark.parametrize(("batch", "workers"), [(16, 3), (2, 4), (16, 0), (0, 1)])
def test_a_batch_that_the_workers_cannot_share_is_refused(
    batch: int, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--minutes", "1", "--batch", str(batch), "--workers", str(workers)])
    assert f"--batch {batch} is not a multiple of --workers {workers}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--init x --batch 8 --chunk 3", "--chunk 3 does not divide the 8 images of a worker"),
        ("--init x --batch 8 --workers 2 --chunk 8", "--chunk 8 does not divide the 4 images of a worker"),
        ("--init x --chunk -1", "--chunk -1 does not divide"),
        ("--chunk 4", "--chunk needs --init"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(
    options: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--minutes", "1", *options.split()])
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "-0.5", "1.5", "nan"])
def test_a_share_that_is_no_part_is_refused(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--minutes", "1", "--share", share])
    assert "is not above 0 and at most 1" in capsys.readouterr().err
    assert parse(["--minutes", "1", "--share", "0.25"]).share == 0.25


def test_mpii_is_refused_as_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(SystemExit):
        parse(["--minutes", "1", "--data", str(tmp_path)])
    assert "MPII is for evaluation only" in capsys.readouterr().err


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrix = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    for shape in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonal(shape))
        assert values.min() > 0.6 and values.max() < 1.3
        # the directions stay: the nearest orthogonal matrix has the same singular vectors
        u, _, v = torch.linalg.svd(shape, full_matrices=False)
        assert (
            torch.nn.functional.cosine_similarity(orthogonal(shape).flatten(), (u @ v).flatten(), dim=0)
            > 0.97
        )


def test_matrices_of_different_sizes_are_orthogonalised_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(20, 50), (50, 20), (32, 64), (1, 3), (3, 70), (40, 40), (17, 60)]
    matrices = [torch.randn(size, generator=generator) for size in sizes]
    for matrix, result in zip(matrices, orthogonal_each(matrices), strict=True):
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        alone = orthogonal(wide) if wide is matrix else orthogonal(wide).T
        torch.testing.assert_close(result, alone, rtol=1e-4, atol=1e-5)


def test_muon_finds_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8)
    inputs, wanted = torch.randn(64, 8), torch.nn.Linear(8, 8)
    target = wanted(inputs).detach()
    optimizer = Muon(layer.parameters(), lr=0.05, weight_decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimizer.zero_grad()
        (layer(inputs) - target).square().mean().backward()
        optimizer.step()
    assert (layer(inputs) - target).square().mean() < 1e-3
