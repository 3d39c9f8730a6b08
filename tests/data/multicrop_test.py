import itertools
import re

import numpy as np
import pytest

from keras_splitmask.data import MultiCrop, two_view_batches, view_batches
from keras_splitmask.data.arrays import ArraySource

VIEWS = MultiCrop(3, (4, 6))


def textured():
    return ArraySource(
        np.random.default_rng(0).integers(256, size=(20, 16, 24, 3)).astype("uint8"), labels=np.zeros(20, int)
    )


def take(count, **options):
    return list(itertools.islice(view_batches(textured(), (8, 12, 3), 6, VIEWS, **options), count))


def test_crops_are_a_function_of_seed_and_step():
    whole = take(5)
    assert {name: (x.shape, x.dtype) for name, x in whole[0].items()} == {
        "global": ((6, 2, 8, 12, 3), np.uint8),
        "local": ((6, 3, 4, 6, 3), np.uint8),
    }
    for again in (take(3, start=2), take(5, workers=0)[2:]):
        for a, b in zip(whole[2:], again, strict=True):
            assert all((a[name] == b[name]).all() for name in ("global", "local"))
    assert (whole[0]["global"] != take(1, seed=1)[0]["global"]).any()
    for name in ("global", "local"):  # each crop is drawn for itself
        crops = [crop.tobytes() for batch in whole for image in batch[name] for crop in image]
        assert len(set(crops)) == len(crops)


def test_shares_of_the_area():
    """On an image whose pixels name their place, a crop's range of places is its size."""
    places = np.zeros((200, 200, 2), "uint8")
    places[..., 0], places[..., 1] = np.arange(200)[:, None], np.arange(200)[None]
    crops = MultiCrop(200, (8, 8)).cut(places, (16, 16), np.random.default_rng(0))

    def shares(crops):
        spans = [crops[..., c].max(axis=(1, 2)).astype(float) - crops[..., c].min(axis=(1, 2)) for c in range(2)]
        side = crops.shape[1]
        return spans[0] * spans[1] * (side / (side - 1)) ** 2 / 200**2

    local = shares(crops["local"])
    assert 0.03 < local.min() < 0.09 and 0.33 < local.max() < 0.46 and abs(local.mean() - 0.225) < 0.04
    large = np.concatenate(
        [shares(MultiCrop(0, (8, 8)).cut(places, (16, 16), np.random.default_rng(i))["global"]) for i in range(60)]
    )
    assert 0.3 < large.min() < 0.5 and 0.85 < large.max() < 1.1


def test_no_local_crops():
    batch = next(iter(view_batches(textured(), (8, 12, 3), 6, MultiCrop(0, (4, 4)))))
    assert batch["local"].shape == (6, 0, 4, 4, 3)


def test_two_views_are_the_global_crops_of_their_scale():
    expected = view_batches(textured(), (8, 12, 3), 6, MultiCrop(0, (8, 12), global_scale=(0.5, 0.6)), start=3)
    received = two_view_batches(textured(), (8, 12, 3), 6, scale=(0.5, 0.6), start=3)
    for views, batch in itertools.islice(zip(expected, received, strict=True), 3):
        assert batch.shape == (6, 2, 8, 12, 3)
        np.testing.assert_array_equal(views["global"], batch)


def test_errors():
    with pytest.raises(ValueError, match="Expected local >= 0 crops of local_size=.height, width., received -1 of"):
        MultiCrop(-1, (4, 4))


@pytest.mark.parametrize(
    "scale", [(1.0, 0.2), (0, 1), (-0.1, 1), (0.2, 1.1), (np.nan, 1), (0.2, np.nan), (0.2, np.inf), 0.5, (0.5,), "ab"]
)
def test_scales_that_are_no_range_of_areas_are_refused_before_an_image_is_read(scale):
    line = "Expected scale to be the smallest and the largest fraction of the image's area, above 0 and up to 1, "
    for build in (
        lambda: two_view_batches(textured(), (8, 12, 3), 6, scale=scale),
        lambda: MultiCrop(0, (4, 4), global_scale=scale),
        lambda: MultiCrop(1, (4, 4), local_scale=scale),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{line}received {scale!r}; correct it, such as (0.2, 1.0).")):
            build()
    next(iter(two_view_batches(textured(), (8, 12, 3), 6, scale=[0.3, 0.3])))
