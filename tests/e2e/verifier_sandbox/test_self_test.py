from oprime_verifier.sandbox.native import NativeSandbox
from oprime_verifier.sandbox.report import CapabilityReport, Layer, probe_sandbox, self_test


def test_every_way_out_is_shut_here(sandbox: NativeSandbox) -> None:
    report = probe_sandbox(sandbox)
    assert [probe.name for probe in report.probes if not probe.blocked] == []
    assert len(report.probes) == 30


def test_the_report_is_plain_data() -> None:
    report = self_test("native").to_dict()
    assert {"name", "active", "required", "detail"} == set(report["layers"][0])
    assert {"name", "blocked", "detail"} == set(report["probes"][0])


def test_a_missing_layer_is_named_when_strict_mode_needs_it() -> None:
    layers = (Layer(name="landlock", active=False, required=True), Layer(name="uid", active=False, required=False))
    assert CapabilityReport(profile="native", layers=layers, probes=()).missing() == ("landlock",)
