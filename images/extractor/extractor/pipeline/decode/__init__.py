"""Bytes to pixels as the references see them, or a reject with its reason. `decode.pool` is what the runtime calls.

The references call `cv2.imread` on files, so `cv2.imread` decodes here too, in processes that can be ended. It does not
say what an image lacks or costs: `decode.header` looks at that first, without decoding anything. This package imports
nothing by itself, so that a process that decodes starts quickly.
"""
