"""The models known by name: where their parts come from, and what they are run with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from sae.errors import FeaturebrushError


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a painting's None stands for, and the model's size."""

    steps: int
    guidance: float
    size: int
    """Height and width of its pictures in pixels."""


@dataclass(frozen=True)
class Known:
    """A model known by name."""

    source: str
    """a folder, or the id of a repository on the Hugging Face hub"""
    title: str
    """what it is, in a line"""
    parameters: float
    """in billions, of all its networks"""
    defaults: Defaults | None = None
    """None: its folder says"""
    saes: str = ""
    """the id of a repository with SAEs for it, or "" """
    blocks: Mapping[str, str] = field(default_factory=dict)
    """by block, the folder in that repository"""
    sketcher: str = ""
    """the id of a repository with a small decoder for drafts, an ``AutoencoderTiny`` of the same latents, or "" """

    def memory_on(self, device: str) -> str:
        """What its weights take on a device of that type (``cuda``, ``cpu``), in words."""
        half = device == "cuda" and self.defaults is not None
        gib = self.parameters * 1e9 * (2 if half else 4) / 2**30
        size = f"{gib:.1f} GiB" if gib >= 1 else f"{1024 * gib:.0f} MiB"
        return f"{size} of weights in {'float16' if half else 'float32'}"


_UNBOX = MappingProxyType(
    {
        "down.2.1": "unet.down_blocks.2.attentions.1_k10_hidden5120_auxk256_bs4096_lr0.0001",
        "mid.0": "unet.mid_block.attentions.0_k10_hidden5120_auxk256_bs4096_lr0.0001",
        "up.0.0": "unet.up_blocks.0.attentions.0_k10_hidden5120_auxk256_bs4096_lr0.0001",
        "up.0.1": "unet.up_blocks.0.attentions.1_k10_hidden5120_auxk256_bs4096_lr0.0001",
    }
)
"""The published dictionaries of SDXL-Turbo (Surkov et al., 2410.22366), which fit SDXL's own activations too."""

_TAESD, _TAESDXL = "madebyollin/taesd", "madebyollin/taesdxl"
"""Small decoders of Stable Diffusion's latents and of SDXL's, https://github.com/madebyollin/taesd."""

REGISTRY: Mapping[str, Known] = MappingProxyType(
    {
        "storybook": Known(
            str(Path(__file__).resolve().parents[1] / "assets" / "storybook"),
            "the embedded model: small, picture-book scenes, at home on a CPU",
            0.006,
        ),
        "sdxl-turbo": Known(
            "stabilityai/sdxl-turbo", "SDXL-Turbo, 1 to 4 steps, 512 pixels", 3.47, Defaults(1, 0.0, 512),
            "surokpro2/sdxl-saes", _UNBOX, _TAESDXL,
        ),
        "sdxl": Known(
            "stabilityai/stable-diffusion-xl-base-1.0", "SDXL, 25 steps with guidance, 1024 pixels", 3.47,
            Defaults(25, 5.0, 1024), "surokpro2/sdxl-saes", _UNBOX, _TAESDXL,
        ),
        "sd-turbo": Known(
            "stabilityai/sd-turbo", "SD-Turbo, 1 to 4 steps, 512 pixels", 1.29, Defaults(1, 0.0, 512), sketcher=_TAESD
        ),
        "sd15": Known(
            "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 1.5, 25 steps, 512 pixels", 1.07,
            Defaults(25, 7.5, 512), sketcher=_TAESD,
        ),
    }
)  # fmt: skip

_BLOCK = re.compile(r"(?P<name>(?:down|up)\.\d+\.\d+|mid\.\d+)")
_MODULE = re.compile(r"unet\.(?P<kind>down|mid|up)_blocks?(?:\.(?P<i>\d+))?\.attentions\.(?P<j>\d+)(?:_.*)?")
_CONFIGURATIONS = ("cfg.json", "config.json")


def block_of(folder: str) -> str | None:
    """The block for which a folder of that name holds an SAE: ``down.2.1``, or ``unet.down_blocks.2.attentions.1_k10…``
    as published; None for other names."""
    if found := _BLOCK.fullmatch(folder):
        return found["name"]
    if found := _MODULE.fullmatch(folder):
        return ".".join(part for part in (found["kind"], found["i"], found["j"]) if part is not None)
    return None


def find_saes(root: str | Path) -> dict[str, Path]:
    """The folders of the SAEs in ``root``, by block, in the order of their names.

    A block's SAE lies in a folder that `block_of` knows, or in the folder ``final`` in it. Raises
    ``FeaturebrushError`` if there is none, or two for one block.
    """
    if not Path(root).is_dir():
        raise FeaturebrushError(f"there is no folder {root} with SAEs")
    found: dict[str, Path] = {}
    for folder in sorted(path for path in Path(root).iterdir() if path.is_dir()):
        block = block_of(folder.name)
        for place in (folder, folder / "final"):
            if block and any((place / name).is_file() for name in _CONFIGURATIONS):
                if block in found:
                    raise FeaturebrushError(f"{root} holds two SAEs for {block}: {found[block]} and {place}")
                found[block] = place
                break
    if not found:
        raise FeaturebrushError(
            f"{root} holds no SAE: expected folders named after blocks, as down.2.1 or "
            "unet.down_blocks.2.attentions.1_…, with a cfg.json or config.json in them or in their folder final"
        )
    return found
