"""The process that runs one waker: `python -m watcher.wakers NAME`, with the request on standard input.

Exit codes: 0 the agent was woken; 75 no turn began; 1 the wake failed. The reason goes to standard error.
"""

import asyncio
import inspect
import json
import os
import sys
from typing import Final

from watcher.wakers import GRANT_FILE, NotStarted, load

EXIT_FAILED: Final = 1
EXIT_NOT_STARTED: Final = 75


def main(name: str) -> int:
    """Run the waker of this name on the wake whose grant the environment names."""
    request = json.load(sys.stdin)
    with open(os.environ[GRANT_FILE], encoding="utf-8") as file:
        settings = json.load(file)["settings"]
    try:
        result = load(name)(request, settings)
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except NotStarted as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_STARTED
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
