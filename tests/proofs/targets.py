"""Every public function and method with right values for its arguments, which `calls.py` spoils; what is left out, and why."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import BERT, SIDE, Models
from PIL import Image

import textok
from textok import data, metrics, viz

MODULES = ("textok", "textok.data", "textok.metrics", "textok.viz")
# What is left out takes minutes a call, or a network of gigabytes, or nothing that can be wrong.
LEFT_OUT = {
    "ConfigError",
    "DataError",
    "TextokError",
    "WeightsError",
    "cpu_info",
    "get_num_threads",
    "list_models",  # no arguments, or any
    "TextEncoder.pooled",
    "TextEncoder.tokenize",  # of encoders with a vocabulary: TextEncoder.__call__ has the same arguments
    "DiT.conditions",
    "DiT.run_sampling",  # the halves of `sample`
    "data.Source",
    "data.Source.files",
    "data.Source.read",
    "data.Source.state",
    "data.Source.note",  # what subclasses fill in
    "data.Summary",
    "data.TarWriter.close",
    "data.TarWriter.abandon",
    "data.open_rows.close",
    "data.open_rows.read",
    "viz.axes",
    "metrics.Statistics.covariance",
    "PipelineResult.contact_sheet",
    "EmbeddingStore.refresh",
    "EmbeddingStore.verify",
}
TINY = {
    "image_size": 16,
    "patch_size": 8,
    "num_latent_tokens": 4,
    "latent_dim": 5,
    "text_dim": 8,
    "num_text_tokens": 5,
    "tokenizer": {"hidden_size": 8, "depth": 1, "num_heads": 1},
    "detokenizer": {"hidden_size": 8, "depth": 1, "num_heads": 1},
}
TINY_DIT = {"num_tokens": 4, "hidden_size": 8, "depth": 1, "num_heads": 1, "num_classes": 3, "time_freq_dim": 8}
Target = tuple[str, Callable[..., Any], dict[str, list[Any]], float]


def public() -> Iterator[str]:
    """The names of all public functions, classes and their methods, as the pages have them."""
    for module in map(importlib.import_module, MODULES):
        prefix = module.__name__.removeprefix("textok").lstrip(".")
        for name in module.__all__:
            thing = getattr(module, name)
            full = f"{prefix}.{name}".lstrip(".")
            if callable(thing):
                yield full
            if inspect.isclass(thing):
                for method, value in inspect.getmembers(thing):
                    inner = inspect.isfunction(value) or inspect.ismethod(value)
                    if inner and not method.startswith("_") and value.__module__.startswith("textok"):
                        yield f"{full}.{method}"


def untried(targets: list[Target]) -> list[str]:
    return sorted({*public()} - {name.split(" ")[0] for name, *_ in targets} - LEFT_OUT)


def targets(models: Models) -> list[Target]:
    """(name, itself, right values of each argument, how often beside the others); the current folder is for what they write."""
    files(models)
    return [*of_models(models), *of_configs(), *of_text(models), *of_data(models), *of_metrics(), *of_pictures()]


def files(models: Models) -> None:
    """What functions read, in the current folder."""
    models.textok.save_pretrained("model")
    models.dit.save_pretrained("dit")
    models.encoder.save_pretrained("encoder")
    pipeline(models).save_pretrained("pipe")
    Path("pictures").mkdir()
    for key in range(2):
        Image.fromarray(np.full((16, 16, 3), 100 * key, np.uint8)).save(f"pictures/{key}.png")
        Path(f"pictures/{key}.txt").write_text("a")
    np.save("latents.npy", models.z)
    np.savez("pictures.npz", arr_0=np.zeros((2, 16, 16, 3), np.uint8), arr_1=np.arange(2))
    np.savez("text.npz", text=np.ones((2, 3, 12), np.float32), captions=np.array(["a", "b"]))
    metrics.Statistics.of([np.eye(3)]).save("statistics.npz")
    captions().save("captions")
    textok.EmbeddingStore.create("store", {"name": "none"}, 12).add(["a", "b"], np.ones((2, 3, 12), np.float32))


def captions() -> textok.CaptionStore:
    records = [{"caption": "a", "label": 0}, {"caption": "b", "label": 1}, {"caption": "c", "label": 2}]
    return textok.CaptionStore(records, np.ones((4, 12), np.float32), [0, 1, 2, 4])


def pipeline(models: Models) -> textok.Pipeline:
    config = TINY_DIT | {
        "num_tokens": 6,
        "in_channels": 5,
        "condition": "text",
        "text_dim": 12,
        "num_text_tokens": 7,
        "num_classes": 0,
    }
    return textok.Pipeline(models.textok, textok.DiT.from_config(config))


def of_models(m: Models) -> list[Target]:
    text, lengths = m.captions["text"], m.captions["text_lengths"]
    run = {"threads": [None, 1, 1, 1, 2], "batch_size": [None, 1, 2], "progress": [False]}
    words = {"text": [text], "text_lengths": [lengths, None]}
    noisy = np.ones((2, *m.dit.config.latent_shape), np.float32)
    sampling = {
        "steps": [1, 2, None],
        "solver": ["ddim", "ddpm", None],
        "spacing": ["linspace", "trailing"],
        "eta": [0.0],
        "guidance_scale": [1.0, 2.0, None],
        "guidance_interval": [None, (10.0, 500.0)],
        "seed": [0, 1, None],
        "first_index": [0, 5],
        "noise": [None, noisy],
        "step_noise": [None],
        "callback": [None, lambda *a: None],
    } | run
    loading = {"dtype": ["float32", "int8", "bfloat16"], "threads": [None, 1]}
    weights, dit_weights = m.textok.weights(), m.dit.weights()
    images = np.zeros((2, 16, 16, 3), np.uint8)
    pipe, result = pipeline(m), textok.PipelineResult(images, m.z, None, [0, 1], 0)
    made = {"images": [images], "latents": [m.z], "captions": [None, ["a", "b"]], "labels": [None, [0, 1]], "seed": [0]}
    return [
        (
            "TexTok",
            textok.TexTok,
            {"config": [m.textok.config], "weights": [weights], "side": ["both", "tokenizer"]} | loading,
            0.3,
        ),
        ("TexTok.encode", m.textok.encode, {"x": [m.x]} | words | run, 1),
        ("TexTok.decode", m.textok.decode, {"z": [m.z], "output": ["float32", "uint8"]} | words | run, 1),
        ("TexTok.reconstruct", m.textok.reconstruct, {"x": [m.x]} | words | run, 1),
        ("TexTok.memory_plan", m.textok.memory_plan, {"batch": [1, 3]}, 0.5),
        ("TexTok.weights", m.textok.weights, {}, 0.1),
        ("TexTok.save_pretrained", m.textok.save_pretrained, {"folder": ["saved"]}, 0.05),
        (
            "TexTok.from_pretrained",
            textok.TexTok.from_pretrained,
            {"path": ["model", "dit", "/dev/null", "nothing"]} | loading,
            0.3,
        ),
        ("DiT", textok.DiT, {"config": [m.dit.config], "weights": [dit_weights]} | loading, 0.3),
        ("DiT.denoise", m.dit.denoise, {"x": [noisy], "t": [[3, 900]], "labels": [[1, 2]], "null": [False], "threads": [1]}, 1),
        ("DiT.sample", m.dit.sample, {"labels": [[1, 2]]} | sampling, 1),
        ("DiT.sample text", m.dit_text.sample, {"text": [m.text], "text_lengths": [None, [1, 3]]} | sampling, 1),
        ("DiT.for_latents_of", m.dit.for_latents_of, {"tokenizer": [m.textok.config]}, 0.1),
        ("DiT.memory_plan", m.dit.memory_plan, {"batch": [1, 3]}, 0.5),
        ("DiT.weights", m.dit.weights, {}, 0.1),
        ("DiT.save_pretrained", m.dit.save_pretrained, {"folder": ["saved-dit"]}, 0.05),
        ("DiT.from_pretrained", textok.DiT.from_pretrained, {"path": ["dit", "model", "pipe"]} | loading, 0.3),
        (
            "Pipeline",
            textok.Pipeline,
            {
                "textok": [m.textok],
                "dit": [pipe.dit, m.dit],
                "captions": [None, captions()],
                "sampling": [None],
                "class_names": [None, ["a", "b", "c"]],
            },
            0.3,
        ),
        (
            "Pipeline.__call__",
            pipe,
            {"text": [np.ones((2, 3, 12), np.float32)], "text_lengths": [None, [1, 3]], "output": ["uint8"]} | sampling,
            1,
        ),
        ("Pipeline.save_pretrained", pipe.save_pretrained, {"folder": ["saved-pipe"]}, 0.05),
        (
            "Pipeline.from_pretrained",
            textok.Pipeline.from_pretrained,
            {"path": ["pipe", "model"], "side": ["both", "detokenizer"]} | loading,
            0.2,
        ),
        ("PipelineResult", lambda **c: textok.PipelineResult(**c).save("results", overwrite=True), made, 0.2),
        ("PipelineResult.save", result.save, {"folder": ["result"], "overwrite": [True, False]}, 0.1),
        ("TextEncoder", textok.TextEncoder, {"config": [BERT], "weights": [m.encoder.weights()]} | loading, 0.3),
        ("TextEncoder.__call__", m.encoder, {"captions": [["a"], "b"], "max_tokens": [None, 5]}, 0.3),
        (
            "TextEncoder.encode_ids",
            m.encoder.encode_ids,
            {"ids": [[[1, 2], [3]]], "pad_to": [None, 6], "threads": [None, 1]},
            1,
        ),
        ("TextEncoder.pooled_ids", m.encoder.pooled_ids, {"ids": [[[1, 2], [3]]], "threads": [None, 1]}, 0.3),
        ("TextEncoder.memory_plan", m.encoder.memory_plan, {"batch": [1, 3], "tokens": [None, 5]}, 0.5),
        ("TextEncoder.weights", m.encoder.weights, {}, 0.1),
        ("TextEncoder.save_pretrained", m.encoder.save_pretrained, {"folder": ["saved-encoder"]}, 0.05),
        ("TextEncoder.from_pretrained", textok.TextEncoder.from_pretrained, {"path": ["encoder", "model"]} | loading, 0.3),
        ("set_num_threads", textok.set_num_threads, {"n": [1, 2]}, 0.5),
    ]


def of_configs() -> list[Target]:
    """What is left out of a call is as in a tiny model: the defaults are of large ones."""
    sizes = {
        "image_size": [16, 32],
        "patch_size": [4, 8],
        "num_latent_tokens": [4],
        "text_dim": [8],
        "num_text_tokens": [5],
        "tokenizer": [TINY["tokenizer"]],
        "detokenizer": [TINY["tokenizer"]],
        "rope": [None, {"rows": "patches"}],
        "codebook": [None, {"runs": 2, "size": 4}],
        "patch_overlap": [0, 2],
        "num_registers": [0, 1],
        "num_classes": [0, 3],
        "text_condition": ["both", "none", "decoder"],
        "text_mask": [False, True],
        "norm_eps": [1e-6],
    }
    dit = {
        "num_tokens": [4],
        "hidden_size": [8],
        "depth": [1],
        "num_heads": [1],
        "num_classes": [3],
        "prediction": ["v", "velocity"],
        "beta_schedule": ["linear", "cosine"],
        "learn_sigma": [True, False],
        "time_freq_dim": [8],
        "latent_mean": [None, [0.0] * 8],
    }
    side = {"hidden_size": [8], "depth": [1], "num_heads": [1, 2], "mlp_ratio": [4.0]}
    bert = {key: [value] for key, value in BERT.items()}
    loading = {"seed": [0, 1], "dtype": ["float32", "int8", "bfloat16"], "threads": [None, 1]}
    config = textok.TexTokConfig.from_dict(TINY)
    of_dict = {"values": [TINY, TINY_DIT, BERT, SIDE]}
    return [
        ("TexTokConfig", textok.TexTokConfig, sizes, 1),
        ("TexTokConfig.from_dict", textok.TexTokConfig.from_dict, of_dict, 0.3),
        ("TexTokConfig.to_dict", config.to_dict, {}, 0.1),
        ("TexTokConfig.has_text", config.has_text, {"side": ["tokenizer", "detokenizer"]}, 0.2),
        ("TexTok.from_config", lambda **c: textok.TexTok.from_config(TINY | c, seed=0), sizes, 1),
        ("TexTok.from_config loading", textok.TexTok.from_config, {"config": [config]} | loading, 0.05),
        ("DiTConfig", textok.DiTConfig, dit, 1),
        ("DiTConfig.from_dict", textok.DiTConfig.from_dict, of_dict, 0.3),
        ("DiTConfig.to_dict", textok.DiTConfig(**TINY_DIT).to_dict, {}, 0.1),
        ("DiT.from_config", lambda **c: textok.DiT.from_config(TINY_DIT | c, seed=0), dit, 1),
        ("DiT.from_config loading", textok.DiT.from_config, {"config": [TINY_DIT]} | loading, 0.5),
        ("SideConfig", textok.SideConfig, side, 0.5),
        ("SideConfig.from_dict", textok.SideConfig.from_dict, of_dict | {"where": ["", "x"]}, 0.3),
        ("SideConfig.to_dict", textok.SideConfig(**SIDE).to_dict, {}, 0.1),
        ("TextEncoderConfig", textok.TextEncoderConfig, bert, 1),
        ("TextEncoderConfig.from_dict", textok.TextEncoderConfig.from_dict, of_dict, 0.3),
        ("TextEncoderConfig.to_dict", textok.TextEncoderConfig.from_dict(BERT).to_dict, {}, 0.1),
        ("TextEncoder.from_config", lambda **c: textok.TextEncoder.from_config(BERT | c, seed=0), bert, 1),
    ]


def of_text(m: Models) -> list[Target]:
    store, other = textok.EmbeddingStore.open("store"), textok.EmbeddingStore.create("other", {"name": "none"}, 12)
    embedded = textok.EmbeddingStore.create("embedded", {"name": "none"}, 16)
    kept, text = captions(), np.ones((2, 3, 12), np.float32)
    records = [[{"caption": "a", "label": 0}, {"caption": "b"}]]
    names = {"names": [["a", "b"], "a"]}
    return [
        (
            "open_embeddings",
            textok.open_embeddings,
            {"path": ["store", "text.npz", "captions", "latents.npy", "model", "/dev/null"]},
            0.5,
        ),
        ("EmbeddingStore", textok.EmbeddingStore, {"path": ["store", "captions"]}, 0.3),
        ("EmbeddingStore.open", textok.EmbeddingStore.open, {"path": ["store", "captions"]}, 0.3),
        (
            "EmbeddingStore.create",
            textok.EmbeddingStore.create,
            {"path": ["store"], "encoder": [{"name": "none"}], "text_dim": [12], "dtype": ["float16", "int8"]},
            0.3,
        ),
        (
            "EmbeddingStore.add",
            store.add,
            {"captions": [["a", "b"], ["c", "d"]], "text": [text], "text_lengths": [None, [1, 3]]},
            0.5,
        ),
        ("EmbeddingStore.embeddings", store.embeddings, names, 1),
        ("EmbeddingStore.missing", store.missing, {"captions": [["a", "e"]]}, 0.5),
        (
            "EmbeddingStore.merge",
            lambda others, progress=False: store.merge(others, progress=progress),
            {"others": [other]},
            0.1,
        ),
        (
            "EmbeddingStore.embed",
            embedded.embed,
            {"captions": [["a", "b"]], "encoder": [m.encoder], "batch_size": [1, 32]},
            0.1,
        ),
        (
            "CaptionStore",
            textok.CaptionStore,
            {"records": records, "tokens": [np.ones((3, 4), np.float32)], "offsets": [[0, 1, 3]]},
            1,
        ),
        (
            "CaptionStore.from_embeddings",
            textok.CaptionStore.from_embeddings,
            {"records": records, "embeddings": [store, kept]},
            0.5,
        ),
        ("CaptionStore.from_folder", textok.CaptionStore.from_folder, {"folder": ["captions", "store"]}, 0.3),
        ("CaptionStore.save", kept.save, {"folder": ["saved-captions"]}, 0.05),
        ("CaptionStore.captions", kept.captions, {"indices": [[0, 2], np.array([1])]}, 0.5),
        ("CaptionStore.embeddings", kept.embeddings, {"names": [["a", "b"], [0, 2], np.array([1])]}, 1),
        (
            "CaptionStore.draw",
            kept.draw,
            {"labels": [[0, 1]], "seed": [0, 7], "first_index": [0, 5], "any_label": [None, 3]},
            1,
        ),
    ]


def of_data(m: Models) -> list[Target]:
    paths = ["pictures", "pictures.npz", "pictures/0.png", "latents.npy", "/dev/null", "nothing"]
    run = {
        "batch_size": [1, 16],
        "shard_size": [1, 2048],
        "threads": [None, 1],
        "overwrite": [True, False],
        "strict": [False, True],
        "field": ["caption"],
        "share": [(0, 1)],
        "embeddings": ["text.npz", "store"],
        "dtype": ["float32"],
    }
    reading = {"skips": [None, []], "strict": [False, True]}
    images = np.zeros((2, 16, 16, 3), np.uint8)
    sample = data.Sample("a", None, {"caption": "x"}, "here")
    caption = {"name": ["caption", "a photo of {caption}"]}

    def counted(latents: Any) -> Any:
        statistics = data.LatentStatistics(5)
        statistics.update(latents)
        return statistics.to_dict()

    def written(key: Any, files: Any) -> None:
        with data.TarWriter("written.tar") as tar:
            tar.add(key, files)

    def rows(path: Any, names: Any = ("arr_0",), start: Any = 0) -> Any:
        with data.open_rows(path, names) as opened:
            return list(opened.read(start))

    contents = [[("a", {"json": {"x": 1}, "txt": "a", "png": images[0], "npz": {"latent": m.z[0]}})]]
    return [
        (
            "data.read_samples",
            lambda **c: list(data.read_samples(**c)),
            {"paths": paths, "need": [("picture",)], "field": ["caption"], "pictures": [True, False]} | reading,
            0.5,
        ),
        (
            "data.batches",
            lambda **c: list(data.batches(**c)),
            {"paths": paths, "size": [8, 16], "batch_size": [1, 16], "threads": [1, 2], "embeddings": [None, "text.npz"]}
            | reading,
            0.2,
        ),
        ("data.read_latents", lambda **c: list(data.read_latents(**c)), {"paths": paths} | reading, 0.3),
        ("data.latent_statistics", data.latent_statistics, {"paths": paths} | reading, 0.3),
        ("data.open_sources", data.open_sources, {"paths": paths, "without": [None, "pictures"]}, 0.5),
        ("data.read_adm", data.read_adm, {"path": paths}, 0.5),
        (
            "data.write_adm",
            data.write_adm,
            {"path": ["adm.npz"], "pictures": [images], "count": [2], "labels": [None, [0, 1]]},
            0.2,
        ),
        ("data.open_rows", rows, {"path": paths, "names": [("arr_0",)], "start": [0, 1]}, 0.5),
        (
            "data.write_shards",
            data.write_shards,
            {"samples": contents, "folder": ["shards"], "prefix": ["shard"], "size": [1, 2048]},
            0.1,
        ),
        ("data.TarWriter", data.TarWriter, {"path": ["written.tar"]}, 0.05),
        ("data.TarWriter.add", written, {"key": ["a", "b/c"], "files": [{"txt": b"a"}]}, 0.1),
        (
            "data.encode",
            data.encode,
            {"model": ["model"], "sources": paths, "out": ["encoded"], "format": ["npz", "safetensors"], "flip": [False, True]}
            | run,
            0.05,
        ),
        (
            "data.decode",
            data.decode,
            {"model": ["model"], "latents": ["latents.npy", "encoded"], "out": ["decoded"], "format": ["png", "shards", "npz"]}
            | run,
            0.05,
        ),
        (
            "data.sample",
            data.sample,
            {
                "model": ["pipe", "dit"],
                "num": [1, 2],
                "out": ["sampled"],
                "caption": ["a"],
                "seed": [0],
                "steps": [1, 2],
                "solver": ["ddim", None],
                "guidance_scale": [None, 2.0],
            }
            | run,
            0.05,
        ),
        (
            "data.RunOptions",
            data.RunOptions,
            {key: value for key, value in run.items() if key in ("batch_size", "shard_size", "threads")}
            | {"share": [(0, 1), (1, 2)], "processes": [1, 2]},
            0.5,
        ),
        (
            "data.Batch",
            data.Batch,
            {"keys": [["a"]], "pictures": [images], "text": [None], "text_lengths": [None], "metadata": [[{}]]},
            0.1,
        ),
        (
            "data.Latent",
            data.Latent,
            {"key": ["a"], "latent": [m.z], "flipped": [None], "metadata": [{}], "source": ["x"]},
            0.1,
        ),
        (
            "data.Skip",
            lambda **c: str(data.Skip(**c)),
            {"key": ["a"], "source": ["x"], "reason": ["why"], "position": [0]},
            0.2,
        ),
        (
            "data.Sample",
            lambda **c: data.Sample(**c).captions(),
            {"key": ["a"], "picture": [None, b"x"], "metadata": [{"caption": "x"}], "source": ["x"]},
            0.3,
        ),
        ("data.Sample.captions", sample.captions, caption, 0.3),
        ("data.Sample.caption", sample.caption, caption, 0.3),
        ("data.Sample.caption_for", sample.caption_for, {"field": ["caption", "short", "name"]}, 0.3),
        ("data.Sample.captions_for", sample.captions_for, {"field": ["caption", "short", "name"]}, 0.3),
        ("data.LatentStatistics", lambda **c: data.LatentStatistics(**c).to_dict(), {"channels": [5], "count": [0]}, 0.2),
        ("data.LatentStatistics.update", counted, {"latents": [m.z]}, 0.5),
        ("data.LatentStatistics.to_dict", counted, {"latents": [m.z]}, 0.1),
        (
            "data.LatentStatistics.merge",
            lambda other: data.LatentStatistics(5).merge(other),
            {"other": [data.LatentStatistics(5)]},
            0.2,
        ),
    ]


def of_metrics() -> list[Target]:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    rows, layers = np.random.default_rng(1).standard_normal((6, 3)), [np.ones((2, 4, 2, 2), np.float32)]
    kernel = {"degree": [3, 1], "gamma": [None, 0.5], "coef": [1.0]}
    pair = {"features": [rows], "reference": [rows + 1]}
    moments = {"mean": [rows[0]], "covariance": [np.eye(3)], "reference_mean": [rows[1]], "reference_covariance": [np.eye(3)]}
    statistics = metrics.Statistics.of([rows])
    return [
        ("metrics.psnr", metrics.psnr, {"pictures": [pictures], "originals": [pictures]}, 1),
        ("metrics.ssim", metrics.ssim, {"pictures": [pictures], "originals": [pictures]}, 0.2),
        (
            "metrics.lpips",
            metrics.lpips,
            {"features": [layers], "originals": [layers], "weights": [None, [np.ones(4)]], "eps": [1e-10]},
            0.5,
        ),
        ("metrics.clip_score", metrics.clip_score, {"pictures": [rows], "texts": [rows]}, 0.5),
        ("metrics.frechet_distance", metrics.frechet_distance, moments, 0.5),
        (
            "metrics.inception_score",
            metrics.inception_score,
            {"probabilities": [np.eye(4)], "splits": [1, 2, 10], "seed": [0, None]},
            0.5,
        ),
        (
            "metrics.kernel_distance",
            metrics.kernel_distance,
            pair | kernel | {"paired": [False, True], "reference_mean": [None, 0.5]},
            0.5,
        ),
        (
            "metrics.kernel_distance_subsets",
            metrics.kernel_distance_subsets,
            pair | {"subsets": [1, 3], "subset_size": [2, 6], "seed": [0], "paired": [False, True]},
            0.3,
        ),
        ("metrics.kernel_mean", metrics.kernel_mean, {"features": [rows]} | kernel, 0.5),
        ("metrics.precision_recall", metrics.precision_recall, pair | {"k": [1, 3]}, 0.5),
        ("metrics.Statistics", metrics.Statistics, {"width": [3]}, 0.3),
        ("metrics.Statistics.of", metrics.Statistics.of, {"parts": [[rows], [rows, rows]]}, 0.5),
        ("metrics.Statistics.add", lambda rows: metrics.Statistics(3).add(rows), {"rows": [rows]}, 0.5),
        ("metrics.Statistics.merge", lambda other: metrics.Statistics(3).merge(other), {"other": [statistics]}, 0.3),
        ("metrics.Statistics.distance", statistics.distance, {"other": [statistics]}, 0.3),
        ("metrics.Statistics.save", statistics.save, {"path": ["statistics-saved.npz"]}, 0.05),
        (
            "metrics.Statistics.load",
            metrics.Statistics.load,
            {"path": ["statistics.npz", "pictures.npz", "/dev/null"], "spatial": [False]},
            0.5,
        ),
    ]


def of_pictures() -> list[Target]:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    both = {"pictures": [pictures], "originals": [pictures]}
    given = [
        pictures,
        list(pictures),
        "pictures/0.png",
        Image.fromarray(pictures[0]),
        pictures.astype(np.uint16),
        pictures / 255.0,
    ]

    def drawn(call: Callable[..., Any]) -> Callable[..., Any]:
        def draw(**given: Any) -> None:
            axes = call(**given)
            axes.figure.clear()

        return draw

    points = [[{"steps": 5, "kid": 0.2}, {"steps": 20, "kid": 0.1}]]
    return [
        ("preprocess", textok.preprocess, {"pictures": given, "size": [8, 16]}, 1),
        ("to_uint8", textok.to_uint8, {"x": [pictures / 127.5 - 1]}, 1),
        ("viz.mosaic", viz.mosaic, {"pictures": [pictures], "columns": [2, 8], "gap": [2]}, 0.5),
        ("viz.difference", viz.difference, both | {"gain": [3.0]}, 0.5),
        ("viz.grid", drawn(viz.grid), {"pictures": [pictures], "columns": [2, 8], "title": ["", "x"]}, 0.01),
        (
            "viz.curve",
            drawn(viz.curve),
            {"points": points, "x": ["steps"], "y": ["kid"], "by": [""], "log": [False, True]},
            0.01,
        ),
        (
            "viz.reconstructions",
            drawn(viz.reconstructions),
            {"originals": [pictures], "sets": [{"a": pictures}], "names": [(), ("x", "y")]},
            0.01,
        ),
    ]
