from __future__ import annotations

import re

from flow_manager.util.tokens import hash_token, token_matches


def test_a_hash_has_the_form_that_settings_take():
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", hash_token("secret"))
    # sha256("abc"), FIPS 180-2, appendix B.1
    assert hash_token("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_only_the_same_token_matches():
    assert token_matches("secret", hash_token("secret"))
    assert not token_matches("Secret", hash_token("secret"))
    assert not token_matches("\ud800", hash_token("secret"))
