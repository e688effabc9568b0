"""What people evaluate: reference batches, needless labels, copies of originals, few pictures, arrays of all kinds."""

import json

import data_sets
import numpy as np
import pytest
from test_eval import SIZE, Blocks, images, made_of, originals, save_folder

import textok.metrics as tm
from textok.errors import DataError
from textok.metrics import evaluate
from textok.metrics.evaluate import Evaluation


def test_an_adm_reference_with_another_network(tmp_path):
    """Pictures beside Inception's mu and sigma: for any other network the pictures count, as if they were alone."""
    pictures = images.preprocess(originals(20), SIZE)
    inception = {"mu": np.zeros(2048), "sigma": np.eye(2048), "mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    np.savez(tmp_path / "virtual.npz", arr_0=pictures, **inception)
    np.savez(tmp_path / "alone.npz", arr_0=pictures)
    np.savez(tmp_path / "statistics.npz", **inception)
    save_folder(tmp_path / "made", made_of(originals(20)))
    found = [
        Evaluation(tmp_path / name, Blocks()).samples({"a": tmp_path / "made"}, tmp_path / f"{name}.npz")["sets"][0]["metrics"]
        for name in ("virtual", "alone")
    ]
    assert found[0] == found[1] and "kid@blocks" in found[0]
    total = evaluate.gather_statistics([tmp_path / "virtual.npz"], Evaluation(tmp_path / "s", Blocks()))
    assert total.count == 20 and len(total.mean) == 24
    with pytest.raises(DataError, match="expected statistics of 24 features of blocks, got 2048"):
        Evaluation(tmp_path / "o", Blocks()).samples({"a": tmp_path / "made"}, tmp_path / "statistics.npz")


def test_labels_and_axes_of_arrays(tmp_path):
    pictures = made_of(originals(12))
    np.savez(tmp_path / "onehot.npz", arr_0=pictures, arr_1=np.eye(12))
    np.savez(tmp_path / "chw.npz", pictures.transpose(0, 3, 1, 2))
    save_folder(tmp_path / "originals", originals(12))
    result = Evaluation(tmp_path / "o", Blocks()).samples({"a": tmp_path / "onehot.npz"}, tmp_path / "originals")
    assert result["sets"][0]["count"] == 12
    with pytest.raises(DataError, match=r"looks like CHW: use \.transpose"):
        Evaluation(tmp_path / "p", Blocks()).samples({"a": tmp_path / "chw.npz"}, tmp_path / "originals")


def test_a_copy_of_an_original(tmp_path):
    """Its PSNR is infinite, the set's is not, and a remark says what it counts as; a set of copies alone has that number."""
    pytest.importorskip("skimage")
    pictures = images.preprocess(originals(30), SIZE)
    made = made_of(originals(30))
    made[3] = pictures[3]
    save_folder(tmp_path / "originals", pictures)
    save_folder(tmp_path / "made", made)
    result = Evaluation(tmp_path / "o").reconstruction({"a": tmp_path / "made"}, tmp_path / "originals")
    (row,) = result["sets"]
    each = tm.psnr(made, pictures)
    most = 10 * np.log10(255**2 * SIZE * SIZE * 3)
    assert np.isinf(each[3]) and np.isfinite(np.delete(each, 3)).all()
    assert row["metrics"]["psnr"] == pytest.approx(np.minimum(each, most).mean()) and row["metrics"]["psnr"] < most
    (remark,) = row["remarks"]
    assert remark.startswith("1 of 30 pictures are equal to their originals") and f"counts as {most:.2f} dB" in remark
    assert remark in evaluate.table(result)
    assert json.loads((tmp_path / "o" / "result.json").read_text())["sets"] == [row]
    result = Evaluation(tmp_path / "p").reconstruction({"a": tmp_path / "originals"}, tmp_path / "originals")
    assert result["sets"][0]["metrics"]["psnr"] == pytest.approx(most)


@pytest.mark.parametrize(("count", "told"), ((20, True), (24, True), (25, False)))
def test_few_pictures_for_a_wide_feature(tmp_path, count, told):
    save_folder(tmp_path / "originals", originals(40))
    save_folder(tmp_path / "made", made_of(originals(count)))
    result = Evaluation(tmp_path / "o", Blocks()).samples({"a": tmp_path / "made"}, tmp_path / "originals")
    remarks = result["sets"][0].get("remarks", [])
    assert bool(remarks) == told and ("24 features" in evaluate.table(result)) == told


def test_a_picture_on_which_pillow_raises(tmp_path):
    save_folder(tmp_path / "made", made_of(originals(5)))
    for number, content in enumerate(data_sets.DAMAGED_EXIF.values()):
        (tmp_path / "made" / f"bad{number}.jpg").write_bytes(content)
    made = evaluate.PictureSet(tmp_path / "made", SIZE, crop=True)
    assert sum(len(part.keys) for part in made) == 5 and {skip.key for skip in made.skips} == {"bad0", "bad1", "bad2"}


def test_arguments_of_all_kinds():
    """Lists and torch's tensors are taken as arrays are; complex numbers and channels first are refused by name."""
    x = made_of(originals(4))
    expected = tm.psnr(x, 255 - x)
    kinds = [list(x)]
    torch = pytest.importorskip("torch")
    kinds.append(torch.from_numpy(x))
    for kind in kinds:
        assert np.array_equal(tm.psnr(kind, 255 - x), expected)
    rows = np.random.default_rng(0).standard_normal((6, 3))
    assert tm.kernel_mean(torch.from_numpy(rows)) == tm.kernel_mean(rows) == tm.kernel_mean(rows.tolist())
    for call in (
        lambda: tm.kernel_mean(rows + 1j),
        lambda: tm.frechet_distance(np.zeros(2) + 1j, np.eye(2), np.zeros(2), np.eye(2)),
        lambda: tm.Statistics(3).add(rows + 1j),
        lambda: tm.psnr(x + 0j, x),
        lambda: tm.psnr(x.transpose(0, 3, 1, 2), x),
    ):
        with pytest.raises(ValueError, match=r"(features|mean|rows|pictures): expected"):
            call()
