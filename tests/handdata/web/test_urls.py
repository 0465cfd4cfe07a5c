"""Addresses in public form. The kinds of secrets that they may hold: `tests/faults/test_b1_secrets.py`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handdata.errors import UserError
from handdata.web.urls import public_names, public_url, require_url, without_secrets

WORD = st.text("abcXYZ019-_.~%", min_size=1, max_size=12)


@given(WORD, WORD, WORD, WORD)
def test_a_url_with_all_its_parts_loses_user_password_query_and_fragment(user, host, path, secret):
    url = f"https://{user}:{secret}@{host}/{path}?k={secret}&l#{secret}e"
    assert public_url(url) == f"https://{host}/{path}"
    assert without_secrets(f"see '{url}' there") == f"see 'https://{host}/{path}' there"


@given(st.text(max_size=40))
def test_the_public_form_of_any_text_is_its_own_public_form(text):
    assert public_url(public_url(text)) == public_url(text)
    assert public_url("https://" + text) == public_url(public_url("https://" + text))


def test_equal_public_forms_are_numbered_and_equal_places_are_not():
    places = ["https://h/get?f=1", "https://h/get?f=2", "https://h/get?f=1", "/a/b.zip"]
    assert public_names(places) == ["https://h/get", "https://h/get#2", "https://h/get", "/a/b.zip"]


def test_the_option_begins_the_message():
    with pytest.raises(UserError, match=r"^--server http://h:99999/v1 is not a valid URL \(its port .*\): correct it$"):
        require_url("http://u:pw@h:99999/v1?k=1", "--server")
