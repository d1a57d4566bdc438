"""Virtual environments of the other servers, separate from the project's own environment."""

import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "benchmarks"

#: The requirements of `service.inference.pipeline`, which runs behind each server.
PIPELINE = (
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "onnxruntime",
    "openvino; sys_platform == 'linux' and platform_machine == 'x86_64'",
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
    "mediapipe": ("mediapipe==0.10.21",),  # the last wheel that includes the models of Pose
}


def python_of(name: str) -> Path:
    """The interpreter of the environment `name` of REQUIREMENTS; creates the environment if it is missing.

    Raises CalledProcessError when a package cannot be installed.
    """
    folder = CACHE / "environments" / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS[name])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"creating {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python
