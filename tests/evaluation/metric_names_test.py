import pytest

from keras_splitmask.evaluation.metric_names import label_of, text_of


@pytest.mark.parametrize(
    ("name", "value", "label", "text"),
    [
        ("test_top1", 0.5, "top-1 accuracy on test", "50.0%"),
        ("best_test_top1", 0.25, "top-1 accuracy of best.keras on test", "25.0%"),
        ("commonest_test_class_top1", 0.1, "accuracy of always naming one class, by the test images", "10.0%"),
        ("train_images", 1000, "images to train on", "1,000"),
        ("mask_ap50", 0.5, "mask AP50", "50.0%"),
        ("ap_small", 0.125, "AP of small objects", "12.5%"),
        ("seconds", 31, "time", "0.5 min"),
        ("apex", 0.5, "apex", "0.5"),
        ("learning_rate", 0.001, "learning rate", "0.001"),
    ],
)
def test_names_are_words_and_values_have_units(name, value, label, text):
    assert (label_of(name), text_of(name, value)) == (label, text)
