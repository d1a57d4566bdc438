"""TLS and client certificates over both protocols, and their replacement while the service runs."""

import asyncio
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
import websockets
from cryptography.hazmat.primitives import serialization as forms

from lgm_pose_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    Credentials,
    GrpcClient,
    HttpClient,
    ServiceError,
)
from lgm_pose_client.__main__ import main
from lgm_pose_client.types import Poses
from tests.api.test_lifecycle import run
from tests.security.test_keys import frames
from tests.support.networks import save_networks
from tests.support.service import ROOT, Launch, Service
from tests.support.streams import ALL, config_text, websocket_url


@dataclass(frozen=True)
class Files:
    """The certificates of the service and of clients."""

    folder: Path

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_cert": self.folder / "cert.pem", "tls_key": self.folder / "key.pem"}

    def serve(self, authority: trustme.CA) -> Credentials:
        """Have a CA sign the service's certificate; returns the credentials of a client that trusts it."""
        issued = authority.issue_cert("127.0.0.1")
        write(self.folder / "key.pem", issued.private_key_pem.bytes())
        write(self.folder / "cert.pem", b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return Credentials(ca=self.trust(authority, "ca"))

    def trust(self, authority: trustme.CA, name: str) -> Path:
        path = self.folder / f"{name}-{id(authority)}.pem"
        authority.cert_pem.write_to_path(path)
        return path

    def client(self, authority: trustme.CA, trusted: Credentials) -> Credentials:
        """A client with its own certificate."""
        issued = authority.issue_cert("client@example.org")
        certificate, key = self.folder / f"client-{id(issued)}.pem", self.folder / f"client-{id(issued)}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return replace(trusted, certificate=certificate, private_key=key)


def write(path: Path, data: bytes) -> None:
    """Replace the files atomically, as tools that renew certificates do."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def https(service: Service) -> tuple[str, str]:
    """Addresses of both protocols."""
    assert service.url.startswith("https://")
    return service.url, f"https://{service.grpc}"


def admits(service: Service, shown: Credentials, photo: bytes) -> bool:
    """Whether a new connection is accepted; both protocols must agree."""
    url, address = https(service)
    found = []
    for client in (HttpClient(url, credentials=shown), GrpcClient(address, credentials=shown, timeout_s=30)):
        with client:
            try:
                found.append(len(client.estimate(photo).persons) == 1)
            except ServiceError as error:
                assert error.code in ("unreachable", "unavailable"), error
                found.append(False)
    assert found[0] == found[1], found
    return found[0]


async def test_every_protocol_speaks_tls(launch: Launch, files: Files, small: bytes) -> None:
    shown = files.serve(trustme.CA())
    service = launch(**files.settings)
    url, address = https(service)
    async with AsyncHttpClient(url, credentials=shown) as http:
        assert (await http.estimate(small)).persons
    async with AsyncGrpcClient(address, credentials=shown) as rpc:
        assert (await rpc.estimate(small)).persons
        answers = [answer async for answer in rpc.stream(frames(small, 3), ALL)]
        assert [type(answer.outcome) for answer in answers] == [Poses] * 3
    async with websockets.connect(websocket_url(service), ssl=shown.ssl_context()) as socket:
        await socket.send(config_text(ALL))
        await socket.send(small)
        assert '"persons":[{' in str(await socket.recv())


def test_the_python_example_of_the_security_page_runs(launch: Launch, files: Files, photo: bytes) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown = files.serve(trustme.CA())
    key = "a-key-for-the-page"
    service = launch(**files.settings, api_keys=key)
    for said, meant in (
        ("https://pose.example:8000", https(service)[0]),
        ("ca.pem", str(shown.ca)),
        ("...", key),
    ):
        assert said in code
        code = code.replace(said, meant)
    names: dict[str, HttpClient] = {}
    exec(code, names)
    with names["client"] as client:
        assert client.estimate(photo).persons


def test_plain_clients_and_clients_with_another_ca_are_refused(
    launch: Launch, files: Files, small: bytes
) -> None:
    shown = files.serve(trustme.CA())
    service = launch(**files.settings)
    assert admits(service, shown, small)
    assert not admits(service, Credentials(ca=files.trust(trustme.CA(), "other")), small)
    with pytest.raises(httpx.TransportError):
        httpx.get(service.url.replace("https", "http") + "/healthz")
    with GrpcClient(service.grpc, timeout_s=30) as rpc, pytest.raises(ServiceError):
        rpc.estimate(small)
    old = ssl.create_default_context(cafile=shown.ca)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    assert httpx.get(f"{service.url}/healthz", verify=old).status_code == 200
    assert admits(service, shown, small)


def test_clients_must_show_a_certificate_of_the_authority(launch: Launch, files: Files, small: bytes) -> None:
    ours, other = trustme.CA(), trustme.CA()
    trusted = files.serve(ours)
    service = launch(**files.settings, tls_client_ca=files.trust(ours, "clients"))
    assert admits(service, files.client(ours, trusted), small)
    assert not admits(service, trusted, small)
    assert not admits(service, files.client(other, trusted), small)


async def test_a_certificate_is_replaced_without_a_restart(
    launch: Launch, files: Files, small: bytes
) -> None:
    first, second = trustme.CA(), trustme.CA()
    before = files.serve(first)
    service = launch(**files.settings)
    url, address = https(service)
    with HttpClient(url, credentials=before) as http, GrpcClient(address, credentials=before) as rpc:
        assert http.estimate(small).persons and rpc.estimate(small).persons
        after = files.serve(second)
        await wait_for_log(service, "^reloaded")
        assert http.estimate(small).persons and rpc.estimate(small).persons  # connections that are open
    assert admits(service, after, small)
    assert not admits(service, before, small)

    write(files.settings["tls_key"], second.issue_cert("127.0.0.1").private_key_pem.bytes())
    await wait_for_log(service, "do not match")
    assert admits(service, after, small)
    files.settings["tls_cert"].unlink()
    await wait_for_log(service, "No such file")
    assert admits(service, after, small)
    again = files.serve(first)
    await wait_for_log(service, "^reloaded", times=2)
    assert admits(service, again, small)


async def wait_for_log(service: Service, words: str, times: int = 1) -> None:
    """Wait until the log has that number of matching messages."""
    async with asyncio.timeout(60):
        while sum(bool(re.search(words, line["message"])) for line in service.log) < times:
            await asyncio.sleep(0.05)


async def test_the_client_ca_is_replaced_without_a_restart(
    launch: Launch, files: Files, small: bytes
) -> None:
    first, second = trustme.CA(), trustme.CA()
    trusted = files.serve(first)
    authority = files.trust(first, "clients")
    service = launch(**files.settings, tls_client_ca=authority)
    one, two = files.client(first, trusted), files.client(second, trusted)
    assert (admits(service, one, small), admits(service, two, small)) == (True, False)
    write(authority, second.cert_pem.bytes())
    await wait_for_log(service, "^reloaded")
    assert (admits(service, one, small), admits(service, two, small)) == (False, True)


@pytest.fixture
def encrypted(files: Files) -> Iterator[Files]:
    files.serve(trustme.CA())
    path = files.settings["tls_key"]
    key = forms.load_pem_private_key(path.read_bytes(), None)
    locked = forms.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, locked))
    yield files


def test_an_encrypted_key_stops_start_up_with_one_line(encrypted: Files, tmp_path: Path) -> None:
    done = run(weights=save_networks(tmp_path), http_port=0, grpc_port=0, **encrypted.settings)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "POSE_TLS_KEY" in line and "encrypted" in line


async def test_a_missing_handshake_times_out(launch: Launch, files: Files) -> None:
    files.serve(trustme.CA())
    service = launch(**files.settings, head_timeout_s=0.5)
    parts = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


def test_the_command_trusts_an_authority(
    launch: Launch, files: Files, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    authority = trustme.CA()
    shown = files.client(authority, files.serve(authority))
    service = launch(**files.settings, tls_client_ca=files.trust(authority, "clients"))
    url, address = https(service)
    photo = ROOT / "examples" / "astronaut.jpg"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(photo.read_bytes())
    tls = ["--ca", str(shown.ca), "--cert", str(shown.certificate), "--cert-key", str(shown.private_key)]
    main([str(photo), "--url", url, *tls])
    assert '"persons":[{' in capsys.readouterr().out
    lines = tmp_path / "answers.jsonl"
    main(["stream", str(tmp_path / "photos"), "--address", address, "--json", str(lines), *tls])
    assert '"persons":[{' in lines.read_text()
    with pytest.raises(SystemExit, match="reached"):
        main([str(photo), "--url", url])
