"""``metrica completion``: what a shell must know to complete commands and options."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from metrica_cli.options import add
from metrica_cli.output import say
from metrica_cli.trouble import Exit

Shell = Literal["bash", "zsh", "fish"]


def register(app: App) -> None:
    """Add the command."""

    def completion(shell: Annotated[Shell, Parameter(name="SHELL", help="Whose words it is to be.")], /) -> Exit:
        """Write a completion script for a shell."""
        say(app.generate_completion(prog_name="metrica", shell=shell))
        return Exit.OK

    add(
        app,
        completion,
        "metrica completion bash > ~/.local/share/bash-completion/completions/metrica",
        "metrica completion zsh > ~/.zfunc/_metrica",
        "metrica completion fish > ~/.config/fish/completions/metrica.fish",
    )
