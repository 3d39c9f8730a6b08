import keras
import numpy as np
import pytest

import keras_splitmask as ks

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402


def encoder():
    return ks.Encoder((16, 24, 3), 8, 24, 2, 2)


@pytest.mark.backend
def test_images_of_any_size_are_classified_by_name(rng):
    model = ks.transfer.Classifier(encoder(), 3, class_names=["ant", "bee", "cat"])
    model.head.kernel.assign(rng.normal(size=(24, 3)))
    images = [rng.integers(0, 256, (*size, 3), "uint8") for size in ((16, 24), (40, 30), (90, 11))]
    found = ks.predict_images(model, images, batch_size=2)
    assert [one["name"] for one in found] == ["images[0]", "images[1]", "images[2]"]
    logits = keras.ops.convert_to_numpy(model(images[0][None]))[0]
    np.testing.assert_allclose(found[0]["scores"], np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    for one in found:
        assert one["class_name"] == ["ant", "bee", "cat"][one["label"]] and one["label"] == one["scores"].argmax()
        assert one["score"] == one["scores"].max() and one["scores"].sum() == pytest.approx(1, abs=1e-5)
    (alone,) = ks.predict_images(model, images[1])
    np.testing.assert_allclose(alone["scores"], found[1]["scores"], atol=1e-5)


def test_classes_without_names_are_numbers_and_a_crop_shows_the_centre(rng):
    model = ks.transfer.Classifier(encoder(), 12, crop_ratio=0.5)
    model.head.kernel.assign(rng.normal(size=(24, 12)))
    image = rng.integers(0, 256, (32, 48, 3), "uint8")
    (found,) = ks.predict_images(model, image)
    assert found["class_name"] == str(found["label"])
    (centre,) = ks.predict_images(model, image[8:24, 12:36], crop_ratio=1.0)
    np.testing.assert_allclose(centre["scores"], found["scores"], atol=1e-6)


def test_the_value_range_of_the_model_is_used(rng):
    model = ks.transfer.Classifier(encoder(), 3, value_range=(0, 4095))
    model.head.kernel.assign(rng.normal(size=(24, 3)))
    image = rng.integers(0, 256, (16, 24, 3), "uint8")
    deep = np.round(image * (4095 / 255)).astype("uint16")
    (found,), (expected,) = ks.predict_images(model, deep), ks.predict_images(model, image)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)


def test_a_label_map_has_the_size_of_the_image(rng):
    model = ks.transfer.Segmenter(ks.Encoder((32, 32, 3), 16, 24, 2, 2), 4, width=8)
    sizes = ((20, 50), (70, 33))
    images = [rng.integers(0, 256, (*size, 3), "uint8") for size in sizes]
    for inference in ("whole", "slide"):
        found = ks.predict_images(model, images, batch_size=3, inference=inference)
        assert [one["label_map"].shape for one in found] == list(sizes) == [one["size"] for one in found]
        segment = ks.evaluation.segment_whole if inference == "whole" else ks.evaluation.segment_sliding
        for one, image in zip(found, images, strict=True):
            expected = segment(lambda x: model.predict(x, verbose=0), image, (32, 32))
            assert (one["label_map"] == expected).mean() > 0.99  # rounding decides between nearly equal classes


def test_what_a_model_cannot_do_is_refused():
    with pytest.raises(
        ks.prediction.NoHead, match="received a model of type SplitMask, which has no classes; fine-tune it first"
    ):
        ks.predict_images(ks.SplitMask(encoder(), inpaint_weight=0), np.zeros((2, 16, 24, 3)))
    with pytest.raises(ValueError, match="Expected no inference for a Classifier, received one"):
        ks.predict_images(ks.transfer.Classifier(encoder(), 3), np.zeros((2, 16, 24, 3)), inference="slide")
    with pytest.raises(ValueError, match="Expected inference to be whole or slide, received 'half'"):
        ks.prediction.predictor_for(
            ks.transfer.Segmenter(ks.Encoder((32, 32, 3), 16, 24, 2, 2), 4, width=8), inference="half"
        )


def test_features_of_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="Expected features among pooled, cls, patches, received deep"):
        ks.embed_images(encoder(), np.zeros((2, 16, 24, 3)), ("deep",))


def with_nan(model, weight):
    """The model with one NaN among the numbers of a weight."""
    values = keras.ops.convert_to_numpy(weight).copy()
    values.flat[-1] = np.nan
    weight.assign(values)
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused_with_the_name_of_the_image(value):
    model = ks.transfer.Classifier(encoder(), 2, class_names=["ant", "bee"])
    images = np.zeros((5, 16, 24, 3), "uint8")
    assert len(ks.predict_images(model, images, batch_size=2)) == 5
    images[3] = 255
    predict = model.predict_on_batch

    def damaged(batch):
        outputs = np.array(predict(batch))
        outputs[batch[:, 0, 0, 0] == 255, 1] = value
        return outputs

    model.predict_on_batch = damaged
    with pytest.raises(ValueError, match=r"NaN or infinity for images\[3\]; .* use an earlier checkpoint\.$"):
        ks.predict_images(model, images, batch_size=2)


def test_models_of_every_kind_with_damaged_weights_are_refused():
    segmenter = ks.transfer.Segmenter(ks.Encoder((32, 32, 3), 16, 24, 2, 2), 4, width=8)
    segmenter = with_nan(segmenter, segmenter.trainable_weights[0])
    for inference in ("whole", "slide"):
        with pytest.raises(ValueError, match=r"for images\[0\]; its weights are damaged"):
            ks.predict_images(segmenter, np.zeros((2, 32, 64, 3), "uint8"), inference=inference)
    detector = ks.transfer.MaskRCNN(ks.Encoder((32, 32, 3), 16, 24, 2, 2), 2, width=8, hidden=8)
    ks.prediction.predictor_for(detector)
    with pytest.raises(ValueError, match="Expected finite weights, received NaN or infinity in .*; its weights are"):
        ks.prediction.predictor_for(with_nan(detector, detector.trainable_weights[0]))
    model = encoder()
    with pytest.raises(ValueError, match=r"NaN or infinity for images\[0\]; its weights are damaged"):
        ks.embed_images(with_nan(model, model.trainable_weights[0]), np.zeros((2, 16, 24, 3), "uint8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_ratio": 0}, "crop_ratio as a number above 0 and at most 1, received 0"),
        ({"crop_ratio": 1.5}, "received 1.5"),
        ({"crop_ratio": "0.5"}, "received '0.5'"),
        ({"crop_ratio": float("nan")}, "received nan"),
        ({"batch_size": 0}, "batch_size as a positive whole number, received 0"),
        ({"batch_size": 2.5}, "received 2.5"),
        ({"workers": 0}, "workers as a positive whole number, received 0"),
        ({"workers": True}, "received True"),
    ],
)
def test_numbers_out_of_range_are_refused_by_both(options, message):
    for model, run in ((ks.transfer.Classifier(encoder(), 3), ks.predict_images), (encoder(), ks.embed_images)):
        with pytest.raises(ValueError, match=message):
            run(model, np.zeros((2, 16, 24, 3), "uint8"), **options)


def test_the_first_reason_is_given_if_no_image_can_be_read(rng, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), "uint8")).save(tmp_path / f"{name}.png")
        content = (tmp_path / f"{name}.png").read_bytes()
        broken = content[:60] + bytes(b ^ 255 for b in content[60:90]) + content[90:]  # a good header
        (tmp_path / f"{name}.png").write_bytes(broken)
    for model, run in ((ks.transfer.Classifier(encoder(), 3), ks.predict_images), (encoder(), ks.embed_images)):
        with pytest.raises(ValueError, match=r"received none of 2, such as a.png \(Expected a readable image"):
            run(model, tmp_path)


def test_few_images_are_no_full_batch_and_all_batches_have_one_shape():
    model, images = ks.transfer.Classifier(encoder(), 3), np.zeros((5, 16, 24, 3), "uint8")
    for run, of in ((ks.predict_images, model), (ks.embed_images, model.encoder)):
        predict, sizes = of.predict_on_batch, []
        of.predict_on_batch = lambda batch, predict=predict, sizes=sizes: sizes.append(len(batch)) or predict(batch)
        run(of, images)
        run(of, images, batch_size=2)
        assert sizes == [5, 2, 2, 2]


def test_a_repeated_file_has_a_result_each_time_and_a_pillow_image_one(rng, tmp_path):
    model = ks.transfer.Classifier(encoder(), 3)
    model.head.kernel.assign(rng.normal(size=(24, 3)))
    paths = [tmp_path / name for name in ("b.png", "a.png")]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 24, 4), "uint8"), "RGBA").save(path)
    found = ks.predict_images(model, [*paths, paths[0]])
    assert [one["name"] for one in found] == [str(path) for path in (*paths, paths[0])]
    np.testing.assert_allclose(found[2]["scores"], found[0]["scores"], atol=1e-6)
    assert np.abs(found[1]["scores"] - found[0]["scores"]).max() > 1e-3
    (one,) = ks.predict_images(model, Image.open(paths[1]))
    np.testing.assert_allclose(one["scores"], found[1]["scores"], atol=1e-5)
    names, features = ks.embed_images(model, [paths[1], paths[1]], "pooled")
    assert names == [str(paths[1])] * 2 and list(features) == ["pooled"] and features["pooled"].shape == (2, 24)


def test_the_path_of_a_model_is_no_model(tmp_path):
    for run in (ks.predict_images, ks.embed_images):
        with pytest.raises(TypeError, match=r"pass keras_splitmask.load\('runs/cls'\)"):
            run("runs/cls", np.zeros((2, 16, 24, 3)))
