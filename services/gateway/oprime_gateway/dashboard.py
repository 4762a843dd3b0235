"""GET /: one page without foreign resources that polls the API. It holds no data itself."""

import secrets

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape

_TEMPLATES = Environment(loader=PackageLoader("oprime_gateway"), autoescape=select_autoescape())


def dashboard_page(*, needs_key: bool) -> HTMLResponse:
    nonce = secrets.token_urlsafe(16)
    page = _TEMPLATES.get_template("dashboard.html").render(nonce=nonce, needs_key=needs_key)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return HTMLResponse(page, headers=headers)
