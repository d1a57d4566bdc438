"""Settings of the environment: what is wrong with them is said in one line, and nothing is ignored."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import pytest

from tests.api.test_lifecycle import run
from tests.support.networks import save_networks
from tests.support.processes import prepared
from tests.support.service import ROOT, Launch


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"max_imges": 3}, "POSE_MAX_IMGES: there is no such setting; did you mean POSE_MAX_IMAGES?"),
        ({"api_key": "secret"}, "POSE_API_KEY: there is no such setting; did you mean POSE_API_KEYS?"),
        ({"port": 8000}, "POSE_PORT: there is no such setting; did you mean POSE_HTTP_PORT?"),
        ({"zzz": 1}, "POSE_ZZZ: there is no such setting; `lgm-pose --help` lists them"),
        ({"host": ""}, "POSE_HOST: is empty; unset it for the default: 127.0.0.1"),
        ({"api_keys": ""}, "POSE_API_KEYS: is empty; unset it for the default"),
        ({"max_images": " "}, "POSE_MAX_IMAGES: is empty; unset it for the default: 64"),
        ({"http_port": 9999, "grpc_port": 9999}, "POSE_HTTP_PORT and POSE_GRPC_PORT are both 9999"),
        ({"host": "no..such.host"}, "POSE_HTTP_PORT: cannot listen on no..such.host port 8000: "),
        ({"rate_limit": "nan"}, "POSE_RATE_LIMIT: Input should be a finite number"),
        ({"root_path": "pose"}, "POSE_ROOT_PATH: 'pose' is not a path such as /pose"),
        ({"allowed_origins": "app.example"}, "POSE_ALLOWED_ORIGINS: 'app.example' is not an origin"),
        ({"allowed_origins": "https://app.example/"}, "POSE_ALLOWED_ORIGINS: 'https://app.example/' is not"),
        ({"trusted_proxies": "nginx"}, "POSE_TRUSTED_PROXIES: 'nginx' does not appear to be an IPv4 or IPv6"),
    ],
)
def test_an_invalid_setting_stops_start_up_with_a_line(settings: dict[str, object], line: str) -> None:
    done = run(**settings)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith(line), done.stderr
    assert len(done.stderr.splitlines()) <= 1 + (settings.get("max_images") == " ")


def test_names_and_values_are_reported_together() -> None:
    done = run(max_imges=3, max_batch=0, host="")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
        "POSE_HOST",
        "POSE_MAX_IMGES",
        "POSE_MAX_BATCH",
    ]


def test_variables_of_others_are_left_alone(launch: Launch) -> None:
    """Kubernetes names services, docker-compose.yml limits, a shell may hold the client's key too."""
    service = launch(
        service_host="10.0.0.1",
        service_port="8000",
        port="tcp://10.0.0.1:8000",
        port_8000_tcp_addr="10.0.0.1",
        grpc_service_port_http="1",
        cpus=2,
        memory="3g",
        api_keys="correct-horse-battery",
        api_key="correct-horse-battery",
    )
    assert httpx.get(f"{service.url}/readyz").status_code == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_the_ipv6_wildcard_serves_both_protocols_on_both_families(launch: Launch) -> None:
    service = launch(host="::")
    http, grpc_port = service.url.rpartition(":")[2], service.grpc.rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{http}/readyz").status_code == 200
        with grpc.insecure_channel(f"{host}:{grpc_port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_port_that_is_taken_in_one_family_is_in_use(tmp_path: Path) -> None:
    save_networks(tmp_path)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        done = run(weights=tmp_path, host="::", http_port=taken.getsockname()[1], grpc_port=0)
    assert done.returncode == 1
    assert done.stderr.startswith("POSE_HTTP_PORT: cannot listen on :: port ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs terminals")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_hang_up_ends_a_service_that_has_a_terminal(networks: dict[bool, Path], ignored: bool) -> None:
    """Unless `nohup` started it."""
    terminal, its_end = os.openpty()
    on_its_own_terminal = f"""
import os, signal
os.login_tty({its_end})
signal.signal(signal.SIGHUP, signal.{"SIG_IGN" if ignored else "SIG_DFL"})
"""
    settings = {"POSE_HTTP_PORT": "0", "POSE_GRPC_PORT": "0", "POSE_WEIGHTS": str(networks[False])}
    process = subprocess.Popen(
        prepared(on_its_own_terminal, "-m", "service"),
        cwd=ROOT,
        env={**os.environ, **settings},
        pass_fds=[its_end],
    )
    os.close(its_end)
    output = b""
    while b'"serving"' not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)  # the window is closed
    try:
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=3)
        else:
            assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def test_opencv_has_the_limit_of_pixels_too() -> None:
    """It reads it when it is imported."""
    code = """if True:
        import sys
        from service import cli
        assert "cv2" not in sys.modules
        cli._configure_opencv(max_pixels=99)
        import service.server
        import cv2, numpy
        photo = cv2.imencode(".png", numpy.zeros((10, 10, 3), numpy.uint8))[1]
        try:
            cv2.imdecode(photo, cv2.IMREAD_COLOR)
        except cv2.error:
            print("refused")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
