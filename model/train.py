"""Trains a network: `python -m model.train --task pose --preset cpu --minutes 60`.

A run is a folder. The same command resumes it at the batch after the last checkpoint.
"""

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.curves import draw_curves
from model.lgmpose import CONFIGS
from model.muon import Muon
from model.pose_dataset import layout
from model.tasks import Task, make_task


def _option(default: Any, text: str, *choices: str) -> Any:
    """A field of TrainConfig with the help text and the choices of its command-line option."""
    return field(default=default, metadata={"help": text, "choices": choices or None})


@dataclass(frozen=True)
class TrainConfig:
    """One training run; each field is a command-line option."""

    task: str = _option("pose", "the network to train", "pose", "detector")
    network: str = _option("pretrained", "configuration of LGM-Pose", *CONFIGS)
    data: str = _option("../shared/data", "comma-separated folders of shards or of COCO")
    share: float = _option(1.0, "part of the persons or photos that is drawn, for learning curves")
    run: str = _option("", "folder of checkpoints and curves; runs/TASK when empty")
    cache: str = _option(".cache", "folder of packed images")
    init: str = _option("", ".safetensors to start from: a network of ours, or folded MobileNetV2 blocks")
    teachers: str = _option("", "folder of PP-TinyPose (pose, optional) or RTMDet-nano (detector)")
    minutes: float = _option(0.0, "length of the whole run, with its resumed parts; 0: train for --epochs")
    epochs: int = _option(0, "length in passes over all data, whatever --share is, if --minutes is 0")
    batch: int = _option(16, "images of a step")
    chunk: int = _option(
        0, "images that are run at once, with fixed statistics of BatchNorm; 0: those of a worker's part"
    )
    optimizer: str = _option("muon", "optimizer", "muon", "adamw", "adam")
    lr: float = _option(1e-3, "learning rate")
    backbone_lr_factor: float = _option(0.1, "factor on the learning rate of the backbone")
    weight_decay: float = _option(1e-4, "decay of the weights, a factor on the learning rate")
    schedule: str = _option(
        "cooldown",
        "of the learning rate; cooldown: constant, then a cosine to 2 percent over the last 30 percent; "
        "steps: a tenth at epochs 200 and 240 of 260",
        *("cooldown", "steps"),
    )
    warmup: int = _option(200, "steps in which the learning rate rises to its value")
    frozen_stages: int = _option(99, "number of first backbone layers (stem, blocks) that are not trained")
    ema: float = _option(0.998, "decay of the averaged weights for each step")
    threads: int = _option(0, "CPU threads of each worker; 0: torch's default")
    workers: int = _option(1, "workers that share each batch, with the same weights")
    checkpoint_minutes: float = _option(4.0, "minutes between checkpoints")
    validate_minutes: float = _option(12.0, "minutes between validations")
    seed: int = _option(1, "seed of the random numbers")


PRESETS: dict[str, TrainConfig] = {
    "cpu": TrainConfig(teachers="../shared/teachers"),
    "gpu": TrainConfig(
        teachers="../shared/teachers", batch=256, lr=2e-3, weight_decay=0.05, frozen_stages=0,
        backbone_lr_factor=0.2, ema=0.999, validate_minutes=3.0,
    ),
    # section 4.1 of the paper
    "paper": TrainConfig(
        network="scratch", optimizer="adam", lr=1e-3, backbone_lr_factor=1.0, weight_decay=0.0,
        schedule="steps", warmup=0, batch=32, epochs=260, frozen_stages=0,
    ),
}  # fmt: skip


def rate_factor(config: TrainConfig, step: int, progress: float) -> float:
    """Factor on the learning rate; progress of the whole run in [0, 1]."""
    warmup = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "steps":
        return warmup * 0.1 ** sum(progress >= epoch / 260 for epoch in (200, 240))
    tail = max(0.0, (progress - 0.7) / 0.3)
    return warmup * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, tail))) / 2)


class Run:
    """The state of a training run: network, averaged network, optimizer, step and time spent."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self.config, self.task = config, task
        self.folder = Path(config.run or f"runs/{config.task}")
        self.network = task.network
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        _prepare(self.network, fixed_statistics=config.chunk > 0)
        self.optimizer = _optimizer(config, self.network)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.workers = ThreadPoolExecutor(
            config.workers, initializer=_limit_threads, initargs=(config.threads,)
        )
        self.step, self.seconds, self.begun = 0, 0.0, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, including those before the last resumption."""
        return self.seconds + time.monotonic() - self.begun

    @property
    def progress(self) -> float:
        """Finished share of the run, in [0, 1]."""
        if self.config.minutes:
            return min(1.0, self.elapsed / (60 * self.config.minutes))
        return min(1.0, self.step * self.config.batch / (self.config.epochs * self.task.samples))

    def save(self) -> None:
        """Write a checkpoint; it replaces the last one only when it is complete."""
        state = {
            "step": self.step,
            "seconds": self.elapsed,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.folder / "checkpoint.part"
        torch.save(state, part)
        os.replace(part, self.folder / "checkpoint.pt")
        self.task.save(self.average, self.folder / f"{self.config.task}.safetensors")

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.task.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.begun = state["step"], state["seconds"], time.monotonic()
        return True

    def advance(self) -> float:
        """One step of training. Returns the loss; raises FloatingPointError when it is not finite."""
        factor = rate_factor(self.config, self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor * group["factor"]
        workers = self.config.workers
        shares = list(self.workers.map(self._share, range(workers)))
        value = sum(loss for loss, _ in shares) / workers
        if not math.isfinite(value):  # before the step: the weights stay as they were
            raise FloatingPointError(f"the loss is {value} at step {self.step + 1}")
        gradients = shares[0][1]
        for _, others in shares[1:]:
            torch._foreach_add_(gradients, others)
        torch._foreach_div_(gradients, workers)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        self.step += 1
        self._average_weights()
        return value

    def _share(self, worker: int) -> tuple[float, list[Tensor]]:
        """Loss and gradients of a worker's part of the batch, the means of its chunks."""
        config = self.config
        share = config.batch // config.workers
        chunk = config.chunk or share
        chunks = share // chunk
        first = (self.step * config.workers + worker) * chunks
        total, gradients = 0.0, [torch.zeros_like(parameter) for parameter in self.parameters]
        for part in range(first, first + chunks):
            loss = self.task.loss(self.network, part, chunk, config.seed) / chunks
            total += loss.item()
            torch._foreach_add_(gradients, torch.autograd.grad(loss, self.parameters))
        return total, gradients

    def _average_weights(self) -> None:
        decay = min(self.config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            mine, theirs = self.average.state_dict(), self.network.state_dict()
            floats = [name for name, value in mine.items() if value.is_floating_point()]
            others = [name for name, value in mine.items() if not value.is_floating_point()]
            torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
            torch._foreach_copy_([mine[n] for n in others], [theirs[n] for n in others])


def _prepare(network: nn.Module, *, fixed_statistics: bool) -> None:
    """Set training mode. fixed_statistics: BatchNorm uses its running statistics and does not change them."""
    for module in network.train().modules():
        if fixed_statistics and isinstance(module, nn.BatchNorm2d):
            module.eval()


def _limit_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)


def _optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    named = list(network.named_parameters())
    backbone = [p for name, p in named if name.startswith("backbone.")]
    rest = [p for name, p in named if not name.startswith("backbone.")]
    groups = [{"params": rest, "factor": 1.0}, {"params": backbone, "factor": config.backbone_lr_factor}]
    kinds: dict[str, Any] = {"muon": Muon, "adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.optimizer](groups, lr=config.lr, weight_decay=config.weight_decay)  # type: ignore[no-any-return]


def train(config: TrainConfig) -> Run:
    """Train until the budget is spent; writes checkpoints, metrics.jsonl and curves.png."""
    _limit_threads(config.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    run = Run(config, make_task(config))
    run.folder.mkdir(parents=True, exist_ok=True)
    if not run.resume():
        (run.folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    print(f"{run.folder}: step {run.step}, {run.elapsed / 60:.1f} min so far", flush=True)
    for event in _training(run):
        with (run.folder / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(event) + "\n")
        print(_line(event), flush=True)
    return run


def _training(run: Run) -> Iterator[dict[str, Any]]:
    """Advance the run to its end; yields a record about every 30 s and at each validation."""
    config = run.config
    reported = saved = run.elapsed
    validated = reported if run.step else -math.inf
    losses: list[float] = []
    while run.progress < 1:
        losses.append(run.advance())
        now = run.elapsed
        if now - reported > 30:
            yield _record(
                run,
                loss=sum(losses) / len(losses),
                samples_per_second=len(losses) * config.batch / (now - reported),
            )
            reported, losses = now, []
        if now - saved > 60 * config.checkpoint_minutes:
            run.save()
            saved = run.elapsed
        if now - validated > 60 * config.validate_minutes:
            yield _validation(run)
            reported = validated = run.elapsed
    run.save()
    yield _validation(run)


def _validation(run: Run) -> dict[str, Any]:
    record = _record(run, **run.task.validate(run.average))
    draw_curves(run.folder / "metrics.jsonl", record, run.folder / "curves.png")
    return record


def _record(run: Run, **values: float) -> dict[str, Any]:
    position = {
        "step": run.step,
        "samples": run.step * run.config.batch,
        "minutes": round(run.elapsed / 60, 2),
    }
    return position | {"progress": round(run.progress, 4)} | {k: round(v, 5) for k, v in values.items()}


def _line(event: dict[str, Any]) -> str:
    left = event["minutes"] * (1 / max(event["progress"], 1e-9) - 1)
    return "  ".join(f"{k} {v:g}" for k, v in event.items()) + f"  left {left:.0f} min"


def parse(arguments: list[str] | None = None) -> TrainConfig:
    """The configuration from a command line: a preset, overridden by options."""
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="defaults of the options [cpu]")
    for each in fields(TrainConfig):
        text = f"{each.metadata['help']} [{getattr(PRESETS['cpu'], each.name)}]"
        kind, choices = type(each.default), each.metadata["choices"]
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, choices=choices, help=text)
    given = vars(parser.parse_args(arguments))
    preset = PRESETS[given.pop("preset")]
    config = replace(preset, **{name: value for name, value in given.items() if value is not None})
    if not config.minutes and not config.epochs:
        parser.error("--minutes or --epochs is needed")
    if not 0 < config.share <= 1:
        parser.error(f"--share {config.share} is not above 0 and at most 1")
    if config.workers < 1 or config.batch < 1 or config.batch % config.workers:
        parser.error(f"--batch {config.batch} is not a multiple of --workers {config.workers}")
    if config.chunk and not config.init:
        parser.error("--chunk needs --init: the statistics of BatchNorm come from trained weights")
    if config.chunk < 0 or (config.chunk and config.batch // config.workers % config.chunk):
        parser.error(
            f"--chunk {config.chunk} does not divide the {config.batch // config.workers} images of a worker"
        )
    for root in map(Path, config.data.split(",")):
        if root.is_dir() and layout(root) == "mpii":
            parser.error(f"--data {root}: MPII is for evaluation only: its 16 joints are not COCO's")
    return config


if __name__ == "__main__":
    train(parse())
