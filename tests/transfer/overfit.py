"""python -m tests.transfer.overfit HEAD [STEPS]: learns 16 drawn scenes by heart, and prints how well it then knows
them.

HEAD is retinanet or maskrcnn (average precision of boxes and masks), or upernet, deeplab or segformer (mean IoU).
"""

import sys

import keras

import keras_splitmask as ks
from keras_splitmask.evaluation import ConfusionMatrix, average_precision, to_original
from tests.transfer.drawn import as_coco, draw_label_maps, draw_scenes

SHAPE, COUNT, BATCH = (64, 96, 3), 16, 8


def build(head):
    encoder = ks.Encoder(SHAPE, patch_size=16, width=64, depth=4, heads=4)
    if head == "retinanet":
        return ks.transfer.RetinaNet(encoder, 2, width=32, anchor_scale=2.0)
    if head == "maskrcnn":
        return ks.transfer.MaskRCNN(encoder, 2, width=32, hidden=64, anchor_scale=4.0, proposals=50, samples=32)
    return ks.transfer.Segmenter(encoder, 3, head=head, width=32)


def main(head, steps=300):
    keras.utils.set_random_seed(0)
    images, objects = draw_scenes(COUNT, SHAPE)
    model, targets = build(head), draw_label_maps(objects, SHAPE) if head not in ("retinanet", "maskrcnn") else objects
    model.compile(
        ks.training.adamw(2e-3, int(steps), warmup=int(steps) // 10), jit_compile=keras.backend.backend() == "jax"
    )

    def batches():
        for step in range(int(steps)):
            part = slice(step % 2 * BATCH, step % 2 * BATCH + BATCH)
            yield images[part], keras.tree.map_structure(lambda x, part=part: x[part], targets)

    loss = model.fit(batches(), steps_per_epoch=int(steps), shuffle=False, verbose=0).history["loss"][0]
    answers = model.predict(images, batch_size=BATCH, verbose=0)
    print(f"{head} on {keras.backend.backend()}, {steps} steps: mean loss {loss:.3f}", end="")
    if head not in ("retinanet", "maskrcnn"):
        matrix = ConfusionMatrix(3)
        matrix.add(targets, answers.argmax(axis=-1))
        print(f", mean IoU {matrix.mean_iou:.3f}, of classes {' '.join(f'{x:.3f}' for x in matrix.iou)}")
        return
    found = [
        {"image_id": i, **to_original({name: x[i] for name, x in answers.items()}, 1, *SHAPE[:2])} for i in range(COUNT)
    ]
    for kind in ("boxes", "masks") if "masks" in found[0] else ("boxes",):
        scores = average_precision(as_coco(objects, SHAPE), found, kind)
        print(f", {kind} AP {scores['ap']:.3f}, at 0.5 {scores['ap50']:.3f}", end="")
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
