"""How wide a command prints."""

import pytest

from grpo_credit.preflight.findings import Finding, show
from grpo_credit.terminal import PIPED, console


@pytest.mark.parametrize(
    ("columns", "width"), [("80", 80), ("200", 200), (None, PIPED), ("", PIPED), ("wide", PIPED)]
)
@pytest.mark.parametrize("stderr", [False, True])
def test_a_pipe_obeys_columns(columns, width, stderr, monkeypatch, capsys):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert console(stderr=stderr).width == width


def test_what_a_preflight_finds_is_as_wide_as_columns_says(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    show([Finding("error", "truncation", "many words " * 30, "other words " * 30)])
    lines = capsys.readouterr().out.splitlines()
    assert 50 < max(map(len, lines)) <= 60
