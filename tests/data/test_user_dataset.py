"""A data set of the user's own: read once, kept by its content, cut like any other; and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweep.config.errors import DataError
from sweep.config.sections import DataConfig
from sweep.config.settings import Settings
from sweep.data.loading import find_reader, load_dataset, prepare_dataset
from sweep.service.preflight.space_checks import check_study
from sweep.training.loop import fit
from sweep.training.trial import TrialPaths, assemble

from ..conftest import MakeConfig, Package

ARRAYS = """
    import numpy as np

    CALLS = []

    def load(root):
        \"\"\"120 images of 2 channels, class k bright in row k.\"\"\"
        CALLS.append(root)
        print("reading")
        rng = np.random.default_rng(0)
        images = rng.integers(0, 100, (120, 2, 5, 4), dtype=np.uint8)
        labels = np.arange(120) % 3
        images[np.arange(120), :, labels] += 100
        return {"train": (images[:90], labels[:90]), "test": (images[90:], labels[90:])}

    def with_val(root):
        parts = load(root)
        return {**parts, "val": parts["test"]}

    def from_file(root):
        images = np.load(root / "images.npy")
        return {"train": (images, np.arange(len(images)) % 2), "test": (images[:2], [0, 1])}
"""
CLASS = """
    import numpy as np, torch
    from PIL import Image
    from torch.utils.data import Dataset

    class Pictures(Dataset):
        def __init__(self, root, train=True):
            self.n, self.k = (12, 0) if train else (4, 100)
        def __len__(self):
            return self.n
        def __getitem__(self, i):
            image = np.full((6, 5, 3), self.k + i, np.uint8)
            image[0, 0] = 255, 0, 7
            return Image.fromarray(image), i % 2

    class Tensors(Pictures):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.tensor(label)

    class Grey(Pictures):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image.convert("L"), label
"""


@pytest.fixture
def package(write_package: Package) -> Package:
    return lambda **modules: write_package(**{"arrays": ARRAYS, "pictures": CLASS, **modules})


def config(path: str, **changes: Any) -> DataConfig:
    return DataConfig(name=path, **{"val_fraction": 0.2, **changes})


def calls(name: str) -> list[Path]:
    import importlib

    found: list[Path] = importlib.import_module(f"{name}.arrays").CALLS
    return found


def test_arrays_are_read_once_and_cut_like_any_set(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, cache = package(), tmp_path / "cache"
    first = load_dataset(config(f"{name}.arrays:load"), root=tmp_path, cache=cache)
    again = load_dataset(config(f"{name}.arrays:load", train_size=30), root=tmp_path, cache=cache)
    assert calls(name) == [tmp_path]
    assert capsys.readouterr().out == ""
    assert (first.train.size, first.val.size, first.test.size) == (72, 18, 30)
    assert (again.train.size, again.val.size) == (30, 18)
    for part, share in ((first.train, 24), (first.val, 6), (again.train, 10)):
        assert torch.bincount(part.labels).tolist() == [share] * 3  # type: ignore[attr-defined]
    images = np.concatenate([first.train.images, first.val.images])  # type: ignore[attr-defined]
    info = first.info
    assert (info.in_shape, info.num_classes, info.scale, info.num_train, info.num_val) == ((2, 5, 4), 3, 255, 90, 0)
    np.testing.assert_allclose(info.mean, images.mean((0, 2, 3)) / 255, rtol=1e-6)
    np.testing.assert_allclose(info.std, images.std((0, 2, 3)) / 255, rtol=1e-6)
    assert again.info == info
    rows = images.astype(float).mean((1, 3))  # [N, rows]: the brightest is the class
    assert rows.argmax(1).tolist() == torch.cat([first.train.labels, first.val.labels]).tolist()  # type: ignore[attr-defined]


def test_a_validation_part_of_its_own_validates(package: Package, tmp_path: Path) -> None:
    found = load_dataset(config(f"{package()}.arrays:with_val"), root=tmp_path, cache=tmp_path / "cache")
    assert (found.train.size, found.val.size, found.test.size) == (90, 30, 30)
    assert torch.equal(found.val.images, found.test.images)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["Pictures", "Tensors"])
def test_a_class_as_torchvisions(package: Package, tmp_path: Path, kind: str) -> None:
    found = load_dataset(config(f"{package()}.pictures:{kind}"), root=tmp_path, cache=tmp_path / "cache")
    assert found.info.in_shape == (3, 6, 5)
    assert found.test.images[:, :, 0, 0].tolist() == [[255, 0, 7]] * 4  # type: ignore[attr-defined]
    assert found.test.images[:, 1, 3, 2].tolist() == [100, 101, 102, 103]  # type: ignore[attr-defined]
    assert found.test.labels.tolist() == [0, 1, 0, 1]  # type: ignore[attr-defined]


def test_grey_pictures_have_one_channel(package: Package, tmp_path: Path) -> None:
    found = load_dataset(config(f"{package()}.pictures:Grey"), root=tmp_path, cache=tmp_path / "cache")
    assert found.info.in_shape == (1, 6, 5)


def test_a_class_of_torchvisions_own(tmp_path: Path) -> None:
    """FakeData takes no ``train``; what it says is passed on, with its place."""
    with pytest.raises(DataError, match=r"torchvision.datasets:FakeData: .*TypeError: .*train"):
        load_dataset(config("torchvision.datasets:FakeData"), root=tmp_path, cache=tmp_path / "cache")


def test_changed_data_are_another_set_from_the_next_run_on(package: Package, tmp_path: Path) -> None:
    """A run reads anew (no cache given), trials take the note; a set that comes back is not stored twice."""
    name, cache = package(), tmp_path / "cache"
    study = config(f"{name}.arrays:from_file")

    def run(brightness: int) -> str:
        np.save(tmp_path / "images.npy", np.full((20, 1, 2, 2), brightness, np.uint8))
        found = find_reader(study, tmp_path)
        prepare_dataset(found, cache=cache)
        trial = load_dataset(study, root=tmp_path, cache=cache)
        assert int(trial.train.images[0, 0, 0, 0]) == brightness  # type: ignore[attr-defined]
        return trial.reader.key

    first = run(10)
    np.save(tmp_path / "images.npy", np.full((20, 1, 2, 2), 99, np.uint8))
    assert load_dataset(study, root=tmp_path, cache=cache).reader.key == first, "a trial of that run"
    second = run(20)
    assert second != first
    assert run(10) == first
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == sorted([first, second])


def test_other_code_is_read_anew_and_a_damaged_note_too(package: Package, tmp_path: Path) -> None:
    name, cache = package(), tmp_path / "cache"
    study = config(f"{name}.arrays:load")
    load_dataset(study, root=tmp_path, cache=cache)
    (note,) = cache.glob("*.json")
    assert json.loads(note.read_text())["info"]["num_classes"] == 3
    note.write_text("{")
    load_dataset(study, root=tmp_path, cache=cache)
    assert len(calls(name)) == 2
    (tmp_path / "code" / name / "more.py").write_text("x = 1")
    load_dataset(study, root=tmp_path, cache=cache)
    assert len(calls(name)) == 3


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("[]", ["returned a list, not a dict with train, test and perhaps val"]),
        ("{'train': pair}", ["returned a dict with train, not a dict with train, test"]),
        ("{'train': pair, 'test': x}", ["test must be a pair (images, labels), not a ndarray"]),
        (
            "{'train': (x / 255, y), 'test': (x[:, 0], y)}",
            ["images of train must be uint8 [N, C, H, W], 0 to 255, not float64 [6, 1, 2, 2]", "of test", "[6, 2, 2]"],
        ),
        ("{'train': (x, y[:4]), 'test': pair}", ["labels of train must be whole numbers from 0, one for each of 6"]),
        ("{'train': (x, y - 1), 'test': pair}", ["labels of train must be", "int64 [6] from -1"]),
        ("{'train': (x, y + 0.5), 'test': pair}", ["labels of train must be", "not float64 [6]"]),
        ("{'train': (x, y), 'test': (x, y + 1)}", ["labels of test go to 2, of train to 1"]),
        ("{'train': (x, y), 'test': (x[:, :, :1], y)}", ["images of test are [1, 1, 2], of train [1, 2, 2]"]),
        ("1 / 0", ["/wrong.py, line 6: ZeroDivisionError"]),
    ],
)
def test_what_is_wrong_is_told_before_the_first_trial(
    study_config: MakeConfig, package: Package, tmp_path: Path, returned: str, words: list[str]
) -> None:
    code = f"""
        import numpy as np

        def load(root):
            x, y = np.zeros((6, 1, 2, 2), np.uint8), np.arange(6) % 2
            pair = x, y
            return {returned}
    """
    name = package(wrong=code)
    study = study_config(data={"name": f"{name}.wrong:load"})
    problems, _ = check_study(study, Settings(workspace=tmp_path / "results", data=tmp_path))
    assert len(problems) == 1, problems
    for word in (f"data.name: {name}.wrong:load", *words):
        assert word in problems[0]


def test_options_of_folders_are_not_taken(study_config: MakeConfig, package: Package, tmp_path: Path) -> None:
    study = study_config(data={"name": f"{package()}.arrays:load", "folder": "x"})
    problems, _ = check_study(study, Settings(workspace=tmp_path / "results", data=tmp_path))
    assert problems == [p for p in problems if p.startswith("data.folder: ")]
    assert len(problems) == 1


def test_a_trial_learns_it(study_config: MakeConfig, package: Package, tmp_path: Path) -> None:
    """Class k is bright in row k: a linear problem."""
    torch.set_num_threads(1)
    config = study_config(
        data={"name": f"{package()}.arrays:load"},
        training={"max_epochs": 30, "batch_size": 16, "lr": 0.03},
        objective={"metric": "val_accuracy", "direction": "maximize"},
    )
    assert check_study(config, Settings(workspace=tmp_path / "results", data=tmp_path)) == ([], [])
    run, _ = assemble(config.trial({"lambda1": 1e-3}), TrialPaths(tmp_path / "none", tmp_path, tmp_path / "cache"))
    *_, last = fit(run)
    assert last.values["val_accuracy"] > 0.8
