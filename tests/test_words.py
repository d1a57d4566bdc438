"""The prose of the project is plain technical English: phrases that readers stumble over fail here."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: A pattern that must not occur, and what to write instead.
PHRASES = {
    r"by falling": "sorted by descending",
    r"told": "reported, returned, configured",
    r"foretold|foretells?": "known in advance, described",
    r"tells? (of|so|that|what|which|how|whether|it)": "reports, says, shows",
    r"lest": "so that ... not",
    r"nobody but|nobody else than": "only",
    r"nothing but": "only",
    r"in company": "in a batch, together",
    r"apart by": "separated by",
    r"of no use": "useless",
    r"gone astray": "hung",
    r"the very": "the same, exactly the",
    r"sound(?! files?)|unsound": "valid, invalid",
    r"beside": "next to, compared with, in addition to",
    r"who(m?)(so)?ever": "every client that, anyone who",
    r"anew": "again",
    r"takes? work": "is ready, accepts requests",
    r"so many": "a number, at most N",
    r"for ever": "without end",
    r"at hand": "available",
    r"unfelt": "without an effect on clients",
    r"is let|lets itself be": "can",
    r"in words of": "with its own message",
    r"stands? in (the|its|every)": "is in",
    r"(?<!there )(is|are) no (?!longer|more than|less|closed)": "is not a",
    r"have got|has got": "has received",
    r"each (\w+) more": "each further, each additional",
    r"what becomes of": "what happens to",
    r"hence|thereof|whereby|thereby|whilst|amid|amidst": "so, therefore, while",
    r"ends? the start|stops? the start": "stops start-up",
    r"made ready": "prepared",
    r"meanwhile": "at the same time, during this",
    r"seldom": "rarely",
    r"more of the like|and their like|the likes? of": "similar ones",
    r"had (better|rather)": "should",
    r"one likes|it likes": "any number",
    r"(listens?|takes?|is) no more": "no longer",
    r"that rests?|connections at rest": "idle",
}  # fmt: skip
_PATTERNS = [
    (re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE), plain)
    for pattern, plain in PHRASES.items()
]

#: Folders and files whose prose is not checked: data, generated code, licences, this list.
SKIPPED = (
    "benchmarks/results/",
    "service/wire/pb/",
    "model/weights/accuracy.json",
    "LICENSE",
    "tests/test_words.py",
)
SUFFIXES = {".md", ".py", ".proto", ".yml", ".yaml", ".json", ".toml", ".js", ".html", ".css", ""}


def documents() -> list[str]:
    """The tracked files that hold prose."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        name
        for name in tracked.stdout.splitlines()
        if Path(name).suffix in SUFFIXES and not name.startswith(SKIPPED)
    ]


def faults(text: str) -> Iterator[str]:
    """Each hit as "line: phrase -> plain words". Underscores count as spaces, so names are read too."""
    lines = [line.strip(" #/*") for line in text.replace("_", " ").splitlines()]
    starts, joined = [], ""
    for line in lines:  # a phrase may go over the end of a line
        starts.append(len(joined))
        joined += line + " "
    for pattern, plain in _PATTERNS:
        for hit in pattern.finditer(joined):
            number = sum(start <= hit.start() for start in starts)
            yield f"{number}: {hit[0]} -> {plain}"


@pytest.mark.parametrize("name", documents())
def test_prose_is_plain(name: str) -> None:
    assert sorted(faults((ROOT / name).read_text())) == []


def test_a_phrase_is_found_over_the_end_of_a_line_and_in_a_name() -> None:
    assert list(faults("boxes by\n    # falling score")) == ["1: by falling -> sorted by descending"]
    assert list(faults("def test_a_loss_is_told() -> None:"))
    assert not list(faults("There is no queue. Boxes are sorted by descending score."))
