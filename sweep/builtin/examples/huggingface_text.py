"""The Trainer of Hugging Face's transformers trains the trial: a language model of characters."""

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import sweep

LENGTH = 32


def texts():
    """Returns the descriptions of three data sets in pieces of ``LENGTH`` characters, as numbers below 128."""
    text = "".join(load().DESCR for load in (load_breast_cancer, load_diabetes, load_wine))
    numbers = torch.tensor([min(ord(each), 127) for each in text])
    pieces = numbers[: len(numbers) // LENGTH * LENGTH].view(-1, LENGTH)
    return [{"input_ids": piece, "labels": piece} for piece in pieces]


def train(trial):
    """Reports ``val_loss`` by a callback, and in a pair of `sweep confirm` ``test_loss``, too."""
    pieces = texts()
    parts = {"val": pieces[0::4], "test": pieces[1::4], "train": pieces[2::4] + pieces[3::4]}
    sizes = {"n_embd": trial["width"], "n_layer": trial["depth"], "n_head": 2, "n_positions": LENGTH}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, bos_token_id=0, eos_token_id=0, **sizes))
    callback = sweep.integrations.huggingface.SweepCallback(trial, batch_size=16)
    arguments = TrainingArguments(
        **callback.arguments, learning_rate=trial["lr"], per_device_train_batch_size=16, disable_tqdm=True
    )
    judged = {name: parts[name] for name in (("val", "test") if trial.is_confirming else ("val",))}
    trainer = Trainer(model, arguments, train_dataset=parts["train"], eval_dataset=judged, callbacks=[callback])
    trainer.train(resume_from_checkpoint=callback.checkpoint)
