"""`textok.int4_rounding`: int4 weights whose layers' outputs are nearer than rounding to nearest brings them."""

import api_models
import numerics
import numpy as np
import pytest
from engine_models import TinyTexTok, textok_config

from textok import DiT, TexTok, _core, int4, int4_rounding


def output_error(q, scale, group_scale, weight, x):
    there = int4.widened(int4.pack(q), scale, group_scale, weight.shape[1])
    return numerics.rms_error(x @ there.T.astype(np.float64), x @ weight.T.astype(np.float64))


@pytest.mark.parametrize(("rows", "columns"), [(3, 20), (40, 32), (64, 300)])
def test_calibrated_rows_change_outputs_less(rows, columns):
    """On inputs whose columns go together, as those of networks do; and on rows that rounding has not seen."""
    r = np.random.default_rng(columns)
    mix = r.standard_normal((columns // 4 + 1, columns)) + 0.1 * r.standard_normal((columns // 4 + 1, columns))
    x, unseen = (r.standard_normal((n, len(mix))) @ mix + 0.3 * r.standard_normal((n, columns)) for n in (4000, 500))
    weight = r.standard_normal((rows, columns)).astype(np.float32)
    weight[0] = 0
    nearest = int4_rounding.rounded(weight, np.eye(columns, dtype=np.float32))
    calibrated = int4_rounding.rounded(weight, (x.T @ x).astype(np.float32))
    for q, scale, group_scale in (nearest, calibrated):
        assert q.min() >= -8 and q.max() <= 7 and group_scale.min() >= 1 and group_scale.max() <= int4.MOST_SCALE
        assert not q[0].any() and (scale > 0).all()
    assert output_error(*calibrated, weight, unseen) < 0.6 * output_error(*nearest, weight, unseen)


def test_without_a_gram_it_is_the_engines_rounding():
    """With inputs that do not go together columns have nothing to make good: what the engine does at load."""
    model = api_models.textok(text_condition="none")
    weights = model.weights()
    nearest = TexTok(model.config, weights, dtype="int4").weights()
    for name in (name for name in weights if f"{name}.group_scale" in nearest):
        q, scale, group_scale = int4_rounding.rounded(weights[name], np.eye(weights[name].shape[1], dtype=np.float32))
        assert np.array_equal(scale, nearest[f"{name}.scale"]), name
        assert (group_scale == nearest[f"{name}.group_scale"]).mean() > 0.99, name  # float32 against float32 in another order
        assert (int4.pack(q) == nearest[name]).mean() > 0.99, name


def rounded_by_the_engine(changed):
    """q, scale and group scales that an int4 model makes of a matrix, changed in place, and what they stand for."""
    tiny, name = TinyTexTok(textok_config()), "tokenizer.blocks.1.mlp.fc2.weight"
    changed(tiny.weights[name])
    made = _core.Model("textok", tiny.config, tiny.weights, "int4").weights()
    q, scale, group_scale = made[name], made[f"{name}.scale"], made[f"{name}.group_scale"]
    return q, scale, group_scale, int4.widened(q, scale, group_scale, tiny.weights[name].shape[1])


def test_rows_of_any_size_are_rounded_alike():
    """A row times a power of two has the same numbers, and its scale times that power: their squares need not be numbers."""
    powers = np.exp2(np.array([-85, -60, 62, 70, 100, 120], np.float32))
    q, scale, group_scale, _ = rounded_by_the_engine(lambda weight: None)

    def change(weight):
        weight[: len(powers)] *= powers[:, None]

    got_q, got_scale, got_group_scale, _ = rounded_by_the_engine(change)
    scale[: len(powers)] *= powers
    assert np.array_equal(got_q, q) and np.array_equal(got_scale, scale) and np.array_equal(got_group_scale, group_scale)


def test_a_row_with_no_number_is_nan_and_no_other():
    """As in int8: its scale is NaN and its numbers zeros."""
    q, scale, group_scale, there = rounded_by_the_engine(lambda weight: None)

    def change(weight):
        weight[0, 3], weight[2, -1], weight[4, 0] = np.nan, np.inf, -np.inf

    got_q, got_scale, got_group_scale, got = rounded_by_the_engine(change)
    bad, good = [0, 2, 4], np.delete(np.arange(len(q)), [0, 2, 4])
    assert np.isnan(got[bad]).all() and (got_q[bad] == 0x88).all() and not got_group_scale[bad].any()
    for one, other in ((got_q, q), (got_scale, scale), (got_group_scale, group_scale), (got, there)):
        assert np.array_equal(one[good], other[good])


def test_models_come_nearer(tmp_path):
    model = api_models.textok(text_condition="none")
    seen, unseen = api_models.pictures_of(model, 24), api_models.pictures_of(model, 32)[24:]
    weights = int4_rounding.to_int4(model, [lambda m: m.encode(seen), lambda m: m.decode(m.encode(seen))], progress=False)
    nearest, calibrated = TexTok(model.config, model.weights(), dtype="int4"), TexTok(model.config, weights, dtype="int4")
    exact = model.encode(unseen)
    assert numerics.rms_error(calibrated.encode(unseen), exact) < 0.9 * numerics.rms_error(nearest.encode(unseen), exact)
    calibrated.save_pretrained(tmp_path)
    assert np.array_equal(TexTok.from_pretrained(tmp_path, dtype="int4").encode(unseen), calibrated.encode(unseen))
    assert model._model.record_inputs(None) is None  # and the model records no more


def test_a_generator_is_calibrated_by_sampling():
    model = api_models.dit(hidden_size=96, num_heads=4)
    weights = int4_rounding.to_int4(model, [lambda m: m.sample(labels=[1, 2, 0, 1], steps=4, seed=0)], progress=False)
    run = {"labels": [2, 1, 1], "steps": 4, "seed": 7}
    exact = model.sample(**run)
    errors = [numerics.rms_error(DiT(model.config, w, dtype="int4").sample(**run), exact) for w in (weights, model.weights())]
    assert errors[0] < errors[1]


def test_bad_arguments():
    model = api_models.textok(text_condition="none")
    with pytest.raises(ValueError, match="calls: expected at least one"):
        int4_rounding.to_int4(model, [])
    with pytest.raises(ValueError, match="model: expected one in float32, got int8"):
        int4_rounding.to_int4(TexTok(model.config, model.weights(), dtype="int8"), [lambda m: None])
    with pytest.raises(RuntimeError, match="from the call"):
        int4_rounding.to_int4(model, [_fails])


def _fails(model):
    raise RuntimeError("from the call")
