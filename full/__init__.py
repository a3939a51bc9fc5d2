"""The full-scale track: an Accelerate trainer on the core. full/train.py tells the story."""

import sys
from pathlib import Path

# Python puts a script's folder first on its path; this one's data, rewards and models would hide a user's own data.py or
# rewards.py.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]
