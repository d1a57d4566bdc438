"""LGM-Pose: the networks, their training and their export. Importing this package loads no torch."""

import os

# onnxruntime's wheels report their use to Microsoft unless this is set when they are first imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
