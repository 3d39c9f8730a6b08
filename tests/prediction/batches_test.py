import threading

import numpy as np
import pytest

from keras_splitmask import prediction


def test_batches_are_in_order_and_do_not_depend_on_the_start():
    def read(i):
        if i % 4 == 1:
            raise ValueError(f"no image {i}")
        return 10 * i

    whole = list(prediction.read_batches(read, 11, 3))
    assert [number for number, *_ in whole] == [0, 1, 2, 3]
    assert whole[1][1:] == ({3: 30, 4: 40}, {5: "no image 5"}) and whole[3][1:] == ({10: 100}, {9: "no image 9"})
    assert list(prediction.read_batches(read, 11, 3, start=2, workers=4)) == whole[2:]
    assert list(prediction.read_batches(read, 0, 3)) == []


def test_other_errors_are_not_swallowed():
    def read(i):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(prediction.read_batches(read, 4, 2))


def test_few_batches_are_read_ahead_and_none_after_the_end():
    read, lock = [], threading.Lock()

    def note(i):
        with lock:
            read.append(i)

    batches = prediction.read_batches(note, 1000, 10)
    next(batches)
    batches.close()
    assert len(read) <= 30


@pytest.mark.backend
def test_the_last_batch_is_padded_to_one_shape():
    class Model:
        shapes = []

        def predict_on_batch(self, images):
            self.shapes.append(images.shape)
            return {"sum": images.sum(axis=(1, 2, 3))}

    model = Model()
    images = [np.full((2, 2, 1), i, "uint8") for i in range(3)]
    assert prediction.run_model(model, images, 5)["sum"].tolist() == [0, 4, 8]
    assert prediction.run_model(model, images, 3)["sum"].tolist() == [0, 4, 8]
    assert model.shapes == [(5, 2, 2, 1), (3, 2, 2, 1)]
