"""Every operation of the OpenAPI document, with data that fit its schemas and data that do not: no 5xx, no status that
is not declared, answers that fit their schemas."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks

from retriever.serving import ServeSettings, create_app
from tests.retriever.serving.conftest import make, running

EXAMPLES = 20  # of each operation
pytestmark = pytest.mark.slow
load_all_checks()
# A filter, a name or a model that fits its schema may still be none that there is.
EXCLUDED = [CHECKS.get_one("positive_data_acceptance")]


@schemathesis.serializer("application/x-ndjson")
def _lines(context, value):
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()


schema = schemathesis.openapi.from_dict(create_app(ServeSettings()).openapi())
bounded = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def url(served_docs):
    return served_docs[0]


@pytest.fixture(scope="module")
def writable_url(tmp_path_factory, encoder):
    with running(make(tmp_path_factory.mktemp("schema") / "docs.index", encoder), "--writable") as (url, _):
        yield url


@schema.parametrize()
@bounded
def test_a_server_that_is_only_read(case, url):
    case.call_and_validate(base_url=url, excluded_checks=EXCLUDED)


@schema.parametrize()
@bounded
def test_a_writable_server(case, writable_url):
    case.call_and_validate(base_url=writable_url, excluded_checks=EXCLUDED)
