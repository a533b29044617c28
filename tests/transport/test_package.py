import pytest

import rafter_transport


def test_every_public_name_is_found_in_its_module() -> None:
    for name in rafter_transport.__all__:
        assert getattr(rafter_transport, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = rafter_transport.Nonsense
