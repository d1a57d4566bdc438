"""Where the time of a photo with one person goes, on one thread: `python -m benchmarks.steps`."""

import argparse
import cProfile
import pstats
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rounds import ROOT, WEIGHTS
from service.core.image import decode
from service.inference.pipeline import open_pipeline
from service.types import InferenceInput, Options

PHOTO = ROOT / "examples" / "astronaut.jpg"
#: Steps, with the module and the function that does each. The networks' runs are in the modules of sessions.
STEPS = {
    "decoding the JPEG": ("image", "decode"),
    "shrinking for the detector": ("topdown", "detector_input"),
    "detector": ("topdown", "_run"),
    "boxes and non-maximum suppression": ("topdown", "_select"),
    "crop": ("topdown", "pose_input"),
    "heatmaps to keypoints": ("geometry", "decode_heatmaps"),
    "scores and rounding": ("persons", "find_persons"),
}
SESSIONS = (("runtime", "run"), ("openvino_session", "run"))


def profiled(photo: bytes, times: int) -> dict[str, float]:
    """Seconds of each step of a run of the photo, the longest first, and of all together."""
    pipeline = open_pipeline(WEIGHTS, threads=1)
    pipeline.run([InferenceInput(decode(photo), Options())])
    with cProfile.Profile() as profile:
        for _ in range(times):
            pipeline.run([InferenceInput(decode(photo), Options())])
    stats = pstats.Stats(profile)
    seconds: Counter[tuple[str, str]] = Counter()
    for (file, _, name), (_, _, _, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        seconds[Path(file).stem, name] += cumulative / times
    found = {step: seconds[function] for step, function in STEPS.items()}
    found["pose network"] = sum(seconds[session] for session in SESSIONS) - found["detector"]
    total = stats.total_tt / times  # type: ignore[attr-defined]
    found["the rest"] = total - sum(found.values())
    return {step: found[step] for step in sorted(found, key=lambda step: -found[step])} | {"together": total}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="runs of the photo [%(default)s]")
    times = parser.parse_args(arguments).times
    found = profiled(PHOTO.read_bytes(), times)
    for step, seconds in found.items():
        print(f"{step:36} {1000 * seconds:6.2f} ms  {seconds / found['together']:6.1%}")


if __name__ == "__main__":
    main()
