"""Experiment 6 (SmolLM2): a graded task of reasoning-gym: does a larger kappa buy variance and cost mean there too?"""

from matplotlib.figure import Figure

from .experiment import Experiment, Verdict
from .graded_model import differences, judge, pairs_of
from .table import Table

TASKS = ("spell",)


def judge_spelling(table: Table) -> Verdict:
    return judge(table, TASKS)


def draw(table: Table) -> tuple[Figure, str]:
    caption = (
        "SmolLM2-135M spells words of three letters backward, 8 steps, one update a batch; 24 held-out words with 24 samples "
        "each; Student's intervals over three seeds."
    )
    return differences(table, TASKS), caption


EXPERIMENT = Experiment(
    number=6,
    name="graded_smollm2",
    title="partial credit with SmolLM2 and reasoning-gym: does a larger kappa buy variance?",
    question="With SmolLM2-135M and a graded task of reasoning-gym, does a larger kappa = alpha / beta_r buy variance and cost "
    "mean?",
    paper="Binary verifier rewards; graded ones are not studied.",
    theory="As for the tiny model: the reward is a function of the answer, and the right answer is the best for every kappa, "
    "so that only the way there can differ. A word that is merely copied keeps its middle letter, a sure third of the "
    "reward; to try the reversal is to risk it. A larger kappa should prefer the try, where a group has both.",
    settings="SmolLM2-135M-Instruct, adapters of rank 16. By itself it puts at most 3 answers in 100 into a box (64 samples "
    "each of spell_backward with 3 and with 4 letters, letter_jumble, word_sorting, sentence_reordering, complex_arithmetic "
    "and rectangle_count: mean reward 0.005 on the first, 0 on the others), so it gets a supervised warm start of 24 "
    "steps of 16 words on the task's own answers. Then spell_backward, words of three letters, a third of the reward for "
    "each letter in its place; alpha 0 and 0.9 at beta_r 0.3; one update a batch, 8 steps of 6 words with 8 samples, "
    "lr 5e-4, seeds 10 to 12; 24 held-out words with 24 samples after the last step.",
    controls="Risk is the variance within a problem as a share of what its mean allows, since a worse policy has more "
    "variance anyhow. GRPO beside it, which is like alpha 0 by theory.",
    rule="Kappa buys variance and costs mean if alpha 0.9 minus alpha 0 is below 0 in mean reward and above 0 in risk, beyond "
    "the intervals; it does not if the mean is above 0 or the risk below 0; else it cannot be told.",
    sweep="full/configs/experiments/graded_smollm2.yaml",
    model="SmolLM2-135M",
    pairs=pairs_of(TASKS),
    judge=judge_spelling,
    draw=draw,
)
