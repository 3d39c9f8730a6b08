"""Load what finetune.py trained, classify new images, and find the one that is most similar to the first."""

import numpy as np

import keras_splitmask as ks

model = ks.load("runs/tuned")
for result in ks.predict_images(model, "new"):
    print(f"{result['name']}  {result['class_name']}  {result['score']:.0%}")

names, features = ks.embed_images(model, "new")
vectors = features["pooled"] - features["pooled"].mean(axis=0)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
nearest = int(np.argsort(-(vectors @ vectors[0]))[1])
print(f"{names[nearest]} is most similar to {names[0]}.")
