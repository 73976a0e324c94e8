"""The command in this process and a small random model, as the tests of the command line have them."""

from tests.cli.conftest import here, model_folder

__all__ = ["here", "model_folder"]
