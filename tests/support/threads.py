"""Calls from several Python threads at once."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def check_same_bits(run: Callable[[Any], dict[str, Tensor]], problems: Sequence[Any]) -> None:
    """run(problem) gives the same bits from a thread for each problem, some times over."""
    expected = [run(problem) for problem in problems]
    wrong: list[str] = []
    of_torch = torch.get_num_threads()

    def work(i: int) -> None:
        torch.set_num_threads(of_torch)
        for _ in range(5):
            for name, value in run(problems[i]).items():
                if not torch.equal(value, expected[i][name]):
                    wrong.append(f"{i}: {name}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
