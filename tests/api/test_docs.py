"""The code in the documents works as described."""

import re
import subprocess
import sys

from service.config import Settings
from service.streaming.frames import StreamConfig
from service.types import Options
from tests.support.service import ROOT, Service

PAGE = (ROOT / "docs" / "streaming.md").read_text()


def test_the_python_example_runs(service: Service) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "127.0.0.1:50051" in code
    code = code.replace("127.0.0.1:50051", service.grpc)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    *_, last = done.stdout.splitlines()
    assert last.startswith("9 1 Counts(received=10")


def test_the_quick_start_runs(service: Service) -> None:
    page = (ROOT / "docs" / "index.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (shell,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    url = "http://127.0.0.1:8000"
    person = r"(a person of score [01]\.\d\d, with the nose at \d+, \d+\n)+"
    for command, said in (
        ([sys.executable, "-c", code], person),
        (["sh", "-ec", shell], r'.*"persons":\[\{.*'),
    ):
        assert url in command[-1]
        command[-1] = command[-1].replace(url, service.url).replace("-o drawn.jpg", "-o /dev/null")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert re.fullmatch(said, done.stdout, re.DOTALL), done.stdout


def test_every_field_of_a_config_is_described_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]*)`? \|", PAGE, re.MULTILINE))
    fields = StreamConfig()
    for name in ("policy", "tracking", "smoothing", "detect_every"):
        assert table[name] == str(getattr(fields, name)).lower()
    assert f"| `min_score`, `max_persons` | {Options().min_score}, {Options().max_persons} |" in PAGE


def test_every_setting_named_exists() -> None:
    named = set(re.findall(r"`POSE_(\w+)`", PAGE))
    assert {"MAX_STREAMS", "MAX_VIDEO_BYTES", "MAX_VIDEO_S"} <= named
    assert {name.lower() for name in named} <= set(Settings.model_fields)
