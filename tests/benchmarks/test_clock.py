"""The benchmark's clocks: what they count, and what they leave out."""

from bench.harness.clock import DeviceClock, HostClock


class Event:
    """A moment on a device whose every call takes a second."""

    def __init__(self, calls):
        self._calls = calls

    def record(self):
        self.at = float(len(self._calls))

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.at - self.at) * 1e3


def test_a_turn_of_the_device_is_as_long_as_asked():
    log, prepared = [], []
    clock = DeviceClock(lambda: Event(log))
    for name in "ab":

        def call(name=name):
            log.append(name)

        assert clock.seconds(call, lambda: prepared.append(1), 4.0) == 1.0
    first = call
    assert "".join(log) == 2 * "a" + 2 * "a" + 4 * "a" + 2 * "b" + 2 * "b" + 4 * "b"
    log.clear()
    assert clock.seconds(first, lambda: prepared.append(1), 4.0) == 1.0
    assert "".join(log) == "b" + 4 * "b"  # one that does not count, then the known number
    assert len(prepared) == 3


def test_the_host_times_single_calls_and_not_their_preparation():
    order = []
    clock = HostClock()
    seconds = clock.seconds(lambda: order.append("call"), lambda: order.append("prepare"), 1e-9)
    assert seconds > 0
    assert order == ["prepare", "call"] * 2  # the first does not count
