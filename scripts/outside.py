"""Hook of mkdocs: adds files outside `docs/` that the pages link to."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: The name in the site of each file that pages may link to.
BROUGHT = {
    "model/weights/MODEL_CARD.md": "model-card.md",
    "model/weights/pose-curves.png": "pose-curves.png",
    "model/weights/detector-curves.png": "detector-curves.png",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "proto/pose.proto": "pose.proto",
    "proto/openinference.proto": "openinference.proto",
}
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files, with their links rewritten to the site's names."""
    for source, name in BROUGHT.items():
        path = ROOT / source
        if path.suffix == ".md":
            text = _LINK.sub(lambda found, home=path.parent: _in_site(home, found[1]), path.read_text())
            files.append(File.generated(config, name, content=text))
        else:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite links that lead outside `docs/` to the added files."""
    return _LINK.sub(lambda found: _in_site(ROOT / "docs", found[1]), markdown)


def _in_site(home: Path, link: str) -> str:
    """The site's name of a link target in a document in `home`."""
    path = (home / link).resolve()
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else link
    return BROUGHT.get(inside, link)
