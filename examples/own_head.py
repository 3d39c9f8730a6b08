"""Put a head of your own on an encoder: any Keras layers on its feature map (B, rows, columns, D)."""

import keras

import keras_splitmask as ks

LIMIT, EPOCHS = 1000, 20

encoder = ks.interchange.load_encoder("runs/quickstart")
images, labels = ks.data.read_all(ks.data.open_source("sample"), encoder.image_shape, limit=LIMIT)
inputs = keras.Input(encoder.image_shape, dtype="uint8")
hidden = keras.layers.Conv2D(32, 3, padding="same", activation="gelu")(encoder(inputs)["feature_map"])
outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(hidden))
model = keras.Model(inputs, outputs)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(ks.training.adamw(1e-3, steps=EPOCHS * LIMIT // 64), loss, metrics=["accuracy"])
model.fit(images, labels, batch_size=64, epochs=EPOCHS)
model.save("own_head.keras")
