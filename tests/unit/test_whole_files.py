"""Files that appear whole, and paths that are no files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oprime.runtime.whole_files import is_stream, remove_file, whole_file


def test_a_file_appears_when_it_is_whole_and_stays_as_it_was_when_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for text in (b"one", b"two"):
        with whole_file(path, mode=0o640) as stream:
            stream.write(text)
        assert path.read_bytes() == text
    with pytest.raises(ZeroDivisionError), whole_file(path) as stream:
        stream.writelines(bytes([1 // number]) for number in (1, 0))
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_link_stays_a_link_to_a_file_that_is_new(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with whole_file(tmp_path / "link") as stream:
        stream.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_pipe_is_written_to_and_never_replaced_nor_removed(tmp_path: Path, is_linked: bool) -> None:
    # As root the same would take /dev/null away from the whole machine.
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if is_linked:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    assert is_stream(path)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with whole_file(path) as stream:
            stream.write(b"text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    remove_file(path)
    assert pipe.is_fifo()


def test_what_the_process_has_open_is_a_stream_also_where_it_leads_to_a_file(tmp_path: Path) -> None:
    asks = "from pathlib import Path; from oprime.runtime.whole_files import is_stream; print(is_stream(Path('/dev/stdout')))"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", asks], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "True\n"
    assert not is_stream(tmp_path / "out")
    assert not is_stream(tmp_path / "not there")
    remove_file(tmp_path / "out")
    assert not (tmp_path / "out").exists()
