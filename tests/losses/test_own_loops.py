"""The three training loops of losses/README.md, run as they stand, learn the same; its other blocks run too."""

from __future__ import annotations

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sweep.losses import EntropyGuidance
from sweep.training.meter import Meter

from ..support.guidance_nets import dense_net

pytestmark = pytest.mark.filterwarnings("default")  # what Lightning and Transformers say of so small a run

EPOCHS, LR = 3, 0.1
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
Batches = list[tuple[Tensor, Tensor]]


PAGE = Path(__file__).parents[2] / "losses/README.md"
PLAIN, LIGHTNING, HUGGING_FACE, *OTHERS = re.findall(r"^```python\n((?s:.*?))^```", PAGE.read_text(), re.MULTILINE)


def run_block(block: str, **names: Any) -> dict[str, Any]:
    """Runs a block of the page with what it takes as given, and returns all names."""
    exec(compile(block, "losses/README.md", "exec"), names)
    return names


def batches() -> Batches:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(16, 20, generator=generator), torch.arange(16) % 6) for _ in range(4)]


def loader() -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]


def net() -> nn.Sequential:
    return dense_net(20, 12, 12, 6, dtype=torch.float32)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR)


def by_hand(
    epochs: Sequence[Batches],
    *,
    lambda1: float = 1e-3,
    accumulate: int = 1,
    clip: float = math.inf,
    clip_first: bool = True,
) -> nn.Sequential:
    """A loop in plain torch, which accumulates and clips in the order of either library."""
    model = net()
    optimizer, guidance = sgd(model), EntropyGuidance(model, lambda1=lambda1)
    for data in epochs:
        guidance.start_epoch()
        for first in range(0, len(data), accumulate):
            optimizer.zero_grad()
            for inputs, targets in data[first : first + accumulate]:
                (F.cross_entropy(model(inputs), targets) / accumulate).backward()
            if clip_first:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            guidance.add_gradients()
            if not clip_first:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return model


def assert_same(model: nn.Module, expected: nn.Module, within: float = 1e-6) -> None:
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=within)


def test_the_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    model = net()
    run_block(PLAIN, model=model, optimizer=sgd(model), loss=F.cross_entropy, epochs=EPOCHS, batches=batches())
    assert capsys.readouterr().out.count("guidance/dense") == EPOCHS
    assert_same(model, by_hand(EPOCHS * [batches()]))
    with pytest.raises(AssertionError):
        assert_same(model, by_hand(EPOCHS * [batches()], lambda1=0.0), within=1e-4)


# -- Lightning ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)  # where it logs
    return pytest.importorskip("lightning", reason="Lightning: pip install -e .[examples]")


def module(lightning: Any) -> Any:
    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    return Module()


def test_lightning(lightning: Any) -> None:
    guided = module(lightning)
    ran = run_block(LIGHTNING, module=guided, loader=loader(), epochs=EPOCHS)
    assert_same(guided.net, by_hand(EPOCHS * [batches()]))
    assert {"guidance/dense", "guidance/ratio", "entropy/net.0"} <= ran["trainer"].callback_metrics.keys()


def test_lightning_accumulates_then_guides_then_clips(lightning: Any) -> None:
    callback = run_block(LIGHTNING, module=module(lightning), loader=loader(), epochs=0)["Guidance"]
    guided = module(lightning)
    callbacks = [callback(lambda1=1e-3)]
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, callbacks=callbacks, accumulate_grad_batches=2, gradient_clip_val=0.05, **QUIET
    )
    trainer.fit(guided, loader())
    assert_same(guided.net, by_hand(EPOCHS * [batches()], accumulate=2, clip=0.05, clip_first=False))


def test_lightning_unscales_first(lightning: Any) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    callback = run_block(LIGHTNING, module=module(lightning), loader=loader(), epochs=0)["Guidance"]
    learned = []
    for scale in (1.0, 2.0**10):
        guided = module(lightning)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=[callback(lambda1=1.0, max_ratio=None)],
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
            **QUIET,
        )
        trainer.fit(guided, loader())
        learned.append(guided.net)
    assert_same(learned[1], learned[0], within=1e-2)
    with pytest.raises(AssertionError):
        assert_same(learned[1], net(), within=0.1)


# -- Hugging Face ------------------------------------------------------------------------------------------------------


class Labelled(nn.Module):
    """A network as the Trainer wants it; keeps the batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.seen: Batches = []

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.seen.append((inputs, labels))
        return {"loss": F.cross_entropy(self.net(inputs), labels)}


@pytest.mark.parametrize(("accumulate", "clip"), [(1, 1.0), (2, 0.05)])
def test_hugging_face(accumulate: int, clip: float, tmp_path: Path) -> None:
    """The Trainer clips, and then guides."""
    transformers = pytest.importorskip("transformers", reason="Transformers: pip install -e .[examples]")
    pytest.importorskip("accelerate", reason="Accelerate: pip install -e .[examples]")
    model = Labelled()
    args = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=clip,
        optim="sgd",
        learning_rate=LR,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    data = [{"inputs": x, "labels": y} for inputs, labels in batches() for x, y in zip(inputs, labels, strict=True)]
    ran = run_block(HUGGING_FACE, model=model, args=args, data=data)
    assert len(model.seen) == EPOCHS * 4
    epochs = [model.seen[4 * epoch : 4 * epoch + 4] for epoch in range(EPOCHS)]
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])  # shuffled
    assert_same(model.net, by_hand(epochs, accumulate=accumulate, clip=clip))
    logged = [entry for entry in ran["trainer"].state.log_history if "guidance/dense" in entry]
    assert [entry["step"] for entry in logged] == [4 * epoch // accumulate for epoch in range(1, EPOCHS + 1)]


# -- the other blocks --------------------------------------------------------------------------------------------------


def test_the_choice_of_layers_is_as_the_page_says() -> None:
    layers, _ = OTHERS
    run_block(layers)


def test_a_second_metric_is_one_function() -> None:
    """Top-5 accuracy, as the page adds it, is scikit-learn's."""
    task = run_block(OTHERS[1])["task"]
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(101, 10, generator=generator), torch.randint(0, 10, (101,), generator=generator)
    meter = Meter(task)
    for output, label in zip(logits.split(30), labels.split(30), strict=True):
        meter.update(task.loss(output, output, label, 0.0), output, label)
    assert meter.compute("val")["val_top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))


def test_every_option_stands_in_the_page_with_its_default_and_in_the_help() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE.read_text().partition("## All options")[2], re.MULTILINE))
    parameters = inspect.signature(EntropyGuidance).parameters
    defaults = {name: str(p.default) for name, p in parameters.items() if name != "model"}
    written = {"0.001": "1e-3", "0.0": "0", "1.0": "1", "None": "none", "False": "false"}
    assert {name: value.strip("` ") for name, value in rows.items()} == {
        name: written.get(value, value) for name, value in defaults.items()
    }
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "model")
    for name in defaults:
        assert f"    {name}: " in str(EntropyGuidance.__init__.__doc__)


def test_losses_import_pytorch_alone() -> None:
    code = """
import importlib, pkgutil, sys, torch
before = {*sys.modules}
import losses
for module in pkgutil.iter_modules(losses.__path__):
    importlib.import_module(f"losses.{module.name}")
print(*{*sys.modules} - before)
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True, check=True)
    imported = ran.stdout.split()
    assert "losses.guidance" in imported
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names <= {"losses", "torch"}
