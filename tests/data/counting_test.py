from keras_splitmask.data.counting import counted


def test_one_thing_and_several():
    assert counted(1, "image") == "1 image" and counted(0, "image") == "0 images"
    assert counted(1, "class") == "1 class" and counted(2, "class") == "2 classes"
