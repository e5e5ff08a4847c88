"""The training loop against a hand-written one, formulas and itself: same numbers, step by step, run by run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from sweep.data.datasets import stratified_order
from sweep.losses import EntropyGuidance
from sweep.losses.task import TASKS
from sweep.models import build_model
from sweep.training.initialisation import initialise
from sweep.training.loop import Diverged, TrainingState, evaluate, fit, input_batches
from sweep.training.trial import TrialPaths, assemble

from ..support.training import UNGUIDED, VARIANTS, numbers, same, trial_config, weights


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> TrialPaths:
    """No checkpoints; the digits are prepared once."""
    folder = tmp_path_factory.mktemp("place")
    return TrialPaths(folder=folder / "none", data=folder / "data", cache=folder / "cache")


@pytest.fixture
def assembled(place: TrialPaths) -> Callable[..., TrainingState]:
    torch.set_num_threads(1)
    return lambda config: assemble(config, place)[0]


# -- what it achieves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [UNGUIDED, {"lambda1": 1e-3}])
def test_a_network_learns_the_digits(assembled: Any, guidance: dict[str, float]) -> None:
    """Measured over four seeds: validation accuracy 0.951 to 0.965, loss 0.14 to 0.19; chance is 0.1."""
    config = trial_config(model={"width": 32}, data={"train_size": None}, training={"max_epochs": 8}, guidance=guidance)
    *_, last = fit(assembled(config))
    assert last.epoch == 8
    assert last.values["val_accuracy"] > 0.88
    assert last.values["train_accuracy"] > 0.88
    assert last.values["val_loss"] < 0.5


def test_an_autoencoder_learns_to_reconstruct(assembled: Any) -> None:
    """Measured: 15.5 dB after 6 epochs; the mean image reaches 11.3 dB."""
    config = trial_config(
        model={"name": "autoencoder", "depth": 2, "latent": 16},
        data={"train_size": None},
        training={"max_epochs": 6, "batch_size": 32, "lr": 1e-2},
    )
    run = assembled(config)
    images = run.train.images.float() / 16
    mean_image = -10 * math.log10(float(((images - images.mean(0)) ** 2).mean()))
    history = list(fit(run))
    assert history[-1].values["val_psnr"] > mean_image + 2
    for metrics in history:
        assert metrics.values["val_psnr"] == pytest.approx(-10 * math.log10(metrics.values["val_loss"]), abs=1e-4)


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_same_trial_gives_the_same_numbers(assembled: Any, variant: str) -> None:
    config = trial_config(**VARIANTS[variant])
    first = assembled(config)
    history = list(fit(first))
    torch.manual_seed(99)  # what else happens in the process does not matter
    torch.rand(7)
    second = assembled(config)
    assert numbers(list(fit(second))) == numbers(history)
    assert same(weights(first.model), weights(second.model))
    other = assembled(config.model_copy(update={"training": config.training.model_copy(update={"seed": 1})}))
    assert numbers(list(fit(other)))[0]["train_loss"] != history[0].values["train_loss"]


def test_every_variant_is_another_run(assembled: Any) -> None:
    losses = [[m.values["train_loss"] for m in fit(assembled(trial_config(**v)))][-1] for v in VARIANTS.values()]
    assert len(set(losses)) == len(VARIANTS)


def recorded(run: TrainingState) -> list[tuple[Tensor, Tensor, float]]:
    """Inputs, labels and loss of every training step, as they come."""
    seen: list[tuple[Tensor, Tensor, float]] = []
    task = run.task

    def loss(output: Tensor, x: Tensor, y: Tensor, smoothing: float) -> Tensor:
        value = task.loss(output, x, y, smoothing)
        if run.model.training:
            seen.append((x.clone(), y.clone(), value.item()))
        return value

    run.task = dataclasses.replace(task, loss=loss)
    return seen


@pytest.mark.parametrize("init", ["default", "he", "orthogonal", "lsuv"])
def test_a_control_starts_like_its_guided_twin_and_sees_the_same_batches(assembled: Any, init: str) -> None:
    config = trial_config(guidance={"lambda1": 0.1}, training={"init": init}, data={"augment": ("crop",)})
    guided, control = assembled(config), assembled(config.control)
    assert same(weights(guided.model), weights(control.model))
    batches = [recorded(guided), recorded(control)]
    for run in (guided, control):
        list(fit(run))
    assert len(batches[0]) == len(batches[1]) == 3 * 5
    for (x, y, _), (x2, y2, _) in zip(*batches, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert not same(weights(guided.model), weights(control.model))


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(assembled: Any) -> None:
    run = assembled(trial_config())
    batches = recorded(run)
    list(fit(run))
    assert [len(y) for _, y, _ in batches] == [64, 64, 64, 64, 44] * 3
    epochs = [torch.cat([x for x, _, _ in batches[i : i + 5]]).flatten(1) for i in (0, 5, 10)]
    everything = (run.train.images.flatten(1).double() / 16 - 0.3049) / 0.3760
    for epoch in epochs:
        assert torch.allclose(epoch.double().sort(0).values, everything.sort(0).values, atol=1e-6)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_training_images_are_augmented_and_validation_images_are_not(assembled: Any) -> None:
    plain, augmented = (assembled(trial_config(data={"augment": a}, training={"lr": 1e-12})) for a in ((), ("flip",)))
    batches = [recorded(plain), recorded(augmented)]
    losses = [[m.values["val_loss"] for m in fit(run)] for run in (plain, augmented)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # the same network, which hardly learned, and images
    before, after = (torch.cat([x for x, _, _ in seen]) for seen in batches)
    mirrored = (before.flip(3) == after).flatten(1).all(1)
    kept = (before == after).flatten(1).all(1)
    assert bool((mirrored | kept).all())
    assert 0.4 < float(mirrored.float().mean()) < 0.6


def test_the_seed_and_the_scheme_decide_the_initial_weights(assembled: Any) -> None:
    def start(**training: Any) -> dict[str, Tensor]:
        return weights(assembled(trial_config(training=training)).model)

    assert same(start(seed=0), start())
    for name, weight in start(seed=1).items():
        assert not torch.equal(weight, start()[name])
    assert start()["output.bias"].any()
    for scheme in ("he", "orthogonal"):
        assert not start(init=scheme)["output.bias"].any()
        assert not torch.equal(start(init=scheme)["output.weight"], start()["output.weight"])


# -- against a loop written by hand ------------------------------------------------------------------------------------


class Written(nn.Module):
    """The MLP of ``trial_config``, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return y


def written_loop(
    images: Tensor, labels: Tensor, training: dict[str, Any], guidance: dict[str, Any] | None, epochs: int = 3
) -> tuple[list[list[float]], Written]:
    """A PyTorch loop as in any tutorial: the loss of every step, by epoch, and the trained network.

    Args:
        images: as the network takes them, float [N, 64].
    """
    torch.manual_seed(0)
    model = Written()
    cosine = training.pop("cosine", False)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[training.pop("optimizer")]
    clip, lr = training.pop("grad_clip", None), training["lr"]
    optimizer = kind(model.parameters(), fused=True, **training)
    entropy = EntropyGuidance(model, batch_size=64, **guidance) if guidance is not None else None
    losses: list[list[float]] = []
    for epoch in range(epochs):
        losses.append([])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch + 1))
        if entropy is not None:
            entropy.start_epoch()
        parts = torch.split(order, 64)
        for step, part in enumerate(parts):
            progress = (epoch + step / len(parts)) / epochs
            if cosine:
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * progress))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[part]), labels[part])
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if entropy is not None:
                entropy.add_gradients(progress)
            optimizer.step()
            losses[-1].append(loss.item())
    return losses, model


def digits(size: int, val: int) -> tuple[Tensor, Tensor]:
    """Training images as the network takes them and their labels, from scikit-learn's package by hand."""
    bunch = load_digits()
    order = stratified_order(bunch.target)[: 1797 - round(0.2 * 1797)]
    assert len(order) - val >= size
    images = (torch.from_numpy(bunch.images[order[:size]]).float().flatten(1) - 16 * 0.3049) / (16 * 0.3760)
    return images, torch.from_numpy(bunch.target[order[:size]]).long()


@pytest.mark.parametrize(
    ("training", "guidance"),
    [
        ({"optimizer": "adam"}, None),
        ({"optimizer": "adam", "cosine": True, "grad_clip": 0.3}, None),
        ({"optimizer": "adamw", "weight_decay": 0.1}, None),
        ({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3, "cosine": True}, None),
        ({"optimizer": "adam"}, {"lambda1": 1e-2}),
        ({"optimizer": "sgd", "momentum": 0.5, "grad_clip": 0.5}, {"lambda1": 0.5, "every": 2, "until": 0.5}),
    ],
)
def test_the_loop_is_the_one_that_anybody_would_write(
    assembled: Any, training: dict[str, Any], guidance: dict[str, Any] | None
) -> None:
    lr = 0.05 if training["optimizer"] == "sgd" else 3e-3
    losses, expected = written_loop(*digits(300, 288), {**training, "lr": lr}, guidance)
    ours = {k: v for k, v in training.items() if k != "cosine"}
    config = trial_config(
        training={**ours, "lr": lr, "lr_schedule": "cosine" if "cosine" in training else "constant"},
        guidance={**UNGUIDED, **(guidance or {})},
    )
    run = assembled(config)
    steps = recorded(run)
    history = list(fit(run))
    assert [loss for _, _, loss in steps] == [loss for epoch in losses for loss in epoch]  # to the bit
    for ours_, theirs in zip(run.model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours_, theirs)
    sizes = [64, 64, 64, 64, 44]
    for metrics, epoch in zip(history, losses, strict=True):
        mean = sum(n * value for n, value in zip(sizes, epoch, strict=True)) / 300
        assert metrics.values["train_loss"] == pytest.approx(mean, rel=1e-6)


def test_validation_is_that_of_the_weights_at_the_end_of_the_epoch(assembled: Any) -> None:
    run = assembled(trial_config(data={"augment": ("flip", "crop")}))
    val_labels = run.val.labels
    x = (run.val.images.double() / 16 - 0.3049) / 0.3760
    for metrics in fit(run):
        with torch.no_grad():
            logits = run.model(x.float()).double()
        loss = torch.logsumexp(logits, 1) - logits[torch.arange(len(val_labels)), val_labels]
        assert metrics.values["val_loss"] == pytest.approx(float(loss.mean()), rel=1e-5)
        assert metrics.values["val_accuracy"] == pytest.approx(float((logits.argmax(1) == val_labels).double().mean()))
        assert len(val_labels) == 288


def test_the_test_set_is_measured_beside_and_changes_nothing(assembled: Any) -> None:
    run = assembled(trial_config(model={"dropout": 0.2}).model_copy(update={"test": True}))
    plain = assembled(trial_config(model={"dropout": 0.2}))
    assert plain.test is None
    assert run.test.size == 359
    measured = []
    for metrics in fit(run):
        x, y = (run.test.images.float() / 16 - 0.3049) / 0.3760, run.test.labels
        with torch.no_grad():
            loss, right = torch.nn.functional.cross_entropy(run.model(x), y), run.model(x).argmax(1) == y
        assert metrics.values["test_loss"] == pytest.approx(float(loss), rel=1e-5)
        assert metrics.values["test_accuracy"] == pytest.approx(float(right.double().mean()))
        measured.append({k: v for k, v in metrics.values.items() if not k.startswith("test_")})
    assert [{k: v for k, v in m.items() if k != "seconds"} for m in measured] == numbers(list(fit(plain)))
    assert same(weights(run.model), weights(plain.model))


def test_the_training_accuracy_is_that_of_the_steps(assembled: Any) -> None:
    run = assembled(trial_config(training={"max_epochs": 1, "optimizer": "sgd", "lr": 1e-9}))
    images, labels = digits(300, 288)
    with torch.no_grad():  # the weights hardly move
        expected = float((run.model(images.view(-1, 1, 8, 8)).argmax(1) == labels).double().mean())
    (metrics,) = fit(run)
    assert metrics.values["train_accuracy"] == pytest.approx(expected)


def test_evaluation_leaves_no_trace(assembled: Any) -> None:
    run = assembled(trial_config())
    state, before = torch.get_rng_state(), weights(run.model)
    evaluate(run, run.val, "test")
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights(run.model), before)
    assert all(p.grad is None for p in run.model.parameters())


def test_names_of_the_metrics(assembled: Any) -> None:
    layers = {"entropy/hidden.0", "entropy/hidden.1", "entropy/output"}
    always = {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds", "grad_norm/task", "guidance/dense"}
    guided = {"grad_norm/guidance", "guidance/ratio", "guidance/skipped"}
    (metrics,) = fit(assembled(trial_config(training={"max_epochs": 1})))
    assert set(metrics.values) == always | layers
    (metrics,) = fit(assembled(trial_config(training={"max_epochs": 1}, guidance={"lambda1": 1e-3})))
    assert set(metrics.values) == always | layers | guided
    assert metrics.epoch == 1
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values.values())


# -- options -----------------------------------------------------------------------------------------------------------

ONE_STEP = {"max_epochs": 1, "batch_size": 300, "optimizer": "sgd", "momentum": 0.0, "lr": 1.0}


def step_of(run: TrainingState) -> Tensor:
    """Returns the change of all weights in one step, as one vector."""
    before = torch.cat([p.detach().flatten().clone() for p in run.model.parameters()])
    list(fit(run))
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]) - before


def test_the_task_gradient_is_clipped_to_a_norm(assembled: Any) -> None:
    free = step_of(assembled(trial_config(training=ONE_STEP)))
    norm = float(free.norm())
    clipped = step_of(assembled(trial_config(training={**ONE_STEP, "grad_clip": norm / 3})))
    assert torch.allclose(clipped, free / 3, atol=1e-6)
    unclipped = step_of(assembled(trial_config(training={**ONE_STEP, "grad_clip": norm * 1.01})))
    assert torch.equal(unclipped, free)


def test_labels_are_smoothed_in_training_and_not_in_validation(assembled: Any) -> None:
    still = {"max_epochs": 1, "batch_size": 300, "optimizer": "sgd", "lr": 1e-12}
    (plain,) = fit(assembled(trial_config(training=still)))
    run = assembled(trial_config(training={**still, "label_smoothing": 0.3}))
    images, labels = digits(300, 288)
    with torch.no_grad():
        logs = torch.log_softmax(run.model(images.view(-1, 1, 8, 8)).double(), 1)
    right = torch.full((300, 10), 0.3 / 10, dtype=torch.double)
    right[torch.arange(300), labels] += 0.7
    (smooth,) = fit(run)
    assert smooth.values["train_loss"] == pytest.approx(float(-(right * logs).sum(1).mean()), rel=1e-5)
    assert plain.values["train_loss"] == pytest.approx(float(-logs[torch.arange(300), labels].mean()), rel=1e-5)
    assert smooth.values["val_loss"] == pytest.approx(plain.values["val_loss"], rel=1e-6)


def test_guidance_is_added_after_clipping(assembled: Any) -> None:
    strong = {"lambda1": 1.0, "max_ratio": None}
    free = step_of(assembled(trial_config(training=ONE_STEP)))
    entropy = step_of(assembled(trial_config(training=ONE_STEP, guidance=strong))) - free
    clipped = step_of(assembled(trial_config(training={**ONE_STEP, "grad_clip": 1e-6}, guidance=strong)))
    assert float(entropy.norm()) > 1e-3
    assert torch.allclose(clipped, entropy, atol=1e-5)


@pytest.mark.parametrize(("optimizer", "decoupled"), [("sgd", True), ("adamw", True), ("adam", False)])
def test_weight_decay(assembled: Any, optimizer: str, decoupled: bool) -> None:
    """After one step of SGD or AdamW the weights are lr * decay * w smaller; Adam normalises the decay away."""
    training = {**ONE_STEP, "optimizer": optimizer, "lr": 0.01}
    start = torch.cat([p.detach().flatten() for p in assembled(trial_config()).model.parameters()])
    without = step_of(assembled(trial_config(training=training)))
    decayed = step_of(assembled(trial_config(training={**training, "weight_decay": 0.5})))
    shrunk = torch.allclose(decayed, without - 0.01 * 0.5 * start, atol=1e-6)
    assert shrunk is decoupled
    assert not torch.allclose(decayed, without, atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_over_the_run(assembled: Any, schedule: str) -> None:
    run = assembled(trial_config(training={"lr_schedule": schedule, "max_epochs": 4, "lr": 0.01}))
    rates: list[float] = []
    guide = run.guidance.add_gradients  # the last thing before a step

    def noting(progress: float) -> None:
        rates.append(run.optimizer.param_groups[0]["lr"])
        guide(progress)

    run.guidance.add_gradients = noting  # type: ignore[method-assign]
    list(fit(run))
    steps = np.arange(4 * 5) / (4 * 5)
    expected = 0.01 * (1 + np.cos(np.pi * steps)) / 2 if schedule == "cosine" else np.full(20, 0.01)
    assert rates == pytest.approx(expected.tolist())


def test_guidance_stops_after_its_part_of_the_run(assembled: Any) -> None:
    config = trial_config(guidance={"lambda1": 0.1, "until": 0.5}, training={"max_epochs": 4})
    history = list(fit(assembled(config)))
    assert ["guidance/ratio" in metrics.values for metrics in history] == [True, True, False, False]


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tall, self.flat = nn.Linear(300, 400), nn.Linear(300, 200)
        self.conv, self.small = nn.Conv2d(8, 16, 3), nn.Conv2d(4, 4, 1, bias=False)
        self.norm = nn.LayerNorm(7)


@pytest.mark.parametrize("scheme", ["he", "orthogonal"])
def test_an_initialisation_sets_linear_and_convolutional_layers_alone(scheme: str) -> None:
    model = Layers()
    nn.init.constant_(model.norm.weight, 0.5)
    nn.init.constant_(model.norm.bias, 0.25)
    initialise(model, scheme)
    assert torch.equal(model.norm.weight, torch.full((7,), 0.5))
    assert torch.equal(model.norm.bias, torch.full((7,), 0.25))
    for layer in (model.tall, model.flat, model.conv):
        assert layer.bias is not None
        assert not layer.bias.any()
    for weight in (model.tall.weight, model.flat.weight, model.conv.weight, model.small.weight):
        matrix = weight.detach().flatten(1).double()  # [out, in]
        rows, columns = matrix.shape
        if scheme == "orthogonal":
            gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
            assert torch.allclose(gram, 2 * torch.eye(min(rows, columns), dtype=torch.double), atol=1e-5)
        elif weight is not model.small.weight:
            assert float(matrix.std()) == pytest.approx(math.sqrt(2 / columns), rel=0.05)
            kurtosis = float((matrix**4).mean() / (matrix**2).mean() ** 2)
            assert kurtosis == pytest.approx(3, abs=0.4)  # a normal distribution; a uniform one has 1.8


def test_lsuv_gives_the_output_of_every_layer_variance_one(assembled: Any) -> None:
    """On the training images that it has looked at, in an orthogonal network; on other ones nearly so."""
    run = assembled(trial_config(model={"depth": 3, "width": 48}, training={"init": "lsuv"}))
    layers = [m for m in run.model.modules() if isinstance(m, nn.Linear)]
    seen: dict[nn.Module, list[float]] = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_hook(lambda module, _x, y: seen[module].append(float(y.var())))
    with torch.no_grad():
        for part in (run.train.first(256), run.val):
            run.model(next(input_batches(run.config, run.info, run.task, part))[0])
    assert [first for first, _ in seen.values()] == pytest.approx([1.0] * 4, rel=1e-3)
    assert [other for _, other in seen.values()] == pytest.approx([1.0] * 4, rel=0.5)
    middle = layers[1].weight.detach().double()
    gram = middle @ middle.T
    assert torch.allclose(gram / gram[0, 0], torch.eye(48, dtype=torch.double), atol=1e-5)


def test_a_norm_is_not_taken_of_one_image(assembled: Any) -> None:
    """129 images in batches of 64 leave one, which would be an error in training; all other images count."""
    config = trial_config(
        model={"batch_norm": True}, data={"train_size": 129}, training={"max_epochs": 2, "batch_size": 64}
    )
    run = assembled(config)
    first, second = list(fit(run))
    assert first.values["train_loss"] > second.values["train_loss"] > 0
    assert (torch.stack([b for k, b in run.model.named_buffers() if k.endswith("batches_tracked")]) == 4).all()
    without = assembled(trial_config(data={"train_size": 129}, training={"max_epochs": 1, "batch_size": 64}))
    seen: list[int] = []
    without.model.register_forward_hook(lambda _m, inputs, _y: seen.append(len(inputs[0])))
    list(fit(without))
    assert sorted(seen[:3]) == [1, 64, 64]


def test_the_gain_is_that_of_the_activation() -> None:
    """The square root of 2 keeps the variance of ReLU networks; 5/3 is usual for tanh (torch.nn.init)."""
    for activation, gain in {"relu": 2**0.5, "gelu": 2**0.5, "tanh": 5 / 3}.items():
        model = build_model(
            "mlp", depth=2, width=400, in_shape=(1, 20, 20), num_outputs=10, activation=activation, batch_norm=True
        )
        for scheme in ("he", "orthogonal"):
            initialise(model, scheme)
            deviation = float(model.get_submodule("hidden.1").weight.detach().std())  # type: ignore[union-attr,operator]
            assert deviation == pytest.approx(gain / 20, rel=0.02)


def test_the_default_initialisation_is_pytorchs() -> None:
    model, expected = Layers(), Layers()
    initialise(model, "default")
    assert same(weights(model), weights(expected))


def test_bfloat16_rounds_more(assembled: Any) -> None:
    runs = {p: assembled(trial_config(training={"precision": p})) for p in ("float32", "auto", "bfloat16")}
    losses = {p: [m.values["val_loss"] for m in fit(run)] for p, run in runs.items()}
    assert losses["auto"] == losses["float32"]  # no GPU here
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert {p.dtype for p in runs["bfloat16"].model.parameters()} == {torch.float32}


# -- targets and ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "direction"), [("val_loss", "minimize"), ("val_accuracy", "maximize")])
def test_the_epoch_that_reaches_the_target_is_logged_once(assembled: Any, metric: str, direction: str) -> None:
    objective = {"metric": metric, "direction": direction}
    training = {"max_epochs": 6, "lr": 0.01}
    free = [m.values[metric] for m in fit(assembled(trial_config(objective=objective, training=training)))]
    assert free[1] != free[0]
    target = free[3]
    first = next(i for i, v in enumerate(free, start=1) if (v <= target if direction == "minimize" else v >= target))
    assert 1 < first <= 4
    run = assembled(trial_config(objective={**objective, "target": target}, training=training))
    assert [m.values.get("epochs_to_target") for m in fit(run)] == [first if e == first else None for e in range(1, 7)]
    beyond = target / 1e6 if direction == "minimize" else 1.1
    run = assembled(trial_config(objective={**objective, "target": beyond}, training=training))
    assert not any("epochs_to_target" in m.values for m in fit(run))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_loss_that_is_not_finite_ends_the_run(assembled: Any, optimizer: str) -> None:
    run = assembled(trial_config(training={"optimizer": optimizer, "lr": 1e30, "max_epochs": 5}))
    with pytest.raises(Diverged) as diverged:
        list(fit(run))
    assert diverged.value.epoch == run.epoch + 1 <= 2
    assert str(diverged.value.epoch) in str(diverged.value)
    assert all(math.isfinite(m.values["train_loss"] + m.values["val_loss"]) for m in run.history)


@pytest.mark.parametrize("lambda1", [0.0, 1e-2])
def test_a_weight_that_is_not_a_number_ends_the_run_guided_or_not(assembled: Any, lambda1: float) -> None:
    run = assembled(trial_config(guidance={"lambda1": lambda1}))
    epochs = fit(run)
    next(epochs)
    with torch.no_grad():
        next(run.model.parameters())[0, 0] = math.nan
    with pytest.raises(Diverged, match="epoch 2"):
        next(epochs)


def test_a_run_at_its_end_has_nothing_left(assembled: Any) -> None:
    run = assembled(trial_config())
    assert [m.epoch for m in fit(run)] == [1, 2, 3]
    before = weights(run.model)
    assert list(fit(run)) == []
    assert same(weights(run.model), before)
    assert [m.timestamp for m in run.history] == sorted(m.timestamp for m in run.history)


def test_tasks_are_those_of_the_models(place: Path, assembled: Any) -> None:
    assert assembled(trial_config()).task is TASKS["classification"]
    autoencoder = trial_config(model={"name": "autoencoder", "depth": 2, "width": 8})
    run = assembled(autoencoder)
    assert run.task is TASKS["reconstruction"]
    batches = recorded(run)
    list(fit(run))
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x, _, _ in batches)
