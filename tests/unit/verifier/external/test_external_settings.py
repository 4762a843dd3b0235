"""Settings of external verifiers, and the rules over all of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from oprime.runtime.errors import SettingsError
from oprime_verifier.external.settings import CompositionSection, PluginSection, WebhookSection, check_names, composition_order


def all_of(*parts: str) -> CompositionSection:
    return CompositionSection(mode="all", parts=parts)


def test_two_verifiers_cannot_have_one_name() -> None:
    with pytest.raises(SettingsError, match=r"verifier.webhooks.mine: verifier.plugins.mine has the name"):
        check_names(("math",), plugins={"mine": 1}, webhooks={"mine": 2})
    with pytest.raises(SettingsError, match=r"verifier.plugins.math: a built-in verifier has the name"):
        check_names(("math",), plugins={"math": 1})
    check_names(("math",), plugins={"a": 1}, webhooks={"b": 2})


def test_compositions_come_after_their_parts() -> None:
    compositions = {"outer": all_of("inner", "math"), "inner": all_of("math", "code")}
    assert composition_order(compositions, ("math", "code")) == ("inner", "outer")


def test_a_part_must_exist() -> None:
    with pytest.raises(SettingsError, match=r"verifier.compositions.whole.parts names 'maths', .* there are code, math, whole"):
        composition_order({"whole": all_of("maths")}, ("math", "code"))


def test_a_composition_cannot_hold_itself() -> None:
    with pytest.raises(SettingsError, match="circle"):
        composition_order({"a": all_of("b"), "b": all_of("a")}, ("math",))
    with pytest.raises(SettingsError, match="circle"):
        composition_order({"a": all_of("a")}, ())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mode": "gate", "parts": ["a"]}, "a gate needs"),
        ({"mode": "all", "parts": []}, "at least 1"),
        ({"mode": "all", "parts": ["a", "a"]}, "named once"),
        ({"mode": "all", "parts": ["a", "b"], "weights": [1, 2]}, "leave them out"),
        ({"mode": "weighted", "parts": ["a", "b"], "weights": [1]}, "one above 0 for each of the 2"),
        ({"mode": "weighted", "parts": ["a", "b"], "weights": [1, -1]}, "above 0"),
        ({"mode": "most", "parts": ["a"]}, "first_decided"),
    ],
)
def test_a_composition_that_makes_no_sense_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        CompositionSection.model_validate(settings)


def test_a_range_has_a_length() -> None:
    with pytest.raises(ValidationError, match="must be below"):
        PluginSection(target="a:b", range=(1.0, 1.0))


def test_a_webhook_is_reached_over_http() -> None:
    with pytest.raises(ValidationError, match="url"):
        WebhookSection(url="ftp://judge.example/x")
