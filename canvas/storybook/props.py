"""The props of a scene: where each thing belongs, how large and wide it is, what colours and numbers it comes in."""

from __future__ import annotations

from collections.abc import Callable

from canvas.storybook import made, nature

SETTINGS: dict[str, float] = {"sea": 1.0, "lake": 0.8, "river": 0.8, "meadow": 1.0, "desert": 0.8, "mountains": 0.7}
WHERE: dict[str, tuple[str, ...]] = {
    "boat": ("sea", "sea", "lake"),
    "fish": ("sea", "lake"),
    "lighthouse": ("sea",),
    "palm": ("sea", "desert"),
    "cactus": ("desert",),
    "bridge": ("river",),
    "waterfall": ("river", "lake"),
    "pine": ("mountains", "lake", "meadow", "river"),
    "car": ("meadow", "desert", "mountains"),
    "street lamp": ("meadow", "sea", "mountains"),
    "mountain": ("mountains", "lake", "river"),
    "campfire": ("desert", "meadow", "mountains", "sea"),
    "castle": ("meadow", "mountains", "sea", "lake", "desert"),
    **dict.fromkeys(("tree", "flower", "wheat", "house", "windmill", "sheep", "cow"), ("meadow", "river", "lake")),
}
"""Settings in which a thing may be the hero; a thing not named here may be anywhere."""
HEIGHTS: dict[str, float] = {
    "pine": 104, "tree": 108, "palm": 122, "cactus": 92, "flower": 50, "wheat": 48, "house": 88, "castle": 128,
    "lighthouse": 138, "windmill": 126, "boat": 104, "car": 58, "fish": 64, "sheep": 56, "cow": 60, "campfire": 62,
    "street lamp": 108,
}  # fmt: skip
WIDTHS: dict[str, float] = {
    "pine": 0.5, "tree": 0.75, "palm": 0.7, "cactus": 0.6, "flower": 1.7, "wheat": 2.5, "house": 1.25, "castle": 1.1,
    "lighthouse": 0.34, "windmill": 0.8, "boat": 0.95, "car": 2.2, "fish": 1.1, "sheep": 1.5, "cow": 1.9, "campfire": 1.0,
    "street lamp": 0.3,
}  # fmt: skip
COLORS: dict[str, tuple[str, ...]] = {
    "tree": ("green", "golden", "red", "pink"), "flower": tuple(nature.PETALS), "sheep": ("white", "black"),
    "cow": ("white", "brown", "black"), "fish": tuple(nature.SCALES), "house": tuple(made.WALLS), "castle": tuple(made.STONES),
    "windmill": ("white", "yellow", "red"), "lighthouse": ("red", "blue"), "boat": tuple(made.PAINTS),
    "balloon": tuple(made.PAINTS), "car": tuple(made.PAINTS), "moon": ("full", "crescent"),
}  # fmt: skip
COUNTS: dict[str, tuple[int, ...]] = {
    "pine": (1, 2, 3), "tree": (1, 1, 2), "cactus": (1, 1, 2), "flower": (1, 1, 2), "wheat": (1, 1, 2), "sheep": (1, 1, 2),
    "cow": (1, 1, 2), "palm": (1, 1, 2), "boat": (1, 1, 1, 2), "house": (1, 1, 1, 2), "street lamp": (1, 1, 2), "fish": (1,),
    "bird": (1, 2, 3), "balloon": (1, 1, 2), "cloud": (1, 1, 2), "mountain": (1, 2, 3),
}  # fmt: skip
EXTRAS: dict[str, dict[str, float]] = {
    "meadow": {"tree": 3, "pine": 1, "flower": 3, "wheat": 1.4, "house": 2, "windmill": 1, "sheep": 2, "cow": 1.6, "castle": 0.7, "campfire": 0.6, "street lamp": 0.5},
    "desert": {"cactus": 4, "palm": 1.5, "campfire": 0.8, "castle": 0.5},
    "beach": {"palm": 4, "campfire": 1, "house": 1, "lighthouse": 1, "castle": 0.4},
    "snow": {"pine": 4, "house": 2, "castle": 0.8, "street lamp": 0.7, "campfire": 0.6},
    "water": {"boat": 3, "fish": 1},
}  # fmt: skip
DRAW: dict[str, Callable[..., None]] = {
    "pine": nature.pine, "tree": nature.tree, "palm": nature.palm, "cactus": nature.cactus, "flower": nature.flower, "wheat": nature.wheat,
    "sheep": nature.sheep, "cow": nature.cow, "fish": nature.fish, "house": made.house, "castle": made.castle, "lighthouse": made.lighthouse,
    "windmill": made.windmill, "boat": made.boat, "car": made.car, "campfire": made.campfire, "street lamp": made.street_lamp,
}  # fmt: skip
LIGHTABLE = {"house", "castle", "lighthouse", "windmill", "car"}
