"""OpenVINO on a graph that it converts from PyTorch; bfloat16 by its precision hint, int8 by NNCF.

int8 of a TexTok is NNCF's post-training quantisation for transformers, calibrated on inputs like those that are timed.
What NNCF leaves alone runs in bfloat16, its fastest way.
"""

NAME = "OpenVINO"
SETTINGS = "latency hint, static shapes; int8: NNCF post-training quantisation (transformer), the rest in bfloat16"
VERSIONS = ("openvino", "nncf")
PRECISIONS = ("float32", "bfloat16", "int8")
CALIBRATION_INPUTS = 4


def lacks(case, precision):
    return "exported over tokens only: see PyTorch" if case.is_2d or case.what == "vae" else None


def graph(case, precision, store):
    """One file for all batches and, for a DiT, all numbers of tokens; bfloat16 runs from float16 weights, its default."""
    name = case.family if case.what == "denoise" else f"{case.what}-{case.model}"
    return store.path("openvino", f"{name}-{precision}", "model.xml")


def prepare(case, precision, store):
    store.make_weights(case)
    path = graph(case, precision, store)
    if path.exists():
        return
    import openvino

    if precision == "float32":
        import torch

        from . import torch_models

        args, shapes = torch_models.example(case, store)
        with torch.no_grad():
            program = torch.export.export(torch_models.load_module(case, store), args, dynamic_shapes=shapes)
        model = openvino.convert_model(program)
    else:
        prepare(case, "float32", store)
        model = openvino.Core().read_model(graph(case, "float32", store))
    if precision == "int8":
        model = quantised(model, case, store)
    openvino.save_model(model, path.with_name("part.xml"), compress_to_fp16=precision == "bfloat16")
    path.with_name("part.bin").rename(path.with_suffix(".bin"))
    path.with_name("part.xml").rename(path)


def quantised(model, case, store):
    import nncf
    from cases import inputs

    from . import torch_arguments

    named = torch_arguments.arguments(case, torch_arguments.positions(case, store))
    examples = [inputs(case, 1_000_000 + i) for i in range(CALIBRATION_INPUTS)]
    data = nncf.Dataset(examples, named)
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_INPUTS)


def load(case, precision, store, threads):
    import numpy as np
    import openvino
    from cases import inputs

    from . import torch_arguments

    core = openvino.Core()
    model = core.read_model(graph(case, precision, store))
    named = torch_arguments.arguments(case, torch_arguments.positions(case, store))
    example = named(inputs(case, 0))
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, example.values(), strict=True)})
    hints = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(model, "CPU", hints)
    del model
    request = compiled.create_infer_request()

    def run(a):
        request.infer(list(named(a).values()), share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)

    return run
