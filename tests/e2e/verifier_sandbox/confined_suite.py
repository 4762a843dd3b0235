"""The core of the sandbox's suite as a program, to be run under other users and restrictions. Prints one JSON object."""

import json
import sys
from dataclasses import asdict

from oprime_verifier.code.verifier import CodeVerifier
from oprime_verifier.conformance.attack_checks import ATTACKS
from oprime_verifier.sandbox.native import NativeSandbox
from oprime_verifier.sandbox.report import self_test
from oprime_verifier.sandbox.types import Job

report = self_test("native")
sandbox = NativeSandbox()
verifier = CodeVerifier(sandbox)
wrong = {}
for attack in ATTACKS:
    outcome = verifier.verify(attack.request())
    if outcome.verdict not in attack.verdicts:
        wrong[attack.name] = f"{outcome.verdict}: {outcome.reason}"
numpy = sandbox.run(Job(source="import numpy\nprint(numpy.arange(3).sum())", profile="numpy"))
sandbox.close()
json.dump({"report": asdict(report), "missing": report.missing(), "wrong": wrong, "numpy": numpy.stdout.decode()}, sys.stdout)
