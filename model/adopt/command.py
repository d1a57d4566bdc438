"""`lgm-pose adopt FILE.onnx --out DIR`: converts a published network for the service."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from model.adopt.check import Adoption
from model.adopt.detectors import DETECTORS
from model.adopt.family import AdoptError, Decode, Family
from model.adopt.network import Published, read_network
from model.adopt.poses import POSES
from model.adopt.wrap import wrap
from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Fit, Floats, Pixels
from model.keypoints import COCO, MPII, Skeleton

FAMILIES = {family.name: family for family in (*DETECTORS, *POSES)}
_PHOTO = Path(__file__).with_name("photo.jpg")


@dataclass(frozen=True)
class Choices:
    """What the user says of a file; what is left out is that of the family.

    family: see FAMILIES. size: (height, width) of a dynamic input. skeleton: of a pose network; by the number
    of keypoints where none is given. preprocessing: fields of Preprocessing to replace. photos: on which the
    result is compared with the original.
    """

    family: str | None = None
    name: str = ""
    licence: str = ""
    size: tuple[int, int] | None = None
    skeleton: Skeleton | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    photos: Sequence[Path] = (_PHOTO,)


def adopt(path: Path, out: Path, choices: Choices) -> tuple[Path, list[str]]:
    """Write out/detector.onnx or out/pose.onnx for a published network.

    Returns the path of the file and lines that describe it. Raises AdoptError, before anything is written,
    and OSError if it cannot be.
    """
    if choices.family not in (None, *FAMILIES):
        raise AdoptError(f"no family {choices.family!r}; there are {', '.join(FAMILIES)}")
    photos = {photo: _read(photo) for photo in choices.photos}
    published = read_network(path, choices.size)
    family, decode, outputs = choose(published, next(iter(photos.values())), choices)
    target = out / f"{family.task}.onnx"
    if target.exists():
        raise AdoptError(f"{target}: exists already; remove it or choose another --out")
    metadata = _metadata(published, family, outputs, choices)
    model = wrap(published, family.preprocessing, decode, metadata)
    adoption = Adoption(published, family.preprocessing, decode, model, metadata)
    worst, found = adoption.compare(photos)
    out.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    try:
        onnx.save(model, part, format="protobuf")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    height, width = published.size
    lines = [
        f"{target}: {family.task} of the layout {family.name} ({family.project}), {height}x{width}",
        f"the original and the result differ by {worst:.1g} at most",
    ]
    return target, [*lines, *found]


def choose(
    published: Published, photo: Pixels, choices: Choices
) -> tuple[Family, Decode, tuple[Floats, ...]]:
    """The family of a network, as named or from its outputs and names; how it is decoded; decoded outputs.

    photo: (H, W, 3). Raises AdoptError if its outputs are not of that family, of none, or of several.
    """
    height, width = published.size
    image = np.asarray(cv2.resize(photo, (width, height)), np.uint8)[None]
    plans = []
    for family in [FAMILIES[choices.family]] if choices.family else FAMILIES.values():
        preprocessing = replace(family.preprocessing, **choices.preprocessing)
        example = published.example(preprocessing(image))
        if (decode := family.plan(example)) is not None:
            plans.append((replace(family, preprocessing=preprocessing), decode, decode(example.outputs)))
    if not plans:
        wanted = choices.family or f"any family ({', '.join(FAMILIES)})"
        outputs = ", ".join(f"{n} {s}" for n, s in zip(example.names, example.shapes, strict=True))
        raise AdoptError(f"{published.path}: its outputs are not those of {wanted}: {outputs}")
    if len(plans) > 1:
        words = " ".join([published.path.name, *published.tensor_names()]).lower()
        hinted = [each for each in plans if any(hint in words for hint in each[0].hints)]
        if len(hinted) != 1:
            names = ", ".join(family.name for family, *_ in plans)
            raise AdoptError(f"{published.path}: its outputs fit {names}: choose one with --family")
        plans = hinted
    return plans[0]


def _metadata(
    published: Published, family: Family, outputs: tuple[Floats, ...], choices: Choices
) -> PoseMetadata | DetectorMetadata:
    common: dict[str, Any] = {
        "name": choices.name or published.path.stem,
        "version": published.sha256[:12],
        "commit": "",
        "input_size": published.size,
        "source": published.path.name,
        "source_sha256": published.sha256,
        "licence": choices.licence,
    }
    if family.task == "detector":
        fed = family.preprocessing
        return DetectorMetadata(**common, letterbox_fill=fed.fill, fit=fed.fit, resize=fed.resize)
    shape = outputs[0].shape
    return PoseMetadata(
        **common,
        crop_padding=1.25,
        heatmap_stride=published.size[1] / shape[-1],
        alignment=family.alignment,
        skeleton=_skeleton(published, shape[1], choices.skeleton),
    )


def _skeleton(published: Published, count: int, chosen: Skeleton | None) -> Skeleton:
    """The skeleton of a network of `count` keypoints. Raises AdoptError if it is not known."""
    known = {len(skeleton.names): skeleton for skeleton in (COCO, MPII)}
    skeleton = chosen or known.get(count)
    if skeleton is None:
        raise AdoptError(f"{published.path}: has {count} keypoints: describe them with --skeleton FILE.json")
    if len(skeleton.names) != count:
        raise AdoptError(f"{published.path}: has {count} keypoints, the skeleton {len(skeleton.names)}")
    return skeleton


def _read(photo: Path) -> Pixels:
    """A photo (H, W, 3) BGR. Raises AdoptError."""
    image = cv2.imread(str(photo)) if photo.is_file() else None
    if image is None:
        raise AdoptError(f"{photo}: not a photo that can be read: give one with --photo")
    return np.asarray(image, np.uint8)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels")
    return int(found[1]), int(found[2])


def _three(text: str) -> tuple[float, float, float]:
    try:
        first, second, third = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A,B,C") from None
    return first, second, third


def _deviations(text: str) -> tuple[float, float, float]:
    deviations = _three(text)
    if not min(deviations) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} are not three numbers above 0")
    return deviations


def _grey(text: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"{text!r} is not a grey level from 0 to 255")
    return int(text)


def _chosen_skeleton(text: str) -> Skeleton:
    """coco, mpii, or a file with the JSON of GET /v1/skeleton."""
    if text in (known := {"coco": COCO, "mpii": MPII}):
        return known[text]
    try:
        parts = json.loads(Path(text).read_text())
        pairs = {key: tuple((int(a), int(b)) for a, b in parts[key]) for key in ("edges", "flip_pairs")}
        return Skeleton(tuple(parts["names"]), oks_sigmas=tuple(map(float, parts["oks_sigmas"])), **pairs)
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{text} has no {error.args[0]}") from None
    except (OSError, ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{text} is not the JSON of GET /v1/skeleton: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lgm-pose adopt", description=__doc__)
    parser.add_argument("file", type=Path, help="the published ONNX file")
    parser.add_argument("--out", type=Path, required=True, help="folder of detector.onnx or pose.onnx")
    parser.add_argument("--family", help=f"one of {', '.join(FAMILIES)} [that of the file]")
    parser.add_argument("--name", default="", help="name of the network [that of the file]")
    parser.add_argument("--licence", default="", help="licence of the network, stored in the file")
    parser.add_argument("--size", type=_size, help="HEIGHTxWIDTH in pixels, for an input of dynamic size")
    parser.add_argument(
        "--skeleton", type=_chosen_skeleton, help="coco, mpii, or a file with the JSON of /v1/skeleton"
    )
    parser.add_argument(
        "--photo",
        type=Path,
        action="append",
        help="photo on which both networks are compared; may be repeated",
    )
    own = parser.add_argument_group("preprocessing", "only if it differs from that of the family")
    own.add_argument("--colour", choices=("bgr", "rgb"), help="order of the colour channels")
    own.add_argument("--mean", type=_three, help="mean pixel value of each channel, in that order: A,B,C")
    own.add_argument("--std", type=_deviations, help="standard deviation of each channel: A,B,C")
    own.add_argument(
        "--fit", type=Fit, choices=tuple(Fit), help="position of the image in a detector's input"
    )
    own.add_argument("--fill", type=_grey, help="grey level of the rest of the input, 0 to 255")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exits with a one-line message if the file cannot be adopted."""
    options = _parser().parse_args(arguments)
    own = {key: getattr(options, key) for key in ("mean", "std", "fit", "fill")}
    own["rgb"] = None if options.colour is None else options.colour == "rgb"
    choices = Choices(
        family=options.family,
        name=options.name,
        licence=options.licence,
        size=options.size,
        skeleton=options.skeleton,
        preprocessing={key: value for key, value in own.items() if value is not None},
        photos=options.photo or (_PHOTO,),
    )
    try:
        _, lines = adopt(options.file, options.out, choices)
    except (AdoptError, OSError) as error:
        raise SystemExit(str(error)) from None
    print("\n".join(lines))
