"""The earlier name of `subpop.testing`."""

from subpop.testing import *  # noqa: F403
