"""Tables in Markdown."""

from collections.abc import Iterable


def table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; figures keep three digits."""
    heads = list(titles)
    lines = [heads, *([_cell(value) for value in row] for row in rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(heads), *text[1:]])


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value).replace("|", "\\|")
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3g}"
