"""Asking through a cursor: the rows, or the error that is expected."""

import adbc_driver_flightsql.dbapi as flightsql
import pytest
from servers import Postgres


def rows(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def refused(cursor, code, sql, *words):
    """The statement fails with this code; its error has these words, and no password of ours."""
    with pytest.raises(flightsql.Error, match=code) as raised:
        rows(cursor, sql)
    for word in words:
        assert word in str(raised.value), raised.value
    assert Postgres.PASSWORD not in str(raised.value)
