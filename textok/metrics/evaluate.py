"""Evaluations of whole sets of pictures: sources in, numbers and a result file out. `textok eval` is this with arguments.

    Evaluation(...).reconstruction(sets, reference)   PSNR, SSIM, a perceptual distance, and rFID, rIS, rKID
    Evaluation(...).samples(sets, reference)          FID, KID, precision, recall, IS
    Evaluation(...).text(sets)                        CLIP score

A set is anything `textok.data.read_samples` reads. Every number that comes from a network is called by it,
`fid@efficientnet-lite0`, so that a stand-in's is never taken for Inception-v3's. The reference is always cropped as
`textok.preprocess` does it, to the size of the sets.

A result is a folder: `result.json` (numbers, and all that they depend on), `pictures.npz` (each picture's numbers, and
examples to look at) and `cache` (what the networks computed, so that a second run completes a first).
"""

import importlib.metadata
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import spread
from ..errors import DataError
from ..files import replacing, write_json
from ..networks import FeatureNetwork
from ..progress import progress_bar
from ..version import __version__
from .cache import Arrays, Cache
from .feature_statistics import Statistics
from .gathered import GatheredFeatures
from .picture_sets import PictureSet, chosen_of, has_statistics_of, is_statistics, made_with, paired
from .pictures import SSIM_SETTINGS
from .registry import PAIR_METRICS, SET_METRICS, SET_SETTINGS, TEXT_METRIC, Comparison

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]

FORMAT = 1
RESULT_FILE, PICTURES_FILE, CACHE_FOLDER = "result.json", "pictures.npz", "cache"
EXAMPLES = 8  # of each kind: evenly spread, worst, best
CROP = "ADM centre crop (textok.preprocess)"
LIBRARIES = ("numpy", "pillow", "scikit-image", "torch", "onnxruntime", "transformers", "efficientnet_lite_pytorch")


@dataclass
class Evaluation:
    """What evaluations have in common.

    Parameters
    ----------
    out
        Folder of the result.
    network
        Where features and probabilities come from; None leaves what needs them out.
    perceptual, perceptual_name
        A function of pictures and originals that gives a distance of each pair, and its name. Its attribute `fingerprint`,
        where it has one, tells its weights from others.
    size
        Pixels a side; None takes the first set's.
    seed
        Of the inception score's shuffle and KID's subsets.
    notes
        What is to be known of each set beside its source: steps, tokens, seconds, ...
    use_cache, cache_folder
        Whether what networks computed is kept, and where, so that evaluations may share it; None is `out`/cache.
    """

    out: Path
    network: FeatureNetwork | None = None
    perceptual: Any = None
    perceptual_name: str = ""
    size: int | None = None
    seed: int = 0
    caption: str = "caption"
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    progress: bool = False
    use_cache: bool = True
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        self.cache = Cache((self.cache_folder or self.out / CACHE_FOLDER) if self.use_cache else None)

    # ---- the three evaluations ----

    def reconstruction(self, sets: Mapping[str, Any], reference: Any) -> dict[str, Any]:
        """How close each set is to the originals, by picture and as a whole; returns the result, which is also written."""
        rows: list[dict[str, Any]] = []
        values: dict[str, F64] = {}
        first_keys: list[str] | None = None
        for name, source in sets.items():
            made = PictureSet(source, self.size, caption=self.caption)
            originals = self._reference(reference, made)
            scores: dict[str, list[F64]] = {}
            kept, kept_real, keys = GatheredFeatures(self.seed), GatheredFeatures(self.seed), []
            with progress_bar(self.progress, 0, f"picture of {name}") as bar:
                for part, wanted in paired(made, originals):
                    for key, value in self._pair_scores(part.pictures, wanted).items():
                        scores.setdefault(key, []).append(value)
                    kept.add(self._features(part.pictures))
                    kept_real.add(self._features(wanted))
                    keys += part.keys
                    bar.update(len(part.keys))
            if first_keys is None:
                first_keys, real = keys, kept_real
            elif first_keys != keys:
                raise DataError(f"{source}: expected the same pictures as in the first set, so that the two compare")
            joined = {key: np.concatenate(value) for key, value in scores.items()}
            pixels = (made.size or 1) ** 2 * 3
            exact = int(np.isinf(joined["psnr"]).sum())
            bounded = joined | {"psnr": np.minimum(joined["psnr"], _most_psnr(pixels))}
            metrics: dict[str, Any] = {key: _mean(value) for key, value in bounded.items()}
            if self.network is not None:
                metrics |= self._set_metrics(kept, real, paired=True)
            values |= {f"{name}/{key}": value for key, value in joined.items()}
            unpaired = {"originals_without_picture": originals.unpaired}
            told = (
                f"{exact:,} of {made.count:,} pictures are equal to their originals; in the mean PSNR each counts as "
                f"{_most_psnr(pixels):.2f} dB, what one value that is off by one makes"
            )
            remarks = [told] if exact else []
            if self.network is not None:
                remarks += _of_few("rfid", made.count, kept)
            rows.append(self._row(name, made, metrics, remarks) | unpaired)
        settings = {"psnr": "mean over pictures, data range 255", "ssim": "Wang et al. 2004: " + _words(SSIM_SETTINGS)}
        if self.network is not None:
            settings["rkid"] = "as kid, without a picture's own original in the mean between the sets"
        self._write_pictures(sets, reference, first_keys or [], values, rows[0]["count"])
        return self._write("reconstruction", rows, self._about(originals), settings)

    def samples(self, sets: Mapping[str, Any], reference: Any) -> dict[str, Any]:
        """How close the distribution of each set is to that of the reference: pictures, or a file of statistics."""
        network = self._needed("samples")
        rows: list[dict[str, Any]] = []
        real: GatheredFeatures | None = None
        originals = statistics = None
        for name, source in sets.items():
            made = PictureSet(source, self.size, caption=self.caption)
            kept = self._all_features(made, name)
            if real is None:
                if has_statistics_of(reference, network.name, kept.features.shape[1]):
                    statistics = Statistics.load(reference)
                    real = GatheredFeatures(statistics=statistics)
                    if len(statistics.mean) != kept.features.shape[1]:
                        width = len(statistics.mean)
                        wanted = f"{kept.features.shape[1]} features of {network.name}"
                        raise DataError(f"{reference}: expected statistics of {wanted}, got {width}")
                else:
                    originals = self._reference(reference, made)
                    real = self._all_features(originals, "the reference")
            rows.append(self._row(name, made, self._set_metrics(kept, real), _of_few("fid", made.count, kept)))
        about = {"source": str(reference), "count": statistics.count} if statistics is not None else self._about(originals)
        self._write_pictures(sets, None, [], {}, min(row["count"] for row in rows))
        return self._write("samples", rows, about, {})

    def text(self, sets: Mapping[str, Any]) -> dict[str, Any]:
        """How well each set fits its own captions, by CLIP."""
        network: Any = self._needed("text")
        if not hasattr(network, "embed_texts"):
            raise ValueError(f"network: expected a transformers folder of CLIP for captions, got {network.name}")
        rows, values = [], {}
        for name, source in sets.items():
            made, scores, network.truncated = PictureSet(source, self.size, caption=self.caption), [], 0
            with progress_bar(self.progress, 0, f"picture of {name}") as bar:
                for part in made:
                    missing = [key for key, caption in zip(part.keys, part.captions) if not caption]
                    if missing:
                        raise DataError(f"{source}: {missing[0]}: expected a caption in the field {self.caption!r}, got none")
                    scores.append(
                        TEXT_METRIC.function(self._features(part.pictures)["features"], network.embed_texts(part.captions))
                    )
                    bar.update(len(part.keys))
            score = f"{TEXT_METRIC.name}@{network.name}"
            values[f"{name}/{score}"] = np.concatenate(scores)
            rows.append(
                self._row(name, made, {score: _mean(values[f"{name}/{score}"])}) | {"captions_truncated": network.truncated}
            )
        self._write_pictures(sets, None, [], values, min(row["count"] for row in rows))
        return self._write("text", rows, None, {"clip_score": "100 max(0, cosine), mean over pairs"})

    # ---- parts of them ----

    def _needed(self, kind: str) -> FeatureNetwork:
        if self.network is None:
            raise ValueError(f"network: expected one for an evaluation of {kind}, got none")
        return self.network

    def _reference(self, source: Any, made: PictureSet) -> PictureSet:
        if is_statistics(source):
            raise DataError(f"{source}: expected the original pictures, got statistics; only samples compare with those")
        if made.size is None:
            with closing(iter(made)) as parts:  # the size is the first picture's
                next(parts)
        return PictureSet(source, made.size, crop=True, caption=self.caption)

    def _features(self, pictures: U8) -> Arrays:
        network = self.network
        if network is None:
            return {}

        def compute() -> Arrays:
            out = network(pictures)
            return {"features": out.features} | ({} if out.probabilities is None else {"probabilities": out.probabilities})

        return self.cache.get(f"features {network.fingerprint}", [pictures], compute)

    def _all_features(self, pictures: PictureSet, name: str) -> "GatheredFeatures":
        kept = GatheredFeatures(self.seed)
        with progress_bar(self.progress, 0, f"picture of {name}") as bar:
            for part in pictures:
                kept.add(self._features(part.pictures))
                bar.update(len(part.keys))
        return kept

    def _pair_scores(self, pictures: U8, originals: U8) -> dict[str, F64]:
        def compute() -> Arrays:
            scores: Arrays = {metric.name: metric.function(pictures, originals) for metric in PAIR_METRICS}
            if self.perceptual is not None:
                scores[self.perceptual_name] = self.perceptual(pictures, originals)
            return scores

        what = f"pairs 2 {SSIM_SETTINGS} {self.perceptual_name} {self._perceptual_fingerprint()}"
        return self.cache.get(what, [pictures, originals], compute)

    def _perceptual_fingerprint(self) -> str:
        return getattr(self.perceptual, "fingerprint", "")

    def _set_metrics(self, made: GatheredFeatures, real: GatheredFeatures, paired: bool = False) -> dict[str, Any]:
        """Numbers by name, and behind `_deviation` what belongs to them; "r" stands before those of reconstructions."""
        assert self.network is not None
        prefix, at = "r" if paired else "", f"@{self.network.name}"
        both = Comparison(made, real, paired, self.seed)
        result: dict[str, Any] = {}
        for metric in SET_METRICS:
            found = metric.function(both)
            values = found if isinstance(found, tuple) else (found,)
            for kind, value in zip(("", "_deviation"), values):
                if value is not None:
                    result[f"{prefix}{metric.name}{kind}{at}"] = value
        return result

    def _row(self, name: str, made: PictureSet, metrics: Mapping[str, Any], remarks: Sequence[str] = ()) -> dict[str, Any]:
        return {
            "name": name,
            "source": str(made.source),
            "count": made.count,
            "size": made.size,
            "skipped": [skip._asdict() for skip in made.skips],
            "settings": made_with(made.source) | dict(self.notes.get(name, {})),
            "metrics": dict(metrics),
        } | ({"remarks": list(remarks)} if remarks else {})

    def _about(self, originals: PictureSet | None) -> dict[str, Any] | None:
        if originals is None:
            return None
        about = {"source": str(originals.source), "count": originals.count, "preprocessing": f"{CROP} to {originals.size}"}
        return about | {"skipped": [skip._asdict() for skip in originals.skips]}

    def _write(
        self, kind: str, rows: list[dict[str, Any]], reference: dict[str, Any] | None, settings: dict[str, Any]
    ) -> dict[str, Any]:
        if self.perceptual is not None:
            settings = settings | {"perceptual": self.perceptual_name, "perceptual_fingerprint": self._perceptual_fingerprint()}
        network = None if self.network is None else self.network.describe()
        return result_file(
            self.out / RESULT_FILE, kind, rows, network=network, reference=reference, settings=settings, seed=self.seed
        )

    def _write_pictures(
        self, sets: Mapping[str, Any], reference: Any, keys: Sequence[str], values: Mapping[str, F64], count: int
    ) -> None:
        """Each picture's numbers; and examples: evenly spread, and where the first set is worst and best."""
        arrays: dict[str, Any] = {f"value/{name}": value for name, value in values.items()}
        if keys:
            arrays["keys"] = np.array(keys)
        chosen: dict[str, list[int]] = {"spread": spread(count, EXAMPLES)}
        order = next(
            (np.argsort(value[:count]) for name, value in values.items() if "psnr" in name or "clip_score" in name), None
        )
        if order is not None:
            chosen |= {"worst": order[:EXAMPLES].tolist(), "best": order[::-1][:EXAMPLES].tolist()}
        places = sorted({place for group in chosen.values() for place in group})
        for name, source in sets.items():
            found = chosen_of(PictureSet(source, self.size, caption=self.caption), places)
            arrays[f"set/{name}"] = np.stack([found[place][1] for place in places])
            arrays.setdefault("example_keys", np.array([keys[place] if keys else found[place][0] for place in places]))
            arrays.setdefault("example_captions", np.array([found[place][2] for place in places]))
        if reference is not None:
            first = PictureSet(next(iter(sets.values())), self.size, caption=self.caption)
            originals: dict[int, U8] = {}
            start = 0
            for part, wanted in paired(first, self._reference(reference, first)):
                originals |= {place: wanted[place - start] for place in places if start <= place < start + len(part.keys)}
                start += len(part.keys)
            arrays["originals"] = np.stack([originals[place] for place in places])
        arrays |= {f"places/{group}": np.searchsorted(places, found) for group, found in chosen.items()}
        self.out.mkdir(parents=True, exist_ok=True)
        with replacing(self.out / PICTURES_FILE) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)


def gather_statistics(sources: Iterable[Any], evaluation: Evaluation, size: int | None = None) -> Statistics:
    """Statistics of pictures (cropped to `size`) and of statistics files together: the parts of shards and machines merged."""
    total: Statistics | None = None
    part: Statistics | None
    for source in sources:
        if is_statistics(source):
            loaded = part = Statistics.load(source)
            if loaded.count is None:
                raise DataError(f"{source}: expected statistics with a count, to be merged; this file has none")
        else:
            evaluation._needed("pictures")
            pictures = PictureSet(source, size, crop=size is not None)
            part = evaluation._all_features(pictures, str(source)).statistics
            for skip in pictures.skips:
                logging.getLogger(__name__).warning("%s %s: %s", skip.source, skip.key, skip.reason)
        if part is not None:
            total = part if total is None else total.merge(part)
    if total is None:
        raise ValueError("sources: expected at least one, got none")
    return total


def result_file(
    path: Path,
    kind: str,
    sets: list[dict[str, Any]],
    *,
    network: dict[str, Any] | None,
    reference: dict[str, Any] | None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a result in the form that `textok report` reads; returns it."""
    versions = {"textok": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    result = {
        "format": f"textok-eval {FORMAT}",
        "kind": kind,
        "sets": sets,
        "reference": reference,
        "network": network,
        "settings": dict(settings or {}) | (SET_SETTINGS if network else {}),
        "seed": seed,
        "versions": versions,
    }
    write_json(path, result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The numbers as text: a line a metric, a column a set."""
    sets = result["sets"]
    keys = list(dict.fromkeys(key for row in sets for key in row["metrics"] if "_deviation" not in key))
    width = max(12, *(len(row["name"]) + 2 for row in sets))
    first = max([*map(len, keys), 8]) + 2
    lines = [" " * first + "".join(f"{row['name']:>{width}}" for row in sets)]
    lines.append(f"{'pictures':{first}}" + "".join(f"{row['count']:>{width}}" for row in sets))
    for key in keys:
        cells = (f"{row['metrics'][key]:.5g}" if row["metrics"].get(key) is not None else "-" for row in sets)
        lines.append(f"{key:{first}}" + "".join(f"{cell:>{width}}" for cell in cells))
    network = result.get("network")
    if network:
        note = f", a stand-in for {network['stand_in_for']}" if network.get("stand_in_for") else ""
        lines.append(f"features: {network['name']}{note}; {network['preprocessing']}")
    if result.get("reference"):
        about = result["reference"]
        lines.append(
            f"reference: {about['source']}, {about['count']} pictures"
            + (f", {about['preprocessing']}" if "preprocessing" in about else "")
        )
    lines += [f"{row['name']}: {remark}" for row in sets for remark in row.get("remarks", ())]
    skipped = sum(len(row.get("skipped", [])) for row in [*sets, result.get("reference") or {}])
    if skipped:
        lines.append(f"{skipped} pictures could not be read and are left out; the result file names them")
    return "\n".join(lines)


def _most_psnr(values: int) -> float:
    """The PSNR of a picture of so many values one of which is off by one: the highest that is not infinite."""
    return 10 * float(np.log10(255.0**2 * values))


def _of_few(name: str, count: int, kept: GatheredFeatures) -> list[str]:
    """What is to be said of a Fréchet distance over no more pictures than its features are wide."""
    width = 0 if kept.statistics is None else len(kept.statistics.mean)
    if count > width:
        return []
    return [
        f"{name} of {count:,} pictures with {width:,} features: their covariance is not of full rank and the number far "
        "too high; compare it with such of as many pictures only, or take KID"
    ]


def _mean(values: F64) -> float | None:
    """None where it is no number, which JSON has no word for."""
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())
