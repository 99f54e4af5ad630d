import os
from pathlib import Path

import pytest

from firstlight.parallel import WaitingTime, cores, usable_cores

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "damaged\n"}, 8),
        # A group within a limited one: the smaller limit counts.
        (
            {
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/user/job/cpu.max": "max 100000\n",
            },
            3,
        ),
        # In a container the path is that of the host.
        ({"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        # Version 1.
        (
            {
                "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "50000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_cores_are_bounded_by_the_cpu_time_of_the_control_group(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert usable_cores(_write(tmp_path, files)) == expected


def test_never_more_than_the_cores_it_may_run_on() -> None:
    assert 1 <= usable_cores() <= AFFINITY


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
        self.now, self.task = 0.0, task
        monkeypatch.setattr(cores.time, "monotonic", lambda: self.now)

    def advance(self, seconds: float, waited: dict[str, float]) -> None:
        self.now += seconds
        for thread, total in waited.items():
            _write(self.task, {f"{thread}/schedstat": f"123 {int(total * 1e9)} 7\n"})


def test_says_that_others_take_the_cores_at_most_every_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, tmp_path)
    clock.advance(0, {"1": 100, "2": 5})
    waiting = WaitingTime(tmp_path)
    clock.advance(31, {"1": 101, "2": 6})
    assert waiting.check() is None, "1 s of 31 s is what every machine shows"
    clock.advance(10, {"2": 16})
    assert waiting.check() is None, "checked 10 s ago"
    clock.advance(30, {"2": 26})
    text = waiting.check()
    assert text is not None
    assert "50% of the last 40 s" in text
    clock.advance(40, {"2": 60})
    assert waiting.check() is None, "said a minute ago"
    clock.advance(600, {"2": 500})
    assert waiting.check() is not None


def test_a_thread_that_began_or_ended_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, tmp_path)
    clock.advance(0, {"1": 0, "2": 0})
    waiting = WaitingTime(tmp_path)
    (tmp_path / "2" / "schedstat").unlink()
    clock.advance(40, {"1": 1, "3": 39})
    assert waiting.check() is None


def test_says_nothing_where_the_system_does_not_count_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, tmp_path)
    waiting = WaitingTime(tmp_path / "absent")
    clock.advance(100, {})
    assert waiting.check() is None
