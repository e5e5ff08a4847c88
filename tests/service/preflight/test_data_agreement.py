"""A study whose data change between two runs: refused before a trial; a copy of the data is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ...support import rayless
from ...support.commands import Ended, sweep_here
from ...support.empty_store import with_store
from ...support.image_files import image_folder

STUDY = """
name: changed
model: {name: cnn}
data: {name: imagefolder, folder: photos, image_size: 16}
objective: {metric: val_loss, direction: minimize}
space: {lambda1: {low: 1e-5, high: 1e-1, log: true}, depth: 2, width: 4}
training: {max_epochs: 1, batch_size: 8}
search: {trials: 2, finalists: {top: 0}}
"""


@pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours
def test_a_study_goes_on_with_the_data_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rayless.without_models(monkeypatch)
    workspace, file, root = with_store(tmp_path / "results"), tmp_path / "study.yaml", tmp_path / "data"
    file.write_text(STUDY)
    photos = image_folder(root / "photos", {"": (8, 8, 8)})

    def sweep(*words: str, data: Path = root) -> Ended:
        return sweep_here(monkeypatch, capsys, workspace, *words, SWEEP_DATA=str(data))

    run = "run", str(file), "--executor", "local"
    sweep(*run)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.copytree(photos / "a", photos / "d")
    for words in ((*run, "--trials", "4"), ("train", "changed", "--trial", "0"), ("run", str(file), "--dry-run")):
        ended = sweep(*words)
        assert ended.code == 2, words
        assert "study changed was started with other data" in ended.err
        assert "data.folder: was 24 images of 3 classes, now 32 images of 4 classes" in ended.err
        assert "--set name=changed-2" in ended.err
    ended = sweep(*run, "--trials", "3", data=tmp_path / "copy")
    assert "3 trials: " in ended.out, ended.err
