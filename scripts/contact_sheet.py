"""A contact sheet of photos with the persons that the service finds.

    python scripts/contact_sheet.py runs/sheet.jpg --data ../shared/data --source coco
    python scripts/contact_sheet.py runs/sheet.jpg photo.jpg ...

The sheet contains the photos, so publish it only if the photos may be published.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from model.geometry import Pixels, letterbox
from model.pose_dataset import read_data
from service.core.drawing import draw_person
from service.inference.cpu import available_cpus
from service.inference.pipeline import Pipeline, open_pipeline
from service.types import InferenceInput, Options

TILE, MAX_COLUMNS = (300, 300), 6
WEIGHTS = Path(__file__).parents[1] / "model" / "weights"


def photos(options: argparse.Namespace) -> Iterator[Pixels]:
    """The photos named on the command line, else evenly spread photos with persons from a data set."""
    for path in options.photos:
        yield np.asarray(cv2.imread(str(path)), np.uint8)
    if not options.photos:
        samples = [s for s in read_data(options.data, "val") if s.source == options.source and s.persons]
        for index in np.linspace(0, len(samples) - 1, min(options.count, len(samples))).astype(int):
            yield samples[index].image()


def tile(pipeline: Pipeline, image: Pixels, min_score: float) -> Pixels:
    """A photo uint8 BGR (H, W, 3) with its persons drawn, letterboxed to TILE."""
    scale = max(1.0, 600 / max(image.shape[:2]))
    image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale), np.uint8)
    (estimate,) = pipeline.run([InferenceInput(image, Options(min_score=min_score))])
    for person in estimate.persons:
        draw_person(image, person)
    return letterbox(image, TILE, 30)[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("photos", type=Path, nargs="*")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--source", default="coco")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--min-score", type=float, default=0.2)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    pipeline = open_pipeline(options.weights, threads=available_cpus())
    tiles = [tile(pipeline, image, options.min_score) for image in photos(options)]
    columns = min(MAX_COLUMNS, len(tiles))
    tiles += [np.full((*TILE, 3), 30, np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), np.vstack(rows))


if __name__ == "__main__":
    main()
