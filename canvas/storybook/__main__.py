"""``python -m canvas.storybook``: draw the world, train the embedded model from nothing, look at what it learnt."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

STAGES = ("vae", "data", "generator", "distil", "decoder", "export", "dictionary", "reader")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m canvas.storybook", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    sheet = commands.add_parser("sheet", help="draw a contact sheet of scenes with their captions")
    sheet.add_argument("out", type=Path)
    sheet.add_argument("--seed", type=int, default=0)
    sheet.add_argument("--columns", type=int, default=8)
    sheet.add_argument("--rows", type=int, default=6)

    speed = commands.add_parser("speed", help="measure how many scenes are drawn in a second")
    speed.add_argument("--scenes", type=int, default=400)

    train = commands.add_parser("train", help="make the embedded model; every stage resumes from its checkpoint")
    train.add_argument("stage", nargs="?", choices=("all", *STAGES), default="all")
    train.add_argument("--run", type=Path, default=Path("runs/storybook"), help="where checkpoints and data lie")
    train.add_argument("--out", type=Path, default=Path("assets/storybook"), help="the pipeline folder to write")
    train.add_argument("--vae-minutes", type=float, default=15)
    train.add_argument(
        "--scenes", type=int, default=10_000, help="scenes drawn for the generator (mirrored: twice as many)"
    )
    train.add_argument(
        "--collages", type=int, default=4000, help="scenes with a thing of another one in them, drawn beside those"
    )
    train.add_argument("--minutes", type=float, default=95, help="the generator's budget")
    train.add_argument("--distil-minutes", type=float, default=60, help="the budget of learning to do with few steps")
    train.add_argument(
        "--decoder-minutes", type=float, default=15, help="more training of the decoder on fixed latents"
    )
    train.add_argument("--reader-minutes", type=float, default=40, help="the budget of the network that reads pictures")
    train.add_argument("--dictionary-steps", type=int, default=4000, help="of training each sparse autoencoder")
    train.add_argument("--device", default=None, help="cpu or cuda; by default the best at hand")

    restored = commands.add_parser("restore", help="checkpoints out of a shipped model, to train on from there")
    restored.add_argument("model", type=Path)
    restored.add_argument("--run", type=Path, default=Path("runs/storybook"))

    kept = commands.add_parser("keep", help="put a generator in the middle of its training beside the shipped model")
    kept.add_argument("model", type=Path)
    kept.add_argument("--run", type=Path, default=Path("runs/storybook"))
    kept.add_argument("--made-by", required=True, metavar="COMMAND", help="what trained it, for its provenance")

    samples = commands.add_parser(
        "samples", help="a contact sheet of the model's pictures for fixed prompts, unselected"
    )
    samples.add_argument("out", type=Path)
    samples.add_argument("--run", type=Path, default=Path("runs/storybook"))
    samples.add_argument("--steps", type=int, default=None)
    samples.add_argument("--guidance", type=float, default=None)
    samples.add_argument("--undistilled", action="store_true", help="of the generator as it was before distillation")

    painted = commands.add_parser("paintsheet", help="things painted at fixed places, beside the same seeds unpainted")
    painted.add_argument("out", type=Path)
    painted.add_argument("--model", default="storybook")
    painted.add_argument("--strength", type=float, default=1.0)
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    command = "python -m canvas.storybook " + shlex.join(argv if argv is not None else sys.argv[1:])
    match args.command:
        case "sheet":
            from canvas.storybook.sheet import world_sheet

            world_sheet(args.seed, args.columns, args.rows).save(args.out)
        case "speed":
            measure_speed(args.scenes)
        case "train":
            run_stages(args, command)
        case "restore":
            from canvas.storybook.restore import restore

            restore(args.model, args.run)
        case "keep":
            from canvas.storybook.restore import keep

            keep(args.run, args.model, args.made_by)
        case "samples":
            from canvas.storybook.samples import sample_sheet

            sample_sheet(args.run, args.steps, args.guidance, not args.undistilled).save(args.out)
        case "paintsheet":
            from canvas.storybook.paintsheet import paint_sheet, summary

            sheet, figures = paint_sheet(args.model, args.strength)
            sheet.save(args.out)
            print(summary(figures))


def measure_speed(scenes: int) -> None:
    import time

    from canvas.storybook.vae import draw_many

    started = time.monotonic()
    draw_many(0, scenes)
    print(f"{scenes / (time.monotonic() - started):.0f} scenes/s")


def run_stages(args: argparse.Namespace, command: str) -> None:
    from canvas.storybook import data, distil, export, generator, training, vae

    device = args.device or training.best_device()
    args.run.mkdir(parents=True, exist_ok=True)
    chosen = STAGES if args.stage == "all" else (args.stage,)
    for stage in chosen:
        match stage:
            case "vae":
                vae.train(args.run, args.vae_minutes, device=device)
            case "data":
                data.prepare(args.run, args.scenes, device, collages=args.collages)
            case "generator":
                generator.train(args.run, args.minutes, device=device)
            case "distil":
                distil.train(args.run, args.distil_minutes, device=device)
            case "decoder":
                vae.train(args.run, args.decoder_minutes, device=device, decoder_only=True)
            case "export":
                export.export(args.run, args.out, command, device)
            case "dictionary":
                from canvas.storybook import dictionary

                cfg = dictionary.DictionaryConfig(steps=args.dictionary_steps)
                dictionary.make(args.out, args.run, device, command, cfg)
            case "reader":
                from canvas.storybook import reader

                figures = reader.train(args.run, args.out / "reader", args.reader_minutes, device)
                export.write_provenance(args.out / "reader", command, reader.SEEDS, figures)


if __name__ == "__main__":
    main()
