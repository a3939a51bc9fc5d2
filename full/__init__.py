"""The full-scale track: an Accelerate trainer on the core. full/train.py tells the story."""

import sys
from pathlib import Path

if sys.platform == "win32":  # before anything that is missing there, such as `resource`, ends in a traceback
    sys.exit(
        "full/ (training, evaluation) needs Linux or macOS: use WSL or a Codespace. apo_edu and toys run on Windows."
    )

# Python puts a script's folder first on its path; this one's data, rewards and models would hide a user's own data.py or
# rewards.py.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]
