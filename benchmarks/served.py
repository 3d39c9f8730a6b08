"""Export a classifier in each format, and measure each program: bytes, time of an image, and the same classes.

    taskset -c 0 python benchmarks/served.py --init_from=runs/tuned --dataset=folder:labelled --workdir=runs/served

Each program runs in a process of its own, by its runtime alone. "same" is the share of images that get the class of the
first program, and accuracy that of images whose class is right. `calibrated_int8` is calibrated on training images.
The table is printed, and written to served.json in --workdir.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SINGLE = 100  # images that are answered one by one, to be timed


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init_from", help="run folder of a classifier")
    parser.add_argument("--dataset", help="folder:PATH with train and test")
    parser.add_argument("--workdir", type=pathlib.Path, help="new folder for the programs and the table")
    parser.add_argument("--limit", type=int, default=400, help="test images")
    parser.add_argument("--layouts", default="saved_model,torch,onnx,litert")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args()


def measure(layout, folder, aside):
    """Run a program: write its classes, and the milliseconds of an image, beside the images."""
    from recipes.shared.runtimes import RUNTIMES

    images = np.load(pathlib.Path(aside, "images.npy"))
    run = RUNTIMES[layout](pathlib.Path(folder))
    run(images[:1])  # the first time may compile
    began = time.monotonic()
    for i in range(min(SINGLE, len(images))):
        run(images[i : i + 1])
    milliseconds = 1000 * (time.monotonic() - began) / min(SINGLE, len(images))
    classes = [run(images[i : i + 50])["scores"].argmax(-1) for i in range(0, len(images), 50)]
    np.savez(pathlib.Path(aside, "answers.npz"), classes=np.concatenate(classes), milliseconds=milliseconds)


def read_images(given, model):
    """Test images as the classifier takes them, evenly spread, and their labels."""
    from keras_splitmask import data, prediction

    source = data.open_source(given.dataset, "test", channels=model.encoder.image_shape[-1], classes=model.class_names)
    predictor = prediction.predictor_for(model)
    places = np.linspace(0, len(source) - 1, min(given.limit, len(source))).round().astype(int)
    return np.stack([predictor.read(source, i) for i in places]), np.asarray(source.labels)[places]


def variants(layouts):
    from recipes.shared.runtimes import QUANTIZED, SMALLER

    return [(layout, number) for layout in layouts for number in ("none", *(QUANTIZED if layout in SMALLER else ()))]


def main():
    given = arguments()
    if given.measure:
        measure(*given.measure)
        return
    import keras_splitmask as ks

    model = ks.load(given.init_from)
    images, labels = read_images(given, model)
    train = pathlib.Path(given.dataset.partition(":")[2], "train")
    given.workdir.mkdir(parents=True)
    rows, first = [], None
    for layout, number in variants(given.layouts.split(",")):
        folder = given.workdir / f"{layout}-{number}"
        export = [f"--init_from={given.init_from}", f"--layout={layout}", f"--quantize={number}", f"--images={train}"]
        subprocess.run([sys.executable, ROOT / "recipes/export.py", *export, f"--output={folder}"], check=True)
        with tempfile.TemporaryDirectory() as aside:
            np.save(pathlib.Path(aside, "images.npy"), images)
            subprocess.run([sys.executable, __file__, "--measure", layout, folder, aside], check=True)
            with np.load(pathlib.Path(aside, "answers.npz")) as file:
                classes, milliseconds = file["classes"], float(file["milliseconds"])
        first = classes if first is None else first
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
        row = {"layout": layout, "quantize": number, "bytes": size, "milliseconds": round(milliseconds, 2)}
        rows.append(row | {"same": float((classes == first).mean()), "accuracy": float((classes == labels).mean())})
    (given.workdir / "served.json").write_text(json.dumps({"images": len(images), "programs": rows}, indent=1) + "\n")
    print("| `--layout` | `--quantize` | MB | ms an image | same class | accuracy |\n|---|---|---:|---:|---:|---:|")
    for one in rows:
        numbers = f"{one['bytes'] / 1e6:.2f} | {one['milliseconds']:.1f} | {one['same']:.1%} | {one['accuracy']:.1%}"
        print(f"| {one['layout']} | {one['quantize']} | {numbers} |")


if __name__ == "__main__":
    main()
