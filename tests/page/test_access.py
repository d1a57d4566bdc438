"""Access to the page: keyboards, screen readers, phones, keys; foreign scripts are refused."""

import re
from pathlib import Path

import httpx
import pytest

from tests.page.conftest import Open
from tests.support.service import ROOT, Launch, Service

KEY = "a-key-of-the-page"


def test_the_keyboard_reaches_every_control(visit: Open, service: Service, pair: Path) -> None:
    seen = visit(service)
    seen.choose(pair)
    seen.page.wait_for_selector("#persons li")
    seen.page.locator("h1").click()
    reached = []
    for _ in range(12):
        seen.page.keyboard.press("Tab")
        reached.append(
            seen.page.evaluate(
                "(({id, dataset, pathname}) => id || dataset.form || pathname)(document.activeElement)"
            )
        )
    controls = ["/docs", "/metrics", "file", "live", "min", "json", "coco", "curl", "python"]
    assert reached[: len(controls)] == controls
    seen.page.focus("#min")
    seen.page.keyboard.press("End")
    assert seen.text("#least") == "1.00"
    assert seen.text("#spoken") == f"No persons found in {pair.name}."
    seen.page.focus("#live")
    seen.page.keyboard.press("Enter")
    seen.wait_for_text("#live", "Stop")
    seen.page.keyboard.press("Enter")
    seen.wait_for_text("#live", "Start camera")


def test_each_control_has_a_name_for_screen_readers(visit: Open, service: Service) -> None:
    page = visit(service).page
    for role, name in [
        ("button", "Choose a file"),
        ("button", "Start camera"),
        ("slider", "Minimum score"),
        ("button", "JSON"),
        ("button", "curl"),
        ("complementary", "Results"),
        ("navigation", "Documents"),
    ]:
        assert page.get_by_role(role, name=name).count() == 1, name  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_the_screen(visit: Open, service: Service, pair: Path, width: int) -> None:
    seen = visit(service, viewport={"width": width, "height": 700}, is_mobile=width < 700, has_touch=True)
    seen.choose(pair)
    seen.page.wait_for_selector("#persons li")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_mode_is_dark(visit: Open, service: Service) -> None:
    def ground(scheme: str) -> str:
        page = visit(service, color_scheme=scheme).page
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    assert (ground("light"), ground("dark")) == ("rgb(246, 247, 249)", "rgb(16, 19, 24)")


def test_scripts_from_elsewhere_and_inline_are_refused(visit: Open, service: Service) -> None:
    seen = visit(service)
    refused = seen.page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => {
                refused.push(event.effectiveDirective);
            });
            const script = document.createElement("script");
            try { script.textContent = "document.title = 'owned'"; } catch { }
            document.body.append(script);
            document.body.setAttribute("style", "color: red");
            await fetch("http://127.0.0.1:9/").catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 100));
            return refused;
        }"""
    )
    assert {"require-trusted-types-for", "style-src-attr", "connect-src"} <= set(refused)
    assert seen.page.title() == "LGM-Pose"
    assert all("Content Security Policy" in fault or "TrustedScript" in fault for fault in seen.faults)
    seen.faults.clear()
    seen.requests.clear()


def test_a_key_is_asked_for_and_kept_in_memory(visit: Open, launch: Launch, pair: Path) -> None:
    seen = visit(launch(api_keys=KEY))
    seen.wait_for_text("#message", "This service requires a key")
    seen.page.fill("#key", KEY[:-1] + "x")
    seen.page.keyboard.press("Enter")
    seen.wait_for_text("#message", "does not know this key")
    seen.page.fill("#key", KEY)
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#access", state="hidden")
    seen.choose(pair)
    seen.page.wait_for_selector("#persons li")
    seen.page.click("#live")
    seen.wait_for_frames(3)
    stored = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
    assert seen.page.evaluate(stored) == '[{},{},""]'
    assert not any(KEY in url for url in seen.requests)
    seen.page.click("[data-form=curl]")
    seen.wait_for_text("#copied", "Copied")
    line = seen.page.evaluate("navigator.clipboard.readText()")
    assert "$POSE_API_KEY" in line
    assert KEY not in line
    seen.forgive_network_faults()


def test_files_come_with_the_policy_and_are_asked_for_again(service: Service) -> None:
    first = httpx.get(f"{service.url}/")
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in first.headers["content-security-policy"]
    again = {"if-none-match": first.headers["etag"]}
    assert httpx.get(f"{service.url}/", headers=again).status_code == 304
    assert httpx.head(f"{service.url}/").status_code == 200
    script = httpx.get(f"{service.url}/page/page.js")
    assert "javascript" in script.headers["content-type"]
    assert script.headers["cache-control"] == "no-cache"
    for path in ("/page/", "/page/../app.py", "/page/%2e%2e/app.py", "/page/nothing.js"):
        assert httpx.get(f"{service.url}{path}").status_code == 404, path


def test_the_script_in_the_streaming_guide_gets_an_answer(visit: Open, service: Service) -> None:
    guide = (ROOT / "docs" / "streaming.md").read_text()
    (script,) = re.findall(r"```js\n(.*?)```", guide, re.DOTALL)
    assert "ws://127.0.0.1:8000" in script and "console.log" in script
    script = script.replace("ws://127.0.0.1:8000", f"ws{service.url.removeprefix('http')}")
    answer = visit(service).page.evaluate(
        "() => new Promise((resolve) => { const canvas = document.createElement('canvas');"
        f"canvas.getContext('2d').fillRect(0, 0, 9, 9); {script.replace('console.log', 'resolve')} }})"
    )
    assert answer["frame_id"] == 0 and answer["poses"]["width"] == 300
