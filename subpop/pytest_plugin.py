"""The name by which projects load the plug-in: `pytest_plugins = ["subpop.pytest_plugin"]`."""

from subpop.session.pytest_plugin import *  # noqa: F403
