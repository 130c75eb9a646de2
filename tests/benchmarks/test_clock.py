"""The benchmark's clocks: what they count, and what they leave out."""

from bench.harness import clock
from bench.harness.clock import DeviceClock, HostClock


class Event:
    """A moment on a device whose every call takes a second."""

    def __init__(self, calls):
        self._calls = calls

    def record(self):
        self.at = float(len(self._calls))
        self.is_over = False

    def synchronize(self):
        self.is_over = True

    def elapsed_time(self, end):
        assert end.is_over
        return (end.at - self.at) * 1e3


def test_a_turn_of_the_device_is_as_long_as_asked():
    log, prepared = [], []
    device = DeviceClock(lambda: Event(log))
    for name in "ab":

        def call(name=name):
            log.append(name)

        assert device.seconds(call, lambda: prepared.append(1), 4.0) == 1.0
    first = call
    assert "".join(log) == 2 * "a" + 2 * "a" + 4 * "a" + 2 * "b" + 2 * "b" + 4 * "b"
    log.clear()
    assert device.seconds(first, lambda: prepared.append(1), 4.0) == 1.0
    assert "".join(log) == "b" + 4 * "b"  # one that does not count, then the known number
    assert len(prepared) == 3


def test_a_turn_of_the_device_is_of_no_more_calls_than_its_queue_takes():
    log = []
    DeviceClock(lambda: Event(log)).seconds(lambda: log.append("a"), lambda: None, 1e4)
    assert len(log) == 2 + 2 + DeviceClock._MOST


def test_the_host_takes_the_median_of_single_calls_without_their_preparation(monkeypatch):
    now, taken, order = [0.0], [50.0, 1.0, 2.0, 9.0], []

    def call():
        order.append("call")
        now[0] += taken[order.count("call") - 1]

    def prepare():
        order.append("prepare")
        now[0] += 1000.0

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    assert HostClock().seconds(call, prepare, 10.0) == 2.0  # the first call does not count
    assert order == ["prepare", "call"] * 4
