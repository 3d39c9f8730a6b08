"""Tables and pictures of images compared by their features: duplicates, outliers and neighbours."""

import pathlib

from recipes.shared import commandline, writing

ROWS, COLUMNS, TILES = 12, 8, 40  # groups in a picture, images of a group, images of a list
QUERY = (213, 94, 0)


class Comparison:
    """Images, their names and their features.

    Args:
        output: `pathlib.Path` of the features; tables and pictures are written beside it.
        source: the `Source` of the images.
        names: names of the images with features, which are some of the source.
        features: (N, D) float32.
    """

    def __init__(self, output, source, names, features):
        from keras_splitmask import evaluation

        self.output, self.source, self.names, self.features = output, source, names, features
        self.vectors = evaluation.directions(features)
        self.places = {source.name(i): i for i in range(len(source))}

    def path(self, ending):
        """The path of a file beside the features, such as features.duplicates.csv."""
        return self.output.with_name(f"{self.output.stem}.{ending}")

    def tile(self, i, line):
        """Draw image `i` of the names, with its name and a line below it."""
        import numpy as np

        from keras_splitmask import evaluation

        try:
            image = self.source.image(self.places[self.names[i]])
        except ValueError:  # it has changed since its features were computed
            image = np.full((32, 32, 1), 128, "uint8")
        return evaluation.thumbnail(image), [self.names[i], line]

    def duplicates(self, threshold):
        """Write and draw the groups of near-duplicates. Returns whether there are any."""
        from keras_splitmask import evaluation
        from keras_splitmask.data.counting import counted

        groups, nearest, best = evaluation.near_duplicates(self.vectors, threshold)
        # The closest first; rounded as the table is, since equal images differ in the last bits.
        closeness = [round(float(value), 4) for value in best]
        groups.sort(key=lambda group: -max(closeness[i] for i in group))
        path = self.path("duplicates.csv")
        with writing.csv_file(path, ["group", "file", "most_similar", "similarity"]) as rows:
            for number, group in enumerate(groups, 1):
                for i in group:
                    rows.writerow([number, self.names[i], self.names[nearest[i]], f"{best[i]:.4f}"])
        count = sum(map(len, groups))
        rule = f"by a cosine similarity of {threshold:g} or more"
        spare = count - len(groups)
        line = (
            f"{count} images in {counted(len(groups), 'group')}, {rule}; without {spare} of them, one of each is left"
        )
        print(f"duplicates: {line if groups else f'no near-duplicates, {rule}'}", flush=True)
        shown = [
            [
                self.tile(i, f"group {number}  {best[i]:.3f}")
                for i in sorted(group, key=lambda i: -closeness[i])[:COLUMNS]
            ]
            for number, group in enumerate(groups[:ROWS], 1)
        ]
        drawn = f"{len(shown)} of {len(groups)} groups" if len(groups) > ROWS else counted(len(groups), "group")
        if any(len(group) > COLUMNS for group in groups[:ROWS]):
            drawn += f", at most {COLUMNS} images of each"
        self._draw("duplicates", shown, f"near-duplicates {rule}, closest first: {drawn}")
        return bool(groups)

    def outliers(self, near):
        """Write and draw the images in order of their mean distance to the `near` nearest neighbours."""
        from keras_splitmask import evaluation

        odd = evaluation.oddness(self.vectors, near)
        order = (-odd).argsort(kind="stable")
        path = self.path("outliers.csv")
        with writing.csv_file(path, ["rank", "file", "distance"]) as rows:
            rows.writerows([rank, self.names[i], f"{odd[i]:.4f}"] for rank, i in enumerate(order, 1))
        first = ", ".join(self.names[i] for i in order[:3])
        print(f"outliers: {first} are farthest from their {min(near, len(odd) - 1)} nearest neighbours", flush=True)
        title = f"outliers: mean distance (1 - cosine) to the {min(near, len(odd) - 1)} nearest neighbours"
        self._draw("outliers", [[self.tile(i, f"{odd[i]:.3f}") for i in order[:TILES]]], title)

    def neighbours(self, file, embedding, key, near):
        """Write and draw the `near` images that are most similar to an image file.

        Args:
            file: path of the image.
            embedding: the `prediction.Embedding` for it.
            key: kind of the features.
            near: number of images.
        """
        from keras_splitmask import data, evaluation

        try:
            query = data.open_images([file], embedding.shape[-1], self.source.value_range)
            image = embedding.read(query, 0)
        except ValueError as error:
            raise commandline.BadInput(f"--neighbours={file}: {error}") from error
        features = embedding.compute([image])[key]
        vectors, query_vectors = evaluation.directions(self.features, features)
        own = self._same_file(file)
        # One more if the image is in the set, since it is most similar to itself.
        indices, similarities = (
            x[0] for x in evaluation.most_similar(vectors, query_vectors, near + (own is not None))
        )
        found = [(i, s) for i, s in zip(indices, similarities, strict=True) if self.names[i] != own][:near]
        path = self.path("neighbours.csv")
        with writing.csv_file(path, ["rank", "file", "similarity"]) as rows:
            rows.writerows([rank, self.names[i], f"{s:.4f}"] for rank, (i, s) in enumerate(found, 1))
        first = ", ".join(f"{self.names[i]} {s:.3f}" for i, s in found[:3])
        print(f"neighbours of {file}: {first}", flush=True)
        asked = evaluation.framed(evaluation.thumbnail(query.image(0)), QUERY), [pathlib.Path(file).name, "query"]
        self._draw("neighbours", [[asked], [self.tile(i, f"{s:.3f}") for i, s in found]], f"most similar to {file}")

    def _same_file(self, file):
        """The name under which an image file is among the images, or None."""
        real = pathlib.Path(file).resolve()
        root = getattr(getattr(self.source, "scan", None), "root", None)
        if root is None:
            return None
        return next(
            (name for name, i in self.places.items() if pathlib.Path(root, self.source.paths[i]).resolve() == real),
            None,
        )

    def _draw(self, what, rows, title):
        from keras_splitmask import evaluation

        print(f"table     {self.path(f'{what}.csv')}", flush=True)
        path = self.path(f"{what}.png")
        if any(rows):
            evaluation.save_sheet(path, rows, title)
            print(f"picture   {path}", flush=True)
        else:
            path.unlink(missing_ok=True)
