"""What is seen some steps before process rewards ruin a run: they stop agreeing with outcomes, and the PRM's accuracy falls to a coin's.

And what is seen of rewards that are not there yet: rounding is larger than they are.
"""

from oprime_cli.running.metric_rows import WINDOW, MetricRows

YOUNG_STEPS = 2 * WINDOW
"""Before so many steps a PRM that starts as its own reference may still know nothing."""
LOWEST_CORRELATION = 0.1
LOWEST_ACCURACY = 0.5
LOWEST_SIGNAL_TO_NOISE = 1.0


def early_warnings(rows: MetricRows) -> list[str]:
    """A sentence for each sign of it, over the newest steps; empty while there is none."""
    if len(rows.steps) < YOUNG_STEPS:
        return []
    said: list[str] = []
    correlation, accuracy = rows.mean("process_outcome_correlation"), rows.mean("prm_accuracy")
    if correlation is not None and correlation < LOWEST_CORRELATION:
        said.append(
            f"process rewards no longer agree with outcomes (correlation {correlation:.2f} over "
            f"{rows.count('process_outcome_correlation')} steps)"
        )
    if accuracy is not None and accuracy <= LOWEST_ACCURACY:
        said.append(
            f"the PRM tells right from wrong no better than a coin (accuracy {accuracy:.2f} over {rows.count('prm_accuracy')} steps)"
        )
    return said


def noise_warnings(rows: MetricRows) -> list[str]:
    """A sentence where the rewards of the newest steps are mostly rounding; from the first measurement on."""
    ratio = rows.mean("prm_reward_signal_to_noise")
    if ratio is None or ratio >= LOWEST_SIGNAL_TO_NOISE:
        return []
    return [
        f"process rewards are mostly rounding noise (signal to noise {ratio:.2f} over {rows.count('prm_reward_signal_to_noise')} steps): "
        "set prm.score_dtype=float32"
    ]


def note_of(rows: MetricRows) -> str:
    """All warnings with what to do about them; empty without any."""
    said = noise_warnings(rows)
    if collapse := early_warnings(rows):
        remedy = "a collapse may follow; lower algorithm.process_weight or prm.learning_rate, or see docs/operations.md"
        said.append(f"{'; '.join(collapse)}: {remedy}")
    return ". ".join(said)
