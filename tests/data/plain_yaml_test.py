import contextlib

import pytest

from keras_splitmask.data import plain_yaml

KEYS = ("path", "train", "val", "test", "names", "nc")
TEXTS = [
    "path: ../datasets/coco8 # a root\ntrain: images/train\nval: images/val\ntest: # none\n\nnames:\n  0: person\n"
    "  1: traffic light\n  2: 'rock ''n'' roll'\n",
    "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['a # b', \"c, d\"]\n\nroboflow:\n  project: x\n",
    "names:\n- a\n- b: c\n- 'd'\ntrain:\n  - images/a\n  - images/b\n",
    "names: {0: a, 1: \"b\"}\ndownload: |\n  import this  # code\n  names: 3\nval: 'x: y'\n",
    "\ufeff---\nnames: [a,\n  b,\n  c]\ntrain: a#b\nval: C:\\data\\x\n...\n",
    'names: []\ntrain:\npath: "C:\\\\data"\n',
]


@pytest.mark.parametrize("text", TEXTS)
def test_as_pyyaml_reads_it(text):
    yaml = pytest.importorskip("yaml")
    content = {key: value for key, value in yaml.safe_load(text.removeprefix("\ufeff")).items() if key in KEYS}

    # Here every value is a text, nothing is an empty one, and `- b: c` is no table.
    def as_text(value):
        if isinstance(value, list):
            return [": ".join(*item.items()) if isinstance(item, dict) else str(item) for item in value]
        if isinstance(value, dict):
            return {str(key): str(item) for key, item in value.items()}
        return "" if value is None else str(value)

    assert plain_yaml.read(text, KEYS) == {key: as_text(value) for key, value in content.items()}


@pytest.mark.parametrize("piece", [" ", "a", "'", '"', "[", "a, ", "a\n", "{a: b, ", "a: "])
def test_long_texts_take_no_long_time(piece):
    for start in ("", "names: ", "names: [", "names:\n  "):
        with contextlib.suppress(ValueError):
            plain_yaml.read(start + piece * (300_000 // len(piece)), KEYS)


@pytest.mark.parametrize(
    "text",
    [
        "names: [a, [b]]",
        "names: &x [a]",
        "names: [a",
        "names:\n  0:\n    a: b",
        "names: a\n  b",
        'names: "a',
        "names:\n  a",
    ],
)
def test_what_is_refused(text):
    with pytest.raises(ValueError, match="line [123] cannot be read: "):
        plain_yaml.read(text, KEYS)
    assert plain_yaml.read(f"x{text}", KEYS) == {}  # of another key it is nobody's matter
