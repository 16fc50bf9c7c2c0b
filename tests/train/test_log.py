"""What the log tells of a loss that stands out."""

import numpy as np

from flaxdistill.train.log import RECENT, Log


def told(losses, path):
    log = Log(path, step=0)
    found = {}
    for step, loss in enumerate(losses, 1):
        if spike := log.spike(loss):
            found[step] = spike["spike"]
        log.write({"step": step, "loss": loss})
    log.close()
    return found


def test_a_loss_that_stands_out_is_told(tmp_path):
    noise = 2 + 0.1 * np.random.default_rng(0).standard_normal(60)
    (tmp_path / "noise").mkdir()
    assert told(noise.tolist(), tmp_path / "noise") == {}
    spiked = noise.copy()
    spiked[[5, 40]] = 20  # too early to know, and late enough
    (tmp_path / "spiked").mkdir()
    found = told(spiked.tolist(), tmp_path / "spiked")
    assert list(found) == [41] and 9 < found[41] < 11


def test_a_steady_loss_may_move_a_little_and_a_noisy_one_much(tmp_path):
    for name, losses in {
        "steady": [1.0] * 30 + [1.4],
        "noisy": [0.1, 0.2, 0.4] * 10 + [0.8],
        "falling": list(np.geomspace(10, 0.1, 60)),
        "none": [0.0] * 40,
        "not a number": [1.0] * 30 + [float("nan")],
        "never a number": [float("nan")] * 30 + [1.0],
    }.items():
        (tmp_path / name).mkdir()
        assert told(losses, tmp_path / name) == {}, name


def test_a_loss_that_is_no_number_hides_no_other(tmp_path):
    assert told([1.0] * 30 + [float("nan"), 9.0], tmp_path) == {32: 9.0}


def test_a_run_that_goes_on_remembers(tmp_path):
    log = Log(tmp_path, step=0)
    for step in range(1, 41):
        log.write({"step": step, "loss": 1.0})
    log.close()
    log = Log(tmp_path, step=RECENT)
    assert log.spike(3.0) == {"spike": 3.0}
    log.close()
