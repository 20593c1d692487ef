import pytest

from tests.client.both import asynchronous, synchronous


@pytest.fixture(params=[synchronous, asynchronous], ids=["sync", "async"])
def connect(request):
    """Opens a client at an address, as a context manager; what it returns is used the same way for both."""
    return request.param
