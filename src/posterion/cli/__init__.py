"""The command line: one module per command, each a thin shell around a public Python function."""

import importlib
import pkgutil
import sys

import typer

from posterion.errors import PosterionError

__all__ = ["app", "main"]

app = typer.Typer(
    name="posterion",
    help="Cryo-EM maps from particle images by maximum likelihood.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _register_commands() -> None:
    """Let each module of this package add its command: a module named ``x`` defines a function ``x``."""
    for module_info in pkgutil.iter_modules(__path__):
        if not module_info.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{module_info.name}")
            app.command(name=module_info.name.rstrip("_"))(getattr(module, module_info.name))


@app.callback()
def _root() -> None:
    """Cryo-EM maps from particle images by maximum likelihood."""


_register_commands()


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence on stderr and exit code 2."""
    try:
        app()
    except PosterionError as error:
        print(f"posterion: {error}", file=sys.stderr)
        sys.exit(2)
