"""Checks the paths of outputs: no output replaces an input or another output."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def check_outputs(inputs: Iterable[Path], outputs: Sequence[Path]) -> None:
    """Raise ValueError if an output is an input or another output, or if its folder does not exist."""
    files = {_identity(path) for path in inputs if path.exists()}
    seen: set[object] = set()
    for path in outputs:
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
        if path.is_dir():
            raise ValueError(f"{path}: is a folder")
        identity = _identity(path)
        if identity in files:
            raise ValueError(f"{path}: is an input and would be overwritten")
        if identity in seen:
            raise ValueError(f"{path}: two results would be written there")
        seen.add(identity)


def drawn_paths(photos: Sequence[Path], folder: Path) -> list[Path]:
    """The path of the drawn picture of each photo: folder/NAME.jpg.

    If two photos would get the same path, the paths keep their folders, their suffixes, or both.
    Raises ValueError if a picture would replace a photo.
    """
    full = [photo.resolve() for photo in photos]
    top = Path(os.path.commonpath([photo.parent for photo in full]))
    nested = [photo.relative_to(top) for photo in full]
    choices = (
        [Path(f"{photo.stem}.jpg") for photo in full],
        [photo.with_suffix(".jpg") for photo in nested],
        [Path(f"{photo.name}.jpg") for photo in full],
        [Path(f"{photo}.jpg") for photo in nested],  # differ as the photos do
    )
    distinct = len(set(full))
    paths = [folder / path for path in next(each for each in choices if _places(each) == distinct)]
    taken = {_identity(photo) for photo in photos if photo.exists()}
    for path in paths:
        if _identity(path) in taken:
            raise ValueError(f"{path}: is a photo and would be overwritten; give --draw another folder")
    return paths


def _places(paths: Sequence[Path]) -> int:
    """The number of different paths on this file system."""
    return len({os.path.normcase(path) for path in paths})


def _identity(path: Path) -> object:
    """Equal for names of the same file."""
    if path.exists():
        status = path.stat()
        return status.st_dev, status.st_ino
    return path.resolve()
