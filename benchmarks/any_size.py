"""Compare programs that `export --resize` wrote with `predict`, on images of any size.

    python benchmarks/any_size.py --init_from=runs/tuned --images=photos --log=any_size.json onnx:runs/any-size

Each program is given as LAYOUT:FOLDER. It gets every image as it is, alone. Its class and probabilities are compared
with those of `predict`, which reads large JPEG files at a lower resolution, and with those of the model after this
library has resized all pixels of the image.
"""

import argparse
import json
import pathlib

import numpy as np


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init_from", help="run folder of the classifier")
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--limit", type=int, default=400, help="images, evenly spread")
    parser.add_argument("--log", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("programs", nargs="+", help="LAYOUT:FOLDER")
    return parser.parse_args()


def main():
    given = arguments()
    import keras_splitmask as ks
    from keras_splitmask import data
    from recipes.shared import program_pictures
    from recipes.shared.runtimes import RUNTIMES

    model = ks.load(given.init_from)
    predictor = ks.prediction.predictor_for(model)
    source = data.open_images([given.images], predictor.shape[-1], getattr(model, "value_range", None))
    places = np.linspace(0, len(source) - 1, min(given.limit, len(source))).round().astype(int)
    images = [source.image(i)[None] for i in places]
    expected = {
        "predict": scores(predictor, [predictor.read(source, i) for i in places]),
        "all pixels": scores(
            predictor, [program_pictures.framed(image, model, predictor.crop_ratio)[0] for image in images]
        ),
    }
    rows = []
    for program in given.programs:
        layout, _, folder = program.partition(":")
        run = RUNTIMES[layout](pathlib.Path(folder))
        found = np.concatenate([run(image)["scores"] for image in images])
        for name, value in expected.items():
            same = float((found.argmax(-1) == value.argmax(-1)).mean())
            row = {"program": f"{layout}:{pathlib.Path(folder).name}", "against": name, "same": same}
            rows.append(row | {"largest": float(np.abs(found - value).max())})
            print(rows[-1], flush=True)
    if given.log:
        given.log.write_text(json.dumps({"images": len(images), "rows": rows}, indent=1) + "\n")


def scores(predictor, images):
    step = predictor.batch_size
    batches = [predictor.results(images[i : i + step]) for i in range(0, len(images), step)]
    return np.stack([result["scores"] for batch in batches for result in batch])


if __name__ == "__main__":
    main()
