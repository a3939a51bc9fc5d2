"""The questions of lesson 00."""

from .asking import Question

QUESTIONS = {
    "kernel": Question(
        "You shut the kernel down (Kernel, Shut Down) and leave this page open. What does the slider above do?",
        {
            "it still moves the picture": "Yes: a film strip's pictures were all drawn beforehand and sent once. Try "
            "it; restart the kernel afterwards.",
            "it moves, but the picture stays": "That is what a live canvas does, the other kind of slider, from lesson "
            "03 on: it asks the kernel for every picture.",
            "it disappears": "Not while the page is open. After you closed and opened the notebook, you see the saved "
            "still pictures until its cell runs again.",
        },
        answer="it still moves the picture",
    )
}

SELF_TEST = [
    (
        "Does a film strip need the kernel after its cell ran?",
        "No. All its pictures were drawn beforehand and sent once; only live canvases ask the kernel.",
    ),
    (
        "Which end of alpha is the forward KL(q || p), and which colour has it?",
        "alpha = 1, orange. It covers modes: it grows without bound where p forgets something that q has.",
    ),
    (
        "What do you see on GitHub in place of a slider?",
        "Still pictures at several values, each with its sentence: the picture's twin.",
    ),
]
