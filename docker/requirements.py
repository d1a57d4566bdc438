"""Writes the requirements of the image, with the given build of onnxruntime: requirements.py BUILD FILE."""

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, build: str) -> list[str]:
    """The dependencies in the text of a pyproject.toml, including those of the extra `video`.

    build: the package to install instead of `onnxruntime`, such as `onnxruntime-gpu[cuda,cudnn]`.
    """
    project = tomllib.loads(pyproject)["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["video"]]
    return [re.sub(r"^onnxruntime\b(?!-)", build, each) for each in needed]


if __name__ == "__main__":
    lines = requirements(Path("pyproject.toml").read_text(), sys.argv[1])
    Path(sys.argv[2]).write_text("\n".join(lines) + "\n")
