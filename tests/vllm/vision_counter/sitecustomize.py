"""Of a vLLM server under test alone, on its PYTHONPATH: writes the pictures of each pass of the vision tower to a file.

VISION_COUNTS names the file; one line per pass, the number of pictures in it. Another sitecustomize.py on the path is
loaded as well.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

MODULE = "vllm.model_executor.models.qwen2_5_vl"


class Watch(importlib.abc.MetaPathFinder):
    """Has the vision tower counted once its module is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            count(module.Qwen2_5_VisionTransformer)

        spec.loader.exec_module = exec_module
        return spec


def count(tower):
    forward = tower.forward

    def counted(self, x, grid_thw, *args, **kwargs):
        with open(os.environ["VISION_COUNTS"], "a") as file:
            file.write(f"{len(grid_thw)}\n")
        return forward(self, x, grid_thw, *args, **kwargs)

    tower.forward = counted


def load_the_next():
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, Watch())
load_the_next()
