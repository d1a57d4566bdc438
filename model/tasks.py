"""Training tasks: a network with its batches, loss and validation."""

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model import detector, detector_dataset, lgmpose
from model.distil import DenseTeacher, HeatmapTeacher, distil
from model.evaluate import person_accuracy, pose_accuracy
from model.loss import distillation_loss, heatmap_loss
from model.pose_dataset import PersonCrops, pack, prepare, read_data
from model.predictors import torch_detector, torch_pose
from model.samples import Sample, kept_apart


class Task(Protocol):
    """The interface of a task for the trainer. step, n and seed determine a batch; the loss is a scalar."""

    network: nn.Module
    device: torch.device
    samples: int

    def loss(self, network: nn.Module, step: int, n: int, seed: int) -> Tensor: ...

    def validate(self, network: nn.Module) -> dict[str, float]: ...

    def save(self, network: nn.Module, path: Path) -> None: ...


class PoseTask:
    """LGM-Pose on person crops; a teacher, if given, runs on the same crops and is distilled."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.device = device
        self.network = start(lgmpose.LGMPose(lgmpose.CONFIGS[config.network]), config).to(device)
        packs = prepare(config.data, Path(config.cache) / "persons", pack)
        self.crops = PersonCrops(packs, self.network.config.input_size, device, config.share)
        self.samples = len(self.crops)
        self.teacher: HeatmapTeacher | None = None
        if config.teachers:
            self.teacher = HeatmapTeacher(
                _existing(Path(config.teachers) / "pp-tinypose-256x192.xml"), config.threads, config.workers
            )
        self.validation = validation_scenes(config.data)

    def loss(self, network: nn.Module, step: int, n: int, seed: int) -> Tensor:
        """See Task: a scalar."""
        batch = self.crops.batch(step, n, seed)
        if self.teacher:
            batch = distil(batch, self.teacher(batch.images))
        with half(self.device):
            heatmaps = network(batch.images)
        return heatmap_loss(heatmaps.float(), batch.heatmaps, batch.weights)

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert isinstance(network, lgmpose.LGMPose)
        accuracy = pose_accuracy(torch_pose(network.eval()), self.validation)
        return {"AP": accuracy.ap, "AP50": accuracy.ap50}

    def save(self, network: nn.Module, path: Path) -> None:
        assert isinstance(network, lgmpose.LGMPose)
        lgmpose.save(network, path)


class DetectorTask:
    """The person detector, distilled from a published one on augmented photos."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.device = device
        self.network = start(_untrained_detector(config.init), config).to(device)
        packs = prepare(config.data, Path(config.cache) / "photos", detector_dataset.pack)
        self.photos = detector_dataset.Canvases(packs, self.network.config.input_size, device, config.share)
        teacher = _existing(Path(config.teachers) / "rtmdet-nano-320-person.onnx")
        self.teacher = DenseTeacher(teacher, config.threads)
        self.samples = len(self.photos)
        self.validation = validation_scenes(config.data)

    def loss(self, network: nn.Module, step: int, n: int, seed: int) -> Tensor:
        """See Task: a scalar."""
        assert isinstance(network, detector.PersonDetector)
        images = self.photos.batch(step, n, seed)
        with half(self.device):
            boxes, logits = network.predict(images)
        score_loss, box_loss = distillation_loss(boxes, logits, *self.teacher(images))
        return 10 * score_loss + box_loss

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert isinstance(network, detector.PersonDetector)
        accuracy = person_accuracy(torch_detector(network.eval()), self.validation)
        return {"AP": accuracy.ap, "AP50": accuracy.ap50}

    def save(self, network: nn.Module, path: Path) -> None:
        assert isinstance(network, detector.PersonDetector)
        detector.save(network, path)


def _untrained_detector(init: str) -> detector.PersonDetector:
    """A detector for the weights of a file: of the same widths if the file is one of ours."""
    if not init or not Path(init).with_suffix(".json").is_file():
        return detector.PersonDetector()
    other = detector.load_config(Path(init))
    config = detector.DetectorConfig(
        backbone=other.backbone, width=other.width, head_blocks=other.head_blocks
    )
    return detector.PersonDetector(config)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no teacher at {path}: see --teachers")
    return path


def half(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on CUDA and on CPUs with AVX512-BF16."""
    fast = device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def validation_scenes(data: str) -> list[Sample]:
    """The photos for validation during training, of the first folder: those kept apart, if any."""
    samples = read_data(Path(data.split(",")[0]), "val")
    return [sample for sample in samples if kept_apart(sample)] or samples


def start(network: Any, config: Any) -> Any:
    """The network with the weights of config.init, channels last, first layers of the backbone frozen.

    Raises KeyError or RuntimeError when the file does not fit the network.
    """
    if config.init:
        weights = load_file(config.init)
        if "stem.weight" in weights:
            network.backbone.load_folded(weights)
        else:
            network.load_state_dict(weights)
    network.backbone.freeze(config.frozen_stages)
    return network.to(memory_format=torch.channels_last)


def make_task(config: Any) -> Task:
    """The task of a TrainConfig, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tasks: dict[str, type[PoseTask] | type[DetectorTask]] = {"pose": PoseTask, "detector": DetectorTask}
    return tasks[config.task](config, device)
