import pytest

from tests.transfer import drawn


@pytest.fixture
def scenes():
    return drawn.draw_scenes


@pytest.fixture
def as_coco():
    return drawn.as_coco
