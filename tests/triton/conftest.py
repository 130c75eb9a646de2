"""Triton's interpreter, as old as the one of torch 2.11, beside a NumPy of today."""

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


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    import triton

    if triton.__version__.startswith("3.6."):
        _take_scalars_of_one_element()
