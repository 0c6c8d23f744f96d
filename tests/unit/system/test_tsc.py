from pathlib import Path

from pyro_mcp.system import tsc

KNOWN = "model name\t: x\ncpu MHz\t\t: 2445.404\nflags\t\t: fpu tsc constant_tsc tsc_known_freq pni\n"
SAVING = "cpu MHz\t\t: 800.000\nflags\t\t: fpu tsc constant_tsc\n"


def test_the_kernels_word_is_taken_where_it_vouches(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(KNOWN)
    assert tsc.tsc_khz(path) == 2_445_404


def test_elsewhere_the_counter_is_measured_not_read_off_a_saving_core(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(SAVING)
    measured = tsc.tsc_khz(path)
    assert measured is not None
    assert measured != 800_000
    again = tsc._measure()
    assert again is not None
    assert abs(measured - again) / again < 0.001
