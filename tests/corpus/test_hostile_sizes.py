"""Attacks at their real size, in processes of their own: memory and time stay within bounds."""

import json
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="memory as Linux counts it")]

READ_CORPUS = "from firstlight.corpus import open_corpus\nn = sum(len(d.content) for d in open_corpus([path]))"
READ_TASK = (
    "from pathlib import Path\nfrom firstlight.finetuning.readers import read_records\n"
    "from firstlight.finetuning.spec import DataFiles\n"
    "n = sum(1 for _ in read_records(Path(path), DataFiles(train=path)))"
)
MEASURE = """
import json, pathlib, sys, time
path, start = sys.argv[1], time.process_time()
from firstlight.errors import CorpusError
try:
    exec(sys.argv[2])
    problem = ""
except CorpusError as error:
    problem = str(error)
status = pathlib.Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([problem, peak, time.process_time() - start]))
"""


def measure(path: Path, code: str) -> tuple[str, float, float]:
    """Read a file in another process; return its error, its peak of memory in MiB, and its seconds."""
    found = subprocess.run([sys.executable, "-c", MEASURE, str(path), code], capture_output=True, text=True, check=True)
    problem, peak, seconds = json.loads(found.stdout)
    return problem, peak, seconds


def test_html_of_megabytes_takes_seconds(tmp_path: Path) -> None:
    for name, piece in (("a", "<a <"), ("b", "<![ if"), ("c", "<!--"), ("d", "<div>"), ("e", "&#1"), ("f", "<a x='")):
        path = tmp_path / f"{name}.html"
        path.write_text("text" + piece * (2_000_000 // len(piece)))
        _, peak, seconds = measure(path, READ_CORPUS)
        assert seconds < 15, piece
        assert peak < 200, piece


def test_a_parquet_file_of_a_kilobyte(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    values = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 300), pyarrow.array(["a" * 13_000_000]))
    parquet.write_table(pyarrow.table({"text": values}), path, compression="zstd")
    assert path.stat().st_size < 2000
    problem, peak, _ = measure(path, READ_CORPUS)
    assert not problem
    assert peak < 600


def test_a_small_xz_file_with_a_large_window(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    compressor = lzma.LZMACompressor(filters=filters)
    with path.open("wb") as file:
        for _ in range(700):
            file.write(compressor.compress(b"a" * (1 << 20)))
        file.write(compressor.flush())
    problem, peak, _ = measure(path, READ_CORPUS)
    assert "too much memory to decompress" in problem
    assert peak < 200


def test_a_zip_file_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("good/a.txt", "text")
        with archive.open("bad/b.txt", "w", force_zip64=True) as member:
            for _ in range(2048):
                member.write(b"a" * (1 << 20))
    problem, peak, _ = measure(path, READ_TASK)
    assert "the member is too large" in problem
    assert peak < 600


def test_a_line_of_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(1024):
            file.write(b"word " * 209_715)
        file.write(b'"}\n')
    for code in (READ_CORPUS, READ_TASK):
        problem, peak, _ = measure(path, code)
        assert "the line is too large" in problem
        assert peak < 900
