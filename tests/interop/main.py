"""Runs the interoperability suites one after the other and prints what each step showed.

A suite is a story in one function: it starts what it needs, walks through steps, and ends at the
first step that fails. Whatever it started ends with it. Logs of a failed suite stay in
target/interop/logs.
"""

import signal
import sys
import time

import suites
from harness import Failed, Story


def main(arguments):
    if arguments == ["--list"]:
        print("\n".join(suites.ALL))
        return 0
    unknown = [name for name in arguments if name not in suites.ALL]
    if unknown:
        print(f"no such suite: {', '.join(unknown)}; there are: {', '.join(suites.ALL)}", file=sys.stderr)
        return 2
    # `timeout` and Ctrl-C end the processes that a story started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    stories = [tell(name, suites.ALL[name]) for name in arguments or suites.ALL]
    for story in stories:
        print(f"{'passed' if story.passed else 'FAILED'}  {story.summary()}")
    failed = sum(not story.passed for story in stories)
    print(f"interop: {len(stories) - failed} passed, {failed} failed")
    return 1 if failed else 0


def tell(name, function):
    print(f"{name}: {' '.join(function.__doc__.split())}")
    story = Story(name)
    began = time.monotonic()
    try:
        function(story)
        story.passed = True
    except Failed:
        pass
    except Exception as error:  # a bug of the suite, or a peer that did not start
        story.fail("outside of a step", error)
    finally:
        story.end()
    story.seconds = time.monotonic() - began
    print()
    return story


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
