"""``osrjax``: what it says of itself, and that a command is a script by another name."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script

import osrjax
from osrjax.__main__ import COMMANDS, main
from osrjax.choices import load


def test_without_words_it_says_version_devices_and_where_the_documentation_is(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"osrjax {osrjax.__version__}, JAX ")
    assert said[1] == "devices: 4 cpu (cpu)"
    assert Path(re.match("documentation: ([^;]+);", said[2])[1]).is_dir()
    assert said[3].startswith("usage: osrjax {predict,evaluate,norms")


def test_a_machine_without_the_devices_that_are_asked_for_is_one_line(monkeypatch, capsys):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'\nand more")

    monkeypatch.setattr("jax.devices", fail)
    assert main([]) == 1
    assert "devices: none (Unable to initialize backend 'cuda')\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--version"], 0, osrjax.__version__),
        (["--help"], 0, "usage: osrjax {predict,"),
        (["train"], 2, "osrjax: command='train' does not exist: usage: osrjax {predict,"),
        (["predict", "nowhere", "a.png"], 2, "osrjax predict: run='nowhere' has no config.json: give"),
        (["evaluate", "nowhere.npz"], 2, "osrjax evaluate: file='nowhere.npz' does not exist: give"),
        (["norms", "nowhere"], 2, "osrjax norms: run='nowhere' has no config.json: give"),
        (["report", "nowhere"], 2, "osrjax report: runs='nowhere' is no directory: give"),
    ],
)
def test_what_is_asked_and_what_is_refused_are_lines(words, code, message, capsys):
    assert main(words) == code
    said = capsys.readouterr()
    assert (said.err if code else said.out).startswith(message)
    assert (said.out + said.err).count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_the_script_is_the_same_function(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert re.match(rf"usage: osrjax {command} \[-h\]", capsys.readouterr().out)
    assert load_script(command).main is load(COMMANDS[command])


def test_a_command_computes_what_the_script_computes(tmp_path, rng, capsys):
    parts = {f"{part}_logits": rng.normal(size=(9, 3)) for part in ("validation", "known", "unknown")}
    labels = {f"{part}_labels": np.arange(9) % 3 for part in ("validation", "known")}
    np.savez(tmp_path / "outputs.npz", **parts, **labels)
    words = [str(tmp_path / "outputs.npz"), "--resamples", "0", "--out", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 0
    table = capsys.readouterr().out
    assert load_script("evaluate").main(words) == 0
    assert capsys.readouterr().out == table


def test_the_console_command_is_this_function():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"osrjax": "osrjax.__main__:main"}
    assert load(project["scripts"]["osrjax"]) is main
