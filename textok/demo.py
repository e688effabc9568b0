"""`textok demo`: the bundled models on held-out pictures, as picture sheets and a table.

Three parts. Reconstruction: test pictures through the TexTok with their captions and through the Baseline, the same model
without text, beside a PCA of as many numbers; and through a TexTok of few tokens, with their captions and with those of others.
Classes: a DiT makes latents of a class, and the detokenizer sees a caption drawn for that class. Text to image: a DiT-T2I makes
latents of held-out captions.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bundled, files
from .arrays import spread
from .errors import WeightsError
from .image_tokenizer import TexTok
from .metrics import psnr, ssim
from .pictures.sheets import Entry, contact_sheet
from .pipeline import Pipeline
from .pipeline_result import PipelineResult
from .progress import progress_bar
from .text.caption_store import CAPTIONS_FILE, CaptionStore, read_records

U8 = NDArray[np.uint8]

SHOWN_RECONSTRUCTIONS = 10
SHOWN_CLASSES = 12
SHOWN_CAPTIONS = 10
FEW, WRONG = "TexTok, few tokens", "the same, another's caption"


@dataclass(frozen=True)
class HeldOut:
    """Pictures of the test split that no bundled model has seen.

    Attributes
    ----------
    images, pca
        uint8 [n,64,64,3]: the pictures, and what a PCA of `pca_numbers` numbers, fitted to the train split, makes of them.
    captions
        Their captions with embeddings, in the same order.
    """

    images: U8
    pca: U8
    pca_numbers: int
    captions: CaptionStore

    @classmethod
    def load(cls) -> "HeldOut":
        folder = bundled.data_folder(bundled.HELD_OUT)
        records = read_records(folder / CAPTIONS_FILE)
        captions = CaptionStore.from_embeddings(records, CaptionStore.from_folder(bundled.data_folder("emoji") / "captions"))
        images, pca = (_pictures(folder / name) for name in ("images.webp", "pca.webp"))
        numbers = files.read_json(folder / "scores.json", WeightsError)["pca"]["numbers"]
        if not len(images) == len(pca) == len(captions):
            raise WeightsError(f"{folder}: expected as many captions as pictures, got {len(captions)} and {len(images)}")
        return cls(images, pca, numbers, captions)


def _pictures(path: Path) -> U8:
    """Square pictures, one below the other."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            strip = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as problem:
        raise WeightsError(f"{path}: {problem}") from None
    return strip.reshape(-1, image.width, image.width, 3)


class Demo:
    """One run; `sheet` writes a picture file and remembers it, `lines` is the table so far."""

    def __init__(self, out: Path, seed: int, threads: int | None) -> None:
        self.out, self.seed, self.threads = out, seed, threads
        self.lines: list[str] = []
        self.files: list[Path] = []

    def sheet(self, name: str, entries: list[Entry], **layout: Any) -> None:
        path = self.out / name
        with files.replacing(path) as temporary:
            contact_sheet(entries, **layout).save(temporary, "PNG")
        self.files.append(path)

    def reconstruct(self, held_out: HeldOut, textok: TexTok, baseline: TexTok, few: TexTok) -> None:
        images = held_out.images
        text, lengths = held_out.captions.embeddings(np.arange(len(images)))
        others = text[::-1], lengths[::-1]
        made: dict[str, Any] = {}
        size = images.shape[1]
        self.lines += [
            f"Reconstruction of {len(images)} held-out pictures, {size} x {size}; means, SSIM as in Wang et al. 2004",
            f"{'':28}{'tokens':>8}{'numbers':>9}{'PSNR':>10}{'SSIM':>8}{'time an image':>16}",
        ]

        def add(name: str, tokens: str, numbers: int, took: str) -> None:
            self.lines.append(
                f"{name:28}{tokens:>8}{numbers:>9}{psnr(made[name], images).mean():>7.2f} dB"
                f"{ssim(made[name], images).mean():>8.3f}{took:>16}"
            )

        for name, model, conditions in (
            ("TexTok, with text", textok, (text, lengths)),
            ("Baseline, no text", baseline, (text, lengths)),
            (FEW, few, (text, lengths)),
            (WRONG, few, others),
        ):
            start = time.perf_counter()
            made[name] = model.reconstruct(images, *conditions, threads=self.threads)
            tokens, numbers = model.config.latent_shape
            add(name, str(tokens), tokens * numbers, f"{(time.perf_counter() - start) / len(images):.4f} s")
        made["PCA"] = held_out.pca
        add("PCA", "-", held_out.pca_numbers, "-")
        shown = spread(len(images), SHOWN_RECONSTRUCTIONS)
        columns = {
            "held-out": images,
            f"{textok.config.num_latent_tokens} tokens": made["TexTok, with text"],
            "PCA": held_out.pca,
            f"{few.config.num_latent_tokens} tokens": made[FEW],
            "wrong caption": made[WRONG],
        }
        entries = [Entry([column[i] for column in columns.values()], *_words(held_out.captions, i)) for i in shown]
        self.sheet("reconstruction.png", entries, headings=list(columns))

    def classes(self, pipeline: Pipeline) -> None:
        labels = spread(pipeline.dit.config.num_classes, SHOWN_CLASSES)
        result = self.generate(f"{len(labels)} classes", pipeline, labels=labels)
        records = [] if pipeline.captions is None else pipeline.captions.records
        names = {record.get("label"): record.get("label_name") for record in records}
        entries = [
            Entry([picture], names.get(label) or f"class {label}", caption)
            for picture, label, caption in zip(result.images, labels, result.captions or [""] * len(labels))
        ]
        self.sheet("classes.png", entries, columns=2)

    def captions(self, pipeline: Pipeline, held_out: HeldOut) -> None:
        reconstructed = spread(len(held_out.images), SHOWN_RECONSTRUCTIONS)
        others = [i for i in range(len(held_out.images)) if i not in reconstructed]
        shown = [others[place] for place in spread(len(others), SHOWN_CAPTIONS)]
        text, lengths = held_out.captions.embeddings(shown)
        result = self.generate(f"{len(shown)} held-out captions", pipeline, text=text, text_lengths=lengths)
        entries = [
            Entry([held_out.images[i], picture], *_words(held_out.captions, i)) for i, picture in zip(shown, result.images)
        ]
        self.sheet("captions.png", entries, columns=2, headings=["held-out", "generated"])

    def generate(self, name: str, pipeline: Pipeline, **conditions: Any) -> PipelineResult:
        start = time.perf_counter()
        result = pipeline(**conditions, seed=self.seed, threads=self.threads)
        each = (time.perf_counter() - start) / len(result)
        if not any(line.startswith("Generation") for line in self.lines):
            self.lines += ["", f"Generation, seed {self.seed}"]
        used = pipeline.sampling.resolved(pipeline.dit.config)
        how = f"{used.steps} steps of {used.solver}, guidance {used.guidance_scale:g}"
        self.lines.append(f"{f'{name}, {how}':55}{each:>14.4f} s")
        return result


def show(
    captions: Sequence[str],
    out: Path,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = False,
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Pictures of captions, by the bundled text-to-image pipeline, one file each, and a sheet of all of them.

    Returns the files written.
    """
    start = time.perf_counter()
    pipeline = Pipeline.from_pretrained("emoji-t2i", threads=threads, side="detokenizer")
    result = pipeline(list(captions), seed=seed, threads=threads, progress=progress)
    paths = result.save(out, overwrite=True)
    sheet = out / "sheet.png"
    with files.replacing(sheet) as temporary:
        result.contact_sheet().save(temporary, "PNG")
    say(f"{len(result)} of your captions, {time.perf_counter() - start:.1f} s in all:")
    for path, caption in zip([*paths, sheet], [*captions, "all, with their captions"]):
        say(f"  {path}  {caption}")
    say("The model is small: it was trained for hours of one CPU core on pictures of things, and their captions.")
    return [*paths, sheet]


def _words(captions: CaptionStore, index: int) -> tuple[str, str]:
    """Class name and caption of a picture."""
    record = captions.records[index]
    return record.get("label_name") or "", record["caption"]


def run(
    out: Path, seed: int = 0, threads: int | None = None, progress: bool = False, say: Callable[[str], object] = print
) -> list[Path]:
    """Run the demo; sheets and the table go to `out`, which is made where missing, the table to `say` too.

    Returns the files written: reconstruction.png, classes.png, captions.png and table.txt.
    """
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    demo = Demo(out, seed, threads)
    bar: AbstractContextManager[Any] = progress_bar(progress, 4, "part")
    with bar as tick:
        held_out = HeldOut.load()
        by_class, by_text = (
            Pipeline.from_pretrained("emoji", threads=threads),
            Pipeline.from_pretrained("emoji-t2i", threads=threads, side="detokenizer"),
        )
        baseline, few = (TexTok.from_pretrained(name, threads=threads) for name in ("emoji-baseline", "emoji-textok-4"))
        tick.update()
        demo.reconstruct(held_out, by_class.textok, baseline, few)
        tick.update()
        demo.classes(by_class)
        tick.update()
        demo.captions(by_text, held_out)
        tick.update()
    table = out / "table.txt"
    files.write_text(table, "\n".join(demo.lines) + "\n")
    say("\n".join(demo.lines))
    say(f"\n{time.perf_counter() - start:.1f} s in all. Pictures with their captions, and this table:")
    for path in [*demo.files, table]:
        say(f"  {path}")
    say(f"Models and pictures: {bundled.FOLDER}")
    return [*demo.files, table]
