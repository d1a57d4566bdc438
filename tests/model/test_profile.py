from dataclasses import replace

import pytest
from torch import nn

from model.lgmpose import CONFIGS, LGMPose
from model.profile import ROWS, Cost, compare, cost, main, printed


@pytest.mark.parametrize("name", CONFIGS)
def test_every_row_is_as_the_paper_prints_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--network", name])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert len(lines) == 2 + len(ROWS) == 10 and all(line.endswith("| yes |") for line in lines[2:])


def test_a_row_that_differs_is_reported() -> None:
    lines, agrees = compare(CONFIGS["pretrained"], [replace(ROWS[0], macs="0.7")])
    assert not agrees and lines[2].endswith("| 1.1 / 0.6 | NO |")
    wider = replace(CONFIGS["pretrained"], deconv_widths=(240, 96, 64))
    assert not compare(wider, ROWS[:1])[1]


def test_parameters_are_rounded_and_operations_cut_off() -> None:
    coarse, fine = ROWS[0], next(row for row in ROWS if row.params == "1.08")
    assert printed(Cost(1_149_999, 699_999_999), coarse) == ("1.1", "0.6")
    assert printed(Cost(1_150_001, 700_000_000), coarse) == ("1.2", "0.7")
    assert printed(Cost(1_084_999, 899_999_999), fine) == ("1.08", "0.89")
    assert printed(Cost(1_085_001, 900_000_000), fine) == ("1.09", "0.90")


def test_operations_are_counted_once_a_multiplication() -> None:
    """Replacing the head by one of known size changes the count by the computed difference."""
    network = LGMPose()
    before = cost(network)
    pixels, width = 64 * 48, network.head.in_channels
    network.head = nn.Conv2d(width, 17 + 10, 1)
    after = cost(network)
    assert after.macs - before.macs == 10 * width * pixels
    assert after.params - before.params == 10 * (width + 1)
    assert before.params == sum(p.numel() for p in network.parameters()) - 10 * (width + 1)
