"""How finetune divides few images, groups that list nothing or everything, and class folders without images."""

from tests.class_folders import FOLDERS, noise, splits_of


def test_classes_of_two_images_give_one_each(here, tmp_path, rng):
    given = noise(tmp_path / "set", rng, a=2, b=2, c=2)
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'fifth'}")
    assert end.status == 0 and not end.err
    rule = "3 of 6 images (50%, not 20%: at least one of each class with two) are drawn to evaluate on"
    assert f"is not divided: {rule}, by --seed=0 (train 3, test 3)" in end.out
    assert {name[0] for name in splits_of(tmp_path / "fifth" / "split.csv")["test"]} == {"a", "b", "c"}
    given = noise(tmp_path / "divided", rng, train__a=2, train__b=2, test__a=1, test__b=1)
    end = here("finetune", given, *FOLDERS, "--val=0.2", f"--workdir={tmp_path / 'val'}")
    assert end.status == 0 and "2 of 4 training images are set aside as val (50%, not 20%" in end.out


def test_an_empty_class_folder_is_named(here, tmp_path, rng):
    given = noise(tmp_path / "set", rng, train__a=4, train__b=4, test__a=1, test__b=1)
    (tmp_path / "set" / "train" / "pears").mkdir()
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "1 folder has no image to use, so there is no such class: pears\n" in end.out
    assert "8 labelled images of 2 classes" in end.out
    (tmp_path / "set" / "train" / "pears").rmdir()
    (tmp_path / "set" / "train" / ".hidden").mkdir()
    assert "no such class" not in here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'other'}").out


def test_groups_that_list_nothing_or_everything(here, refused, tmp_path, rng):
    given, table = noise(tmp_path / "set", rng, a=5, b=5), tmp_path / "groups.csv"
    table.write_text("group,file\n")
    end = here("finetune", given, *FOLDERS, f"--groups={table}", f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and f"--groups={table} lists no images, so only copies stay together" in end.out
    table.write_text("group,file\n" + "".join(f"1,{name}/{i}.png\n" for name in "ab" for i in range(5)))
    line = refused("finetune", given, *FOLDERS, f"--groups={table}", f"--workdir={tmp_path / 'no'}")
    assert "to leave two groups in one class or more, received all images of each class in one group" in line
    # Two groups of both classes, 4 and 6 images: the smaller one is drawn.
    table.write_text("group,file\n" + "".join(f"{i > 1},{name}/{i}.png\n" for name in "ab" for i in range(5)))
    end = here("finetune", given, *FOLDERS, f"--groups={table}", f"--workdir={tmp_path / 'two'}")
    rule = "4 of 10 images (40%, not 20%: copies and groups stay together) are drawn to evaluate on"
    assert end.status == 0 and f"{rule}, by --seed=0 (train 6, test 4)" in end.out
    table.write_text("")
    line = refused("finetune", given, *FOLDERS, f"--groups={table}", f"--workdir={tmp_path / 'no'}")
    assert f"Expected a CSV file that lists groups, received {table} (it is empty)." in line
