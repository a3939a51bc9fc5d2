"""Assignment 2: right answers pass in whatever style, near misses fail, and the numbers are those of the derivations."""

import inspect
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import apo_edu
from apo_edu import objectives
from tests.course_samples import VARIANT, automatic, other_styles, save, solved
from toys import bandits
from toys.course import Student, load
from toys.course.a2 import GAMBLES, STEPS, choose_arms, pull_arms, show_equal_reward
from toys.course.grading import Submission, grade
from toys.course.judging import judge

A2 = load("a2")
ADA = Student("ada", "test")
style, OTHER_STYLES = other_styles()


@style("group_advantages")
def looped_advantages(rewards, scale):
    rows = []
    for row in rewards.tolist():
        mean = sum(row) / len(row)
        spread = math.sqrt(sum((r - mean) ** 2 for r in row) / (len(row) - 1)) + 1e-4
        rows.append([(r - mean) / (spread if scale == "group" else 1.0) for r in row])
    return torch.tensor(rows, dtype=rewards.dtype)


@style("group_advantages")
def numpy_advantages(rewards, scale):
    r = rewards.numpy()
    centred = r - r.mean(-1, keepdims=True)
    return centred / (r.std(-1, ddof=1, keepdims=True) + 1e-4) if scale == "group" else centred


@style("boltzmann_log_target")
def target_by_logsumexp(advantages, beta_r):
    with torch.no_grad():
        scores = advantages / beta_r
        return scores - torch.logsumexp(scores, -1, keepdim=True)


@style("boltzmann_log_target")
def target_by_numpy(advantages, beta_r):
    scores = advantages.detach().numpy() / beta_r
    scores = scores - scores.max(-1, keepdims=True)
    return torch.from_numpy(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))


@style("anchored_log_policy")
def policy_by_where(token_logps, ref_token_logps, mask, tau_anc):
    difference = torch.where(mask.bool(), token_logps - ref_token_logps.detach(), 0.0)
    u = difference.sum(-1) / mask.sum(-1) / tau_anc
    return u - torch.logsumexp(u, -1, keepdim=True)


@style("anchored_log_policy")
def policy_looped(token_logps, ref_token_logps, mask, tau_anc):
    rows = []
    for logps, refs, on in zip(token_logps, ref_token_logps.detach(), mask.bool(), strict=True):
        u = torch.stack([(a[m] - b[m]).mean() / tau_anc for a, b, m in zip(logps, refs, on, strict=True)])
        rows.append(u - u.exp().sum().log())
    return torch.stack(rows)


@style("apo_loss")
def loss_from_nothing(logps, old_logps, mask, rewards, alpha, tau_anc, beta_r):
    q = torch.softmax((rewards - rewards.mean(-1, keepdim=True)) / beta_r, -1)
    u = ((logps - old_logps.detach()) * mask).sum(-1) / mask.sum(-1) / tau_anc
    log_p = torch.log_softmax(u, -1)
    if alpha == 1:
        values = q * (q.log() - log_p)
    elif alpha == 0:
        values = log_p.exp() * (log_p - q.log())
    else:
        values = (q - q**alpha * torch.exp((1 - alpha) * log_p)) / (alpha * (1 - alpha))
    return values.sum(-1).mean()


@style("apo_loss")
def loss_group_by_group(logps, old_logps, mask, rewards, alpha, tau_anc, beta_r):
    total = 0.0
    for a, b, on, r in zip(logps, old_logps, mask, rewards, strict=True):
        now, old = ((x * on).sum(-1) / on.sum(-1) for x in (a, b))
        log_q = apo_edu.boltzmann_log_target(apo_edu.group_advantages(r, scale="none"), beta_r)
        total = total + apo_edu.alpha_divergence(log_q, apo_edu.anchored_log_policy(now, old, tau_anc), alpha)
    return total / len(logps)


@style("reshaped_advantage")
def reshaped_by_numpy(log_q, alpha):
    log_w = log_q.numpy() + np.log(log_q.shape[-1])
    z = log_w if alpha == 0 else np.expm1(alpha * log_w) / alpha
    return torch.from_numpy(z - z.mean(-1, keepdims=True))


@style("reshaped_advantage")
def reshaped_looped(log_q, alpha):
    rows = []
    for row in log_q.tolist():
        z = [x + math.log(len(row)) for x in row]
        z = z if alpha == 0 else [math.expm1(alpha * x) / alpha for x in z]
        rows.append([x - sum(z) / len(z) for x in z])
    return torch.tensor(rows, dtype=torch.float64)


@style("reinforce_gradient")
def gradient_by_scatter(logits, arms, log_q, alpha, tau_anc):
    z = reshaped_by_numpy(log_q, alpha)
    return -torch.zeros_like(logits).scatter_add(0, arms, z) / (len(arms) * tau_anc)  # a centred z needs no -pi


@style("reinforce_gradient")
def gradient_by_matrix(logits, arms, log_q, alpha, tau_anc):
    scores = torch.eye(len(logits), dtype=logits.dtype)[arms] - logits.softmax(-1)
    return -(reshaped_by_numpy(log_q, alpha) @ scores) / len(arms) / tau_anc


@style("step_length")
def length_by_difference(right, group, alpha, beta_r):
    total = right * math.exp(1 / beta_r) + group - right
    good, bad = math.log(group) + 1 / beta_r - math.log(total), math.log(group) - math.log(total)
    return good - bad if alpha == 0 else (math.exp(alpha * good) - math.exp(alpha * bad)) / alpha


@style("step_length")
def length_by_tensors(right, group, alpha, beta_r):
    rewards = torch.tensor([1.0] * right + [0.0] * (group - right), dtype=torch.float64)
    z = reshaped_by_numpy((rewards / beta_r).log_softmax(-1), alpha)
    return z[0] - z[-1]


@style("play")
def play_by_objective(bandit, draws, alpha, tau_anc, beta_r, lr, updates):
    logits = torch.zeros(bandit.values.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer, seen = torch.optim.SGD([logits], lr=lr), []
    for choice, luck in draws:
        arms = choose_arms(logits, choice)
        rewards = pull_arms(bandit, arms, luck)
        seen.append(rewards.mean())
        old = logits.log_softmax(-1)[arms].detach()[None, :, None]
        for _ in range(updates):
            batch = apo_edu.GroupBatch(
                logps=logits.log_softmax(-1)[arms][None, :, None],
                old_logps=old,
                mask=torch.ones_like(old),
                rewards=rewards[None],
            )
            loss, _ = objectives.apo(batch, alpha=alpha, tau_anc=tau_anc, beta_r=beta_r)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return seen, logits


@style("play")
def play_normalised(bandit, draws, alpha, tau_anc, beta_r, lr, updates):
    policy, seen = torch.zeros(bandit.values.shape[1], dtype=torch.float64).log_softmax(-1), []
    for choice, luck in draws:
        arms = choose_arms(policy, choice)
        rewards, old = pull_arms(bandit, arms, luck), policy
        seen.append(float(rewards.sum()) / len(arms))
        for _ in range(updates):
            log_p = ((policy - old)[arms] / tau_anc).log_softmax(-1)
            coef = apo_edu.alpha_divergence_grad((rewards / beta_r).log_softmax(-1), log_p, alpha) / tau_anc
            step = torch.zeros_like(policy)
            for arm, weight in zip(arms.tolist(), coef, strict=True):
                step[arm] += weight
            policy = (policy - lr * step).log_softmax(-1)  # the coefficients sum to 0, so no term with pi
    return torch.tensor(seen), policy


@style("at_equal_reward")
def compared_by_masks(reward_a, entropy_a, reward_b, entropy_b, level):
    def read(reward, entropy):
        reached = reward >= level
        first = reached & (reached.cumsum(0) == 1)
        return (first * entropy).sum(0), reached.any(0)

    (a, in_a), (b, in_b) = read(reward_a, entropy_a), read(reward_b, entropy_b)
    gap = (b - a)[in_a & in_b]
    return gap.mean(), 2 * gap.std() / gap.numel() ** 0.5


@style("at_equal_reward")
def compared_by_numpy(reward_a, entropy_a, reward_b, entropy_b, level):
    gaps = []
    for ra, ea, rb, eb in zip(*(x.T.numpy() for x in (reward_a, entropy_a, reward_b, entropy_b)), strict=True):
        if ra.max() >= level and rb.max() >= level:
            gaps.append(eb[np.argmax(rb >= level)] - ea[np.argmax(ra >= level)])
    return np.mean(gaps), 2 * np.std(gaps, ddof=1) / np.sqrt(len(gaps))


@style("risk_switch")
def switch_by_newton(safe, win, chance):
    def excess(k):
        return math.log(1 - chance + chance * math.exp(k * win)) - k * safe

    k = 4 * (safe - chance * win) / (chance * (1 - chance) * win * win)  # beyond the root, whose side it is on
    for _ in range(100):
        p = chance * math.exp(k * win)
        k -= excess(k) / (win * p / (p + 1 - chance) - safe)
    return k


@style("risk_switch")
def switch_by_secant(safe, win, chance):
    def excess(k):
        return np.log1p(chance * np.expm1(k * win)) / k - safe

    low, high = (1e-9, 60.0) if chance * win < safe else (-60.0, -1e-9)
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return np.float64(low)


@pytest.mark.parametrize(("name", "answer"), OTHER_STYLES.values(), ids=OTHER_STYLES)
def test_other_right_styles_pass(name, answer):
    for seed in range(4):
        verdicts = judge(A2[name], answer, ADA, fresh=str(seed))
        assert all(verdict.passed for verdict in verdicts), [v.says for v in verdicts if not v.passed]


def test_every_coded_exercise_has_two_other_styles():
    written = [name for name, _ in OTHER_STYLES.values()]
    for exercise in A2.exercises:
        if not exercise.choices and not exercise.value:
            assert written.count(exercise.name) >= 2, exercise.name


# Mistakes as students write them: the same diagnosis as the named one.
TOKENS = "n = mask.sum(-1)\nnow, old = (logps * mask).sum(-1) / n, (old_logps * mask).sum(-1) / n\n"
TARGET = 'log_q = apo_edu.boltzmann_log_target(apo_edu.group_advantages(rewards, scale="none"), beta_r)\n'
SELF_MADE = "log_p = torch.log_softmax({} / tau_anc, -1)\n"
LIBRARY = "log_p = apo_edu.anchored_log_policy({}, {}, tau_anc)\n"
DIVERGENCE = "return apo_edu.alpha_divergence(log_q, log_p, alpha)"
Z = "w = log_q + math.log(len(log_q))\nz = w if alpha == 0 else torch.expm1(alpha * w) / alpha\n"
SCORE = """g = torch.zeros_like(logits)
for zi, a in zip(z, arms):
    s = -logits.softmax(-1)
    s[a] += 1
    g -= zi * s
"""
ADVANTAGE = "a = rewards - rewards.mean(-1, keepdim=True)\nreturn {} if scale == 'group' else a"
LENGTH = "M = (right * math.exp(1 / beta_r) + group - right) / group\n"
PAIRS = """
gaps = []
for run in range(reward_a.shape[1]):
    at_a, at_b = ((x[:, run] >= level).nonzero() for x in (reward_a, reward_b))
    if len(at_a) and len(at_b):
        gaps.append(entropy_b[at_b[0, 0], run] - entropy_a[at_a[0, 0], run])
gaps = torch.stack(gaps)
return gaps.mean(), 2 * gaps.std() / len(gaps) ** 0.5
"""
BISECTION = """
low, high = LOW, 60.0
for _ in range(MANY):
    kappa = (low + high) / 2
    rise = math.log1p(chance * math.expm1(kappa * win)) - kappa * safe
    low, high = (kappa, high) if rise OVER < 0 else (low, kappa)
return low
"""
LOOP = """
logits = torch.zeros(bandit.values.shape[1], dtype=torch.float64, requires_grad=True)
seen = []
for choice, luck in draws:
    arms = choose_arms(logits, choice)
    rewards = pull_arms(bandit, arms, luck)
    seen.append(rewards.mean())
    old = logits.log_softmax(-1)[arms].detach()
    log_q = apo_edu.boltzmann_log_target(rewards, beta_r)
    for _ in range(updates):
        log_p = torch.log_softmax((logits.log_softmax(-1)[arms] - old) / tau_anc, -1)
        gradient = torch.autograd.grad(apo_edu.alpha_divergence(log_q, log_p, alpha), logits)[0]
        logits = (logits - lr * gradient).detach().requires_grad_()
return seen, logits
"""
WRONG = [
    ("group_advantages", "brackets missing", ADVANTAGE.format("a / rewards.std(-1, keepdim=True) + 1e-4")),
    ("group_advantages", "unit length", ADVANTAGE.format("a / (a.norm(dim=-1, keepdim=True) + 1e-4)")),
    ("group_advantages", "standard deviation over prompts", ADVANTAGE.format("a / (a.std(0, keepdim=True) + 1e-4)")),
    ("group_advantages", "changes its input", "rewards -= rewards.mean(-1, keepdim=True)\nreturn rewards"),
    ("boltzmann_log_target", "cut off", "return (torch.softmax(advantages.detach() / beta_r, -1) + 1e-12).log()"),
    ("boltzmann_log_target", "cut off", "return torch.log_softmax((advantages.detach() / beta_r).clamp(-50, 50), -1)"),
    ("anchored_log_policy", "anchor not masked", "l = (token_logps * mask).sum(-1) / mask.sum(-1)\n"
     "return torch.log_softmax((l - ref_token_logps.detach().mean(-1)) / tau_anc, -1)"),
    ("apo_loss", "anchor not detached", TOKENS + TARGET + SELF_MADE.format("(now - old)") + DIVERGENCE + ".mean()"),
    ("apo_loss", "policy and anchor exchanged", TOKENS + TARGET + SELF_MADE.format("(old.detach() - now)") + DIVERGENCE
     + ".mean()"),
    ("apo_loss", "exchanged, and detached", TOKENS + TARGET + LIBRARY.format("old", "now") + DIVERGENCE + ".mean()"),
    ("apo_loss", "no mean over prompts", TOKENS + TARGET + LIBRARY.format("now", "old") + DIVERGENCE),
    ("apo_loss", "anchor ignored", TOKENS + TARGET + SELF_MADE.format("now") + DIVERGENCE + ".mean()"),
    ("apo_loss", "scaled advantages", TOKENS + TARGET.replace("scale=", "") + LIBRARY.format("now", "old") + DIVERGENCE
     + ".mean()"),
    ("apo_loss", "no limits", TOKENS + TARGET + SELF_MADE.format("(now - old.detach())")
     + "return ((1 - (alpha * log_q + (1 - alpha) * log_p).exp().sum(-1)) / (alpha * (1 - alpha))).mean()"),
    ("reshaped_advantage", "an early switch to the limit", Z.replace("alpha == 0", "abs(alpha) < 1e-4")
     .replace("len(log_q)", "log_q.shape[-1]") + "return z - z.mean(-1, keepdim=True)"),
    ("reshaped_advantage", "groups for P", Z + "return z - z.mean(-1, keepdim=True)"),
    ("reinforce_gradient", "mean under pi", Z + "z = z - (logits.softmax(-1)[arms] * z).sum()\n" + SCORE
     + "return g / (len(arms) * tau_anc)"),
    ("reinforce_gradient", "autograd", "with torch.enable_grad():\n    u = logits.clone().requires_grad_()\n"
     "    l = u.log_softmax(-1)[arms]\n    log_p = ((l - l.detach()) / tau_anc).log_softmax(-1)\n"
     "    s = (log_p.exp() * (log_p - log_q)).sum() if alpha == 0 else (alpha * log_q + (1 - alpha) * log_p).exp().sum()\n"
     "    return torch.autograd.grad(s if alpha == 0 else (1 - s) / (alpha * (1 - alpha)), u)[0]"),
    ("reinforce_gradient", "arms for draws", Z + "z = z - z.mean()\n" + SCORE + "return g / (len(logits) * tau_anc)"),
    ("step_length", "the limit is that of alpha = 1", LENGTH + "alpha = alpha or 1.0\n"
     "return math.expm1(alpha / beta_r) / (alpha * M**alpha)"),
    ("step_length", "z of a right completion", LENGTH + "z = 1 / beta_r - math.log(M)\n"
     "return z if alpha == 0 else math.expm1(alpha * z) / alpha"),
    ("play", "anchor not detached", LOOP.replace("[arms].detach()", "[arms]")
     .replace("logits)[0]", "logits, retain_graph=True)[0]")),
    ("play", "luck exchanged", LOOP.replace("for choice, luck", "for luck, choice")),
    ("play", "probabilities in the softmax", LOOP.replace("logits.log_softmax(-1)[arms]", "logits.softmax(-1)[arms]")),
    ("play", "Adam", LOOP.replace("seen = []", "seen = []\noptimizer = torch.optim.Adam([logits], lr=lr)")
     .replace("gradient = torch.autograd.grad(", "optimizer.zero_grad(); (").replace(", logits)[0]", ").backward()")
     .replace("logits = (logits - lr * gradient).detach().requires_grad_()", "optimizer.step()")),
    ("at_equal_reward", "number of all runs", PAIRS.replace("len(gaps) ** 0.5", "reward_a.shape[1] ** 0.5")),
    ("at_equal_reward", "never reached counted as 0", PAIRS.replace("gaps = torch.stack",
     "    else:\n        gaps.append(torch.zeros(()).double())\ngaps = torch.stack")),
    ("at_equal_reward", "a's step for both", PAIRS.replace("entropy_b[at_b", "entropy_b[at_a")),
    ("risk_switch", "the end of the bracket", BISECTION.replace("LOW", "-60.0").replace("OVER", "").replace("MANY", "200")),
    ("risk_switch", "never negative", BISECTION.replace("LOW", "1e-9").replace("OVER", "").replace("MANY", "200")),
    ("risk_switch", "three digits", BISECTION.replace("LOW", "-61.0").replace("OVER", "/ kappa").replace("MANY", "22")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "mistake", "body"), WRONG, ids=[f"{name}-{mistake}" for name, mistake, _ in WRONG])
def test_mistakes_as_students_write_them(name, mistake, body):
    head = ", ".join(inspect.signature(A2[name].solution).parameters)
    names = {"torch": torch, "math": math, "apo_edu": apo_edu, "choose_arms": choose_arms, "pull_arms": pull_arms}
    exec(f"def answer({head}):\n" + "\n".join(f"    {line}" for line in body.strip().splitlines()), names)
    verdicts = [verdict for verdict in judge(A2[name], names["answer"], ADA) if not verdict.passed]
    assert verdicts and {verdict.mistake for verdict in verdicts} == {mistake}, [(v.mistake, v.says) for v in verdicts]


@pytest.mark.parametrize("number", range(20))
def test_every_run_reaches_the_level_or_is_told_apart(number):
    student = Student(f"level {number}", "test")
    for check in A2["at_equal_reward"].checks:
        for reward_a, _, reward_b, _, level in check.cases(student.generator(f"at_equal_reward.{check.name}"), {}):
            reached = torch.stack([(reward >= level).any(0) for reward in (reward_a, reward_b)])
            if check.name == "some":  # only a, only b, and both
                assert {(True, True), (True, False), (False, True)} <= {tuple(run) for run in reached.T.tolist()}
            else:
                assert reached.all()


def test_the_anchor_gets_no_gradient_from_the_reference():
    check = next(check for check in A2["apo_loss"].checks if check.name == "anchor")
    for logps, old_logps, *rest in check.cases(torch.Generator().manual_seed(0), {}):
        A2["apo_loss"].solution(logps.requires_grad_(), old_logps.requires_grad_(), *rest).backward()
        assert logps.grad.abs().sum() > 0 and old_logps.grad is None


def test_the_library_is_called_as_the_text_says():
    """The second argument of the library's group_advantages is the baseline: the text warns of it."""
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.0]]).double()
    expected = A2["group_advantages"].solution(rewards, "none")
    torch.testing.assert_close(apo_edu.group_advantages(rewards, scale="none"), expected)
    assert not torch.allclose(apo_edu.group_advantages(rewards, "none"), expected)
    assert 'apo_edu.group_advantages(rewards, scale="none")' in A2["apo_loss"].text


def test_the_comparison_is_quick_and_says_what_is_there(capsys):
    solution = A2["at_equal_reward"].solution
    show_equal_reward(solution, 4, 0.7, 40)  # fonts and first calls
    capsys.readouterr()
    started = time.process_time()
    show_equal_reward(solution, 4, 0.7, 40)
    assert time.process_time() - started < 2.0
    said = capsys.readouterr().out
    assert "at equal step (40):      +0.080 +- 0.028" in said and "at equal reward (0.7):  -0.002 +- 0.013" in said


def test_plain_descent_imports_no_compiler():
    code = "import sys; from toys import bandits; bandits.run(bandits.equal_arms(), bandits.Loop(num_steps=2), seeds=2)"
    code += "; print('torch._dynamo' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize("name", ["apo_loss", "reshaped_advantage", "reinforce_gradient", "step_length", "play"])
@pytest.mark.parametrize("other", [lambda a: a + 1e-4, lambda a: 0.9999 * a + 2e-5, lambda a: 1 - a, lambda a: a * a])
def test_the_right_answer_for_another_alpha_fails(name, other):
    right = A2[name].solution
    place = list(inspect.signature(right).parameters).index("alpha")

    def answer(*case):
        return right(*case[:place], other(case[place]), *case[place + 1 :])

    assert not judge(A2[name], answer, ADA)[0].passed


def test_a_stub_is_not_blamed():
    for exercise in A2.exercises:
        verdicts = judge(exercise, None if exercise.value else lambda *case: None, ADA)
        assert not {verdict.mistake for verdict in verdicts} & {mistake.name for mistake in exercise.mistakes}
        assert all("nothing was written here" in verdict.says for verdict in verdicts)


def test_calling_an_objective_where_the_loss_is_to_be_written_fails():
    def answer(logps, old_logps, mask, rewards, alpha, tau_anc, beta_r):
        batch = apo_edu.GroupBatch(logps=logps, old_logps=old_logps, mask=mask, rewards=rewards)
        return objectives.apo(batch, alpha=alpha, tau_anc=tau_anc, beta_r=beta_r)[0]

    assert {verdict.mistake for verdict in judge(A2["apo_loss"], answer, ADA)} == {"calls the library"}


def test_a_message_shows_where_it_differs():
    reference = A2["group_advantages"].solution

    def answer(rewards, scale):
        changed = reference(rewards, scale)
        changed[1, 2] += 1.0
        return changed

    assert "at [1, 2], expected" in judge(A2["group_advantages"], answer, ADA)[0].says


def test_ones_own_numbers_are_not_given_away():
    exercise = A2["measured_switch"]
    shares, crossing, predicted = exercise.solution(**ADA.numbers(exercise))
    for answer in ((shares, 0.123, 0.456), ([0.1] * 5 + [0.9], crossing, 0.456), ([s / 3 for s in shares], 0.1, 0.2)):
        for verdict in judge(exercise, answer, ADA):
            assert verdict.passed or not any(f"{x:.3g}"[1:] in verdict.says for x in (crossing, predicted))
            assert "expected" not in verdict.says


def test_the_switch_by_hand():
    # An arm that pays 0.5 against 1 with probability 0.4: 0.6 + 0.4 x^2 = x, x = e^(k/2), has the roots 1 and 3/2.
    assert A2["risk_switch"].solution(0.5, 1.0, 0.4) == pytest.approx(2 * math.log(1.5), rel=1e-12)
    # The mirror image: win - R has its switch at minus kappa.
    assert A2["risk_switch"].solution(0.5, 1.0, 0.6) == pytest.approx(-2 * math.log(1.5), rel=1e-12)


def test_the_step_lengths_are_those_of_the_objective():
    # |gradient| of a prompt solved once in 8 over that of one solved 7 times: ((7 e + 1)/(e + 7))^alpha, e = exp(1/0.3).
    length = A2["step_length"].solution
    for alpha, ratio in ((0.0, 1.0), (0.35, 1.8309), (0.9, 4.7364)):
        assert length(1, 8, alpha, 0.3) / length(7, 8, alpha, 0.3) == pytest.approx(ratio, rel=1e-4)
        for right in (1, 3, 7):
            rewards = (torch.arange(8) < right).double()[None]
            zeros = torch.zeros(1, 8, 1, dtype=torch.float64)
            batch = apo_edu.GroupBatch(logps=zeros, old_logps=zeros, mask=torch.ones_like(zeros), rewards=rewards)
            coef, _, _ = objectives.coefficients(objectives.apo, batch, alpha=alpha, tau_anc=0.5, beta_r=0.3)
            expected = -length(right, 8, alpha, 0.3) * (rewards - rewards.mean()) / (8 * 0.5)
            torch.testing.assert_close(coef[..., 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("right", "says"), [(1, "the same direction, longer"), (7, "the same direction, shorter")])
def test_the_prediction_about_one_prompt(right, says):
    length = A2["step_length"].solution
    for beta_r in (0.25, 0.3, 0.35):
        assert A2["stretch"].solution(right, 8, beta_r) == says
        assert (length(right, 8, 0.9, beta_r) > length(right, 8, 0.35, beta_r)) == (right == 1)


@pytest.mark.parametrize("good", [3, 4, 6])
def test_what_looks_like_coverage_is_speed(good):
    """What the reveal and the model answer say: 0.06 to 0.16 at equal step, at most 0.01 at equal reward."""
    loop, solution = bandits.Loop(num_steps=STEPS, closed_form=True), A2["at_equal_reward"].solution
    a, b = bandits.sweep(bandits.equal_arms(num_good=good), (0.2, 0.9), loop, seeds=400, snapshots=2).values()
    assert 0.055 < float((b.entropy - a.entropy)[40].mean()) < 0.165
    for level in (0.6, 0.64, 0.68, 0.72, 0.76, 0.8):
        mean, width = solution(a.expected_reward, a.entropy, b.expected_reward, b.entropy, level)
        assert -0.0025 < mean < 0.0105 and width < 0.0085
        few = [x[:, :100] for x in (a.expected_reward, a.entropy, b.expected_reward, b.entropy)]  # as students see it
        assert (few[0] >= level).any(0).all() and (few[2] >= level).any(0).all()
        mean, width = solution(*few, level)
        assert abs(mean) < width


def test_numbers_in_the_model_answers():
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.2]]).double()
    best = [
        float(apo_edu.boltzmann_log_target(apo_edu.group_advantages(k * rewards, scale=scale), 0.3).exp()[0, 0])
        for scale in ("group", "none")
        for k in (1.0, 0.01)
    ]
    assert best == pytest.approx([0.97, 0.97, 0.77, 0.25], abs=0.007)
    length = A2["step_length"].solution
    for beta_r in (0.25, 0.3, 0.35):
        assert length(1, 8, 0.9, beta_r) / length(1, 8, 0.35, beta_r) == pytest.approx(1.5, abs=0.05)


def test_the_measured_switch_is_near_the_predicted_one():
    for safe, chance, beta_r, first_seed in GAMBLES[:: len(GAMBLES) // 4]:
        shares, crossing, predicted = A2["measured_switch"].solution(
            safe, chance, beta_r, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), first_seed
        )
        assert shares[0] < 0.1 and shares[-1] > 0.9
        assert crossing == pytest.approx(predicted, rel=0.15)
        assert predicted == pytest.approx(beta_r * A2["risk_switch"].solution(safe, 1.0, chance), rel=1e-9)


UNDETACHED = """
def boltzmann_log_target(advantages, beta_r):
    return torch.log_softmax(advantages / beta_r, dim=-1)
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "win32", reason="grading needs fork")
def test_a_submission_is_graded(tmp_path):
    book = solved(A2, "ada", boltzmann_log_target=UNDETACHED, play=None)
    result = grade(A2, Submission("ada", save(book, tmp_path / "a2.ipynb")), variant=VARIANT)
    assert not result.troubles and result.score == automatic(A2) - 1 - A2["play"].points
    lost = {item.name: item.mistake for item in result.items if item.score is not None and item.score < item.max_score}
    assert lost.pop("boltzmann_log_target.constant") == "carries a gradient"
    assert set(lost) == {"play.one", "play.several"}


def test_time_and_points():
    assert 165 <= A2.minutes <= 200
    assert sum(exercise.points for exercise in A2.exercises) > 2 * (
        A2.points - sum(exercise.points for exercise in A2.exercises)
    )
