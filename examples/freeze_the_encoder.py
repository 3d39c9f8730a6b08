"""Train a classifier on a frozen encoder: only the head learns, which is fast and needs few labels."""

import keras

import keras_splitmask as ks

LIMIT, EPOCHS = 1000, 20

encoder = ks.interchange.load_encoder("runs/quickstart")
source = ks.data.open_source("sample")
images, labels = ks.data.read_all(source, encoder.image_shape, limit=LIMIT)
model = ks.transfer.Classifier(encoder, classes=10, frozen=True, class_names=source.classes)
model.compile(keras.optimizers.Adam(0.01), metrics=["accuracy"])
model.fit(images, labels, batch_size=64, epochs=EPOCHS)
model.save("frozen.keras")
