"""The words of the lessons, one sentence each; the trainer's numbers have theirs in `full.report.glossary`.

Both stand in one table in notebooks/MAP.md, written by `python tests/course_map.py`. A word that names a number of a
run is
explained there and not here.
"""

from typing import NamedTuple


class Word(NamedTuple):
    """What a word means, and the lesson that introduces it."""

    meaning: str
    lesson: str


WORDS = {
    "adaptive alpha": Word("An alpha that a schedule sets anew at every step.", "05"),
    "ADPO": Word("Anchored cross-entropy -sum q log p_theta over the group: APO at alpha = 1, up to a constant.", "04"),
    "advantage": Word(
        "A completion's reward minus the mean of its group; GRPO also divides by the standard deviation.", "03"
    ),
    "alpha-divergence": Word(
        "D_alpha(q || p) = (1 - sum q^alpha p^(1-alpha)) / (alpha (1 - alpha)); the KLs are its ends.", "01"
    ),
    "anchor": Word("The policy that changes are measured from; on policy, the one that sampled.", "03"),
    "anchored policy": Word(
        "p_theta = softmax((l - l_ref)/tau_anc) over a group; uniform before the first update.", "03"
    ),
    "baseline": Word(
        "What is subtracted from a reward before it weighs a gradient; a constant brings no bias, and variance where "
        "it is far from the mean reward.",
        "04",
    ),
    "beta_r": Word("Temperature of the target, in the unit of the reward: q = softmax(A/beta_r).", "04"),
    "Boltzmann target": Word("q = softmax(A/beta_r) over a group: what the policy is pulled towards.", "04"),
    "Box-Cox transform": Word("(w^alpha - 1)/alpha, w = q/p: how loudly a sample speaks; log w at alpha = 0.", "01"),
    "certainty equivalent": Word(
        "The sure reward that is worth as much as a gamble: (1/kappa) log E exp(kappa R).", "10"
    ),
    "clipping": Word(
        "PPO's limit on a step: no gradient where the ratio has left 1 +- epsilon in the push's direction.", "07"
    ),
    "coefficient": Word("c = dD/dl of one completion: an update pushes its log-probability by minus this.", "03"),
    "completion": Word("One answer that the policy sampled; in a bandit, an arm.", "03"),
    "DAPO": Word("GRPO with a wider clip upwards and a mean over all tokens.", "04"),
    "DPO": Word(
        "Fits beta log(p/ref) to preferences between pairs of answers; the same optimum as RLHF, no sampling.", "04"
    ),
    "Dr.GRPO": Word("GRPO without the division by the standard deviation and by the length.", "04"),
    "equal reward": Word("Comparing runs where they have earned as much, not after as many steps.", "04"),
    "Fisher information": Word("E_p[s s^T] of the score s: the curvature that all D_alpha share where q = p.", "03"),
    "fold": Word("Where a minimum and a saddle appear together as a parameter moves (saddle-node bifurcation).", "02"),
    "forward KL": Word("KL(q || p), alpha = 1: covers modes; without bound where p forgets what q has.", "01"),
    "good arms kept": Word("Best arms that still have at least a tenth of their equal share of the probability.", "03"),
    "group": Word("The P completions of one prompt that are compared with each other.", "03"),
    "GRPO": Word("PPO's clipped objective with group-relative advantages in place of a critic.", "04"),
    "GSPO": Word("GRPO with one ratio a sequence.", "04"),
    "guarded schedule": Word(
        "alpha = alpha_max - (alpha_max - alpha_min) c p: lower only while confident and improving.", "05"
    ),
    "hysteresis": Word("Where the answer depends on the side that a parameter came from.", "02"),
    "implicit curriculum": Word("How an objective's weight of a prompt depends on the prompt's success rate.", "04"),
    "importance ratio": Word("pi/pi_old of a sampled token: corrects for samples of an older policy.", "12"),
    "kappa": Word("alpha/beta_r, on policy the only knob of a prompt's direction: an attitude to risk.", "10"),
    "leave-one-out": Word("A baseline that is the mean of the other completions of the group; unbiased.", "04"),
    "Lyapunov function": Word("A number that falls along a flow; here V = |u - u*|^2/2, for every alpha.", "03"),
    "mass in the valley": Word(
        "Share of a fit between the outermost modes where the target is below a tenth of its peak.", "02"
    ),
    "mass missed": Word("Share of the target outside a fit's central 95 % region.", "02"),
    "matched": Word("Updates rescaled to the length that a reference alpha has at the same point.", "10"),
    "mode": Word("A peak of a distribution.", "01"),
    "mode covering, mode seeking": Word("Spreading over all of the target's peaks; settling on one.", "02"),
    "nats": Word("Unit of divergences and log-probabilities with the natural logarithm.", "01"),
    "off policy": Word("Learning from samples of an older policy, as the second update of a batch does.", "11"),
    "on policy": Word("Learning from samples of the policy as it is.", "03"),
    "PPO": Word("Policy gradient with a clipped ratio; RLHF's usual optimiser.", "04"),
    "quartiles": Word(
        "The values below which a quarter and three quarters of the seeds lie; the band around a median line.", "03"
    ),
    "reverse KL": Word("KL(p || q), alpha = 0: seeks modes; forgetting a mode costs at most its mass.", "01"),
    "RLHF": Word("Reward model and RL with a KL penalty: reverse KL to ref e^(r/beta)/Z.", "04"),
    "score": Word("Gradient of a log-probability in the parameters; its mean is 0.", "03"),
    "seed": Word("Number that fixes a run's random draws; one seed proves nothing.", "06"),
    "SFT": Word("Supervised fine-tuning, -E_q[log p]: forward KL to where the answers come from.", "04"),
    "SNR": Word("Signal to noise: the gap between rewards over the standard deviation of their noise.", "12"),
    "target": Word("The distribution q that a policy is compared with.", "01"),
    "tau_anc": Word("Temperature of the anchor, in nats: u = (l - l_ref)/tau_anc.", "03"),
    "trust region": Word("A limit on how far the policy moves per batch; tau_anc is one only with many updates.", "03"),
}
