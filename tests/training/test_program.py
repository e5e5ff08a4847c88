"""A trained network as a program: stored images in, and the very numbers out that training's evaluation had."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweep.data.loading import load_dataset
from sweep.training import checkpoint
from sweep.training.loop import evaluate, input_batches
from sweep.training.program import Program, export, trained_program, write
from sweep.training.reports import TrialPaths
from sweep.training.trial import assemble, run_trial

from ..support.image_files import image_folder, voc_folder
from ..support.training import same, trial_config

FILES = {"image_size": [16, 16], "val_fraction": 0.25, "train_size": None}
CASES: dict[str, dict[str, Any]] = {
    "classification": {},
    "reconstruction": {"model": {"name": "autoencoder", "latent": 4}},
    "image folder": {"data": {"name": "imagefolder", "folder": "classes", **FILES}},
    "segmentation": {
        "model": {"name": "unet", "depth": 1, "width": 2},
        "data": {"name": "voc", "folder": "masks", "year": 2007, "num_classes": 3, "ignore_index": 7, **FILES},
    },
}


@pytest.fixture
def place(tmp_path: Path) -> TrialPaths:
    image_folder(tmp_path / "classes", {"train": (8, 8, 8), "val": (2, 2, 2)})
    voc_folder(tmp_path / "masks", {"train": 12, "val": 4})
    return TrialPaths(folder=tmp_path / "0000", data=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize("case", CASES)
def test_a_program_does_on_stored_images_what_the_evaluation_did(case: str, place: TrialPaths) -> None:
    config = trial_config(**CASES[case], training={"max_epochs": 1})
    *_, last = run_trial(config, place)
    saved = checkpoint.load_latest(place.folder)
    program = trained_program(config, place, saved, study="s", trial=3)
    run, _ = assemble(config, place)
    dataset = load_dataset(config.data, root=place.data, cache=place.cache)
    assert saved is not None
    assert same(dict(program.network.state_dict()), saved.state["model"])
    run.model.eval()
    for part in (dataset.val, dataset.test):
        stored = [images for images, _ in part.uint8_batches(512, "cpu", None, ())]
        seen = [images for images, _ in input_batches(config, dataset.info, run.task, part)]
        assert len(stored) == len(seen) == 1, "the parts are smaller than a batch of the evaluation"
        with torch.no_grad():
            assert torch.equal(program.normalisation(stored[0]), seen[0])
            assert torch.equal(program.module(stored[0]), run.model(seen[0]))
        size = torch.tensor(stored[0].shape)
        assert size.tolist()[2:] == program.metadata["preprocessing"]["size"]  # type: ignore[index]
    assert (program.metadata["metric"], program.metadata["epoch"]) == ("val_loss", 1)
    assert program.metadata["value"] == last.epochs[-1].values["val_loss"] == evaluate(run, run.val, "val")["val_loss"]


def test_normalisation_from_its_definition(place: TrialPaths) -> None:
    program = trained_program(trial_config(), place, None, study="s")
    x = program.images
    assert (x.dtype, x.shape) == (torch.uint8, (4, 1, 8, 8))
    expected = (x.double() / 16 - 0.3049) / 0.3760
    assert torch.allclose(program.normalisation(x).double(), expected, atol=1e-6)
    plain = trained_program(trial_config(**CASES["reconstruction"]), place, None, study="s")
    assert torch.equal(plain.normalisation(x), x / 16)


def test_a_description_has_all_that_a_user_needs(place: TrialPaths) -> None:
    of = {name: trained_program(trial_config(**case), place, None, study="s").metadata for name, case in CASES.items()}
    assert of["classification"] == {
        "study": "s",
        "task": "classification",
        "data": "digits",
        "input": "uint8 [N, 1, 8, 8], 0 to 16",
        "output": "float32 [N, 10], scores; the class of an image is the index of the largest",
        "classes": list("0123456789"),
        "preprocessing": {
            "before": "none",
            "size": [8, 8],
            "inside": "divided by 16, less mean, over std",
            "mean": [0.3049],
            "std": [0.3760],
        },
    }
    assert of["reconstruction"]["output"] == "float32 [N, 1, 8, 8], images in [0, 1]"
    assert of["reconstruction"]["preprocessing"] == {"before": "none", "size": [8, 8], "inside": "divided by 16"}
    assert of["image folder"]["classes"] == ["a", "b", "c"]
    assert of["image folder"]["preprocessing"]["before"].startswith("as RGB, the largest centred window")  # type: ignore[index]
    assert of["segmentation"]["output"] == "float32 [N, 3, 16, 16], scores of each pixel's class"
    assert of["segmentation"]["classes"] == []


@pytest.mark.parametrize("case", ["reconstruction", "segmentation"])
def test_a_written_program_comes_back_with_its_description(case: str, place: TrialPaths, tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = trained_program(trial_config(**CASES[case]), place, None, study="s")
    program = dataclasses.replace(program, images=program.images[:1])  # a data set may validate on one image
    write(program, tmp_path / "model.pt2")
    extra = {"metadata.json": ""}
    loaded = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["metadata.json"]) == program.metadata
    for count in (1, 3):
        images = torch.randint(17, (count, *program.images.shape[1:]), dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), program.module(images), rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


class Branching(nn.Module):
    """A network that cannot be exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.mean() > 0 else -x


def test_the_exporter_stays_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="data-dependent"):
        export(Program(Branching(), nn.Identity(), torch.ones(2, 1, 2, 2), {}))
    assert capfd.readouterr().err == ""
