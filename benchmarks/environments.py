"""Virtual environments of what is compared with ours, so that nothing of it gets into the project's own."""

import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "benchmarks"

#: What `service.inference.pipeline` imports: the same networks and the same work behind any server.
PIPELINE = (
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "onnxruntime",
    "prometheus-client",
    "pydantic",
    "grpcio",
    "orjson",
)

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "fastapi": (*PIPELINE, "fastapi", "uvicorn", "uvloop", "httptools"),
    "litserve": (*PIPELINE, "litserve", "python-multipart"),
    "bentoml": (*PIPELINE, "bentoml"),
    "ray": (*PIPELINE, "ray[serve]"),
    "mosec": (*PIPELINE, "mosec"),
    "mediapipe": ("mediapipe==0.10.21",),  # the last whose wheel carries the models of Pose
}


def python_of(name: str) -> Path:
    """The interpreter of the environment `name` of REQUIREMENTS, which is made where it is missing.

    Raises CalledProcessError when a package cannot be had.
    """
    folder = CACHE / "environments" / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python
