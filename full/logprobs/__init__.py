"""Log-probabilities of sampled tokens under a model, without ever holding a batch's logits."""

from full.logprobs.scoring import score, scoring_error
from full.logprobs.tokens import Policy, predecessors, token_logps, tree_mask

__all__ = ["Policy", "predecessors", "score", "scoring_error", "token_logps", "tree_mask"]
