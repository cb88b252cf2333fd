"""Settings of variables and of a file: which goes first, and what is said of wrong ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from service.config import Config, ConfigError, doubtful_variables, load_settings
from service.config_text import example, in_force

DOCS = Path(__file__).resolve().parents[2] / "docs"


def written(folder: Path, text: str) -> Path:
    path = folder / "resq.toml"
    path.write_text(text, "utf-8")
    return path


def test_what_is_given_goes_before_variables_and_those_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, 'port = 1\nperiod = 2\ncredits = 3\nallowed_hosts = ["a.example"]\n')
    monkeypatch.setenv("RESQ_PERIOD", "20")
    monkeypatch.setenv("RESQ_PORT", "10")
    monkeypatch.setenv("RESQ_CONFIG", str(file))
    settings = load_settings(None, port=100, model=None)
    config = settings.config
    assert (config.port, config.period, config.credits) == (100, 20, 3)
    assert config.allowed_hosts == ("a.example",)
    assert config.model == Config().model
    assert settings.origins == {
        "port": "--port",
        "period": "RESQ_PERIOD",
        "credits": f"credits in {file}",
        "allowed_hosts": f"allowed_hosts in {file}",
    }


def test_everything_that_is_wrong_is_said_at_once_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(
        tmp_path,
        'peroid = 8\nzebra = 1\nport = "x"\ndegrade = ["period", "sleep"]\ndatabase_url = 5\n',
    )
    monkeypatch.setenv("RESQ_CREDITS", "0")
    with pytest.raises(ConfigError) as caught:
        load_settings(file, threads=-1)
    lines = str(caught.value).splitlines()
    assert f"peroid in {file}: did you mean period?" in lines
    assert f"zebra in {file}: no setting has this name" in lines
    for place, value in (
        (f"port in {file}", "'x'"),
        ("RESQ_CREDITS", "'0'"),
        ("--threads", "-1"),
        (f"degrade in {file}", "'period,sleep'"),
    ):
        assert any(line.startswith(f"{place} is {value}: ") for line in lines), (place, lines)
    assert any(line.startswith(f"database_url in {file}: ") for line in lines)
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1\nb = = 1", r"is not TOML: .*line 2"),
        ("a = 1\nb = '\xff'", r"is not TOML: expected UTF-8 \(at line 2\)"),
        ("a = " + "[" * 20_000, "nested too deep"),
        ("[server]\nport = 1", "server in .*: no setting has this name"),
        ("x = 1 # " + "y" * 70_000, "is larger than 64 KiB"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "resq.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=words):
        load_settings(file)


def test_a_file_that_cannot_be_read_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESQ_PORT", "x")
    for file, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load_settings(file)
        first, second = str(caught.value).splitlines()
        assert first.startswith(f"{file} cannot be read: {why}")
        assert second.startswith("RESQ_PORT is 'x': ")


@pytest.mark.parametrize(
    "line", ["port = true", "model = ['a', 'b']", "period = 1.5", "model = 2020-01-01"]
)
def test_a_value_of_another_kind_is_no_value(tmp_path: Path, line: str) -> None:
    name = line.split()[0]
    with pytest.raises(ConfigError, match=f"^{name} in .* is .*: input should"):
        load_settings(written(tmp_path, line))


def test_the_secret_ones_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_DATABASE_URL", "postgresql+psycopg://me:hush@db/resq")
    shown = in_force(load_settings(None))
    assert "hush" not in shown
    assert "database_url" in shown


def test_no_login_of_a_url_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_TRACES", "http://me:hush@collector/v1/traces")
    shown = in_force(load_settings(None))
    assert "hush" not in shown
    assert '# traces = "http://…@collector/v1/traces"' in shown
    file = written(tmp_path, 'traces = "ftp://me:hush@collector/"')
    monkeypatch.delenv("RESQ_TRACES")
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert "hush" not in str(caught.value)
    assert "ftp://…@collector/" in str(caught.value)


def test_what_was_expected_is_said_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_TRACES", "collector")
    monkeypatch.setenv("RESQ_DEGRADE", "Sleep")
    with pytest.raises(ConfigError) as caught:
        load_settings(None)
    assert "RESQ_TRACES is 'collector': input should be a valid URL" in str(caught.value)
    assert "RESQ_DEGRADE is 'Sleep': 'sleep' in it; expected period" in str(caught.value)


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_PORT", "x" * 9999)
    with pytest.raises(ConfigError, match=r"RESQ_PORT is 'x+…: input") as caught:
        load_settings(None)
    assert len(str(caught.value)) < 250


def test_what_is_in_force_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_ALLOWED_HOSTS", "a.example,10.0.0.0/8")
    monkeypatch.setenv("RESQ_TRACES", "http://collector:4318/v1/traces")
    before = load_settings(None, degrade="threshold,rate", capacity=0.5)
    file = written(tmp_path, in_force(before))
    monkeypatch.delenv("RESQ_ALLOWED_HOSTS")
    monkeypatch.delenv("RESQ_TRACES")
    assert load_settings(file).config == before.config


def test_the_example_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    assert (DOCS / "resq.example.toml").read_text("utf-8") == example(), (
        'renew it: python -c "from service.config_text import example; print(example(), end=str())"'
    )
    lines = [line[1:] for line in example().splitlines() if line.startswith("#") and "=" in line]
    settings = [line for line in lines if not line.startswith(" ") and not line.endswith("=")]
    assert Config(**tomllib.loads("\n".join(settings))) == Config()
    assert all(field.description for field in Config.model_fields.values())


def test_a_device_that_is_not_here_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setenv("RESQ_DEVICE", "cuda")
    with pytest.raises(ConfigError, match=r"^RESQ_DEVICE is 'cuda': torch \S+ was built without"):
        load_settings(None)
    with pytest.raises(
        ConfigError, match=r"^--device is 'gpu': expected cpu, auto, cuda or cuda:N"
    ):
        load_settings(None, device="gpu")
    monkeypatch.delenv("RESQ_DEVICE")
    file = written(tmp_path, 'device = "auto"\n')
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_settings(file).config.device == Config().device == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_settings(file).config.device == "cuda:0"


def test_a_mistyped_variable_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESQ_PEROID", "8")
    monkeypatch.setenv("RESQ_KEY", "x")
    assert doubtful_variables() == [
        "RESQ_PEROID is no setting and changes nothing; did you mean RESQ_PERIOD?"
    ]


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.config.find_spec", lambda _: None)
    monkeypatch.setenv("RESQ_ENGINE", "ray")
    with pytest.raises(ConfigError, match=r"RESQ_ENGINE is .*: .*pip install 'resq\[ray\]'"):
        load_settings(None)
    monkeypatch.setenv("RESQ_ENGINE", "local")
    assert load_settings(None).config.engine == "local"
