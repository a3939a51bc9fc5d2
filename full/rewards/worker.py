"""The worker of full/rewards/pool.py: reads [gold, answer] as a JSON line, writes true or false. It executes no model text."""

import json
import os
import resource
import sys


def main() -> None:
    limit = int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    from math_verify import parse, verify

    print("ready", file=answers)
    for line in sys.stdin:
        gold, given = json.loads(line)
        try:
            equal = bool(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{given}}}")))
        except Exception:  # undecidable counts as wrong; so does a comparison that ran out of memory
            equal = False
        print(json.dumps(equal), file=answers)


if __name__ == "__main__":
    main()
