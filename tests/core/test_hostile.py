"""What is made to be costly costs time in proportion to its bytes."""

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from service.api.grpc.receive import _PAYLOADS, parse
from service.api.http.blocks import Blocks
from service.api.http.upload import _read_form
from service.api.openinference.json_tensors import read_request
from service.api.openinference.tensors import read_picture
from service.core.formats import tiff_without_metadata
from service.core.image import decode, read_size
from service.core.isobmff import read_still
from service.core.metadata import png_without_metadata
from service.errors import ImageTooLarge, InvalidArgument, InvalidImage, PoseError
from tests.support.hostile import IMAGES, Hostile, empty_segments, text_chunks
from tests.support.hostile_files import avif_associations, avif_extents, heic_parameters, tiff_texts
from tests.support.hostile_requests import BODIES, MESSAGES, Body

LIMIT = 40_000_000


def seconds(data: bytes) -> float:
    """Processor time for an image."""

    def read() -> None:
        read_size(data, LIMIT)
        decode(data)

    return spent(read)


@pytest.mark.parametrize("hostile", IMAGES, ids=lambda hostile: hostile.__name__)
def test_the_cost_of_a_hostile_image_is_linear_in_its_bytes(hostile: Hostile) -> None:
    small, large = seconds(hostile(2**16)), seconds(hostile(2**20))
    assert large < 40 * small + 0.01  # 16 times the bytes; quadratic is 256 times


def test_a_jpeg_of_many_segments_is_refused() -> None:
    with pytest.raises(PoseError, match="more than 1024 segments"):
        read_size(empty_segments(2**13), LIMIT)
    assert read_size(empty_segments(2**11), LIMIT) == (128, 128)


def test_a_decoder_gets_no_texts_that_grow_in_its_memory() -> None:
    bare, _ = png_without_metadata(text_chunks(2**20))
    assert len(bare) < 2**10
    assert decode(bare).shape == decode(text_chunks(2**12)).shape == (64, 64, 3)


def test_a_decoder_gets_only_the_tags_of_the_pixels() -> None:
    texts = tiff_texts(2**20)
    bare = tiff_without_metadata(texts)
    (directory,) = struct.unpack_from("<I", bare, 4)
    (count,) = struct.unpack_from("<H", bare, directory)
    tags = [struct.unpack_from("<H", bare, directory + 2 + 12 * number)[0] for number in range(count)]
    assert tags == [256, 257, 258, 259, 262, 273, 277, 278, 279]
    assert struct.unpack_from("<I", bare, directory + 2 + 12 * count) == (0,)
    np.testing.assert_array_equal(decode(texts), np.full((64, 64, 3), 64))


def test_the_parts_of_an_avif_have_a_limit() -> None:
    for hostile in (avif_extents, avif_associations):
        with pytest.raises(InvalidImage, match="more than 4096 items"):
            read_size(hostile(2**21), LIMIT)


def test_the_parameters_of_a_heic_are_read_in_part() -> None:
    small, large = (spent(partial(read_still, heic_parameters(size))) for size in (2**10, 2**16))
    assert large < 40 * small + 0.01  # reading all of a set takes quadratic time
    with pytest.raises(InvalidImage, match="more than 16 parameter sets"):
        read_still(heic_parameters(2**21))


def spent(work: Callable[[], object]) -> float:
    """Processor time of this thread for work, the least of three; it may end in a PoseError."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        with suppress(PoseError, ValueError):
            work()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_the_cost_of_a_hostile_body_is_linear_in_its_bytes(body: Body) -> None:
    def read(data: bytes) -> object:
        if body.path.endswith("infer"):
            _, tensors = read_request(data, body.json_length)
            return read_picture(tensors)
        blocks = Blocks()
        blocks.write(data)
        return _read_form(blocks, body.content_type.partition("boundary=")[2].encode())

    small, large = (spent(partial(read, body.grow(size))) for size in (2**16, 2**20))
    assert large < 40 * small + 0.01


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_many_fields_is_refused_unparsed(name: str) -> None:
    kind = {each.DESCRIPTOR.name: each for each in _PAYLOADS}[name.partition(" ")[0]]
    with pytest.raises(InvalidArgument, match="fields"):
        parse(kind, MESSAGES[name](2**21))
    small, large = (spent(partial(parse, kind, MESSAGES[name](size))) for size in (2**21, 2**24))
    assert large < 20 * small + 0.01


def test_a_document_of_many_faults_is_refused_at_the_first_look() -> None:
    with pytest.raises(PoseError, match="256 values outside `data`"):
        read_request(b'{"inputs":[' + b",".join([b"1"] * 300) + b"]}", None)
    with pytest.raises(PoseError, match="elements"):
        read_request(BODIES[0].grow(2**21), None)


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("lists", 2**19, "32768 lists"),
        ("objects", 2**19, "32768 lists"),
        ("fractions", 2**21 + 2**19, "2097152 bytes"),
    ],
)
def test_json_that_is_costly_to_parse_is_refused_unparsed(name: str, size: int, text: str) -> None:
    (body,) = [each for each in BODIES if each.name == f"json of {name}"]
    with pytest.raises(ImageTooLarge, match=text):
        read_request(body.grow(size), None)


def test_base64_with_padding_in_its_middle_is_refused() -> None:
    body = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["%s"]}]}'
    with pytest.raises(InvalidArgument, match="base64"):
        read_request(body % (b"AAA=" + b"A" * 2**16), None)
