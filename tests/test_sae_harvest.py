"""Harvesting real pipelines in small: what is recorded is what the pipeline computes, on disk as in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import BLOCKS, CHANNELS, SIZE, build_pipeline, build_xl_pipeline

from sae import FeaturebrushError, ShardReader, ShardWriter, open_scenes, record
from sae.__main__ import COMMANDS, main
from sae.harvest import (
    HarvestConfig,
    Observed,
    block_shapes,
    harvest,
    manifest_for,
    noised,
    observed,
    sampled,
    vectors,
    vectors_per_image,
)
from sae.harvest_cli import level_numbers, whole_number
from sae.manifest import BlockShape
from sae.pipelines import encode_images, load_pipeline
from sae.sources import SceneBatch

PROMPTS = ["a castle", "a b", "c"]
STEPS = 3
GRID = (8, 8)


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny SDXL pipeline."""
    folder = tmp_path_factory.mktemp("xl")
    build_xl_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd(model_folder: Path):
    return load_pipeline(model_folder)


@pytest.fixture(scope="module")
def xl(xl_folder: Path):
    return load_pipeline(xl_folder)


@pytest.fixture(params=["sd", "xl"])
def pipeline(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


class Noise:
    """Scenes of noise: picture i is drawn from the seed i."""

    concepts = ("left", "right")

    def batches(self, first: int, count: int, batch: int) -> Iterator[SceneBatch]:
        for start in range(first, first + count, batch):
            numbers = range(start, min(start + batch, first + count))
            yield SceneBatch(
                images=torch.stack([self.image(i) for i in numbers]),
                captions=["a castle" if i % 2 else "" for i in numbers],
                masks=torch.zeros(len(numbers), 2, SIZE, SIZE, dtype=torch.bool),
            )

    @staticmethod
    def image(number: int) -> torch.Tensor:
        return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(number)) * 2 - 1


CFG = HarvestConfig(blocks=BLOCKS, steps=STEPS, batch=2, seed=7)


def latents(pipeline, prompts: list[str], seeds: range, guidance: float) -> torch.Tensor:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return pipeline(
        prompt=prompts, height=SIZE, width=SIZE, num_inference_steps=STEPS, guidance_scale=guidance,
        generator=generators, output_type="latent",
    ).images  # fmt: skip


def together(seen: Iterator[Observed]) -> Observed:
    parts = list(seen)
    names = parts[0].activations
    return Observed(
        {name: torch.cat([p.activations[name] for p in parts]) for name in names}, torch.cat([p.origin for p in parts])
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("site", ["update", "output"])
def test_sampling_records_what_the_pipeline_does(pipeline, guidance: float, site: str) -> None:
    with record(pipeline.unet, BLOCKS, site) as calls:  # type: ignore[arg-type]
        plain = latents(pipeline, PROMPTS[:2], range(7, 9), guidance)
    cfg = replace(CFG, guidance=guidance, site=site, levels=(0, 2))
    seen = together(sampled(pipeline, PROMPTS, cfg, range(2)))
    for block in BLOCKS:
        assert torch.equal(seen.activations[block], torch.cat([calls[block][0], calls[block][2]]))
    halves = (1, 0) if guidance > 1 else (0,)
    expected = [[image, step, branch] for step in (0, 2) for branch in halves for image in (0, 1)]
    assert seen.origin.tolist() == expected and seen.origin.dtype == torch.int32
    assert torch.equal(latents(pipeline, PROMPTS[:2], range(7, 9), guidance), plain), "the pipeline is as it was"


def test_prompts_are_taken_in_turn(sd) -> None:
    seen = together(sampled(sd, PROMPTS[:2], replace(CFG, batch=1), range(3)))
    with record(sd.unet, BLOCKS) as calls:
        latents(sd, ["a castle"], range(9, 10), 1.0)
    assert torch.equal(seen.activations[BLOCKS[0]][2 * STEPS :], torch.cat(calls[BLOCKS[0]]))


def test_nothing_is_computed_after_the_last_level(pipeline) -> None:
    calls = []
    handle = pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        list(sampled(pipeline, PROMPTS, replace(CFG, levels=(0, 1)), range(2)))
    finally:
        handle.remove()
    assert len(calls) == 2


def test_scenes_get_the_samplers_own_noise(pipeline) -> None:
    inputs: list[torch.Tensor] = []

    def keep(_module: object, args: tuple) -> None:
        inputs.append(args[0])

    handle = pipeline.unet.register_forward_pre_hook(keep)
    try:
        seen = list(noised(pipeline, Noise(), CFG, range(2)))
    finally:
        handle.remove()
    clean = encode_images(pipeline, torch.stack([Noise.image(7), Noise.image(8)]))
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    assert len(inputs) == len(seen) == STEPS
    noises = []
    for level, got in enumerate(inputs):
        if hasattr(scheduler, "sigmas"):
            sigma = scheduler.sigmas[level]
            noises.append((got * (sigma**2 + 1) ** 0.5 - clean) / sigma)
        else:
            kept = scheduler.alphas_cumprod[scheduler.timesteps[level]]
            noises.append((got - kept**0.5 * clean) / (1 - kept) ** 0.5)
        assert seen[level].origin.tolist() == [[0, level, 0], [1, level, 0]]
        assert seen[level].activations[BLOCKS[0]].shape == (2, *GRID, CHANNELS)
    for noise in noises:
        assert noise.std().item() == pytest.approx(1, abs=0.1) and abs(noise.mean().item()) < 0.1
    assert not torch.allclose(noises[0], noises[1], atol=0.1), "each level has noise of its own"


def test_captions_reach_the_unet(pipeline) -> None:
    class Silent(Noise):
        def batches(self, first: int, count: int, batch: int) -> Iterator[SceneBatch]:
            for scene in super().batches(first, count, batch):
                yield replace(scene, captions=[""] * len(scene.captions))

    said, silent = (together(noised(pipeline, scenes, CFG, range(2))) for scenes in (Noise(), Silent()))
    # Scene 7 has a caption, scene 8 has none.
    change = (said.activations[BLOCKS[0]] - silent.activations[BLOCKS[0]]).abs().amax((1, 2, 3))
    assert (change[said.origin[:, 0] == 0] > 1e-5).all() and (change[said.origin[:, 0] == 1] < 1e-6).all()


@pytest.mark.parametrize("source", [PROMPTS, Noise()], ids=["prompts", "scenes"])
def test_a_part_of_the_images_is_a_part_of_the_whole(pipeline, source) -> None:
    whole = together(observed(pipeline, source, CFG, range(6)))
    first, rest = (together(observed(pipeline, source, CFG, images)) for images in (range(4), range(4, 6)))
    for block in BLOCKS:
        assert torch.equal(whole.activations[block], torch.cat([first.activations[block], rest.activations[block]]))
    assert torch.equal(whole.origin, torch.cat([first.origin, rest.origin]))


def test_a_consumer_may_train_between_batches(sd) -> None:
    for source in (PROMPTS, Noise()):
        for seen in observed(sd, source, CFG, range(2)):
            assert torch.is_grad_enabled() and not seen.activations[BLOCKS[0]].requires_grad
            assert not any(module._forward_hooks for module in sd.unet.modules())


def test_scenes_of_another_size_are_resized(sd) -> None:
    seen = next(noised(sd, Noise(), replace(CFG, size=16), range(1)))
    assert seen.activations[BLOCKS[0]].shape == (1, 4, 4, CHANNELS)


@given(
    n=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 3),
)
def test_rows_say_where_they_were(n: int, grid: tuple[int, int], share: float, seed: int) -> None:
    h, w = grid
    place = torch.arange(n * h * w).reshape(n, h, w, 1).float()
    seen = Observed(
        {"down.1.0": place, "mid.0": place.expand(-1, -1, -1, 2).clone()},
        torch.tensor([[10 * i, i, i % 2] for i in range(n)], dtype=torch.int32),
    )
    rows = seen.rows(share, seed)
    each = max(1, round(share * h * w))
    assert rows.at.shape == (n * each, 5) and rows.at.dtype == torch.int32
    assert rows.vectors["down.1.0"].shape == (n * each, 1) and rows.vectors["mid.0"].shape == (n * each, 2)
    for (image, step, y, x, branch), value in zip(rows.at.tolist(), rows.vectors["mid.0"].tolist(), strict=True):
        i = image // 10
        assert (step, branch) == (i, i % 2) and value == [place[i, y, x].item()] * 2
    assert len({tuple(at) for at in rows.at.tolist()}) == n * each
    alone = Observed({"down.1.0": place[-1:]}, seen.origin[-1:]).rows(share, seed)
    assert torch.equal(alone.at, rows.at[-each:]), "what is kept of a picture does not depend on the others"


def test_all_positions_get_their_turn() -> None:
    seen = Observed({"mid.0": torch.zeros(64, 4, 4, 1)}, torch.arange(64, dtype=torch.int32)[:, None].repeat(1, 3))
    at = seen.rows(0.25).at
    counts = torch.bincount((at[:, 2] * 4 + at[:, 3]).long(), minlength=16)
    # Each position is kept in a quarter of 64 pictures: 16, with a standard deviation of 3.5.
    assert counts.sum() == 256 and counts.min() >= 4 and counts.max() <= 32


def test_shapes_and_counts(sd, xl) -> None:
    shapes = block_shapes(sd, CFG)
    assert shapes == {name: BlockShape(CHANNELS, GRID) for name in BLOCKS}
    guided = replace(CFG, guidance=2.0, share=0.5, levels=(1, 2))
    assert vectors_per_image(sd, PROMPTS, CFG, shapes) == 64 * STEPS
    assert vectors_per_image(sd, PROMPTS, guided, shapes) == 32 * 2 * 2
    assert vectors_per_image(sd, Noise(), guided, shapes) == 32 * 2
    with pytest.raises(FeaturebrushError, match="down.0.0 16×16, down.1.0 8×8"):
        block_shapes(xl, replace(CFG, blocks=("down.0.0", "down.1.0")))
    with pytest.raises(FeaturebrushError, match="did you mean 'down.1.0'"):
        block_shapes(sd, replace(CFG, blocks=("down.1.1",)))


@pytest.mark.parametrize("source", [PROMPTS, Noise()], ids=["prompts", "scenes"])
def test_a_killed_harvest_ends_as_an_unbroken_one(pipeline, source, tmp_path: Path) -> None:
    cfg = replace(CFG, share=0.3, levels=(0, 2))
    manifest = manifest_for(pipeline, source, cfg, "tiny", "some", "float16", images_per_shard=3)
    told: list[int] = []
    harvest(ShardWriter(tmp_path / "whole", manifest), pipeline, source, cfg, 7, told.append)
    reader = ShardReader(tmp_path / "whole")
    assert sum(told) == reader.count == 7 * vectors_per_image(pipeline, source, cfg, manifest.blocks)

    for patience in (1, 3, 2):
        left = patience

        def killed(_new: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            harvest(ShardWriter(tmp_path / "killed", manifest), pipeline, source, cfg, 7, killed)
    harvest(ShardWriter(tmp_path / "killed", manifest), pipeline, source, cfg, 7)
    for path in sorted((tmp_path / "whole").glob("*.safetensors")):
        mine, theirs = load_file(path), load_file(tmp_path / "killed" / path.name)
        assert all(torch.equal(mine[name], theirs[name]) for name in (*BLOCKS, "at"))
    assert [len(list((tmp_path / name).iterdir())) for name in ("whole", "killed")] == [4, 4]


def test_shards_hold_what_was_observed(sd, tmp_path: Path) -> None:
    cfg = replace(CFG, guidance=2.0)
    manifest = manifest_for(sd, PROMPTS, cfg, "tiny", "some", "float32", images_per_shard=2)
    harvest(ShardWriter(tmp_path, manifest), sd, PROMPTS, cfg, 4)
    seen = together(sampled(sd, PROMPTS, cfg, range(4)))
    where = {tuple(origin): i for i, origin in enumerate(seen.origin.tolist())}
    for block in BLOCKS:
        for stored, at in ShardReader(tmp_path).stored(block):
            for i in range(0, len(at), 97):
                image, step, y, x, branch = at[i].tolist()
                assert torch.equal(stored[i], seen.activations[block][where[image, step, branch], y, x])
    said = json.loads((tmp_path / "manifest.json").read_text())
    assert said["scheduler"]["class"] == "DDIMScheduler" and len(said["scheduler"]["config"]) == 12
    assert said["levels"] == [0, 1, 2] and said["guidance"] == 2.0 and said["size"] == SIZE


def test_training_can_do_without_a_disk(sd, tmp_path: Path) -> None:
    cfg = replace(CFG, share=0.5)
    manifest = manifest_for(sd, PROMPTS, cfg, "tiny", "some", "float32", images_per_shard=4)
    harvest(ShardWriter(tmp_path, manifest), sd, PROMPTS, cfg, 4)
    stored = torch.cat([rows for rows, _ in ShardReader(tmp_path).stored(BLOCKS[1])])
    batches = list(vectors(sd, PROMPTS, cfg, BLOCKS[1], 50, images=4, capacity=150))
    assert all(batch.shape == (50, CHANNELS) for batch in batches[:-1])
    assert sorted(torch.cat(batches).tolist()) == sorted(stored.tolist())
    endless = vectors(sd, PROMPTS, cfg, BLOCKS[1], 50, capacity=150)
    assert all(next(endless).shape == (50, CHANNELS) for _ in range(20))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"blocks": ()}, "blocks"),
        ({"blocks": ("mid.0", "mid.0")}, "different blocks"),
        ({"steps": 0}, "steps"),
        ({"levels": ()}, "levels"),
        ({"levels": (2, 1)}, "levels"),
        ({"levels": (-1,)}, "levels"),
        ({"guidance": float("nan")}, "guidance"),
        ({"size": 30}, "multiple of 8"),
        ({"site": "updates"}, "did you mean 'update'"),
        ({"share": 0}, "share"),
        ({"share": 1.5}, "share"),
        ({"batch": 0}, "batch"),
        ({"seed": -1}, "seed"),
    ],
)
def test_illegal_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(FeaturebrushError, match=says):
        replace(CFG, **changes)


def test_levels_and_prompts_that_are_not_there_are_refused(sd) -> None:
    with pytest.raises(FeaturebrushError, match=r"no level 3: 3 steps have the levels 0\.\.2"):
        next(sampled(sd, PROMPTS, replace(CFG, levels=(0, 3)), range(1)))
    for prompts in ([], "a castle"):
        with pytest.raises(FeaturebrushError, match="prompts must be a list"):
            next(sampled(sd, prompts, CFG, range(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_are_found_in_whichever_precision_they_are_stored(
    tmp_path: Path, dtype: torch.dtype, variant: str | None
) -> None:
    build_pipeline().save_pretrained(tmp_path, variant=variant)
    loaded: Any = load_pipeline(tmp_path, dtype=dtype)
    assert loaded.unet.dtype == dtype and loaded.vae.dtype == torch.float32


def test_pipelines_that_cannot_be_loaded_are_refused(model_folder: Path, tmp_path: Path) -> None:
    for model in (tmp_path / "nothing", tmp_path, "nobody/nothing", "a/b/c"):
        with pytest.raises(FeaturebrushError, match="there is no pipeline"):
            load_pipeline(model)
    index = json.loads((model_folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(FeaturebrushError, match="FluxPipeline"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(FeaturebrushError, match="cannot be loaded as a StableDiffusionPipeline"):
        load_pipeline(tmp_path)
    with pytest.raises(FeaturebrushError, match="device 'gpu'"):
        load_pipeline(model_folder, "gpu")


def test_half_precision_models_keep_a_whole_vae(xl_folder: Path) -> None:
    half = load_pipeline(xl_folder, dtype=torch.float16)
    parts = (half.unet, half.text_encoder, half.text_encoder_2, half.vae)
    assert [part.dtype for part in parts] == [torch.float16] * 3 + [torch.float32]
    for source in (PROMPTS, Noise()):
        seen = next(observed(half, source, replace(CFG, guidance=2.0), range(2)))
        assert all(v.dtype == torch.float32 and v.isfinite().all() for v in seen.activations.values())


def test_the_world_is_a_source_of_scenes() -> None:
    world = open_scenes("world")
    whole = list(world.batches(5, 5, 5))
    parts = list(world.batches(5, 5, 2))
    assert [len(part.captions) for part in parts] == [2, 2, 1]
    assert torch.equal(whole[0].images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole[0].masks, torch.cat([part.masks for part in parts]))
    assert whole[0].captions == [said for part in parts for said in part.captions]
    assert whole[0].images.shape == (5, 3, 256, 256) and whole[0].images.dtype == torch.float32
    assert -1 <= whole[0].images.min() < 0 < whole[0].images.max() <= 1
    assert whole[0].masks.shape == (5, len(world.concepts), 256, 256) and whole[0].masks.dtype == torch.bool
    with pytest.raises(FeaturebrushError, match="did you mean 'world'"):
        open_scenes("wrold")


def test_half_of_the_scenes_have_no_caption() -> None:
    from canvas.storybook.scenes import _said
    from canvas.storybook.world import draw_scene

    scenes = [draw_scene(seed, masks=False) for seed in range(80)]
    said = [_said(scene) for scene in scenes]
    assert 24 <= said.count("") <= 60
    styles = {scene.style for scene, text in zip(scenes, said, strict=True) if text}
    assert len(styles) > 1, "whether there is a caption says nothing about the picture"


@pytest.mark.parametrize(
    ("text", "number"),
    [("1000", 1000), ("200k", 200_000), ("5M", 5_000_000), ("1.5M", 1_500_000), ("1.1m", 1_100_000), ("2G", 2 * 10**9)],
)
def test_numbers_may_be_short(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "-5", "5X", "M", "0.5", "1.2345k", "five", "1e6"])
def test_other_numbers_are_refused(text: str) -> None:
    with pytest.raises(FeaturebrushError, match="5M|1.5M"):
        whole_number(text)


def test_levels_may_be_ranges() -> None:
    assert level_numbers("4-7, 0,2") == (0, 2, 4, 5, 6, 7)
    for text in ("", "a", "3-1", "1,,2", "-1", "0-99999999"):
        with pytest.raises(FeaturebrushError, match="0,2,4-7"):
            level_numbers(text)


def test_harvest_command(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a castle\n\n  b\n")
    out = tmp_path / "out"
    command = ["harvest", "--model", str(model_folder), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]
    command += [f"--block={name}" for name in BLOCKS] + ["--steps", "3", "--levels", "0-1", "--device", "cpu"]
    command += ["--images-per-shard", "2", "--batch", "2"]
    assert main([*command, "--vectors", "0.5k"]) == 0
    # 2 levels of 8×8 positions: 4 pictures make 512.
    assert "512 vectors of down.1.0, up.0.1" in capsys.readouterr().out
    reader = ShardReader(out)
    assert reader.count == 512 and reader.manifest.prompts.startswith("prompts.txt sha256:")
    first = (out / "shard-00000.safetensors").stat()

    assert main([*command, "--vectors", "700"]) == 0
    assert ShardReader(out).count == 768
    assert (out / "shard-00000.safetensors").stat().st_mtime_ns == first.st_mtime_ns, "what is there is not made again"
    capsys.readouterr()

    for extra, says in (
        (["--vectors", "1k", "--seed", "1"], "seed 0, not 1"),
        (["--vectors", "1k", "--steps", "2"], "steps 3, not 2"),
        (["--vectors", "many"], "'many'"),
        (["--vectors", "1k", "--levels", "x"], "'x'"),
        (["--vectors", "1k", "--levels", "3"], "no level 3"),
        (["--vectors", "1k", "--block", "down.1.2"], "'down.1.2'"),
        (["--vectors", "1k", "--prompts", str(tmp_path / "no.txt")], "'world'"),
        (["--vectors", "1k", "--prompts", "world", "--guidance", "3"], "without guidance"),
        (["--vectors", "1k", "--model", str(tmp_path)], "no pipeline"),
        (["--vectors", "1k", "--device", "gpu"], "'gpu'"),
    ):
        assert main([*command, *extra]) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "prompts.txt").write_text("a castle\n")
    assert main([*command, "--vectors", "1k"]) == 2
    assert "prompts.txt sha256:" in capsys.readouterr().err


def test_harvest_command_on_the_world(model_folder: Path, tmp_path: Path) -> None:
    command = ["harvest", "--model", str(model_folder), "--prompts", "world", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--block", "down.1.0", "--vectors", "300", "--steps", "2", "--share", "0.5"]) == 0
    reader = ShardReader(tmp_path)
    assert reader.count == 320 and reader.manifest.prompts == "world" and reader.manifest.size == SIZE
    assert torch.isfinite(next(reader.batches("down.1.0", 320, seed=0))).all()


def test_commands_are_modules_with_two_functions(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (path, _) in COMMANDS.items():
        module = import_module(path)
        assert callable(module.add_arguments) and callable(module.run), name
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0 and f"python -m sae {name}" in capsys.readouterr().out
    for wrong in ([], ["harvst"]):
        with pytest.raises(SystemExit) as left:
            main(wrong)
        assert left.value.code == 2
