"""What a person might say of a scene: many phrasings of the same facts, some of one word, some nothing at all."""

from __future__ import annotations

import re
from random import Random

from canvas.storybook.props import COLORS
from canvas.storybook.vocabulary import CONCEPTS, STYLES, SYNONYMS, TIMES
from canvas.storybook.world import Scene, Thing

STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "paper": ("paper-cut", "cut paper", "papercut"),
    "watercolour": ("watercolour", "soft watercolour", "watercolor", "aquarelle"),
    "glow": ("glowing", "luminous", "glow"),
    "ink": ("ink", "ink drawing", "line drawing"),
}
STYLE_NOUNS = ("picture", "illustration", "scene", "painting")
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("in the daytime", "by day", "under a blue sky", "at noon", "on a bright day"),
    "sunset": ("at sunset", "at dusk", "in the evening", "at sundown", "in the golden hour"),
    "night": ("at night", "by night", "at midnight", "in the dark", "at nighttime"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "rain": ("in the rain", "on a rainy day", "with rain", "rain"),
    "snowfall": ("in the snow", "while it is snowing", "with snowfall", "with snowflakes"),
    "fog": ("in the fog", "in the mist", "with fog", "in the haze"),
    "stars": ("under the stars", "with stars", "under a starry sky"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "sea": ("by the sea", "on the coast", "at the seaside", "by the ocean", "sea"),
    "lake": ("by a lake", "at the lake", "beside a pond", "lake"),
    "river": ("by a river", "beside a stream", "along the river", "river"),
    "meadow": ("in a meadow", "in the hills", "in a green field", "on a hill", "meadow"),
    "desert": ("in the desert", "among sand dunes", "desert", "in the dunes"),
    "mountains": ("in the mountains", "below the mountains", "mountains"),
}
NUMBERS = {
    1: ("a", "one", "a"),
    2: ("two", "two", "a pair of"),
    3: ("three", "three", "some"),
    4: ("four", "several", "many"),
}
UNCOUNTED = {"wheat", "fish", "sheep"}
PLURALS = {"cactus": "cacti", "pine": "pines", "fish": "fish", "sheep": "sheep", "wheat": "wheat"}
SINGLE_ONLY = ("sun", "moon", "rainbow", "waterfall", "road")
SYNONYM_NOUNS: dict[str, tuple[str, ...]] = {
    "pine": ("pine", "pine tree", "fir", "spruce"), "tree": ("tree", "oak", "leafy tree"), "palm": ("palm", "palm tree"),
    "house": ("house", "cottage", "cabin"), "castle": ("castle", "castle", "fortress"), "windmill": ("windmill", "mill"),
    "boat": ("boat", "sailboat", "ship", "sailing boat"), "balloon": ("balloon", "hot-air balloon"), "bird": ("bird", "gull", "seagull"),
    "campfire": ("campfire", "bonfire", "fire"), "street lamp": ("street lamp", "lantern", "lamp"), "flower": ("flower", "blossom"),
    "mountain": ("mountain", "peak"), "road": ("road", "lane", "path"), "lighthouse": ("lighthouse", "beacon"), "sheep": ("sheep",),
    "waterfall": ("waterfall", "cascade"), "car": ("car", "car", "automobile"), "bridge": ("bridge", "stone bridge"),
}  # fmt: skip


def _plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    return noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")


def _noun_phrase(thing: Thing, rng: Random) -> str:
    noun = rng.choice(SYNONYM_NOUNS.get(thing.name, (thing.name,)))
    usual = thing.color == COLORS.get(thing.name, ("",))[0]
    color = f"{thing.color} " if thing.color and (not usual or rng.random() < 0.2) else ""
    if thing.name in ("sun", "moon") and rng.random() < 0.6:
        return f"the {color}{noun}"
    count = 1 if thing.name in SINGLE_ONLY else min(thing.count, 4)
    if count == 1 and thing.name != "wheat":
        article = "a"
        word = color or noun
        if word[0] in "aeiou":
            article = "an"
        number = rng.choice((article, article, article, "one" if thing.name not in SINGLE_ONLY else article))
        phrase = f"{number} {color}{noun}"
    elif thing.name == "wheat":
        phrase = rng.choice(("wheat", "golden wheat", "a field of wheat", "stands of wheat"))
    else:
        phrase = f"{rng.choice(NUMBERS[count])} {color}{_plural(noun)}"
    if thing.lit and rng.random() < 0.5:
        phrase += rng.choice((" with lit windows", " with glowing windows"))
    if thing.count == 1 and rng.random() < 0.28:
        side = "left" if thing.x < 0.36 else "right" if thing.x > 0.64 else "middle"
        phrase += rng.choice((f" on the {side}", f" on the {side}")) if side != "middle" else " in the middle"
    return phrase


def caption(scene: Scene, rng: Random) -> str:
    """One caption of a scene: up to about 24 words, lower case, no full stop; one in twenty is empty."""
    roll = rng.random()
    things = [t for t in scene.things if t.name != "cloud" or rng.random() < 0.5]
    if roll < 0.05:
        return ""
    if roll < 0.15:
        words = [t.name for t in things] + [scene.setting.rstrip("s"), scene.time, *scene.weather]
        word = rng.choice(words)
        phase = next((t.color for t in things if t.name == "moon"), "")
        synonyms = [s for s in SYNONYMS.get(word, ()) if " " not in s and (s != "crescent" or phase == "crescent")]
        return rng.choice(synonyms) if synonyms and rng.random() < 0.35 else word
    rng.shuffle(things)
    named = things[: rng.choice((1, 2, 2, 3, 3, 4))]
    behind = next((t for t in named if t.name == "mountain"), None) if len(named) > 1 else None
    front = [t for t in named if t is not behind]
    phrases = [_noun_phrase(t, rng) for t in front]
    subject = " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1] if phrases else ""]))
    if behind:
        mountains = _noun_phrase(behind, rng)
        subject += rng.choice((f" in front of {mountains}", f" with {mountains} behind", f" below {mountains}"))
    parts = [subject] if subject else []
    if rng.random() < 0.6 or not parts:
        parts.append(rng.choice(PLACES[scene.setting]))
    if rng.random() < (0.6 if scene.time == TIMES[0] else 0.9):
        parts.append(rng.choice(TIME_WORDS[scene.time]))
    for kind in scene.weather:
        if rng.random() < 0.8:
            parts.append(rng.choice(WEATHER_WORDS[kind]))
    bare = any(part in ("sea", "lake", "river", "meadow", "desert", "mountains", "rain") for part in parts[1:])
    text = ", ".join(parts) if bare or rng.random() < 0.2 else " ".join(parts)
    if rng.random() < (0.3 if scene.style == STYLES[0] else 1.0):
        style = rng.choice(STYLE_WORDS[scene.style])
        noun = rng.choice(STYLE_NOUNS)
        article = "an" if style[0] in "aeiou" else "a"
        text = rng.choice(
            (
                f"{text}, {style}",
                f"{text}, {style} style",
                f"{style} {noun} of {text}",
                f"{article} {style} {noun} of {text}",
            )
        )
        text = text.replace("drawing painting", "drawing").replace("drawing illustration", "drawing").replace("drawing picture", "drawing").replace("drawing scene", "drawing")  # fmt: skip
    return text


def _phrases() -> dict[str, str]:
    """Every phrase of a caption that names a concept, and the concept."""
    found = {phrase: "mountain" if place == "mountains" else place for place, said in PLACES.items() for phrase in said}
    for table in (TIME_WORDS, WEATHER_WORDS, STYLE_WORDS, SYNONYMS):
        found |= {phrase: concept for concept, said in table.items() for phrase in said}
    for concept in CONCEPTS:
        for noun in (concept, *SYNONYM_NOUNS.get(concept, ())):
            found |= {noun: concept, _plural(noun): concept}
    return found | {"glowing windows": "lit window", "lit windows": "lit window"}


_PHRASES = _phrases()
_NAMED = re.compile(r"\b(" + "|".join(map(re.escape, sorted(_PHRASES, key=len, reverse=True))) + r")\b")


def named(text: str) -> tuple[str, ...]:
    """The concepts that a caption names, in the order of the vocabulary."""
    found = {_PHRASES[phrase] for phrase in _NAMED.findall(text)}
    return tuple(concept for concept in CONCEPTS if concept in found)
