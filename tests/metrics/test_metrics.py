"""The formulas of textok.metrics against torchmetrics, scikit-image and float64 definitions, each with errors it must catch."""

import os

import numerics
import numpy as np
import pytest

import textok.metrics as tm
from textok.noise import generator

pytestmark = pytest.mark.filterwarnings("ignore:Metric `:UserWarning:torchmetrics")


def two_sets(n=60, m=50, d=12, seed=0):
    """Features like a network's: not negative, correlated, of two sets that differ."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    x, y = (np.maximum(rng.normal(size=(rows, d)) @ mix + 0.3, 0) for rows in (n, m))
    return (1.1 * x + 0.1).astype(np.float32), y.astype(np.float32)


def probabilities(n=57, classes=9, seed=0):
    logits = np.random.default_rng(seed).normal(size=(n, classes)) * 2
    p = np.exp(logits)
    return logits, p / p.sum(axis=1, keepdims=True)


def statistics(x):
    return tm.Statistics.of([x])


# ---- Frechet distance ----


def frechet_by_definition(x, y):
    """With NumPy's covariance, and eigenvalues of the product."""
    m, n = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    s, t = np.cov(x.astype(np.float64).T), np.cov(y.astype(np.float64).T)
    eigenvalues = np.linalg.eigvals(s @ t).real
    return np.sum((m - n) ** 2) + np.trace(s) + np.trace(t) - 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum()


def test_frechet_distance():
    x, y = two_sets()
    expected = frechet_by_definition(x, y)
    numerics.check(statistics(x).distance(statistics(y)), expected, numerics.METRIC)
    assert statistics(x).distance(statistics(y)) > 0.1
    population = frechet_distance_with(x, y, ddof=0)
    assert numerics.rejects(population, expected, numerics.METRIC)
    assert numerics.rejects(frechet_by_definition(x[:-1], y), expected, numerics.METRIC)


def frechet_distance_with(x, y, ddof):
    covariances = [np.cov(a.astype(np.float64).T, ddof=ddof) for a in (x, y)]
    return tm.frechet_distance(x.mean(0, np.float64), covariances[0], y.mean(0, np.float64), covariances[1])


def test_frechet_distance_of_gaussians_with_one_basis():
    """Closed form: diagonal covariances, turned."""
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    a, b = rng.uniform(0.1, 2, 30), rng.uniform(0.1, 2, 30)
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2) + 4 * 30
    result = tm.frechet_distance(np.zeros(30), q * a @ q.T, np.full(30, 2.0), q * b @ q.T)
    numerics.check(result, expected, numerics.METRIC)
    assert numerics.rejects(result + 1e-6, expected, numerics.METRIC)


@pytest.mark.parametrize("n", (5, 40))
def test_frechet_distance_of_few_pictures(n):
    """Fewer rows than features: singular covariances lose no digits; a set is at distance 0 from itself."""
    x, y = two_sets(n, n, 64)
    own = statistics(x)
    assert abs(own.distance(own)) < 1e-10
    # The same by the Gram matrix: the singular values of the product of centred data.
    a, b = ((z - z.mean(axis=0, dtype=np.float64)) / np.sqrt(n - 1) for z in (x.astype(np.float64), y.astype(np.float64)))
    expected = np.sum((x.mean(0, np.float64) - y.mean(0, np.float64)) ** 2) + np.sum(a**2) + np.sum(b**2)
    expected -= 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()
    numerics.check(own.distance(statistics(y)), expected, numerics.METRIC)


def test_frechet_distance_is_torchmetrics():
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = two_sets()

    class Same(torch.nn.Module):
        num_features = x.shape[1]

        def forward(self, features):
            return features

    metric = fid.FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
    for part in np.array_split(y, 3):
        metric.update(torch.from_numpy(part), real=True)
    metric.update(torch.from_numpy(x).double(), real=False)
    expected = metric.compute().item()
    numerics.check(statistics(x).distance(statistics(y)), expected, numerics.METRIC)
    assert numerics.rejects(statistics(x[1:]).distance(statistics(y)), expected, numerics.METRIC)


def test_statistics_in_parts():
    """Any split over any shards, far from zero, equals NumPy's; a lost row does not."""
    x = two_sets(200, 10, 7)[0].astype(np.float64) + 1000
    whole = tm.Statistics(7)
    for shard in np.array_split(x, [3, 3, 90]):
        whole.merge(tm.Statistics.of([shard[:1], shard[1:]]) if len(shard) else tm.Statistics(7))
    assert whole.count == len(whole) == 200 and "200 rows of 7" in repr(whole)
    numerics.check(whole.mean, x.mean(axis=0), numerics.METRIC)
    numerics.check(whole.covariance(), np.cov(x.T), numerics.METRIC)
    assert numerics.rejects(statistics(x[1:]).covariance(), np.cov(x.T), numerics.METRIC)
    naive = (x.astype(np.float32).T @ x.astype(np.float32) - 200 * np.outer(x.mean(0), x.mean(0))) / 199
    assert numerics.rejects(naive, np.cov(x.T), numerics.METRIC)


def test_statistics_files(tmp_path):
    x, y = two_sets()
    ours = statistics(x)
    ours.save(tmp_path / "a.npz")
    again = tm.Statistics.load(tmp_path / "a.npz")
    assert again.count == 60 and again.merge(statistics(y)).count == 110
    numerics.check(again.covariance(), np.cov(np.concatenate([x, y]).astype(np.float64).T), numerics.METRIC)
    with np.load(tmp_path / "a.npz") as file:  # as pytorch-fid reads it
        assert np.array_equal(file["mu"], ours.mean) and np.array_equal(file["sigma"], ours.covariance())
    sigma = np.cov(y.astype(np.float64).T)
    np.savez(
        tmp_path / "adm.npz",
        mu=y.mean(0),
        sigma=sigma,
        mu_s=y.mean(0)[:3],
        sigma_s=sigma[:3, :3],
        arr_0=np.zeros((2, 4, 4, 3), np.uint8),
    )
    reference = tm.Statistics.load(tmp_path / "adm.npz")
    assert reference.count is None and tm.Statistics.load(tmp_path / "adm.npz", spatial=True).mean.shape == (3,)
    exact = frechet_by_definition(x, y)
    numerics.check(ours.distance(reference), exact, numerics.METRIC_FLOAT32_MEAN)
    assert numerics.rejects(frechet_by_definition(x, y[1:]), exact, numerics.METRIC_FLOAT32_MEAN)  # planted: a row less
    with pytest.raises(ValueError, match="know their count"):
        ours.merge(reference)
    with pytest.raises(ValueError, match="know their count"):
        reference.add(x)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_statistics_of_wrong_files(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.zeros((3, 2)))
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.zeros((3, 3)))
    (tmp_path / "text.npz").write_text("mu and sigma")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "odd.npz").read_bytes()[:100])
    for name, message in (("samples", "holds pictures"), ("odd", "sigma"), ("nan", "finite"), ("text", "npz"), ("cut", "npz")):
        with pytest.raises(ValueError, match=message):
            tm.Statistics.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        tm.Statistics.load(tmp_path / "none.npz")


# ---- kernel distance ----


def kernel_by_definition(x, y, gamma=None):
    x, y = x.astype(np.float64), y.astype(np.float64)
    gamma = 1 / x.shape[1] if gamma is None else gamma

    def k(a, b):
        return (gamma * a @ b + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(len(y)) for j in range(len(y)) if i != j])
    return within_x + within_y - 2 * np.mean([k(a, b) for a in x for b in y])


def test_kernel_distance(monkeypatch):
    x, y = two_sets(25, 21)
    expected = kernel_by_definition(x, y)
    numerics.check(tm.kernel_distance(x, y), expected, numerics.METRIC)
    numerics.check(tm.kernel_distance(x, y, gamma=0.5), kernel_by_definition(x, y, 0.5), numerics.METRIC)
    assert numerics.rejects(tm.kernel_distance(x, y, degree=2), expected, numerics.METRIC)
    numerics.check(tm.kernel_distance(x, y, reference_mean=tm.kernel_mean(y)), expected, numerics.METRIC)
    assert numerics.rejects(tm.kernel_distance(x, y, reference_mean=tm.kernel_mean(x)), expected, numerics.METRIC)
    monkeypatch.setattr(tm.distances, "BLOCK", 400)
    numerics.check(tm.kernel_distance(x, y), expected, numerics.METRIC)
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    biased = sum(sign * (((a @ b.T) / 12 + 1) ** 3).mean() for sign, a, b in ((1, x64, x64), (1, y64, y64), (-2, x64, y64)))
    assert numerics.rejects(biased, expected, numerics.METRIC)


def test_kernel_distance_is_torchmetrics(monkeypatch):
    """Subset for subset: torchmetrics draws with torch.randperm, which gets our draws here."""
    torch = pytest.importorskip("torch")
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = two_sets()

    class Same(torch.nn.Module):
        num_features = x.shape[1]

        def forward(self, features):
            return features

    metric = kid.KernelInceptionDistance(feature=Same(), subsets=5, subset_size=20).set_dtype(torch.float64)
    metric.update(torch.from_numpy(y).double(), real=True)
    metric.update(torch.from_numpy(x).double(), real=False)
    streams = [generator(3, k) for k in range(5)]
    draws = iter([stream.permutation(n) for stream in streams for n in (len(y), len(x))])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.from_numpy(next(draws)))
    mean, deviation = (value.item() for value in metric.compute())
    ours = tm.kernel_distance_subsets(x, y, subsets=5, subset_size=20, seed=3)
    numerics.check(ours, (mean, deviation), numerics.METRIC)
    assert numerics.rejects(tm.kernel_distance_subsets(x, y, subsets=5, subset_size=20, seed=4), ours, numerics.METRIC)
    assert numerics.rejects(tm.kernel_distance_subsets(x, y, subsets=4, subset_size=20, seed=3), ours, numerics.METRIC)


def test_kernel_distance_has_no_bias():
    """Over many draws of one distribution its mean is 0 within its own error; the biased estimate's is not."""
    rng = np.random.default_rng(0)
    values = np.array([tm.kernel_distance(*rng.normal(size=(2, 12, 5))) for _ in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert 4 * values.std() / 20 < 0.3  # what the diagonal would add is 2 mean(k(x,x)) / 12, about 1.4


def test_kernel_distance_of_pairs(monkeypatch):
    """Reconstructions: without their own originals in the mean between the sets, or the distance would come out too low."""
    x, y = two_sets(25, 25)
    a, b = x.astype(np.float64), y.astype(np.float64)
    others = np.mean([(a[i] @ b[j] / 12 + 1) ** 3 for i in range(25) for j in range(25) if i != j])
    expected = tm.kernel_mean(x) + tm.kernel_mean(y) - 2 * others
    numerics.check(tm.kernel_distance(x, y, paired=True), expected, numerics.METRIC)
    monkeypatch.setattr(tm.distances, "BLOCK", 400)
    numerics.check(tm.kernel_distance(x, y, paired=True), expected, numerics.METRIC)
    assert numerics.rejects(tm.kernel_distance(x, y), expected, numerics.METRIC)
    subset = generator(3, 0).permutation(25)[:20]
    ours = tm.kernel_distance_subsets(x, y, subsets=1, subset_size=20, seed=3, paired=True)[0]
    numerics.check(ours, tm.kernel_distance(x[subset], y[subset], paired=True), numerics.METRIC)
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=(2, 12, 5)) for _ in range(400)]
    pairs = [(x, np.sqrt(0.9) * x + np.sqrt(0.1) * noise) for x, noise in draws]  # of one distribution, and alike
    told, plain = (np.array([tm.kernel_distance(*pair, paired=paired) for pair in pairs]) for paired in (True, False))
    assert abs(told.mean()) < 4 * told.std() / 20 and plain.mean() < -4 * plain.std() / 20


# ---- inception score ----


def test_inception_score():
    _, p = probabilities(12)
    scores = [np.exp(np.mean([np.sum(row * np.log(row / part.mean(0))) for row in part])) for part in (p[:6], p[6:])]
    result = tm.inception_score(p, splits=2, seed=None)
    numerics.check(result, (np.mean(scores), np.std(scores, ddof=1)), numerics.METRIC)
    assert numerics.rejects(tm.inception_score(p, splits=3, seed=None), result, numerics.METRIC)
    assert tm.inception_score(p, splits=2, seed=1) == tm.inception_score(p, splits=2, seed=1) != result
    numerics.check(tm.inception_score(np.eye(7), splits=1)[0], 7.0, numerics.METRIC)


def test_inception_score_is_torchmetrics(monkeypatch):
    torch = pytest.importorskip("torch")
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits, p = probabilities()

    class Same(torch.nn.Module):
        def forward(self, features):
            return features

    metric = inception.InceptionScore(feature=Same(), splits=10).set_dtype(torch.float64)
    metric.update(torch.from_numpy(logits))
    monkeypatch.setattr(torch, "randperm", lambda n: torch.from_numpy(generator(5).permutation(n)))
    expected = [value.item() for value in metric.compute()]
    numerics.check(tm.inception_score(p, splits=10, seed=5), expected, numerics.METRIC)
    assert numerics.rejects(tm.inception_score(p, splits=10, seed=6), expected, numerics.METRIC)


# ---- precision and recall ----


def precision_recall_by_definition(x, y, k):
    def distance(a, b):
        return np.sqrt(np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2))

    def radii(z):
        return [sorted(distance(a, b) for j, b in enumerate(z) if j != i)[k - 1] for i, a in enumerate(z)]

    def inside(points, centres, reach):
        return np.mean([any(distance(p, c) <= r for c, r in zip(centres, reach)) for p in points])

    return inside(x, y, radii(y)), inside(y, x, radii(x))


@pytest.mark.parametrize("k", (1, 3, 5))
def test_precision_recall(k, monkeypatch):
    x, y = two_sets(60, 50, 3)
    y[:10] += 0.7  # some of each are outside the other
    x[:15] -= 0.6
    expected = precision_recall_by_definition(x, y, k)
    assert all(0.2 < value < 1 for value in expected) and expected[0] != expected[1]
    numerics.check(tm.precision_recall(x, y, k), expected, numerics.METRIC)
    monkeypatch.setattr(tm.distances, "BLOCK", 400)
    numerics.check(tm.precision_recall(x, y, k), expected, numerics.METRIC)
    for wrong in (tm.precision_recall(y, x, k), tm.precision_recall(x, y, k + 4), tm.precision_recall(x[5:], y, k)):
        assert numerics.rejects(wrong, expected, numerics.METRIC)


def test_precision_recall_of_copies():
    """A set against itself, also far from zero and with rows that occur often: everything is inside."""
    x = np.repeat(two_sets(20, 5, 4)[0] + 1000, 5, axis=0)
    assert tm.precision_recall(x, x) == (1, 1)
    assert tm.precision_recall(x + 50, x) == (0, 0)


def test_memory_does_not_grow_with_the_sets(monkeypatch):
    """All pairs of 3,000 rows would be 72 MB; blocks of 2^16 take a few of 0.5 MB, beside copies of the features."""
    import tracemalloc

    x, y = np.random.default_rng(0).normal(size=(2, 3000, 4))
    monkeypatch.setattr(tm.distances, "BLOCK", 1 << 16)
    tracemalloc.start()
    try:
        tm.precision_recall(x, y)
        tm.kernel_distance(x, y)
        assert tracemalloc.get_traced_memory()[1] < 8e6
        tracemalloc.reset_peak()
        monkeypatch.setattr(tm.distances, "BLOCK", 1 << 24)
        tm.kernel_distance(x, y)
        assert tracemalloc.get_traced_memory()[1] > 70e6
    finally:
        tracemalloc.stop()


# ---- perceptual distances and pictures ----


def test_lpips():
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(2, c, s, s)), rng.normal(size=(2, c, s, s))) for c, s in ((4, 6), (5, 3))]
    weights = [rng.uniform(size=4), rng.uniform(size=(1, 5, 1, 1))]
    expected = np.zeros(2)
    for (a, b), w in zip(layers, weights):
        w = w.reshape(-1)
        for n in range(2):
            places = []
            for i in range(a.shape[2]):
                for j in range(a.shape[2]):
                    u, v = a[n, :, i, j], b[n, :, i, j]
                    u, v = u / (np.sqrt(u @ u) + 1e-10), v / (np.sqrt(v @ v) + 1e-10)
                    places.append(np.sum(w * (u - v) ** 2))
            expected[n] += np.mean(places)
    a, b = zip(*layers)
    result = tm.lpips(a, b, weights)
    numerics.check(result, expected, numerics.METRIC)
    assert numerics.rejects(tm.lpips(a, b), expected, numerics.METRIC)
    assert numerics.rejects(tm.lpips(a[:1], b[:1], weights[:1]), expected, numerics.METRIC)
    assert np.array_equal(tm.lpips(a, a, weights), [0, 0])


def pictures(n=3, size=24):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(n, size, size, 3)), axis=1), axis=2)
    originals = np.clip(128 + 8 * smooth, 0, 255).astype(np.uint8)
    return np.clip(originals + rng.normal(size=originals.shape) * 12, 0, 255).astype(np.uint8), originals


def test_psnr_and_ssim_are_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    made, originals = pictures()
    expected = [metrics.peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(made, originals)]
    numerics.check(tm.psnr(made, originals), expected, numerics.METRIC)
    assert numerics.rejects(tm.psnr(made[::-1], originals), expected, numerics.METRIC)
    wang = [
        metrics.structural_similarity(
            b, a, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(made, originals)
    ]
    numerics.check(tm.ssim(made, originals), wang, numerics.METRIC)
    default = [metrics.structural_similarity(b, a, channel_axis=-1, data_range=255) for a, b in zip(made, originals)]
    assert numerics.rejects(default, wang, numerics.METRIC)


def ssim_by_definition(a, b):
    """Wang et al. 2004, section III: an 11 x 11 window of sigma 1.5 that lies inside the picture; one channel."""
    offsets = np.arange(-5, 6)
    g = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(g, g) / np.outer(g, g).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(5, a.shape[0] - 5):
        for j in range(5, a.shape[1] - 5):
            x, y = (z[i - 5 : i + 6, j - 5 : j + 6].astype(np.float64) for z in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(values)


def test_ssim_is_the_paper():
    pytest.importorskip("skimage")
    made, originals = pictures(1, 20)
    expected = np.mean([ssim_by_definition(made[0, :, :, c], originals[0, :, :, c]) for c in range(3)])
    numerics.check(tm.ssim(made, originals)[0], expected, numerics.METRIC)
    assert numerics.rejects(ssim_by_definition(made[0, :, :, 0], originals[0, :, :, 0]), expected, numerics.METRIC)


def test_clip_score():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 6))
    expected = [100 * max(0, np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))) for a, b in zip(x, y)]
    numerics.check(tm.clip_score(x, y), expected, numerics.METRIC)
    assert numerics.rejects(tm.clip_score(x, y[::-1]), expected, numerics.METRIC)
    assert min(expected) == 0 < max(expected)
    numerics.check(tm.clip_score(5 * x, y), expected, numerics.METRIC)


def test_clip_score_is_torchmetrics():
    """Its formula on the same embeddings: the cosine times 100, cut at 0 (torchmetrics cuts the mean, we each pair's)."""
    torch = pytest.importorskip("torch")
    cosine = pytest.importorskip("torchmetrics.functional").pairwise_cosine_similarity
    x, y = np.abs(np.random.default_rng(0).normal(size=(2, 20, 6)))
    expected = 100 * cosine(torch.from_numpy(x), torch.from_numpy(y)).diagonal().numpy()
    numerics.check(tm.clip_score(x, y), expected, numerics.METRIC)


# ---- what they do not take ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: tm.kernel_distance(x[:1], y), "features: expected numbers"),
        (lambda x, y: tm.kernel_distance(x[:, :3], y), "width 12"),
        (lambda x, y: tm.kernel_distance(x[:9], y, paired=True), "one for each of the reference, got 9"),
        (lambda x, y: tm.kernel_distance(x * np.nan, y), "finite"),
        (lambda x, y: tm.kernel_distance_subsets(x, y, subset_size=51), "2 to 50"),
        (lambda x, y: tm.precision_recall(x, y, 50), "k: expected 1 to 49"),
        (lambda x, y: tm.precision_recall(x[0], y), "features: expected numbers"),
        (lambda x, y: tm.inception_score(x), "add up to 1"),
        (lambda x, y: tm.inception_score(np.eye(3), splits=4), "splits: expected 1 to 3"),
        (lambda x, y: tm.clip_score(x, y), "shape of the texts"),
        (lambda x, y: tm.clip_score(np.zeros((1, 3)), np.ones((1, 3))), "not zero"),
        (lambda x, y: tm.frechet_distance(x[0], np.eye(3), y[0], np.eye(12)), "covariance: expected shape"),
        (lambda x, y: tm.frechet_distance(x[0], np.full((12, 12), np.inf), y[0], np.eye(12)), "covariance: expected finite"),
        (lambda x, y: tm.Statistics.of([]), "got none"),
        (lambda x, y: tm.Statistics.of([x, y[:, :3]]), r"expected \[n, 12\]"),
        (lambda x, y: tm.Statistics.of([x[:1]]).covariance(), "at least 2"),
        (lambda x, y: tm.Statistics(3).merge(tm.Statistics(4)), "width 3"),
        (lambda x, y: tm.lpips([x], [y]), "expected"),
        (lambda x, y: tm.lpips([], []), "as many layers"),
        (lambda x, y: tm.lpips([np.ones((1, 4, 2, 2))], [np.ones((1, 4, 2, 2))], [np.ones(3)]), "4 channels"),
    ],
)
def test_wrong_arguments(call, message):
    x, y = two_sets()
    with pytest.raises(ValueError, match=message):
        call(x, y)
