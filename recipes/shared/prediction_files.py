"""The files of predictions, for each kind of model: CSV, JSON and PNG."""

import collections

from recipes.shared import map_names, writing

SHOWN = 0.3  # least score of an object that is counted on the screen or drawn


def number(value):
    """A float32 as the shortest number that is the same float32."""
    import numpy as np

    # As 0.1, where float(value) would be 0.10000000149011612.
    return float(str(np.float32(value)))


class Writer:
    """How the results of one kind of model are kept. `to_record` makes a record of a result, a dictionary for JSON;
    `write` writes the files of all records.

    Args:
        predictor: a `prediction.Predictor`.
        source: the images.
        folder: `pathlib.Path` of the results, or None to print them only.
    """

    def __init__(self, predictor, source, folder):
        self.predictor, self.source, self.folder = predictor, source, folder
        self.class_names = predictor.class_names
        self.counts = collections.Counter()  # images or objects of each class

    def to_record(self, index, result):
        raise NotImplementedError

    def line(self, record):
        """Describe a record in one line."""
        raise NotImplementedError

    def count(self, record):
        """Count a record in `counts`."""
        raise NotImplementedError

    def write(self, records, left_out):
        """Write the files from a function `records()` to an iterator; predictions.json is for the caller to write last,
        by the returned function."""
        raise NotImplementedError

    def tile(self, record, image):
        """Draw an image (H, W, C) uint8 with its record: a picture, and lines below it."""
        raise NotImplementedError

    def legend(self):
        """Pairs of names and colours for pictures."""
        return []

    def summary(self):
        """What there is of each class, in a line."""
        return ", ".join(f"{name} {count}" for name, count in self.counts.most_common(8))


class ClassWriter(Writer):
    """predictions.csv has a row per image: file, class, score; and class_2, score_2... with --top."""

    def __init__(self, predictor, source, folder, top=1):
        super().__init__(predictor, source, folder)
        self.top = min(top, len(self.class_names))

    def to_record(self, index, result):
        order = (-result["scores"]).argsort(kind="stable")[: self.top]
        # The predicted class first, also where rounding gave another one the same score.
        order = [result["label"], *(int(i) for i in order if i != result["label"])][: self.top]
        best = [{"class": self.class_names[i], "label": i, "score": number(result["scores"][i])} for i in order]
        more = {"top": best} if self.top > 1 else {}
        return {"file": self.source.name(index), **best[0], **more}

    def line(self, record):
        best = record.get("top", [record])
        return f"{record['file']}  " + ", ".join(f"{one['class']} {one['score']:.1%}" for one in best)

    def count(self, record):
        self.counts[record["class"]] += 1

    def tile(self, record, image):
        from keras_splitmask import evaluation

        return evaluation.thumbnail(image), [record["file"], f"{record['class']} {record['score']:.0%}"]

    def write(self, records, left_out):
        columns = [name for i in range(1, self.top + 1) for name in (f"class_{i}", f"score_{i}")]
        with writing.csv_file(self.folder / "predictions.csv", ["file", "class", "score", *columns[2:]]) as rows:
            for record in records():
                best = record.get("top", [record])
                rows.writerow([record["file"], *(one[name] for one in best for name in ("class", "score"))])
        head = {"classes": self.class_names, "left_out": left_out}
        return lambda: writing.write_items(self.folder / "predictions.json", head, records())

    def files(self):
        return ["predictions.csv"]


class ObjectWriter(Writer):
    """predictions.json is a list of COCO results, images.json the images and categories that they refer to, and
    predictions.csv has a row per object.

    `category_ids` are the numbers of the classes in the data set; by default from 1 on.
    """

    def __init__(self, predictor, source, folder, category_ids=None):
        super().__init__(predictor, source, folder)
        self.category_ids = category_ids or list(range(1, len(self.class_names) + 1))

    def to_record(self, index, result):
        objects = []
        for i, (label, score) in enumerate(zip(result["labels"], result["scores"], strict=True)):
            top, left, bottom, right = result["boxes"][i].astype("float64")
            box = [round(float(x), 3) for x in (left, top, right - left, bottom - top)]
            mask = {"segmentation": result["masks"][i]} if "masks" in result else {}
            objects.append({"label": int(label), "score": number(score), "bbox": box, **mask})
        height, width = map(int, result["size"])
        return {"id": index + 1, "file": self.source.name(index), "height": height, "width": width, "objects": objects}

    def line(self, record):
        shown = [one for one in record["objects"] if one["score"] >= SHOWN]
        names = ", ".join(f"{self.class_names[one['label']]} {one['score']:.2f}" for one in shown[:5])
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        return f"{record['file']}  {names or f'no object with a score of {SHOWN} or more'}{more}"

    def tile(self, record, image):
        import numpy as np

        from keras_splitmask import evaluation
        from keras_splitmask.data.counting import counted

        found = [one for one in record["objects"] if one["score"] >= SHOWN]
        corners = [(top, left, top + height, left + width) for left, top, width, height in (o["bbox"] for o in found)]
        objects = {
            "boxes": np.reshape(corners, (-1, 4)),
            "labels": [one["label"] for one in found],
            "scores": [one["score"] for one in found],
        }
        if found and "segmentation" in found[0]:
            objects["masks"] = [one["segmentation"] for one in found]
        drawn = evaluation.draw_objects(image, objects, self.class_names, SHOWN)
        return drawn, [record["file"], f"{counted(len(found), 'object')} with a score of {SHOWN} or more"]

    def count(self, record):
        self.counts.update(self.class_names[one["label"]] for one in record["objects"] if one["score"] >= SHOWN)

    def summary(self):
        return f"objects with a score of {SHOWN} or more: {super().summary() or 'none'}"

    def _results(self, records):
        for record in records():
            for one in record["objects"]:
                category = self.category_ids[one["label"]]
                kept = {name: one[name] for name in ("bbox", "score", "segmentation") if name in one}
                yield {"image_id": record["id"], "category_id": category, **kept}

    def write(self, records, left_out):
        with writing.csv_file(
            self.folder / "predictions.csv", ["file", "class", "score", "left", "top", "width", "height"]
        ) as rows:
            for record in records():
                for one in record["objects"]:
                    rows.writerow([record["file"], self.class_names[one["label"]], one["score"], *one["bbox"]])
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.class_names, strict=True)]
        images = (
            {"id": record["id"], "file_name": record["file"], "height": record["height"], "width": record["width"]}
            for record in records()
        )
        writing.write_items(self.folder / "images.json", {"categories": categories, "left_out": left_out}, images)
        return lambda: writing.write_items(self.folder / "predictions.json", {}, self._results(records))

    def files(self):
        return ["predictions.csv", "images.json"]


class MapWriter(Writer):
    """label_maps has a PNG file of class numbers per image, classes.json the names of the numbers, and predictions.csv
    and predictions.json the fraction of each class per image.

    `class_numbers` are the numbers of the classes in the data set; by default from 0 on.
    """

    def __init__(self, predictor, source, folder, class_numbers=None):
        super().__init__(predictor, source, folder)
        self.numbers = class_numbers or list(range(len(self.class_names)))
        # All at once, since a.jpg and a.png of one folder would both become a.png.
        self.names = map_names.unique_names(map(source.name, range(len(source))), "label_maps") if folder else []

    def to_record(self, index, result):
        import numpy as np

        labels, (height, width) = result["label_map"], map(int, result["size"])
        counts = np.bincount(labels.ravel(), minlength=len(self.class_names)).tolist()
        record = {"file": self.source.name(index), "height": height, "width": width}
        if self.folder:
            record["label_map"] = self.names[index]
            self._save(self.folder / record["label_map"], labels)
        return {**record, "pixels": counts}

    def _save(self, path, labels):
        import numpy as np
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = np.array(self.numbers, "uint16" if max(self.numbers) > 255 else "uint8")[labels]
        with writing.aside(path, f"{path.name}.part") as part:
            Image.fromarray(numbers).save(part, format="PNG")

    def _fractions(self, record):
        total = record["height"] * record["width"]
        return {name: round(n / total, 6) for name, n in zip(self.class_names, record["pixels"], strict=True)}

    def line(self, record):
        shares = sorted(self._fractions(record).items(), key=lambda item: -item[1])
        return f"{record['file']}  " + ", ".join(f"{name} {share:.0%}" for name, share in shares[:5] if share >= 0.005)

    def tile(self, record, image):
        from keras_splitmask import evaluation

        labels, names = self._load(record), self.line(record).removeprefix(record["file"]).strip()
        drawn = evaluation.draw_classes(image, labels, len(self.class_names))
        return evaluation.side_by_side(evaluation.draw_plain(image), drawn), [record["file"], names]

    def _load(self, record):
        """The label map (height, width) of a record, as classes."""
        import numpy as np
        from PIL import Image

        with Image.open(self.folder / record["label_map"]) as picture:
            numbers = np.asarray(picture)
        order = np.argsort(self.numbers)
        return order[np.searchsorted(np.asarray(self.numbers)[order], numbers)]

    def legend(self):
        from keras_splitmask import evaluation

        colours = evaluation.palette(len(self.class_names)).tolist()
        return [(name, colour) for name, colour in zip(self.class_names, colours, strict=True) if self.counts[name]]

    def count(self, record):
        self.counts.update(dict(zip(self.class_names, record["pixels"], strict=True)))

    def summary(self):
        total = max(1, sum(self.counts.values()))
        shares = ", ".join(f"{name} {count / total:.1%}" for name, count in self.counts.most_common(8) if count)
        return f"pixels: {shares}"

    def write(self, records, left_out):
        with writing.csv_file(
            self.folder / "predictions.csv", ["file", "label_map", "height", "width", *self.class_names]
        ) as rows:
            for record in records():
                names = ("file", "label_map", "height", "width")
                rows.writerow([*(record[name] for name in names), *self._fractions(record).values()])
        names = {str(number): name for number, name in zip(self.numbers, self.class_names, strict=True)}
        writing.write_json(self.folder / "classes.json", names)
        head = {"classes": names, "left_out": left_out}

        def rewritten():
            for record in records():
                kept = {name: record[name] for name in ("file", "label_map", "height", "width")}
                yield {**kept, "fractions": self._fractions(record)}

        return lambda: writing.write_items(self.folder / "predictions.json", head, rewritten())

    def files(self):
        return ["predictions.csv", "classes.json"]
