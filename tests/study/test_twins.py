"""The twin of a trial, found among trials that are claimed and ended here."""

from __future__ import annotations

from pathlib import Path

from sweep.study.records import Outcome
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.study.trial import Trial

from ..conftest import MakeConfig

TWO = {"lambda1": {"choices": [1e-3, 1e-2]}, "depth": 2, "width": 8}


def claimed(study: Study) -> Trial:
    trial = study.ask()
    assert trial is not None
    trial.fingerprint = f"{trial.hyperparameters} {trial.config.training.seed}"
    return trial


def end(study: Study, trial: Trial, outcome: Outcome, *, epochs: int = 9) -> None:
    trial.best, trial.epochs = 0.5, epochs
    study.tell(trial, outcome, checkpoint=None, error=None, tags={"sweep.device": "cpu"})


def test_a_running_twin_is_waited_for_and_a_finished_one_is_taken(
    storage_url: str, tmp_path: Path, study_config: MakeConfig
) -> None:
    study = Study(study_config(space=TWO), open_storage(storage_url), workspace=tmp_path)
    for lambda1 in (1e-3, 1e-3, 1e-2, 1e-3):
        study.enqueue({"lambda1": lambda1})
    first, second, other, third = (claimed(study) for _ in range(4))
    found = [study.find_twin(trial) for trial in (first, second, other, third)]
    assert [each and (each.number, each.state) for each in found] == [None, (0, "running"), None, (0, "running")]
    end(study, first, "failed")
    found = [study.find_twin(trial) for trial in (second, third)]
    assert [each and each.number for each in found] == [None, 1]
    end(study, second, "completed")
    taken = study.find_twin(third)
    assert taken is not None
    assert (taken.number, taken.state, taken.value, taken.epochs) == (1, "finished", 0.5, 9)
    third.fingerprint = "another code"
    assert study.find_twin(third) is None


def test_a_pruned_trial_is_the_twin_of_others_and_of_no_design_trial(tmp_path: Path, study_config: MakeConfig) -> None:
    config, url = study_config(space=TWO), f"journal:///{tmp_path}/optuna.journal"
    study = Study(config, open_storage(url), workspace=tmp_path)
    for _ in range(4):
        study.enqueue({"lambda1": 1e-3})
    pruned, second, design, last = (claimed(study) for _ in range(4))
    end(study, pruned, "pruned", epochs=3)
    design.design = True
    assert (found := study.find_twin(second)) is not None
    assert (found.outcome, found.epochs) == ("pruned", 3)
    study.release(second)
    end(study, claimed(study), "pruned", epochs=3)
    assert study.find_twin(design) is None
    end(study, design, "completed")
    assert (found := study.find_twin(last)) is not None
    assert (found.number, found.outcome) == (design.number, "completed")
