"""A container's health check: `python healthcheck.py SERVICE PORT` exits 0 when the service says it is ready, or has nothing to do."""

import sys

from run_service import NOTHING_TO_DO

from oprime_cli.running.health import health_of

if __name__ == "__main__":
    service, port = sys.argv[1:]
    sys.exit(0 if NOTHING_TO_DO.exists() or health_of(service, f"127.0.0.1:{port}")() else 1)
