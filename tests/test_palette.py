"""The colours: one map for alpha, rising in lightness, ends where they should be."""

from apo_edu import palette


def lightness(color: str) -> float:
    """Rec. 709 luma of "#rrggbb", in [0, 1]."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_alpha_colors_rise_in_lightness_and_end_at_the_anchors():
    colors = [palette.alpha_color(i / 40) for i in range(41)]
    values = [lightness(color) for color in colors]
    assert values == sorted(values)
    assert colors[0].upper() == palette.ALPHA_COLORS[0]
    assert colors[-1].upper() == palette.ALPHA_COLORS[-1]
    assert palette.alpha_color(-1.0) == colors[0]
    assert palette.alpha_color(2.0) == colors[-1]
