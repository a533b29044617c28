"""The environment of a shard."""

from rafter_storage.file_system import REAL_FILE_SYSTEM
from rafterd.environment import Environment


def test_by_default_it_is_the_real_machine_and_takes_the_usual_way() -> None:
    environment = Environment()
    assert environment.files is REAL_FILE_SYSTEM
    assert 0 <= environment.random_bits(3) < 8
    assert not environment.buggify("anything")
