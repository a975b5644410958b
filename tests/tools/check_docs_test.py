"""tools/check_docs on a small planted checkout: each promise is broken once, and the message read."""

import os
import stat
import subprocess
import sys
import tempfile
import unittest

TOOL = sys.argv[1]

SOUND = {
    "README.md": "See [design](docs/design/0001.md) and `common/base/clock.h`, `common/base/clock`, `common/base`.\n"
                 "Run `dsrun --num_gpus=2 train --lr 1 ./x.py --own`. Globs as `tests/*_test.cc` and `runs/x` are left alone.\n",
    "docs/design/0001.md": "back to [the start](../../README.md#top), or [away](https://example.org/x)\n",
    "docs/dependencies.md": "| package | why |\n| --- | --- |\n| `g++` | compiler |\n",
    "docs/numerics.md": "rule a: `Matmul.KeepsBits`\n",
    "docs/include_map.svg": "<svg/>\n",
    "common/base/clock.h": "",
    "tests/worker/matmul_test.cc": "TEST_P(Matmul, KeepsBits) {}\n",
    "tools/packages.txt": "# a comment\ng++  build  the compiler\n",
    "tools/include_map": "#!/bin/sh\necho '<svg/>'\n",
    "dist/bin/dsrun": "#!/bin/sh\necho '  --num_gpus N  --lr X'\n",
}


def run(files):
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            at = os.path.join(folder, path)
            os.makedirs(os.path.dirname(at), exist_ok=True)
            with open(at, "w", encoding="utf-8") as f:
                f.write(text)
            if text.startswith("#!"):
                os.chmod(at, os.stat(at).st_mode | stat.S_IXUSR)
        done = subprocess.run([sys.executable, TOOL, "--root", folder], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout


class CheckDocsTest(unittest.TestCase):
    def finds(self, path, text, *messages):
        code, out = run({**SOUND, path: text})
        self.assertEqual(out.splitlines(), list(messages))
        self.assertEqual(code, 1)

    def test_sound_documents_pass(self):
        self.assertEqual(run(SOUND), (0, "check_docs: 4 documents agree with the checkout\n"))

    def test_dead_link(self):
        self.finds("docs/design/0001.md", "\n[gone](../gone.md)\n", "docs/design/0001.md:2: link to ../gone.md, which does not exist")

    def test_dead_path(self):
        self.finds("README.md", "`common/base/clocks.h`\n", "README.md:1: `common/base/clocks.h` does not exist")

    def test_dependency_not_told(self):
        self.finds("tools/packages.txt", "g++ build a\nlibx test b\n",
                   "docs/dependencies.md: says nothing of libx, which tools/packages.txt installs")

    def test_dependency_not_installed(self):
        self.finds("tools/packages.txt", "", "docs/dependencies.md: g++ is not in tools/packages.txt")

    def test_old_picture(self):
        self.finds("docs/include_map.svg", "<svg old/>",
                   "docs/include_map.svg is out of date; draw it again: tools/include_map --svg docs/include_map.svg")

    def test_test_that_is_none(self):
        self.finds("docs/numerics.md", "`Matmul.LosesBits`\n", "docs/numerics.md:1: `Matmul.LosesBits` is no test in tests/")

    def test_unknown_flag(self):
        self.finds("README.md", "    dsrun --num-gpus=2 train --learning-rate 1\n",
                   "README.md:1: --learning-rate is not in dsrun --help")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
