"""Generates the protobuf stubs of the service and of the client from proto/: `make proto`.

Both copies have the same descriptor file name, so one process can load the service and the client.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DESCRIPTORS = "lgm_pose/v1"  # folder in the file names of the descriptors
COPIES = {  # folder of the stubs: (its package, names of the .proto files)
    "service/wire/pb": ("service.wire.pb", ("openinference", "pose")),
    "client/lgm_pose_client/pb": ("lgm_pose_client.pb", ("pose",)),
}


def write_stubs(root: Path) -> None:
    """Write both copies of the stubs below `root`. Raises CalledProcessError if protoc fails."""
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(f"{DESCRIPTORS}/{path.name}" for path in (ROOT / "proto").glob("*.proto"))
        command = ["-m", "grpc_tools.protoc", f"-I{DESCRIPTORS}={ROOT / 'proto'}", *sources]
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        subprocess.run([sys.executable, *command, *outputs], check=True)
        for target, (package, names) in COPIES.items():
            (root / target).mkdir(parents=True, exist_ok=True)
            for stub in Path(folder, DESCRIPTORS).iterdir():
                if stub.name.split("_pb2")[0] in names:
                    text = re.sub(r"\blgm_pose\.v1\b", package, stub.read_text())
                    (root / target / stub.name).write_text(text)


if __name__ == "__main__":
    write_stubs(ROOT)
