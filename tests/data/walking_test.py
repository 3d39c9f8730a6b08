import pytest

from keras_splitmask.data import open_source, walking
from keras_splitmask.data.walking import walk


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_systems_are_not_entered_but_named(tmp_path):
    systems = (
        "@eaDir",
        "__MACOSX",
        ".ipynb_checkpoints",
        "lost+found",
        "#recycle",
        "$RECYCLE.BIN",
        ".git",
        "System Volume Information",
    )
    touch(tmp_path, "a/1.png", "Thumbs.db", "a/.DS_Store", *(f"{name}/1.png" for name in systems), "a/@eaDir/1.png")
    found = walk(str(tmp_path))
    assert found.paths == ["a/1.png"] and found.others == 2
    assert (
        sorted(found.not_entered) == sorted((*systems, "a/@eaDir"))
        and found.not_entered["@eaDir"] == "thumbnails of a Synology"
    )
    assert found.not_entered[".git"] == "hidden"


def test_a_link_is_followed_each_time_but_not_back(tmp_path):
    touch(tmp_path, "store/1.png", "root/a/2.png")
    root = tmp_path / "root"
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / "store")
    (tmp_path / "store" / "itself").symlink_to(tmp_path / "store")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "above").symlink_to(tmp_path)
    found = walk(str(root))
    assert sorted(found.paths) == ["a/2.png", "a/above/store/1.png", "cat/1.png", "dog/1.png"]
    back = "a link back to a folder around it"
    assert found.not_entered == dict.fromkeys(
        ("a/up", "a/above/root", "a/above/store/itself", "cat/itself", "dog/itself"), back
    )


def test_folders_that_link_to_each_other_end(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "MOST_LINKS", 20)
    for i in range(7):
        touch(tmp_path, f"{i}/image.png")
        for j in range(7):
            (tmp_path / str(i) / f"to{j}").symlink_to(tmp_path / str(j))
    found = walk(str(tmp_path))  # there are 13,699 ways
    assert {f"{i}/image.png" for i in range(7)} <= set(found.paths) and len(found.paths) <= 7 * 20
    assert "linked more than 20 times" in found.not_entered.values()


@pytest.mark.parametrize("links", [2, 3])
def test_two_classes_may_link_to_one_folder(tmp_path, nasty_folder, links):
    for i in range(links):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"class{i}").symlink_to(nasty_folder[0])
    one = open_source(f"folder:{nasty_folder[0]}", max_bad_fraction=0.5)
    source = open_source(f"folder:{tmp_path / 'set'}", max_bad_fraction=0.5)
    assert source.class_count == links and len(source) == links * len(one)
