"""A tiny real model folder: every part of the kind that the shipped one has, of random weights, seeded."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on the threads of one would be slower than one
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

settings.register_profile("suite", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

BLOCKS = ("down.1.0", "up.0.1")
N_FEATURES = 48
CHANNELS = 32
SIZE = 32


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder called "storybook": 32×32 pictures, latents 16×16, steered grids of 8×8."""
    folder = tmp_path_factory.mktemp("models") / "storybook"
    build_model(folder)
    return folder


@pytest.fixture(scope="session")
def painter(model_folder: Path):
    """A painter with the tiny model, on the CPU."""
    from canvas import Painter

    return Painter.load(model_folder, "cpu")


@pytest.fixture(scope="session")
def reference(model_folder: Path):
    """The tiny model's plain diffusers pipeline, loaded apart from the painter."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        model_folder, safety_checker=None, requires_safety_checker=False, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_model(folder: Path) -> None:
    """Write the whole folder."""
    from sae.atlas import Atlas

    build_pipeline().save_pretrained(folder)
    for i, block in enumerate(BLOCKS):
        sae = build_sae(block, seed=i)
        sae.save(folder / "sae" / block)
        features = (replace(info, label=f"thing {info.index}", score=0.5) for info in Atlas.of(sae))
        Atlas(block, tuple(features)).save(folder / "sae" / block)
    settings = {"defaults": {"steps": 3, "guidance": 1.0, "size": SIZE}, "blocks": list(BLOCKS), "groups": ["things"]}
    (folder / "featurebrush.json").write_text(json.dumps(settings))
    (folder / "concepts.json").write_text(json.dumps({"concepts": CONCEPTS}))
    sheet = Image.new("RGB", (8 * 96, 2 * 96))
    for icon in range(16):
        sheet.paste(
            (icon * 16, 255 - icon * 16, 0), (icon % 8 * 96, icon // 8 * 96, icon % 8 * 96 + 96, icon // 8 * 96 + 96)
        )
    sheet.save(folder / "icons.webp", lossless=True)


CONCEPTS = [
    {
        "name": "castle",
        "group": "things",
        "synonyms": ["fortress", "strong-hold"],
        "block": "down.1.0",
        "features": [3, 11, 20],
        "weights": [1.0, 0.5, -0.25],
        "score": 0.9,
        "icon": 0,
    },
    {
        "name": "wave",
        "group": "things",
        "synonyms": [],
        "block": "up.0.1",
        "features": [7],
        "weights": [1.0],
        "score": 0.4,
        "icon": 9,
    },
    {"name": "dusk", "block": "down.1.0", "features": [30], "weights": [2.0]},
]


def build_pipeline():
    """A `StableDiffusionPipeline` of about 0.3 million parameters."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, CHANNELS),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
        upsampling_scaling_factor=2,
    )
    tokenizer = build_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            pad_token_id=len(tokenizer) - 1,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts: dict[str, Any] = {"vae": vae, "scheduler": scheduler, "safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(
        text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, requires_safety_checker=False, **parts
    )


def build_xl_pipeline():
    """A `StableDiffusionXLPipeline` of two grids, 16×16 and 8×8, with an Euler scheduler and a KL VAE."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, CHANNELS),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
    )
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def build_tokenizer():
    """A CLIP tokenizer that knows single letters and "a castle"."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,."
    words = [*letters, *(letter + "</w>" for letter in letters)]
    merges = [("c", "a"), ("s", "t"), ("ca", "st"), ("l", "e</w>"), ("cast", "le</w>")]
    words += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16)  # pyright: ignore[reportArgumentType]


def build_sae(block: str, seed: int, site: str = "update"):
    """An SAE of random directions whose features fire at a part of the positions."""
    from sae import SAE, SAEConfig

    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(N_FEATURES, CHANNELS, generator=generator), dim=1)
    tensors = {
        "W_enc": directions.clone(),
        "b_enc": torch.zeros(N_FEATURES),
        "W_dec": directions,
        "b_dec": 0.1 * torch.randn(CHANNELS, generator=generator),
        "threshold": torch.tensor(0.05),
        "mean": 0.5 + torch.rand(N_FEATURES, generator=generator),
        "density": torch.rand(N_FEATURES, generator=generator),
    }
    return SAE(SAEConfig(CHANNELS, N_FEATURES, 8, block, site), tensors)  # pyright: ignore[reportArgumentType]
