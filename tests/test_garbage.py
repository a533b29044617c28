import gc
import weakref

import pytest

from tests.garbage import collected


class Cycle:
    """Only the collector of cycles frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_the_block_left_is_collected_at_its_end() -> None:
    with collected():
        left = weakref.ref(Cycle())
        assert left() is not None
    assert left() is None


def test_what_was_there_before_can_be_collected_later() -> None:
    before = weakref.ref(Cycle())
    with collected():
        pass
    with pytest.raises(ValueError, match="no"), collected():
        raise ValueError("no")
    gc.collect()
    assert before() is None
    assert gc.get_freeze_count() == 0
