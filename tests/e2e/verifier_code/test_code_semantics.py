# ruff: noqa: E501 - a program in one line reads better than one cut in pieces
"""Test source runs as its authors ran it: what only an interpreter of its own shows, and what no trick makes pass."""

from typing import Any

import pytest

RIGHT: dict[str, tuple[Any, str]] = {
    "identity of an argument": (
        ["a=[1]\nassert f(a) is a"],
        "def f(x): return x\n",
    ),
    "a singleton": (
        ["assert get() is get()"],
        "class S: pass\n_s=S()\ndef get(): return _s\n",
    ),
    "an enum": (
        ["assert nxt(Col.RED)==Col.BLUE", "assert Col(2) is Col.BLUE", "assert [c.name for c in Col]==['RED','BLUE']"],
        "from enum import Enum\nclass Col(Enum):\n    RED=1\n    BLUE=2\ndef nxt(c): return Col.BLUE if c is Col.RED else Col.RED\n",
    ),
    "isinstance of the solution's class": (
        ["assert isinstance(make(),A)", "assert issubclass(B,A)", "assert type(make()).__name__=='B'"],
        "class A: pass\nclass B(A): pass\ndef make(): return B()\n",
    ),
    "a setter that checks": (
        ["t=T(); t.c=5; assert t.c==5\ntry:\n    t.c=-300\n    assert False\nexcept ValueError: pass"],
        "class T:\n    def __init__(s): s._c=0\n    @property\n    def c(s): return s._c\n    @c.setter\n    def c(s,v):\n        if v<-273: raise ValueError('cold')\n        s._c=v\n",
    ),
    "a context manager": (
        ["m=M()\nwith m as k:\n    k.log.append('x')\nassert m.log==['in','x','out']"],
        "class M:\n    def __init__(s): s.log=[]\n    def __enter__(s): s.log.append('in'); return s\n    def __exit__(s,*a): s.log.append('out'); return False\n",
    ),
    "a constant": (
        ["assert MAX==5"],
        "MAX=5\n",
    ),
    "state between calls": (
        ["assert nid()==1\nassert nid()==2"],
        "n=0\ndef nid():\n    global n\n    n+=1\n    return n\n",
    ),
    "a cache's counters": (
        ["assert f(50)==12586269025", "f(10); assert f.cache_info().hits>0"],
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n if n<2 else f(n-1)+f(n-2)\n",
    ),
    "capsys": (
        {
            "pytest": "from solution import hello\n\ndef test_a(capsys):\n    hello(2)\n    assert capsys.readouterr().out=='hi 0\\nhi 1\\n'\n"
        },
        "def hello(n):\n    for i in range(n): print('hi',i)\n",
    ),
    "monkeypatch": (
        {
            "pytest": "from solution import ask\n\ndef test_a(monkeypatch):\n    monkeypatch.setattr('builtins.input', lambda *_: '5')\n    assert ask()==6\n\ndef test_b(monkeypatch):\n    monkeypatch.setenv('A', '1')\n    import os\n    assert os.environ['A'] == '1'\n"
        },
        "def ask(): return int(input('n? '))+1\n",
    ),
    "caplog": (
        {"pytest": "import logging\nfrom solution import f\ndef test_a(caplog):\n    f()\n    assert 'hi' in caplog.text\n"},
        "import logging\ndef f(): logging.warning('hi')\n",
    ),
    "types as they are": (
        [
            "from collections import defaultdict\nassert isinstance(f(), defaultdict)",
            "assert f() == {'a': 1}",
            "assert type(f()) is not dict",
            "assert isinstance(g(), list) and type(g()) is not list and g() == [1]",
            "assert type(h()) is bool and h() == 1",
        ],
        "from collections import defaultdict\nclass L(list): pass\ndef f():\n    d = defaultdict(int)\n    d['a'] += 1\n    return d\ndef g(): return L([1])\ndef h(): return True\n",
    ),
    "many calls in one test": (
        ["total = 0\nfor n in range(10000):\n    total += f(n)\nassert total == 49995000"],
        "def f(n): return n\n",
    ),
    "dataclass eq": (
        ["assert P(1,2)==P(1,2)", "assert P(1,2)!=P(2,1)", "assert repr(P(1,2))=='P(x=1, y=2)'"],
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x:int\n    y:int\n",
    ),
    "operators": (
        [
            "assert V(1)+V(2)==V(3)",
            "assert V(2)*3==V(6)",
            "assert -V(1)==V(-1)",
            "assert abs(V(-4))==4",
            "assert V(1)<V(2)",
            "assert sorted([V(2),V(1)])[0]==V(1)",
        ],
        "from functools import total_ordering\n@total_ordering\nclass V:\n    def __init__(s,x): s.x=x\n    def __add__(s,o): return V(s.x+o.x)\n    def __mul__(s,k): return V(s.x*k)\n    def __neg__(s): return V(-s.x)\n    def __abs__(s): return abs(s.x)\n    def __eq__(s,o): return s.x==o.x\n    def __lt__(s,o): return s.x<o.x\n    def __hash__(s): return hash(s.x)\n",
    ),
    "custom eq with plain": (
        ["assert Money(5)==5", "assert Money(3)<5", "assert not Money(6)<5", "assert 5 in Bag([5,6])", "assert 7 not in Bag([5,6])"],
        "class Money:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return s.x==(o.x if isinstance(o,Money) else o)\n    def __lt__(s,o): return s.x<o\nclass Bag:\n    def __init__(s,i): s.i=i\n    def __contains__(s,x): return x in s.i\n",
    ),
    "class attr": (
        ["assert A.kind=='a'", "A.count=3\nassert A().count==3"],
        "class A:\n    kind='a'\n    count=0\n",
    ),
    "property": (
        ["assert C(2).area==4"],
        "class C:\n    def __init__(s,r): s.r=r\n    @property\n    def area(s): return s.r**2\n",
    ),
    "custom exception": (
        ["try:\n    f(-1)\n    assert False\nexcept Neg as e:\n    assert e.code==7"],
        "class Neg(Exception):\n    def __init__(s,c): s.code=c\ndef f(x):\n    raise Neg(7)\n",
    ),
    "exception hierarchy": (
        ["import pytest\nwith pytest.raises(ValueError): f()"],
        "class E(ValueError): pass\ndef f(): raise E\n",
    ),
    "endless generator": (
        ["from itertools import islice\nassert list(islice(f(),3))==[0,1,2]", "g=f()\nassert next(g)==0\nassert next(g)==1"],
        "def f():\n    n=0\n    while True:\n        yield n\n        n+=1\n",
    ),
    "generator type": (
        ["import types\nassert isinstance(f(), types.GeneratorType)", "assert list(f())==[1]"],
        "def f():\n    yield 1\n",
    ),
    "map object": (
        ["assert list(f([1]))==[2]", "assert sum(f([1,2]))==5"],
        "def f(x): return map(lambda a:a+1,x)\n",
    ),
    "unittest": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def setUp(self): self.x=2\n    def test_a(self):\n        self.assertEqual(f(self.x),4)\n        self.assertTrue(f(1)==1)\n        with self.assertRaises(TypeError): f('a')\n    def test_b(self):\n        for i in range(3):\n            with self.subTest(i=i):\n                self.assertEqual(f(i), i*i)\nif __name__=='__main__': unittest.main()\n"
        },
        "def f(x): return x**2\n",
    ),
    "async unittest": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.IsolatedAsyncioTestCase):\n    async def test_a(self):\n        self.assertEqual(await f(2),4)\n"
        },
        "async def f(x): return x*x\n",
    ),
    "async pytest": (
        {"pytest": "import pytest\nfrom solution import f\n@pytest.mark.asyncio\nasync def test_a():\n    assert await f(2)==4\n"},
        "async def f(x): return x*x\n",
    ),
    "fixtures": (
        {
            "pytest": "import pytest\nfrom solution import Stack\n@pytest.fixture\ndef s():\n    s=Stack()\n    yield s\n    s.clear()\n@pytest.fixture(params=[1,2])\ndef n(request): return request.param\nclass TestS:\n    def test_a(self,s,n):\n        s.push(n)\n        assert s.pop()==n\n    @pytest.mark.parametrize('a,b',[(1,2),pytest.param(3,4,id='x')])\n    def test_b(self,a,b):\n        assert a+1==b\n        assert Stack().items==[]\n"
        },
        "class Stack:\n    def __init__(s): s.items=[]\n    def push(s,x): s.items.append(x)\n    def pop(s): return s.items.pop()\n    def clear(s): s.items.clear()\n",
    ),
    "mock": (
        {
            "pytest": "from unittest.mock import patch, MagicMock\nimport solution\ndef test_a():\n    with patch('solution.helper', return_value=5):\n        assert solution.f()==6\n    m=MagicMock(return_value=3)\n    assert solution.g(m)==3\n    m.assert_called_once_with(1)\n"
        },
        "def helper(): return 1\ndef f(): return helper()+1\ndef g(fn): return fn(1)\n",
    ),
    "inspect": (
        ["import inspect\nassert list(inspect.signature(f).parameters)==['a','b']", "assert f.__doc__=='Add.'", "assert f.__name__=='f'"],
        "def f(a,b):\n    'Add.'\n    return a+b\n",
    ),
    "deepcopy": (
        ["import copy\nx=N([1])\ny=copy.deepcopy(x)\ny.v.append(2)\nassert x.v==[1]"],
        "class N:\n    def __init__(s,v): s.v=v\n",
    ),
    "subclass in tests": (
        ["class D(Base):\n    def name(self): return 'd'\nassert D().hello()=='hello d'"],
        "class Base:\n    def hello(s): return 'hello '+s.name()\n",
    ),
    "abc": (
        ["try:\n    Shape()\n    assert False\nexcept TypeError: pass"],
        "from abc import ABC, abstractmethod\nclass Shape(ABC):\n    @abstractmethod\n    def area(s): ...\n",
    ),
    "namedtuple": (
        ["assert f()==(1,2)", "assert f().x==1"],
        "from collections import namedtuple\nP=namedtuple('P','x y')\ndef f(): return P(1,2)\n",
    ),
    "intenum": (
        ["assert E.A==1", "assert E(1) is E.A"],
        "from enum import IntEnum\nclass E(IntEnum):\n    A=1\n",
    ),
    "decorator": (
        ["@deco\ndef g(x): return x\nassert g(1)==2"],
        "def deco(fn):\n    def w(x): return fn(x)+1\n    return w\n",
    ),
    "print capture by test": (
        ["import io, contextlib\nb=io.StringIO()\nwith contextlib.redirect_stdout(b): f()\nassert b.getvalue()=='hi\\n'"],
        "def f(): print('hi')\n",
    ),
    "weird: mutate arg": (
        ["a=[3,1]\nf(a)\nassert a==[1,3]"],
        "def f(a): a.sort()\n",
    ),
    "hash str": (
        ["assert hash(K('a'))==hash(K('a'))", "assert {K('a'):1}[K('a')]==1"],
        "class K:\n    def __init__(s,k): s.k=k\n    def __eq__(s,o): return s.k==o.k\n    def __hash__(s): return hash(s.k)\n",
    ),
    "time budget": (
        ["assert f(1)==1", "assert f(1)==1", "assert f(1)==1"],
        "def f(x):\n    s=0\n    for i in range(10**6): s+=i\n    return x\n",
    ),
    "sees tests' helpers": (
        ["def helper(a): return a+1\nassert f(helper)(1)==2"],
        "def f(h): return h\n",
    ),
    "float approx": (
        ["assert abs(f(2)-1.4142)<1e-3", "import math\nassert math.isclose(f(4),2.0)"],
        "def f(x): return x**.5\n",
    ),
    "nan": (
        ["import math\nassert math.isnan(f())"],
        "def f(): return float('nan')\n",
    ),
    "str method": (
        ["assert f(1).upper()=='A'"],
        "def f(x): return 'a'\n",
    ),
    "complex assert": (
        [
            "assert f(1)==1 and f(2)==4 and not f(3)==8, 'msg'",
            "assert 0<f(1)<=1",
            "assert f(2) in (4,5)",
            "assert f(1) is not None",
            "assert (f(1) if f(1) else 0)==1",
        ],
        "def f(x): return x*x\n",
    ),
    "walrus": (
        ["assert (y:=f(2))==4\nassert y==4"],
        "def f(x): return x*x\n",
    ),
    "global state of solution": (
        ["inc()\ninc()\nassert counter==2"],
        "counter=0\ndef inc():\n    global counter\n    counter+=1\n",
    ),
    "import solution": (
        {"pytest": "import solution\ndef test_a():\n    solution.reset()\n    solution.inc()\n    assert solution.counter==1\n"},
        "counter=0\ndef inc():\n    global counter\n    counter+=1\ndef reset():\n    global counter\n    counter=0\n",
    ),
    "from star": (
        {"pytest": "from solution import *\ndef test_a():\n    assert f(1)==1\n    assert MAX==3\n"},
        "MAX=3\ndef f(x): return x\n",
    ),
    "recursion": (
        ["import pytest\nwith pytest.raises(RecursionError):\n    f(1)"],
        "def f(x): return f(x+1)\n",
    ),
    "expected by helper": (
        ["def brute(n): return sum(range(n))\nfor n in range(5):\n    assert f(n)==brute(n)"],
        "def f(n): return n*(n-1)//2\n",
    ),
    "linked list": (
        {
            "functional": "class Node:\n    def __init__(self,v,n=None): self.v=v; self.n=n\ndef to_list(n):\n    r=[]\n    while n:\n        r.append(n.v); n=n.n\n    return r\nassert to_list(rev(Node(1,Node(2))))==[2,1]\n"
        },
        "def rev(n):\n    p=None\n    while n:\n        n.n,p,n=p,n,n.n\n    return p\n",
    ),
    "setter none": (
        ["x=f()\nx.a=1\ndel x.a\nassert not hasattr(x,'a')"],
        "class X: pass\ndef f(): return X()\n",
    ),
    "setup_function": (
        {"pytest": "import solution\ndef setup_function(function): solution.n=5\ndef test_a():\n    assert solution.get()==5\n"},
        "n=0\ndef get(): return n\n",
    ),
    "an async function that a test runs": (
        ["import asyncio\nasync def main():\n    assert await asyncio.gather(f(1), f(2)) == [2, 3]\nasyncio.run(main())"],
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x+1\n",
    ),
}
WRONG: dict[str, tuple[Any, str]] = {
    "a clone that is the argument": (
        ["a=[1]\nb=clone(a)\nb.append(9)\nassert a==[1]"],
        "def clone(a): return a\n",
    ),
    "a shallow copy for a deep one": (
        ["a=[[1]]\nb=deep(a)\nb[0].append(9)\nassert a==[[1]]"],
        "def deep(a): return list(a)\n",
    ),
    "a list that is never emptied": (
        ["assert f(2)==[0,1]\nassert f(1)==[0]"],
        "out=[]\ndef f(n):\n    for i in range(n): out.append(i)\n    return out\n",
    ),
    "a getter that leaks": (
        ["s=S()\ns.items().append(2)\nassert s.items()==[1]"],
        "class S:\n    def __init__(s): s._a=[1]\n    def items(s): return s._a\n",
    ),
    "equal to all of its kind": (
        ["assert not (V(1)==V(2))"],
        "class V:\n    def __init__(s,x): s.x=x\n    def __eq__(s,o): return True\n",
    ),
    "skips its own test by SkipTest": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(2),4)\n    @unittest.skip('not yet')\n    def test_b(self): self.fail()\n"
        },
        "import unittest\ndef f(x): raise unittest.SkipTest('x')\n",
    ),
    "one wrong row of several": (
        {
            "pytest": "import pytest\nfrom solution import f\n@pytest.mark.parametrize('x,y',[(1,1),(2,4),(3,9)])\ndef test_a(x,y):\n    assert f(x)==y\n"
        },
        "def f(x): return x*x if x<3 else 0\n",
    ),
    "unittest wrong": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(2),4)\n"
        },
        "def f(x): return 5\n",
    ),
    "unittest subtest wrong": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def test_b(self):\n        for i in range(3):\n            with self.subTest(i=i):\n                self.assertEqual(f(i), i*i)\n"
        },
        "def f(x): return 4 if x==2 else 0\n",
    ),
    "async pytest wrong": (
        {"pytest": "import pytest\nfrom solution import f\n@pytest.mark.asyncio\nasync def test_a():\n    assert await f(2)==4\n"},
        "async def f(x): return x\n",
    ),
    "none result wrong": (
        ["assert f(1)==2"],
        "def f(x): pass\n",
    ),
    "shallow": (
        ["a=[[1]]\nb=f(a)\nassert b is not a\nassert b[0] is not a[0]\nassert a==b"],
        "def f(a): return list(a)\n",
    ),
    "global memo leak": (
        ["assert f([1])==1\nassert f([])==0"],
        "acc=[]\ndef f(x):\n    acc.extend(x)\n    return len(acc)\n",
    ),
    "default arg": (
        ["assert f(1)==[1]", "assert f(2)==[2]"],
        "def f(x,acc=[]):\n    acc.append(x)\n    return acc\n",
    ),
    "exit": (
        ["assert f(3)==6"],
        "import os\ndef f(x): os._exit(0)\n",
    ),
    "sysexit load": (
        ["assert f(3)==6"],
        "import sys\nsys.exit(0)\n",
    ),
    "sysexit in f": (
        ["assert f(3)==6"],
        "import sys\ndef f(x): sys.exit(0)\n",
    ),
    "atexit": (
        ["assert f(3)==6"],
        "import atexit,os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0\n",
    ),
    "patch builtins isinstance": (
        ["assert isinstance(make(),A)"],
        "import builtins\nbuiltins.isinstance=lambda *a: True\nclass A: pass\ndef make(): return 5\n",
    ),
    "patch pytest.raises": (
        {"pytest": "import pytest\nfrom solution import f\ndef test_a():\n    with pytest.raises(ValueError):\n        f(1)\n"},
        "import pytest\nclass N:\n    def __init__(s,*a,**k): pass\n    def __enter__(s): return s\n    def __exit__(s,*a): return True\npytest.raises=N\ndef f(x): return 1\n",
    ),
    "patch unittest": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertCountEqual(f(2),[4])\n"
        },
        "import unittest\nunittest.TestCase.assertCountEqual=lambda *a,**k: None\ndef f(x): return 1\n",
    ),
    "patch unittest run": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(2),[4])\n"
        },
        "import unittest\nunittest.TestCase.run=lambda *a,**k: None\ndef f(x): return 1\n",
    ),
    "skip from solution": (
        {"pytest": "import pytest\nfrom solution import f\ndef test_a():\n    assert f(2)==3\n"},
        "import pytest\ndef f(x): pytest.skip('x')\n",
    ),
    "skiptest from solution": (
        {
            "functional": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(2),[4])\n"
        },
        "import unittest\ndef f(x): raise unittest.SkipTest('x')\n",
    ),
    "stopiteration": (
        ["assert all(map(f,[1,2]))"],
        "def f(x): raise StopIteration\n",
    ),
    "stopiteration lambda": (
        ["assert list(map(lambda x: f(x)==x,[1,2])) == [] or True\nassert all(map(lambda x: f(x)==x,[1,2]))"],
        "def f(x): raise StopIteration\n",
    ),
    "thread write": (
        ["assert f(1)==2"],
        "import threading,os,struct,json\ndef f(x):\n    b=json.dumps({'op':'ran','failure':None,'n':0}).encode()\n    os.write(3,struct.pack('>I',len(b))+b)\n    return 0\n",
    ),
}
EQUAL = """class Eq:
    def __eq__(s,o): return True
    def __ne__(s,o): return False
    def __lt__(s,o): return True
    def __gt__(s,o): return True
    def __le__(s,o): return True
    def __ge__(s,o): return True
    def __hash__(s): return 0
    def __bool__(s): return True
    def __len__(s): return 2
    def __contains__(s,x): return True
    def __getattr__(s,n): return s
    def __call__(s,*a,**k): return s
    def __sub__(s,o): return s
    def __rsub__(s,o): return s
    def __abs__(s): return s
    def __iter__(s): return iter([s,s])
"""
AGREES: dict[str, tuple[Any, str]] = {
    "eq always": (
        ["assert f(3)==6"],
        "def f(x): return Eq()\n",
    ),
    "eq always in var": (
        ["r=f(3)\nassert r==6"],
        "def f(x): return Eq()\n",
    ),
    "eq always in loop": (
        ["for a,b in [(1,2),(2,4)]:\n    assert f(a)==b"],
        "def f(x): return Eq()\n",
    ),
    "eq always nested": (
        ["assert f(3)==[1,2]"],
        "def f(x): return [Eq(),Eq()]\n",
    ),
    "eq always attr": (
        ["assert f(3).x==1"],
        "def f(x): return Eq()\n",
    ),
    "eq always, expected var": (
        ["e=[1,2]\nassert f(1)==e\ne.append(3)\nassert f(2)==e"],
        "def f(x): return Eq()\n",
    ),
    "eq unittest": (
        {
            "functional": "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(2),4)\n        self.assertIn(f(2),[4])\n"
        },
        "def f(x): return Eq()\n",
    ),
    "eq param": (
        {
            "pytest": "import pytest\nfrom solution import f\n@pytest.mark.parametrize('x,y',[(1,2),(3,4)])\ndef test_a(x,y):\n    assert f(x)==y\n"
        },
        "def f(x): return Eq()\n",
    ),
    "eq all()": (
        ["assert all(f(x)==y for x,y in [(1,2),(3,4)])"],
        "def f(x): return Eq()\n",
    ),
    "eq sorted": (
        ["assert sorted(f(3))==[1,2]"],
        "def f(x): return [Eq(),Eq()]\n",
    ),
    "eq helper": (
        ["def same(a,b): return a==b\nassert same(f(3),7)"],
        "def f(x): return Eq()\n",
    ),
}
"""With an object of the class above."""
LOOKS: dict[str, tuple[Any, str]] = {
    "frames loop": (
        ["cases = [(1,2),(2,4)]\nfor a,b in cases:\n    assert f(a)==b"],
        "import sys\ndef f(x):\n    fr=sys._getframe(1)\n    return fr.f_globals['b']\n",
    ),
    "frames param": (
        {
            "pytest": "import pytest\nfrom solution import f\n@pytest.mark.parametrize('x,y',[(1,2),(3,4)])\ndef test_a(x,y):\n    assert f(x)==y\n"
        },
        "import sys\ndef f(x):\n    fr=sys._getframe(1)\n    return fr.f_locals['y']\n",
    ),
    "frames by traceback": (
        ["cases = [(1,2),(2,4)]\nfor a,b in cases:\n    assert f(a)==b"],
        "def f(x):\n    try: raise ValueError\n    except ValueError as e: return e.__traceback__.tb_frame.f_back.f_globals['b']\n",
    ),
    "frames by inspect": (
        ["cases = [(1,2),(2,4)]\nfor a,b in cases:\n    assert f(a)==b"],
        "import inspect\ndef f(x):\n    return inspect.stack()[1].frame.f_globals['b']\n",
    ),
    "gc loop": (
        ["cases = [(1,21),(2,41)]\nfor a,b in cases:\n    assert f(a)==b"],
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o,dict) and 'b' in o and 'a' in o and o['a']==x: return o['b']\n",
    ),
    "ctypes": (
        ["assert get() is get()"],
        "import ctypes\nctypes.CDLL(None)\nX=[]\ndef get():\n    ctypes.CDLL(None)\n    return X\n",
    ),
    "dup channel": (
        ["cases = [(1,21),(2,41)]\nfor a,b in cases:\n    assert f(a)==b"],
        "import os,sys\ndef f(x):\n    k=os.dup(3); n=os.open('/dev/null',os.O_WRONLY); os.dup2(n,3)\n    v=sys._getframe(1).f_globals['b']\n    os.dup2(k,3)\n    return v\n",
    ),
}
UNUSABLE: dict[str, tuple[Any, str]] = {
    "missing fixture": (
        {"pytest": "from solution import f\ndef test_a(nothing):\n    assert f(1)==1\n"},
        "def f(x): return x\n",
    ),
    "tmp_path": (
        {"pytest": "from solution import f\ndef test_a(tmp_path):\n    assert f(1)==1\n"},
        "def f(x): return x\n",
    ),
}


def in_a_row(value: Any) -> Any:
    return {"test_list": value} if isinstance(value, list) else value


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_passes_as_in_the_authors_interpreter(ask: Any, name: str) -> None:
    tests, program = RIGHT[name]
    outcome = ask(in_a_row(tests), program)
    assert (outcome.verdict, outcome.flags) == ("CORRECT", ()), outcome


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_fails_as_in_the_authors_interpreter(ask: Any, name: str) -> None:
    tests, program = WRONG[name]
    outcome = ask(in_a_row(tests), program)
    assert outcome.verdict in ("INCORRECT", "RUNTIME", "UNDECIDED"), outcome


@pytest.mark.parametrize("name", AGREES)
def test_an_object_that_agrees_with_anything_agrees_with_nothing(ask: Any, name: str) -> None:
    tests, program = AGREES[name]
    outcome = ask(in_a_row(tests), EQUAL + program)
    assert (outcome.verdict, outcome.score) == ("INCORRECT", 0.0), outcome
    assert "hack_suspected" in outcome.flags


LOOKS["a trace set at load"] = (
    ["cases = [(1,21),(2,41)]\nfor a,b in cases:\n    assert f(a)==b"],
    "import sys\nseen = []\ndef trace(frame, event, argument):\n    seen.append(frame.f_back)\nsys.settrace(trace)\n"
    "def f(x):\n    return next(s.f_globals['b'] for s in reversed(seen) if s and 'b' in s.f_globals)\n",
)
LOOKS["a channel that would swallow the news"] = (
    ["cases = [(1,21),(2,41)]\nfor a,b in cases:\n    assert f(a)==b"],
    "import socket, sys\nreal = socket.socket.sendall\n"
    "socket.socket.sendall = lambda self, data: None if b'looked' in data else real(self, data)\n"
    "def f(x):\n    return sys._getframe(1).f_globals['b']\n",
)
LOOKS["a signal's frame"] = (
    ["cases = [(1,21),(2,41)]\nfor a,b in cases:\n    assert f(a)==b"],
    "import signal\nseen = []\nsignal.signal(signal.SIGUSR1, lambda number, frame: seen.append(frame.f_back))\n"
    "def f(x):\n    signal.raise_signal(signal.SIGUSR1)\n    return seen[-1].f_globals['b']\n",
)


@pytest.mark.parametrize("name", LOOKS)
def test_who_passes_by_looking_where_tests_keep_what_they_expect_is_not_scored(ask: Any, name: str) -> None:
    tests, program = LOOKS[name]
    outcome = ask(in_a_row(tests), program)
    assert outcome.score in (None, 0.0), outcome
    assert outcome.verdict in ("UNDECIDED", "RUNTIME"), outcome


def test_what_stands_in_an_assert_is_nowhere_in_the_interpreter_of_the_solution(ask: Any) -> None:
    program = """
import gc, sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        found += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
        frame = frame.f_back
    seen = repr(found) + repr([o for o in gc.get_objects() if isinstance(o, (list, tuple, dict))])
    return "found" if any("".join(["93712", end]) in seen for end in "45") else x
"""
    tests = [
        "assert f(1) == 937124 - 937123",
        "wanted = 937125 - 937123\nassert f(2) == wanted",
        "assert abs(f(3) - (937124 - 937121)) < 1e-9",
    ]
    assert ask({"test_list": tests}, program).verdict == "CORRECT"
    # What is passed to the solution is there, of course, and so this test can fail.
    check = {"entry_point": "f", "test": "def check(candidate):\n    a, b = 937125, 937124\n    assert candidate(a - b) == 1\n"}
    assert ask(check, program).verdict == "INCORRECT"


SAY = """
import json, os, struct
def say(**message):
    body = json.dumps(message).encode()
    os.write(3, struct.pack(">I", len(body)) + body)
"""
FORGED = [
    "def f(x):\n    say(op='ran', failure=None, n=0)\n    os._exit(0)",
    "def f(x):\n    say(op='check', number=0, n=0)\n    return 5",
    "def f(x):\n    say(op='check')\n    return 5",
    "def f(x):\n    say(op='loaded', n=[])\n    return 5",
    "def f(x):\n    say(op='looked')\n    return 4",
    "def f(x):\n    while True: say(op='looked')",
    "def f(x):\n    say(op='ended', n=0)\n    say(op='done', token='')\n    os._exit(0)",
    "say(op='loaded', failure=None, n=0)\nsay(op='ran', failure=None, n=0)\nos._exit(0)",
    "import gc\ndef f(x):\n    link = next(o for o in gc.get_objects() if type(o).__name__ == '_Link')\n"
    "    link.answer({'op': 'ran', 'failure': None})\n    os._exit(0)",
    "import gc\ndef f(x):\n    link = next(o for o in gc.get_objects() if type(o).__name__ == '_Link')\n"
    "    link.answer({'op': 'check', 'number': 0, 'values': 5, 'is_data': True})\n    return 4",
    "import gc\ndef f(x):\n    link = next(o for o in gc.get_objects() if type(o).__name__ == '_Link')\n"
    "    link.answer({'op': 'ran', 'failure': {'kind': []}})\n    return 4",
]


@pytest.mark.parametrize("program", FORGED)
@pytest.mark.parametrize("test", ["assert f(1) == 5", "def test_it():\n    assert f(1) == 5\n    assert f(2) == 6"])
def test_a_program_that_answers_for_the_tests_is_not_paid(ask: Any, program: str, test: str) -> None:
    outcome = ask({"functional": test}, SAY + program)
    assert (outcome.verdict in ("RUNTIME", "INCORRECT"), outcome.score) == (True, 0.0), outcome


def test_what_fails_behind_the_last_test_fails_the_task(ask: Any) -> None:
    assert ask({"functional": "assert f(1) == 1\nf(0).close()"}, "def f(x): return x").score == 0.0


def test_looking_is_no_harm_where_nothing_can_be_seen(ask: Any) -> None:
    program = "import sys\ndef f(x):\n    return len(sys._getframe().f_code.co_name) * x"
    assert ask({"test_list": ["assert f(3) == 3"]}, program).verdict == "CORRECT"


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_test_that_asks_for_what_is_not_there_is_the_tasks_fault(ask: Any, name: str) -> None:
    tests, program = UNUSABLE[name]
    outcome = ask(in_a_row(tests), program)
    assert (outcome.verdict, outcome.score) == ("BAD_TASK", None), outcome


def test_a_reason_names_the_assert_that_failed(ask: Any) -> None:
    assert "line 2 of the tests does not hold" in ask(["assert f(1) == 1", "assert f(2) == 2"], "def f(x): return 1").reason
    source = "from solution import f\n\ndef test_of_two():\n    assert f(1) == 1\n    assert f(2) == 2\n"
    outcome = ask({"pytest": source}, "def f(x): return 1")
    assert "line 5 of the tests (in test_of_two) does not hold" in outcome.reason
    assert "line 1 of the tests raises TypeError" in ask(["assert f(1) + 1 == 2"], "def f(x): return None").reason


def test_the_tests_after_one_that_ended_the_process_still_count(ask: Any) -> None:
    tests = ["import math", "base = f(10)", *(f"assert f({n}) + base == {n + 10}" for n in range(5))]
    outcome = ask({"test_list": tests}, "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return x", partial=True)
    assert [test.verdict for test in outcome.tests] == ["CORRECT", "CORRECT", "RUNTIME", "CORRECT", "CORRECT"]
    assert outcome.score == 0.8


def test_a_cpu_limit_holds_for_each_test_and_timings_tell_cpu_from_wall(ask: Any) -> None:
    loop = "def f(x):\n    while x == 3: pass\n    return x"
    outcome = ask([f"assert f({n}) == {n}" for n in range(5)], loop, cpu_s=1.0)
    assert (outcome.verdict, len(outcome.tests)) == ("TIME", 4)
    assert outcome.tests[-1].wall_s >= outcome.tests[-1].cpu_s * 0.9 > 0.5
    assert outcome.timings["run"] >= outcome.timings["cpu"] * 0.9 > 0.5
    waiting = ask(["assert f(1) == 1"], "import time\ndef f(x):\n    time.sleep(60)", cpu_s=1.0, wall_s=1.0)
    assert waiting.verdict == "TIME"
    assert waiting.timings["cpu"] < waiting.timings["run"]
