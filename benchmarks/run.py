"""textok beside PyTorch eager in one run: time, memory and agreement on the same weights and inputs.

    python benchmarks/run.py                       all cases
    python benchmarks/run.py --case encode-p8 --repeats 9
    python benchmarks/run.py --dtype int8          PyTorch then computes in bfloat16, its fastest eager way

Each peer is a fresh process that loads the weights from the same file and answers one request at a time, so the memory that it
reports is its own and no peer's threads run while another is timed. Before timing, the outputs are compared. Repeats are interleaved
(textok, PyTorch, textok, ...), and each uses inputs of its own, so that nothing can be remembered. Needs torch (`pip install '.[bench]'`).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

VIT_B = {"hidden_size": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4}


def textok_config(patch):
    return {"model_type": "textok", "image_size": 256, "patch_size": patch, "num_latent_tokens": 32, "text_dim": 2048,
            "num_text_tokens": 128, "tokenizer": VIT_B, "detokenizer": VIT_B}  # fmt: skip


DIT_XL = {"model_type": "dit", "num_tokens": 32, "in_channels": 8, "hidden_size": 1152, "depth": 28, "num_heads": 16}
SAMPLING_STEPS = 8
# How far the two may be apart, relative to the largest value. In bfloat16 and int8 both round, and 28 blocks and eight guided steps add up.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.2, "int8": 0.4}

# name: (config, what runs). A DiT "step" is one evaluation of two rows, a condition and the null class, as guidance needs it.
CASES = {
    "encode-p8": (textok_config(8), "encode"),
    "decode-p8": (textok_config(8), "decode"),
    "encode-p16": (textok_config(16), "encode"),
    "decode-p16": (textok_config(16), "decode"),
    "dit-xl-step": (DIT_XL, "denoise"),
    "dit-xl-sample": (DIT_XL, "sample"),
}


def inputs(config, what, seed):
    """The arrays of one repeat, the same for every peer."""
    rng = np.random.default_rng(seed)
    if what == "encode":
        side = config["image_size"]
        return {"x": rng.uniform(-1, 1, (1, side, side, 3)).astype(np.float32), "text": _text(rng, config)}
    if what == "decode":
        return {"z": rng.standard_normal((1, config["num_latent_tokens"], 8)).astype(np.float32), "text": _text(rng, config)}
    x = rng.standard_normal((1, config["num_tokens"], config["in_channels"])).astype(np.float32)
    return {"x": x, "t": float(rng.integers(1, 1000)), "label": int(rng.integers(0, 1000))}


def _text(rng, config):
    return rng.standard_normal((1, config["num_text_tokens"], config["text_dim"])).astype(np.float32) * 0.2


def textok_peer(folder, config, what, dtype):
    """-> a function from inputs to an array."""
    import textok

    model = (textok.TexTok if config["model_type"] == "textok" else textok.DiT).from_pretrained(folder, dtype=dtype)
    if what == "encode":
        return lambda a: model.encode(a["x"], a["text"])
    if what == "decode":
        return lambda a: model.decode(a["z"], a["text"], output="float32")
    if what == "denoise":
        return lambda a: model.denoise(
            np.repeat(a["x"], 2, 0), np.full(2, a["t"], np.float32), labels=np.array([a["label"], 1000]))  # fmt: skip
    return lambda a: model.sample(
        labels=[a["label"]], steps=SAMPLING_STEPS, solver="ddim", guidance_scale=4.0, noise=a["x"])  # fmt: skip


def torch_peer(folder, config, what, dtype):
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    from textok.train import modules

    def attention(q, k, v, num_heads, key_mask=None):
        """The reference spells attention out; a user who wants speed calls PyTorch's fused one."""
        q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = None if key_mask is None else key_mask[:, None, None, :]
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    modules.attention = attention
    with torch.device("meta"):  # no memory for weights that the file replaces at once
        model = (modules.TexTok if config["model_type"] == "textok" else modules.DiT)(config)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"), assign=True)
    if what in ("denoise", "sample"):
        model.t_embedder.freqs = modules.TimestepEmbedder(256, 1).freqs
    model.eval()
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    model = model.to(kind)

    def tensor(array):
        return torch.from_numpy(array).to(kind)

    if what == "encode":
        run = lambda a: model.encode(tensor(a["x"]), tensor(a["text"]))  # noqa: E731
    elif what == "decode":
        run = lambda a: model.decode(tensor(a["z"]), tensor(a["text"]))  # noqa: E731
    elif what == "denoise":
        run = lambda a: model(  # noqa: E731
            tensor(np.repeat(a["x"], 2, 0)), torch.full((2,), a["t"]), labels=torch.tensor([a["label"], 1000]))  # fmt: skip
    else:
        run = lambda a: torch_ddim(torch, model, a, kind)  # noqa: E731

    def call(a):
        with torch.inference_mode():
            return run(a).float().numpy()

    return call


def torch_ddim(torch, model, a, kind):
    """DDIM with guidance over all channels, as one writes it by hand."""
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    steps = torch.round(torch.linspace(0, 999, SAMPLING_STEPS, dtype=torch.float64)).long().flip(0)
    x = torch.from_numpy(a["x"])
    labels = torch.tensor([a["label"], 1000])
    for i, t in enumerate(steps):
        out = model(x.expand(2, -1, -1).to(kind), torch.full((2,), float(t)), labels=labels)[..., : x.shape[-1]].float()
        eps = out[1:] + 4.0 * (out[:1] - out[1:])
        now, then = alphas[t], alphas[steps[i + 1]] if i + 1 < len(steps) else torch.tensor(1.0, dtype=torch.float64)
        x0 = (x.double() - (1 - now).sqrt() * eps) / now.sqrt()
        x = (then.sqrt() * x0 + (1 - then).sqrt() * eps).float()
    return x


def peak_mib():
    """The most memory this process has held at once (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def serve(peer, case, folder, dtype):
    """In the peer's process: a line with a seed in, a line of JSON out."""
    config, what = CASES[case]
    start = time.perf_counter()
    run = {"textok": textok_peer, "torch": torch_peer}[peer](folder, config, what, dtype)
    print(json.dumps({"load_s": time.perf_counter() - start, "peak_mib": peak_mib()}), flush=True)
    for line in sys.stdin:
        seed, path = line.split(maxsplit=1)
        arrays = inputs(config, what, int(seed))
        start = time.perf_counter()
        out = run(arrays)
        seconds = time.perf_counter() - start
        if path.strip() != "-":
            np.save(path.strip(), out)
        print(json.dumps({"s": seconds, "peak_mib": peak_mib()}), flush=True)


class Peer:
    """A peer's process, asked one thing at a time."""

    def __init__(self, name, case, folder, dtype):
        self.name = name
        command = [sys.executable, __file__, "--serve", name, "--case", case, "--folder", str(folder), "--dtype", dtype]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loaded = self._answer()
        self.times = []

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} peer ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, seed, path="-"):
        self.process.stdin.write(f"{seed} {path}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak_mib = answer["peak_mib"]
        return answer["s"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def make_weights(root, config):
    """Random weights of realistic scale in a folder; one for all cases of a config."""
    import textok

    folder = root / str(abs(hash(json.dumps(config, sort_keys=True))))
    if not folder.exists():
        kind = textok.TexTok if config["model_type"] == "textok" else textok.DiT
        kind.from_config(config, seed=0).save_pretrained(folder)
    return folder


def compare(case, folder, repeats, dtype, tolerance):
    """Time one case; returns the row of the table."""
    peers = [Peer(name, case, folder, dtype) for name in ("textok", "torch")]
    with tempfile.TemporaryDirectory() as tmp:
        outputs = []
        for peer in peers:
            path = Path(tmp) / f"{peer.name}.npy"
            peer.ask(0, path)
            outputs.append(np.load(path))
    ours, theirs = outputs
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not error <= tolerance:
        raise SystemExit(f"{case}: outputs differ by {error:.2e} of the largest value, more than {tolerance:.0e}: nothing was timed")
    for peer in peers:
        peer.ask(1)
    for repeat in range(repeats):
        for peer in peers:
            peer.times.append(peer.ask(2 + repeat))
    for peer in peers:
        peer.close()
    ours, theirs = (statistics.median(peer.times) for peer in peers)
    return {
        "case": case, "textok_s": ours, "torch_s": theirs, "ratio": theirs / ours, "error": error,
        "textok_mib": peers[0].peak_mib, "torch_mib": peers[1].peak_mib,
        "textok_load_s": peers[0].loaded["load_s"], "torch_load_s": peers[1].loaded["load_s"],
    }  # fmt: skip


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="only this one (may be given several times)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32", help="what textok computes in")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.case[0], args.folder, args.dtype)
    import torch

    import textok

    info = textok.cpu_info()
    print(f"{time.strftime('%Y-%m-%d')}, {cpu_name()}, {info['cpus']} CPUs, textok {textok.__version__} ({info['isa']}, "
          f"{info['threads']} threads), torch {torch.__version__} ({torch.get_num_threads()} threads), textok in {args.dtype}, PyTorch in "
          f"{'float32' if args.dtype == 'float32' else 'bfloat16'}, batch 1, "
          f"medians of {args.repeats}")  # fmt: skip
    print("| case | textok s | PyTorch eager s | ratio | largest relative error | textok peak MiB | PyTorch peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as root:
        for case in args.case or CASES:
            folder = make_weights(Path(root), CASES[case][0])
            r = compare(case, folder, args.repeats, args.dtype, TOLERANCES[args.dtype])
            print(f"| {case} | {r['textok_s']:.3f} | {r['torch_s']:.3f} | {r['ratio']:.2f} | {r['error']:.1e} | "
                  f"{r['textok_mib']:.0f} | {r['torch_mib']:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
