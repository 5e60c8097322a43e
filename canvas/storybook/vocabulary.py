"""What the drawn world holds: its concepts in groups, the words that name them, its styles and times of day."""

from __future__ import annotations

from typing import Final

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "sky": ("day", "sunset", "night", "sun", "moon", "stars"),
    "weather": ("cloud", "rain", "snowfall", "rainbow", "fog"),
    "terrain": ("mountain", "snowcap", "hill", "meadow", "desert", "beach", "road"),
    "water": ("sea", "lake", "river", "waterfall"),
    "plants": ("pine", "tree", "palm", "cactus", "flower", "wheat"),
    "buildings": ("house", "castle", "lighthouse", "windmill", "bridge"),
    "moving": ("boat", "balloon", "car", "bird", "fish", "sheep", "cow"),
    "light": ("campfire", "lit window", "street lamp"),
    "style": ("paper", "watercolour", "glow", "ink"),
}
CONCEPTS: Final[tuple[str, ...]] = tuple(name for names in GROUPS.values() for name in names)
INDEX: Final[dict[str, int]] = {name: i for i, name in enumerate(CONCEPTS)}
STYLES: Final[tuple[str, ...]] = GROUPS["style"]
TIMES: Final[tuple[str, ...]] = ("day", "sunset", "night")

SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "day": ("daytime", "noon", "blue sky"),
    "sunset": ("dusk", "evening", "golden hour", "sundown"),
    "night": ("midnight", "dark", "nighttime"),
    "sun": ("sunshine",),
    "moon": ("crescent", "full moon"),
    "stars": ("starry sky", "star"),
    "cloud": ("clouds", "cloudy"),
    "rain": ("rainy", "shower"),
    "snowfall": ("snow", "snowing", "snowflakes"),
    "rainbow": (),
    "fog": ("mist", "haze"),
    "mountain": ("mountains", "peak", "peaks"),
    "snowcap": ("snowy peak", "snow-capped"),
    "hill": ("hills", "rolling hills"),
    "meadow": ("grass", "field", "pasture"),
    "desert": ("dunes", "sand dunes"),
    "beach": ("sand", "shore", "seaside"),
    "road": ("street", "lane", "path"),
    "sea": ("ocean", "waves", "wave"),
    "lake": ("pond",),
    "river": ("stream", "brook"),
    "waterfall": ("cascade", "falls"),
    "pine": ("fir", "pine tree", "conifer", "spruce"),
    "tree": ("oak", "leafy tree"),
    "palm": ("palm tree",),
    "cactus": ("cacti",),
    "flower": ("flowers", "blossom", "tulip"),
    "wheat": ("grain", "crop"),
    "house": ("cottage", "home", "cabin"),
    "castle": ("fortress", "palace"),
    "lighthouse": ("beacon",),
    "windmill": ("mill",),
    "bridge": ("stone bridge",),
    "boat": ("sailboat", "ship", "sailing boat"),
    "balloon": ("hot-air balloon", "hot air balloon"),
    "car": ("automobile", "motor car"),
    "bird": ("birds", "seagull", "gull"),
    "fish": ("leaping fish",),
    "sheep": ("lamb",),
    "cow": ("cattle",),
    "campfire": ("bonfire", "fire"),
    "lit window": ("glowing window", "window light"),
    "street lamp": ("lamp", "lantern", "street light"),
    "paper": ("paper-cut", "papercut", "cut paper"),
    "watercolour": ("watercolor", "aquarelle"),
    "glow": ("glowing", "luminous", "neon"),
    "ink": ("ink drawing", "line drawing"),
}

OBJECTS: Final[tuple[str, ...]] = (
    "sun", "moon", "cloud", "rainbow", "mountain", "waterfall", "pine", "tree", "palm", "cactus", "flower", "wheat",
    "house", "castle", "lighthouse", "windmill", "bridge", "boat", "balloon", "car", "bird", "fish", "sheep", "cow",
    "campfire", "street lamp",
)  # fmt: skip
"""Concepts that are countable things with an outline, as opposed to stuff, weather, time and style."""
