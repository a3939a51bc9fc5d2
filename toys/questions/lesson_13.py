"""The questions of lesson 13."""

from .asking import Question

QUESTIONS = {
    "tokens": Question(
        "44 + 89. Two of eight completions say 133, six say 123 or 124, each as \\boxed{...}. APO gives every token "
        "of a completion the same coefficient. Which tokens of a right completion does the model learn from most?",
        {
            "all alike, since their coefficients are equal": "The coefficients are. But a token that the model was "
            "sure of cannot become much surer: its logit gets 1 - pi of the push, and \\boxed{ has pi = 0.9999.",
            "the tens digit, where right and wrong part": "Yes: there the model gave the right 3 a probability of "
            "0.45, and 1 - pi is large. Format and end, of which it is sure, get next to nothing.",
            "the last one, where the answer is complete": "No: nothing in the objective knows where an answer ends. "
            "The end has pi = 0.9998.",
        },
        answer="the tens digit, where right and wrong part",
    ),
    "flat": Question(
        "A group of eight wrong answers, all with reward 0. Its samples are four optimiser steps old. GRPO's "
        "advantages are 0, and so is its gradient. APO's coefficients are",
        {
            "0 as well: there is nothing to prefer": "On policy, yes. Here the policy has left the samples' policy, "
            "and the target has not: it is uniform over the group, and p is not.",
            "not 0: they pull the policy back": "Yes: with equal rewards q is uniform, and so was p when the samples "
            "were drawn. Whatever has gained on its group since (p above 1/8) is pushed down, without any reward "
            "having asked for it.",
            "not 0: they push all eight down": "No: the coefficients, times the completions' lengths, add up to 0. "
            "What has gained on the group is pushed down, what has lost is pushed up.",
        },
        answer="not 0: they pull the policy back",
    ),
}

SELF_TEST = [
    (
        "Why are the boxes of \\boxed{ and of the end white, whatever alpha is?",
        "Their tokens have a probability near 1. The push on a sampled token's own logit is -c (1 - pi), and 1 - pi "
        "is 0.0001 to 0.0002 there: format is learned, and takes no part any more.",
    ),
    (
        "Six of eight completions are right. Which get the larger coefficients, the right ones or the wrong ones?",
        "On policy and with equal lengths the wrong ones, three times as large: the coefficients add up to 0, and "
        "six times one number must balance twice the other. A rare event, right or wrong, is heard loudest.",
    ),
    (
        "You double tau_anc on policy. What changes on the screen, and what in the run?",
        "On policy u is 0, so q, p and all colours stay (they are shares of the largest push), and every c is "
        "halved. In the run that is half the step with SGD, and none at all with Adam or a clipped gradient norm.",
    ),
]
