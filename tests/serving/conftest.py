"""One toy model for all tests of the page: it is compiled once."""

import pytest

from tests.inference import toy_model


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
  return toy_model.make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def model(encoder):
  return toy_model.make_model(encoder)
