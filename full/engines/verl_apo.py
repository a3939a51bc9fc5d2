"""The old place of `full.peers.verl_apo`."""

from full.peers.verl_apo import *  # noqa: F403
