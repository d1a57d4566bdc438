"""Values of schemathesis for the bytes of an image: often a real image."""

import base64

import cv2
import numpy as np
import schemathesis
from hypothesis import strategies

_PIXELS = np.full((48, 32, 3), 200, np.uint8)
_IMAGES = [cv2.imencode(suffix, _PIXELS)[1].tobytes() for suffix in (".jpg", ".png", ".webp")]
_SOME = strategies.sampled_from([*_IMAGES, _IMAGES[0][:-40]]) | strategies.binary(max_size=64)

for media_type in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, _SOME)
schemathesis.openapi.format("byte", _SOME.map(lambda data: base64.b64encode(data).decode()))
