"""The old place of `full.peers.trl_apo`."""

from full.peers.trl_apo import *  # noqa: F403
