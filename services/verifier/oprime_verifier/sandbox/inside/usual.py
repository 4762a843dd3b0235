"""Names that code of data sets uses without importing them; built once, before the fork."""

import bisect
import builtins
import collections
import copy
import datetime
import functools
import heapq
import itertools
import json
import math
import operator
import random
import re
import statistics
import string
import sys
import types
import typing
from typing import Any

_OFFERED = ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple", "inf", "nan")
"""None of them is the name of a function one writes."""


def _usual_imports() -> dict[str, Any]:
    """What LeetCode and its like import before a submission."""
    modules = (bisect, collections, copy, datetime, functools, heapq, itertools, json, math, operator, random, re, statistics, string, sys)
    names: dict[str, Any] = {}
    # Later ones win, as in a list of `from x import *`.
    for module in (operator, math, bisect, heapq, itertools, functools, string, collections, typing):
        public = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        names.update({name: getattr(module, name) for name in public})
    names.update({module.__name__: module for module in modules})
    # `operator` and `math` have names that shadow built-in ones, and submissions mean the built-in ones.
    for name in vars(builtins):
        names.pop(name, None)
    return names


USUAL = _usual_imports()
"""For a submission."""
OFFERED = {
    name: value
    for name, value in USUAL.items()
    if isinstance(value, types.ModuleType) or name in _OFFERED or getattr(value, "__module__", "") == "typing"
}
"""For tests."""
