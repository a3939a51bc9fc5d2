"""Colours and style shared by every figure of the project, as plain data: no plotting library is imported here.

alpha always has the same colour map, from deep violet (0, mode seeking) to orange (1, mode covering). Its lightness rises
steadily, so it survives grey print, and it is legible to the colour blind; lines also differ in style.
"""

# Okabe and Ito's eight colours, told apart by all common kinds of colour blindness.
BLACK, ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip

# What is drawn in the same colour everywhere.
TARGET, POLICY, REWARD, WARNING = BLACK, BLUE, GREEN, VERMILION
# What has no colour of its own.
NEUTRAL = "#7F7F7F"

# Anchors of the alpha colour map at equal distances over [0, 1].
ALPHA_COLORS = ("#2A0A5E", "#6A1B8A", "#A5317F", "#D5505F", "#F07F3C", "#F9B233")


def alpha_color(alpha: float) -> str:
    """The colour of an order alpha as "#rrggbb"; orders outside [0, 1] take the colour of the nearest end.

    >>> alpha_color(0.0), alpha_color(0.5)
    ('#2a0a5e', '#bd406f')
    """
    position = min(max(alpha, 0.0), 1.0) * (len(ALPHA_COLORS) - 1)
    left = min(int(position), len(ALPHA_COLORS) - 2)
    ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in ALPHA_COLORS[left : left + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (position - left)):02x}" for a, b in zip(*ends, strict=True))


# Settings for matplotlib's rc_context.
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
