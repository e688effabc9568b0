"""ONNX Runtime on a graph that PyTorch exports (opset 23, where attention is one operator); int8 by its dynamic quantisation.

ONNX Runtime's CPU provider has no bfloat16 products.
"""

NAME = "ONNX Runtime"
SETTINGS = "opset 23, where attention is one operator; int8: dynamic quantisation of all products but attention's"
VERSIONS = ("onnxruntime", "onnx", "onnxscript")
PRECISIONS = ("float32", "int8")
PRECISIONS_WHY = {"bfloat16": "its CPU provider has no bfloat16 products"}


def lacks(case, precision):
    return "exported over tokens only: see PyTorch" if case.is_2d or case.what == "vae" else None


def graph(case, precision, store):
    """A file for each case, or one for a DiT over any number of tokens."""
    name = case.family if case.what == "denoise" else case.name
    return store.path("onnx", f"{name}-{precision}", "model.onnx")


def prepare(case, precision, store):
    store.make_weights(case)
    path = graph(case, precision, store)
    if path.exists():
        return
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        prepare(case, "float32", store)
        part = path.with_suffix(".part")
        quantize_dynamic(
            graph(case, "float32", store), part, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
        )  # fmt: skip
        part.rename(path)
        return
    import torch

    from . import torch_models

    args, shapes = torch_models.example(case, store)
    part = path.with_name("part.onnx")
    torch.onnx.export(
        torch_models.load_module(case, store),
        args,
        part,
        dynamo=True,
        opset_version=23,
        external_data=True,
        dynamic_shapes=shapes,
        input_names=list(shapes),
        output_names=["out"],
        verbose=False,
    )
    part.rename(path)  # its weights stay in part.onnx.data, which the graph names


def load(case, precision, store, threads):
    import numpy as np
    import onnxruntime

    from . import torch_arguments

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    named = torch_arguments.arguments(case, torch_arguments.positions(case, store))
    session = onnxruntime.InferenceSession(str(graph(case, precision, store)), options, providers=["CPUExecutionProvider"])
    kinds = {i.name: np.int64 if "int64" in i.type else np.float32 for i in session.get_inputs()}
    return lambda a: session.run(None, {name: array.astype(kinds[name], copy=False) for name, array in named(a).items()})[0]
