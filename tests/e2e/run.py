# SPDX-License-Identifier: Apache-2.0
"""run.py BUILD FILE.TEST - runs one test: a function of one scene. Exit 0 passed, 1 failed, 77 skipped.

Tests of test_grpcio.py need grpcio: they run under the Python of build/venv (tests/run.sh makes it), or of $PLATEN_PYTHON.
"""
import importlib
import os
import sys
import traceback

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
sys.dont_write_bytecode = True

from nodes import Scene, Skip  # noqa: E402


def other_python():
    return os.environ.get("PLATEN_PYTHON") or os.path.join(here, "../../build/venv/bin/python")


def main():
    build, (file, test) = os.path.abspath(sys.argv[1]), sys.argv[2].split(".")
    if file == "test_grpcio" and "PLATEN_GRPCIO" not in os.environ:
        if not os.path.exists(other_python()):
            print(f"skipped: no Python with grpcio at {other_python()}; tests/run.sh makes it")
            return 77
        os.environ["PLATEN_GRPCIO"] = "here"
        os.execv(other_python(), [other_python(), "-B", *sys.argv])
    scene = Scene(build, sys.argv[2])
    try:
        getattr(importlib.import_module(file), test)(scene)
    except Skip as why:
        print(f"skipped: {why}")
        return 77
    except BaseException:
        traceback.print_exc()
        print(scene.logs())
        return 1
    finally:
        scene.close()
    return 0


sys.exit(main())
