"""Files that cannot be adopted: one clear line each, and nothing is written."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper

from model.adopt import check
from model.adopt.command import Choices, adopt, main
from model.adopt.family import AdoptError
from model.adopt.network import open_session
from tests.model.adopt import published
from tests.model.adopt.published import Tiny
from tests.support.networks import save_networks
from tests.support.service import ROOT


def refusal(path: Path, choices: Choices | None = None) -> str:
    """What the refusal of a file says, in one line."""
    with pytest.raises(AdoptError) as raised:
        adopt(path, path.parent / "out", choices or Choices())
    assert not (path.parent / "out").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"{path}: ")


def edited(path: Path, **fields: object) -> Path:
    """The file with its image input, or one of its nodes, changed."""
    model = onnx.load(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if "free" in fields:
        dims[2].dim_param, dims[3].dim_param = "H", "W"
    if "domain" in fields:
        model.graph.node[0].domain = str(fields["domain"])
        model.opset_import.append(helper.make_opsetid(str(fields["domain"]), 1))
    if "broken" in fields:
        model.graph.node[1].input[0] = "nowhere"
    if "opset" in fields:
        model.opset_import[0].version = int(str(fields["opset"]))
    onnx.save(model, path)
    return path


def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    assert refusal(path, Choices(family="yolox")) == (
        "its outputs are not those of yolox: map8 (1, 16, 24, 5), map16 (1, 8, 12, 5), map32 (1, 4, 6, 5)"
    )
    with pytest.raises(AdoptError, match="no family 'yolo'; there are rtmdet, "):
        adopt(path, tmp_path / "out", Choices(family="yolo"))


def test_outputs_of_no_family_are_shown(tmp_path: Path) -> None:
    tiny = Tiny()
    message = refusal(tiny.save(tmp_path / "x.onnx", {"feature": tiny.flat(tiny.level(8, 7), 7)}))
    assert message.startswith("its outputs are not those of any family (rtmdet, ")
    assert message.endswith("): feature (1, 384, 7)")


@pytest.mark.parametrize("name", ["pose-256x192", "hrnet-w32-udp"])
def test_heatmaps_alone_do_not_say_how_they_are_aligned(name: str, tmp_path: Path) -> None:
    message = refusal(published.heatmaps(tmp_path / f"{name}.onnx"))
    assert message == "its outputs fit hrnet, vitpose, tinypose: choose one with --family"


def test_boxes_after_suppression_do_not_say_how_the_network_is_fed(tmp_path: Path) -> None:
    """RTMDet takes normalised pixels, YOLOX plain ones: with the wrong ones it finds nobody."""
    path = published.mmdeploy(tmp_path / "end2end.onnx", head="bbox_head.weight")
    assert refusal(path) == "its outputs fit rtmdet, yolox: choose one with --family"


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).startswith("not a valid ONNX file")
    path.write_bytes(b"")
    assert refusal(path).startswith("not a valid ONNX file")
    path.write_text("not a network")
    assert refusal(path).startswith("not a valid ONNX file")
    path.unlink()
    assert refusal(path) == "no such file"
    path.mkdir()
    assert refusal(path) == "not a file"


def test_nodes_may_be_in_any_order(tmp_path: Path) -> None:
    """Converters to half precision append nodes whose results are used before; onnxruntime sorts them."""
    path = published.rtmdet(tmp_path / "x.onnx")
    model = onnx.load(path)
    model.graph.node.extend([model.graph.node.pop(0)])
    onnx.save(model, path)
    assert adopt(path, tmp_path / "adopted", Choices())[0].exists()


def test_a_graph_that_misses_a_tensor_is_refused(tmp_path: Path) -> None:
    path = edited(published.rtmdet(tmp_path / "x.onnx"), broken=True)
    assert refusal(path).startswith("onnxruntime cannot load it: ") and "nowhere" in refusal(path)


def test_weights_that_are_kept_in_a_missing_file_are_named(tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    _, lines = adopt(path, tmp_path / "adopted", Choices())
    assert (tmp_path / "adopted" / "detector.onnx").exists() and "rtmdet" in lines[0]
    (tmp_path / "weights").unlink()
    assert str(tmp_path / "weights") in refusal(path)


def test_networks_that_one_file_cannot_hold_are_refused() -> None:
    class Large:  # as protobuf does from 2 GiB on
        def SerializeToString(self) -> bytes:
            raise EncodeError("Failed to serialize proto")

    with pytest.raises(AdoptError, match=r"vitpose-h\.onnx: is larger than 2 GiB"):
        open_session(Path("vitpose-h.onnx"), Large())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    tiny = Tiny()
    broken = tiny.add("Mul", tiny.level(4, 17), np.array([value], np.float32))
    path = tiny.save(tmp_path / "hrnet.onnx", {"heatmaps": broken})
    assert refusal(path) == "gives values that are infinite or not a number"


def test_custom_operators_are_named(tmp_path: Path) -> None:
    path = edited(published.rtmdet(tmp_path / "x.onnx"), domain="mmdeploy")
    assert refusal(path) == "needs custom operators: mmdeploy.AveragePool"


def test_old_operators_are_refused(tmp_path: Path) -> None:
    path = edited(published.rtmdet(tmp_path / "x.onnx"), opset=10)
    assert refusal(path) == "opset 10 is older than 11: export it again"


def test_a_dynamic_size_has_to_be_given(tmp_path: Path) -> None:
    path = edited(published.rtmdet(tmp_path / "x.onnx"), free=True)
    assert refusal(path) == "the size of its input is dynamic: give one with --size HEIGHTxWIDTH"
    _, lines = adopt(path, tmp_path / "adopted", Choices(size=(96, 160)))
    assert lines[0].endswith("96x160")


def test_a_size_that_the_graph_cannot_take_is_refused(tmp_path: Path) -> None:
    path = published.picodet(tmp_path / "x.onnx")
    assert refusal(path, Choices(size=(64, 64))) == "its input is 128x192, not 64x64"
    path = edited(path, free=True)
    assert refusal(path, Choices(size=(64, 64))).startswith("cannot be run at 64x64: ")


def test_inputs_must_be_one_image(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.inputs["sizes"] = [1, 2]
    path = tiny.save(tmp_path / "x.onnx", {"y": tiny.add("Add", tiny.level(8, 5), "sizes")})
    assert refusal(path) == "needs a further input, sizes"
    tiny = Tiny()
    tiny.inputs = {"images": ["N", 8]}
    path = tiny.save(path, {"y": tiny.add("Identity", "images")})
    assert refusal(path) == "needs one image input (N, 3, H, W), has the inputs images"


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        (TensorProto.FLOAT16, ["N", 3, 128, 192], "FLOAT16 (?, 3, 128, 192)"),
        (TensorProto.INT8, [1, 3, 128, 192], "INT8 (1, 3, 128, 192)"),
        (TensorProto.FLOAT, [1, 128, 192, 3], "FLOAT (1, 128, 192, 3)"),
    ],
)
def test_inputs_must_be_floats_in_planes(kind: int, shape: list[object], said: str, tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    model = onnx.load(path)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", kind, shape))
    onnx.save(model, path)
    assert refusal(path) == f"its input images is {said}, not FLOAT (N, 3, H, W)"


def test_a_batch_within_the_graph_must_be_one(tmp_path: Path) -> None:
    tiny = Tiny()
    tiny.inputs["images"][0] = 8
    table = tiny.add("Reshape", tiny.table((8, 16, 32), 85), np.array([8, 504, 85]))
    path = tiny.save(tmp_path / "x.onnx", {"output": table})
    assert refusal(path) == "contains its batch of 8: export it with 1"


def test_other_keypoints_need_a_skeleton(tmp_path: Path) -> None:
    path = published.heatmaps(tmp_path / "hrnet.onnx", keypoints=3)
    assert refusal(path) == "has 3 keypoints: describe them with --skeleton FILE.json"
    (tmp_path / "skeleton.json").write_text(
        '{"names": ["a", "b", "c"], "edges": [[0, 1]], "flip_pairs": [[1, 2]], "oks_sigmas": [0.1, 0.1, 0.1]}'
    )
    main([f"{path}", "--out", f"{tmp_path}", "--skeleton", f"{tmp_path / 'skeleton.json'}"])
    assert (tmp_path / "pose.onnx").exists()


def test_our_own_files_are_not_adopted_again(tmp_path: Path) -> None:
    assert refusal(save_networks(tmp_path) / "pose.onnx") == "is in our format '1' already"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    (tmp_path / "detector.onnx").write_bytes(b"mine")
    with pytest.raises(AdoptError, match="exists already"):
        adopt(path, tmp_path, Choices())
    assert (tmp_path / "detector.onnx").read_bytes() == b"mine"


def test_a_result_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    original = check.open_session

    def noisy(path: Path, model: onnx.ModelProto) -> object:
        session = original(path, model)

        class Noisy:
            def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
                return [output + np.float32(0.5) for output in session.run(names, feed)]

        return Noisy()

    monkeypatch.setattr(check, "open_session", noisy)
    assert refusal(path).startswith("the result differs by ")


def test_a_result_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    original = check.open_session

    def broken(path: Path, model: onnx.ModelProto) -> object:
        session = original(path, model)

        class Broken:
            def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
                return [output * np.float32(np.nan) for output in session.run(names, feed)]

        return Broken()

    monkeypatch.setattr(check, "open_session", broken)
    assert refusal(path) == "gives values that are infinite or not a number"


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    with pytest.raises(AdoptError, match=r"none\.jpg: not a photo that can be read"):
        adopt(path, tmp_path / "out", Choices(photos=[tmp_path / "none.jpg"]))


def test_the_photo_is_installed_with_the_package() -> None:
    (photo,) = Choices().photos
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert photo.is_file() and str(photo.relative_to(ROOT / "model")) in setuptools["package-data"]["model"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--size", "320", "'320' is not HEIGHTxWIDTH in pixels"),
        ("--size", "0x320", "'0x320' is not HEIGHTxWIDTH in pixels"),
        ("--mean", "1,2", "'1,2' is not A,B,C"),
        ("--std", "1,0,1", "'1,0,1' are not three numbers above 0"),
        ("--fill", "256", "'256' is not a grey level from 0 to 255"),
        ("--fill", "-1", "'-1' is not a grey level from 0 to 255"),
        ("--skeleton", "/none.json", "/none.json is not the JSON of GET /v1/skeleton: "),
    ],
)
def test_options_that_cannot_be_are_refused(
    option: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    with pytest.raises(SystemExit) as raised:
        main([str(path), "--out", str(tmp_path / "out"), f"{option}={value}"])
    assert raised.value.code == 2
    assert f"argument {option}: {said}" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"names": ["a"', "is not the JSON of GET /v1/skeleton: "),
        ("[]", "is not the JSON of GET /v1/skeleton: "),
        ('{"names": ["a"], "edges": []}', "has no flip_pairs"),
        ('{"names": ["a"], "edges": [[0, 5]], "flip_pairs": [], "oks_sigmas": [1]}', "outside 0 to 0"),
    ],
)
def test_skeletons_that_cannot_be_are_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "skeleton.json").write_text(text)
    with pytest.raises(SystemExit):
        main(["x.onnx", "--out", str(tmp_path / "out"), "--skeleton", str(tmp_path / "skeleton.json")])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")
    with pytest.raises(SystemExit, match=str(path)) as raised:
        main([str(path), "--out", str(path)])
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_written_to_its_end_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published.rtmdet(tmp_path / "x.onnx")

    def full(model: onnx.ModelProto, target: Path, **options: str) -> None:
        Path(target).write_bytes(b"the first bytes")
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        main([str(path), "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").iterdir()) == []


def command(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_the_command_ends_with_one_line(tmp_path: Path) -> None:
    done = command(
        f"from service.cli import main; main(['adopt', '{tmp_path}/x.onnx', '--out', '{tmp_path}'])"
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/x.onnx: no such file\n"


def test_onnxruntime_writes_no_lines_of_its_own(tmp_path: Path) -> None:
    """Neither of a graph that it cannot load nor of a batch that is tried."""
    path = published.rtmdet(tmp_path / "x.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].dims[1] = 4
    onnx.save(model, path)
    run = f"from service.cli import main; main(['adopt', '{path}', '--out', '{tmp_path}/out'])"
    done = command(run)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path}: onnxruntime cannot load it: ") and done.stderr.count("\n") == 1
    published.picodet(path)
    done = command(run)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_package_the_command_names_it() -> None:
    blocked = "import sys; sys.modules['onnx'] = None; "
    done = command(f"{blocked}from service.cli import main; main(['adopt', 'x', '--out', 'y'])")
    assert done.returncode == 1
    assert done.stderr == "adopt needs the package onnx: pip install 'lgm-pose[adopt]'\n"
