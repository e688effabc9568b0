"""Model folders: `config.json` beside `model.safetensors`, read with suspicion and written whole or not at all.

A folder from elsewhere may hold anything. Everything in it is checked before memory is taken for it: the configuration by
itself, then the names, shapes and types in the files' headers against the tensors that the configuration asks for. The
safetensors library checks the header; what it lets pass (duplicate names) is checked here. The numbers are read, not mapped: a
file that shrinks under a mapping ends the process, and a mapping's pages are slower to get than a copy of them.

Stored forms: float32, float16, float64 and bfloat16 tensors; int8 rows `NAME` [out,in] with `NAME.scale` float32 [out], whose
product is the weight; and int4 rows `NAME` uint8 [out, in/2 up], two numbers -8..7 a byte, each plus 8, the even one in the low
four bits, with `NAME.scale` and `NAME.group_scale` uint8 [out, in/32 up], 0..16: the weight is the product of the three. The
engine takes float32, bfloat16, int8 and int4 as they are and converts them to what the model computes in; it asks for one
tensor at a time, so a model of any size loads in its own packed size and little more.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrays, int4
from .errors import ConfigError, WeightsError, told
from .files import MAX_JSON_BYTES, check_regular, parse_object, read_json, replacing, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PIPELINE_FILE = "model_index.json"
SIDES = ("both", "tokenizer", "detokenizer")  # of a TexTok: what a model may hold, and the prefixes of the tensors' names
FLOAT_TYPES = ("F32", "F16", "F64", "BF16")
_NUMPY_TYPES = {
    "F32": "float32",
    "F16": "float16",
    "F64": "float64",
    "BF16": "bfloat16",
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
}

_BLOCK = re.compile(r"(.*blocks\.)(\d+)\.")

Shape = tuple[int, ...]
Table = list[tuple[str, Shape]]
F32 = NDArray[np.float32]


# --- Reading ------------------------------------------------------------------------------------------------------------------


class TensorFile:
    """One safetensors file: its header, and its tensors one at a time, each a copy."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        self._size = check_regular(path, WeightsError).st_size
        self._header, self._start = self._read_header()
        try:
            file = safe_open(path, framework="np")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            self.shapes: dict[str, Shape] = {name: tuple(part.get_shape()) for name, part in slices.items()}
            self.types: dict[str, str] = {name: part.get_dtype() for name, part in slices.items()}
            self.metadata: dict[str, str] = file.metadata() or {}
        except (SafetensorError, OSError) as problem:
            raise WeightsError(f"{path}: not a safetensors file that can be read: {problem}") from None

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """The header, without duplicate names, which the library takes without a word; and where the tensors start."""
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if self._size < 8 or length > self._size - 8:
                    raise ValueError(f"the file has {self._size} bytes, too few for its header")
                if length > MAX_JSON_BYTES:
                    raise ValueError(f"its header claims {length} bytes")
                return parse_object(file.read(length)), 8 + length
        except ValueError as problem:
            raise WeightsError(f"{self.path}: not a safetensors file that can be read: {problem}") from None
        except OSError as problem:
            raise WeightsError(f"{self.path}: {problem.strerror}") from None

    def tensor(self, name: str) -> "Tensor":
        return Tensor(
            self.shapes[name], self.types[name], str(self.path), lambda: self.read(name), lambda into: self.read(name, into)
        )

    def read(self, name: str, into: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """The tensor, a copy; in the memory `into`, which must have room for it, where that is given."""
        import ml_dtypes  # noqa: F401  makes np.dtype("bfloat16") known

        if (dtype := _NUMPY_TYPES.get(self.types[name])) is None:
            raise WeightsError(f"{self.path}: tensor {name}: expected {', '.join(_NUMPY_TYPES)}, got {self.types[name]}")
        first, end = self._header[name]["data_offsets"]
        data = np.empty(end - first, np.uint8) if into is None else into[: end - first]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._start + first)
                done = 0
                while done < len(data) and (count := file.readinto(data[done:].data)):
                    done += count
                changed = os.fstat(file.fileno()).st_size != self._size
        except OSError as problem:
            raise WeightsError(f"{self.path}: tensor {name}: {problem.strerror}") from None
        if changed or done < len(data):
            raise WeightsError(f"{self.path}: the file changed while it was read")
        return data.view(dtype).reshape(self.shapes[name])


def open_tensors(folder: Path) -> dict[str, TensorFile]:
    """The file that holds each tensor of a model folder: `model.safetensors`, or the shards that its index names."""
    if (folder / WEIGHTS_FILE).exists():
        file = TensorFile(folder / WEIGHTS_FILE)
        return dict.fromkeys(file.shapes, file)
    index = folder / INDEX_FILE
    if not index.exists() and (folder / "state.pt").exists():
        raise WeightsError(f"{folder}: a training's folder; make a model of it with: textok export {folder} MODEL")
    if not index.exists():
        raise WeightsError(f"{folder}: no {WEIGHTS_FILE} and no {INDEX_FILE} in it")
    found: dict[str, TensorFile] = {}
    for place, names in read_index(index).items():
        file = TensorFile(folder / place)
        if names != file.shapes.keys():
            raise WeightsError(f"{index}: does not agree with {place} about {listed(sorted(names ^ file.shapes.keys()))}")
        found |= dict.fromkeys(names, file)
    return found


# The files of weights in a folder: of diffusers, of the hub's mixin, of open_clip, of transformers.
_CHOICES = ("diffusion_pytorch_model", "model", "open_clip_model", "open_clip_pytorch_model", "pytorch_model")
_CHOICE = re.compile(
    rf"(?P<stem>{'|'.join(_CHOICES)})(?P<variant>\.\w+)?\.(?P<kind>safetensors|bin)"
    r"(?P<index>\.index(?P<index_variant>\.\w+)?\.json)?"
)
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def choose_weights(names: Sequence[str]) -> str | None:
    """Of the names of a folder's files the one with the weights, or with the index of their shards; None where none is known.

    Plain ones go before variants such as fp16, safetensors before files of torch.save. A ValueError where several variants are
    there and nothing but them.
    """
    found = [match for name in names if (match := _CHOICE.fullmatch(name))]
    plain = [m for m in found if not (m["variant"] or m["index_variant"])] or found
    plain.sort(key=lambda m: (_CHOICES.index(m["stem"]), m["kind"] == "bin", bool(m["index"])))
    if len({m["variant"] or m["index_variant"] for m in plain}) > 1:
        raise ValueError(f"expected one set of weights, got {', '.join(m[0] for m in plain)}")
    return plain[0][0] if plain else None


def read_index(index: Path) -> dict[str, set[str]]:
    """The files that an index of shards names, all in its own folder, and the tensors that are to be in each."""
    places = read_json(index, WeightsError).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise WeightsError(f'{index}: expected a "weight_map" from tensor names to file names')
    names: dict[str, set[str]] = {}
    for name, place in places.items():
        if place not in names and not _is_file_name(place):
            raise WeightsError(f"{index}: expected names of files in its own folder, got {place!r}")
        names.setdefault(place, set()).add(name)
    return names


def _is_file_name(text: str) -> bool:
    """Whether it names a file in a folder and nothing else."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return Path(text).name == text and text not in ("", ".", "..") and "\\" not in text and "\0" not in text


def listed(names: list[str]) -> str:
    """The first few of many names, and how many there are."""
    shown = ", ".join(told(name) for name in names[:5])
    return f"{len(names)} tensor{'s' * (len(names) != 1)} ({shown}{', ...' if len(names) > 5 else ''})"


def check_table(found: Mapping[str, Shape], table: Table, where: str, prefix: str = "") -> None:
    """One WeightsError that lists all tensors that are missing, too many or of the wrong shape, if any are.

    Of the table's names only those with `prefix` must be there: a model's one side, from a file of both or of that one.
    """
    wanted = dict(table)
    complaints = []
    if missing := [name for name in wanted if name.startswith(prefix) and name not in found]:
        complaints.append(f"missing {listed(missing)}")
        if len(there := {name.partition(".")[0] for name in found}) == 1 and there < set(SIDES):
            complaints.append(f'there is only the {min(there)}, which side="{min(there)}" loads')
    if extra := [name for name in found if name not in wanted]:
        complaints.append(f"not in this model {listed(extra)}")
    if wrong := [name for name, shape in found.items() if name in wanted and tuple(shape) != wanted[name]]:
        told = [f"{name}: expected {list(wanted[name])}, got {list(found[name])}" for name in wrong]
        complaints.append(f"of another shape {listed(told)}")
    if complaints:
        raise WeightsError(f"{where}: the tensors are not those of the config: {'; '.join(complaints)}")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file or of a user's dict, not looked into yet."""

    shape: Shape
    type: str  # as safetensors names them: F32, BF16, I8, ...
    where: str  # for errors
    read: Callable[[], NDArray[Any]]
    read_into: Callable[[NDArray[np.uint8]], NDArray[Any]] | None = None  # the same into memory that is there


class Weights(Mapping[str, NDArray[Any]]):
    """The tensors of a model, each made when it is asked for, as the engine takes it: float32, bfloat16 as uint16, or int8 and
    int4 and their scales.

    Raises WeightsError for tensors that are missing, too many or misshapen, see `check_table`; and, when one is asked for, for
    NaN and infinity in it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], table: Table, where: str, prefix: str = "") -> None:
        wanted = dict(table)
        integers = {name: tensor for name, tensor in tensors.items() if name in wanted and tensor.type in _BESIDE}
        beside = {name + suffix for name, tensor in integers.items() for suffix in _BESIDE[tensor.type]}
        shapes = {name: _shape_of(tensor, wanted.get(name)) for name, tensor in tensors.items() if name not in beside}
        check_table(shapes, table, where, prefix)
        for name, tensor in integers.items():
            _check_scales(name, tensor, tensors, wanted[name])
        for name, tensor in tensors.items():
            if name not in integers and name not in beside and tensor.type not in FLOAT_TYPES:
                known = f"{', '.join(FLOAT_TYPES)}, I8 or U8 (int4)"
                raise WeightsError(f"{tensor.where}: {name}: expected {known}, got {tensor.type}")
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.take(name)

    def take(self, name: str, into: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """The tensor; in the memory `into` where that is given and the tensor is of a file and needs no conversion."""
        tensor = self._tensors[name]
        array = tensor.read() if into is None or tensor.read_into is None else tensor.read_into(into)
        if tensor.type in _BESIDE:
            if name.endswith(".group_scale") and array.size and array.max() > int4.MOST_SCALE:
                raise WeightsError(f"{tensor.where}: {name}: expected 0 to {int4.MOST_SCALE}, got {array.max()}")
            return np.ascontiguousarray(array)
        if tensor.type == "BF16":
            bits = np.ascontiguousarray(array).view(np.uint16)
            if _finite(bits):
                return bits
        try:
            return arrays.as_float32(array, name)
        except ValueError as problem:
            raise WeightsError(f"{tensor.where}: {problem}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _finite(bits: NDArray[np.uint16]) -> bool:
    """Whether no number of these bfloat16 is NaN or infinite; a little at a time, in memory that stays in the caches."""
    flat = bits.reshape(-1)
    step = 1 << 18
    exponents = np.empty(min(step, flat.size), np.uint16)
    for first in range(0, flat.size, step):
        part = flat[first : first + step]
        if np.bitwise_and(part, 0x7F80, out=exponents[: len(part)]).max(initial=0) == 0x7F80:
            return False
    return True


_BESIDE = {"I8": (".scale",), "U8": (".scale", ".group_scale")}  # what lies beside int8 and int4 rows


def _shape_of(tensor: Tensor, wanted: Shape | None) -> Shape:
    """The shape of the weight: of int4 rows, which are stored two numbers to a byte, the wanted one if it can be that."""
    if tensor.type == "U8" and wanted and len(wanted) == 2 and tensor.shape == (wanted[0], (wanted[1] + 1) // 2):
        return wanted
    return tensor.shape


def _check_scales(name: str, rows: Tensor, tensors: Mapping[str, Tensor], shape: Shape) -> None:
    """WeightsError unless what belongs beside int8 or int4 rows of a weight of this shape is there."""
    kind = "int8" if rows.type == "I8" else "int4"
    if len(rows.shape) != 2:
        raise WeightsError(f"{rows.where}: {name}: expected {kind} weights as [out, in], got {list(rows.shape)}")
    forms = {".scale": ("F32", shape[:1]), ".group_scale": ("U8", (shape[0], -(-shape[1] // int4.GROUP)))}
    for suffix in _BESIDE[rows.type]:
        if (scale := tensors.get(name + suffix)) is None:
            raise WeightsError(f"{rows.where}: {name} is {kind}, and its {name}{suffix} is missing")
        if (scale.type, scale.shape) != forms[suffix]:
            wanted = f"{forms[suffix][0]} {list(forms[suffix][1])}"
            raise WeightsError(f"{scale.where}: {name}{suffix}: expected {wanted}, got {scale.type} {list(scale.shape)}")


_TYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "bfloat16": "BF16", "int8": "I8", "uint8": "U8"}


def torch_type(dtype: str) -> str:
    """The type of a stored tensor of PyTorch as safetensors names it; integers have no place in these files and keep their
    names."""
    return dtype if dtype in ("int8", "uint8") else _TYPES.get(dtype, dtype)


def as_weights(tensors: Mapping[str, Any], table: Table, prefix: str = "") -> Weights:
    """The arrays of a user's dict, in any of the stored forms, checked as by `check_table`."""
    return Weights(user_tensors(tensors), table, "weights", prefix)


def user_tensors(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arrays of a user's dict as tensors."""
    where = "weights"
    if not isinstance(tensors, Mapping):
        raise TypeError(f"{where}: expected a dict of arrays, got {type(tensors).__name__}")

    def tensor(name: str, value: Any) -> Tensor:
        array = arrays.view(value, f"{where}: {name}")
        if array.dtype.name not in _TYPES:
            raise WeightsError(f"{where}: {name}: expected float32, float16, float64 or bfloat16, got {arrays.describe(array)}")
        return Tensor(array.shape, _TYPES[array.dtype.name], where, lambda: array)

    return {name: tensor(name, value) for name, value in tensors.items()}


def from_engine(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The engine's tensors as a checkpoint has them: what it holds as uint16 is bfloat16."""
    import ml_dtypes

    return {name: array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array for name, array in tensors.items()}


def load_weights(folder: Path, table: Table, prefix: str = "") -> Weights:
    """The tensors of a model folder, checked as by `check_table` against what `_core.weight_table` makes of the config."""

    return Weights({name: file.tensor(name) for name, file in open_tensors(folder).items()}, table, str(folder), prefix)


def load_config(folder: Path, model_type: str) -> dict[str, Any]:
    """`config.json` of a model folder, checked to be of `model_type`; its values are checked by the config class."""
    path = folder / CONFIG_FILE
    if not path.exists() and (folder / PIPELINE_FILE).exists():
        raise ConfigError(f"{folder}: expected a model, got a pipeline; load it with textok.Pipeline.from_pretrained")
    values = read_json(path)
    if values.get("model_type") != model_type:
        raise ConfigError(f'{path}: expected "model_type": "{model_type}", got {values.get("model_type")!r}')
    return values


# --- Writing ------------------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={"format": "np"})
        except SafetensorError as problem:
            raise OSError(f"{path}: could not be written: {problem}") from None


def save_model(folder: str | os.PathLike[str], config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> None:
    """`config.json` and `model.safetensors` in `folder`, which is made where it is missing."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_tensors(target / WEIGHTS_FILE, weights)
    write_json(target / CONFIG_FILE, config)


# --- Random weights -----------------------------------------------------------------------------------------------------------


def random_weights(table: Table, seed: int) -> Weights:
    """Random weights of a model, see `random_tensors`."""
    return Weights(random_tensors(table, seed), table, "random weights")


def random_tensors(table: Table, seed: int) -> dict[str, Tensor]:
    """Weights for timing and tests, of such sizes that activations keep the scale of a trained model's at any width and depth.

    Matrices have variance 1/in, those that end a residual branch 1/(2 depth in); norms scatter around 1; biases, tokens and
    positions are small but nowhere zero, so every part of a model shows in its output, the branches that adaLN-Zero starts at
    zero too. Tensor k of `table` draws from Generator(Philox(SeedSequence(seed, spawn_key=(k,)))).
    """
    depths: dict[str, int] = {}
    for name, _ in table:
        if match := _BLOCK.match(name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)

    def draw(index: int, name: str, shape: Shape) -> F32:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(index,))))
        values = generator.standard_normal(shape, dtype=np.float32)
        match = _BLOCK.match(name)
        if len(shape) == 1:
            values *= np.float32(0.05)
            if "norm" in name and name.endswith(".weight"):
                values += np.float32(1)
        elif not name.endswith(".weight") or "embedding_table" in name:
            values *= np.float32(0.5)
        elif match and name.endswith(("proj.weight", "fc2.weight")):
            values *= np.float32((2 * depths[match[1]] * shape[1]) ** -0.5)
        else:
            values *= np.float32(shape[1] ** -0.5)
        return values

    return {
        name: Tensor(shape, "F32", "random weights", partial(draw, index, name, shape))
        for index, (name, shape) in enumerate(table)
    }
