"""The hub's command line: what is wrong in it is said before anything is touched."""

from __future__ import annotations

import pytest

from metrica_hub.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "A b", "--role", "admin"], "a name has 1 to 63 of"),
        (["--name", "", "--role", "admin"], "a name has 1 to 63 of"),
        (["--name", "b", "--role", "admin", "--days", "0"], "say 1 to 3660"),
        (["--name", "b", "--role", "admin", "--days", "\u0661"], "say 1 to 3660"),
        (["--name", "b", "--role", "admin", "--days", "9" * 99], "say 1 to 3660"),
        (["--name", "b", "--role", "root"], "invalid choice"),
        (["--role", "admin"], "--name"),
    ],
)
def test_a_token_that_can_not_be_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
