"""The `webhook` waker: the request of a command, POSTed, with its key and a Standard Webhooks signature."""

import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Any

from watcher.wakers import NotStarted
from watcher.wakers.post import post, read_secret


def wake(request: dict[str, Any], settings: dict[str, Any]) -> None:
    """POST the request to `url`; `token_file` and `secret_file` are optional. Raises as `post` does."""
    body = json.dumps(request, separators=(",", ":")).encode()
    key = settings["key"]
    headers = {"Idempotency-Key": key}
    if settings["token_file"]:
        headers["Authorization"] = f"Bearer {read_secret(settings['token_file'])}"
    if settings["secret_file"]:
        headers |= signed(key, int(time.time()), body, read_secret(settings["secret_file"]))
    post(settings["url"], body, headers)


def signed(message_id: str, at: int, body: bytes, secret: str) -> dict[str, str]:
    """The headers of a Standard Webhooks signature; `at` is Unix time. Raises NotStarted if the secret is none."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise NotStarted("the webhook's secret must be base64, after an optional whsec_") from error
    digest = hmac.digest(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
