"""README.md and docs/ run: every block that shows Python or a console is executed, and shown output is compared.

The convention, for whoever writes a page (CONTRIBUTING.md tells it too):

- ``python``: runs; all blocks of one page share their names, in the order of the page.
- ``pycon``: a session with ``>>>``, compared as doctest does.
- ``console``: lines after ``$ `` run in bash, the lines between are the output to expect (nothing shown: not compared;
  a line ``...`` stands for any lines, ``...`` within a line for anything). ``cd`` lasts until the end of the page.
- ``bash``: a whole script, which must succeed.
- ``<!-- file: NAME -->`` before a block of any kind writes it to that file instead.
- ``<!-- not run: REASON -->`` before a block leaves it out. Other kinds (text, toml, json, ...) are only read.

A page runs in an empty folder of its own. What a block left in the background is ended with the page.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"python", "pycon", "console", "bash"}
MARK = re.compile(r"<!--\s*(?P<what>not run|file):\s*(?P<value>.+?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    file: str = ""


def blocks(markdown: str) -> list[Block]:
    """The blocks of a page that run or are written to a file, in order."""
    found = []
    mark: re.Match[str] | None = None
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.type == "html_block":
            mark = MARK.search(token.content)
        elif token.type == "fence":
            kind = token.info.split()[0] if token.info.split() else ""
            file = mark["value"] if mark and mark["what"] == "file" else ""
            if file or (kind in RUN and mark is None):
                assert token.map
                found.append(Block(kind, token.content, token.map[0] + 1, file))
            mark = None
        else:
            mark = None
    return found


class Page:
    """A page being run: its folder, its Python names, where its console stands."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.groups: list[int] = []
        self.where = folder

    def run(self, block: Block) -> None:
        if block.file:
            target = self.where / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            with contextlib.chdir(self.where):
                # the line numbers of a traceback are those of the page
                exec(compile("\n" * block.line + block.text, str(self.path), "exec"), self.names)
        elif block.kind == "pycon":
            with contextlib.chdir(self.where):
                self._session(block)
        elif block.kind == "bash":
            self._shell(block.text, block)
        else:
            for command, expected in prompts(block.text):
                seen = self._shell(command, block)
                assert not expected or matches(expected, seen), (
                    f"{self.path.name}:{block.line}: $ {command}\nthe page shows:\n{expected}\nit printed:\n{seen}"
                )

    def _session(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, self.names, self.path.name, str(self.path), block.line)
        told: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        failed = runner.run(test, out=told.append, clear_globs=False).failed
        self.names.update(test.globs)
        assert not failed, "".join(told)

    def _shell(self, script: str, block: Block) -> str:
        """Run in bash, wait for bash itself (not for what it put into the background), give back all it printed."""
        state, printed = self.folder / ".where", self.folder / ".printed"
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PAGE_STATE": str(state),
            # tests run side by side: threads of one training that wait for each other by spinning starve the others
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        whole = f"set -euo pipefail\ntrap 'pwd > \"$PAGE_STATE\"' EXIT\n{script}\n"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", whole], cwd=self.where, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.groups.append(process.pid)
            code = process.wait()
        seen = printed.read_text(encoding="utf-8", errors="replace")
        assert code == 0, f"{self.path.name}:{block.line}: exit code {code} from\n{script}\n{seen}"
        self.where = Path(state.read_text().strip())
        return seen

    def end(self) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


def prompts(console: str) -> list[tuple[str, str]]:
    """Commands of a console block, each with the output shown below it."""
    found: list[tuple[str, list[str]]] = []
    lines = iter(textwrap.dedent(console).splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command += "\n" + next(lines)
            found.append((command, []))
        else:
            assert found, f"a console block starts with a command after '$ ', not with {line!r}"
            found[-1][1].append(line)
    return [(command, "\n".join(shown).strip("\n")) for command, shown in found]


def matches(expected: str, seen: str) -> bool:
    """Line by line, trailing blanks aside, ``...`` standing for anything."""
    pattern = []
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t]*\n")
    return re.fullmatch("".join(pattern), seen.strip("\n") + "\n") is not None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_a_page_does_what_it_shows(path: Path, tmp_path: Path) -> None:
    page = Page(path, tmp_path)
    try:
        for block in blocks(path.read_text(encoding="utf-8")):
            page.run(block)
    finally:
        page.end()


def test_there_are_pages_and_they_show_something_that_runs() -> None:
    assert len(PAGES) > 5
    assert sum(len(blocks(path.read_text(encoding="utf-8"))) for path in PAGES) > 0


SAMPLE = """
```python
answer = 41
```

1. In a list:

   ```python
   assert answer == 41
   ```

<!-- file: folder/words.txt -->
```text
one
two
```

```console
$ cd folder
$ cat words.txt; \\
  echo three
one
...
three
$ sleep 60 &
```

<!-- not run: it would delete everything -->
```bash
exit 1
```

```pycon
>>> answer + 1
42
```
"""


def test_the_runner_runs_what_a_page_shows(tmp_path: Path) -> None:
    found = blocks(SAMPLE)
    assert [block.kind for block in found] == ["python", "python", "text", "console", "pycon"]
    page = Page(Path("sample.md"), tmp_path)
    for block in found:
        page.run(block)
    page.end()
    assert page.where == tmp_path / "folder"


@pytest.mark.parametrize(
    "wrong",
    [
        "```python\nassert 1 == 2\n```",
        "```console\n$ false\n```",
        "```console\n$ echo one\ntwo\n```",
        "```bash\nfalse\necho after\n```",
        "```pycon\n>>> 1 + 1\n3\n```",
    ],
)
def test_the_runner_fails_on_a_page_that_is_wrong(wrong: str, tmp_path: Path) -> None:
    (block,) = blocks(wrong)
    with pytest.raises(AssertionError):
        Page(Path("sample.md"), tmp_path).run(block)
