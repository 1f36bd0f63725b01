"""A network on a GPU as recorded CUDA graphs: one launch a batch, everything in and out through pinned memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WARM_UP = 3  # runs before a capture, so that libraries have made their choices


class Graphs:
    """`run(sound, known)` recorded for batches of 1, 2, 4 … `largest`; smaller ones take the next size. One thread.

    `run` maps float16 (B, 1, 80, 16) and (B, width) to (B, …); `largest` is a power of two. All graphs share one pool
    of memory: they never run at once, and what they answer lies outside it.
    """

    def __init__(self, run: Callable[[Tensor, Tensor], Tensor], width: int, largest: int = 64) -> None:
        torch.backends.cudnn.benchmark = True
        self._sound = torch.zeros((largest, 1, 80, 16), dtype=torch.float16, device="cuda")
        self._known = torch.zeros((largest, width), dtype=torch.float16, device="cuda")
        example = run(self._sound[:1], self._known[:1])
        self._answer = torch.empty((largest, *example.shape[1:]), dtype=example.dtype, device="cuda")
        self._heard = torch.empty(self._sound.shape, dtype=torch.float16, pin_memory=True)
        self._read = torch.empty(self._answer.shape, dtype=example.dtype, pin_memory=True)
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        for size in reversed([1 << power for power in range(largest.bit_length())]):
            self._graphs[size] = self._record(run, size, pool, stream)

    def _record(
        self, run: Callable[[Tensor, Tensor], Tensor], size: int, pool: Any, stream: torch.cuda.Stream
    ) -> torch.cuda.CUDAGraph:
        sound, known, answer = self._sound[:size], self._known[:size], self._answer[:size]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run(sound, known)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            answer.copy_(run(sound, known))
        return graph

    def __call__(self, sound: NDArray[np.float32], known: Tensor) -> NDArray[np.generic]:
        """What `run` says of `sound` (n, 1, 80, 16) and `known` (n, width), on the host. Blocking; it sleeps."""
        n = len(sound)
        self._heard.numpy()[:n] = sound
        self._sound[:n].copy_(self._heard[:n], non_blocking=True)
        self._known[:n].copy_(known)
        self._graphs[1 << (n - 1).bit_length()].replay()
        self._read[:n].copy_(self._answer[:n], non_blocking=True)
        self._done.record()
        self._done.synchronize()
        return self._read[:n].numpy().copy()
