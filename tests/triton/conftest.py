"""Triton's interpreter: beside a NumPy of today, and refusing what is out of bounds."""

import functools
import importlib.util
import os


def _take_scalars_of_one_element() -> None:
    """Triton 3.6 makes an int of an array of one element, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    @functools.wraps(patch_tensor)
    def patched(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patched


def _refuse_access_beyond_tensors() -> None:
    """The interpreter follows every address: what a GPU may fault at goes unseen there.

    Here all that a mask lets through lies in one tensor of the launch, or in one whose address
    stands in the table of a launch of clip_norm.py.
    """
    from torch import Tensor
    from triton.runtime import interpreter

    from rnnfast.backends.triton.clip_norm import _reach

    spans: list[tuple[int, int]] = []
    run = interpreter.GridExecutor.__call__
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def noted(self, *args, **kwargs):
        tensors = [arg for arg in args if isinstance(arg, Tensor) and arg.numel()]
        spans[:] = [(t.data_ptr(), t.data_ptr() + _reach(t)) for t in tensors]
        if self.arg_names[:2] == ["table", "like"]:
            addresses, partners, elements, _ = tensors[0].tolist()
            sizes = [tensors[1].element_size() * count for count in elements]
            starts = zip(addresses + partners, sizes + sizes, strict=True)
            spans.extend((start, start + size) for start, size in starts)
        run(self, *args, **kwargs)

    def check(pointers, mask) -> None:
        at = pointers.data[mask.data]
        if at.size:
            first, last = (
                int(at.min()),
                int(at.max()) + pointers.get_element_ty().primitive_bitwidth // 8,
            )
            inside = any(start <= first and last <= end for start, end in spans)
            assert inside, "an access beyond the tensors of the launch"

    def checked_load(self, pointers, mask, *rest):
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self, pointers, value, mask, *rest):
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    interpreter.GridExecutor.__call__ = noted
    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    import triton

    if triton.__version__.startswith("3.6."):
        _take_scalars_of_one_element()
    _refuse_access_beyond_tensors()
