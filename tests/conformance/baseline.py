"""Write the yardstick again, after a deliberate change of the suite's version, the server or the client.

python tests/conformance/baseline.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "chain"), str(HERE.parents[1])]


def main() -> None:
    import suite
    import test_conformance_client as client_side

    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for revision in suite.REVISIONS:
            with suite.everything_server() as url:
                suite.write_baseline(f"server-{revision}", suite.server_side(url, revision, work / "server" / revision))
            found = client_side.run_all(revision, work / "client" / revision, {}, workers=2)
            suite.write_baseline(f"client-{revision}", sum(found.values(), suite.Checks()))
    subprocess.run(("git", "diff", "--stat", "--", str(HERE / "baseline")), check=True)


if __name__ == "__main__":
    main()
