"""The pose estimation service."""

import os
import sys

# onnxruntime's wheels report their use to Microsoft unless this is set when they are first imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# openvino reports each import to Google Analytics through this package, and runs without it
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
