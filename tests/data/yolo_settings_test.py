import pytest

from keras_splitmask.data import yolo_layouts

NAMES = {
    "path: ../coco8 # a root\ntrain: a\nnames:\n  0: person\n  1: traffic light\n  2: 'rock ''n'' roll'\n": {
        **{"0": "person", "1": "traffic light", "2": "rock 'n' roll"}
    },
    "train: ../train/images\nnc: 2\nnames: ['a # b', \"c, d\"]\nroboflow:\n  project: {deep: [x]}\n": ["a # b", "c, d"],
    "names:\n- no\n- b: c\n- 3\ntrain:\n  - images/a\n": ["no", "b: c", "3"],
    '\ufeff---\nnames: [a,\n  b,\n  c]\ndownload: |\n  import this  # code\nval: "x: y"\n...\n': ["a", "b", "c"],
    "names: &x [a]\nothers: *x\n": ["a"],
    "names:\n": "",
}


@pytest.mark.parametrize(("text", "names"), NAMES.items())
def test_names_are_texts(tmp_path, text, names):
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    assert yolo_layouts.settings(tmp_path)["names"] == names


def test_an_empty_file_has_no_settings(tmp_path):
    (tmp_path / "data.yaml").touch()
    assert yolo_layouts.settings(tmp_path) == {}
