"""Every kind of model that can be painted with: by name, by folder, with SAEs of ours and as others publish them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from tiny import N_FEATURES, build_pipeline, build_sae, build_xl_pipeline

from canvas import Brush, FeaturebrushError, Mask, Painter, Painting
from canvas import models as models_module
from canvas.engine import Engine
from canvas.registry import REGISTRY, Defaults, Known, block_of, find_saes
from sae.activations import block_input, block_module, block_output
from sae.pipelines import load_pipeline

DISC = Mask.disc(0.4, 0.6, 0.3)
KINDS = {
    "sd": (build_pipeline, ("down.1.0", "mid.0", "up.0.1")),
    "turbo": (build_pipeline, ("down.1.0", "mid.0", "up.0.1")),
    "xl": (build_xl_pipeline, ("down.1.0", "mid.0", "up.0.0")),
}


@pytest.fixture(scope="module", params=KINDS)
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Painter, Any]:
    """A painter with a plain pipeline folder and SAEs beside it, and the pipeline itself."""
    build, blocks = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = build()
    if request.param == "turbo":
        from diffusers import EulerAncestralDiscreteScheduler

        pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(
            pipeline.scheduler.config, timestep_spacing="trailing"
        )
    pipeline.save_pretrained(folder / "model")
    for i, block in enumerate(blocks):
        build_sae(block, seed=i).save(folder / "saes" / block)
    return Painter.load(folder / "model", "cpu", folder / "saes"), load_pipeline(folder / "model")


def plain(painter: Painter, pipeline: Any, painting: Painting, output: str = "pil") -> Any:
    size = painter.defaults.size
    return pipeline(
        painting.prompt, num_inference_steps=painting.steps, guidance_scale=painting.guidance, height=size, width=size,
        generator=torch.Generator("cpu").manual_seed(painting.seed), output_type=output,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize("prompt", ["", "a castle"])
@pytest.mark.parametrize(("steps", "guidance"), [(1, 0.0), (4, 0.0), (1, 3.0), (4, 3.0)])
def test_no_layers_is_the_pipelines_own_picture_bit_for_bit(journey, prompt, steps, guidance) -> None:
    painter, pipeline = journey
    painting = Painting(model=painter.model, prompt=prompt, seed=5, steps=steps, guidance=guidance)
    assert torch.equal(painter.engine.latents(painter.plan(painting))[0], plain(painter, pipeline, painting, "latent"))
    assert painter.render(painting).tobytes() == plain(painter, pipeline, painting).tobytes()


@pytest.mark.parametrize("guidance", [0.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("late", [False, True])
def test_replay_is_the_full_computation_at_every_block(journey, steps, guidance, late) -> None:
    painter, _ = journey
    start = Painting(model=painter.model, prompt="a castle", seed=2, steps=steps, guidance=guidance)
    span = (0.5, 1.0) if late and steps > 1 else (0.0, 1.0)
    for blocks in [*((block,) for block in painter.blocks), painter.blocks]:
        first, second = start, start
        for block in blocks:
            first = first.paint(Brush.feature(block, 3), DISC, 3.0, steps=span)
            second = second.paint(Brush.feature(block, 3), ~DISC, 2.0, steps=span)
        engine = Engine(painter.pipeline)
        one = engine.latents(painter.plan(first))
        replayed = engine.latents(painter.plan(second))
        assert torch.equal(replayed, Engine(painter.pipeline).latents(painter.plan(second))), blocks
        assert not torch.equal(replayed, one), blocks


@pytest.mark.parametrize("steps", [1, 4])
def test_what_is_added_under_guidance_may_be_taken_away_on_the_other_half(journey, steps) -> None:
    """As the published hooks do it: plus on the conditional half, minus on the unconditional one, to the last bit."""
    painter, pipeline = journey
    block = painter.blocks[0]
    bare = Painting(model=painter.model, prompt="a castle", seed=5, steps=steps, guidance=3.0, keep=False)
    painted = bare.paint(Brush.feature(block, 7), DISC, 2.0)
    once, both = (painter.engine.latents(painter.plan(one)) for one in (painted, painted.replace(subtract=True)))
    assert not torch.equal(once, both)
    part = painter.plan(painted).edits[block]

    def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> tuple[Any]:
        o, h = block_output(output), block_input(args, kwargs)
        delta = part.delta(h.chunk(2)[1], o.chunk(2)[1], 0, steps)
        return (o + torch.cat([-delta, delta]),)

    handle = block_module(pipeline.unet, block).register_forward_hook(hook, with_kwargs=True)
    try:
        assert torch.equal(both[0], plain(painter, pipeline, painted, "latent"))
    finally:
        handle.remove()
    unguided = painted.replace(guidance=1.0)
    plain_, other = (painter.engine.latents(painter.plan(one)) for one in (unguided, unguided.replace(subtract=True)))
    assert torch.equal(plain_, other)


def test_a_small_decoder_draws_the_drafts(published, xl_folder, monkeypatch, tmp_path) -> None:
    torch.manual_seed(0)
    vae = load_pipeline(xl_folder).vae
    levels = len(vae.config.block_out_channels)
    AutoencoderTiny(
        latent_channels=vae.config.latent_channels, encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels, num_encoder_blocks=(1,) * levels, num_decoder_blocks=(1,) * levels,
    ).save_pretrained(tmp_path / "small")  # fmt: skip
    blocks = {block: folder.relative_to(published).parts[0] for block, folder in find_saes(published).items()}
    known = Known(str(xl_folder), "tiny", 0.001, Defaults(1, 0.0, 32), "someone/saes", blocks, str(tmp_path / "small"))
    monkeypatch.setattr(models_module, "REGISTRY", {"tiny": known})
    monkeypatch.setattr(models_module, "snapshot_download", lambda *_, **__: str(published))
    painter = Painter.load("tiny", "cpu")
    bare = Painting(model="tiny", seed=3)
    painted = bare.paint(Brush.feature("down.1.0", 7), DISC, 3.0)
    whole, draft = painter.render(painted), painter.draft(painted, bare)
    assert draft.size == whole.size and draft.tobytes() != whole.tobytes()
    assert painter.draft(painted, bare).tobytes() == draft.tobytes() and painter.render(painted) == whole
    monkeypatch.setattr(models_module, "REGISTRY", {"tiny": replace(known, sketcher="someone/not-here")})
    without = Painter.load("tiny", "cpu")
    assert without.draft(painted, bare).tobytes() == whole.tobytes(), "drafts do without"


def test_paintings_are_streamed(journey) -> None:
    painter, _ = journey
    paintings = [
        Painting(model=painter.model, steps=1).paint(Brush.feature(painter.blocks[0], i), DISC, 4.0) for i in range(3)
    ]
    pictures = list(painter.stream(paintings))
    assert pictures[-1].tobytes() == painter.render(paintings[-1]).tobytes()
    assert len(painter.features(painter.blocks[0])) == N_FEATURES


def test_a_name_for_folders_and_what_is_not_said(journey, tmp_path) -> None:
    painter, _ = journey
    assert painter.model == "model"
    assert (painter.concepts, painter.groups, painter.folder) == ((), (), None)
    assert (painter.defaults.steps, painter.defaults.guidance) == (25, 7.5)
    assert painter.defaults.size in (32, 16 * painter.pipeline.vae_scale_factor)
    with pytest.raises(FeaturebrushError, match="unknown concept 'castle'|there are no concepts|castle"):
        painter.concept("castle")


def write_unbox(folder: Path, sae: Any, d: int, n: int) -> None:
    """As the public repositories lay a dictionary out."""
    folder.mkdir(parents=True)
    shape = {"n_dirs_local": n, "d_model": d, "k": 10, "auxk": 256, "dead_steps_threshold": 2441}
    (folder / "config.json").write_text(json.dumps(shape))
    state = {
        "encoder.weight": sae.W_enc.clone(),
        "decoder.weight": sae.W_dec.T.clone(),
        "pre_bias": sae.b_dec.clone(),
        "latent_bias": sae.b_enc.clone(),
        "stats_last_nonzero": torch.zeros(n, dtype=torch.long),
    }
    torch.save({"state_dict": state}, folder / "state_dict.pth")
    torch.save(sae.mean.clone(), folder / "mean.pt")
    torch.save(torch.ones(n), folder / "std.pt")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    for i, (block, inner) in enumerate({"down_blocks.1": "final", "mid_block": "", "up_blocks.0": "final"}.items()):
        name = f"unet.{block}.attentions.0_k10_hidden48_auxk256_bs4096_lr0.0001"
        sae = build_sae("", seed=i)
        write_unbox(root / name / inner, sae, sae.cfg.d_in, N_FEATURES)
    (root / ".cache").mkdir()
    (root / "README.md").write_text("dictionaries")
    return root


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    build_xl_pipeline().save_pretrained(folder)
    return folder


def test_published_dictionaries_are_found_and_painted_with(published, xl_folder) -> None:
    assert list(find_saes(published)) == ["down.1.0", "mid.0", "up.0.0"]
    painter = Painter.load(xl_folder, "cpu", published)
    empty = Painting(model=painter.model, steps=1, guidance=0.0)
    means = torch.load(next(published.glob("unet.down*/final/mean.pt")), weights_only=True)
    assert torch.equal(painter.sae("down.1.0").mean, means), "strength is in units of the published means"
    for block in painter.blocks:
        painting = empty.paint(Brush.feature(block, 7), DISC, 5.0)
        assert painter.render(painting).tobytes() != painter.render(empty).tobytes()


def test_a_model_of_the_registry_comes_from_the_hubs_cache(published, xl_folder, monkeypatch) -> None:
    blocks = {block: folder.relative_to(published).parts[0] for block, folder in find_saes(published).items()}
    known = Known(str(xl_folder), "tiny", 0.001, Defaults(1, 0.0, 32), "someone/saes", blocks)
    monkeypatch.setattr(models_module, "REGISTRY", {"tiny": known})
    asked: list[Any] = []

    def snapshot(repository: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((repository, local_files_only))
        assert all(any(pattern.startswith(folder) for pattern in allow_patterns) for folder in blocks.values())
        return str(published)

    monkeypatch.setattr(models_module, "snapshot_download", snapshot)
    painter = Painter.load("tiny", "cpu")
    assert asked == [("someone/saes", True)]
    assert (painter.model, painter.defaults, painter.blocks) == ("tiny", Defaults(1, 0.0, 32), tuple(blocks))
    assert painter.render(Painting(model="tiny")).size == (32, 32)
    assert Painter.load(str(xl_folder), "cpu", download=True).model == "tiny", "by its source, too"
    assert asked[-1] == ("someone/saes", False)
    incomplete = replace(known, blocks={**blocks, "up.0.1": "unet.up_blocks.0.attentions.1_k10"})
    monkeypatch.setattr(models_module, "REGISTRY", {"tiny": incomplete})
    with pytest.raises(FeaturebrushError, match="someone/saes for up.0.1, which are not in the local cache"):
        Painter.load("tiny", "cpu")


@pytest.mark.parametrize("name", ["sdxl-turbo", "sdxl"])
def test_offline_it_is_said_what_is_missing(name) -> None:
    with pytest.raises(FeaturebrushError, match=f"'{name}' needs the SAEs surokpro2/sdxl-saes.*--download"):
        Painter.load(name, "cpu")


@pytest.mark.parametrize("name", ["sd15", "sd-turbo"])
def test_models_without_known_dictionaries_ask_for_them(name, published) -> None:
    with pytest.raises(FeaturebrushError, match=f"no SAEs are known for '{name}': give their folders"):
        Painter.load(name, "cpu")
    with pytest.raises(FeaturebrushError, match="give a folder with model_index.json or a hub id in the local cache"):
        Painter.load(name, "cpu", published)


@pytest.mark.parametrize(
    ("name", "said"),
    [("sdxl-turb", "did you mean 'sdxl-turbo'"), ("a/b/c", "there is no model folder 'a/b/c'; models known by name")],
)
def test_unknown_models_are_refused_with_those_there_are(name, said) -> None:
    with pytest.raises(FeaturebrushError, match=said):
        Painter.load(name, "cpu")


def test_an_id_on_the_hub_that_is_not_in_the_cache(published) -> None:
    with pytest.raises(FeaturebrushError, match="there is no pipeline 'some-one/model'"):
        Painter.load("some-one/model", "cpu", published)


def test_a_pipeline_folder_alone_asks_for_dictionaries(xl_folder) -> None:
    with pytest.raises(FeaturebrushError, match="missing.*featurebrush.json.*give the folders of SAEs"):
        Painter.load(xl_folder, "cpu")


@pytest.mark.parametrize(
    ("folder", "block"),
    [
        ("down.2.1", "down.2.1"),
        ("mid.0", "mid.0"),
        ("unet.down_blocks.2.attentions.1_k10_hidden5120_auxk256_bs4096_lr0.0001", "down.2.1"),
        ("unet.mid_block.attentions.0_k10", "mid.0"),
        ("unet.up_blocks.0.attentions.1", "up.0.1"),
        ("final", None),
        ("down.2", None),
        (".cache", None),
        ("unet.up_blocks.0.attentions.1k", None),
    ],
)
def test_the_names_of_folders_say_the_block(folder, block) -> None:
    assert block_of(folder) == block


def test_folders_without_dictionaries_and_with_two_of_a_block(tmp_path) -> None:
    with pytest.raises(FeaturebrushError, match="there is no folder"):
        find_saes(tmp_path / "nowhere")
    with pytest.raises(FeaturebrushError, match="holds no SAE: expected folders named after blocks, as down.2.1"):
        find_saes(tmp_path)
    for name in ("down.2.1", "unet.down_blocks.2.attentions.1_k10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(FeaturebrushError, match="two SAEs for down.2.1"):
        find_saes(tmp_path)


def test_a_dictionary_of_another_width_is_refused(xl_folder, published) -> None:
    with pytest.raises(FeaturebrushError, match="its SAE is for 32 channels, but down.0.0 has 16"):
        Painter.load(xl_folder, "cpu", {"down.0.0": find_saes(published)["down.1.0"]})


def test_what_a_model_takes_is_said_in_words() -> None:
    assert REGISTRY["sdxl-turbo"].memory_on("cuda") == "6.5 GiB of weights in float16"
    assert REGISTRY["sdxl-turbo"].memory_on("cpu") == "12.9 GiB of weights in float32"
    assert REGISTRY["storybook"].memory_on("cuda") == "23 MiB of weights in float32"
