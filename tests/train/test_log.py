"""Spikes of the loss in the log."""

import numpy as np

from flaxdistill.train.log import RECENT, Log


def spikes(losses, path):
    log = Log(path, step=0)
    ratios = {}
    for step, loss in enumerate(losses, 1):
        if spike := log.spike(loss):
            ratios[step] = spike["spike"]
        log.write({"step": step, "loss": loss})
    log.close()
    return ratios


def test_a_spike_is_reported(tmp_path):
    noise = 2 + 0.1 * np.random.default_rng(0).standard_normal(60)
    (tmp_path / "noise").mkdir()
    assert spikes(noise.tolist(), tmp_path / "noise") == {}
    spiked = noise.copy()
    spiked[[5, 40]] = 20  # before and after enough losses are logged
    (tmp_path / "spiked").mkdir()
    ratios = spikes(spiked.tolist(), tmp_path / "spiked")
    assert list(ratios) == [41] and 9 < ratios[41] < 11


def test_ordinary_changes_are_not_spikes(tmp_path):
    for name, losses in {
        "steady": [1.0] * 30 + [1.4],
        "noisy": [0.1, 0.2, 0.4] * 10 + [0.8],
        "falling": list(np.geomspace(10, 0.1, 60)),
        "none": [0.0] * 40,
        "not a number": [1.0] * 30 + [float("nan")],
        "never a number": [float("nan")] * 30 + [1.0],
    }.items():
        (tmp_path / name).mkdir()
        assert spikes(losses, tmp_path / name) == {}, name


def test_a_nan_does_not_hide_a_later_spike(tmp_path):
    assert spikes([1.0] * 30 + [float("nan"), 9.0], tmp_path) == {32: 9.0}


def test_a_resumed_log_has_the_earlier_losses(tmp_path):
    log = Log(tmp_path, step=0)
    for step in range(1, 41):
        log.write({"step": step, "loss": 1.0})
    log.close()
    log = Log(tmp_path, step=RECENT)
    assert log.spike(3.0) == {"spike": 3.0}
    log.close()
