"""What `e2e.forked` imports once for all processes that it forks."""

import oprime_prm.implicit_prm  # noqa: F401
