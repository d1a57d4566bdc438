"""A camera with RTSP (RFC 2326) and images in interleaved RTP packets (section 10.12)."""

import re
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress

import av

from tests.support.service import Pixels

_SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track\r\n"
)


class RtspCamera:
    """Serves one viewer after the other; each gets all images at 20 per second, then the end.

    ending: how that comes, `closed`, `reset` or `silent`: the connection stays open.
    """

    def __init__(self, pictures: Iterable[Pixels], ending: str = "closed") -> None:
        self._pictures, self._ending = list(pictures), ending
        self._silent: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._server.getsockname()[1]}/camera"
        self._pause = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Accept no further viewers."""
        self._pause.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for viewer in self._silent:
            viewer.close()

    def _serve(self) -> None:
        while not self._pause.is_set():
            try:
                viewer, _ = self._server.accept()
            except OSError:
                return
            with viewer:
                with suppress(OSError):  # the viewer may leave at any time
                    self._talk(viewer)
                if self._ending == "reset":
                    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif self._ending == "silent":
                    self._silent.append(viewer.dup())

    def _talk(self, viewer: socket.socket) -> None:
        request = b""
        while data := viewer.recv(4096):
            request += data
            while b"\r\n\r\n" in request:
                head, request = request.split(b"\r\n\r\n", 1)
                method = head.split(b" ", 1)[0].decode()
                viewer.sendall(self._reply(method, head.decode()))
                if method == "PLAY":
                    self._play(viewer)
                    return

    def _reply(self, method: str, head: str) -> bytes:
        found = re.search(r"CSeq: (\d+)", head, re.IGNORECASE)
        assert found
        lines = ["RTSP/1.0 200 OK", f"CSeq: {found[1]}"]
        body = ""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = _SDP
            lines += ["Content-Type: application/sdp", f"Content-Base: {self.url}/"]
        elif method == "SETUP":
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        elif method == "PLAY":
            lines.append("Session: 1")
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()

    def _play(self, viewer: socket.socket) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", 0))
            packets.setblocking(False)
            address = f"rtp://127.0.0.1:{packets.getsockname()[1]}"
            with av.open(address, "w", format="rtp") as muxer:
                stream = muxer.add_stream("h264", rate=20, options={"tune": "zerolatency", "g": "5"})
                height, width = self._pictures[0].shape[:2]
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                for picture in self._pictures:
                    muxer.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
                    self._relay(packets, viewer)
                    self._pause.wait(0.05)
                muxer.mux(stream.encode())
                self._relay(packets, viewer)

    def _relay(self, packets: socket.socket, viewer: socket.socket) -> None:
        while True:
            try:
                packet = packets.recv(65_536)
                viewer.sendall(b"$\0" + len(packet).to_bytes(2) + packet)
            except BlockingIOError:
                return
            except OSError:
                self._pause.set()  # the viewer is gone
                return
