"""URLs and texts without their secrets."""

from __future__ import annotations

import pytest

from sweep.config.secrets import hide, known_secrets, redact, without_driver_secrets, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("journal:///results/optuna.journal", "journal:///results/optuna.journal"),
        ("postgresql+psycopg://me@host:5432/db", "postgresql+psycopg://me@host:5432/db"),
        ("postgresql://db/x?user=ann&sslmode=require", "postgresql://db/x?user=ann&sslmode=require"),
        ("/data/a?b#c", "/data/a?b#c"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://ann:s3cret@mlflow/base", "https://ann:***@mlflow/base"),
        ("https://s3cret@mlflow/base", "https://***@mlflow/base"),
        ("https://mlflow/?token=s3cret", "https://mlflow/?token=***"),
        ("https://mlflow/?a=&s3cret&sig=s3=cret#s3cret", "https://mlflow/?a=&***&sig=***#***"),
        ("https://ann:s3cret@mlflow?api_key=s3cret", "https://ann:***@mlflow?api_key=***"),
        ("postgresql+psycopg://ann:s3:cr@et@db:5432/mlflow", "postgresql+psycopg://ann:***@db:5432/mlflow"),
        ("postgresql://ann:s3?cret@db/mlflow", "postgresql://ann:***@db/mlflow"),
        (
            "postgresql://db/mlflow?user=ann&password=s3cr@t&x=s3cret",
            "postgresql://db/mlflow?user=ann&password=***&x=***",
        ),
        ("s3://key:s3cret@bucket/a", "s3://key:***@bucket/a"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_a_message_loses_the_secrets_of_a_url_in_each_form() -> None:
    url = "postgresql://me:s3cr%40t@db/x?password=a b"
    said = hide(f"cannot connect to {url}: s3cr@t, s3cr%40t, a b and a%20b are wrong", url)
    assert said == "cannot connect to postgresql://me:***@db/x?password=***: ***, ***, *** and *** are wrong"


def test_a_text_loses_the_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    plants = {
        "AWS_SECRET_ACCESS_KEY": "plant-1",
        "WANDB_API_KEY": "plant-2",
        "MLFLOW_TRACKING_PASSWORD": "plant-3",
        "SWEEP_STORAGE": "postgresql://me:plant-4@db/x",
        "SWEEP_ON_FINISH": "https://host/hooks/plant-5",
        "HTTPS_PROXY": "http://me:plant-6@proxy:3128",
    }
    for name, value in {**plants, "RAY_AUTH_TOKEN_PATH": "/home/me/token", "TOKENIZERS_PARALLELISM": "enabled"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["sweep", "run", "digits", "--tracking=https://host/?token=plant-7"])
    text = " ".join(["/home/me/token enabled", *plants.values(), "token=plant-7"])
    assert "plant" not in redact(text)
    assert redact(text).startswith("/home/me/token enabled *** *** *** postgresql://me:***@db/x https://host/***")
    assert redact("nothing to hide in digits") == "nothing to hide in digits"
    assert known_secrets({"A": "1", "A_TOKEN": ""}, ["sweep"]) == []


def test_a_script_finds_its_programs_whatever_the_password_is() -> None:
    driver = {"SWEEP_STORAGE": "postgresql://postgres:postgres@db/studies", "COPY": "postgres"}
    places = {"PATH": "/usr/lib/postgresql/16/bin:/usr/bin", "HOME": "/home/postgres"}
    assert without_driver_secrets({**driver, **places}, []) == places
