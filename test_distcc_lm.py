"""Tests of distcc_lm, numbered as the program: section N is tested in section N.

DISTCC_LM=PATH names the program under test (default: distcc_lm.py beside this file). DISTCC_LM_SEED=N seeds what is
drawn. Of the rows that compile with real compilers both ways a third runs, drawn by the seed; DISTCC_LM_ALL=1 runs
all, DISTCC_LM_BRIEF=1 no whole trees."""
import argparse
import ast
import builtins
import atexit
import collections
import concurrent.futures
import contextlib
import ctypes
import errno
import fcntl
import filecmp
import functools
import gc
import glob
import heapq
import importlib.util
import ipaddress
import itertools
import json
import math
import os
import pwd
import random
import re
import resource
import select
import selectors
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import types
import unittest
import unittest.mock
import uuid
import zlib
from xml.etree import ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.abspath(os.environ.get("DISTCC_LM") or os.path.join(HERE, "distcc_lm.py"))
SEED = int(os.environ.get("DISTCC_LM_SEED") or 0)
ALL_ROWS = os.environ.get("DISTCC_LM_ALL") == "1"
BRIEF = os.environ.get("DISTCC_LM_BRIEF") == "1" and not ALL_ROWS


def load_program(path):
    """The program as a module, with all that its daemon imports."""
    spec = importlib.util.spec_from_file_location("distcc_lm", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["distcc_lm"] = module
    spec.loader.exec_module(module)
    module.import_daemon_modules()
    return module


lm = load_program(PROGRAM)


def read_text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def pythons():
    """{version: path} of every Python from 3.9 on that can be found, the running one among them."""
    found = {}
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = [sys.executable, "/usr/bin/python3"] + sorted(glob.glob(root + "/versions/3.*/bin/python3"))
    candidates += filter(None, (shutil.which("python3.%d" % minor) for minor in range(9, 30)))
    for path in candidates:
        if not os.path.exists(path) or os.path.realpath(path).find("/shims/") >= 0:
            continue
        done = subprocess.run([path, "-ISc", "import sys; print(sys.version_info[0] * 100 + sys.version_info[1])"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == 0 and int(done.stdout) >= 309:
            found.setdefault("%d.%d" % divmod(int(done.stdout), 100), path)
    return found


# ==== Section 0: layering and style =================================================================================

BANNER = re.compile(r"# ==== (\d+)\. (\S.*?) =+")
PURE, PURE_MODULES = range(3, 7), {"collections", "hashlib", "hmac", "ipaddress", "math", "struct", "sys"}
PURE_SYS = {"getfilesystemencoding", "maxsize", "byteorder"}
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}
CLIENT, CLIENT_USES = 11, {0, 1, 2, 3, 4, 11}
MECHANISM = range(7, 11)        # these hold no policy, so they mention no number that a policy turns
POLICY = re.compile("(BACKOFF|BAD_FILES|TRIES|PARKED|WITHDRAW|CANDIDATE|COST|SLOTS_PER|SPEED|JOB_FIXED|SMALL_JOB|CLASS|"
                    "RESIDUAL|CONTENTION|SOURCES|TRANSFER|BANDWIDTH|UNKNOWN_HOST|REFUSAL_MEMORY|POOL_STALL|TEXTS)_")
LINE_MOST, FUNCTION_MOST, CLASS_MOST = 120, 49, 249
UNDONE = re.compile(r"\b(%s)\b" % "|".join(("TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK")))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def banners(text):
    """[(line, number, title)] of the sections."""
    found = [(at, BANNER.fullmatch(line)) for at, line in enumerate(text.splitlines(), 1) if line.startswith("# ==== ")]
    return [(at, int(match[1]) if match else None, match[2] if match else "") for at, match in found]


def bound_names(nodes):
    """Names that statements bind in their own scope: assignments, imports, definitions, except and with targets."""
    found, pending, outer = set(), list(nodes), set()
    while pending:
        node = pending.pop()
        if isinstance(node, FUNCTIONS + (ast.ClassDef,)):
            found.add(node.name)
            continue
        if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            found.update(n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Global):
            outer.update(node.names)
        pending.extend(ast.iter_child_nodes(node))
    return found - outer


class GlobalNames(ast.NodeVisitor):
    """`used`: (name, line) of all that is looked up in the module's scope or among the builtins."""

    def __init__(self):
        self.used, self.scopes = [], []         # scopes: (names, whether of a class), innermost last

    def visit_Name(self, node):
        for depth, (names, of_class) in enumerate(reversed(self.scopes)):
            if node.id in names and not (of_class and depth):
                return
        if isinstance(node.ctx, ast.Load):
            self.used.append((node.id, node.lineno))

    def inside(self, names, nodes, of_class=False):
        self.scopes.append((names, of_class))
        for node in nodes:
            self.visit(node)
        self.scopes.pop()

    def visit_FunctionDef(self, node):
        body = node.body if isinstance(node.body, list) else [node.body]
        arguments = node.args
        for outer in getattr(node, "decorator_list", []) + arguments.defaults + arguments.kw_defaults:
            if outer:
                self.visit(outer)
        every = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
        every += filter(None, (arguments.vararg, arguments.kwarg))
        self.inside({a.arg for a in every} | bound_names(body), body)

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_ClassDef(self, node):
        for outer in node.decorator_list + node.bases + node.keywords:
            self.visit(outer)
        self.inside(bound_names(node.body), node.body, True)

    def visit_comprehension_scope(self, node):
        self.visit(node.generators[0].iter)
        targets = bound_names(generator.target for generator in node.generators)
        self.inside(targets, [child for child in ast.iter_child_nodes(node)])

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_scope


class Source:
    """One program text, and what is wrong with it: faults are (line, sentence)."""

    def __init__(self, text):
        self.text, self.tree, self.banners = text, ast.parse(text), banners(text)
        self.defined, self.used, self.imports = {}, [], []      # name: section; (section, name, line); likewise
        self.modules = set()                                    # bound by the header: the daemon's modules
        for node in self.tree.body:
            section = self.section(node.lineno)
            for name in bound_names([node]):
                self.defined.setdefault(name, section)
            visitor = GlobalNames()
            visitor.visit(node)
            self.used += [(section, name, line) for name, line in visitor.used]
            for part in ast.walk(node):
                if isinstance(part, (ast.Import, ast.ImportFrom)):
                    names = [part.module or ""] if isinstance(part, ast.ImportFrom) else [a.name for a in part.names]
                    self.imports += [(section, name, part.lineno) for name in names]
        self.modules = {name for section, name, _ in self.imports if section == 0}

    def section(self, line):
        return next((number for at, number, _ in reversed(self.banners) if at < line), 0)

    def banner_faults(self):
        numbers = [number for _, number, _ in self.banners]
        if not numbers or numbers != list(range(1, len(numbers) + 1)):
            yield 1, "sections are numbered %s" % numbers
        lines = self.text.splitlines()
        for at, _, title in self.banners:
            if len(lines[at - 1]) != len(lines[self.banners[0][0] - 1]):
                yield at, "the banner of %r is not as wide as the first" % title

    def order_faults(self):
        """A section uses only what is above it."""
        for section, name, line in self.used:
            if self.defined.get(name, 0) > section:
                yield line, "section %d mentions %s of section %d" % (section, name, self.defined[name])

    def purity_faults(self):
        """Sections 3 to 6 do no IO and read no clock; nor do they draw random numbers of their own."""
        for section, name, line in self.used:
            module = name in self.modules and name not in PURE_MODULES
            if section in PURE and (module or name in IMPURE_BUILTINS):
                yield line, "section %d is pure but mentions %s" % (section, name)
        for section, name, line in self.imports:
            if section in PURE and name not in PURE_MODULES:
                yield line, "section %d is pure but imports %s" % (section, name)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
                if self.section(node.lineno) in PURE and node.attr not in PURE_SYS:
                    yield node.lineno, "section %d is pure but mentions sys.%s" % (self.section(node.lineno), node.attr)

    def client_faults(self):
        """Section 11 is the hot path: nothing of 5 to 10, and none of the modules that only the daemon imports."""
        for section, name, line in self.used:
            if section == CLIENT and self.defined.get(name, 0) not in CLIENT_USES:
                yield line, "the client mentions %s of section %d" % (name, self.defined[name])
            if section == CLIENT and name in self.modules - {"posix", "sys"}:
                yield line, "the client mentions the daemon's module %s" % name

    def policy_faults(self):
        for section, name, line in self.used:
            if section in MECHANISM and POLICY.match(name) and self.defined.get(name) == 1:
                yield line, "section %d holds no policy but mentions %s" % (section, name)

    def unused_faults(self):
        """A tunable that turns nothing."""
        mentioned = {name for _, name, _ in self.used}
        for node in self.tree.body:
            for name in bound_names([node]) if self.section(node.lineno) == 1 else ():
                if name not in mentioned:
                    yield node.lineno, "%s is used nowhere" % name

    def size_faults(self):
        for node in ast.walk(self.tree):
            lines = getattr(node, "end_lineno", 0) and node.end_lineno - node.lineno + 1
            if isinstance(node, FUNCTIONS) and lines > FUNCTION_MOST:
                yield node.lineno, "function %s has %d lines" % (node.name, lines)
            if isinstance(node, ast.ClassDef) and lines > CLASS_MOST:
                yield node.lineno, "class %s has %d lines" % (node.name, lines)

    def line_faults(self):
        for at, line in enumerate(self.text.split("\n"), 1):
            if len(line) > LINE_MOST:
                yield at, "%d columns" % len(line)
            if "\t" in line:
                yield at, "a tab"
            if line != line.rstrip():
                yield at, "blanks at the end"
            if UNDONE.search(line):
                yield at, "undone work: %s" % UNDONE.search(line)[0]


class ChecksProgram(unittest.TestCase):
    """What Layering and Style share: no fault of a kind in a file."""

    @classmethod
    def setUpClass(cls):
        cls.source = Source(read_text(PROGRAM))

    def assertClean(self, faults, path=PROGRAM):
        faults = ["%s:%d: %s" % ((os.path.basename(path),) + fault) for fault in sorted(set(faults))]
        self.assertFalse(faults, "\n" + "\n".join(faults))


class Layering(ChecksProgram):
    def test_banners(self):
        self.assertClean(self.source.banner_faults())
        self.assertGreaterEqual(len(self.source.banners), 13)

    def test_map(self):
        """The map in the docstring names each section, in order."""
        mapped = re.findall(r"^ {4,5}(\d+) (\w[\w ]*?)  ", ast.get_docstring(self.source.tree, False), re.M)
        self.assertEqual([(int(number), title.lower()) for number, title in mapped],
                         [(number, title.lower()) for _, number, title in self.source.banners])

    def test_order(self):
        self.assertClean(self.source.order_faults())

    def test_pure(self):
        self.assertClean(self.source.purity_faults())

    def test_client(self):
        self.assertClean(self.source.client_faults())

    def test_mechanism(self):
        self.assertClean(self.source.policy_faults())

    def test_no_wall_clock(self):
        """A clock that jumps moves nothing: times of the day are written into the log and used nowhere."""
        used = r"\btime\.(time|time_ns|localtime|gmtime|ctime)\b|\bdatetime\b|CLOCK_REALTIME"
        self.assertEqual(re.findall(used, read_text(PROGRAM)), [])

    def test_names_exist(self):
        """Every name that is looked up in the module is defined in it or a builtin."""
        import builtins
        known = set(self.source.defined) | self.source.modules | set(vars(builtins)) | {"__file__"}
        self.assertClean((line, "%s is not defined" % name) for _, name, line in self.source.used if name not in known)


class Style(ChecksProgram):
    def test_sizes(self):
        self.assertClean(self.source.size_faults())

    def test_lines(self):
        self.assertClean(self.source.line_faults())

    def test_tunables(self):
        self.assertClean(self.source.unused_faults())

    def test_this_file(self):
        this = Source(read_text(__file__))
        self.assertClean(list(this.size_faults()) + list(this.line_faults()), __file__)


BAD_SOURCES = (
    # kind of fault, a word of the sentence, source with its sections
    ("banner", "numbered", "# ==== 1. A ===\n# ==== 3. B ===\n"),
    ("banner", "numbered", "x = 1\n"),
    ("banner", "numbered", "# ==== One ===\n"),
    ("banner", "wide", "# ==== 1. A ===\n# ==== 2. B ====\n"),
    ("order", "later of section 2", "# ==== 1. A ===\ndef f():\n    return later\n# ==== 2. B ===\nlater = 1\n"),
    ("order", "later of section 2", "# ==== 1. A ===\nx = [later for y in z]\n# ==== 2. B ===\ndef later(): pass\n"),
    ("order", "later of section 2", "# ==== 1. A ===\ndef f(later=later): pass\n# ==== 2. B ===\nlater = 1\n"),
    ("order", "later of section 2", "# ==== 1. A ===\nclass C(later): pass\n# ==== 2. B ===\nclass later: pass\n"),
    ("order", "later of section 2", "# ==== 1. A ===\nclass C:\n    later = 1\n    def f(self): return later\n"
                                    "# ==== 2. B ===\nlater = 1\n"),
    ("order", "later of section 2", "# ==== 1. A ===\nf = lambda x: later\n# ==== 2. B ===\nfor later in (): pass\n"),
    ("order", "later of section 2", "# ==== 1. A ===\ndef f():\n    @later\n    def g(): pass\n"
                                    "# ==== 2. B ===\nimport later\n"),
    ("order", None, "# ==== 1. A ===\ndef f(later):\n    return later, x.later\n# ==== 2. B ===\nlater = 1\n"),
    ("order", None, "# ==== 1. A ===\ndef f():\n    for later in (): yield later\n# ==== 2. B ===\nlater = 1\n"),
    ("order", None, "# ==== 1. A ===\nx = [later for later in ()]\n# ==== 2. B ===\nlater = x\n"),
    ("order", None, "# ==== 1. A ===\ndef f():\n    import later\n    return later\n# ==== 2. B ===\nlater = 1\n"),
    ("order", None, "# ==== 1. A ===\nclass C:\n    later = 1\n    x = later\n# ==== 2. B ===\nlater = 1\n"),
    ("purity", "mentions time", "import time\n# ==== 3. A ===\ndef f(): return time.time()\n"),
    ("purity", "mentions open", "# ==== 4. A ===\nx = open\n"),
    ("purity", "mentions posix", "import posix\n# ==== 5. A ===\nclass C:\n    def f(self): posix.getpid()\n"),
    ("purity", "mentions socket", "def g():\n    global socket\n    import socket\n# ==== 6. A ===\ndef f(): socket\n"),
    ("purity", "imports os", "# ==== 6. A ===\ndef f():\n    import os\n"),
    ("purity", "imports os.path", "# ==== 6. A ===\nfrom os.path import join\n"),
    ("purity", "sys.stdout", "import sys\n# ==== 6. A ===\ndef f(): sys.stdout.write('')\n"),
    ("purity", None, "import time\nimport math\n# ==== 6. A ===\ndef f(time): return time + math.pi\n"
                     "# ==== 7. B ===\ntime.time()\n"),
    ("client", "host of section 5", "# ==== 5. A ===\nhost = 1\n# ==== 11. B ===\ndef f(): return host\n"),
    ("client", "module socket", "def g():\n    global socket\n    import socket\n# ==== 11. B ===\ndef f(): socket\n"),
    ("client", None, "import posix\n# ==== 4. A ===\nhost = 1\n# ==== 11. B ===\ndef f(): return host, posix\n"),
    ("policy", "BACKOFF_MAX_S", "# ==== 1. A ===\nBACKOFF_MAX_S = 1\n# ==== 8. B ===\ndef f(): return BACKOFF_MAX_S\n"),
    ("policy", None, "# ==== 1. A ===\nBACKOFF_MAX_S = 1\n# ==== 6. B ===\ndef f(): return BACKOFF_MAX_S\n"),
    ("unused", "NOBODY_S", "# ==== 1. A ===\nNOBODY_S = 1\n"),
    ("unused", None, "# ==== 1. A ===\nB_S = 1\n# ==== 2. A ===\nx = B_S\n"),
    ("size", "function f has 50", "def f():\n" + "    x = 1\n" * 49),
    ("size", "function f has 50", "class C:\n    def f(self):\n" + "        x = 1\n" * 49),
    ("size", None, "def f():\n" + "    x = 1\n" * 48),
    ("size", "class C has 250", "class C:\n" + "    x = 1\n" * 249),
    ("size", None, "class C:\n" + "    x = 1\n" * 248),
    ("line", "121 columns", "#" * 121),
    ("line", None, "#" * 120),
    ("line", "tab", "x = '\t'\n"),
    ("line", "blanks", "x = 1 \n"),
    ("line", "undone", "x = 1  # TO" "DO later\n"),
    ("line", "undone", "x = 1  # XX" "X\n"),
    ("line", None, "x = 'TO" "DOS XX" "XX'\n"),
)


class LayeringChecker(unittest.TestCase):
    """The checker itself: each bad source has its fault, each good one none."""

    def test_rows(self):
        for kind, word, text in BAD_SOURCES:
            with self.subTest(kind + ": " + text[:200]):
                found = [sentence for _, sentence in getattr(Source(text), kind + "_faults")()]
                if word is None:
                    self.assertEqual(found, [])
                else:
                    self.assertTrue(any(word in sentence for sentence in found), found)

    def test_lines_are_told(self):
        text = "# ==== 1. A ===\n\n\ndef f():\n    return (1,\n            later)\n# ==== 2. B ===\nlater = 1\n"
        self.assertEqual([line for line, _ in Source(text).order_faults()], [6])


# ---- what the client imports

# Beside what `python3 -IS` has already. _socket and select only where a daemon answers.
CLIENT_MODULES = {"distcc_lm", "_socket", "select", "gc"}     # gc is built in: 0.02 ms, and it saves 0.1


def imports_of(python, script, environ, *words):
    """Names that `script`, a program run by sh, has imported beyond what the interpreter starts with."""
    folder = os.path.dirname(script)
    wrapper = os.path.join(folder, "python")
    with open(wrapper, "w") as file:
        file.write('#!/bin/sh\nexec %s -X importtime "$@"\n' % shlex.quote(python))
    os.chmod(wrapper, 0o755)
    base = subprocess.run([wrapper, "-IS", "-c", "import posix, sys"], stderr=subprocess.PIPE, check=True).stderr
    done = subprocess.run([script, *words], env=dict(environ, DISTCC_LM_PYTHON=wrapper), cwd=folder,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)
    names = [{line.rpartition(b"|")[2].strip().decode() for line in text.splitlines()
              if line.startswith(b"import time:")} for text in (base, done.stderr)]
    return done.returncode, names[1] - names[0]


class ClientImports(unittest.TestCase):
    """Each module costs every compile: socket alone 7 ms."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="client-imports-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.script = os.path.join(self.folder, "distcc_lm.py")
        shutil.copyfile(PROGRAM, self.script)
        os.chmod(self.script, 0o755)
        with open(os.path.join(self.folder, "t.c"), "w") as file:
            file.write("int f(void) { return 3; }\n")
        self.environ = {"PATH": os.environ["PATH"], "HOME": self.folder, "TMPDIR": self.folder, "LC_ALL": "C",
                        "DISTCC_LM_SOCKET": os.path.join(self.folder, "none")}

    def test_without_daemon(self):
        for version, python in pythons().items():
            for words in (("cc", "gcc", "--version"), ("cc", "gcc", "-c", "t.c", "-o", "t.o")):
                with self.subTest(python=version, words=words):
                    status, found = imports_of(python, self.script, self.environ, *words)
                    self.assertEqual(status, 0)
                    self.assertIn("distcc_lm", found)
                    self.assertEqual(found - CLIENT_MODULES, set())
            self.assertTrue(os.path.exists(os.path.join(self.folder, "t.o")))

    def test_with_daemon(self):
        """The whole way: preprocessed, sent over a passed socket, object received."""
        for version, python in pythons().items():
            with self.subTest(python=version), OneJobDaemon(os.path.join(self.folder, "socket")) as daemon:
                environ = dict(self.environ, DISTCC_LM_SOCKET=daemon.path)
                status, found = imports_of(python, self.script, environ, "cc", "gcc", "-c", "t.c", "-o", "x.o")
                self.assertEqual((status, daemon.error), (0, None))
                self.assertEqual(read_text(os.path.join(self.folder, "x.o")), "OBJECT")
                self.assertEqual(found - CLIENT_MODULES, set())
                os.unlink(os.path.join(self.folder, "x.o"))


class ClientStart(unittest.TestCase):
    """What the daemon leaves for the client's start, and stage 1 without gcc's driver."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="client-start-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.source = os.path.join(self.folder, "t.c")
        with open(self.source, "w") as file:
            file.write("#ifdef RECIPE\nint by_recipe;\n#else\nint by_driver;\n#endif\n")

    def test_client_part(self):
        """It defines all that it uses, and is smaller than the program by far."""
        whole = read_text(PROGRAM)
        part = lm.client_part(whole)
        names = GlobalNames()
        names.visit(part)
        bound = bound_names(part.body) | set(dir(builtins)) | {"__file__", "__name__"}
        self.assertEqual(sorted({name for name, _ in names.used} - bound), [])
        self.assertLess(len(ast.unparse(part)), len(whole) / 3)

    def compile(self, recipe, mode=lm.MODE_PLAIN, *more, flags=()):
        """(the source sent, the recipe told to the daemon last). more: further turns."""
        environ = {"PATH": os.environ["PATH"], "HOME": self.folder, "TMPDIR": self.folder,
                   "DISTCC_LM_SOCKET": os.path.join(self.folder, "socket")}
        with OneJobDaemon(environ["DISTCC_LM_SOCKET"], (mode, recipe), *more) as daemon:
            done = subprocess.run([PROGRAM, "cc", "gcc", *flags, "-c", "t.c", "-MD", "-o", "t.o"], env=environ,
                                  cwd=self.folder, capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr, daemon.error), (0, b"", None))
        self.assertIn("t.o: t.c", read_text(os.path.join(self.folder, "t.d")))
        return daemon.source, daemon.recipes[-1]

    def test_daemon_gone_at_the_end(self):
        """It wanted to hear how a local compile went, and is gone by then: no SIGPIPE."""
        path = os.path.join(self.folder, "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            client = subprocess.Popen([PROGRAM, "cc", "gcc", "-c", "t.c"], cwd=self.folder,
                                      env={"PATH": os.environ["PATH"], "DISTCC_LM_SOCKET": path})
            with listener.accept()[0] as daemon:
                daemon.recv(65536)
                daemon.sendall(lm.encode_fields(b"LOCL", "local-is-faster", 1))
        self.assertEqual(client.wait(60), 0)
        self.assertTrue(os.path.exists(os.path.join(self.folder, "t.o")))

    def test_recipe(self):
        source, made = self.compile(lm.RECIPE_WANTED)
        self.assertIn(b"by_driver", source)
        self.assertIn(lm.STAND_IN_SOURCE, made)
        self.assertEqual(self.compile(made), (source, ""))
        self.assertIn(b"by_recipe", self.compile(made + "\n-DRECIPE")[0])
        self.assertEqual(self.compile(lm.NO_RECIPE), (source, ""))

    def test_recipe_of_another_mode(self):
        """Where -fdirectives-only turns out not to do, the second try is not by its recipe; nor is a recipe told as
        another turn's."""
        made = self.compile(lm.RECIPE_WANTED, lm.MODE_DIRECTIVES)[1]
        self.assertIn(b"#define", self.compile(made, lm.MODE_DIRECTIVES)[0])
        plain = self.compile(lm.RECIPE_WANTED, lm.MODE_DIRECTIVES, (lm.MODE_PLAIN, lm.NO_RECIPE))
        self.assertEqual((plain[0].count(b"#define"), plain[1]), (0, ""))
        with open(self.source, "a") as file:
            file.write("#pragma redefine_extname before after\nint before(void);\n")
        source, told = self.compile(made, lm.MODE_DIRECTIVES)
        self.assertIn(b"redefine_extname", source)
        self.assertEqual((source.count(b"#define"), told), (0, ""))

    def test_names_of_headers(self):
        """gcc writes the real path of a system header where that is shorter; a recipe leaves them as found only where
        that makes no difference."""
        os.mkdir(os.path.join(self.folder, "real"))
        os.symlink("real", os.path.join(self.folder, "a-longer-name"))
        os.symlink("../real/h.h", os.path.join(self.folder, "real/i.h"))
        with open(os.path.join(self.folder, "real/h.h"), "w") as file:
            file.write("char *name = __FILE__;\n")
        for system, header, kept in (
                ("real", "h.h", True), (self.folder + "/real", "h.h", True), (self.folder + "/real", "i.h", True),
                (self.folder + "/a-longer-name", "h.h", False), (self.folder + "/a-longer-name", "i.h", False),
                (self.folder + "/real/../real", "h.h", False), (self.folder + "/.//real", "h.h", False)):
            with self.subTest(system=system, header=header):
                with open(self.source, "w") as file:
                    file.write("#include <stddef.h>\n#include <%s>\n" % header)
                turn, flags = (lm.RECIPE_WANTED, lm.MODE_DIRECTIVES), ("-isystem", system)
                source, made = self.compile(*turn, flags=flags)
                self.assertTrue(made.endswith("\n" + lm.AS_FOUND))
                told = "" if kept else made[:-len("\n" + lm.AS_FOUND)]
                self.assertEqual(self.compile(made, lm.MODE_DIRECTIVES, flags=flags), (source, told))
                self.assertEqual(self.compile(told or made, lm.MODE_DIRECTIVES, flags=flags), (source, ""))

    def test_canonical_path(self):
        """As realpath(3), over a tree of links that lead anywhere, upwards too."""
        rng, folders, paths = random.Random(7), [self.folder], []
        for i in range(60):
            path = os.path.join(rng.choice(folders), "n%d" % i)
            if i % 3 == 0:
                os.mkdir(path)
                folders.append(path)
            elif i % 3 == 1:
                write(path, b"")
            else:
                to = rng.choice(folders + paths)
                os.symlink(to if rng.random() < 0.5 else os.path.relpath(to, os.path.dirname(path)), path)
            paths.append(path)
        for path in paths:
            for odd in (path, path.replace("/", "//"), path.replace("/n", "/./n"),
                        os.path.join(os.path.dirname(path), "..", os.path.basename(self.folder), "n0", "..")):
                if os.path.exists(odd):
                    self.assertEqual(lm.canonical_path(os.fsencode(odd), {}), os.fsencode(os.path.realpath(odd)), odd)

    def test_recipe_that_fails(self):
        """It is given up, and the driver does it."""
        for recipe in ("/bin/false", "/nonexistent", "/bin/sh\n-c\necho said >&2"):
            source, told = self.compile(recipe)
            self.assertIn(b"by_driver", source)
            self.assertEqual(told, lm.NO_RECIPE)


class OneJobDaemon:
    """Stands for the daemon and for the host behind it, for one compile."""

    def __init__(self, path, *turns):
        self.path, self.error, self.turns = path, None, turns               # turns: (mode, recipe)
        self.recipes, self.source = [], b""                 # what came
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.listener.settimeout(30)
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(30)
        self.listener.close()
        os.unlink(self.path)

    def run(self):
        try:
            with self.listener.accept()[0] as client:
                client.settimeout(30)
                self.serve(client)
        except (OSError, AssertionError, lm.WireError) as error:
            self.error = repr(error)

    def serve(self, client):
        name, fields = self.receive(client, lm.decode_fields())
        assert (name, fields[1]) == (b"HELO", b"cc"), (name, fields)
        for turn in self.turns or [(lm.MODE_PLAIN, lm.NO_RECIPE)]:
            client.sendall(lm.encode_fields(b"TURN", turn[0], 0, turn[1]))
            name, fields = self.receive(client, lm.decode_fields())
            if name == b"SEEN":
                client.sendall(lm.encode_fields(b"FILE", 0, " ".join(map(str, range(len(fields[0]) // 16)))))
                name, fields = self.receive(client, lm.decode_fields())
            assert name == b"SIZE", name
            self.recipes.append(fields[5].decode())
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(client, [lm.encode_fields(b"SOCK", "h", "peer", lm.MODE_PLAIN)], [theirs.fileno()])
            ours.settimeout(30)
            job = self.receive(ours, lm.decode_job())
            while len(self.source) < job.size:
                self.source += ours.recv(job.size - len(self.source))
            ours.sendall(lm.encode_reply(0, b"", b"", 6) + b"OBJECT" + lm.encode_times(lm.Times()))
            assert self.receive(client, lm.decode_fields())[0] == b"DONE"

    @staticmethod
    def receive(sock, generator):
        decoder = lm.Decoder(generator)
        while not decoder.feed():
            data = sock.recv(decoder.missing())
            assert data, "the client closed"
            decoder.feed(data)
        return decoder.result


# ==== Section 3: wire ===============================================================================================

def feed(generator, data, step=0):
    """(result, what is over) of a decoder fed with `data`, at once or `step` bytes at a time; None: unfinished."""
    decoder = lm.Decoder(generator)
    step = step or max(len(data), 1)
    for at in range(0, len(data), step):
        if decoder.feed(data[at:at + step]):
            return decoder.result, decoder.rest() + data[at + step:]
    return (decoder.result, decoder.rest()) if decoder.done else (None, decoder.rest())


def fields_of(thing):
    """What a message holds, for comparison."""
    if isinstance(thing, (tuple, list, int, str, bytes, type(None))):
        return thing
    return {name: getattr(thing, name) for name in type(thing).__slots__}


def some_load(**changes):
    """A Load with something in each field."""
    fields = dict(instance=b"instance", boot=b"0123456789abcdef", sequence=7, port=3632, cores=16, slots=20, running=3,
                  waiting=2, foreign=1.25, memory_mb=31000, state=lm.STATE_BUSY, capabilities=lm.CAN_LANDLOCK,
                  interval_ms=1000, kb_sum=2048.0, cpu_ms_sum=4096.5, identities=[b"identity", b"compiler"],
                  counted={b"submitte": 1 << 40, b"another1": 3}, kin={b"kinsman1": 4})
    fields.update(changes)
    return lm.Load(**fields)


TOKENS = (
    # 12 bytes, (name, value) or None: refused
    (b"DIST00000001", (b"DIST", 1)), (b"STATffffffff", (b"STAT", 0xffffffff)), (b"STATFFFFFFFF", (b"STAT", 0xffffffff)),
    (b"STATaBcDeF09", (b"STAT", 0xabcdef09)), (b"lmrq00000000", (b"lmrq", 0)), (b"DOTI80000000", (b"DOTI", 1 << 31)),
    (b"DIST       1", None), (b"DIST    0x05", None), (b"DIST0x000005", None), (b"DIST+0000001", None),
    (b"DIST-0000001", None), (b"DIST0000_001", None), (b"DIST0000000g", None), (b"DIST0000001\n", None),
    (b"DIST0000001\0", None), (b"DI T00000001", None), (b"DIS\0" b"00000001", None),
    (b"\xff\xfe\xfd\xfc00000001", None),
    (b"DIST0000000\xb2", None), (b"GET / HTTP/1", None), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", None),
    (b"DIST\xd9\xa0\xd9\xa1\xd9\xa2\xd9\xa3", None),
)


class Tokens(unittest.TestCase):
    def test_rows(self):
        for header, wanted in TOKENS:
            with self.subTest(header):
                if wanted is None:
                    self.assertRaises(lm.WireError, lm.parse_token, header)
                else:
                    self.assertEqual(lm.parse_token(header), wanted)
                    self.assertEqual(lm.parse_token(lm.token(*wanted)), wanted)

    def test_form(self):
        self.assertEqual(lm.token(b"STAT", 0xAB), b"STAT000000ab")
        self.assertEqual(lm.body_token(b"ARGV", b"gcc"), b"ARGV00000003gcc")

    def test_order(self):
        with self.assertRaisesRegex(lm.WireError, "ARGV instead of ARGC"):
            feed(lm.decode_job(), b"DIST00000001ARGV00000003gcc")
        with self.assertRaisesRegex(lm.WireError, "over 5"):
            feed(lm.take_token(b"SIZE", 5), b"SIZE00000006")
        self.assertEqual(feed(lm.take_token(b"SIZE", 5), b"SIZE00000005"), (5, b""))

    def test_rest(self):
        decoder = lm.Decoder(lm.take_body(b"BODY", 9))
        self.assertEqual(decoder.missing(), 12)
        self.assertFalse(decoder.feed(b"BODY0000"))
        self.assertEqual(decoder.missing(), 4)
        self.assertFalse(decoder.feed(b"0003a"))
        self.assertEqual(decoder.missing(), 2)
        self.assertTrue(decoder.feed(b"bcMORE"))
        self.assertEqual((decoder.result, decoder.rest(), decoder.rest()), (b"abc", b"MORE", b""))
        self.assertTrue(decoder.feed())


def round_trips():
    """(name, decoder, encoded message, its fields) of every format that is a stream."""
    job, times = lm.JobRequest(1, [b"gcc", b"", b"-c", b"\xff x.c"], 0xffffffff), lm.Times(1, 2, 3, 4, 5.25)
    reply, refusal = lm.Reply(0x100, b"err\0", b"out", 9), lm.Reply(refusal=("memory", "none left"))
    asked = lm.SlotRequest(b"instance", 1000, 345, 512, b"identity", 1, "c-O2-g")
    return (
        ("job", lm.decode_job, lm.encode_job(job.argv, job.size), job),
        ("opening job", lm.decode_opening, lm.encode_job(job.argv, job.size), job),
        ("times", lm.decode_times, lm.encode_times(times), times),
        ("reply", lm.decode_reply, lm.encode_reply(0x100, b"err\0", b"out", 9), reply),
        ("empty reply", lm.decode_reply, lm.encode_reply(0, b"", b"", 0), lm.Reply()),
        ("refusal", lm.decode_reply, lm.encode_refused("memory", "none left"), refusal),
        ("opening LMRQ", lm.decode_opening, asked.encode(), asked),
        ("granted", lm.decode_admission, lm.encode_granted(1 << 40), ("granted", 1 << 40, 0)),
        ("compressed", lm.decode_admission, lm.encode_granted(3, lm.ZLIB), ("granted", 3, lm.ZLIB)),
        ("parked", lm.decode_admission, lm.encode_parked(3, 1500), ("parked", 3, 1500)),
        ("refused", lm.decode_admission, lm.encode_refused("disk", "full"), ("refused", "disk", "full")),
        ("refused by name", lm.decode_admission, lm.encode_refused("disk"),
         ("refused", "disk", lm.reason_text("disk"))),
        ("fields", lm.decode_fields, lm.encode_fields(b"HELO", b"1", "\udcff", 7, b""),
         (b"HELO", [b"1", b"\xff", b"7", b""])),
        ("no fields", lm.decode_fields, lm.encode_fields(b"PING"), (b"PING", [])),
    )


class RoundTrips(unittest.TestCase):
    def test_whole(self):
        for name, decode, data, wanted in round_trips():
            with self.subTest(name):
                found, over = feed(decode(), data + b"NEXT")
                self.assertEqual((fields_of(found), over), (fields_of(wanted), b"NEXT"))

    def test_bytewise(self):
        for name, decode, data, wanted in round_trips():
            for step in (1, 5, 13):
                with self.subTest(name, step=step):
                    self.assertEqual(fields_of(feed(decode(), data, step)[0]), fields_of(wanted))

    def test_truncated(self):
        """No message is taken for whole before it is."""
        for name, decode, data, _ in round_trips():
            for end in range(len(data)):
                self.assertEqual(feed(decode(), data[:end]), (None, feed(decode(), data[:end])[1]), name)

    def test_fuzz(self):
        """Whatever comes: a message, WireError, or a wish for more; and the wish is bounded."""
        rng = random.Random(3)
        for name, decode, data, _ in round_trips():
            for _ in range(300):
                bad = bytearray(data)
                for _ in range(rng.randint(1, 4)):
                    bad[rng.randrange(len(bad))] = rng.choice(b"0123456789abcdefDLMOKWTN\0\xff \x7f")
                with self.subTest(name, row=bytes(bad)):
                    decoder = lm.Decoder(decode())
                    try:
                        decoder.feed(bytes(bad))
                    except lm.WireError:
                        continue
                    self.assertLessEqual(decoder.need, 64 << 20)


def huge_argv(count, size=1):
    return lm.encode_job([b"x" * size] * count, 1)


LIMITS = (
    # what, decoder, bytes, a word of the refusal or None: must be accepted
    ("most arguments", "job", lambda: huge_argv(lm.MAX_ARGUMENTS), None),
    ("too many arguments", "job", lambda: b"DIST00000001" + lm.token(b"ARGC", lm.MAX_ARGUMENTS + 1), "ARGC"),
    ("4 Gi arguments", "job", lambda: b"DIST00000001ARGCffffffff", "ARGC"),
    ("no argument", "job", lambda: b"DIST00000001ARGC00000000DOTI00000001", "no command line"),
    ("longest argument", "job", lambda: huge_argv(1, lm.MAX_ARGUMENT_BYTES), None),
    ("too long an argument", "job", lambda: b"DIST00000001ARGC00000001" + lm.token(b"ARGV", lm.MAX_ARGUMENT_BYTES + 1),
     "ARGV"),
    ("an argument of 4 GiB", "job", lambda: b"DIST00000001ARGC00000001ARGVffffffff", "ARGV"),
    ("too long a command line", "job", lambda: huge_argv(2, lm.MAX_ARGV_BYTES // 2), "command line"),
    ("a NUL", "job", lambda: lm.encode_job([b"gcc", b"a\0b"], 1), "NUL"),
    ("lone NUL", "job", lambda: lm.encode_job([b"\0"], 1), "NUL"),
    ("a source of 4 GiB is for the server's limit", "job", lambda: lm.encode_job([b"gcc"], 0xffffffff), None),
    ("version 0", "job", lambda: b"DIST00000000", "protocol 0"),
    ("version 3", "job", lambda: b"DIST00000003", "pump"),
    ("version 3", "job", lambda: b"DIST00000003", "pump"),
    ("version 4", "opening", lambda: b"DIST00000004", "protocol 4"),
    ("pump's CDIR", "job", lambda: b"DIST00000001CDIR00000001/", "CDIR"),
    ("HTTP", "opening", lambda: b"GET / HTTP/1.1\r\n\r\n", "no token"),
    ("another token", "opening", lambda: b"ARGC00000001", "begins with"),
    ("an LMRQ of 4 GiB", "opening", lambda: b"LMRQffffffff", "LMRQ"),
    ("an empty LMRQ", "opening", lambda: b"LMRQ00000000" + b"x", "LMRQ of 0"),
    ("a short LMRQ", "opening", lambda: lm.body_token(b"LMRQ", b"\1" * 40), "LMRQ of 40"),
    ("DONE 2", "reply", lambda: b"DONE00000002", "DONE 2"),
    ("no DONE", "reply", lambda: b"STAT00000000", "STAT"),
    ("no wait status", "reply", lambda: b"DONE00000001STAT00010000", "STAT"),
    ("messages of 4 GiB", "reply", lambda: b"DONE00000001STAT00000000SERRffffffff", "SERR"),
    ("output of 4 GiB", "reply", lambda: b"DONE00000001STAT00000000SERR00000000SOUTffffffff", "SOUT"),
    ("an object of 4 GiB", "reply", lambda: lm.encode_reply(0, b"", b"", 0xffffffff), None),
    ("an LMNO of 4 GiB", "reply", lambda: b"LMNOffffffff", "LMNO"),
    ("an LMNO of 4 GiB", "admission", lambda: b"LMNOffffffff", "LMNO"),
    ("an LMOK of 4 GiB", "admission", lambda: b"LMOKffffffff", "LMOK"),
    ("an empty LMOK", "admission", lambda: b"LMOK00000000", "numbers"),
    ("a signed LMOK", "admission", lambda: lm.body_token(b"LMOK", b"-1"), "numbers"),
    ("LMOK with words", "admission", lambda: lm.body_token(b"LMOK", b"1 x"), "numbers"),
    ("LMOK of a later version", "admission", lambda: lm.body_token(b"LMOK", b"1 2 3"), None),
    ("LMWT with one number", "admission", lambda: lm.body_token(b"LMWT", b"1"), "numbers"),
    ("LMWT of a later version", "admission", lambda: lm.body_token(b"LMWT", b"1 2 3"), None),
    ("a job's token", "admission", lambda: b"DONE00000001", "DONE"),
    ("an empty LMNO", "admission", lambda: b"LMNO00000000", None),
    ("TIME with four numbers", "times", lambda: lm.body_token(b"TIME", b"1 2 3 4"), "five"),
    ("TIME with a fraction", "times", lambda: lm.body_token(b"TIME", b"1 2 3 4 5.0"), "five"),
    ("TIME with nan", "times", lambda: lm.body_token(b"TIME", b"1 2 3 4 nan"), "five"),
    ("TIME of a later version", "times", lambda: lm.body_token(b"TIME", b"1 2 3 4 500 6"), None),
    ("TIME of 4 GiB", "times", lambda: b"TIMEffffffff", "TIME"),
    ("TIME beyond floats", "times", lambda: lm.body_token(b"TIME", b"1 2 3 4 " + b"9" * 240), "five"),
    ("TIME of ages", "times", lambda: lm.body_token(b"TIME", b"1 2 1000000000000 4 5"), "five"),
    ("fields of 4 GiB", "fields", lambda: b"HELOffffffff", "HELO"),
    ("most fields", "fields", lambda: lm.encode_fields(b"HELO", b"x" * lm.MAX_CLIENT_MESSAGE_BYTES), None),
)


class Limits(unittest.TestCase):
    def test_rows(self):
        for what, decoder, make, word in LIMITS:
            with self.subTest(what):
                generator = getattr(lm, "decode_" + decoder)()
                if word is None:
                    self.assertIsNotNone(feed(generator, make())[0])
                else:
                    with self.assertRaisesRegex(lm.WireError, word):
                        feed(generator, make())

    def test_lmrq(self):
        asked = lm.SlotRequest(b"instance", 0xffffffff, 1 << 50, 1 << 50, b"identity", 0, "c" * 100)
        found = lm.SlotRequest.parse(asked.encode()[12:])
        self.assertEqual((found.uid, found.size_kb, found.memory_mb, found.job_class),
                         (0xffffffff, 0xffffffff, 0xffffffff, "c" * 64))
        body = bytearray(lm.SlotRequest(b"instance", 1, 2, 3, b"identity", 1, "cls").encode()[12:])
        size = struct.calcsize(lm.SlotRequest.FORMAT)
        for at, value, word in ((0, 2, "version 2"), (0, 0, "version 0"), (30, 2, "mode 2")):
            bad = body[:]
            bad[at] = value
            with self.assertRaisesRegex(lm.WireError, word):
                lm.SlotRequest.parse(bytes(bad))
        body[size - 1] = 4                                          # a MAC of 4 bytes: stands before the class
        self.assertEqual(lm.SlotRequest.parse(bytes(body[:size]) + b"MMMMcls").job_class, "cls")
        body[size - 1] = 255
        self.assertEqual(lm.SlotRequest.parse(bytes(body)).job_class, "")
        for end in range(size):
            with self.assertRaises(lm.WireError):
                lm.SlotRequest.parse(bytes(body[:end]))

    def test_refusal_text(self):
        """The text of an LMNO is shown to users: nothing in it moves a cursor, and it is short."""
        for body, wanted in ((b"", ("refused", "")), (b"disk", ("disk", "")),
                             (b"disk\0full\0more", ("disk", "fullmore")),
                             (b"\x1b[2Jdisk\0a\nb\x07\xff", ("[2Jdisk", "ab\ufffd")), (b"\0x", ("refused", "x")),
                             (b"a" * 900, ("a" * 200, "")), (b"x\0" + b"b" * 900, ("x", "b" * 200))):
            with self.subTest(body):
                self.assertEqual(lm.parse_refusal(body), wanted)
        self.assertLessEqual(len(lm.encode_refused("disk", "\u20ac" * 2000)), lm.MAX_LOAD_REQUEST_BYTES)


# ---- LZO1X

def lzo_run(length, bits, base):
    """How a length is written: in the instruction's own bits, or as 0 there and bytes that follow."""
    if length <= base:
        return length, b""
    zeros, last = divmod(length - base - 1, 255)
    return 0, bytes(zeros) + bytes((last + 1,))


class LzoWriter:
    """Writes every kind of LZO1X instruction, as drawn, and what it stands for, byte by byte."""

    def __init__(self, rng):
        self.rng, self.packed, self.text = rng, bytearray(), bytearray()
        count = rng.choice((1, 2, 3, 4, 5, 100, 238))
        self.packed.append(count + 17)
        self.literals(count)
        self.state = min(count, 4)

    def literals(self, count):
        new = self.rng.randbytes(count)
        self.packed += new
        self.text += new

    def run(self, length):
        short, more = lzo_run(length - 3, 4, 15)
        self.packed += bytes((short,)) + more
        self.literals(length)
        self.state = 4

    def match(self, kind):
        rng, have, state = self.rng, len(self.text), self.rng.randrange(4)
        if kind == "near":                              # two bytes after a few literals, three after a run
            length, low = (3, 2049) if self.state == 4 else (2, 1)
            distance = rng.randint(low, min(have, low + 1023))
            at = distance - low
            code = bytes(((at & 3) << 2 | state, at >> 2))
        elif kind == "short":
            length, distance = rng.randint(3, 8), rng.randint(1, min(have, 2048))
            at = distance - 1
            code = bytes(((length - 1) << 5 | (at & 7) << 2 | state, at >> 3))
        else:
            length, far = rng.choice((rng.randint(3, 40), rng.randint(41, 3000))), kind == "far"
            distance = rng.randint(16385, min(have, 49151)) if far else rng.randint(1, min(have, 16384))
            at = distance - (16384 if far else 1)
            short, more = lzo_run(length - 2, 3 if far else 5, 7 if far else 31)
            first = 16 | at >> 14 << 3 | short if far else 32 | short
            code = bytes((first,)) + more + struct.pack("<H", (at & 16383) << 2 | state)
        self.packed += code
        for _ in range(length):
            self.text.append(self.text[-distance])
        self.literals(state)
        self.state = state

    def step(self):
        have = len(self.text)
        kinds = ["short", "middle"] + ["far"] * (have > 16384)
        if not self.state:
            kinds.append("run")
        elif self.state < 4 or have > 2048:
            kinds.append("near")
        kind = self.rng.choice(kinds)
        if kind == "run":
            self.run(self.rng.choice((4, 18, 19, 272, 273, 274, self.rng.randint(4, 9000))))
        else:
            self.match(kind)


LZO_HOSTILE = (
    # what, block, `most`, a word of the refusal
    ("nothing", b"", 9, "short"), ("end alone, cut", b"\x11\0", 9, "short"), ("half a literal", b"\x14ab", 9, "short"),
    ("no end", b"\x14abc", 9, "short"), ("zeros without end", bytes(5000), 9, "short"),
    ("before the beginning", b"\x15abcd\x40\1\x11\0\0", 99, "beginning"),
    ("far before", b"\x15abcd\x19\4\0\x11\0\0", 99, "beginning"),
    ("bytes behind", lm.lzo_block(b"abcd") + b"x", 99, "behind"),
    ("too much", lm.lzo_block(b"x" * 100), 99, "more than 99"),
    ("a bomb", b"\x15abcd\x20" + bytes(1 << 20) + b"\1\0\0\x11\0\0", 4 << 20, "more than"),
    ("literals of 4 GB", b"\0" + bytes(16 << 20) + b"\1abc", 1 << 20, "short"),
)


class Lzo(unittest.TestCase):
    def unpacked(self, block, most=1 << 24):
        parts = []
        self.assertEqual(lm.lzo_unpack(block, parts.append, most), sum(map(len, parts)))
        return b"".join(parts)

    def test_instructions(self):
        for seed in range(60):
            writer = LzoWriter(random.Random(seed))
            while len(writer.text) < (3000 if seed < 40 else 200_000):
                writer.step()
            self.assertTrue(self.unpacked(writer.packed + lm.LZO_END) == writer.text, "seed %d" % seed)

    def test_over_blocks(self):
        """Matches reach back over what was written already."""
        writer = LzoWriter(random.Random(5))
        while len(writer.text) < 3 * lm.LZO_BLOCK_BYTES:
            writer.step()
        self.assertTrue(self.unpacked(writer.packed + lm.LZO_END) == writer.text)

    def test_literals(self):
        self.assertEqual((lm.lzo_block(b""), lm.lzo_size(0), lm.lzo_text(b"", 9)), (b"", 0, b""))
        for size in (1, 2, 3, 4, 17, 18, 238, 239, 272, 273, 274, 527, 528, 529, 70_000, 3 << 20):
            text = random.Random(size).randbytes(size)
            block = lm.lzo_block(text)
            self.assertEqual(len(block), lm.lzo_size(size))
            self.assertTrue(self.unpacked(block) == text, size)

    def test_hostile(self):
        for what, block, most, word in LZO_HOSTILE:
            with self.subTest(what):
                written = [0]

                def write(data, written=written):
                    written[0] += len(data)
                begin = time.process_time()
                with self.assertRaisesRegex(lm.WireError, word):
                    lm.lzo_unpack(block, write, most)
                self.assertLess(time.process_time() - begin, 1)
                self.assertLessEqual(written[0], most)

    def test_fuzz(self):
        for seed in range(300):
            rng = random.Random(seed)
            writer = LzoWriter(rng)
            while len(writer.text) < 500:
                writer.step()
            block = bytearray(writer.packed + lm.LZO_END)
            for _ in range(rng.randint(1, 4)):
                block[rng.randrange(len(block))] = rng.randrange(256)
            written = []
            try:
                lm.lzo_unpack(bytes(block[:rng.choice((len(block), rng.randrange(len(block))))]), written.append, 9999)
            except lm.WireError:
                pass
            self.assertLessEqual(sum(map(len, written)), 9999, "seed %d" % seed)


# Recorded of distcc 3.4 by a proxy (distcc.md 1.5): `distcc gcc -O2 -Wall -DFOO=1 -I. -MMD -MF t.d -c t.c -o t.o`.
CAPTURED_REQUEST = (b"DIST00000001ARGC00000007ARGV00000014x86_64-linux-gnu-gccARGV00000003-O2ARGV00000005-Wall"
                    b"ARGV00000002-cARGV00000003t.cARGV00000002-oARGV00000003t.oDOTI00000378")
CAPTURED_REPLY = b"DONE00000001STAT00000000SERR00000000SOUT00000000DOTO00000440"
CAPTURED_FAILURE = b"DONE00000001STAT00000100SERR000000c2" + b"m" * 194 + b"SOUT00000000DOTO00000000"


class Captures(unittest.TestCase):
    def test_request(self):
        argv = [b"x86_64-linux-gnu-gcc", b"-O2", b"-Wall", b"-c", b"t.c", b"-o", b"t.o"]
        for decode in (lm.decode_job, lm.decode_opening):
            found, over = feed(decode(), CAPTURED_REQUEST + b'# 0 "t.c"\n')
            self.assertEqual((found.version, found.argv, found.size, over), (1, argv, 0x378, b'# 0 "t.c"\n'))
        self.assertEqual(lm.encode_job(argv, 0x378), CAPTURED_REQUEST)

    def test_reply(self):
        found, over = feed(lm.decode_reply(), CAPTURED_REPLY + b"\x7fELF")
        self.assertEqual((found.status, found.stderr, found.stdout, found.size, over), (0, b"", b"", 0x440, b"\x7fELF"))
        self.assertEqual(lm.encode_reply(0, b"", b"", 0x440), CAPTURED_REPLY)

    def test_failure(self):
        found, _ = feed(lm.decode_reply(), CAPTURED_FAILURE, 7)
        self.assertEqual((found.status, found.stderr, found.size, found.refusal), (0x100, b"m" * 194, 0, None))
        self.assertEqual(lm.encode_reply(0x100, b"m" * 194, b"", 0), CAPTURED_FAILURE)

    def test_other_versions(self):
        request = CAPTURED_REQUEST.replace(b"DIST00000001", b"DIST%08x")
        self.assertEqual(feed(lm.decode_opening(), request % 2)[0].version, 2)
        for version, word in ((3, "pump"), (0, "protocol 0"), (4, "protocol 4")):
            with self.assertRaisesRegex(lm.WireError, word):
                feed(lm.decode_opening(), request % version)


def patched(packet, name, value):
    """`packet` with one field of the header replaced, by its place in Load.FORMAT."""
    codes = re.findall(r"\d*[a-zA-Z]", lm.Load.FORMAT)
    at = struct.calcsize("!" + "".join(codes[:4 + lm.Load.__slots__.index(name)]))
    field = struct.pack("!" + codes[4 + lm.Load.__slots__.index(name)], value)
    return packet[:at] + field + packet[at + len(field):]


class LoadPackets(unittest.TestCase):
    HEADER = struct.calcsize(lm.Load.FORMAT)

    def test_round_trip(self):
        for load in (some_load(), lm.Load(instance=b"i" * 8, boot=b"b" * 16), some_load(identities=[], kin={}),
                     some_load(version="1.2.3")):
            self.assertEqual(fields_of(lm.Load.parse(load.encode())), dict(fields_of(load), kb_sum=load.kb_sum))

    def test_clipped(self):
        load = some_load(cores=1 << 20, slots=1 << 20, running=1 << 20, waiting=1 << 20, foreign=1e9, memory_mb=1 << 40,
                         interval_ms=1e9, sequence=(1 << 32) + 5, kin={b"kinsman1": 1 << 20},
                         identities=[b"%08d" % i for i in range(500)],
                         counted={b"%08d" % i: i for i in range(500)})
        packet = load.encode()
        self.assertLessEqual(len(packet), lm.UDP_MAX_BYTES)
        found = lm.Load.parse(packet)
        self.assertEqual((found.cores, found.slots, found.running, found.waiting, found.sequence, found.interval_ms),
                         (65535, 65535, 65535, 65535, 5, 65535))
        self.assertEqual((found.foreign, found.memory_mb, found.kin), (655.35, 0xffffffff, {b"kinsman1": 65535}))
        self.assertIn(b"00000499", found.counted)               # who was counted last stays
        self.assertIn(b"00000000", found.identities)

    def test_truncated(self):
        packet = some_load().encode()
        for end in range(len(packet)):
            with self.subTest(end), self.assertRaises(lm.WireError):
                lm.Load.parse(packet[:end])

    def test_later_versions(self):
        """A newer minor version: a longer header, longer items, further lists. Another major one is refused."""
        load = some_load(version="9.9")
        packet = load.encode()
        minor = bytearray(packet[:5]) + b"\x09" + packet[6:]
        size_at = 6
        longer = bytearray(minor[:self.HEADER]) + b"later" + minor[self.HEADER:] + b"\x02\x03abcdef"
        longer[size_at:size_at + 2] = struct.pack("!H", self.HEADER + 5)
        for data in (minor, longer, packet + b"\0\0", packet + b"\x01\x04list"):
            self.assertEqual(fields_of(lm.Load.parse(bytes(data))), fields_of(load))
        wide = packet[:self.HEADER] + (b"\x01\x0aidentity++\x01\x12submitte\0\0\0\0\0\0\0\x05++"
                                         b"\x01\x0ckinsman1\0\4++\0\0")
        found = lm.Load.parse(wide)
        self.assertEqual((found.identities, found.counted, found.kin),
                         ([b"identity"], {b"submitte": 5}, {b"kinsman1": 4}))
        with self.assertRaisesRegex(lm.WireError, "version 2"):
            lm.Load.parse(packet[:4] + b"\x02" + packet[5:])

    def test_hostile(self):
        packet = some_load().encode()
        for name in ("kb_sum", "cpu_ms_sum"):
            for value in (math.nan, math.inf, -math.inf, -1.0):
                with self.subTest(name, value=value), self.assertRaisesRegex(lm.WireError, "speed"):
                    lm.Load.parse(patched(packet, name, value))
        self.assertEqual(lm.Load.parse(patched(packet, "slots", 77)).slots, 77)
        header = packet[:self.HEADER]
        rows = [b"", b"dlm\x01", b"xlm\x01" + packet[4:], packet + b"\0" * lm.UDP_MAX_BYTES,
                header + b"\x01\x07identit\0\0\0\0",
                header + b"\xff\xff", header + b"\x01\0\0\0\0\0", header + b"\0\0\xff\0\0\0"]
        for size in (0, self.HEADER - 1, len(packet) + 1, 65535):
            rows.append(packet[:6] + struct.pack("!H", size) + packet[8:])
        for row in rows:
            with self.subTest(row), self.assertRaises(lm.WireError):
                lm.Load.parse(row)

    def test_fuzz(self):
        rng = random.Random(4)
        packet = some_load().encode()
        for _ in range(3000):
            bad = bytearray(packet)
            for _ in range(rng.randint(1, 6)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            with self.subTest(row=bytes(bad)):
                try:
                    found = lm.Load.parse(bytes(bad[:rng.choice((len(bad), rng.randrange(len(bad))))]))
                except lm.WireError:
                    continue
                self.assertTrue(0 <= found.kb_sum < math.inf and 0 <= found.foreign < 656)


# ---- endpoints and host lists

ENDPOINTS = (
    # text, (host, port) or a word of the refusal
    ("build2", ("build2", 3632)), ("build2:99", ("build2", 99)), ("10.0.0.1", ("10.0.0.1", 3632)),
    ("::1", ("::1", 3632)),
    ("fe80::1%eth0", ("fe80::1%eth0", 3632)), ("[::1]", ("::1", 3632)), ("[::1]:0", ("::1", 0)),
    ("h:65535", ("h", 65535)),
    ("[fe80::1%2]:7", ("fe80::1%2", 7)),
    ("", "no host"), (":99", "no host"), ("[]", "no host"), ("a b", "no host"), ("a\nb", "no host"), ("a\0", "no host"),
    ("h:65536", "65535"), ("h:x", "number"), ("h:-1", "number"), ("h:+1", "number"), ("h:1_0", "number"),
    ("h:\u0661", "number"),
    ("[::1", "ADDRESS"), ("[::1]99", "ADDRESS"), ("[::1]:x", "number"),
)

HOST_WORDS = (
    # word, (host, port, slots), "-": passed over with a warning, "": passed over, or "!": the list is refused
    ("h", ("h", 3632, 4)), ("h/8", ("h", 3632, 8)), ("h=8", ("h", 3632, 8)), ("h:99", ("h", 99, 4)),
    ("h:99/8", ("h", 99, 8)),
    ("h/8:99", ("h", 99, 8)), ("h=8:99", ("h", 99, 8)), ("[::1]", ("::1", 3632, 4)), ("[::1]:9/2", ("::1", 9, 2)),
    ("[::1]/2:9", ("::1", 9, 2)), ("[::1]/2", ("::1", 3632, 2)), ("127.0.0.1/1", ("127.0.0.1", 3632, 1)),
    ("h,lzo", ("h", 3632, 4)), ("h:9/3,lzo", ("h", 9, 3)),
    ("localhostess", ("localhostess", 3632, 4)), ("h/9999", ("h", 3632, 9999)), ("localhost:9", ("localhost", 9, 4)),
    ("localhost", ""), ("localhost/2", ""), ("localhost,lzo", ""), ("localhost=2", ""), ("+zeroconf", "-"),
    ("--randomize", ""), ("--localslots=3", ""), ("--localslots_cpp=3", ""), ("@h", "-"),
    ("me@h/3:/usr/bin/distccd", "-"),
    ("me@h,lzo", "-"), ("h,down", ""), ("h,auth", "-"), ("h,auth=name", "-"), ("h,lzo,down", ""),
    ("--localslots", "!"), ("--localslots=0", "!"), ("--localslots_cpp=x", "!"), ("--random", "!"),
    ("localhost/0", "!"),
    ("h/0", "!"), ("h/-1", "!"), ("h/x", "!"), ("h/", "!"), ("h=", "!"), ("h/1/2", "!"), ("h,zip", "!"), ("h,", "!"),
    ("h,LZO", "!"), ("h,lzo2", "!"), ("h,authx", "!"), ("h:x", "!"), ("h/3:x", "!"), ("/3", "!"), ("h/\u0663", "!"),
    ("h/10000", "!"), ("[::1", "!"), (",lzo", "!"), ("h,auth,zip", "!"), ("h,down,zip", "!"),
)


class HostLists(unittest.TestCase):
    def test_endpoints(self):
        for text, wanted in ENDPOINTS:
            with self.subTest(text):
                if isinstance(wanted, tuple):
                    found = lm.parse_endpoint(text)
                    self.assertEqual(tuple(found), wanted)
                    self.assertEqual(tuple(lm.parse_endpoint(str(found))), wanted)
                else:
                    with self.assertRaisesRegex(lm.UsageError, wanted):
                        lm.parse_endpoint(text)
        self.assertEqual(lm.parse_endpoint("h", 5), ("h", 5))
        self.assertEqual(str(lm.Endpoint(("::1", 3632))), "[::1]:3632")

    def test_words(self):
        for word, wanted in HOST_WORDS:
            with self.subTest(word):
                if wanted == "!":
                    with self.assertRaises(lm.UsageError) as caught:
                        lm.HostList(word)
                    self.assertNotIn("\n", str(caught.exception))
                    continue
                listing = lm.HostList("first %s # %s,bad" % (word, word))
                found = [(*entry.endpoint, entry.slots) for entry in listing.entries]
                self.assertEqual(found, [("first", 3632, 4)] + ([wanted] if isinstance(wanted, tuple) else []))
                self.assertEqual([word in warning for warning in listing.warnings], [True] if wanted == "-" else [])

    def test_lists(self):
        listing = lm.HostList("# all\na/2 b\tc # d\n\n  e,lzo\n#f\n--randomize localhost/3 g,cpp,lzo\n"
                              "--localslots=7 --localslots_cpp=9")
        self.assertEqual([entry.word for entry in listing.entries], ["a/2", "b", "c", "e,lzo", "g,cpp,lzo"])
        self.assertEqual([entry.lzo for entry in listing.entries], [False, False, False, True, True])
        self.assertEqual((listing.localhost, listing.localslots, listing.localslots_cpp), (3, 7, 9))
        self.assertRegex(listing.warnings[0], "g,cpp,lzo: used without pump")
        self.assertRegex(lm.HostList("me@h").warnings[0], "ssh -fNL")
        listing = lm.HostList(" \n#x localhost")
        self.assertEqual((listing.entries, listing.warnings, listing.localhost), ([], [], None))

    def test_plain_address(self):
        for text, wanted in (("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"),
                             ("2001:0DB8::0001", "2001:db8::1")):
            self.assertEqual(lm.plain_address(text), wanted)

    def test_sockets(self):
        for uid, environ, wanted in (
                (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, ("/run/distcc_lm/socket",)),
                (5, {"XDG_RUNTIME_DIR": "/r"}, ("/r/distcc_lm.socket", "/tmp/distcc_lm-5/socket",
                                                "/run/distcc_lm/socket")),
                (5, {"TMPDIR": "/t"}, ("/tmp/distcc_lm-5/socket", "/run/user/5/distcc_lm.socket",
                                       "/run/distcc_lm/socket")),
                (5, {"XDG_RUNTIME_DIR": ""}, ("/tmp/distcc_lm-5/socket", "/run/user/5/distcc_lm.socket",
                                              "/run/distcc_lm/socket"))):
            self.assertEqual(lm.default_sockets(uid, environ), wanted)


# ==== Section 4: commands ===========================================================================================

# compiler, arguments (sh quoting) | local REASON, or OUTPUT [d=DEPFILE] [x=LANGUAGE]
COMMANDS = """
gcc -c t.c                                      | t.o x=c
gcc -c sub/t.c                                  | t.o x=c
gcc -c sub/t.c -o sub/t.o                       | sub/t.o
gcc -osub/t.o -c sub/t.c                        | sub/t.o
gcc -c t.c -o /dev/null                         | /dev/null
gcc -c a.b.c                                    | a.b.o
gcc -S t.c                                      | t.s
gcc -S -c t.c                                   | t.s
gcc -c -S t.c                                   | t.s
gcc -c t.i                                      | t.o x=cpp-output
gcc -c t.cc                                     | t.o x=c++
gcc -c t.cpp                                    | t.o x=c++
gcc -c t.cxx                                    | t.o x=c++
gcc -c t.cp                                     | t.o x=c++
gcc -c t.c++                                    | t.o x=c++
gcc -c t.C                                      | t.o x=c++
gcc -c t.CPP                                    | t.o x=c++
gcc -c t.ii                                     | t.o x=c++-cpp-output
gcc -c t.m                                      | t.o x=objective-c
gcc -c t.mi                                     | t.o x=objective-c-cpp-output
gcc -c t.mm                                     | t.o x=objective-c++
gcc -c t.M                                      | t.o x=objective-c++
gcc -c t.mii                                    | t.o x=objective-c++-cpp-output
gcc -c t.S                                      | t.o x=assembler-with-cpp
g++ -c t.c                                      | t.o x=c++
g++ -c t.i                                      | t.o x=c++-cpp-output
g++ -x c -c t.c                                 | t.o x=c
gcc -x c -c t.txt                               | t.o x=c
gcc -xc -c t.txt                                | t.o x=c
gcc -xc++ -c t.c                                | t.o x=c++
gcc -x c++ -x c -c t                            | t.o x=c
gcc -x c++ -x none -c t.c                       | t.o x=c
gcc -c t.c -x c++                               | t.o x=c
gcc --language=c++ -c t.c                       | t.o x=c++
gcc --language c++ --compile t.c                | t.o x=c++
gcc -c t.c --output=x.o                         | x.o
gcc -c t.c --output x.o                         | x.o
gcc -c 'a b,c".c'                               | 'a b,c".o'
gcc -c ../x/t.c                                 | t.o
gcc -c /abs/t.c                                 | t.o
gcc -x c -c /dev/null -o n.o                    | n.o
gcc t.c                                         | local link
gcc t.o -o t                                    | local link
gcc t.c -o t                                    | local link
gcc -shared t.o                                 | local link
gcc -E t.c                                      | local preprocess
gcc -E -c t.c                                   | local preprocess
gcc -E -dM -x c /dev/null                       | local preprocess
gcc --preprocess t.c                            | local preprocess
gcc -M t.c                                      | local dependencies
gcc -MM -c t.c                                  | local dependencies
gcc -M -MF x.d t.c                              | local dependencies
gcc --version                                   | local query
gcc -v                                          | local query
gcc                                             | local query
gcc -dumpmachine                                | local query
gcc -dumpversion                                | local query
gcc -print-search-dirs                          | local query
gcc -print-file-name=x                          | local query
gcc --print-file-name=x                         | local query
gcc --help=target                               | local query
gcc -### -c t.c                                 | local verbose
gcc -v -c t.c                                   | local verbose
gcc -H -c t.c                                   | local verbose
gcc -Q -c t.c                                   | local verbose
gcc -fsyntax-only t.c                           | local syntax-only
gcc -fsyntax-only -c t.c                        | local syntax-only
gcc -c                                          | local no-input
gcc -c a.c b.c                                  | local several-inputs
gcc -c a.c b.o                                  | local several-inputs
gcc -c -                                        | local stdin
gcc -x c -c -                                   | local stdin
gcc -x c -c /dev/stdin                          | local stdin
gcc -c t.c -o -                                 | local stdout
gcc -c t.c -o a.o -o b.o                        | local two-outputs
gcc -c t.c -o t.c                               | local same-file
gcc -c t.c -o                                   | local missing-value
gcc -c t.c -I                                   | local missing-value
gcc -c t.f90                                    | local suffix
gcc -c t.rs                                     | local suffix
gcc -c t                                        | local suffix
gcc -c c                                        | local suffix
gcc -c t.s                                      | local assembler
gcc -x assembler -c t.c                         | local assembler
gcc -x assembler-with-cpp -c t.c                | t.o x=assembler-with-cpp
gcc -S t.S                                      | local other-result
gcc -g -c t.S                                   | local assembler-debug
gcc -g -g0 -c t.S                               | t.o
gcc -x f77 -c t.c                               | local language
gcc -x go -c t.c                                | local language
gcc -x c-header -c t.h                          | local pch
gcc -x c++-header t.h -c -o t.h.gch             | local pch
gcc -c t.h                                      | local pch
gcc -c t.hpp                                    | local pch
clang -x cuda -c t.cu                           | local offload
clang -include-pch t.pch -c t.c                 | local pch
gcc -fpch-preprocess -c t.c                     | local cpp-output
gcc -march=native -c t.c                        | local native
gcc -mtune=native -c t.c                        | local native
gcc -mcpu=native -c t.c                         | local native
gcc -march=haswell -mtune=generic -c t.c        | t.o
gcc --coverage -c t.c                           | local profile
gcc -coverage -c t.c                            | local profile
gcc -fprofile-arcs -c t.c                       | local profile
gcc -ftest-coverage -c t.c                      | local profile
gcc -fprofile-generate -c t.c                   | local profile
gcc -fprofile-generate=x -c t.c                 | local profile
gcc -fprofile-use -c t.c                        | local profile
gcc -fauto-profile=x -c t.c                     | local profile
gcc -fbranch-probabilities -c t.c               | local profile
gcc -fno-profile-arcs -c t.c                    | t.o
clang -fprofile-instr-generate -c t.c           | local profile
clang -fprofile-instr-use=x -c t.c              | local profile
clang -fcoverage-mapping -c t.c                 | local profile
clang -fcs-profile-generate -c t.c              | local profile
gcc -gsplit-dwarf -c t.c                        | local split-dwarf
gcc -save-temps -c t.c                          | local save-temps
gcc -save-temps=obj -c t.c                      | local save-temps
gcc --save-temps -c t.c                         | local save-temps
gcc -fstack-usage -c t.c                        | local side-file
gcc -fcallgraph-info -c t.c                     | local side-file
gcc -fcallgraph-info=su,da -c t.c               | local side-file
gcc -fdump-tree-all -c t.c                      | local dump
gcc -fdump-rtl-expand=x -c t.c                  | local dump
gcc -dA -c t.c                                  | local dump
gcc -dr -c t.c                                  | local dump
gcc -fcompare-debug -c t.c                      | local dump
gcc -fopt-info-vec -c t.c                       | local side-file
gcc -fsave-optimization-record -c t.c           | local side-file
clang -foptimization-record-file=x -c t.c       | local side-file
clang -ftime-trace -c t.c                       | local side-file
clang -MJ x.json -c t.c                         | local side-file
clang -MJx.json -c t.c                          | local side-file
clang -serialize-diagnostics x.dia -c t.c       | local side-file
clang --serialize-diagnostics x.dia -c t.c      | local side-file
clang -index-store-path x -c t.c                | local side-file
gcc -fdeps-format=p1689r5 -c t.cc               | local side-file
gcc -aux-info x.c -c t.c                        | local side-file
gcc -dumpbase x.c -c t.c                        | local side-file
gcc -fmodules-ts -c t.cc                        | local modules
clang -fmodules -c t.c                          | local modules
clang -fcxx-modules -c t.cc                     | local modules
clang -fmodule-file=x.pcm -c t.cc               | local modules
clang -fprebuilt-module-path=x -c t.cc          | local modules
clang -gmodules -c t.c                          | local modules
clang --precompile -c t.cppm                    | local other-result
clang -c t.cppm                                 | local modules
gcc -fplugin=x.so -c t.c                        | local plugin
gcc -fplugin-arg-x-y -c t.c                     | local plugin
clang -fpass-plugin=x -c t.c                    | local plugin
clang -Xclang -load -Xclang x.so -c t.c         | local plugin
clang -Xclang -ast-dump -c t.c                  | local cc1-option
clang -Xclang -disable-O0-optnone -c t.c        | t.o
clang -mllvm -inline-threshold=5 -c t.c         | t.o
clang -mllvm -print-after-all -c t.c            | local cc1-option
gcc -specs=x -c t.c                             | local specs
gcc --specs=x -c t.c                            | local specs
gcc -specs x -c t.c                             | local specs
gcc -wrapper gdb,--args -c t.c                  | local wrapper
gcc -B/x -c t.c                                 | local toolchain
gcc -B x -c t.c                                 | local toolchain
gcc --prefix=x -c t.c                           | local toolchain
clang --config x -c t.c                         | local toolchain
clang -working-directory=x -c t.c               | local toolchain
gcc -Wa,-adhln=x.lst -c t.c                     | local listing
gcc -Wa,-al,--noexecstack -c t.c                | local listing
gcc -Wa,--MD,x.d -c t.c                         | local listing
gcc -Xassembler -al -c t.c                      | local listing
gcc -Wa,-Ix -c t.c                              | local assembler-option
gcc -Wa,-g -c t.c                               | local assembler-option
gcc -Wa,--noexecstack -c t.c                    | t.o
gcc -Wa,-mrelax-relocations=no,--defsym,a=1 -c t.c | t.o
gcc -Xassembler --noexecstack -c t.c            | t.o
gcc -c conftest.c                               | local conftest
gcc -c /tmp/tmp.conftest.c -o x.o               | local conftest
clang -arch x86_64 -arch arm64 -c t.c           | local multiple-arch
clang -arch x86_64 -c t.c                       | t.o
gcc -frepo -c t.cc                              | local repository
gcc -C -c t.c                                   | local cpp-output
gcc -P -c t.c                                   | local cpp-output
gcc -dM -c t.c                                  | local dump
gcc -fdirectives-only -c t.c                    | local cpp-output
gcc -no-integrated-cpp -c t.c                   | local cpp-output
gcc -fdiagnostics-format=json -c t.c            | local diagnostics-format
gcc -fdiagnostics-format=sarif-file -c t.c      | local diagnostics-format
gcc -fdiagnostics-format=text -c t.c            | t.o
clang -fthinlto-index=x -c t.bc                 | local reads-file
clang -fsanitize-ignorelist=x -c t.c            | local reads-file
clang -fxray-attr-list=x -c t.c                 | local reads-file
clang -fembed-bitcode -c t.c                    | local records-command
clang -frecord-command-line -c t.c              | local records-command
gcc -frecord-gcc-switches -c t.c                | t.o
gcc -S -g t.c                                   | local debug-text
gcc -fsanitize=undefined -c t.c                 | t.o
gcc -fsanitize=undefined -fopenmp -c t.c        | local sanitizer
clang -fsanitize=address -c t.c                 | local sanitizer
clang -fsanitize=thread,fuzzer -c t.c           | t.o
clang -fsanitize=address -c t.i                 | t.o
gcc -G 8 -c t.c                                 | t.o
gcc -Wp,-MF -c t.c                              | local missing-value
clang -mllvm=-print-after-all -c t.c            | local cc1-option
clang -mllvm=-inline-threshold=3 -c t.c         | local cc1-option
gcc -c .c                                       | local suffix
clang -c sub/.c -o x.o                          | local suffix
gcc -x c -c .c -o x.o                           | x.o
gcc -c ..c                                      | ..o
gcc -g -femit-struct-debug-baseonly -c t.c      | local debug-source
gcc -femit-struct-debug-detailed=ind:base -c t.c | local debug-source
clang -g -fdebug-macro -c t.c                   | local debug-source
clang -g -fno-debug-macro -c t.c                | t.o
gcc -g -fdebug-prefix-map=/w= -c t.c            | local folder-name
gcc -ffile-prefix-map=/w= -g1 -c t.c            | local folder-name
gcc -g -fdebug-prefix-map=/w=x -fdebug-prefix-map=x= -c t.c | local folder-name
gcc -ffile-prefix-map=/w= -c t.c                | t.o
gcc -g -ffile-prefix-map=/w/= -c t.c            | t.o
gcc -g -fdebug-prefix-map=/w=. -c t.c           | t.o
gcc -g -fmacro-prefix-map=/w= -c t.c            | t.o
gcc -g -fdebug-prefix-map=/w= -c t.i            | t.o
clang -g -fdebug-prefix-map=/w= -c t.c          | t.o
clang -grecord-command-line -c t.c              | local records-command
clang -gembed-source -c t.c                     | local needs-source
gcc -fverbose-asm -S t.c                        | local needs-source
gcc -fverbose-asm -c t.c                        | t.o
clang -emit-llvm -c t.c                         | local other-result
clang --analyze t.c                             | local link
clang -cc1 -c t.c                               | local toolchain
gcc -foffload=nvptx-none -c t.c                 | local offload
clang -fopenmp-targets=x -c t.c                 | local offload
clang --driver-mode=g++ -c t.c                  | local language
gcc -ftime-report -c t.c                        | local report
gcc --unheard-of -c t.c                         | local option
gcc -qopenmp -c t.c                             | local option
gcc -fnew-option=/etc/passwd -c t.c             | local value
gcc -Wp,-Wall -c t.c                            | local preprocessor-option
gcc -Wp,-E -c t.c                               | local preprocessor-option
clang -Wp,-fwrapv -c t.c                        | local preprocessor-option
clang -Xpreprocessor -fopenmp -c t.c            | local preprocessor-option
clang -Xpreprocessor -DX -c t.c                 | t.o
clang -Rpass=inline -c t.c                      | local report
clang -Weverything -c t.c                       | local comments
clang -Wdocumentation-html -c t.c               | local comments
clang -fopenmp -g -c t.c                        | local sanitizer
clang -fopenmp -c t.c                           | t.o
gcc -fopenmp -g -c t.c                          | t.o
gcc @missing -c                                 | local at-file
gcc -include foo.c -c t.c                       | t.o
gcc -includefoo.c -c t.c                        | t.o
gcc --include=foo.c -c t.c                      | t.o
gcc --include foo.c -c t.c                      | t.o
gcc -imacros foo.c -c t.c                       | t.o
gcc --param x.c -c t.c                          | t.o
gcc --param=x.c -c t.c                          | t.o
gcc -isystem d.c -c t.c                         | t.o
gcc -iquote d.c -c t.c                          | t.o
gcc -idirafter d.c -c t.c                       | t.o
gcc -imultilib d.c -c t.c                       | t.o
gcc --sysroot x.c -c t.c                        | t.o
gcc -isysroot x.c -c t.c                        | t.o
gcc -I x.c -L y.c -D z.c -U w.c -c t.c          | t.o
gcc -Xlinker x.c -u y.c -z z.c -T w.c -c t.c    | t.o
clang -target x.c -c t.c                        | t.o
gcc -Xpreprocessor -DX=y.c -c t.c               | t.o
gcc -MD -c t.c                                  | t.o d=t.d
gcc -MMD -c t.c                                 | t.o d=t.d
gcc -MD -c sub/t.c                              | t.o d=t.d
gcc -MD -c sub/t.c -o out/x.o                   | out/x.o d=out/x.d
gcc -MD -c t.c -o x                             | x d=x.d
gcc -MD -c t.c -o x.y/z                         | x.y/z d=x.y/z.d
gcc -MD -c t.c -o x.y.o                         | x.y.o d=x.y.d
gcc -MD -c t.c -o /dev/null                     | /dev/null d=/dev/null.d
gcc -MD -MF d.dep -c t.c                        | t.o d=d.dep
gcc -MD -MFd.dep -c t.c                         | t.o d=d.dep
gcc -MD -MF a -MF b -c t.c                      | t.o d=b
gcc -MD -MF x.c -c t.c                          | t.o d=x.c
gcc -MD -MT x.c -MQ y.c -MQz.c -c t.c           | t.o d=t.d
gcc --write-dependencies -c t.c                 | t.o d=t.d
gcc -Wp,-MD,f -c t.c                            | t.o d=f
gcc -Wp,-MMD,f,-MT,x -c t.c                     | t.o d=f
gcc -MD -Wp,-MMD,f -c t.c                       | t.o d=f
gcc -MD -MF a -Wp,-MF,b -c t.c                  | t.o d=b
gcc -Xpreprocessor -MD -Xpreprocessor f -c t.c  | t.o d=f
clang -Wp,-MD,f -c t.c -o z.o                   | z.o d=f
clang -Wp,-MD,f,-MT,x -c t.c                    | local dependency-form
clang -Wp,-DX -c t.c                            | t.o
gcc -MD -MF - -c t.c                            | local stdout
gcc -MD -c t.i                                  | t.o
clang -MD -c t.i                                | local preprocessed-dependencies
clang -DX -c t.i                                | local preprocessed-warning
gcc -DX -c t.i                                  | t.o
clang -target x -fdebug-compilation-dir x.c -c t.c | t.o
"""

# basename -> family_of
COMPILER_NAMES = {
    "gcc": ("gcc", False), "cc": ("gcc", False), "c++": ("gcc", True), "g++-12": ("gcc", True),
    "gcc-4.9": ("gcc", False),
    "x86_64-linux-gnu-g++-12": ("gcc", True), "arm-none-eabi-gcc": ("gcc", False), "clang++-14": ("clang", True),
    "clang-14": ("clang", False), "armv7a-linux-androideabi21-clang++": ("clang", True),
    "x86_64-w64-mingw32-c++": ("gcc", True),
    "aarch64-linux-gnu-gcc-10.2.0": ("gcc", False), "rustc": None, "gcc-ar": None, "clang-format": None,
    "gcc-ar-12": None,
    "clang-cl": None, "": None, "-": None, "12": None, "gcc-": None, "ccache": None, "clang-tidy-14": None, "cpp": None,
}


OWN_HEADER = b"/usr/lib/gcc/x86_64-linux-gnu/12/include/xmmintrin.h"


def analyzed(line, environ=None, read=None):
    compiler, *args = shlex.split(line)
    family, cxx = lm.family_of(compiler)
    return lm.analyze(args, family, cxx, environ or {}, read)


def refuse_read(path):
    raise FileNotFoundError(path)


class Commands(unittest.TestCase):
    def test_rows(self):
        lines = [line for line in COMMANDS.splitlines() if line]
        self.assertGreaterEqual(len(lines), 150)
        for line in lines:
            command, _, wanted = line.rpartition("|")
            with self.subTest(command):
                try:
                    found = analyzed(command)
                except lm.RunLocally as refusal:
                    self.assertTrue(str(refusal))
                    self.assertEqual("local " + refusal.name, wanted.strip())
                    continue
                output, *fields = shlex.split(wanted)
                fields = dict(field.split("=", 1) for field in fields)
                self.assertEqual(found.output, output)
                self.assertEqual(found.depfile, fields.get("d"))
                if "x" in fields:
                    self.assertEqual(found.language, fields["x"])
                for mode in ("plain", "directives"):
                    self.assertServed(command, found, mode)

    def assertServed(self, line, command, mode):
        """Our server takes whatever our client sends."""
        cxx = lm.family_of(line.split()[0])[1]
        args = command.remote_args(mode, "/work")
        served, name, kind = lm.serve_args(args, command.family, cxx)
        self.assertEqual(kind, lm.STAGE_2[command.language][0])
        self.assertEqual(served[-4:], [command.assemble, "-x", kind, name])
        if not command.own_only:
            other = lm.serve_args(command.remote_args("plain", "/work", own=False), command.family, cxx)
            self.assertEqual(other[2], kind)

    def test_names(self):
        for name, wanted in COMPILER_NAMES.items():
            with self.subTest(name):
                self.assertEqual(lm.family_of(name), wanted)

    def test_heavy(self):
        for line, heavy in (("gcc -E t.c", False), ("gcc -M t.c", False), ("gcc --version", False), ("gcc t.c", True),
                            ("gcc -fsyntax-only t.c", True), ("gcc -c a.c b.c", True), ("gcc -v", False)):
            with self.subTest(line), self.assertRaises(lm.RunLocally) as caught:
                analyzed(line)
            self.assertIs(caught.exception.heavy, heavy)

    def test_at_files(self):
        files = {"a": b"-c 'x y.c' -D\"A B\"=\\'q\\\\ \n\t@b", "b": b"-O2 @a2", "a2": b"", "loop": b"@loop",
                 "n": b"-c\0-E"}

        def read(path):
            try:
                return files[path]
            except KeyError:
                raise FileNotFoundError(path) from None
        expand = lm.expand_at_files
        self.assertEqual(expand(["-g", "@a"], read), ["-g", "-c", "x y.c", "-DA B='q\\", "-O2"])
        self.assertEqual(expand(["@none", "@"], read), ["@none", "@"])
        self.assertEqual(expand(["@n"], read), ["-c"])
        with self.assertRaises(lm.RunLocally) as caught:
            expand(["@loop"], read)
        self.assertEqual(caught.exception.name, "at-file")
        self.assertEqual(analyzed("gcc @a", read=read).source, "x y.c")
        with self.assertRaises(lm.RunLocally):
            analyzed("gcc -c @zz", read=refuse_read)

    def test_environment(self):
        for environ, wanted in (({"GCC_EXEC_PREFIX": "x"}, True), ({"COMPILER_PATH": "x"}, True),
                                ({"LD_PRELOAD": ""}, False),
                                ({"CCC_OVERRIDE_OPTIONS": "x"}, True), ({"LD_PRELOAD": "/usr/lib/libfoo.so"}, True),
                                ({"LD_PRELOAD": "libfakeroot-sysv.so:/x/libeatmydata.so.1"}, False),
                                ({"LD_PRELOAD": "libfakeroot-sysv.so x.so"}, True), ({"PATH": "x"}, False)):
            with self.subTest(environ):
                self.assertEqual(bool(lm.environment_refusal(environ)), wanted)

    def test_dependencies_output(self):
        found = analyzed("gcc -c t.c -o x.o", {"DEPENDENCIES_OUTPUT": "f a b"})
        self.assertEqual((found.depfile, found.depfile_appended), ("f", True))
        self.assertEqual(found.preprocess_environ("/t"), {"DEPENDENCIES_OUTPUT": "/t a b"})
        found = analyzed("gcc -MD -c t.c", {"DEPENDENCIES_OUTPUT": "f"})
        self.assertEqual((found.depfile, found.depfile_appended), ("t.d", False))
        self.assertEqual(found.preprocess_environ("/t"), {})
        self.assertIsNone(analyzed("clang -c t.c", {"DEPENDENCIES_OUTPUT": "f"}).depfile)

    def test_content(self):
        gcc, clang = analyzed("gcc -c t.c"), analyzed("clang -c t.c")
        raw, raw_debug = analyzed("gcc -c t.i"), analyzed("gcc -g -c t.i")
        pragma = b'# 1 "t.c"\n#pragma GCC target("avx2")\nint x;\n'
        for text, command, wanted in (
                (b"", gcc, None), (pragma, gcc, "target-pragma"), (pragma, clang, None),
                (pragma.replace(b"target", b"optimize"), gcc, "target-pragma"),
                (b'# 1 "t.c"\n# 1 "x.h" 1 3 4\n' + pragma[10:], gcc, "target-pragma"),
                (b'# 1 "t.c"\n# 1 "%s" 1 3 4\n' % OWN_HEADER + pragma[10:], gcc, None),
                (b'# 1 "t.c"\n# 1 "%s" 1 3 4\nint y;\n# 2 "t.c" 2\n' % OWN_HEADER + pragma[10:],
                 gcc, "target-pragma"),
                (b'#pragma GCC diagnostic push\nGCC tar', gcc, None),
                (b"int a = __builtin_LINE();", gcc, "place"), (b"f(__builtin_FILE());", clang, "place"),
                (b"#pragma pack(1)\n", clang, "include-warning"), (b"#pragma pack(1)\n", gcc, None),
                (b"#pragma pack(push, 1)\nint x;\n#pragma pack(pop)\n", clang, None),
                (b"#pragma pack(push, 1)\nint x;\n#pragma pack()\n", clang, "include-warning"),
                (b'# 1 "t.c"\n# 1 "x.h" 1 3 4\n#pragma pack(2)\nint *_Nullable x;\n', clang, None),
                (b"int *_Nullable x;\n", clang, "include-warning"), (b"f(__builtin_FILE());", gcc, None),
                (b'# 0 "t.c"\nint a = __builtin_COLUMN();', raw, None),
                (b'asm(".incbin \\"x\\"");', gcc, "incbin"), (b'asm("\\t.include \\"x\\"");', clang, "incbin"),
                (b"\n.include \"x\"\n", gcc, "incbin"), (b'v.include(3); # 1 "a.inc"\n', gcc, None),
                (b"a. include", gcc, None),
                (b'# 1 "t.c"\n#pragma GCC pch_preprocess "x"\n', gcc, "pch"),
                (b"int x; \\", clang, "last-line"), (b"int x; \\\n", gcc, "last-line"),
                (b"\\ \n\n", clang, "last-line"), (b'a = "\\"\n', clang, None),
                (b"int x;\n", raw, "no-line-markers"), (b'# 0 "t.c"\nint x;\n', raw, None),
                (b'# 0 "t.c"\nint x;\n', raw_debug, "preprocessed-folder"),
                (b'# 0 "t.c"\nint x;\n', analyzed("gcc -flto -c t.i"), "preprocessed-folder"),
                (b'# 0 "t.c"\n# 1 "/w//"\nint x;\n', raw_debug, None)):
            with self.subTest(text):
                found = lm.content_refusal(text, command)
                self.assertEqual(found and found[0], wanted)
    def test_odd_files(self):
        """What has a file or header not go through -fdirectives-only, and what does not."""
        for text, odd in (
                (b'#define DO(x) _Pragma(#x)\n', True), (b"#define DO(x) _Pragma (x)", True),
                (b'# define w1(message) _Pragma (#message)\n', False),
                (b'_Pragma("GCC ivdep")', False), (b"pragmatic", False), (b"#pragma once\n", False),
                (b'#pragma GCC target("avx2")', True), (b'#pragma GCC\ttarget("avx2")', True),
                (b'#\tpragma GCC  optimize("O3")', True), (b"#pragma\tredefine_extname a b", True),
                (b'_Pragma("GCC target(\\"avx2\\")")', True), (b"", False),
                (b'_Pragma ( "GCC\ttarget(\\"avx2\\")")', True),
                (b'#pragma GCC/**/target("avx2")', True), (b'#pragma GCC \\\ntarget("avx2")', True),
                (b'#pragma /* GCC */ GCC target("avx2")', True),
                (b"#pragma/**/redefine_extname a b", True), (b'#pragma/* */push_macro("X")', True),
                (b"#pragma \\\n  redefine_extname a b", True),
                (b'_Pragma("push_macro(\\"X\\")")', True),
                (b'#pragma GCC diagnostic ignored "-Wall"', False),
                (b'#pragma GCC diagnostic  error "-Wundef"', True),
                (b"#pragma GCC visibility push(hidden)", False)):
            with self.subTest(text):
                self.assertEqual(lm.unremarkable(text), not odd)

    def test_common_headers_are_not_odd(self):
        """Or most sources would do without -fdirectives-only, and cost this box twice as much."""
        names = ["stdio.h", "stdlib.h", "string.h", "errno.h", "sys/socket.h", "pthread.h", "math.h"]
        cxx = ["algorithm", "functional", "iostream", "map", "memory", "numeric", "thread"]
        for compiler, language, headers in (("gcc", "c", names), ("g++", "c++", names + cxx)):
            text = "".join("#include <%s>\n" % name for name in headers)
            done = run([compiler, "-x", language, "-M", write(new_folder() + "/a", text)])
            for path in done.out.decode().replace("\\\n", " ").split()[1:]:
                with self.subTest(path), open(path, "rb") as file:
                    self.assertTrue(lm.unremarkable(file.read()))

    def test_odd_folders(self):
        """gcc -E escapes the folder's name for debug information, and stage 2 takes that so."""
        for line, folder, local in (
                ("gcc -g -c t.c", "/w\\b", True), ("gcc -g -c t.c", '/w"q', True),
                ("gcc -flto -c t.c", "/w\nn", True), ("gcc -c t.c", "/w\\b", False),
                ("gcc -g0 -c t.c", "/w\\b", False), ("gcc -g -c t.i", "/w\\b", False),
                ("gcc -g -c t.c", "/w 'x\udcff$", False), ("clang -g -c t.c", '/w\\"\n', False)):
            with self.subTest((line, folder)):
                compiler, *args = line.split()
                try:
                    lm.analyze(args, compiler, False, {}, None, folder)
                    self.assertFalse(local)
                except lm.RunLocally as refusal:
                    self.assertEqual((refusal.name, local), ("folder-name", True))

    def test_guards(self):
        """Where a compiler warns of the layout Guards must have seen it in the text."""
        folder, declared = new_folder(), (
            "#include <stdio.h>\n#define EACH(v, a, b) for ((v) = (a); (v) < (b); (v)++)\n"
            "#define TWO(a, b) g(a); g(b)\n#define BOTH(a, b) do { g(a); g(b); } while (0)\n"
            "#define NOTHING\n"
            "int g(int); int f(int x, int y) {\n%s\n  return x + y; }\n")
        for wanted, statements in GUARD_ROWS:
            write(folder + "/a.c", declared % statements.replace(">", "\t").replace("<\t", "<"))
            for compiler in filter(shutil.which, ("gcc", "clang")):
                with self.subTest((compiler, statements)):
                    options = "-Wall", "-Wno-unused", "-fsyntax-only"
                    warns = run([compiler, *options, "a.c"], folder).err
                    self.assertEqual(bool(warns), compiler[0] in wanted, warns)
                    command = analyzed(compiler + " -Wall -c a.c")
                    text = run([compiler, *command.preprocess_args("plain")], folder).out
                    found = lm.content_refusal(text, command, read=lambda path: lm.read_file(
                        os.path.join(folder, os.fsdecode(path))))
                    if warns or wanted == "-":
                        self.assertEqual(found and found[0], "layout-warning" if warns else None)

    def test_guards_of_long_texts(self):
        """What a text has many of takes no more time than that."""
        for what, text in (
                ("guards", b"  if (x)\n    for (;;)\n      f(x);\n  f(1);\n" * 6000),
                ("columns", b" if (x)\n  for (;;)\n f(x);\n f(1);\n" * 6000),
                ("guards in a line", b"if (x) { f(x); } " * 60000 + b"\n"),
                ("statements in a line", b"if (x) {" + b" f(x);" * 60000 + b" }\n"),
                ("open brackets", b"if (x\n" * 3000)):
            with self.subTest(what):
                text = b'# 1 "a.c"\n# 1 "a.c"\nvoid f(int x) {\n' + text + b"}\n"
                begin = time.process_time()
                lm.Guards(text, lambda path: b"\n  a\n\tb\n" * 6000, True).misleads()
                self.assertLess(time.process_time() - begin, 2)

    def test_bars(self):
        for line, barred in (("gcc -c t.c", False), ("gcc -g3 -c t.c", True), ("gcc -gdwarf-3 -c t.c", False),
                             ("gcc -fopenmp -c t.c", True), ("gcc -fopenmp-simd -c t.c", True), ("gcc -c t.i", True),
                             ("gcc -traditional-cpp -c t.c", True), ("gcc -Wunused-macros -c t.c", True),
                             ("clang -c t.c", True), ("gcc -c t.S", True), ("gcc -c t.m", True),
                             ("gcc -ggdb3 -c t.c", True)):
            with self.subTest(line):
                self.assertEqual(bool(analyzed(line).directives_only_bar), barred)


# Statements of a function, with > for a tab: where gcc (g), clang (c) or both warn of the layout;
# where none does, and Guards sees that (-); where none does, and Guards may err (?).
GUARD_ROWS = (
    ("gc", "  if (x)\n    x = 3;\n    y = 2;"),
    ("-", "  if (x)\n    x = 3;\n  y = 2;"),
    ("gc", "  if (x)\n    x++; y++;"),
    ("g", "  if (x) x++; y++;"),
    ("-", "  x++; if (y) x++; y++;"),
    ("gc", "  if (x)\n    x = 3;\n  else\n    x = 2;\n    y = 2;"),
    ("g", "  if (x) {\n    x = 3;\n  } else\n    x = 2;\n    y = 2;"),
    ("gc", "  while (x < 10)\n    x = g(x);\n    x++;"),
    ("gc", "  for (;x;)\n    y = x;\n    x++;"),
    ("gc", ">if ((x = g(1)) != 0)\n>>goto out;\n>>goto out;\nout:"),
    ("-", ">if ((x = g(1)) != 0)\n>>goto out;\n>goto out;\nout:"),
    ("gc", "  if (x)\n    if (x / 2)\n      {\n        g(0);\n        g(1);\n      }\n"
     "    g(2);\n  g(3);"),
    ("gc", "  if (x)\n    if (y)\n      if (x)\n        g(0);\n        g(2);"),
    ("gc", "  if (x)\n    if (y)\n      if (x)\n        g(0);\n      g(2);"),
    ("gc", "  if (x)\n    if (y)\n      if (x)\n        g(0);\n    g(2);"),
    ("-", "  if (x)\n    if (y)\n      if (x)\n        g(0);\n  g(2);"),
    ("g", "  EACH (x, 0, 10)\n    g(x);\n    g(y);"),
    ("-", "  EACH (x, 0, 10)\n    g(x);\n  g(y);"),
    ("gc", "  while (x)\n    for (;y;)\n      if (x)\n>g(0);\n>g(1);"),
    ("gc", "      if (x)\n>g(0);\n        g(1);"),
    ("gc", "    if (x)\n        g(0);\n>g(1);"),
    ("-", "  while (x)\n    {\n      if (x)\n>g(0);\n      g(1);\n    }"),
    ("-", "    if (x)\n      {\n>if (y)\n>  g(0);\n      }\n    else\n      g(1);\n    g(2);"),
    ("-", "  if (x)\n  g(1);\n  g(2);"),
    ("-", ">      if (x)\n>>g(0);\n  >      g(1);"),
    ("-", "  if (x)\n    g(0);\n  else\n    g(1);;"),
    ("-", "  if (x) return 1; else return 0;"),
    ("-", "  if (x) {\n    if (y) g(0); }\n  g(1);"),
    ("gc", "  while (x);\n    g(0);"),
    ("gc", "  for (;x;);\n    g(2);"),
    ("gc", "  while (x);\n  {\n    g(3);\n  }"),
    ("-", "  while (x);\n  g(2);"),
    ("gc", "  if (x);\n    g(1);"),
    ("c", "  if (x);\n  g(1);"),
    ("-", "  if (x)\n    ;\n  g(1);"),
    ("gc", "  if (x)\n    ;\n  else if (y)\n    g(1);\n    g(2);"),
    ("gc", "  if (x); {\n    g(3);\n  }"),
    ("-", "  do\n    x--;\n  while (x);\n  g(1);"),
    ("-", "  do {\n    x--;\n  } while (x);\n  g(1);"),
    ("-", "  if (x &&\n      y)\n    g(1);\n  g(2);"),
    ("gc", "  if (x &&\n      y)\n    g(1);\n    g(2);"),
    ("-", "  if (x)\n    g(1\n      + 2);\n  g(2);"),
    ("gc", "  if (x)\n    g(1\n      + 2);\n    g(2);"),
    ("-", "  if (x) g(1 +\n         2);\n  g(2);"),
    ("-", "  if (g(sizeof \")\")) g('(');\n  g(')');"),
    ("gc", "  if (g(sizeof \"(\"))\n    g(')');\n    g('\"');"),
    ("-", "  for (x = 0; x < 2; x++)\n    switch (y) {\n    case 1:\n      g(1);\n"
     "      break;\n    case 2:\n      g(2);\n    }\n  g(3);"),
    ("-", "  switch (x) {\n  case 1: if (y) g(1); break;\n  case 2: if (y)\n      g(2);\n"
     "    break;\n  }"),
    ("-", "  if (x)\n    do {\n      g(1);\n    } while (y);\n  g(2);"),
    ("g", "  if (x)\n    TWO(1, 2);"),
    ("-", "  if (x)\n    BOTH(1, 2);\n  g(3);"),
    ("-", "  if (x) BOTH(1, 2);\n  g(3);"),
    ("-", "  if (x)\n    /* not this */\n\n\n\n\n\n\n\n\n\n\n    g(1);\n\n\n\n\n\n\n\n\n\n"
     "\n  g(2);"),
    ("gc", "  if (x)\n    /* not this */\n\n\n\n\n\n\n\n\n\n\n    g(1);\n\n\n\n\n\n\n\n\n\n"
     "\n    g(2);"),
    ("-", "  if (x)\n    return g(1); // so\n  return 2;"),
    ("-", "  if (x) g(1); /* this */ /* that */\n  g(2);"),
    ("?", "  if (x)\n    g(1);\n#if 0\n  if (y)\n#endif\n    g(2);"),
    ("?", "  if (x) NOTHING;\n  g(2);"),
    ("-", "  if (!x)\n    g(1) ; \n\n  if (x == 0 || NULL == stdin)\n    g(EOF);\n  g(2);"),
)

# Arguments of a job | a word of the refusal, or "ok"
SERVED = """
-O2 -c t.c -o t.o                       | ok
-c t.c                                  | ok
-x c -c t -o t.o                        | ok
-x c++ -c t.cc                          | ok
-iquote d -isysroot /x --sysroot=/y -c t.c | ok
-shared -Wl,-z,now -stdlib=libc++ -c t.c   | ok
-fdebug-prefix-map=/a=/b -frandom-seed=a/b.o -c t.c | ok
-Wa,--noexecstack,-mx86-used-note=no -c t.c | ok
-fopenmp -fsanitize=address,undefined -flto=auto -c t.c | ok
-Xclang -disable-O0-optnone -c t.c      | ok
-Xclang -main-file-name -Xclang x -c t.c | table of values
--param max-inline-insns-single=9 --param=ssp-buffer-size=4 -c t.c | ok
-c ../../etc/t.c                        | ok
-c /abs/t.c                             | ok
-MD -c t.c                              | ok
-MF x -c t.c                            | ok
-E t.c                                  | preprocesses
-c t.c u.c                              | source
t.c                                     | source
-c                                      | source
-c ..                                   | name
-c @x                                   | name
-c t.s                                  | language
-c t.S                                  | language
-c t                                    | language
-x assembler-with-cpp -c t.c            | language
-x c-header -c t.c                      | language
-x f77 -c t.c                           | language
-fplugin=x -c t.c                       | plug-in
-fplugin=/x.so -c t.c                   | plug-in
-specs=x -c t.c                         | specs
--specs=x -c t.c                        | specs
-wrapper x -c t.c                       | runs another
-B. -c t.c                              | parts
-include x -c t.c                       | ok
-includex -c t.c                        | ok
-imacros x -c t.c                       | ok
-I. -c t.c                              | ok
-idirafter x -c t.c                     | ok
-iplugindir=x -c t.c                    | plug-in
-Wp,-MD,x -c t.c                        | preprocessor
-Xpreprocessor -MD -c t.c               | ok
-Wa,-adhln=x -c t.c                     | assembler
-Wa,-I/etc -c t.c                       | path
-Wa,--MD=x -c t.c                       | assembler
-Xassembler -al -c t.c                  | table of values
-fdump-tree-all -c t.c                  | dump
-fdump-tree-all=/tmp/x -c t.c           | dump
-save-temps -c t.c                      | -save-temps
-fprofile-use=/x -c t.c                 | profiles
-fauto-profile=x -c t.c                 | profiles
-fprofile-generate -c t.c               | profiles
-fbranch-probabilities -c t.c           | profiles
-fcallgraph-info -c t.c                 | further file
-fstack-usage -c t.c                    | further file
-ftime-trace=x -c t.c                   | further file
-fopt-info=x -c t.c                     | further file
-gsplit-dwarf -c t.c                    | .dwo
-fmodules -c t.c                        | modules
-fmodule-mapper=|x -c t.c               | modules
-fsanitize-blacklist=x -c t.c           | read a
-fsanitize-ignorelist=x -c t.c          | read a
-Xclang -load -Xclang x -c t.c          | table of values
-Xclang -ast-dump -c t.c                | table of values
-mllvm -load=x -c t.c                   | table of values
-mllvm=-load=x -c t.c                   | inner compiler
-fdiagnostics-generate-patch -c t.c     | messages
-fbasic-block-sections=list=x -c t.c    | read a
-march=native -c t.c                    | processor
-dumpdir x -c t.c                       | further file
-dumpbase x -c t.c                      | further file
-aux-info x -c t.c                      | further file
-T x -c t.c                             | ok
-fnew=/etc/passwd -c t.c                | path
-mnew=/etc/passwd -c t.c                | path
-Wnew=/etc/passwd -c t.c                | path
--param x=/y -c t.c                     | table of values
-target ../x -c t.c                     | table of values
-foffload=x -c t.c                      | targets
-fsyntax-only -c t.c                    | object
-fpch-preprocess -c t.c                 | pre
-ftest-coverage --coverage -c t.c       | profiles
-fdiagnostics-format=sarif-file -c t.c  | messages
-v -c t.c                               | ok
-### -c t.c                             | steps
-emit-llvm -c t.c                       | ok
-cc1 -c t.c                             | parts
-fembed-bitcode -c t.c                  | command line
-oa.o -c t.c                            | ok
-c t.c -o                               | value
-xc -c t                                | ok
-x                                      | value
-ObjC -c t.c                            | ok
-iquote. -idirafter. -isysroot/ -imacrosx -includex -c t.c | ok
-A a=b -Aa=b -F. -F . -iprefix . -nolibc -n -N -t -u s -us -T x -Tx -e main -L. -l m -z now -c t.c | ok
--output=x --include=x --define-macro=X --language=c --std c99 --pedantic --ansi --debug --pipe -c t.c | ok
--prefix=/x -c t.c                      | parts
--save-temps -c t.c                     | -save-temps
--write-dependencies -MFx -MTx -c t.c   | ok
-v -H -Q -time --verbose -P -C -CC -c t.c | ok
-dA -dp -S t.c                          | ok
-da -c t.c                              | dumps
-Wa,-g,--gdwarf-4,--statistics -c t.c   | ok
-Wa,-g/x -c t.c                         | path
-Wa,-I. -c t.c                          | assembler
-Wa,--defsym,x=1 -c t.c                 | ok
-Wa,--defsym,@t.c.i -c t.c              | assembler
-Xassembler --defsym -Xassembler @t.c.i -c t.c | table of values
--param @t.c.i -c t.c                   | table of values
--std @t.c.i -c t.c                     | table of values
-G @t.c.i -c t.c                        | table of values
-target @t.c.i -c t.c                   | table of values
-fdebug-compilation-dir @/x -c t.c      | table of values
--std -wrapper -c t.c                   | table of values
-arch -B. -c t.c                        | table of values
-Xpreprocessor -O2 -c t.c               | ok
-rtlib=x --rtlib=x -unwindlib=x -nobuiltininc -c t.c | ok
-fprofile-instr-generate -fcoverage-mapping -Weverything -c t.c | ok
-fprofile-instr-generate=x -c t.c       | profiles
"""


RECIPES = (         # what `gcc -###` prints for a.c, the recipe
    ("Using built-in specs.\nTarget: x\n /usr/lib/cc1 -E -quiet S.c -dumpbase S.c -dumpbase-ext .c\nCOMPILER_PATH=/x\n",
     "/usr/lib/cc1 -E -quiet SOURCE -dumpbase BASE -dumpbase-ext .c"),
    (' /usr/lib/cc1plus -E -D "A=\\"b c\\\\d\\$\\"" "" S.c', '/usr/lib/cc1plus -E -D A="b§c\\d$"  SOURCE'),
    (" /usr/lib/cc1 -E -MD S.d -MF DEPFILE -MQ TARGET S.c", "/usr/lib/cc1 -E -MD S.d -MF DEPFILE -MQ TARGET SOURCE"),
    (" /usr/lib/cc1 -E -MD S.d S.c", "-"),                  # it would write there
    (" /usr/lib/cc1 -E S.c -auxbase S", "-"),
    (" /usr/lib/cc1 -E S.c -o S.i", "-"),
    (" /usr/lib/cc1 -E other.c", "-"),
    (" cc1 -E S.c", "-"), (" /usr/bin/as S.c", "-"), ("", "-"), (" ", "-"), (' "', "-"), (' "\\', "-"),
    (" /usr/lib/cc1 -E S.c\n /usr/bin/as -o x.o x.s", "-"),
    ("gcc: error: unrecognized option\n", "-"),
)


class Recipes(unittest.TestCase):
    def test_rows(self):
        for trace, wanted in RECIPES:
            with self.subTest(trace):
                stand_in = lm.stand_in_for("../x/a.c")
                for name in ("TARGET", "DEPFILE"):
                    trace = trace.replace(name, getattr(lm, "STAND_IN_" + name))
                trace = trace.replace("S.c", stand_in).replace("S.d", lm.STAND_IN_SOURCE + ".d").replace(
                    "S.i", lm.STAND_IN_SOURCE + ".i").replace("auxbase S", "auxbase " + lm.STAND_IN_SOURCE)
                found = lm.make_recipe(trace, stand_in, "plain")
                for name in ("SOURCE", "BASE", "TARGET", "DEPFILE"):
                    wanted = re.sub(r"\b%s\b" % name, getattr(lm, "STAND_IN_" + name), wanted)
                wanted = wanted.replace("S.d", lm.STAND_IN_SOURCE + ".d")
                wanted = "\n".join(wanted.split(" ")).replace("§", " ")
                self.assertEqual(found, wanted)
                if found != lm.NO_RECIPE:
                    self.assertEqual(lm.make_recipe(trace, stand_in, "directives"), wanted + "\n" + lm.AS_FOUND)

    def test_shape(self):
        """What has another command for stage 1 has another shape or other flags; for some there is none."""
        def key(line):
            command = analyzed(line)
            return command.shape, command.flags_key
        same = key("gcc -O2 -c a.c -o x/a.o")
        self.assertEqual(key("gcc -O2 -c sub/b.c -o y/b.o"), same)
        keys = [key(line) for line in ("gcc -O2 -c a.cc -o a.o", "gcc -O2 -c a.c -o a.o -MD", "gcc a.c -O2 -c -o a.o",
                                       "gcc -O2 -c a.c -MD", "gcc -O1 -c a.c", "gcc -O2 -x c++ -c a.c")]
        self.assertEqual(len({same, *keys}), len(keys) + 1, keys)
        for line in ("gcc --sysroot=x -c a.c", "clang -c a.c", "gcc '-DX=\n' -c a.c"):
            self.assertEqual(analyzed(line).shape, "", line)


class ServedArguments(unittest.TestCase):
    def test_rows(self):
        for line in filter(None, SERVED.splitlines()):
            args, _, wanted = line.rpartition("|")
            with self.subTest(args):
                try:
                    found, name, kind = lm.serve_args(shlex.split(args), "gcc")
                except lm.RefusedArgument as refusal:
                    self.assertIn(wanted.strip(), refusal.why)
                    self.assertNotEqual(wanted.strip(), "ok")
                else:
                    self.assertEqual(wanted.strip(), "ok")
                    self.assertNotIn("/", name)
                    self.assertEqual(found[-3:], ["-x", kind, name])
                    self.assertNotIn("-o", found)

    def test_nul(self):
        for args in (["-c", "t\0.c"], ["-c", "t.c", "-o", "x\0"], ["-fdebug-prefix-map=\0", "-c", "t.c"]):
            with self.assertRaises(lm.RefusedArgument):
                lm.serve_args(args, "gcc")

    def test_distcc(self):
        """What distcc 3.4 was seen to send."""
        found = lm.serve_args("-O2 -Wall -c t.c -o t.o".split(), "gcc")
        self.assertEqual(found,
                         (["-O2", "-Wall", "-fno-diagnostics-show-caret", "-c", "-x", "cpp-output", "t.c.i"], "t.c.i",
                                 "cpp-output"))
        for family, caret in (("gcc", "-fdiagnostics-show-caret"), ("clang", "-fcaret-diagnostics")):
            words = lm.serve_args([caret, "-fverbose-asm", "-S", "t.c"], family)[0]
            self.assertGreater(words.index(lm.NO_CARETS[family]), words.index(caret))
            self.assertNotIn("-fverbose-asm", words)
        self.assertEqual(lm.serve_args("-c t.c -target x86_64-pc-linux-gnu".split(), "clang", True)[2],
                         "c++-cpp-output")


# ---- both ways: the two stages by hand against the bare compiler

C_TEXT = """
#include <stdio.h>
#include <assert.h>
#include "h.h"
static int square(int x) { return x * x; }
int main(int argc, char **argv) { printf("%s %d\\n", __FILE__, square(argc) +
  H); return argv[0] == 0; }
"""
CXX_TEXT = """
#include <string>
#include "h.h"
namespace { struct Counter { Counter(); int value; } counter; Counter::Counter() { value = H; } }
static std::string text("x");
int main() { return static_cast<int>(text.size()) + counter.value; }
"""
ASM_TEXT = '#include "h.h"\n#if H\n.globl f\nf: ret\n#endif\n'

# compiler and arguments; environment in front as NAME=VALUE. Files: t.c t.cc s.S h.h sub/{t.c,t.cc,h.h} 'a b$#:.c' out/
BOTH_WAYS = """
gcc -c t.c
gcc -O2 -c sub/t.c
gcc -c sub/t.c -o out/x.o
gcc -g -O1 -c sub/t.c -o out/x.o
gcc -g -c ./sub/../t.c
gcc -g -c $PWD/sub/t.c -o x.o
gcc -g3 -c t.c
gcc -ggdb3 -O2 -c sub/t.c
gcc -gdwarf-4 -gz -c sub/t.c
gcc -g -fno-working-directory -c sub/t.c
gcc -g -fdebug-prefix-map=$PWD=/src -c sub/t.c
gcc -g -ffile-prefix-map=$PWD=. -c $PWD/sub/t.c
gcc -g -fmacro-prefix-map=sub=Q -c sub/t.c
gcc -g -gno-as-loc-support -c sub/t.c
gcc -fsanitize=address,undefined -g -c sub/t.c
gcc -pg -fopenmp -c t.c
gcc -flto -ffat-lto-objects -frandom-seed=1 -c t.c
gcc -flto -frandom-seed=1 -O2 -c sub/t.c
gcc -flto=auto -frandom-seed=1 -g -c t.c
gcc -g -fdebug-prefix-map=$PWD/= -fmacro-prefix-map=$PWD= -c sub/t.c
gcc -g -ffile-prefix-map=/= -c t.c
gcc -frecord-gcc-switches -DX -c t.c
gcc -fverbose-asm -c t.c
gcc -S -O2 sub/t.c
gcc -S sub/t.c -o out/t.s
gcc -std=c99 -pedantic -Wall -Wextra -Werror -c t.c
gcc -finput-charset=latin1 -c t.c
gcc -include h.h -DH2 -UH3 -I. -isystem out -iquote sub -c t.c
gcc -nostdlib -shared -Wl,-z,now -lm -L. -c t.c
gcc -x c++ -c t.cc
gcc -x c -c t.c -o x
gcc -xc++ -g -c sub/t.cc
gcc -c s.S
gcc -DX -O2 -g0 -c s.S -o out/s.o
gcc -Wa,--noexecstack -c s.S
gcc -Wa,--noexecstack,--compress-debug-sections -g -c t.c
gcc -m64 -march=haswell -mtune=generic -O3 -c t.c
gcc -Wp,-D_FORTIFY_SOURCE=2 -O2 -c t.c
gcc -Wp,-MD,f.d -c sub/t.c
gcc -Wp,-MMD,out/f.d,-MT,x,-MP -c sub/t.c -o out/t.o
gcc -Xpreprocessor -MMD -Xpreprocessor f.d -c t.c
gcc -MD -c t.c
gcc -MMD -c sub/t.c
gcc -MD -c sub/t.c -o out/x.o
gcc -MMD -MP -c sub/t.c -o out/x
gcc -MMD -c t.c -o out/x.y.o
gcc -MMD -c t.c -o out.x/z
gcc -MMD -MF out/dep -c t.c -o x.o
gcc -MMD -MFout/dep -MT a -MQ 'b$' -MQ'c d' -c t.c -o x.o
gcc -MMD -MF a -MF b -c t.c
gcc -MMD -MD -c t.c
gcc -MD -MMD -Wp,-MD,f -c t.c
gcc -MMD -MF a -Wp,-MF,b -c t.c -o x.o
gcc -MMD -Wp,-MT,x -c t.c -o x.o
gcc -MMD -c 'a b$#:.c'
gcc -MMD -c t.c -o 'a b$#:.x.o'
gcc -MMD -MP -S t.c
gcc -MMD -S sub/t.c -o out/q.s
gcc -MMD -c s.S -o out/s.o
gcc -MD -MP -include h.h -c t.c
gcc -MMD -MT '' -c t.c
gcc -traditional-cpp -x c -c /dev/null -o x.o
gcc -includeh.h -imacros sub/h.h -c t.c
gcc --include=h.h --define-macro X=1 --output=out/x.o --compile t.c
gcc -MMD -MP -include sub/h.h -c sub/t.c -o out/x.o -Wp,-DX,-U,Y
gcc -g -O2 -fopenmp -pthread -fstack-protector-strong -fno-strict-aliasing -c sub/t.c
gcc -Wsystem-headers -Wunused-macros -c t.c
gcc -c 'q"u,o\te'"'"'.c' -MMD
gcc -MMD -MF 'x y.d' -c 'q"u,o\te'"'"'.c' -o 'o"u,t'"'"'.o'
gcc -MT x -c t.c
DEPENDENCIES_OUTPUT=dep gcc -c sub/t.c
DEPENDENCIES_OUTPUT='dep a b' gcc -c sub/t.c -o x.o
SUNPRO_DEPENDENCIES=dep gcc -c sub/t.c -o x.o
SUNPRO_DEPENDENCIES='dep q' DEPENDENCIES_OUTPUT=dep2 gcc -MP -MT z -c t.c
DEPENDENCIES_OUTPUT=dep gcc -MMD -c t.c
DEPENDENCIES_OUTPUT=dep gcc -MF dep3 -c t.c
g++ -c t.cc
g++ -O2 -g -std=c++17 -c sub/t.cc -o out/x.o -MMD
g++ -g -c t.c
g++ -c -x c t.c
g++ -fPIC -fvisibility=hidden -fno-rtti -flto -frandom-seed=2 -c t.cc
g++ -S sub/t.cc
g++ -fsanitize=address -g -c sub/t.cc
clang -c t.c
clang -O2 -c sub/t.c -o out/x.o
clang -g -c t.c
clang -g -O2 -c sub/t.c -o out/x.o
clang -g -gdwarf-4 -c ../DIR/sub/t.c
clang -g -c $PWD/sub/t.c
clang -g -c $PWD/./sub/../t.c
clang -g -fdebug-compilation-dir=/zz -c sub/t.c
clang -g -ffile-compilation-dir=/zz -c sub/t.c
clang -g -fdebug-prefix-map=$PWD=/src -c sub/t.c
clang -g -ffile-prefix-map=$PWD=. -c $PWD/sub/t.c
clang -fmacro-prefix-map=sub=Q -c sub/t.c
clang -flto -O1 -c sub/t.c
clang -flto=thin -O1 -c sub/t.c
clang -S -O2 sub/t.c
clang -fsanitize=thread -g -c sub/t.c
clang -x c++ -c t.cc
clang -xc -c t.c -o out/x
clang -c s.S
clang -Wa,--noexecstack -O2 -DX -Wall -std=gnu11 -c s.S
clang -isystem out -iquote sub -include h.h -DA -UB -c t.c
clang -std=c99 -pedantic -Wall -Wextra -Werror -fcolor-diagnostics -c t.c
clang -target x86_64-pc-linux-gnu -mllvm -inline-threshold=3 -O2 -c t.c
clang --target=x86_64-linux-gnu -Xclang -disable-O0-optnone -c t.c
clang -Wp,-D_FORTIFY_SOURCE=2 -O2 -pthread -fPIC -pipe -c t.c
clang -Wp,-MD,f.d -c sub/t.c -o out/x.o
clang -MD -c sub/t.c
clang -MMD -MP -c sub/t.c -o out/x.y.o
clang -MMD -c t.c -o out.x/z
clang -MMD -MF out/dep -MT a -MQ 'b$' -c t.c
clang -MMD -c 'a b$#:.c'
clang -MMD -c t.c -o 'a b$#.x.o'
clang -MMD -S t.c
clang -MMD -MF a -MF b -c s.S -o x.o
clang++ -O2 -g -c sub/t.cc -o out/x.o -MMD
clang++ -g -fsanitize=thread -c sub/t.cc
clang++ -flto -c t.cc
clang++ -fopenmp-simd -ffunction-sections -fno-exceptions -c sub/t.cc
clang++ -stdlib=libstdc++ -c t.cc
"""

# What a compiler warns of for what stands in the source but not in preprocessed text, or otherwise.
VERDICT_HEADERS = "".join("#include <%s.h>\n" % name for name in (
    "stddef limits stdint stdio errno stdbool assert signal ctype string stdlib").split())
VERDICTS = (
    "int x = NULL;", "int f(void) { return NULL; }", "int f(int a) { return a == NULL; }",
    "void g(int); void f(void) { g(NULL); }", "int f(void) { int *p = (EOF); return *p; }",
    "char f(void) { char c = UINT_MAX; return c; }", "int *f(void) { return EOF; }", "int y = x;",
    "int f(void) { return stdin; }", "struct s { int a; } s = { NULL }; int a[] = { NULL, EOF };",
    "int f(int x) { assert(x = 1); return x; }", "int f(unsigned x) { return x < INT_MIN; }",
    "int f(void) { return printf(\"%d\", SIZE_MAX) + printf(\"%s\", NULL); }", "int f;;",
    "void f(void) { char *p = SIG_IGN; (void)p; }", "int f(char c) { return isdigit(c); }",
    "int f(int x) { NULL; x == EOF; return x; }", "int f(int x) { return x << INT_MAX; }",
    "int f(int x) { switch (x) { case EOF: x++; case 1: x--; } return x; }",
    "int f(int x) { if (x) assert(x); else assert(!x); return INT_MAX + 1; }",
    "float f(float x) { return x == EOF ? INT_MAX : true; }", "int f(void) { errno == errno; }",
    "int f(int x) { int y = x; { int y = errno; return y; } }", "#warning so\nint x;",
    "int f(int x) {\n  if (x);\n  return x; }",
    "int f(int x) {\n  while (x)\n    x--;\n    x++;\n  return x; }", "int x = '\\q' + 'ab';",
    "#if ABSENT\n#endif\nint x; /* /* */ // \\\nint y;\n", "const char *x = \"??=\";",
    "#define UNUSED\nint x = __LINE__\n  ;\n#pragma unheard of\n", "int x\f;\v", "int a; \\",
    "#define M(a) a\nint M(), x = M(1, 2);", "#define x y\n#define x z\nint x;",
    "int f(int x) { /* fall through */ return x\n#ifdef\n#endif\n; }",
    "static int unused(void) { }",
    "void f(void) { for (int i = 0; i < 3; i++); { f(); } }", "int f(bool a) { return a > true; }",
)

DIRECTIVES = [line for line in BOTH_WAYS.splitlines() if line.startswith(("gcc", "g++", "DEP", "SUNPRO"))]


def compiler_environ(**extra):
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C", **extra}


def binary_tool(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode("latin1")


def object_looks(path, clang):
    """What must be equal of two objects: the stripped bytes, the names in the debug information, the line table."""
    with open(path, "rb") as file:
        whole = file.read()
    if whole[:4] != b"\x7fELF":
        return {"bytes": whole}
    if b".gnu.lto_" in whole:
        # Link-time code holds columns and compressed paths, so it is the linked code that must be equal.
        subprocess.run(["gcc", "-flto", "-r", "-flinker-output=nolto-rel", path, "-o", path + ".linked"], check=True)
        os.replace(path + ".linked", path)
    subprocess.run(["strip", "--strip-debug", "-o", path + ".stripped", path], check=True, stderr=subprocess.DEVNULL)
    with open(path + ".stripped", "rb") as file:
        stripped = file.read()
    os.unlink(path + ".stripped")
    info = [line.split("):")[-1].split(" : ")[-1].strip() for line in
            binary_tool("readelf", "--debug-dump=info",
                        path).splitlines() if "DW_AT_name" in line or "DW_AT_comp_dir" in line]
    lines = binary_tool("readelf", "--debug-dump=decodedline", path).splitlines()[3:]
    if clang:
        # DWARF 5: the file table of a preprocessed source lacks checksums, and so entry 0 is repeated as entry 1;
        # readelf shows the folder of the one and not of the other. Rows (file, line, address) are compared.
        lines = [line.split()[0].rsplit("/", 1)[-1] + " ".join(line.split()[1:]) for line in lines if " 0x" in line]
    return {"stripped": stripped, "info": info, "lines": lines}

class TwoStages:
    """One command line, compiled by the bare compiler and in two stages, each time in a fresh tree of its own."""

    def __init__(self, line, mode, folder="work"):
        self.line, self.mode = line, mode
        self.recipe = None              # whether there was one; None: not asked
        self.top = tempfile.mkdtemp(prefix="both-ways-")
        self.work = os.path.join(self.top, folder)

    def difference(self):
        """What differs, or None."""
        try:
            return self.compare()
        except (OSError, subprocess.SubprocessError, lm.RunLocally, lm.RefusedArgument, AssertionError) as error:
            return repr(error)
        finally:
            shutil.rmtree(self.top)

    def tree(self):
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in ("", "sub", "out", "out.x"):
            os.mkdir(os.path.join(self.work, folder))
        for name, text in (("t.c", C_TEXT), ("t.cc", CXX_TEXT), ("s.S", ASM_TEXT), ("h.h", "#define H 3\n"),
                           ("a b$#:.c", C_TEXT), ("q\"u,o\\te'.c", C_TEXT), ("new\nline.c", C_TEXT),
                           (os.fsdecode(b"\xff\xfe.c"), C_TEXT), ("sub/t.c", C_TEXT), ("sub/t.cc", CXX_TEXT),
                           ("sub/h.h", "#define H 4\n")):
            with open(os.path.join(self.work, name), "w") as file:
                file.write(text)

    def collect(self, clang):
        """{path: content} of all that the work folder holds; objects as object_looks() sees them."""
        found = {}
        for folder, _, names in os.walk(self.work):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    content = file.read()
                if content[:4] in (b"\x7fELF", b"BC\xc0\xde"):
                    content = object_looks(path, clang)
                found[os.path.relpath(path, self.work)] = content
        return found

    @staticmethod
    def run_in(folder, words, environ, **streams):
        done = subprocess.run(words, cwd=folder, env=environ, stderr=subprocess.PIPE, timeout=120, **streams)
        return done.returncode, done.stderr.decode("latin1"), done.stdout

    def both_stages(self, compiler, args, environ):
        """The compile as client and server do it. What either wrote to stderr; None: not in this mode."""
        family, cxx = lm.family_of(compiler)
        command = lm.analyze(args, family, cxx, environ, None, self.work)
        if command.directives_only_bar if self.mode == "directives" else command.plain_bar:
            return None
        temp, server = os.path.join(self.top, "dep"), os.path.join(self.top, "server")
        os.mkdir(server)
        status, said, text = self.run_in(self.work, [compiler, *command.preprocess_args(self.mode, temp)],
                                         {**environ, **command.preprocess_environ(temp)}, stdout=subprocess.PIPE)
        if family == "gcc":
            self.check_recipe([compiler], command, {**environ, **command.preprocess_environ(temp)},
                              (status, said, text, os.path.exists(temp) and lm.read_file(temp)))
        if status:
            return said
        assert lm.content_refusal(text, command, self.mode) is None
        served, name, _ = lm.serve_args(command.remote_args(self.mode, self.work), family, cxx)
        with open(os.path.join(server, name), "wb") as file:
            file.write(text)
        result = os.path.join(self.top, "result")
        status, more, _ = self.run_in(server, [compiler, *served, "-o", result], compiler_environ())
        if status:
            return said + more
        if "-frandom-seed" in self.line or "-g " in self.line:
            os.rename(server, server + "-2")
            again = [compiler, *served, "-o", result + "-2"]
            assert self.run_in(server + "-2", again, compiler_environ())[0] == 0
            assert lm.read_file(result + "-2") == lm.read_file(result), "the folder is in it"
        shutil.move(result, os.path.join(self.work, command.output))
        if command.depfile:
            with open(os.path.join(self.work, command.depfile), "ab" if command.depfile_appended else "wb") as out:
                with open(temp, "rb") as file:
                    out.write(file.read())
            os.unlink(temp)
        assert not os.path.exists(temp), "dependencies that nobody asked for"
        return said + more

    def check_recipe(self, compiler, command, environ, by_driver):
        """The recipe gives what the driver gave: (status, stderr, text, dependencies)."""
        stand_in, temp = lm.stand_in_for(command.source), os.path.join(self.top, "dep-by-recipe")
        args = command.preprocess_args(self.mode, command.depfile and lm.STAND_IN_DEPFILE, stand_in)
        trace = self.run_in(self.work, [*compiler, *args, "-###"], {**environ, "LC_ALL": "C"})[1]
        recipe = lm.make_recipe(trace, stand_in, self.mode)
        self.recipe = bool(command.shape) and recipe != lm.NO_RECIPE
        if self.recipe:
            names = {lm.STAND_IN_SOURCE: command.source, lm.STAND_IN_BASE: lm.basename(command.source),
                     lm.STAND_IN_TARGET: command.target, lm.STAND_IN_DEPFILE: temp}
            words = [names.get(word, word) for word in recipe.split("\n")]
            status, said, text = self.run_in(self.work, words, environ, stdout=subprocess.PIPE)
            said = said.replace("cc1: ", "gcc: ")
            depended = os.path.exists(temp) and lm.read_file(temp)
            assert (status, text, depended) == (by_driver[0], *by_driver[2:]), "the recipe gives something else"
            assert bool(said) == bool(by_driver[1]), "with the recipe one of them is silent: %r" % said

    def compare(self):
        line = self.line.replace("$PWD", self.work).replace("DIR", os.path.basename(self.work))
        words, extra = shlex.split(line), {}
        while "=" in words[0] and not words[0].startswith("-"):
            name, _, value = words.pop(0).partition("=")
            extra[name] = value
        environ, clang = compiler_environ(**extra), words[0].startswith("clang")
        self.tree()
        status, said, _ = self.run_in(self.work, words, environ)
        wanted = self.collect(clang)
        self.tree()
        got_said = self.both_stages(words[0], words[1:], environ)
        if got_said is None:
            return None
        # What either stage says has the compile done again here, so only silence must be silence.
        if bool(said) != bool(got_said):
            return "one of them is silent: %r, %r" % (said, got_said)
        return None if said else self.files_differ(status, wanted, self.collect(clang))

    @staticmethod
    def files_differ(status, wanted, found):
        if status:
            return "exit status %d without a word" % status
        if set(found) != set(wanted):
            return "files: %s instead of %s" % (sorted(found), sorted(wanted))
        for name, content in wanted.items():
            if found[name] != content:
                if isinstance(content, dict):
                    content = [key for key in content if content[key] != found[name][key]]
                return "%s differs: %.300r, found %.300r" % (name, content, found[name])
        return None


class BothWays(unittest.TestCase):
    """Stage 1 and 2 by hand, as client and server do them, against the bare compiler."""

    def compare(self, lines, mode, folders=("work",)):
        lines = [line for line in lines if shutil.which(next(w for w in shlex.split(line) if "=" not in w))]
        if not ALL_ROWS:
            lines = random.Random(SEED).sample(lines, len(lines) // 3)
        trials = [TwoStages(line, mode, folder) for line in lines for folder in folders]
        with concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            differences = list(pool.map(TwoStages.difference, trials))
        for trial, difference in zip(trials, differences):
            with self.subTest((trial.line, os.path.basename(trial.work))):
                self.assertIsNone(difference)
        recipes = [trial.recipe for trial in trials if trial.recipe is not None]
        self.assertGreaterEqual(sum(recipes), len(recipes) * 0.8, "recipes are hardly ever made")

    def test_plain(self):
        self.compare([line for line in BOTH_WAYS.splitlines() if line], "plain")

    def test_odd_names(self):
        names = ("new\nline.c", os.fsdecode(b"\xff\xfe.c"))
        self.compare(["%s %s-MMD -c %s" % (compiler, debug, shlex.quote(name)) for compiler in ("gcc", "clang")
                      for name in names for debug in ("", "-g ")], "plain")

    def test_odd_folders(self):
        """Those that gcc -E escapes are for gcc without -g and -flto, and for clang, only."""
        self.compare(["%s -c t.c" % words for words in (
            "gcc", "clang", "gcc -g", "clang -g", "gcc -flto -frandom-seed=1")],
            "plain", ("w'q", "w b", os.fsdecode(b"w\xff"), "w$(x)`y`;"))
        self.compare(["gcc -c t.c", "clang -c t.c", "clang -g -c sub/t.c"], "plain",
                     ("w\\b", 'w"q', "w\nn"))

    def test_directives(self):
        self.compare(DIRECTIVES, "directives")

    def test_verdicts(self):
        """Where a compiler says anything, or fails, so does a stage, or the text is kept here."""
        folder = new_folder()
        compilers = filter(shutil.which, ("gcc", "g++", "clang"))
        cases = [(compiler, options, text) for compiler in compilers for text in VERDICTS
                 for options in ("", "-O1 -Wall -Wextra -Wconversion -Wshadow")]
        if not ALL_ROWS:
            cases = random.Random(SEED).sample(cases, len(cases) // 4)

        def unsaid(case):
            place = tempfile.mkdtemp(dir=folder)
            write(place + "/a.c", VERDICT_HEADERS + case[2])
            line = "%s %s -c a.c" % case[:2]
            alone, command = run(line.split(), place), analyzed(line)
            first = run([case[0], *command.preprocess_args("plain")], place)
            if not (alone.code or alone.err) or first.code or first.err or lm.content_refusal(
                    first.out, command, read=lambda path: b""):
                return None
            words, cxx = command.remote_args("plain", place), case[0] == "g++"
            args, name, _ = lm.serve_args(words, command.family, cxx)
            os.mkdir(place + "/server")
            write(place + "/server/" + name, first.out)
            then = run([case[0], *args, "-o", "o"], place + "/server")
            said = bool(then.err) and bool(then.code) == bool(alone.code)
            return None if said else alone.err
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for case, found in zip(cases, pool.map(unsaid, cases)):
                with self.subTest(case):
                    self.assertIsNone(found)

    def test_differences_are_seen(self):
        """The comparison itself: with another macro in one of the ways it fails."""
        two = TwoStages("gcc -c t.c", "plain")
        both_stages = two.both_stages
        two.both_stages = lambda compiler, args, environ: both_stages(compiler, args + ["-DH2=1", "-O2"], environ)
        self.assertIn("differs", two.difference())


# ==== Section 5: statistics =========================================================================================

def figures(size_kb=200, cpu_s=1.0, job_class="c-O2", source="s", total_s=None, **more):
    """JobFigures of a job on a host of ours that had a core to itself."""
    found = lm.JobFigures(size_kb, job_class, source, total_s or cpu_s + 0.01, more.pop("wire_kb", 0),
                          more.pop("predicted_s", None))
    found.sent_kb = more.pop("sent_kb", math.inf)
    times = dict(queue_ms=0, elapsed_ms=cpu_s * 1e3, cpu_ms=cpu_s * 1e3, concurrency=1.0)
    times.update(more)
    return found.timed(lm.Times(**times))


def learnt(ms_per_kb, jobs=100, statistics=None, key="h", seed=5, job_class="c-O2"):
    """Statistics after `jobs` log-normal jobs at this speed, each of another source."""
    statistics, rng = statistics or lm.Statistics(), random.Random(seed)
    for i in range(jobs):
        size = rng.lognormvariate(5.3, 0.8)
        cpu = lm.JOB_FIXED_S + size * ms_per_kb / 1e3 * rng.lognormvariate(0, 0.15)
        statistics.observe(key, 8, figures(size, cpu, job_class, "%s %s %d %d" % (key, ms_per_kb, seed, i)))
    return statistics


def work(statistics, key, *job):
    """CPU seconds of a job (size in KB, class, source)."""
    return statistics.work(key, statistics.weight(*job))


class Speed(unittest.TestCase):
    def assertLearnt(self, statistics, ms_per_kb, share=0.3, key="h"):
        found = work(statistics, key, 1000, "c-O2", "new") - lm.JOB_FIXED_S
        self.assertLess(abs(math.log(found / ms_per_kb)), math.log(1 + share), "%.2f ms/KB" % found)

    def test_prior(self):
        statistics = lm.Statistics()
        self.assertAlmostEqual(work(statistics, "h", 1000, "c", "s"), lm.JOB_FIXED_S + lm.MS_PER_KB_PRIOR)
        learnt(1.0, statistics=statistics, key="a")
        learnt(8.0, statistics=statistics, key="b")
        learnt(2.0, statistics=statistics, key="c")
        self.assertAlmostEqual(statistics.host("new").k(), statistics.median_k)
        statistics = lm.Statistics.from_dict(statistics.to_dict())
        self.assertAlmostEqual(statistics.host("new").k(), statistics.host("c").k())                # the median

    def test_prior_follows(self):
        """A host that was there before anything was known is taken for as fast as the others, once these are known."""
        statistics = lm.Statistics()
        statistics.host("early")
        learnt(40.0, 30, statistics, "a")
        statistics.host("b")
        self.assertGreater(statistics.host("early").k() * 1e3, 10)
        learnt(1.0, 30, statistics, "early")                    # until it has jobs of its own
        self.assertLess(statistics.host("early").k() * 1e3, 3)
        self.assertGreater(statistics.host("b").k() * 1e3, 10)

    def test_told(self):
        """What a host publishes of itself counts until it has run jobs of ours; few jobs tell nothing."""
        statistics = lm.Statistics()
        statistics.told("h", lm.KB_PRIOR - 1, 40.0)
        self.assertFalse(statistics.host("h").known())
        statistics.told("h", 4000, 80.0)
        self.assertTrue(statistics.host("h").known())
        self.assertAlmostEqual(statistics.host("h").k() * 1e3, 20)
        self.assertAlmostEqual(statistics.host("new").k() * 1e3, 20)
        learnt(2.0, 40, statistics)
        statistics.told("h", 4000, 8000.0)
        self.assertLess(statistics.host("h").k() * 1e3, 6)

    def test_told_nonsense(self):
        """No report of a host makes it infinitely fast, or jobs there divide by zero."""
        for kb_sum, cpu_s in ((3000.0, 0.0), (9e11, 1e-9), (2001.0, 9e11)):
            scheduler = a_scheduler(("h", 4))
            scheduler.statistics.host("h").samples = 0
            scheduler.statistics.told("h", kb_sum, cpu_s)
            with self.subTest(kb_sum=kb_sum, cpu_s=cpu_s):
                self.assertTrue(1e-6 <= scheduler.statistics.host("h").k() <= 10)
                a_job(scheduler, 0)
                self.assertEqual(len(done_actions(scheduler, 0, "ask")), 1)
                scheduler.statistics.observe("h", 8, figures())

    def test_own_speed(self):
        """A box learns its own speed from what it runs for others, and its jobs' need of memory; so others can know."""
        statistics = lm.Statistics()
        for i in range(40):
            statistics.observe_served(200 + i, "c-O2", (200 + i) * 0.003, 300)
        own = statistics.host("local")
        self.assertLess(abs(work(statistics, "local", 1000, "c-O2", "new") / 3.0 - 1), 0.2)
        self.assertGreater(own.kb_sum, lm.KB_PRIOR)
        self.assertEqual(statistics.memory.need_mb(lm.PeakMemory.SERVED), 341)
        self.assertEqual(statistics.sources.rows, {})

    def test_cold(self):
        """Ten jobs are enough at first, whatever the speed."""
        for speed in (1.0, 5.0, 25.0):
            for seed in range(3):
                with self.subTest(speed=speed, seed=seed):
                    self.assertLearnt(learnt(speed, 10, seed=seed), speed, 0.5)
                    self.assertLearnt(learnt(speed, 40, seed=seed), speed, 0.25)

    def test_change(self):
        """A fourfold change, after hundreds of jobs, is learnt within ten."""
        for before, after in ((5.0, 20.0), (5.0, 1.25), (1.0, 4.0), (20.0, 5.0)):
            for seed in range(3):
                with self.subTest(before=before, after=after, seed=seed):
                    statistics = learnt(before, 300, seed=seed)
                    self.assertLearnt(statistics, before, 0.2)
                    self.assertLearnt(learnt(after, 10, statistics, seed=seed + 50), after, 0.5)

    def test_outlier(self):
        """One job that took a hundred times as long moves a prediction by a sixth at most."""
        statistics = learnt(5.0)
        before = work(statistics, "h", 1000, "c-O2", "new")
        statistics.observe("h", 8, figures(200, 100.0, source="odd"))
        self.assertLess(work(statistics, "h", 1000, "c-O2", "new") / before, 1.17)

    def test_small_jobs(self):
        statistics = learnt(5.0)
        before = statistics.host("h").k()
        for i in range(50):
            statistics.observe("h", 8, figures(lm.SMALL_JOB_KB - 1, 3.0, source=str(i)))
        self.assertEqual(statistics.host("h").k(), before)
        for i in range(lm.UNKNOWN_HOST_RESULTS):                # but the host has shown that it can do them
            self.assertFalse(statistics.host("new").known())
            statistics.observe("new", 8, figures(lm.SMALL_JOB_KB - 1, 3.0, source=str(i)))
        self.assertTrue(statistics.host("new").known())

    def test_two_hosts(self):
        """The ratio of two hosts is right, though they see different sources and classes."""
        statistics = lm.Statistics()
        for i in range(30):
            learnt(2.0, 3, statistics, "fast", seed=i)
            learnt(8.0, 3, statistics, "slow", seed=i, job_class="c++-O2-g")
        ratio = statistics.host("slow").k() / statistics.host("fast").k() * (
            statistics.classes.factor("c++-O2-g") / statistics.classes.factor("c-O2"))
        self.assertLess(abs(math.log(ratio / 4)), math.log(1.3))

    def test_distccd(self):
        """A plain distccd measures nothing, so only its whole times are kept."""
        statistics = lm.Statistics()
        statistics.observe("d", 4, lm.JobFigures(500, "c", "s", 2.0, 600, 1.0))
        host = statistics.host("d")
        self.assertEqual((host.samples, host.job_s.value, host.transfer.count, host.error.value), (0, 2.0, 0, 0.5))


class Factors(unittest.TestCase):
    def test_classes(self):
        statistics = lm.Statistics()
        for i in range(60):
            statistics.observe("h", 8, figures(200, 0.5, "c-O0", "a%d" % i))
            statistics.observe("h", 8, figures(200, 1.5, "c++-O2-g", "b%d" % i))
        cheap, dear = (work(statistics, "h", 200, name, "new") for name in ("c-O0", "c++-O2-g"))
        self.assertLess(abs(cheap / 0.5 - 1), 0.2)
        self.assertLess(abs(dear / 1.5 - 1), 0.2)
        self.assertEqual(statistics.classes.factor("unheard of"), 1.0)

    def test_step(self):
        """ln m += r / (k + 8), r clipped to a factor of four."""
        classes = lm.Classes()
        classes.observe("c", 100.0)
        self.assertAlmostEqual(classes.factor("c"), 4 ** (1 / 8))
        classes.observe("c", 1.0)
        self.assertAlmostEqual(classes.factor("c"), 4 ** (1 / 8))
        for i in range(2000):
            classes.observe("c%d" % i, 1.0)
        self.assertLessEqual(len(classes.logs), classes.MOST)

    def test_sources(self):
        """A source that takes three times what its size says is known when it is built again."""
        statistics = learnt(5.0)
        plain = work(statistics, "h", 300, "c-O2", "heavy")
        statistics.observe("h", 8, figures(300, 3 * plain, source="heavy"))
        again = work(statistics, "h", 300, "c-O2", "heavy")
        self.assertGreater(again, 2 * plain)
        self.assertLess(work(statistics, "h", 300, "c-O2", "other"), 1.2 * plain)
        for _ in range(8):
            statistics.observe("h", 8, figures(300, 3 * plain, source="heavy"))
        self.assertLess(abs(work(statistics, "h", 300, "c-O2", "heavy") / (3 * plain) - 1), 0.35)

    def test_bounded(self):
        sources = lm.Sources()
        for i in range(lm.SOURCES_REMEMBERED + 100):
            sources.remember("s%d" % i, 1.0, 10)
            sources.recall("s0")
        self.assertEqual(len(sources.rows), lm.SOURCES_REMEMBERED)
        self.assertIsNotNone(sources.recall("s0"))              # used all the time
        self.assertIsNone(sources.recall("s1"))
        sources.remember("s0", 1e9, 10)
        self.assertLessEqual(sources.recall("s0")[0], lm.RESIDUAL_CLIP)


class Load(unittest.TestCase):
    def test_prior(self):
        rows = [lm.stretch_prior(n, 8) for n in range(33)]
        self.assertEqual(rows[:5], [1.0] * 5)
        self.assertAlmostEqual(rows[8], 1.6)
        self.assertAlmostEqual(rows[32], 6.4)
        self.assertEqual(rows, sorted(rows))
        self.assertEqual(lm.stretch_prior(3, 0), lm.stretch_prior(3, 1))

    def test_shrinks(self):
        """After k jobs the slowdown is k/(k+8) of the way from the prior to what was measured."""
        contention, prior = lm.Contention(), lm.stretch_prior(8, 8)
        self.assertAlmostEqual(contention.stretch(8, 8), prior)
        contention.observe(8, 8, 3.0)
        self.assertAlmostEqual(contention.stretch(8, 8), (8 * prior + 3.0) / 9)
        for _ in range(300):
            contention.observe(8, 8, 3.0)
        self.assertLess(abs(contention.stretch(8, 8) / 3.0 - 1), 0.06)
        self.assertAlmostEqual(contention.stretch(16, 16), contention.stretch(8, 8))        # pooled
        self.assertAlmostEqual(contention.stretch(1, 8), 1.0)                               # another bucket
        contention.observe(2, 8, 1e9)
        self.assertLessEqual(contention.stretch(2, 8), 1.4)

    def test_shape_within_bucket(self):
        """What is learnt at twice the cores also scales what is expected at five times the cores."""
        contention = lm.Contention()
        for _ in range(300):
            contention.observe(16, 8, 2.0)                              # the prior says 3.2
        self.assertLess(abs(contention.stretch(40, 8) / 5.0 - 1), 0.06)

    def test_starved_host(self):
        """A host whose jobs get a quarter of a CPU, which neither CPU time nor load show: its times are known."""
        statistics = lm.Statistics()
        for i in range(20):
            for key, elapsed_ms in (("quick", 1000), ("starved", 4000)):
                statistics.observe(key, 1, figures(200, 1.0, source=str(i), total_s=elapsed_ms / 1e3,
                                                   elapsed_ms=elapsed_ms))
        scheduler = a_scheduler(("quick", 1), ("starved", 1))
        placement, job = lm.Placement(statistics, random.Random(1)), a_job(scheduler, 0.0)
        quick_s, starved_s = (placement.predicted(scheduler.hosts[key], job) for key in ("quick", "starved"))
        self.assertLess(abs(quick_s / 1.0 - 1), 0.25)
        self.assertLess(abs(starved_s / 4.0 - 1), 0.25)

    def test_by_load(self):
        """The table of 2004: time per KB at various loads."""
        statistics = lm.Statistics()
        for concurrency in (1.0, 4.0, 8.0, 12.0, 40.0):
            statistics.observe("h", 8, figures(100, 1.0, elapsed_ms=1000 * concurrency, concurrency=concurrency))
        rows = statistics.host("h").by_load
        self.assertEqual([row[2] for row in rows], [2, 1, 1, 1])
        self.assertEqual([row[0] for row in rows], [5.0, 8.0, 12.0, 40.0])

    def test_bandwidth(self):
        statistics = lm.Statistics()
        self.assertEqual(statistics.host("h").bandwidth(), lm.BANDWIDTH_PRIOR_KB_S)
        statistics.host("h").rtt.add(0.01)
        for i in range(20):                                     # 1000 KB in 0.51 s, of which 10 ms are the way
            statistics.observe("h", 8, figures(300, 1.0, source=str(i), total_s=1.51, wire_kb=1000))
        self.assertLess(abs(statistics.host("h").bandwidth() / 2000 - 1), 0.1)
        before = statistics.host("h").bandwidth()
        statistics.observe("h", 8, figures(20, 1.0, total_s=9.0, wire_kb=lm.TRANSFER_MIN_KB - 1))
        self.assertEqual(statistics.host("h").bandwidth(), before)
        for i in range(200):                                    # clocks that disagree: never negative, never infinite
            statistics.observe("h", 8, figures(300, 1.0, source=str(i), total_s=0.5, wire_kb=1000))
        self.assertTrue(0 < statistics.host("h").bandwidth() <= 1000 / lm.TRANSFER_FLOOR_S)

    def test_compressing_ends(self):
        """It costs CPU on both ends, 8 ms/MB here: a link that has become fast is measured as that all the same."""
        statistics = lm.Statistics()
        host, sent_kb, object_kb = statistics.host("h"), 145, 80
        for phase, kb_s, wanted in (("slow", 10_000, True), ("still slow", 15_000, True), ("fast", 400_000, False)):
            for i in range(300):
                total_s = 1.003 + (sent_kb + object_kb) / kb_s + 815 / 1024 * 0.0079        # a fork, too
                statistics.observe("h", 8, figures(815, 1.0, source=str(i), total_s=total_s,
                                                   wire_kb=sent_kb + object_kb, sent_kb=sent_kb))
            self.assertEqual(host.compresses(), wanted, phase)
        for i in range(300):                                    # as it is: nothing is taken off
            statistics.observe("h", 8, figures(815, 1.0, source=str(i), total_s=1.09, wire_kb=900, sent_kb=815))
        self.assertLess(abs(host.bandwidth() / 10_000 - 1), 0.05)

    def test_mean(self):
        mean = lm.Mean(0.1)
        for value in (1, 2, 3):
            mean.add(value)
        self.assertAlmostEqual(mean.value, 2.0)
        for _ in range(60):
            mean.add(9)
        self.assertGreater(mean.value, 8.9)


# Peaks of ten jobs in MB, jobs of this kind | what the next is taken to need
PEAKS = (
    ([], 512), ([60], 512), ([60] * 7, 512), ([60] * 8, 101), ([60] * 40, 101), ([60] * 39 + [4000], 101),
    ([60] * 9 + [4000], 5832), ([600], 768), ([600] * 8, 768), ([4000] * 8 + [200] * 40, 227),
    ([200] * 20 + [900] * 5, 1152), ([0] * 9, 101),
)


# Speeds of the hosts in ms/KB, sigma (ln) of the noise of each job, g(jobs per core) of the farm, KB/s of the link
FARMS = (
    ((5.0,), 0.15, lambda share: lm.stretch_prior(share * 64, 64), 50_000),
    ((1.0, 4.0, 16.0), 0.15, lambda share: lm.stretch_prior(share * 64, 64), 50_000),
    ((2.0, 8.0), 0.25, lambda share: max(1.0, share), 50_000),
    ((2.0, 8.0), 0.2, lambda share: max(1.0, 2.2 * share), 50_000),
    ((3.0, 3.0), 0.2, lambda share: max(1.0, share), 800),
)


class Predictions(unittest.TestCase):
    def error(self, speeds, sigma, stretch, link, seed):
        """Mean |predicted - actual| / actual of the next 100 jobs, once each class had 50."""
        rng, statistics = random.Random(seed), lm.Statistics()
        placement, classes, errors = lm.Placement(statistics, rng), {"c-O0": 0.5, "c++-O2-g": 2.0}, []
        hosts = [lm.Host("h%d" % i, "h%d" % i, "peer") for i in range(len(speeds))]
        for number in range(50 * len(classes) + 100):
            at = rng.randrange(len(hosts))
            host, name = hosts[at], rng.choice(sorted(classes))
            host.load = host_load(8, rng.randrange(8))
            job = lm.Job(1, "f%d.c" % number, "o", name, "k", None, 0)
            job.size_kb = int(rng.lognormvariate(5.3, 0.8)) + lm.SMALL_JOB_KB
            job.weight = statistics.weight(job.size_kb, *job.keys())
            predicted = placement.predicted(host, job)
            cpu = job.size_kb * speeds[at] / 1e3 * classes[name] * rng.lognormvariate(0, sigma)
            jobs = host.occupied() + 1.0
            elapsed = cpu * stretch(jobs / 8)
            total = elapsed + job.size_kb * 1.3 / link + 0.002
            errors.append(abs(predicted - total) / total)
            statistics.observe(host.key, 8, figures(
                job.size_kb, cpu, name, str(number), total, predicted_s=predicted, elapsed_ms=elapsed * 1e3,
                wire_kb=job.size_kb * 1.3, concurrency=jobs))
        shown = [statistics.host(host.key).error.value for host in hosts]
        self.assertLess(max(shown), 0.35)                       # what `status` tells of each
        return sum(errors[-100:]) / 100

    def test_counts_itself(self):
        """The fourth job on four cores is predicted with the slowdown of four, whether asked for or parked."""
        for running in (3, 4):                                  # 4: as reported before one of them ended
            scheduler = a_scheduler(("h", 4))
            host, statistics = scheduler.hosts["h"], scheduler.statistics
            scheduler.report(host, host_load(4, running), 0)
            job = a_job(scheduler, 0)
            (_, request), = done_actions(scheduler, 0, "ask")
            scheduler.granted(request, 1, 0)
            slowdown = (job.predicted_s - statistics.host("h").transfer_s(200)) / statistics.work("h", job.weight)
            self.assertAlmostEqual(slowdown, statistics.contention.stretch(4, 4))

    def test_error(self):
        """At most a quarter off after 50 jobs of a class, whatever the hosts, noise, contention and link."""
        for row in FARMS:
            found = [self.error(*row, seed) for seed in range(3)]
            with self.subTest(row):
                self.assertLess(max(found), 0.25, found)
                self.assertGreater(min(found), row[1] / 2)      # a mean error below the noise would be none


class Memory(unittest.TestCase):
    def test_peaks(self):
        for peaks, need in PEAKS:
            with self.subTest(peaks):
                memory = lm.PeakMemory()
                for peak in peaks:
                    memory.observe("c", peak)
                self.assertEqual(memory.need_mb("c"), need)
                self.assertEqual(memory.need_mb("other"), lm.MEMORY_PER_JOB_MB)

    def test_bounded(self):
        memory = lm.PeakMemory()
        for i in range(3000):
            memory.observe("c", i)
            memory.observe("c%d" % i, i)
        self.assertLessEqual(len(memory.rows), lm.Classes.MOST)
        self.assertEqual(len(memory.rows["c"]), lm.MEMORY_JOBS_KEPT)

    def test_steps(self):
        """The next try asks for half as much again, as the promise is after a compiler was killed."""
        steps = [lm.memory_step(0)]
        while len(steps) < 8:
            steps.append(lm.memory_step(steps[-1] + 1))
            self.assertEqual(lm.memory_step(steps[-1]), steps[-1])
        self.assertEqual(steps, [101, 151, 227, 341, 512, 768, 1152, 1728])


def some_state():
    statistics = learnt(3.0, 40)
    learnt(9.0, 5, statistics, "other:3632", job_class="c++")
    statistics.host("h").rtt.add(0.01)
    return statistics


def with_change(path, value):
    """The state of some_state() with the item at `path` replaced (or removed, if it is `del`)."""
    data = json.loads(json.dumps(some_state().to_dict()))
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is del_:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


del_ = object()
HOSTILE_STATES = (
    (("format",), del_), (("format",), 2), (("format",), "1"), (("hosts",), del_), (("hosts",), []), (("hosts",), None),
    (("slowdowns",), del_), (("slowdowns",), [1]), (("slowdowns",), [[1], [1], [1]]),
    (("slowdowns", 0, 0), -1), (("slowdowns", 1), None), (("slowdowns", 0, 0), math.nan),
    (("classes",), del_), (("classes",), [1]), (("memory",), del_), (("memory",), [1]),
    (("sources",), del_), (("sources",), 7),
)
BAD_ROWS = (            # in an otherwise good state
    (("hosts", "h"), []), (("hosts", "h"), [1] * 6), (("hosts", "h"), [1] * 19),
    (("hosts", "h"), [1] * 22), (("hosts", "h"), 5),
    (("hosts", "h"), "1234567"),
    (("hosts", "h"), {"a": 1}), (("hosts", "h", 0), -1.0), (("hosts", "h", 0), math.nan), (("hosts", "h", 1), math.inf),
    (("hosts", "h", 1), 1e30), (("hosts", "h", 2), "3"), (("hosts", "h", 2), None), (("hosts", "h", 3), True),
    (("hosts", "h", 5), [1]), (("hosts", "h", 6), -5.0),
    (("classes", "c++"), [1]), (("classes", "c++"), [1, 2, 3]),
    (("classes", "c++"), [math.nan, 1]), (("classes", "c++"), [0.0, -1]), (("classes", "c++"), [1e4, 1]),
    (("classes", "c++"), [-1e4, 1]), (("classes", "c++"), None),
    (("memory", "c-O2"), 7), (("memory", "c-O2"), ["1"]), (("memory", "c-O2"), "12"), (("memory", "c-O2"), {"a": 1}),
    (("memory", "c-O2", 0), -1), (("memory", "c-O2", 0), math.nan),
    (("sources", "x"), [1]), (("sources", "x"), [-1, 1]), (("sources", "x"), "ab"),
    (("sources", "x"), [math.inf, 1]), (("sources", "x"), [1e9, 1]), (("sources", "x"), [0, 1]),
)


class State(unittest.TestCase):
    def test_round_trip(self):
        before = some_state()
        text = json.dumps(before.to_dict(), allow_nan=False)
        after = lm.Statistics.from_dict(json.loads(text))
        self.assertEqual(json.dumps(after.to_dict(), allow_nan=False), text)
        self.assertEqual([after.memory.need_mb(name) for name in ("c-O2", "c++")], [101, 512])
        for key, source in (("h", "h 3.0 5 7"), ("h", "new"), ("other:3632", "new")):
            self.assertAlmostEqual(work(before, key, 99, "c++", source), work(after, key, 99, "c++", source))
        self.assertAlmostEqual(before.contention.stretch(1, 8), after.contention.stretch(1, 8))
        learnt(3.0, 5, after)                                   # and goes on learning

    def test_empty(self):
        self.assertEqual(lm.Statistics.from_dict(lm.Statistics().to_dict()).hosts, {})

    def test_hostile(self):
        """Anything but a state is refused by ValueError: the daemon then begins anew."""
        for data in (None, [], {}, "x", 5, {"format": 1}):
            with self.subTest(data), self.assertRaises(ValueError):
                lm.Statistics.from_dict(data)
        for path, value in HOSTILE_STATES:
            with self.subTest(path, value=value), self.assertRaises(ValueError):
                lm.Statistics.from_dict(with_change(path, value))

    def test_bad_rows(self):
        """A row that makes no sense is forgotten, and nothing else with it."""
        whole = json.loads(json.dumps(some_state().to_dict()))
        for path, value in BAD_ROWS:
            wanted = {part: dict(rows) if isinstance(rows, dict) else rows for part, rows in whole.items()}
            wanted[path[0]].pop(path[1], None)
            with self.subTest(path, value=value):
                found = lm.Statistics.from_dict(with_change(path, value))
                self.assertEqual(json.loads(json.dumps(found.to_dict())), wanted)

    def test_hosts_bounded(self):
        """Addresses that come and go for years: those are forgotten that ran nothing for longest, this box never."""
        statistics, count = lm.Statistics(), 2 * lm.FIGURES_REMEMBERED
        for i in range(count):
            statistics.observe("h%d" % i, 8, figures())
            if i % 1000 == 0:
                statistics.observe("often", 8, figures())
                statistics.observe_served(200, "c-O2", 1.0, 60)
        self.assertLessEqual(len(statistics.hosts), lm.FIGURES_REMEMBERED)
        for key, samples in (("often", count // 1000), ("local", count // 1000), ("h%d" % (count - 1), 1), ("h0", 0)):
            self.assertEqual((key, statistics.host(key).samples), (key, samples))
        data = json.loads(json.dumps(statistics.to_dict()))
        self.assertEqual(len(lm.Statistics.from_dict(data).hosts), lm.FIGURES_REMEMBERED - 1)   # h0 has shown nothing

    def test_never_measured(self):
        """What was never measured is unknown after a restart, too; the pace of a plain distccd is kept."""
        statistics = learnt(5.0, 10)
        for _ in range(30):
            statistics.observe("d", 0, lm.JobFigures(200, "c", "", 5.0, 10, None))
        pace = statistics.host("d").pace.value
        self.assertGreater(pace, 3)
        statistics = lm.Statistics.from_dict(json.loads(json.dumps(statistics.to_dict())))
        self.assertEqual((statistics.host("h").rtt.count, statistics.host("d").pace.value), (0, pace))
        self.assertEqual((statistics.host("h").pace.count, statistics.host("d").job_s.value), (1, 5.0))
        older = with_change(("format",), 1)
        del older["hosts"]["h"][-1]                             # as written before the pace was
        self.assertEqual(lm.Statistics.from_dict(older).host("h").pace.count, 0)

    def test_survivors(self):
        """What is accepted works: no prediction is negative, infinite or raises, whatever the numbers."""
        rng = random.Random(6)
        for _ in range(300):
            data = json.loads(json.dumps(some_state().to_dict()))
            rows = rng.choice(([data["hosts"]["h"]], data["slowdowns"], [*data["classes"].values()],
                               [data["sources"]["h 3.0 5 7"]]))
            row = rng.choice(rows)
            row[rng.randrange(len(row))] = value = rng.choice((0, 1e-300, 1e-9, 1e17, 10 ** 17, 1.5, -9.9, 5e-324))
            with self.subTest(value=value, row=row):
                try:
                    statistics = lm.Statistics.from_dict(data)
                except ValueError:
                    continue
                for name in ("h", "other:3632", "new"):
                    self.assertTrue(0 < work(statistics, name, 100, "c++", "h 3.0 5 7") < math.inf)
                    self.assertTrue(0 < statistics.host(name).bandwidth() < math.inf)
                statistics.observe("h", 8, figures(100, 1.0, "c++", "h 3.0 5 7"))
                self.assertTrue(0 < work(statistics, "h", 100, "c++", "new") < math.inf)


# ==== Section 6: scheduler ==========================================================================================

IDENTITY = b"identity"


def a_job(scheduler, now, uid=1000, source="t.c", size_kb=200, mode=0, sized=True):
    """A compile that has said hello, and (sized) has been preprocessed."""
    job = lm.Job(uid, source, source + ".o", "c-O2", "key of " + source, None, now)
    job.identity, job.mode = IDENTITY, mode
    scheduler.hello(job, now)
    if sized and job.state == "queued":
        scheduler.sized(job, size_kb, 0.1, mode, now)
    return job


def a_scheduler(*hosts, slots=2, cores=4, now=0.0):
    """A Scheduler with peers that have just reported: each of `hosts` is (name, slots) or a Host."""
    scheduler = lm.Scheduler(lm.Statistics(), slots, cores, random.Random(SEED))
    for host in hosts:
        if isinstance(host, tuple):
            name, count = host
            host = lm.Host(name, name, "peer", lm.Endpoint((name, 3632)))
            host.load, host.report_at = None, None
            scheduler.statistics.host(name).samples = lm.UNKNOWN_HOST_RESULTS
            scheduler.report(host, host_load(count), now)
        scheduler.hosts[host.key] = host
    return scheduler


def host_load(slots=4, running=0, counted=0, **more):
    return lm.Load(instance=more.pop("instance", b"serverAA"), slots=slots, cores=slots, running=running,
                   interval_ms=1000, identities=[IDENTITY], counted={b"submitte": counted}, port=3632, **more)


def done_actions(scheduler, now, *kinds):
    """pump(), and the actions of these kinds (all: none named) in order; the list is emptied."""
    scheduler.pump(now)
    actions, scheduler.actions = scheduler.actions, []
    return [action for action in actions if not kinds or action[0] in kinds]


class Fairness(unittest.TestCase):
    def test_share(self):
        fair = lm.FairShare()
        fair.take("a")
        self.assertLess(fair.rank("b", 0), fair.rank("a", 0))
        fair.take("b")
        fair.give("a", 5.0, 0)
        fair.give("b", 1.0, 0)
        self.assertLess(fair.rank("b", 0), fair.rank("a", 0))           # held less in the last minute
        self.assertAlmostEqual(fair.recent("a", 60.0), 2.5)
        self.assertEqual(fair.active, {})
        with self.assertRaises((AssertionError, KeyError)):
            fair.give("a", 0, 0)

    def test_share_of_strangers(self):
        """Thousands with a new name each: memory is bounded, and who comes often stays known."""
        fair = lm.FairShare()
        for number in range(3 * lm.SHARES_KEPT):
            for key in ("often", number):
                fair.take(key)
                fair.give(key, 1.0, number / 1000)
        self.assertEqual(len(fair.used), lm.SHARES_KEPT)
        self.assertGreater(fair.recent("often", 3.0), lm.SHARES_KEPT)
        self.assertEqual(fair.recent(0, 3.0), 0.0)

    def test_share_bounded(self):
        fair = lm.FairShare()
        for uid in range(5000):
            fair.take(uid)
            fair.give(uid, 1, uid)
        self.assertLessEqual(len(fair.used), 1001)

    def test_pool(self):
        """Fair by uid: who comes late with two jobs waits behind none of the hundred of another."""
        pool = lm.Pool()
        for i in range(100):
            pool.ask(("a", i), "a", 0)
        self.assertEqual(pool.grant(2, 0), [("a", 0), ("a", 1)])
        pool.ask(("b", 0), "b", 1)
        pool.ask(("b", 1), "b", 1)
        order = []
        for at, token in enumerate((("a", 0), ("a", 1), ("b", 0), ("a", 2)), 2):
            self.assertIsNotNone(pool.drop(token, at))
            order += pool.grant(2, at)
        self.assertEqual(order, [("b", 0), ("a", 2), ("b", 1), ("a", 3)])
        self.assertIsNone(pool.drop(("a", 0), 9))
        self.assertIsNone(pool.drop(("a", 99), 9))                      # waited only
        self.assertNotIn(("a", 99), pool.waiting)

    def test_pool_limit(self):
        pool = lm.Pool()
        for i in range(6):
            pool.ask(i, i, 0)
        self.assertEqual(len(pool.grant(4, 0)), 4)
        self.assertEqual(pool.grant(4, 1), [])
        self.assertEqual(pool.grant(5, 1), [4])
        self.assertEqual(pool.grant(0, 1), [])                          # fewer than are held: none is taken away
        for i in range(5):
            pool.drop(i, 2)
        self.assertEqual(pool.grant(0, 2), [5])                         # but one is always let in

    def test_pool_stall(self):
        """Nothing came back for ten seconds: one more, since holders may wait for those who wait."""
        pool, stall = lm.Pool(), lm.POOL_STALL_S
        for i in range(5):
            pool.ask(i, 7, 0)
        self.assertEqual(pool.grant(1, 0), [0])
        for now in (1, stall - 0.1):
            self.assertEqual(pool.grant(1, now), [])
        self.assertEqual(pool.grant(1, stall), [1])
        self.assertEqual(pool.grant(1, stall + 0.1), [])
        self.assertEqual(pool.grant(1, 2 * stall), [2])
        pool.drop(1, 2 * stall + 1)
        self.assertEqual(pool.grant(1, 2 * stall + 1), [])              # back to what is allowed
        self.assertEqual(pool.grant(1, 3 * stall), [])                  # something came back meanwhile
        pool.drop(0, 3 * stall)
        pool.drop(2, 3 * stall)
        self.assertEqual(pool.grant(1, 3 * stall), [3])
        self.assertEqual(pool.extra, 0)

    def test_pool_stopped(self):
        """Holders that stand still for long, as of a build under ^Z, do not stop the others: one extra place stays."""
        pool, stall = lm.Pool(), lm.POOL_STALL_S
        for i in range(9):
            pool.ask(i, 7, 0)
        self.assertEqual(pool.grant(2, 0), [0, 1])              # both are stopped
        self.assertEqual(pool.grant(2, stall), [2])
        for i in range(2, 8):
            pool.drop(i, stall + i)
            self.assertEqual(pool.grant(2, stall + i), [i + 1])
        pool.drop(0, 2 * stall)                                 # and go on
        self.assertEqual(pool.extra, 0)

    def test_pool_idle(self):
        """As long as nobody waits nothing stalls, however long a place is held."""
        pool, stall = lm.Pool(), lm.POOL_STALL_S
        pool.ask("a", 1, 0)
        self.assertEqual(pool.grant(1, 0), ["a"])
        pool.ask("b", 1, 10 * stall)
        self.assertEqual(pool.grant(1, 10 * stall), [])
        pool.ask("c", 1, 11 * stall - 1)
        self.assertEqual(pool.grant(1, 11 * stall - 0.1), [])
        self.assertEqual(pool.grant(1, 11 * stall), ["b"])


CAPACITIES = (
    # cores, foreign load, by memory, --slots | slots
    (16, 0.0, 120, 99, 20), (16, 0.0, 120, 16, 16), (16, 4.0, 120, 99, 15), (16, 16.0, 120, 99, 1),
    (16, 99.0, 120, 99, 1), (1, 0.0, 120, 99, 2), (4, 0.5, 120, 99, 5), (4, 0.0, 2, 99, 2),
    (4, 0.0, 1, 99, 1), (4, 0.0, 0, 99, 1), (4, 0.0, 120, 1, 1),
)


# Slots of the server, hostile connections, whether each says it is another submitter, MB that it claims
HOSTILE_SUBMITTERS = (
    (4, 40, True, 101), (4, 40, False, 101), (4, 4, False, 15_500), (4, 40, True, 15_500), (4, 40, True, 7_900),
    (4, 40, True, 4_100), (1, 40, True, 101), (1, 40, False, 101), (1, 4, False, 15_500), (8, 40, True, 3_000),
)


class Admissions(unittest.TestCase):
    def admission(self, slots=2, limit=99, now=0.0):
        admission = lm.Admission(limit, lm.PeakMemory())
        admission.measure(slots / lm.SLOTS_PER_CORE, 0.0, 1 << 20, 0, None, now)
        self.assertEqual(admission.slots, min(slots, limit))
        return admission

    def test_capacity(self):
        for row in CAPACITIES:
            with self.subTest(row):
                self.assertEqual(lm.capacity(*row[:-1]), row[-1])

    def test_granted(self):
        admission = self.admission(2)
        self.assertEqual(admission.request(("s", "s", 1), "t1", 99, 0), ("granted", 1))
        self.assertEqual(admission.request(("s", "s", 1), "t2", 99, 0), ("granted", 2))
        answer = admission.request(("s", "s", 1), "t3", 99, 0)
        self.assertEqual(answer[:2], ("parked", 1))
        self.assertGreater(answer[2], 0)
        self.assertIsNone(admission.next_granted(1))
        admission.release("t1", 0.5, 3)
        self.assertEqual(admission.next_granted(3), ("t3", 3, 3))
        admission.release("t1", 0.5, 3)                                 # twice: ignored
        self.assertIsNone(admission.next_granted(3))
        self.assertEqual(admission.counted, {"s": 3})
        for ticket in ("t2", "t3"):
            admission.release(ticket, 0.1, 4)
        self.assertEqual((admission.holders, len(admission.parked), admission.fair.active), ({}, 0, {}))

    def test_many_parked(self):
        """A slot is granted quickly, however many addresses want one for however many users."""
        admission = self.admission(8)
        for number in range(8 + 16 * 256):
            admission.request(("10.0.0.%d" % (number % 16), "s", number), number, 99, 0)
        begin = time.process_time()
        for number in range(8):
            admission.release(number, 0.1, 1)
            self.assertIsNotNone(admission.next_granted(1))
        self.assertLess(time.process_time() - begin, 1)

    def test_fair(self):
        """Freed slots go to the address with the fewest jobs, and there to the user with the fewest, however many
        another has parked, and however many submitters or users it says it is."""
        admission = self.admission(4)
        for i in range(30):
            admission.request(("a", "a%d" % i, i), ("a", i), 99, 0)
        for i in range(4):
            admission.request(("b", "b", 1), ("b", i), 99, 1)
            admission.request(("b", "b", 2), ("c", i), 99, 1)
        got = []
        for i in range(4):
            admission.release(("a", i), 1.0, 2)
            got.append(admission.next_granted(2)[0][0])
        self.assertEqual(got, ["b", "c", "a", "a"])

    def shares(self, slots, hostile, new_instances, claim_mb):
        """Slots that an honest build of 8 at a time had on the average beside so many connections of another address
        that let each reservation lapse and ask again, each for so much memory (of 16 GB)."""
        admission, held = self.admission(slots), 0.0
        names, ends, now = itertools.count(), [], 0.0

        def ask(who):
            number = next(names)
            instance = "h%d" % number if who == "hostile" and new_instances else who
            ticket = who, number
            if admission.request((who, instance, 1), ticket, 500 if who == "honest" else claim_mb, now)[0] == "granted":
                begin(ticket)

        def begin(ticket):
            heapq.heappush(ends, (now + (lm.LEASE_S if ticket[0] == "hostile" else 0.5), ticket))
        for who, count in (("hostile", hostile), ("honest", 8)):
            for _ in range(count):
                ask(who)
        while now < 100:
            at, ticket = heapq.heappop(ends)
            held += (at - now) * sum(holder[0] == "honest" for holder in admission.holders)
            now = at
            admission.release(ticket, 0.5 if ticket[0] == "honest" else 0.0, now)
            ask(ticket[0])
            admission.measure(slots / lm.SLOTS_PER_CORE, 0.0, 16000, 0, None, now)
            granted = admission.next_granted(now)
            while granted:
                begin(granted[0])
                granted = admission.next_granted(now)
        return held / now

    def test_hostile_submitters(self):
        """Whatever another address says of itself, claims and lets lapse, a build has its share: half of the slots."""
        for row in HOSTILE_SUBMITTERS:
            with self.subTest(row):
                self.assertGreater(self.shares(*row), 0.45 * row[0])

    def test_work_conserving(self):
        """Alone, one may have everything; and no slot is idle while a request is parked."""
        admission = self.admission(8)
        for i in range(20):
            admission.request(("a", "a", 1), i, 99, 0)
        self.assertEqual(len(admission.holders), 8)
        for i in range(20):
            admission.release(i, 0.1, i)
            while admission.next_granted(i):
                pass
            self.assertEqual(len(admission.holders), min(8, 19 - i))

    def test_no_overtaking(self):
        """Who comes while others are parked does not get the slot that is free before they are asked."""
        admission = self.admission(1)
        admission.request(("a", "a", 1), 1, 99, 0)
        admission.request(("a", "a", 1), 2, 99, 0)
        admission.release(1, 0, 1)
        self.assertEqual(admission.request(("a", "a", 1), 3, 99, 1)[0], "parked")
        self.assertEqual(admission.next_granted(1)[0], 2)

    def test_withdrawn(self):
        admission = self.admission(1)
        for i in range(3):
            admission.request(("a", "a", 1), i, 99, 0)
        admission.release(1, 0, 1)
        admission.release(0, 0, 2)
        self.assertEqual(admission.next_granted(2)[0], 2)
        self.assertEqual(len(admission.parked), 0)

    def test_refusal(self):
        admission = self.admission(2)
        admission.request(("a", "a", 1), 1, 99, 0)
        admission.measure(4, 0, 1 << 20, 0, "draining", 1)
        self.assertEqual(admission.request(("a", "a", 1), 2, 99, 1), ("refused", "draining"))
        self.assertIsNone(admission.next_granted(1))
        admission.measure(4, 0, 1 << 20, 0, None, 2)
        self.assertEqual(admission.request(("a", "a", 1), 2, 99, 2)[0], "granted")

    def test_shrinks(self):
        """Fewer slots than are held: none is granted until enough came back; local compiles count."""
        admission = self.admission(4)
        for i in range(5):
            admission.request(("a", "a", 1), i, 99, 0)
        admission.measure(1, 0, 1 << 20, 0, None, 1)
        for i in range(2):
            admission.release(i, 0, 2)
            self.assertIsNone(admission.next_granted(2))
        admission.local_running = 1
        admission.release(2, 0, 3)
        self.assertIsNone(admission.next_granted(3))
        admission.release(3, 0, 3)
        self.assertEqual(admission.next_granted(3)[0], 4)               # one is always let in
        self.assertIsNone(admission.next_granted(3))

    def test_user_at_machine(self):
        """No new grants for a quarter of a second after foreign load was noticed."""
        admission = self.admission(4)
        admission.measure(3.2, 2.0, 1 << 20, 0, None, 1)
        self.assertEqual(admission.request(("a", "a", 1), 1, 99, 1)[0], "parked")
        self.assertIsNone(admission.next_granted(1 + lm.GRANT_PAUSE_S / 2))
        self.assertEqual(admission.next_granted(1 + lm.GRANT_PAUSE_S)[0], 1)

    def test_memory(self):
        """Slots are as many as the memory allows that is free and promised to nobody."""
        admission = lm.Admission(99, lm.PeakMemory())

        def measure(available_mb, now):
            admission.measure(16, 0.0, available_mb, 500, None, now)
            return admission.slots
        self.assertEqual(measure(500 + 4 * 512, 0), 4)
        self.assertEqual(admission.request(("a", "a", 1), 1, 1024, 0), ("granted", 1))
        self.assertEqual(admission.request(("a", "a", 1), 2, 512, 0), ("granted", 2))
        self.assertEqual(admission.request(("a", "a", 1), 3, 1024, 0)[0], "parked")      # 512 are left
        self.assertEqual(admission.request(("a", "a", 1), 4, 100, 0)[0], "parked")   # nor does it overtake the third
        self.assertEqual(measure(500 + 4 * 512, 0.01), 3)                           # two, and one more
        self.assertIsNone(admission.next_granted(0.01))
        admission.release(1, 0, 0.02)
        self.assertEqual([admission.next_granted(0.02)[0] for _ in "ab"], [3, 4])
        self.assertIsNone(admission.next_granted(0.02))
        for ticket in (2, 3, 4):
            admission.release(ticket, 0, 0.03)
        self.assertEqual((measure(500 + 4 * 512, 0.04), admission.free_mb, admission.needs), (4, 4 * 512, {}))

    def test_memory_seen(self):
        """A job that has run for long has taken what it needs: its promise is not counted twice."""
        admission = lm.Admission(99, lm.PeakMemory())
        admission.job_s.add(10)
        admission.measure(16, 0.0, 3000, 0, None, 0)
        admission.request(("a", "a", 1), 1, 1000, 0)
        for now, free in ((0, 2000), (5, 2500), (10, 3000), (20, 3000)):
            admission.measure(16, 0.0, 3000, 0, None, now)
            self.assertEqual(admission.free_mb, free)

    def test_memory_refused(self):
        """A job that needs more than an idle host has goes elsewhere, busy as the host may be; a usual one is tried."""
        for available_mb, answer in ((700, "refused"), (1300, "parked")):           # somebody's end may change that
            admission = lm.Admission(99, lm.PeakMemory())
            admission.measure(16, 0.0, available_mb, 500, None, 0)
            self.assertEqual(admission.slots, 1)
            if answer == "refused":
                self.assertEqual(admission.request(("a", "a", 1), 1, 768, 0), ("refused", "memory"))
            self.assertEqual(admission.request(("a", "a", 1), 2, 512, 0)[0], "granted")
            self.assertEqual(admission.request(("a", "a", 1), 3, 768, 0)[0], answer)
            admission.measure(16, 0.0, available_mb - 250, 500, None, 5)            # half of it is taken
            self.assertEqual(admission.request(("a", "a", 1), 4, 768, 5)[0], answer)

    def test_memory_cold(self):
        """Before the first job has ended its promised memory is not forgotten; nor after long."""
        admission, number = lm.Admission(99, lm.PeakMemory()), 0
        for now in (0, 1, 3, 60):
            taken_mb = min(now * 5, 500) * len(admission.holders)
            admission.measure(64, 0.0, 4096 - taken_mb, 0, None, now)
            while admission.free(now) > 0 and admission.request(("a", "a", 1), number, 512, now)[0] == "granted":
                number += 1
            for ticket in list(admission.parked):
                admission.release(ticket, 0, now)
            self.assertLessEqual(len(admission.holders), 11 if now < 60 else 14, now)

    def test_memory_learnt(self):
        """What a server has seen its jobs take sets the number of its slots."""
        admission = lm.Admission(99, lm.PeakMemory())
        for peak, slots in ((60, 20), (2000, 1)):
            for _ in range(40):
                admission.memory.observe(lm.PeakMemory.SERVED, peak)
            admission.measure(16, 0.0, 2200, 0, None, 0)
            self.assertEqual(admission.slots, slots)

    def test_counted_recent(self):
        """A submitter is named for a minute after its last job began, and as long as it has one: who is gone, or was
        restarted, does not share the host for ever."""
        admission, minute = self.admission(9), lm.SUBMITTER_MEMORY_S
        for ticket in ("old", "long"):
            admission.request((ticket, ticket, 1), ticket, 99, 0)
        admission.release("old", 1, 1)
        for now, wanted in ((minute - 1, {"old": 1, "long": 2}), (minute + 1, {"long": 2})):
            admission.measure(9, 0.0, 1 << 20, 0, None, now)
            self.assertEqual(admission.counted, wanted)
        admission.release("long", 1, 2 * minute)
        admission.measure(9, 0.0, 1 << 20, 0, None, 2 * minute)
        self.assertEqual((admission.counted, admission.counted_at), ({}, {}))

    def test_counted_bounded(self):
        admission = self.admission(2)
        for i in range(200):
            admission.request((i, i, 1), i, 99, 0)
            admission.release(i, 0, 0)
        self.assertLessEqual(len(admission.counted), 64)
        self.assertEqual(admission.counted[199], 200)


class Hosts(unittest.TestCase):
    def granted(self, scheduler, host, reservation, now):
        """One job of the scheduler gets a slot on this host."""
        job = a_job(scheduler, now)
        (_, request), = done_actions(scheduler, now, "ask")
        self.assertIs(request.host, host)
        self.assertIs(scheduler.granted(request, reservation, now), job)
        self.assertEqual(scheduler.actions, [("socket", job, request)])
        scheduler.actions = []
        scheduler.check()
        return job

    def test_own_dispatches(self):
        """What was sent after a report is added to it, exactly: the report names what it counts."""
        scheduler = a_scheduler(("h", 9))
        host = scheduler.hosts["h"]

        def report(running, counted, now):
            scheduler.report(host, host_load(9, running, counted), now)
            scheduler.counted_to(host, counted)
        report(3, 0, 0)                                             # three of somebody else
        self.assertEqual(host.occupied(), 3)
        first, second = self.granted(scheduler, host, 4, 0), self.granted(scheduler, host, 5, 0)
        self.assertEqual(host.occupied(), 5)
        report(4, 4, 1)                                             # counts the first, not yet the second
        self.assertEqual(host.occupied(), 5)
        scheduler.finished(first, figures(), 1)                     # ended after the report that counts it
        self.assertEqual(host.occupied(), 4)
        report(4, 5, 2)
        self.assertEqual(host.occupied(), 4)
        scheduler.cancelled(second, 2)
        self.assertEqual(host.occupied(), 3)
        report(0, 5, 3)
        self.assertEqual((host.occupied(), host.uncounted, host.ended, host.counters["ok"], host.counters["cancelled"]),
                         (0, 0, 0, 1, 1))

    def test_many_submitters(self):
        """A report names the 20 submitters that got a slot last: of one that is left out all jobs are counted, else it
        would take the host for busy until they end."""
        for others in (lm.Load.COUNTED_MOST - 1, 2 * lm.Load.COUNTED_MOST):
            scheduler = a_scheduler(("h", 5))
            host, admission = scheduler.hosts["h"], lm.Admission(5, lm.PeakMemory())
            admission.measure(8, 0.0, 1 << 20, 0, None, 0)
            for at in range(3):
                _, number = admission.request(("us", b"submitte", 1), at, 99, 0)
                self.granted(scheduler, host, number, 0)
            for at in range(others):
                admission.request(("o", b"%08d" % at, 1), b"o", 99, 1)
                admission.release(b"o", 0.1, 1)
            load = host_load(5, 3)
            load.counted = dict(admission.counted)
            load = lm.Load.parse(load.encode())
            scheduler.report(host, load, 1)
            scheduler.counted_to(host, load.counted_of(b"submitte"))
            self.assertEqual((others, host.occupied()), (others, 3))

    def test_asking_counts(self):
        scheduler = a_scheduler(("h", 2))
        for i in range(5):
            a_job(scheduler, 0, source=str(i))
        asked = done_actions(scheduler, 0, "ask")
        self.assertLessEqual(len(asked), 3)                         # two slots, and one to park
        self.assertEqual(scheduler.hosts["h"].asking, len(asked))

    def test_back_off(self):
        """2, 4, 8 .. 60 s; then one job alone as a probe, and success ends it."""
        host, now = lm.Host("h", "h", "peer"), 0.0
        for wait in (2, 4, 8, 16, 32, 60, 60):
            host.report_at, host.load = now, host_load()
            host.fails("connect", "", now)
            host.fails("connect", "", now + 0.1)                    # jobs under way fail with it: one mishap
            host.report_at = now + wait
            self.assertFalse(host.usable(now + wait - 0.01))
            self.assertTrue(host.usable(now + wait))
            self.assertEqual(host.state(now + wait)[0], "suspect")
            now += wait
        host.recovers()
        self.assertTrue(host.usable(now))
        self.assertEqual(host.state(now), ("up", ""))
        for _ in range(3000):                                       # for days
            host.fails("connect", "", now)
            now = host.retry_at
        host.fails("connect", "", now)
        self.assertEqual(host.retry_at, now + lm.BACKOFF_MAX_S)

    def test_probe(self):
        scheduler = a_scheduler(("h", 4), ("g", 4), cores=1)
        host = scheduler.hosts["h"]
        host.fails("connect", "", 0)
        for i in range(9):
            a_job(scheduler, 0, source=str(i))
        self.assertNotIn(host, [request.host for _, request in done_actions(scheduler, 0, "ask")])
        for key in "hg":
            scheduler.report(scheduler.hosts[key], host_load(4), 2)
        probes = [request for _, request in done_actions(scheduler, 2.1, "ask") if request.host is host]
        self.assertEqual(len(probes), 1)
        scheduler.refused(probes[0], "connect", "", 2.2)
        self.assertEqual((host.failures, host.retry_at), (2, 6.2))

    def test_probe_waits(self):
        """A host to be probed that is full of others' jobs: one request waits there, and is not sent again and again;
        where it fell full before it was asked, too."""
        for waiting in (0, 1):
            scheduler = a_scheduler(("h", 4), ("g", 4), slots=1, cores=1)
            scheduler.hosts["h"].fails("closed", "", 0)
            for key in "hg":
                scheduler.report(scheduler.hosts[key], host_load(4, 4, waiting=waiting), 2.1)
            a_job(scheduler, 2.2)
            asked = []
            for _ in range(20):
                requests = [request for _, request in done_actions(scheduler, 2.2, "ask")]
                for request in requests:
                    asked.append(request.host.name)
                    scheduler.parked(request, 2.2)
            self.assertEqual(sorted(asked), ["g", "h"], waiting)
            scheduler.check()

    def test_silence(self):
        scheduler = a_scheduler(("h", 4))
        host, limit = scheduler.hosts["h"], lm.PEER_TIMEOUT_S
        job = self.granted(scheduler, host, 1, 0)
        scheduler.second_places = 9
        scheduler.tick(limit)
        self.assertEqual(job.state, "remote")
        scheduler.tick(limit + 0.1)
        self.assertIsNone(job.lease)
        self.assertEqual(host.state(limit + 0.1)[0], "down")
        self.assertEqual([a[0] for a in done_actions(scheduler, limit + 0.1)], ["local"])
        self.assertEqual(job.reason, "hosts-failed")
        scheduler.report(host, host_load(), limit + 1)              # back again, with a clean slate
        self.assertTrue(host.usable(limit + 1))
        scheduler.check()

    def test_slow_reporters(self):
        """A host that says it reports each ten seconds is not silent after five."""
        scheduler = a_scheduler(("h", 4))
        host = scheduler.hosts["h"]
        load = host_load()
        load.interval_ms = 10_000
        scheduler.report(host, load, 0)
        self.assertFalse(host.silent(29.9))
        self.assertTrue(host.silent(30.1))

    def test_restart(self):
        """Another instance id: what was held against the host is forgotten."""
        scheduler = a_scheduler(("h", 4))
        host = scheduler.hosts["h"]
        host.fails("protocol", "", 0)
        host.misfit(IDENTITY, 0)
        scheduler.report(host, host_load(), 0.5)
        self.assertEqual((host.failures, list(host.misfits)), (1, [IDENTITY]))
        scheduler.report(host, host_load(instance=b"serverBB"), 0.6)
        self.assertEqual((host.failures, host.misfits), (0, {}))

    def test_states(self):
        for load, wanted in ((host_load(), "up"), (host_load(4, 4), "busy"),
                             (host_load(state=lm.STATE_DRAINING), "draining"),
                             (host_load(state=lm.STATE_SHORT), "busy")):
            host = lm.Host("h", "h", "peer")
            self.assertEqual(host.state(0)[0], "down")
            host.load, host.report_at = load, 0
            self.assertEqual(host.state(0)[0], wanted)
            self.assertEqual(host.usable(0), load.state == lm.STATE_UP)

    def test_offers(self):
        peer, plain = lm.Host("h", "h", "peer"), lm.Host("d", "d", "distccd", listed_slots=4)
        self.assertFalse(peer.offers(IDENTITY, 0, 0))
        peer.load = host_load()
        self.assertEqual([peer.offers(IDENTITY, 0, 0), peer.offers(b"othercmp", 0, 0), peer.offers(IDENTITY, 1, 0)],
                         [True, False, False])
        peer.load = host_load(capabilities=lm.CAN_DIRECTIVES)
        self.assertTrue(peer.offers(IDENTITY, 1, 0))
        self.assertEqual([plain.offers(IDENTITY, 0, 0), plain.offers(IDENTITY, 1, 0)], [True, False])

    def test_misfits(self):
        """A compiler that was refused is not asked for for a while; what clients say fills no memory."""
        host = lm.Host("d", "d", "distccd", listed_slots=4)
        host.misfit(IDENTITY, 0)
        self.assertEqual([host.offers(IDENTITY, 0, at) for at in (0, lm.MISFIT_S - 1, lm.MISFIT_S)],
                         [False, False, True])
        for i in range(3 * lm.MISFITS_KEPT):
            host.misfit(b"%08d" % i, 1)
        self.assertEqual(len(host.misfits), lm.MISFITS_KEPT)
        host.misfit(IDENTITY, 1 + lm.MISFIT_S)
        self.assertEqual(list(host.misfits), [IDENTITY])


class Audiences(unittest.TestCase):
    """Who gets reports, and how often."""

    def audience(self, count):
        hosts = {}
        for i in range(count):
            host = hosts[str(i)] = lm.Host(str(i), str(i), "peer", lm.Endpoint(("10.0.%d.%d" % divmod(i, 250), 3632)))
            host.address = host.endpoint[0]
        return lm.Audience(hosts)

    def test_small(self):
        audience = self.audience(lm.LARGE_FARM_HOSTS - 1)
        self.assertTrue(audience.hear(("10.9.9.9", 1), 5.0))
        self.assertFalse(audience.hear(("10.9.9.9", 1), 5.0))
        for now in (5.0, 6.0):
            ((targets, _, interval_s),) = audience.due(now)
            self.assertEqual((len(targets), interval_s), (lm.LARGE_FARM_HOSTS, lm.REPORT_INTERVAL_S))
        ((targets, _, _),) = audience.due(5.0 + lm.SUBMITTER_MEMORY_S)
        self.assertEqual(len(targets), lm.LARGE_FARM_HOSTS - 1)

    def test_large(self):
        """A packet a second to who has submitted lately, one in ten seconds to the rest; all at once where wanted."""
        audience = self.audience(1000)
        audience.hear(("10.9.9.9", 1), 0.0)
        audience.asked("10.9.9.9", 0.0)
        sent = collections.Counter()
        for now in range(100):
            for targets, _, interval_s in audience.due(float(now)):
                sent.update(targets)
                self.assertIn(interval_s, (lm.REPORT_INTERVAL_S, lm.SLOW_REPORT_INTERVAL_S))
            if now == 30:
                audience.hear(("10.9.9.9", 1), 30.0)
        self.assertEqual(sent.pop(("10.9.9.9", 1)), 60 + (90 - 60) // 10)
        self.assertEqual((set(sent.values()), len(sent)), ({10}, 1000))
        self.assertEqual(sum(len(targets) for targets, _, _ in audience.due(91.0)), 0)
        self.assertEqual(sum(len(targets) for targets, _, _ in audience.due(91.5, True)), 1000)

    def test_large_and_told(self):
        """Nobody waits longer for a report than the last one has said, whenever his minute is over."""
        for phase in range(10):
            audience, last = self.audience(200), {}
            audience.asked("10.0.0.7", 0.0)
            for second in range(100):
                now = phase + second * 0.98
                for targets, _, interval_s in audience.due(now):
                    for target in targets:
                        at, said = last.get(target, (now, interval_s))
                        self.assertLess(now - at, said + 1.5, (phase, target))
                        last[target] = now, interval_s

    def test_large_and_all_submit(self):
        """Nobody is left for the slow row; the broadcast goes out with it all the same."""
        audience = self.audience(200)
        for i in range(200):
            audience.asked("10.0.%d.%d" % divmod(i, 250), 0.0)
        broadcasts = [any(broadcast for _, broadcast, _ in audience.due(float(now))) for now in range(30)]
        self.assertEqual(sum(broadcasts), 3)

    def test_first_job_after_a_pause(self):
        scheduler, asked = a_scheduler(lm.Host("h", "h", "peer")), []
        for now in (1.0, 2.0 + lm.SUBMITTER_MEMORY_S / 2, 3.0 + 2 * lm.SUBMITTER_MEMORY_S):
            a_job(scheduler, now)
            asked.append(scheduler.wants_reports)
            scheduler.wants_reports = False
        self.assertEqual(asked, [True, False, True])


class Choices(unittest.TestCase):
    def test_faster(self):
        """The faster host gets the jobs, until waiting for the slower one's answer is sooner."""
        scheduler = a_scheduler(("fast", 4), ("slow", 4))
        learnt(2.0, 30, scheduler.statistics, "fast")
        learnt(30.0, 30, scheduler.statistics, "slow")
        for i in range(4):
            a_job(scheduler, 0, source=str(i))
        names = [request.host.name for _, request in done_actions(scheduler, 0, "ask")]
        self.assertEqual(names[:3], ["fast"] * 3)
        self.assertNotIn("slow", names)

    def test_loads(self):
        """Of equal hosts the one that others have filled gets nothing."""
        scheduler = a_scheduler(("a", 8), ("b", 8))
        scheduler.report(scheduler.hosts["a"], host_load(8, 7), 0)
        for i in range(4):
            a_job(scheduler, 0, source=str(i))
        self.assertEqual({request.host.name for _, request in done_actions(scheduler, 0, "ask")}, {"b"})

    def test_room_here(self):
        """A core that users and preprocessing need for less than half of the time is free, no other."""
        scheduler = a_scheduler(("a", 8), slots=4)
        for _ in range(9):
            scheduler.statistics.remote.add(10.0)
        for preprocess, foreign, room in ((0.1, 0.0, 4), (0.1, 0.3, 4), (0.1, 0.6, 3), (1.5, 0.0, 3), (1.5, 1.0, 2)):
            scheduler.statistics.preprocess = lm.Mean()
            scheduler.statistics.preprocess.add(preprocess)
            scheduler.foreign, scheduler.fair.active = foreign, {7: 8}
            self.assertEqual(scheduler.local_room(), room, (preprocess, foreign))

    def test_stood_still(self):
        """This box was suspended: nobody is late or silent, and what ran meanwhile says nothing of speeds."""
        scheduler = a_scheduler(("a", 4), lm.Host("d", "d", "distccd", lm.Endpoint(("d", 3632)), 2), cores=1)
        jobs = [a_job(scheduler, 0, source=str(i)) for i in range(6)]
        for _, request in done_actions(scheduler, 0, "ask"):
            scheduler.granted(request, 1, 0)
        running = [job for job in jobs if job.lease]
        self.assertEqual({job.lease.host.name for job in running}, {"a", "d"})
        scheduler.forgive(900)
        scheduler.tick(901)
        self.assertTrue(all(job.lease for job in running))
        for job in running:
            host, before = job.lease.host.key, scheduler.statistics.work(job.lease.host.key, 100)
            scheduler.finished(job, figures(200, 900.0), 901)
            self.assertEqual((scheduler.statistics.host(host).job_s.count, scheduler.statistics.work(host, 100)),
                             (0, before))
        self.assertFalse(a_job(scheduler, 902).slept)

    def test_late_binding(self):
        """The head of the queue gets the slot, whichever job was asked for; with no job left it is closed."""
        scheduler = a_scheduler(("a", 2))
        jobs = [a_job(scheduler, 0, source=str(i)) for i in range(2)]
        asked = [request for _, request in done_actions(scheduler, 0, "ask")]
        scheduler.cancelled(jobs[0], 1)
        self.assertIs(scheduler.granted(asked[0], 1, 1), jobs[1])
        self.assertIsNone(scheduler.granted(asked[1], 2, 1))
        self.assertEqual(scheduler.hosts["a"].counters["cancelled"], 1)
        scheduler.check()

    def test_longest_first(self):
        """Once more wait than the host has slots the longest goes first, of as many as the farm has slots."""
        scheduler = a_scheduler(("a", 2), ("b", 2))
        scheduler.home_limit = 0
        scheduler.statistics.remote.add(10)
        jobs = [a_job(scheduler, 0, source=str(size), size_kb=size) for size in (100, 900, 300, 500, 1000)]
        asked = [request for _, request in done_actions(scheduler, 0, "ask")]
        self.assertIs(scheduler.granted(asked[0], 1, 0), jobs[1])
        self.assertIs(scheduler.granted(asked[1], 2, 0), jobs[4])
        jobs[0].arrived -= 30                                       # in the queue of turns, that is
        self.assertIs(scheduler.suited([jobs[0], jobs[2], jobs[3]], asked[2].host, scheduler.hosts.frame(
            jobs[0].kind(), 0), 0)[0], jobs[3])
        jobs[0].since -= 30                                         # three mean job times: goes first whatever its size
        self.assertIs(scheduler.granted(asked[2], 3, 0), jobs[0])

    def test_local_first(self):
        """This box is one more host: a job that it does in less than half the time, and a second sooner, does not go
        to another, if its speed is known."""
        for slow, kb_s, users, here, home in (
                (5, 0, 0, 5, False), (20, 0, 0, 5, True), (20, 0, 4, 5, False), (5, 80.0, 0, 5, True),
                (20, 0, 0, None, False), (2, 0, 0, 0.5, False)):
            scheduler = a_scheduler(("a", 8))
            scheduler.foreign = users
            learnt(slow, statistics=scheduler.statistics, key="a")
            if here:
                learnt(here, statistics=scheduler.statistics, key="local")
            if kb_s:                                                # a slow link
                figures_of = scheduler.statistics.host("a")
                figures_of.wire_kb_sum, figures_of.wire_s_sum = 1e4, 1e4 / kb_s
            job = a_job(scheduler, 1.0, size_kb=400)
            actions = [what for what, *_ in done_actions(scheduler, 1.0)]
            self.assertEqual((job.state, actions), ("local", ["local"]) if home else ("wait", ["ask"]), (slow, kb_s))

    def test_excluded(self):
        """A slot on a host that failed this job goes to the next job."""
        scheduler = a_scheduler(("a", 4), cores=1)
        jobs = [a_job(scheduler, 0, source=str(i)) for i in range(2)]
        jobs[0].excluded.add("a")
        jobs[0].excluded.add("b")
        request = lm.Request(scheduler.hosts["a"], jobs[0], 0)
        scheduler.groups[jobs[0].group()].requests.append(request)
        scheduler.hosts["a"].asking += 1
        self.assertIs(scheduler.granted(request, 1, 0), jobs[1])

    def test_head_of_line(self):
        """A job that may not go where there is room does not hold up those behind it, on hosts or on this box."""
        for cores, others in ((1, 1), (1, 6), (16, 1)):
            scheduler = a_scheduler(("a", 4), ("b", 4), slots=cores, cores=cores)
            scheduler.report(scheduler.hosts["b"], host_load(4, 4, waiting=2), 0)
            first = a_job(scheduler, 0, source="first")
            first.excluded.add("a")
            if cores == 1:                                          # else this box takes it at once
                (_, request), = done_actions(scheduler, 0, "ask")
                scheduler.parked(request, 0)
            for i in range(others):
                a_job(scheduler, 0, source=str(i))
            asked = done_actions(scheduler, 0, "ask")
            with self.subTest(cores=cores, others=others):
                self.assertEqual({request.host.name for _, request in asked} - {"b"}, {"a"})
                self.assertEqual(first.state, "wait" if cores == 1 else "local")
                for _, request in asked:
                    if request.host.name == "a":
                        self.assertIsNot(scheduler.granted(request, 1, 0), first)
                scheduler.check()

    def test_unanswered(self):
        """A question that nobody answers, though the host reports, is given up; so is one parked at a silent host."""
        for parked in (False, True):
            scheduler, late = a_scheduler(("a", 4), cores=1), lm.ADMISSION_TIMEOUT_S + 0.1
            a_job(scheduler, 0)
            (_, request), = done_actions(scheduler, 0, "ask")
            if parked:
                scheduler.parked(request, 0)
            else:
                scheduler.report(scheduler.hosts["a"], host_load(4), late)
            scheduler.tick(late)
            self.assertEqual((request.state, scheduler.hosts["a"].failures), ("ended", 1))
            self.assertIn(("withdraw", request), scheduler.actions)
            scheduler.check()

    def distccd_turns(self, scheduler, jobs, now=1.0):
        """uids in the order in which a plain distccd gets their jobs, one job ending each second."""
        order = []
        while any(job.state in ("wait", "remote") for job in jobs):
            for _, request in done_actions(scheduler, now, "ask"):
                order.append(scheduler.granted(request, 0, now).uid)
            scheduler.actions = []
            now += 1
            oldest = min((job for job in jobs if job.state == "remote"), key=lambda job: job.lease.since)
            scheduler.finished(oldest, lm.JobFigures(9, "c", "s", 1.0, 9, None), now)
        return order

    def test_fair_by_uid(self):
        """Two users of one box and a farm of plain distccds: the queue is fair though nobody parks there."""
        scheduler = a_scheduler(lm.Host("d", "d", "distccd", lm.Endpoint(("d", 3632)), 2), slots=1, cores=0)
        jobs = [a_job(scheduler, 0, 1, "big%d" % i) for i in range(20)]
        first = done_actions(scheduler, 0, "ask")
        self.assertEqual([scheduler.granted(request, 0, 0).uid for _, request in first], [1, 1])
        jobs += [a_job(scheduler, 1, 2, "small%d" % i) for i in range(4)]
        order = self.distccd_turns(scheduler, jobs)
        self.assertEqual(len(order), 22)
        self.assertEqual(order[:10].count(2), 4, order)

    def test_no_host(self):
        scheduler = a_scheduler(("a", 4))
        job = lm.Job(1, "t.c", "t.o", "c", "k", None, 0)
        job.identity = b"othercmp"
        scheduler.hello(job, 0)
        self.assertEqual((job.state, job.reason), ("home", "no-host"))
        self.assertEqual(a_job(a_scheduler(), 0).reason, "no-host")

    def test_own_only(self):
        """A job that only daemons of ours can take is never sent to a plain distccd."""
        scheduler = a_scheduler(lm.Host("d", "d", "distccd", lm.Endpoint(("d", 3632)), 4))
        self.assertEqual(a_job(scheduler, 0).state, "wait")
        job = lm.Job(1, "t.c", "t.o", "c", "k", None, 0)
        job.identity, job.own_only = IDENTITY, True
        scheduler.hello(job, 0)
        self.assertEqual(job.reason, "no-host")

    def test_group_without_host(self):
        """The last host goes: who waits is told at once."""
        scheduler = a_scheduler(("a", 1), cores=1)
        jobs = [a_job(scheduler, 0, source=str(i)) for i in range(3)]
        requests = [request for _, request in done_actions(scheduler, 0, "ask")]
        scheduler.report(scheduler.hosts["a"], host_load(state=lm.STATE_DRAINING), 1)
        for request in requests:
            scheduler.refused(request, "draining", "", 1)
        done_actions(scheduler, 1)
        self.assertEqual({job.reason for job in jobs}, {"no-host"})
        self.assertEqual({job.state for job in jobs}, {"home", "local"})
        scheduler.check()

    def test_memory(self):
        """Of each user apart, and of a build of more files than can be remembered most are."""
        memory, most = lm.Memory(), lm.REFUSALS_REMEMBERED
        memory.remember(1, "k", "messages", "text", 0)
        self.assertEqual(memory.recall(1, "k", lm.REFUSAL_MEMORY_S - 1), ("messages", "text"))
        self.assertIsNone(memory.recall(1, "k", lm.REFUSAL_MEMORY_S))
        self.assertIsNone(memory.recall(2, "k", 0))                 # another's
        for now in (1, 2, lm.REFUSAL_MEMORY_S + 3):
            for i in range(most + 10):
                if not memory.recall(2, i, now):
                    memory.remember(2, i, "messages", "", now)
            self.assertEqual(len(memory.users.rows(2)), most)
            self.assertEqual(sum(memory.recall(2, i, now) is not None for i in range(most + 10)), most)
        self.assertEqual(memory.recall(1, "k", 2), ("messages", "text"))

    def test_rows_of_each_user(self):
        """One user's push out nobody else's; users who come no more go."""
        rows = lm.PerUser(3)
        for uid in range(lm.USERS_REMEMBERED):
            rows.put(uid, "k", uid)
        for key in range(9):
            rows.put(0, key, key)
        self.assertEqual([len(rows.rows(uid)) for uid in (0, 1)], [3, 1])
        self.assertEqual(list(rows.rows(0).values()), [6, 7, 8])
        for uid in range(1000, 1000 + lm.USERS_REMEMBERED):
            rows.put(0, "k", 0)
            rows.put(uid, "k", uid)
        self.assertEqual((len(rows.users), len(rows.rows(0)), len(rows.rows(1))), (lm.USERS_REMEMBERED, 3, 0))

    def test_many_hosts(self):
        """A decision among a thousand hosts weighs a few of them only (bound: 0.1 ms in `make bench`)."""
        scheduler = a_scheduler(*(("h%d" % i, 4) for i in range(1000)))
        scheduler.others_submit = True
        costs, cost = [], scheduler.placement.cost
        scheduler.placement.cost = lambda *words: costs.append(1) or cost(*words)
        a_job(scheduler, 0)
        self.assertEqual(len(done_actions(scheduler, 0, "ask")), 1)
        self.assertLessEqual(len(costs), lm.CANDIDATES_DRAWN + lm.CANDIDATES_ALONE_MAX)


class CheapChoices(unittest.TestCase):
    def test_looks(self):
        """How often a host is weighed or looked at for each job does not grow without bound with the
        number of unequal hosts (bound of the CPU time: `make bench`)."""
        looks, cost, serves = [0], lm.Placement.cost, lm.Roster.serves

        def counted(function, *words):
            looks[0] += 1
            return function(*words)
        for hosts, factor in ((16, 4), (32, 10)):
            looks[0] = 0
            with unittest.mock.patch.object(lm.Placement, "cost", lambda *words: counted(cost, *words)), \
                    unittest.mock.patch.object(lm.Roster, "serves", lambda *words: counted(serves, *words)):
                many_hosts(hosts, factor, 200, 600)
            with self.subTest(hosts=hosts, factor=factor):
                self.assertLess(looks[0] / 600, 400)


class Mishaps(unittest.TestCase):
    """What goes wrong with a job, and who is to blame."""

    def test_distccd_late(self):
        """A plain distccd reports nothing: its job is late after max(30 s, 5 times the prediction)."""
        scheduler = a_scheduler(lm.Host("d", "d", "distccd", lm.Endpoint(("d", 3632)), 2))
        job = a_job(scheduler, 0)
        scheduler.granted(done_actions(scheduler, 0, "ask")[0][1], 0, 0)
        scheduler.second_places = 9                                 # no more are hedged
        scheduler.tick(29)
        self.assertEqual(job.state, "remote")
        scheduler.tick(31 + 5 * job.predicted_s)
        self.assertIsNone(job.lease)
        self.assertTrue(scheduler.hosts["d"].failures)

    def test_long_job(self):
        """A host of ours that reports and says that it runs a job has as long as its --job-timeout, and no blame then;
        one that reports fewer jobs than it took is stuck."""
        for running, ends_at in ((1, 631), (0, 61)):
            scheduler = a_scheduler(("a", 4), ("b", 4))
            scheduler.job_timeout_s = 600
            job = a_job(scheduler, 0)
            (_, request), = done_actions(scheduler, 0, "ask")
            scheduler.granted(request, 7, 0)
            a_job(scheduler, 0, source="2", sized=False)            # it is not yet the end of the build
            host, now = request.host, 0
            while job.lease and now < 1000:
                now += 1
                for other in scheduler.hosts.values():
                    scheduler.report(other, host_load(4, running if other is host else 0), now)
                    scheduler.counted_to(other, 7)
                scheduler.tick(now)
            self.assertEqual((now, host.failures), (ends_at, 1 - running))
            self.assertEqual(host.counters, {"ok": 0, "failed": 1 - running, "refused": 0, "cancelled": running})
            self.assertEqual(job.state, "home" if running else "wait")
            scheduler.check()

    def test_ended_here(self):
        """What a killed or a failed compile took says nothing of this box's speed."""
        for ok in (True, False, None):
            scheduler = a_scheduler(("a", 1), slots=4, cores=4)
            job = a_job(scheduler, 0)
            scheduler.go_home(job, "local-is-faster", 0)
            scheduler.pump(0)
            self.assertEqual(job.state, "local")
            scheduler.local_ended(job, ok, 0.2)
            self.assertEqual(scheduler.statistics.host("local").samples, 1 if ok else 0)

    def moved(self):
        """A job that was taken from a silent host and has a slot on another: (scheduler, job, first, second host)."""
        scheduler = a_scheduler(("a", 4), ("b", 4), slots=1, cores=1)
        job = a_job(scheduler, 0)
        hosts = []
        for now in (0, 1):
            (_, request), = done_actions(scheduler, now, "ask")
            scheduler.granted(request, 1, now)
            scheduler.actions = []
            hosts.append(request.host)
            if not now:
                scheduler.failed(job, "silent", "", 1)
        return (scheduler, job, *hosts)

    def test_words_cross(self):
        """What a client says of its first place, when the second is on its way, is held for or against the first."""
        scheduler, job, first, second = self.moved()
        scheduler.failed(job, "closed", "", 1.1, first.name)
        self.assertEqual((job.state, job.lease.host, second.failures), ("remote", second, 0))
        scheduler.failed(job, "closed", "", 1.2, second.name)
        self.assertEqual((job.lease, second.failures, job.reason), (None, 1, "hosts-failed"))
        scheduler, job, first, second = self.moved()
        scheduler.to_local(job, "compile-error", 1.1, first.name)
        self.assertEqual((job.state, job.suspect_host), ("home", None))
        scheduler, job, first, second = self.moved()
        scheduler.finished(job, figures(), 1.1, first.name)
        self.assertEqual([(host.counters["ok"], host.counters["failed"], host.counters["cancelled"], host.failures)
                          for host in (first, second)], [(1, 0, 0, 0), (0, 0, 1, 0)])
        self.assertEqual((job.decision.choice, scheduler.statistics.host(second.key).job_s.count), (first.name, 0))
        scheduler.check()

    def test_tries(self):
        """A mishap: another host; the second: this box. The host that failed backs off."""
        scheduler = a_scheduler(("a", 4), ("b", 4))
        job = a_job(scheduler, 0)
        tried = []
        for now in (0.1, 0.2):
            (_, request), = done_actions(scheduler, now, "ask")
            scheduler.granted(request, 1, now)
            scheduler.actions = []
            tried.append(request.host.name)
            scheduler.failed(job, "garbage", "", now)
        self.assertEqual(sorted(tried), ["a", "b"])
        self.assertEqual([action[0] for action in done_actions(scheduler, 0.3)], ["local"])
        self.assertEqual((job.state, job.reason, scheduler.totals["fallback"]), ("local", "hosts-failed", 1))
        self.assertEqual([host.failures for host in scheduler.hosts.values()], [1, 1])
        scheduler.local_ended(job, True, 1)
        scheduler.check()
        self.assertEqual(scheduler.jobs, set())

    def test_timeout(self):
        """A job that takes longer than hosts allow is tried once, is held against no host, and stays here then."""
        scheduler = a_scheduler(("a", 4), ("b", 4))
        job = a_job(scheduler, 0)
        scheduler.granted(done_actions(scheduler, 0, "ask")[0][1], 1, 0)
        scheduler.failed(job, "timeout", "", 600)
        self.assertEqual((job.state, job.reason), ("home", "timeout"))
        self.assertEqual([host.failures for host in scheduler.hosts.values()], [0, 0])
        for host in scheduler.hosts.values():
            scheduler.report(host, host_load(), 601)
        self.assertEqual(a_job(scheduler, 601).reason, "remembered")
        job = a_job(scheduler, 601, source="other")
        scheduler.granted(done_actions(scheduler, 601, "ask")[0][1], 2, 601)
        scheduler.job_timeout_s = 600                           # its host does not end it
        for host in scheduler.hosts.values():
            scheduler.report(host, host_load(running=1), 1300)
            scheduler.counted_to(host, 2)
        scheduler.tick(1300)
        self.assertEqual(job.state, "home")
        self.assertEqual(a_job(scheduler, 1300, source="other").reason, "remembered")

    def test_killed(self):
        """A file on which compilers die by a signal: the file is to blame first, the host after two of them."""
        scheduler = a_scheduler(("a", 4))
        for number, state in ((1, "up"), (1, "up"), (2, "suspect")):
            job = a_job(scheduler, 0, source=str(number))
            if job.reason != "remembered":
                scheduler.granted(done_actions(scheduler, 0, "ask")[0][1], number, 0)
                scheduler.failed(job, "killed", "signal 11", 1)
            self.assertEqual(scheduler.hosts["a"].state(1)[0], state)

    def test_lapses(self):
        """A lapsed lease is nobody's fault: asked again without back-off, the third goes local."""
        scheduler = a_scheduler(("a", 4))
        job = a_job(scheduler, 0)
        for now in (1, 2, 3):
            (_, request), = done_actions(scheduler, now, "ask")
            scheduler.granted(request, now, now)
            scheduler.actions = []
            scheduler.failed(job, "lease-over", "", now)
            self.assertEqual(scheduler.hosts["a"].failures, 0)
        self.assertEqual([action[0] for action in done_actions(scheduler, 3)], ["local"])

    def test_blameless(self):
        """A host that refuses the job, not jobs, does not back off; file and flags are remembered, or that it has not
        this compiler, for a while."""
        for name in sorted(lm.BLAMELESS - {"lease-over"}):
            scheduler = a_scheduler(("a", 4))
            job = a_job(scheduler, 0)
            scheduler.granted(done_actions(scheduler, 0, "ask")[0][1], 1, 0)
            scheduler.failed(job, name, "", 1)
            self.assertEqual((scheduler.hosts["a"].failures, scheduler.hosts["a"].counters["refused"]), (0, 1), name)
            again = a_job(scheduler, 2)
            self.assertEqual(again.reason, "no-host" if name == "compiler-unknown" else "remembered", name)
            scheduler.report(scheduler.hosts["a"], host_load(), 2 + lm.MISFIT_S)
            later = a_job(scheduler, 2 + lm.MISFIT_S)
            self.assertEqual(later.state, "wait" if name == "compiler-unknown" else "home", name)


class Exploring(unittest.TestCase):
    """Hosts of which little is known, and jobs that need more than most."""

    def test_unknown_host(self):
        """At most a quarter of the cores of a host that has not shown three results."""
        scheduler = a_scheduler(("new", 16))
        scheduler.statistics.host("new").samples = 0
        for i in range(12):
            a_job(scheduler, 0, source=str(i))
        self.assertLessEqual(len(done_actions(scheduler, 0, "ask")), 4 + 1)

    def test_unknown_host_grants(self):
        """Nor does it get more by requests that wait there, as others have all slots elsewhere; but where most are new
        no slot stays empty."""
        for full in (2, 0):
            self.assertEqual(self.granted_by_a_new_host(full), 4 if full else 16)

    def granted_by_a_new_host(self, full):
        """Leases of 20 jobs on an unknown host that has 16 slots, beside `full` known ones that have none left."""
        scheduler = a_scheduler(("new", 16), *(("full%d" % i, 4) for i in range(full)), cores=0)
        scheduler.statistics.host("new").samples = 0
        for i in range(20):
            a_job(scheduler, 0, source=str(i))
        while True:
            asked = done_actions(scheduler, 0, "ask")
            if not asked:
                break
            for _, request in asked:
                if request.host.name != "new" or len(request.host.leases) == 16:
                    scheduler.parked(request, 0)
                else:
                    scheduler.granted(request, 1, 0)
        return len(scheduler.hosts["new"].leases)

    def test_unknown_small_first(self):
        """A host that must show first how it does gets small jobs: a new one, and one that has failed."""
        for failed in (False, True):
            scheduler = a_scheduler(("new", 16))
            scheduler.statistics.host("new").samples = lm.UNKNOWN_HOST_RESULTS if failed else 0
            jobs = [a_job(scheduler, 0, source=str(size), size_kb=size) for size in (500, 100, 900)]
            if failed:
                scheduler.hosts["new"].fails("connect", "", -9)
            request = done_actions(scheduler, 0, "ask")[0][1]
            self.assertIs(scheduler.granted(request, 1, 0), jobs[1])

    def test_published(self):
        """A host that has told of its own speed is no unknown one."""
        scheduler = a_scheduler(("new", 16), cores=1)
        scheduler.statistics.host("new").samples = 0
        scheduler.statistics.told("new", 9000, 9.0)
        for i in range(12):
            a_job(scheduler, 0, source=str(i))
        self.assertEqual(len(done_actions(scheduler, 0, "ask")), 12)

    def tries_of_slow(self, ms_per_kb):
        """How many of 1,500 jobs, one each second, go to a host that takes so long, beside one that takes 1 ms."""
        scheduler = a_scheduler(("fast", 60), ("slow", 60), cores=1)
        learnt(1.0, 30, scheduler.statistics, "fast")
        learnt(ms_per_kb, 30, scheduler.statistics, "slow")
        scheduler.statistics.remote.add(0.1)
        tried = 0
        for i in range(1500):
            for host in scheduler.hosts.values():
                host.report_at = i
            job = a_job(scheduler, i, source=str(i), size_kb=100)
            (_, request), = done_actions(scheduler, i, "ask")
            self.assertIs(scheduler.granted(request, 1, i), job)
            scheduler.actions = []
            slow = request.host.name == "slow"
            scheduler.finished(job, figures(100, 0.1 * (ms_per_kb if slow else 1), source=str(i)), i)
            tried += slow
        return tried

    def test_idle_host(self):
        """A host that got nothing for long is tried now and then, though it is known to be slower; not where that takes
        far longer than jobs do."""
        tried = self.tries_of_slow(2.0)
        self.assertTrue(5 <= tried <= 50, tried)
        self.assertEqual(self.tries_of_slow(12.0), 0)

    def test_out_of_memory(self):
        """Killed for want of memory: half as much again, elsewhere, then here. No host backs off."""
        scheduler = a_scheduler(("a", 4), ("b", 4), ("c", 4))
        scheduler.hosts["b"].load.memory_mb = scheduler.hosts["a"].load.memory_mb = 700
        scheduler.hosts["c"].load.memory_mb = 9000
        job = a_job(scheduler, 0)
        tried, needs = [], []
        job.excluded.add("c")
        for now in (1, 2):
            (_, request), = done_actions(scheduler, now, "ask")
            tried.append(request.host.name)
            needs.append(request.memory_mb)
            scheduler.granted(request, now, now)
            scheduler.actions = []
            job.excluded.discard("c")
            scheduler.failed(job, "out-of-memory", "", now)
        self.assertIn(tried[0], "ab")
        self.assertEqual((tried[1], needs, job.memory_mb), ("c", [512, 768], 1152))
        self.assertEqual([action[0] for action in done_actions(scheduler, 3)], ["local"])
        self.assertEqual([host.failures for host in scheduler.hosts.values()], [0, 0, 0])
        self.assertEqual(a_job(scheduler, 3).reason, "remembered")
        self.assertEqual(a_job(scheduler, 3, source="other").memory_mb, 512)    # sizes that were tried teach nothing

    def test_memory_never_latches(self):
        """Whatever some jobs needed, or a state file says, their like ask for no more than some host has; the peaks of
        those that end well are all that is learnt."""
        for peaks, need in (([], 512), ([9000] * 3, 3888), ([29524] * 40, 3888), ([1e17], 3888), ([700], 768)):
            with self.subTest(peaks[:1]):
                scheduler = a_scheduler(("a", 4), ("b", 4))
                for host, memory in zip(scheduler.hosts.values(), (3000, 6000)):
                    scheduler.report(host, host_load(memory_mb=memory), 0)
                scheduler.statistics.memory.rows["c-O2"] = peaks
                for i in range(20):                                 # each fails twice
                    now = i / 10
                    job = a_job(scheduler, now, source=str(i))
                    self.assertLessEqual(job.memory_mb, 4500)
                    for _ in range(2):
                        for _, request in done_actions(scheduler, now, "ask"):
                            scheduler.granted(request, 1, now)
                        if job.lease:
                            scheduler.failed(job, "out-of-memory", "", now)
                self.assertEqual(scheduler.statistics.memory.rows["c-O2"], peaks)
                job = a_job(scheduler, 3, source="good")
                self.assertLessEqual(job.memory_mb, max(need, 4500))
                self.assertEqual([action[0] for action in done_actions(scheduler, 3, "ask")], ["ask"])

    def test_memory_of_slots(self):
        """A slot is not given to a job that may need more memory than it was asked for; a host that has not as much
        is asked for smaller ones."""
        scheduler = a_scheduler(("a", 4), cores=0)
        small, large = a_job(scheduler, 0, source="1"), a_job(scheduler, 0, source="2")
        large.memory_mb = 1728
        asked = [request for _, request in done_actions(scheduler, 0, "ask")]
        self.assertEqual([request.memory_mb for request in asked], [512, 1728])
        scheduler.cancelled(small, 1)
        self.assertIsNone(scheduler.granted(asked[0], 1, 1))
        small = a_job(scheduler, 1, source="3")
        scheduler.refused(asked[1], "memory", "", 1)
        self.assertEqual((large.excluded, small.excluded, scheduler.hosts["a"].failures), ({"a"}, set(), 0))


class Rosters(unittest.TestCase):
    """Frames of hosts to draw from: kept up to date at each event, and at one point of time without looking at all."""
    KIND = (IDENTITY, lm.MODE_PLAIN, False)

    def roster(self, count, slots=4):
        scheduler = a_scheduler(*(("h%d" % i, slots) for i in range(count)))
        return scheduler, scheduler.hosts, scheduler.hosts.frame(self.KIND, 0)

    def test_room_again(self):
        """However a host comes to have room again, it is a candidate at once."""
        for how in ("lease ends", "request ends", "report"):
            scheduler, roster, frame = self.roster(1, slots=1)
            host, job = roster["h0"], a_job(scheduler, 0)
            (_, request), = done_actions(scheduler, 0, "ask")
            if how == "lease ends":
                scheduler.granted(request, 1, 0)
            if how == "report":
                scheduler.parked(request, 0)
            self.assertEqual(roster.candidates(frame, 0), [])
            self.assertEqual((list(frame.roomy), roster.any_free(self.KIND, 0)), ([], False))
            if how == "report":
                scheduler.report(host, host_load(1), 0)
            else:
                scheduler.cancelled(job, 0)
                scheduler.pump(0)
            self.assertEqual((how, roster.candidates(frame, 0)), (how, [host]))
            self.assertIs(roster.frame(self.KIND, 0), frame)                # nothing was built anew

    def test_comes_and_goes(self):
        scheduler, roster, frame = self.roster(2)
        late = lm.Host("late", "late", "peer", lm.Endpoint(("late", 3632)))
        roster["late"] = late
        self.assertNotIn(late, roster.sample(frame, 0))
        scheduler.report(late, host_load(), 0)                              # from the first report on
        self.assertIn(late, roster.sample(frame, 0))
        gone = roster.pop("h0")
        self.assertNotIn(gone, roster.sample(frame, 0) + roster.candidates(frame, 0))
        late.fails("connect", "", 0)
        self.assertEqual([host.key for host in roster.sample(frame, 0)], ["h1"])
        self.assertFalse(roster.any(self.KIND, 0, {"h1"}))
        now = lm.BACKOFF_FIRST_S + lm.ROSTER_INTERVAL_S + 0.1               # found again as time passes
        self.assertEqual({host.key for host in roster.sample(roster.frame(self.KIND, now), now)}, {"h1", "late"})

    def test_drawn(self):
        """Of many a few are drawn, in proportion to their speed, and none that is full."""
        scheduler, roster, frame = self.roster(100)
        for host in list(roster.values())[:90]:
            host.full = True
        for host in list(roster.values())[95:]:
            scheduler.statistics.host(host.key).prior_k *= 10
        frame, drawn = roster.frame(self.KIND, 0.3), collections.Counter()
        for _ in range(400):
            found = roster.candidates(frame, 0.3)
            self.assertTrue(1 <= len(set(found)) == len(found) <= lm.CANDIDATES_DRAWN)
            drawn.update(int(host.key[1:]) for host in found)
        self.assertGreater(min(drawn), 89)
        fast, slow = (sum(drawn[i] for i in numbers) for numbers in (range(90, 95), range(95, 100)))
        self.assertGreater(fast, 1.2 * slow)
        self.assertEqual(set(drawn), set(range(90, 100)))

    def test_nearly_full(self):
        """The last host with room among a thousand is found."""
        scheduler, roster, _ = self.roster(1000)
        for host in list(roster.values())[:999]:
            host.full = True
        frame = roster.frame(self.KIND, 0)
        self.assertEqual(roster.candidates(frame, 0), [roster["h999"]])
        self.assertEqual(list(frame.roomy), [roster["h999"]])

    def test_frames_bounded(self):
        scheduler, roster, frame = self.roster(1)
        for i in range(lm.FRAMES_KEPT + 9):
            roster.frame((b"%08d" % i, lm.MODE_PLAIN, False), 0)
        self.assertEqual(len(roster.frames), lm.FRAMES_KEPT)


class Hedging(unittest.TestCase):
    """The last jobs of a build: a second place for one that takes far longer than it should."""

    def farm(self, *hosts, cores=1, jobs=1):
        """A scheduler and its jobs, all of them on the first host; the others are free from then on."""
        scheduler = a_scheduler(*hosts, cores=cores)
        scheduler.home_limit = scheduler.slots if cores > 1 else 0
        for host in hosts[1:]:
            scheduler.hosts[host[0]].full = True
        for i in range(jobs):
            a_job(scheduler, 0, source=str(i))
        for _, request in done_actions(scheduler, 0, "ask"):
            scheduler.granted(request, 1, 0)
        scheduler.actions = []
        self.keep(scheduler, 0)
        return scheduler, sorted(scheduler.jobs, key=lambda job: int(job.source))

    def keep(self, scheduler, now):
        """All hosts report, none has others' jobs."""
        for host in scheduler.hosts.values():
            scheduler.report(host, host_load(host.load.slots, 0), now)

    def late(self, job):
        return lm.HEDGE_RATIO * max(job.predicted_s, lm.HEDGE_LEAST_S) + 0.1

    def test_here(self):
        """This box first, where it has a core to spare."""
        scheduler, (job,) = self.farm(("a", 4), ("b", 4), cores=4)
        scheduler.tick(lm.HEDGE_LEAST_S - 0.1)
        self.assertEqual(job.state, "remote")
        scheduler.tick(self.late(job))
        self.assertEqual([action[0] for action in done_actions(scheduler, self.late(job))], ["local"])
        self.assertEqual((job.reason, scheduler.totals["hedged"], scheduler.totals["fallback"]), ("late", 1, 1))
        host = scheduler.hosts["a"]
        self.assertEqual((host.failures, host.counters["cancelled"], host.counters["failed"]), (0, 1, 0))
        scheduler.finished(job, figures(), 9)                   # the first place was done first
        totals = scheduler.totals
        self.assertEqual((totals["remote"], totals["fallback"], scheduler.local_reasons), (1, 0, {}))
        self.assertEqual((host.counters["ok"], host.counters["cancelled"]), (1, 0))
        self.assertEqual((job.decision.choice, job.decision.reason, job.decision.outcome), ("a", None, "ok"))
        self.assertEqual(scheduler.statistics.host("a").job_s.count, 1)
        scheduler.check()

    def test_elsewhere(self):
        scheduler, (job,) = self.farm(("a", 4), ("b", 4))
        now = self.late(job)
        scheduler.tick(now)
        (_, request), = done_actions(scheduler, now, "ask")
        self.assertEqual((request.host.name, job.state), ("b", "wait"))
        self.assertIs(scheduler.granted(request, 2, now), job)
        self.assertEqual((scheduler.totals["hedged"], job.tries), (1, 0))
        scheduler.check()

    def test_pointless(self):
        """Not where the second place would take longer than the job has taken so far."""
        scheduler, (job,) = self.farm(("a", 4), ("b", 4))
        learnt(200.0, 60, scheduler.statistics, "b")
        scheduler.tick(self.late(job))
        self.assertEqual((job.state, scheduler.totals["hedged"]), ("remote", 0))

    def test_not_before_the_end(self):
        """As long as something waits to be dispatched, or is being preprocessed, nothing is done twice."""
        for waits in ("queue", "turn"):
            scheduler, (job,) = self.farm(("a", 1), ("b", 4))
            scheduler.hosts["b"].full = waits == "queue"
            a_job(scheduler, 1, source="9", sized=waits == "queue")
            scheduler.pump(1)
            scheduler.tick(self.late(job))
            self.assertEqual((job.state, scheduler.totals["hedged"]), ("remote", 0))

    def test_share(self):
        """One job in fifty at most, the latest first; one in any case."""
        scheduler, jobs = self.farm(("a", 20), ("b", 20), jobs=10)
        jobs[4].predicted_s /= 2
        scheduler.tick(self.late(jobs[0]))
        self.assertEqual([job for job in jobs if job.state != "remote"], [jobs[4]])
        scheduler.dispatched = 150
        scheduler.cancelled(jobs[4], 5)
        scheduler.tick(self.late(jobs[0]))
        self.assertEqual(scheduler.totals["hedged"], 3)

    def misplaced(self, now, jobs=1, a=20, b=5, known=True, cores=1):
        """Jobs on host a by `now`; each host has shown how fast it is, in ms per KB, b only if `known`."""
        scheduler, found = self.farm(("a", 64), ("b", 64), jobs=jobs, cores=cores)
        learnt(b, statistics=scheduler.statistics, key="local")
        learnt(a, statistics=scheduler.statistics, key="a")
        if known:
            learnt(b, statistics=scheduler.statistics, key="b")
        else:
            scheduler.statistics.host("b").samples = 0
        for job in found:
            job.weight = scheduler.statistics.weight(job.size_kb, *job.keys())
            job.predicted_s = scheduler.statistics.work("a", job.weight)
        self.keep(scheduler, now)
        scheduler.tick(now)
        return scheduler, found

    def test_misplaced(self):
        """What would end much sooner on another host, by what is known at the end, is moved long before it is late."""
        scheduler, (job,) = self.misplaced(1.0)
        (_, request), = done_actions(scheduler, 1.0, "ask")
        self.assertEqual((request.host.name, job.state, scheduler.totals["hedged"]), ("b", "wait", 1))
        scheduler, jobs = self.misplaced(1.0, jobs=20, cores=4)         # the two slots here, and two of 20 at b
        self.assertEqual([job.reason for job in jobs].count("late"), 2)
        self.assertEqual(scheduler.totals["hedged"], 4)
        for more in (dict(b=14), dict(known=False), dict(now=3.5)):     # little gained; nobody knows; nearly done
            scheduler, (job,) = self.misplaced(**{"now": 1.0, **more})
            self.assertEqual((job.state, scheduler.totals["hedged"]), ("remote", 0), more)

    def test_underrated(self):
        """A job that takes longer than predicted takes longer everywhere: it is moved to a far faster host only."""
        for b, moved in ((20, 0), (10, 0), (5, 1)):
            scheduler, (job,) = self.misplaced(6.0, b=b)
            self.assertEqual(scheduler.totals["hedged"], moved, b)

    def test_share_of_misplaced(self):
        """One job in ten at most."""
        scheduler, _ = self.misplaced(1.0, jobs=20)
        self.assertEqual(scheduler.totals["hedged"], 2)

    def test_predicted_well(self):
        """A job that was expected to take long is not late."""
        scheduler, (job,) = self.farm(("a", 4), ("b", 4), cores=4)
        job.predicted_s = 100.0
        self.keep(scheduler, 290)
        scheduler.tick(290)
        self.assertEqual(job.state, "remote")


class UnlikeHosts(unittest.TestCase):
    """A slot of a host that is four times as fast as another."""

    def farm(self, sizes):
        """Both hosts full, jobs of these sizes waiting: (scheduler, {host: request parked there})."""
        scheduler = a_scheduler(("fast", 4), ("slow", 4))
        for name, ms_per_kb in (("fast", 5), ("slow", 20)):
            learnt(ms_per_kb, statistics=scheduler.statistics, key=name)
            scheduler.hosts[name].full = True
        scheduler.statistics.remote = lm.Mean()
        scheduler.statistics.remote.add(1.0)
        for i, size_kb in enumerate(sizes):
            a_job(scheduler, 1.0, source="%d.c" % i, size_kb=size_kb)
        scheduler.pump(1.0)
        return scheduler, {request.host.name: request for what, request in done_actions(scheduler, 1.0, "ask")}

    def test_who_gets_which(self):
        """The fast one gets the longest of the jobs that wait, the slow one the smallest."""
        for name, size_kb in (("fast", 300), ("slow", 20)):
            scheduler, requests = self.farm((100, 300, 20, 200))
            job = scheduler.granted(requests[name], 1, 1.0)
            self.assertEqual(job.size_kb, size_kb)

    def test_long_job_waits(self):
        """A job that the fast host would end much sooner, even after waiting, does not take the slow one's slot."""
        scheduler, requests = self.farm((2000, 2100))
        self.assertEqual(list(requests), ["fast"])
        self.assertEqual(scheduler.granted(requests["fast"], 1, 1.0).size_kb, 2100)
        scheduler, requests = self.farm((2000, 20))
        scheduler.cancelled(min(scheduler.jobs, key=lambda job: job.size_kb), 1.0)     # asked for meanwhile
        self.assertIsNone(scheduler.granted(requests["slow"], 1, 1.0))


# ---- a simulated farm: Schedulers and Admissions, a fake clock, random events

PEAKS_MB = {"c-O2": 150, "c++-O2": 500, "c++-O2-g": 1500}


class SimLink:
    """A TCP connection of a submitter to a server: first for a request, then for a job. A ticket at the server."""

    def __init__(self, submitter, server, request):
        self.submitter, self.server, self.request = submitter, server, request
        self.job, self.starts = None, server.starts
        self.state = "asked"            # at the server: asked, parked, reserved, running, over
        self.open = True                # at the submitter

    def hang_up(self):
        """The submitter closes; the server notices after a while."""
        if self.open:
            self.open = False
            self.server.later(0.005, self.server.end, self, 0.0)


class SimServer:
    """A host: its Admission, and what its daemon does around it."""
    kind = "peer"

    def __init__(self, farm, name, slots, speed):
        self.farm, self.name, self.slots, self.speed = farm, name, slots, speed
        self.alive, self.frozen, self.held_up = True, False, []
        self.sequence = self.starts = 0
        self.withheld_at = None         # since when a parked request could have had a slot
        self.start()

    def start(self):
        """A daemon, with a new instance id."""
        self.starts += 1
        self.instance = ("%s%07d" % (self.name, self.starts)).encode()
        self.admission, self.links, self.draining = lm.Admission(self.slots, lm.PeakMemory()), set(), False
        self.measure()

    def measure(self):
        foreign, available = 0.0, 1 << 20
        if self.farm.varied:
            foreign = self.farm.rng.choice((0, 0, 0, 1.5, self.slots))
            available = self.farm.rng.choice((9000, 9000, 2000))
        self.admission.measure(self.slots, foreign, available, 500, "draining" if self.draining else None,
                               self.farm.now)

    def later(self, delay, do, *words):
        """After `delay`, unless this daemon has died by then; a frozen one does it when it goes on."""
        starts = self.starts

        def run():
            if self.frozen:
                self.held_up.append(run)
            elif self.alive and starts == self.starts:
                do(*words)
        self.farm.at(delay, run)

    def connect(self, link):
        """The question has come, and what the submitter did since it was sent."""
        self.ask(link)
        if not link.open:
            self.later(0.005, self.end, link, 0.0)

    def ask(self, link):
        self.links.add(link)
        answer = self.admission.request((link.submitter.instance, link.submitter.instance, link.request.group[0]),
                                        link, link.request.memory_mb, self.farm.now)
        link.state = {"granted": "reserved", "parked": "parked", "refused": "over"}[answer[0]]
        if answer[0] == "granted":
            self.reserved(link)
        elif answer[0] == "refused":
            self.links.discard(link)
        self.farm.at(self.farm.delay(), link.submitter.answered, link, answer)

    def reserved(self, link):
        self.farm.granted_at(self)
        self.later(lm.LEASE_S, self.lapse, link)

    def lapse(self, link):
        if link.state == "reserved":
            self.end(link, 0.0)

    def begin(self, link, seconds):
        """The job's first bytes have come."""
        if link.state != "reserved":
            self.farm.at(self.farm.delay(), link.submitter.lost, link, "lease-over")
            return
        link.state = "running"
        self.later(seconds / self.speed, self.compiled, link, seconds / self.speed)

    def compiled(self, link, seconds):
        if link.state == "running":
            outcome = self.farm.drawn(("ok", "garbage", "compile-error", "argument", "out-of-memory"), (88, 3, 4, 3, 2))
            self.end(link, seconds)
            self.farm.at(self.farm.delay(), link.submitter.replied, link, outcome, seconds)

    def end(self, link, cpu_s):
        """The slot is free, or the parked request gone; those who wait get what is free."""
        link.state = "over"
        self.links.discard(link)
        self.admission.release(link, cpu_s, self.farm.now)
        self.grant()

    def grant(self):
        while True:
            granted = self.admission.next_granted(self.farm.now)
            if not granted:
                break
            link, reservation, _ = granted
            link.state = "reserved"
            self.reserved(link)
            self.farm.at(self.farm.delay(), link.submitter.answered, link, ("granted", reservation))

    def withholds(self):
        """Whether a slot stays empty though a request is parked that may have it."""
        admission, now = self.admission, self.farm.now
        return bool(self.alive and not self.frozen and admission.parked.keys and admission.free(now) > 0
                    and admission.fits(admission.needs[admission.parked.first(admission.fair, now)]))

    def tick(self):
        if self.alive and not self.frozen:
            self.measure()
            self.grant()

    def report(self):
        """To every submitter, each over its own bad way: lost, late, or overtaken."""
        if not self.alive or self.frozen:
            return
        self.sequence += 1
        admission = self.admission
        state = lm.STATE_DRAINING if admission.refusal else lm.STATE_UP
        for submitter in self.farm.submitters:
            load = host_load(admission.slots, len(admission.holders), instance=self.instance, state=state,
                             waiting=len(admission.parked), sequence=self.sequence,
                             memory_mb=int(max(admission.free_mb, 0)))
            load.counted = dict(admission.counted)
            if self.farm.rng.random() > 0.1:
                self.farm.at(self.farm.rng.choice((0.001, 0.001, 0.01, 1.5)), submitter.heard, self, load)

    def die(self):
        """Power off: connections break at once for some, for others it is silence."""
        self.alive = False
        for link in self.links:
            if self.farm.rng.random() < 0.5:
                self.farm.at(self.farm.delay(), link.submitter.lost, link, "closed")
        self.farm.at(self.farm.rng.uniform(0.5, 20), self.come_back)

    def come_back(self):
        old, self.alive, self.frozen, self.held_up = self.links, True, False, []
        self.start()
        for link in old:                # whoever still writes to the old connections gets a reset
            self.farm.at(self.farm.delay(), link.submitter.lost, link, "closed")

    def freeze(self):
        self.frozen = True
        self.farm.at(self.farm.rng.uniform(0.5, 12), self.thaw)

    def thaw(self):
        self.frozen, held_up, self.held_up = False, self.held_up, []
        for run in held_up:
            run()


class SimDistccd(SimServer):
    """A plain distccd: takes every connection, queues by delaying, reports nothing, refuses by closing."""
    kind = "distccd"

    def start(self):
        self.running, self.queue = set(), []
        super().start()

    def report(self):
        pass

    tick = grant = report

    def ask(self, link):
        self.links.add(link)
        link.state = "connected"
        self.farm.at(self.farm.delay(), link.submitter.answered, link, ("granted", 0))

    def begin(self, link, seconds):
        if link.state == "connected":
            link.state = "queued"
            self.queue.append((link, seconds / self.speed))
            self.next()

    def next(self):
        while self.queue and len(self.running) < self.slots:
            link, seconds = self.queue.pop(0)
            if link.state == "queued":
                link.state = "compiling"
                self.running.add(link)
                self.later(seconds, self.compiled, link, seconds)

    def compiled(self, link, seconds):
        if link.state == "compiling":
            outcome = self.farm.drawn(("ok", "garbage", "compile-error", "closed"), (90, 3, 4, 3))
            self.end(link, seconds)
            self.farm.at(self.farm.delay(), link.submitter.replied, link, outcome, seconds)

    def end(self, link, cpu_s):
        link.state = "over"
        self.links.discard(link)
        self.running.discard(link)
        self.next()


class SimSubmitter:
    """A box whose clients compile: its Scheduler, and what its daemon and the clients do."""

    def __init__(self, farm, number, servers):
        self.farm, self.instance, self.heard_to = farm, b"submit%02d" % number, {}
        self.scheduler = lm.Scheduler(lm.Statistics(), farm.rng.choice((1, 2)), 4, random.Random(farm.rng.random()))
        self.scheduler.others_submit = number % 2 == 0
        for server in servers:
            self.scheduler.hosts[server.name] = lm.Host(server.name, server.name, server.kind,
                                                        lm.Endpoint((server.name, 1)), server.slots)
        self.links = {}                 # job: SimLink that it has
        self.arrived, self.ended = [], {}       # jobs; job: when
        self.open = set()                       # those that have not ended
        self.under_way = {}             # request: SimLink

    def settle(self):
        while True:
            self.scheduler.pump(self.farm.now)
            if not self.scheduler.actions:
                break
            actions, self.scheduler.actions = self.scheduler.actions, []
            for what, subject, *more in actions:
                getattr(self, "do_" + what)(subject, *more)
        for job in [job for job in self.links if job.lease is None]:
            self.links.pop(job).hang_up()
        for job in [job for job in self.open if job.state == "ended"]:
            self.open.remove(job)
            self.ended[job] = self.farm.now

    # -- what the scheduler wants

    def do_turn(self, job):
        self.farm.at(self.farm.rng.uniform(0.01, 0.2), self.preprocessed, job)

    def do_ask(self, request):
        if request.state == "ended":
            return
        server = self.farm.servers[request.host.name]
        link = self.under_way[request] = SimLink(self, server, request)
        if server.alive or self.farm.rng.random() < 0.3:
            server.later(self.farm.delay(), server.connect, link)
        else:
            self.farm.at(self.farm.delay(), self.lost, link, "connect")

    def do_withdraw(self, request):
        link = self.under_way.pop(request, None)
        if link:
            link.hang_up()

    def do_socket(self, job, request):
        if job in self.links:
            self.links.pop(job).hang_up()
        link = self.links[job] = self.under_way.pop(request)
        link.job = job
        patience = self.farm.drawn((0.001, 1.0, 3.0), (90, 7, 3))
        self.farm.at(patience, self.send, link, self.farm.rng.lognormvariate(-0.5, 0.7))

    def send(self, link, seconds):
        """The client begins its job. A dead host says nothing, one that is back resets."""
        if not link.open:
            return
        if not link.server.alive:
            self.farm.at(1.0, self.send, link, seconds)
        elif link.starts != link.server.starts:
            self.lost(link, "closed")
        else:
            link.server.later(0, link.server.begin, link, seconds)

    def do_local(self, job):
        if job in self.links:
            self.links.pop(job).hang_up()
        self.farm.at(self.farm.rng.lognormvariate(-0.5, 0.7), self.ran_here, job)

    # -- what happens to it

    def come(self, uid, source, distributable):
        job_class = self.farm.rng.choice(sorted(PEAKS_MB))
        job = lm.Job(uid, source, source + ".o", job_class, "key of " + source, None, self.farm.now)
        self.arrived.append(job)
        self.open.add(job)
        job.identity = IDENTITY
        if distributable:
            self.scheduler.hello(job, self.farm.now)
        else:
            self.scheduler.hello_local(job, "link", self.farm.now)

    def preprocessed(self, job):
        if job.state == "preprocess":
            self.scheduler.sized(job, int(self.farm.rng.lognormvariate(5, 0.8)) + 1, 0.1, job.mode,
                                 self.farm.now)

    def answered(self, link, answer):
        """An answer to LMRQ has come, if the connection is still there."""
        if not link.open or link.request.state == "ended":
            return
        now = self.farm.now
        if answer[0] == "parked":
            if link.request.state == "asking":
                self.scheduler.parked(link.request, now)
        elif answer[0] == "granted":
            if self.scheduler.granted(link.request, answer[1], now) is None:
                self.under_way.pop(link.request)
                link.hang_up()
        else:
            self.lost(link, answer[1])

    def lost(self, link, name):
        """The connection broke, or brought a refusal."""
        if not link.open:
            return
        link.hang_up()
        if link.request.state != "ended":
            self.under_way.pop(link.request, None)
            self.scheduler.refused(link.request, name, "", self.farm.now)
        elif link.job and self.links.get(link.job) is link:
            del self.links[link.job]
            self.scheduler.failed(link.job, name, "", self.farm.now)

    def replied(self, link, outcome, seconds):
        job = link.job
        if not link.open or self.links.get(job) is not link:
            return
        self.links.pop(job).hang_up()
        if outcome == "ok":
            peak = self.farm.rng.uniform(0.5, 1) * PEAKS_MB[job.job_class]
            self.scheduler.finished(job, figures(job.size_kb, seconds, job.job_class, total_s=seconds + 0.02,
                                                 peak_kb=int(peak * 1024)), self.farm.now)
        elif outcome == "compile-error":
            self.scheduler.to_local(job, outcome, self.farm.now)
        else:
            self.scheduler.failed(job, outcome, "", self.farm.now)

    def ran_here(self, job):
        if job.state == "local":
            self.scheduler.local_ended(job, self.farm.rng.random() < 0.5, self.farm.now)

    def interrupt(self):
        """^C for one of the clients."""
        jobs = sorted(self.scheduler.jobs, key=lambda job: (job.arrived, job.source))
        if jobs:
            job = self.farm.rng.choice(jobs)
            if job in self.links:
                self.links.pop(job).hang_up()
            self.scheduler.cancelled(job, self.farm.now)

    def heard(self, server, load):
        """As Reports.fresh() and merge() do."""
        host, now = self.scheduler.hosts[server.name], self.farm.now
        instance, sequence, at = self.heard_to.get(server.name, (None, 0, 0))
        if load.instance == instance and load.sequence <= sequence and now - at < lm.PEER_TIMEOUT_S:
            return
        self.heard_to[server.name] = (load.instance, load.sequence, now)
        self.scheduler.report(host, load, now)
        self.scheduler.counted_to(host, load.counted_of(self.instance))

    def tick(self):
        self.scheduler.tick(self.farm.now)


class Farm:
    """Clock, events and properties. run() ends when every job has ended and all is idle."""
    LIMIT_S = 900.0                     # of simulated time

    def __init__(self, seed, servers=4, submitters=3, distccds=0, trouble=True, slots=None):
        """`slots`: of each server, all of one speed and without other users; else these vary, too."""
        self.rng, self.now, self.events, self.count, self.steps = random.Random(seed), 0.0, [], 0, 0
        self.trouble, self.varied, self.flawless = trouble, slots is None, False
        self.idle_while_waiting = self.used_while_waiting = 0.0         # slot seconds
        self.servers = {}
        for i in range(servers + distccds):
            make, name = SimServer if i < servers else SimDistccd, "s%d" % i
            self.servers[name] = make(self, name, slots or self.rng.choice((1, 2, 4, 8)),
                                      self.rng.choice((0.5, 1, 2)) if self.varied else 1)
        self.submitters = [SimSubmitter(self, i, self.servers.values()) for i in range(submitters)]
        for server in self.servers.values():
            self.every(1.0, server.report)
            self.every(lm.CAPACITY_INTERVAL_S, server.tick)
        for submitter in self.submitters:
            self.every(lm.CAPACITY_INTERVAL_S, submitter.tick)
        self.faults = collections.Counter()

    def at(self, delay, do, *words):
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, do, words))

    def every(self, interval, do):
        def run():
            do()
            self.at(interval * self.rng.uniform(0.8, 1.2), run)
        self.at(self.rng.uniform(0, interval), run)

    def delay(self):
        return self.rng.choice((0.001, 0.001, 0.002, 0.3))

    def drawn(self, options, weights):
        """How one job goes; the first way is the good one."""
        return options[0] if self.flawless else self.rng.choices(options, weights)[0]

    def jobs(self, count):
        """`count` compiles in bursts, the last of which comes after 60 s."""
        for i in range(count):
            submitter = self.rng.choice(self.submitters)
            at = self.rng.choice((0, 20, 40, 60)) * self.rng.uniform(0.9, 1)
            self.at(1.5 + at, submitter.come, self.rng.choice((1, 1, 1, 2)), "f%d.c" % (i % 400),
                    self.rng.random() < 0.9)
        if self.trouble:
            for _ in range(count // 8):
                self.at(self.rng.uniform(1, 80), self.mishap)

    def mishap(self):
        server, submitter = self.rng.choice(list(self.servers.values())), self.rng.choice(self.submitters)
        what = self.rng.choices(("interrupt", "die", "freeze", "drain", "restart"), (60, 7, 7, 7, 7))[0]
        self.faults[what] += 1
        if what == "interrupt":
            submitter.interrupt()
        elif not server.alive or server.frozen:
            return
        elif what == "die":
            server.die()
        elif what == "freeze":
            server.freeze()
        elif what == "drain":
            server.draining = True
            self.at(5, setattr, server, "draining", False)
        else:
            server.die()
            server.come_back()

    def granted_at(self, server):
        """Just after a grant: no slot is given that is not there."""
        admission = server.admission
        assert len(admission.holders) <= max(admission.slots - admission.local_running, 1), "over-committed"
        assert not admission.refusal, "granted while %s" % admission.refusal
        assert len(admission.holders) == 1 or admission.free_mb >= 0, "more memory promised than there is"

    def check(self):
        for submitter in self.submitters:
            submitter.scheduler.check()
            for job in submitter.open:
                assert self.now - job.arrived < 300, "a job starves in %s" % job.state
            for job, link in submitter.links.items():
                assert job.lease and job.lease.host.name == link.server.name, "a socket without a lease"
        for server in self.servers.values():
            server.withheld_at = (server.withheld_at or self.now) if server.withholds() else None
            withheld = self.now - (server.withheld_at or self.now)
            assert withheld <= 1.5 * lm.CAPACITY_INTERVAL_S, "an empty slot and a parked request, %.2f s" % withheld
            held = {link for link in server.links if link.state in ("reserved", "running")}
            assert set(server.admission.holders) == held, "slots and connections differ"
            parked = {link for link in server.links if link.state == "parked"}
            assert set(server.admission.parked) == parked, "parked requests and connections differ"
            active = collections.Counter(level for holder in server.admission.holders.values()
                                         for level in (holder.key[0], holder.key))
            assert server.admission.fair.active == active, "shares and slots differ"

    def idle(self):
        return all(len(s.ended) == len(s.arrived) for s in self.submitters) and self.now > 90

    def run(self):
        while not self.idle():
            assert self.now < self.LIMIT_S, "jobs do not end"
            self.step()
        until = self.now + 40                       # frozen hosts go on, leases lapse
        while self.now < until:
            self.step()
        self.check_idle()

    def step(self):
        before = self.now
        self.now, _, do, words = heapq.heappop(self.events)
        if any(group.queue for submitter in self.submitters for group in submitter.scheduler.groups.values()):
            used = sum(len(server.admission.holders) for server in self.servers.values())
            self.used_while_waiting += (self.now - before) * used
            self.idle_while_waiting += (self.now - before) * max(
                0, sum(server.admission.slots for server in self.servers.values()) - used)
        do(*words)
        for submitter in self.submitters:
            submitter.settle()
        self.steps += 1
        self.check()

    def check_idle(self):
        """Nothing has leaked: no lease, slot, request, share or place in a pool."""
        for submitter in self.submitters:
            scheduler = submitter.scheduler
            assert not scheduler.jobs and not scheduler.groups, "jobs or groups are left"
            assert not scheduler.fair.active and not submitter.links, "shares or sockets are left"
            assert not submitter.under_way, "requests are left"
            for pool in (scheduler.turns, scheduler.locals):
                assert not pool.holders and not pool.waiting and not pool.fair.active and not pool.extra, "a pool leaks"
            for host in scheduler.hosts.values():
                found = (len(host.leases), host.asking, host.uncounted)
                assert found == (0, 0, 0), "%s: leases, asking, uncounted: %s" % (host.name, found)
                if self.servers[host.name].alive:
                    assert (host.ended, host.occupied()) == (0, 0), "%s looks occupied" % host.name
        for server in filter(lambda server: server.alive, self.servers.values()):
            assert not server.links and not server.admission.holders and not server.admission.parked, "slots leak"


class Simulated(unittest.TestCase):
    """Properties that hold in every step of every history."""
    SEEDS = range(SEED, SEED + (30 if ALL_ROWS else 5))

    def farm(self, seed, jobs=200, **shape):
        farm = Farm(seed, **shape)
        farm.jobs(jobs)
        try:
            farm.run()
        except Exception as error:                              # AssertionError, or whatever the program raises
            raise AssertionError("seed %d, %.3f s, step %d: %r" % (seed, farm.now, farm.steps, error)) from error
        return farm

    def outcomes(self, farm):
        return collections.Counter(job.decision.outcome for s in farm.submitters for job in s.ended)

    def test_calm(self):
        """Without trouble nearly all distributable jobs run remotely."""
        for seed in range(2):
            with self.subTest(seed=seed):
                found = self.outcomes(self.farm(seed, trouble=False))
                self.assertEqual(sum(found.values()), 200)
                self.assertGreater(found["ok"], 100)
                self.assertEqual(set(found), {"ok", "ran here"})

    def test_trouble(self):
        """Hosts die, freeze, drain and restart, clients are interrupted, reports are lost: every job ends."""
        faults = collections.Counter()
        for seed in self.SEEDS:
            with self.subTest(seed=seed):
                farm = self.farm(seed)
                found = self.outcomes(farm)
                faults += farm.faults
                self.assertEqual(sum(found.values()), 200)
                self.assertLessEqual(set(found), {"ok", "ran here", "cancelled"})
                self.assertGreater(found["ok"], 50)
        self.assertTrue(all(faults[what] for what in ("interrupt", "die", "freeze", "drain", "restart")), faults)

    def test_one_server(self):
        for seed in list(self.SEEDS)[:2]:
            with self.subTest(seed=seed):
                self.farm(seed, 150, servers=1, submitters=4)

    def test_distccds(self):
        """Plain distccds among the hosts, or nothing else."""
        for seed in list(self.SEEDS)[:2]:
            for servers in (2, 0):
                with self.subTest(seed=seed, servers=servers):
                    farm = self.farm(seed, 150, servers=servers, submitters=2, distccds=2)
                    self.assertGreater(self.outcomes(farm)["ok"], 50)

    def test_lost_host(self):
        """All hosts die for good: whoever waits or ran there is done here, within the timeouts."""
        for seed in range(2):
            farm = Farm(seed, trouble=False)
            farm.jobs(200)
            for server in farm.servers.values():
                server.come_back = lambda: None
                farm.at(4.0, server.die)
            farm.run()
            self.assertGreater(self.outcomes(farm)["ran here"], 100)

    def test_work_conserving(self):
        """As long as jobs wait at all, nearly no slot of equal hosts is empty: what is lost is the way there."""
        for seed in range(2):
            farm = Farm(seed, servers=4, submitters=3, slots=6, trouble=False)
            for i in range(400):
                farm.at(1.5, farm.submitters[i % 3].come, 1, "f%d.c" % i, True)
            farm.run()
            idle, used = farm.idle_while_waiting, farm.used_while_waiting
            self.assertGreater(used, 100)
            self.assertLess(idle / (idle + used), 0.12)

    def small_builds(self, seed, slots, small, greedy):
        """Seconds of the slowest of `small` builds of 40 jobs, with a greedy one of 500 beside them or without."""
        farm = Farm(seed, servers=3, submitters=small + 1, slots=slots, trouble=False)
        farm.flawless = True                # the slowest of so few jobs would be one that had bad luck
        for i in range(500 * greedy):
            farm.at(1.5, farm.submitters[0].come, 1, "big%d.c" % i, True)
        for number in range(small):
            for i in range(40):
                farm.at(6, farm.submitters[1 + number].come, 2 + number, "s%d.%d.c" % (number, i), True)
        farm.run()
        return max(max(submitter.ended.values()) for submitter in farm.submitters[1:]) - 6

    @unittest.skipIf(BRIEF, "DISTCC_LM_ALL=1 runs it with every Python: half a minute of no IO")
    def test_greedy(self):
        """Beside one with 500 jobs small builds take at most 1.3 times what they do alone on their fair share."""
        for small in (1, 3):
            beside = [self.small_builds(seed, 8, small, True) for seed in range(4)]
            alone = [self.small_builds(seed, 8 * small // (small + 1), small, False) for seed in range(4)]
            with self.subTest(small=small):
                self.assertLess(sum(beside) / sum(alone), 1.3, (beside, alone))


# ==== Helpers of sections 7 to 13: daemons on loopback, real programs, peers that fail ================================
# Nothing here touches the real HOME, port 3632 or a daemon that somebody else runs.


ROOT = os.geteuid() == 0
LANDLOCK = lm.landlock_abi()
DEADLINE_S = 20                     # for a state to be reached, on a machine that does much else
OTHER_UID = 54321                   # of nobody that this machine knows
PATH = "/usr/local/bin:/usr/bin:/bin"


def eventually(condition, seconds=DEADLINE_S):
    """The first true value of condition(); what it returned last where the deadline passed."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.01)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def contents(path):
    """Of a file; b"" where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def write(path, text, mode=None):
    data = text if isinstance(text, bytes) else text.encode()
    if mode and mode & 0o111:       # by another process: a child that a thread forks now would hold it open: ETXTBSY
        subprocess.run(["tee", path], input=data, stdout=subprocess.DEVNULL, check=True)
    else:
        with open(path, "wb") as file:
            file.write(data)
    if mode is not None:
        os.chmod(path, mode)
    return path


def together(rows, function, workers=6):
    """function(row) for all rows at once, in threads; the results in order. The first exception is raised."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, rows))


@functools.lru_cache(None)
def workshop():
    """A folder that other users can enter; gone when this process ends."""
    path = tempfile.mkdtemp(prefix="dlm-", dir="/tmp")
    os.chmod(path, 0o755)
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(path, ignore_errors=True))
    return path


def new_folder(mode=0o755):
    path = tempfile.mkdtemp(dir=workshop())
    os.chmod(path, mode)
    return path


@functools.lru_cache(None)
def program(**tunables):
    """A copy of the program that every user can run, its tunables changed. Not edited under our feet, either."""
    folder = new_folder()
    with open(PROGRAM) as file:
        text = file.read()
    for name, value in tunables.items():
        if not hasattr(lm, name):
            continue                                    # one that this version has not
        text, count = re.subn(r"(?m)^%s = [0-9._]+ " % name, "%s = %s " % (name, value), text)
        assert count == 1, name
    return write(folder + "/distcc_lm.py", text, 0o755)


@functools.lru_cache(None)
def compilers():
    """A folder for --compilers: gcc and g++, so that a server starts quickly. Also by the names that distcc makes of
    these."""
    folder = new_folder()
    for name in ("gcc", "g++"):
        os.symlink("/usr/bin/" + name, folder + "/" + name)
        triplet = run([name, "-dumpmachine"], env={"PATH": PATH}).out.decode().strip()
        os.symlink("/usr/bin/" + name, "%s/%s-%s" % (folder, triplet, name))
    return folder


def set_procfs(folder, cores=4, runnable=1, available_mb=9000):
    """Write what --procfs is to read there: an idle machine, whatever else this one does."""
    os.makedirs(folder + "/sys/kernel/random", exist_ok=True)
    for name, text in (("loadavg", "0.00 0.00 0.00 %d/100 1\n" % runnable),
                       ("stat", "".join("cpu%d 1 2 3 4\n" % i for i in range(cores))),
                       ("meminfo", "MemTotal: 16000000 kB\nMemAvailable: %d kB\n" % (available_mb << 10)),
                       ("sys/kernel/random/boot_id", "0b0f1ce5-0000-4000-8000-000000000001\n")):
        write(folder + "/new", text)
        os.rename(folder + "/new", folder + "/" + name)
    return folder


@functools.lru_cache(None)
def idle_procfs():
    return set_procfs(new_folder())


@functools.lru_cache(None)
def gcc_identity():
    return lm.Offer([compilers()], False, lambda *_: None).by_name["gcc"].identity


@functools.lru_cache(None)
def python_for_all():
    """An interpreter that another user can run, too."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(path, os.X_OK):
            version = subprocess.run([path, "-c", "import sys; print(sys.version_info >= (3, 9))"],
                                     stdout=subprocess.PIPE, check=False).stdout
            if version.strip() == b"True":
                return path
    return None


def needs(*programs):
    """A decorator: the test runs where these real programs are installed."""
    missing = [name for name in programs if not shutil.which(name, path=PATH + ":/usr/sbin:/sbin")]
    return unittest.skipIf(missing, "not installed: " + ", ".join(missing))


def loopback():
    return "127.0.0.%d" % random.randint(2, 250)


Ran = collections.namedtuple("Ran", "code out err seconds")


def run(argv, cwd=None, env=None, timeout=60, stdin=subprocess.DEVNULL, **more):
    """Run to the end; a Ran. The environment is `env` alone."""
    begin = time.monotonic()
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    done = subprocess.run(argv, cwd=cwd, env=env or environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=timeout, check=False, **source, **more)
    return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - begin)


def environment(sock=None, **more):
    """What a program under test finds: nothing of ours but a PATH."""
    env = {"PATH": PATH, "HOME": home(), "DISTCC_LM_PYTHON": sys.executable, "DISTCC_DIR": home() + "/distcc"}
    if sock:
        env["DISTCC_LM_SOCKET"] = sock
    env.update(more)
    return {name: value for name, value in env.items() if value is not None}


@functools.lru_cache(None)
def home():
    return new_folder()


def cc(sock, *words, cwd=None, env=(), timeout=60, prog=None, **more):
    """`distcc_lm.py cc WORDS`."""
    return run([prog or program(), "cc", *words], cwd, environment(sock, **dict(env)), timeout, **more)


def command(*words, sock=None, **env):
    """Another command of the program."""
    return run([program(), *words], env=environment(sock, **env))


def ask(path, *words, timeout=10):
    """(message name, decoded JSON or text) of a daemon's answer to a command."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall(lm.encode_fields(b"HELO", lm.CLIENT_VERSION, *words))
        decoder = lm.Decoder(lm.decode_fields(1 << 28))
        while not decoder.done:
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the daemon closed")
            decoder.feed(data)
    name, fields = decoder.result
    text = b"\0".join(fields).decode()
    return name, json.loads(text) if name == b"JSON" else text


class RunningDaemon:
    """One `distcc_lm.py daemon`, and how it is doing."""

    def __init__(self, farm, number, options, env, prog, prefix=(), **popen):
        self.folder = "%s/%d" % (farm.folder, number)
        os.mkdir(self.folder)
        os.chmod(self.folder, 0o755)
        self.tmpdir = self.folder + "/tmp"
        os.mkdir(self.tmpdir)
        os.chmod(self.tmpdir, 0o1777)
        self.socket, self.log_path = self.folder + "/s", self.folder + "/log"
        defaults = (("--listen", loopback() + ":0"), ("--socket", self.socket), ("--state", self.folder + "/state"),
                    ("--tmpdir", self.tmpdir), ("--hosts", ""), ("--broadcast", "none"), ("--log-level", "debug"),
                    ("--slots", "4"), ("--procfs", idle_procfs()))
        words = [word for name, value in defaults if name not in options for word in (name, value)]
        if "--allow" in options and "--compilers" not in options:
            words += ["--compilers", compilers()]
        self.log = open(self.log_path, "ab")
        self.argv = [*prefix, prog or program(), "daemon", *words, *options]
        self.process = subprocess.Popen(self.argv, env=environment(**(env or {})), stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log, cwd=self.folder, **popen)
        self.pid = self.process.pid

    def status(self):
        return ask(self.socket, "status")[1]

    def until(self, condition, seconds=DEADLINE_S):
        """Wait until condition(status); the status. AssertionError with the last one and the log."""
        last = [None]

        def look():
            try:
                last[0] = self.status()
            except (OSError, ValueError) as error:
                last[0] = error
                assert self.process.poll() is None, "the daemon ended: " + self.text()
                return None
            return condition(last[0]) and last[0]
        found = eventually(look, seconds)
        assert found, "not reached: %s\n%s" % (last[0], self.text())
        return found

    def started(self):
        self.address = self.until(lambda status: True)["daemon"]["address"]
        return self

    def idle(self):
        """Wait until nothing is left: neither job nor slot."""
        return self.until(lambda s: not s["jobs"] and not s["others"] and not any(
            (h["running"] or 0) if h["kind"] == "local" else h["mine"] for h in s["hosts"]))

    def text(self):
        return contents(self.log_path).decode("utf-8", "replace")

    def host(self, endpoint):
        return next(h for h in self.status()["hosts"] if h["address"] == str(endpoint) or h["name"] == str(endpoint))

    def areas(self):
        """Folders of jobs under --tmpdir."""
        return [name for _, folders, _ in os.walk(self.tmpdir) for name in folders]

    def close(self):
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.log.close()


class LoopbackFarm:
    """Daemons, other servers and peers that fail, all gone at the end; the books must balance then."""

    def __init__(self):
        self.folder, self.daemons, self.others, self.numbers = new_folder(), [], [], itertools.count(1)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                for daemon in self.daemons:
                    bugs = [line for line in daemon.text().splitlines()
                            if re.search("(?<!de)bug: |Traceback", line)]
                    assert not bugs, bugs
        finally:
            for thing in self.daemons + self.others:
                thing.close()

    def start(self, *options, env=None, prog=None, wait=True, **popen):
        daemon = RunningDaemon(self, next(self.numbers), options, env, prog, **popen)
        self.daemons.append(daemon)
        return daemon.started() if wait else daemon

    def worker(self, *options, **more):
        """A daemon that serves."""
        return self.start("--allow", "127.0.0.0/8", *options, **more)

    def submitter(self, *peers, options=(), ready=True, **more):
        """A daemon that only submits, with peers (daemons or endpoints) that are up."""
        words = [word for peer in peers for word in ("--peer", str(getattr(peer, "address", peer)))]
        daemon = self.start(*words, *options, **more)
        if ready:
            daemon.until(lambda s: sum(h["state"] == "up" for h in s["hosts"]) == len(s["hosts"]))
        return daemon

    def pair(self, *options, submitter=()):
        worker = self.worker(*options)
        return worker, self.submitter(worker, options=submitter)

    def add(self, thing):
        self.others.append(thing)
        return thing


class RealDistccd:
    """A real distccd on a free port of loopback. `path`: a folder to look for compilers in, first."""

    def __init__(self, *options, host=None, path="/usr/local/bin"):
        self.folder = new_folder(0o777)
        for _ in range(5):
            with socket.socket() as free:
                self.host = host or loopback()
                free.bind((self.host, 0))
                self.port = free.getsockname()[1]
            self.address = "%s:%d" % (self.host, self.port)
            argv = ["distccd", "--daemon", "--no-detach", "--allow", "127.0.0.0/8", "--listen", self.host, "--port",
                    str(self.port), "--jobs", "4", "--log-file", self.folder + "/log", "--log-level", "info",
                    "--pid-file", self.folder + "/pid", *(["--user", "nobody"] if ROOT else []), *options]
            write(self.folder + "/log", b"", 0o666)
            self.process = subprocess.Popen(argv, env=environment(PATH=path + ":" + PATH + ":/usr/sbin",
                                                                  TMPDIR=self.folder),
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                            start_new_session=True)
            if eventually(lambda: self.process.poll() is not None or self.listens()) and self.process.poll() is None:
                return
        raise AssertionError("distccd does not start: %r" % contents(self.folder + "/log"))

    def listens(self):
        with socket.socket() as sock:
            return sock.connect_ex((self.host, self.port)) == 0

    def signal(self, number):
        """To its workers, too: they are a session of their own."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, number)

    def close(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


class Network:
    """Network namespaces, each joined to the first by `links` veth pairs of its own: 10.50.LINK.1 there, 10.50.LINK.2
    here; `rate` is for tbf, both ways. SkipTest where that cannot be had."""

    def __init__(self, links=(1,), rate=None):
        if not ROOT:
            raise unittest.SkipTest("network namespaces need root")
        self.holders, number = [], 0
        try:
            self.add()
            for count in links:
                self.add()
                for _ in range(count):
                    number += 1
                    self.join(len(self.holders) - 1, number, rate)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise unittest.SkipTest("no network namespaces, veth or tbf here: %s" % error) from None

    def add(self):
        holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"],
                                  stdout=subprocess.PIPE)
        self.holders.append(holder)
        if holder.stdout.readline() != b"up\n":
            raise OSError("unshare -n, or ip link")

    def prefix(self, which):
        return ["nsenter", "-t", str(self.holders[which].pid), "-n", "--"]

    def command(self, which, line):
        subprocess.run(self.prefix(which) + line.split(), check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def join(self, which, number, rate):
        self.command(0, "ip link add a%d type veth peer name b%d netns %d" % (
            number, number, self.holders[which].pid))
        for end, space in (("a", 0), ("b", which)):
            place = "10.50.%d.%d/24" % (number, 1 if end == "a" else 2)
            self.command(space, "ip addr add %s brd + dev %s%d" % (place, end, number))
            self.command(space, "ip link set %s%d up" % (end, number))
            if rate:
                self.command(space, "tc qdisc add dev %s%d root tbf rate %s burst 256kb latency 50ms" % (
                    end, number, rate))

    def close(self):
        for holder in self.holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()


class FaultyPeer:
    """Plays a worker of ours (reports, admission, job), or with kind = "distccd" a plain server. A subclass fails in
    one way, in `admit` or in `job`; both run in a thread of the connection, and their end closes it."""
    kind = "peer"
    reports = True                      # until it is set to false
    object = b""                        # what a right reply would carry
    slots = 4

    def __init__(self):
        self.instance, self.sequence, self.closing, self.jobs_seen = os.urandom(8), 0, False, 0
        self.sockets, self.submitters = [], set()
        self.lock = threading.Lock()
        while True:
            self.tcp, self.udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self.tcp.bind((loopback(), 0))
                self.udp.bind(self.tcp.getsockname())
                break
            except OSError:
                self.tcp.close()
                self.udp.close()
        self.tcp.listen(64)
        self.address = "%s:%d" % self.tcp.getsockname()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        due = 0.0
        while not self.closing:
            ready, _, _ = select.select([self.tcp, self.udp], [], [], 0.2)
            if self.udp in ready:
                packet, where = self.udp.recvfrom(2000)
                self.submitters.add(where)
                self.heard(packet)
                due = 0.0
            if time.monotonic() > due:
                due = time.monotonic() + 0.5
                self.report()
            if self.tcp in ready:
                sock = self.tcp.accept()[0]
                with self.lock:
                    self.sockets.append(sock)
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def report(self):
        if not self.reports or self.kind != "peer":
            return
        self.sequence += 1
        load = lm.Load(instance=self.instance, boot=bytes(16), sequence=self.sequence, cores=4, slots=self.slots,
                       port=self.tcp.getsockname()[1], memory_mb=9999, interval_ms=1000,
                       capabilities=lm.CAN_LANDLOCK, identities=[gcc_identity()])
        for where in self.submitters:
            self.udp.sendto(self.encoded(load), where)

    def encoded(self, load):
        return load.encode()

    def heard(self, packet):
        """A report of a submitter has come."""

    def serve(self, sock):
        sock.settimeout(DEADLINE_S)
        with contextlib.suppress(OSError, EOFError, lm.WireError), sock:
            if self.kind != "peer" or self.admit(sock):
                self.jobs_seen += 1
                self.job(sock)

    def receive(self, sock, generator):
        decoder = lm.Decoder(generator)
        while not decoder.done:
            data = sock.recv(decoder.missing())
            if not data:
                raise EOFError
            decoder.feed(data)
        return decoder.result

    def admit(self, sock):
        """True where a job is to follow."""
        self.receive(sock, lm.decode_opening())
        sock.sendall(lm.encode_granted(1))
        return True

    def read_job(self, sock):
        request = self.receive(sock, lm.decode_job())
        left = request.size
        while left:
            data = sock.recv(min(left, 65536))
            if not data:
                raise EOFError
            left -= len(data)
        return request

    def reply(self):
        """A right one."""
        head = lm.encode_reply(0, b"", b"", len(self.object)) + self.object
        return head + (lm.encode_times(lm.Times(1, 20, 10, 30000, 1.0)) if self.kind == "peer" else b"")

    def job(self, sock):
        self.read_job(sock)
        sock.sendall(self.reply())

    def hang(self, sock):
        """Until the other side closes, or this peer is closed."""
        sock.settimeout(120)
        while sock.recv(65536):
            pass

    def close(self):
        self.closing = True
        self.thread.join()
        for sock in [self.tcp, self.udp, *self.sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class SlowPeer(FaultyPeer):
    """Does all as it should, but answers the LMRQ only if `admitting`, and the job once `go` is set."""

    def __init__(self):
        self.go, self.has_job, self.admitting, self.asked = threading.Event(), threading.Event(), True, 0
        super().__init__()

    def admit(self, sock):
        self.receive(sock, lm.decode_opening())
        self.asked += 1
        if not self.admitting:
            self.hang(sock)
        sock.sendall(lm.encode_granted(1))
        return True

    def job(self, sock):
        self.read_job(sock)
        self.has_job.set()
        self.go.wait(DEADLINE_S)
        sock.sendall(self.reply())

    def close(self):
        self.go.set()
        super().close()


def loops(count):
    """C text that takes a compiler some time, and needs no preprocessor."""
    return "int f(int *a) {\n%s return 0; }\n" % "".join(
        "for (int i%d = 0; i%d < 9; i%d++) a[i%d] = a[i%d + 1] * a[i%d] + a[%d];\n" % (*[n] * 6, n)
        for n in range(count))


SLOW_SOURCE = loops(6000)           # half a minute
MEDIUM_SOURCE = loops(150)          # some tenths of a second


def compilers_of(daemon):
    """Pids of cc1 and the like whose working folder is a job's, below the daemon's --tmpdir."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            below = os.readlink("/proc/%s/cwd" % pid).startswith(daemon.tmpdir)
            if below and contents("/proc/%s/comm" % pid) != b"lm-spawner\n" and alive(int(pid)):
                found.append(int(pid))
    return found


class Sources:
    """A folder with sources, and what gcc itself makes of them."""
    TEXT = "#include <stddef.h>\n#define N %d\nint f%d(int a) { return a * N + (int)sizeof(size_t); }\n"

    def __init__(self):
        self.folder, self.count = new_folder(), 0

    def make(self, text=None, name=None):
        """The name of a new source; where `text` is None, one that compiles without a message."""
        self.count += 1
        name = name or "s%d.c" % self.count
        write(self.folder + "/" + name, self.TEXT % (self.count, self.count) if text is None else text)
        return name

    def expected(self, name, *options, compiler="gcc"):
        """(status, stdout, stderr, object) of the plain compile."""
        output = new_folder() + "/o"
        done = run([compiler, "-c", name, *options, "-o", output], self.folder)
        return done.code, done.out, done.err, contents(output)

    def object(self, name):
        return contents(self.folder + "/" + name)

    def strays(self):
        """Files that no compile should leave."""
        return [name for name in os.listdir(self.folder) if name.endswith(".tmp")]


class Comparing:
    """Assertions that FarmCase and ClientCase share."""
    maxDiff = 2000

    def same(self, done, expected, output=None):
        """The run `done` ended as the plain compile did."""
        self.assertEqual((done.code, done.out, done.err), expected[:3])
        if output is not None:
            self.assertTrue(self.sources.object(output) == expected[3], "another object than gcc's own")


class FarmCase(Comparing, unittest.TestCase):
    """A farm for each test."""

    def setUp(self):
        self.farm, self.sources = LoopbackFarm(), Sources()

    def tearDown(self):
        self.farm.__exit__(None)

    def cc(self, daemon, *words, **more):
        more.setdefault("cwd", self.sources.folder)
        return cc(daemon.socket, *words, **more)


# ==== Section 7: job server ===========================================================================================
# The spawner and containment first: real compilers, real processes, no mocks.

OUTSIDE = "/tmp/dlm-outside-%d" % os.getpid()
HELLO_C = b'# 1 "hello.c"\nint puts(const char *);\nint main(void) { return puts("hello"); }\n'
HELLO_CC = (b'# 1 "hello.cc"\nstruct S { S(); ~S(); };\n'
            b"template <class T> T f(T t) { S s; throw t; }\nint g() { return f(1); }\n")

# What a hostile or curious program tries. Exit status: the errno it met, 0 when it got through.
PROBE_C = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static int net(int listening, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    return listening ? bind(s, (void *)&a, sizeof a) : connect(s, (void *)&a, sizeof a);
}
static int abstract(const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t size = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    strcpy(a.sun_path + 1, name);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, size);
}
static void note(const char *file) {
    FILE *f = fopen("tmp", "w");
    fprintf(f, "%d", getpid());
    fclose(f);
    rename("tmp", file);
}
static void report(void) {
    for (int fd = 0; fd < 1024; fd++) if (fcntl(fd, F_GETFD) >= 0) printf("fd %d\n", fd);
    for (int n = 1; n < 65; n++) {
        struct sigaction a;
        if (!sigaction(n, NULL, &a) && a.sa_handler != SIG_DFL) printf("signal %d\n", n);
    }
    sigset_t set; sigprocmask(SIG_BLOCK, NULL, &set);
    for (int n = 1; n < 65; n++) if (sigismember(&set, n) == 1) printf("blocked %d\n", n);
    for (char **e = environ; *e; e++) printf("env %s\n", *e);
    int all[] = {RLIMIT_CPU, RLIMIT_AS, RLIMIT_FSIZE, RLIMIT_CORE};
    for (int i = 0; i < 4; i++) {
        struct rlimit r;
        getrlimit(all[i], &r);
        printf("limit %d %lld\n", i, (long long)r.rlim_cur);
    }
    char cwd[4096];
    printf("cwd %s\nleader %d\nsession %d\n", getcwd(cwd, sizeof cwd), getpgid(0) == getpid(), getsid(0) == getpid());
    printf("uid %d %d\ngroups %d\nnice %d\n", getuid(), geteuid(), getgroups(0, NULL), getpriority(PRIO_PROCESS, 0));
    printf("nnp %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}
int main(int argc, char **argv) {
    const char *what = argv[1], *arg = argc > 2 ? argv[2] : "";
    int r = 0;
    if (!strcmp(what, "report")) {                  // niceness is set from outside, after exec
        for (int i = 0; i < 5000 && *arg && getpriority(PRIO_PROCESS, 0) != atoi(arg); i++) usleep(1000);
        report();
    }
    else if (!strcmp(what, "connect")) r = net(0, arg);
    else if (!strcmp(what, "bind")) r = net(1, arg);
    else if (!strcmp(what, "abstract")) r = abstract(arg);
    else if (!strcmp(what, "kill")) r = kill(atoi(arg), SIGKILL);
    else if (!strcmp(what, "read")) r = open(arg, O_RDONLY);
    else if (!strcmp(what, "list")) r = open(arg, O_RDONLY | O_DIRECTORY);
    else if (!strcmp(what, "create")) r = open(arg, O_WRONLY | O_CREAT, 0600);
    else if (!strcmp(what, "write")) r = open(arg, O_WRONLY);
    else if (!strcmp(what, "unlink")) r = unlink(arg);
    else if (!strcmp(what, "mkdir")) r = mkdir(arg, 0700);
    else if (!strcmp(what, "mkfifo")) r = mkfifo(arg, 0700);
    else if (!strcmp(what, "symlink")) r = symlink("/etc/passwd", arg);
    else if (!strcmp(what, "link")) r = link("/etc/passwd", arg);
    else if (!strcmp(what, "exec")) {
        int fd = open("prog", O_WRONLY | O_CREAT, 0700);
        if (write(fd, "#!/bin/true\n", 12) != 12) return 99;
        close(fd);
        r = execl("prog", "prog", NULL);
    } else if (!strcmp(what, "sleep")) { note("pid"); for (;;) pause(); }
    else if (!strcmp(what, "escape")) {             // a daemon in a session of its own; then end, or stay
        pid_t child = fork();
        if (!child) {
            setsid();
            if (fork()) _exit(0);
            setsid();
            note("pid");
            for (;;) pause();
        }
        if (strcmp(arg, "quick")) while (access("pid", F_OK)) usleep(1000);
        if (!strcmp(arg, "stay")) { note("leader"); for (;;) pause(); }
    } else if (!strcmp(what, "bomb")) {
        for (;;) if (!fork()) setsid();
    } else if (!strcmp(what, "burn")) for (;;) ;
    else if (!strcmp(what, "big")) {
        int fd = open("big", O_WRONLY | O_CREAT, 0600);
        while (write(fd, environ, 1024) >= 0) ;
    }
    return r < 0 ? errno : 0;
}
"""


class SpawnCase(unittest.TestCase):
    """Gives TOOLS, a folder that a job may read, and PROBE, the program in it."""

    @classmethod
    def setUpClass(cls):
        global TOOLS, PROBE
        TOOLS, PROBE = build_probe()


@functools.lru_cache(None)
def build_probe():
    folder = new_folder(0o777)
    write(folder + "/probe.c", PROBE_C)
    subprocess.run(["gcc", "-w", "-O1", folder + "/probe.c", "-o", folder + "/probe"], check=True)
    return folder, os.fsencode(folder + "/probe")


class SpawnFinished:
    """One job as the daemon sees it at the end."""

    def __init__(self, result, files, started):
        self.result, self.files, self.started = result, files, started
        self.status = result.wait_status if result.kind == "ended" else None
        self.code = os.waitstatus_to_exitcode(self.status) if self.status is not None else None


def end_all(processes):
    for process in processes:
        process.kill()
        process.wait()


class Spawns:
    """A Spawner and the daemon's part in a job."""

    def __init__(self, **settings):
        settings.setdefault("nice", 0)
        settings.setdefault("tmpdir", "/tmp")
        self.spawner = lm.Spawner.start(lm.SpawnSettings(**settings))
        self.folders, self.pending, self.number = {}, {}, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, fd in self.folders.values():
            os.close(fd)
        self.spawner.stop()

    def begin(self, argv, sources=(), env=None):
        path, fd = self.spawner.area.make_folder()
        for name, text in dict(sources).items():
            source = lm.create_source(fd, name)
            os.write(source, text)
            os.close(source)
        self.number += 1
        self.folders[self.number] = path, fd
        environment = {b"PATH": b"/usr/bin:/bin", b"TMPDIR": path, b"LC_ALL": b"C"} if env is None else env
        self.spawner.spawn(self.number, argv, path, environment, [os.fsencode(TOOLS)])
        return self.number

    def wait_for(self, job_id, kinds=("ended", "failed")):
        deadline = time.monotonic() + DEADLINE_S
        while not any(r.kind in kinds for r in self.pending.get(job_id, ())):
            left = deadline - time.monotonic()
            assert left > 0, "no result of job %d" % job_id
            select.select([self.spawner], [self.spawner] if self.spawner.wants_write else [], [], left)
            for result in self.spawner.results():
                self.pending.setdefault(result.job_id, []).append(result)
        return next(r for r in self.pending[job_id] if r.kind in kinds)

    def finish(self, job_id):
        result = self.wait_for(job_id)
        path, fd = self.folders.pop(job_id)
        files = {"out": b"", "err": b""}                    # are there only where something was said
        for name in os.listdir(fd):
            try:
                file, size = lm.open_result(fd, name, self.spawner.area.account.uid)
                files[name] = os.read(file, size)
                os.close(file)
            except lm.UnsafeResult:
                pass                                    # the sources are the daemon's
        started = any(r.kind == "started" for r in self.pending.pop(job_id))
        self.spawner.remove_folder(path, fd)
        assert eventually(lambda: not os.path.exists(path)), "job folder stays"
        return SpawnFinished(result, files, started)

    def run(self, argv, sources=(), env=None):
        return self.finish(self.begin([os.fsencode(word) for word in argv], sources, env))

    def noted(self, job_id, name=b"pid"):
        path = self.folders[job_id][0] + b"/" + name
        assert eventually(lambda: os.path.exists(path)), "the probe noted no pid"
        return int(contents(path))


class SpawnedCompilers(SpawnCase):
    ROWS = (("gcc", "-c -O2 -fpreprocessed in.i", "in.i", HELLO_C),
            ("g++", "-c -g -fpreprocessed in.ii", "in.ii", HELLO_CC), ("gcc", "-pipe -c in.i", "in.i", HELLO_C),
            ("gcc", "-fpreprocessed -fdirectives-only -c in.i", "in.i", HELLO_C),
            ("clang", "-c -O2 in.i", "in.i", HELLO_C), ("clang++", "-c -g in.ii", "in.ii", HELLO_CC),
            ("clang", "-fno-integrated-as -c in.i", "in.i", HELLO_C))

    def test_same_object_as_outside(self):
        with Spawns(contain="auto") as farm:
            if LANDLOCK:
                self.assertEqual(farm.spawner.containment, "landlock")
            for compiler, arguments, name, text in self.ROWS:
                if not shutil.which(compiler, path="/usr/bin"):
                    continue
                with self.subTest(compiler, arguments=arguments), tempfile.TemporaryDirectory() as here:
                    argv = ["/usr/bin/" + compiler, *arguments.split(), "-o", "object", "-g0"]
                    done = farm.run(argv, {name: text})
                    self.assertEqual((done.code, done.files["err"], done.files["out"]), (0, b"", b""))
                    with open(here + "/" + name, "wb") as file:
                        file.write(text)
                    subprocess.run(argv, cwd=here, check=True)
                    self.assertEqual(done.files["object"], contents(here + "/object"))
                    self.assertGreater(done.result.cpu_s, 0)
                    self.assertGreater(done.result.max_rss_kb, 1000)
                    self.assertGreater(done.result.elapsed_s, 0)

    def test_compile_error(self):
        with Spawns() as farm:
            done = farm.run(["/usr/bin/gcc", "-c", "in.i"], {"in.i": b"int x = ;\n"})
            self.assertEqual(done.code, 1)
            self.assertIn(b"error", done.files["err"])


@unittest.skipUnless(LANDLOCK, "no Landlock here")
class SpawnedHostile(SpawnCase):
    SECRET = "/etc/hostname"

    def test_compilers_read_and_run_nothing(self):
        incbin = b'__asm__(".incbin \\"/etc/hostname\\"");\n'
        include = b'#include "/etc/passwd"\n'
        wrapper = ["-wrapper", TOOLS + "/script%d" % os.getuid()]
        write(wrapper[1], "#!/bin/sh\necho ran > %s/ran\necho ran > ran\n" % TOOLS, 0o777)
        rows = (("gcc", [], incbin), ("clang", [], incbin), ("gcc", ["-x", "c"], include),
                ("clang", ["-x", "c"], include),
                ("gcc", ["-fpreprocessed", "-fdirectives-only"], include), ("clang", [], include),
                ("gcc", ["-x", "c"], b'#include "/usr/include/stdio.h"\n'),
                ("gcc", ["-x", "c"], b"#include <stdio.h>\n"),
                ("gcc", ["@/etc/passwd"], HELLO_C), ("gcc", ["-specs=/etc/passwd"], HELLO_C),
                ("gcc", ["-Wa,/etc/hostname"], HELLO_C), ("gcc", ["-Wa,-a=" + OUTSIDE], HELLO_C),
                ("gcc", ["-o", OUTSIDE], HELLO_C), ("clang", ["-o", OUTSIDE], HELLO_C),
                ("gcc", ["-fplugin=./in.so"], HELLO_C))
        with Spawns() as farm:
            for compiler, options, text in rows:
                if compiler == "gcc" or shutil.which(compiler, path="/usr/bin"):
                    with self.subTest(compiler, options=options, text=text):
                        argv = ["/usr/bin/" + compiler, "-c", "in.i", "-o", "object", *options]
                        done = farm.run(argv, {"in.i": text})
                        if "-Wa,-a=" not in str(options):       # there as only warns that it cannot
                            self.assertNotEqual(done.code, 0)
                        self.assertNotIn(b"root:", done.files["err"] + done.files["out"])
                        self.assertFalse(os.path.exists(OUTSIDE))
            # The tools folder is readable and executable here, /tmp is not writable
            farm.run(["/usr/bin/gcc", "-c", "in.i", "-o", "object", *wrapper], {"in.i": HELLO_C})
            self.assertFalse(os.path.exists(TOOLS + "/ran"))
            script = b"#!/bin/sh\necho ran > ran\n"
            done = farm.run(["/usr/bin/gcc", "-c", "in.i", "-wrapper", "./in.i"], {"in.i": script})
            self.assertNotEqual(done.code, 0)
            self.assertNotIn("ran", done.files)

    def test_programs(self):
        victim = subprocess.Popen(["/bin/sleep", "600"], **({"user": 65534} if ROOT else {}))
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        named = socket.socket(socket.AF_UNIX)
        named.bind("\0dlm-spawn-%d" % os.getpid())
        named.listen()
        try:
            with Spawns() as farm:
                other = farm.begin([PROBE, b"sleep"])
                farm.noted(other)
                folder = os.fsdecode(farm.folders[other][0])
                denied = [("read", self.SECRET), ("read", "/etc/passwd"), ("read", "/proc/self/status"),
                          ("read", "/proc/%d/environ" % os.getpid()), ("list", "/"), ("list", "/tmp"),
                          ("list", "/home"),
                          ("read", "/usr/include/stdio.h"), ("list", "/usr/local"), ("list", "/usr/src"),
                          ("list", ".."),
                          ("read", folder + "/pid"), ("list", folder), ("unlink", folder + "/pid"),
                          ("create", folder + "/x"), ("create", OUTSIDE), ("create", "../x"),
                          ("write", "/etc/passwd"), ("write", "/dev/urandom"), ("mkdir", "x"), ("mkfifo", "x"),
                          ("symlink", "x"), ("link", "x"), ("exec", "")]
                if LANDLOCK >= 4:
                    denied += [("connect", listener.getsockname()[1]), ("bind", 0)]
                if LANDLOCK >= 6:
                    denied += [("kill", victim.pid), ("kill", farm.spawner.pid), ("kill", os.getpid()),
                               ("kill", farm.wait_for(other, ("started",)).pid),
                               ("abstract", named.getsockname()[1:].decode())]
                for what, argument in denied:
                    with self.subTest(what, argument=argument):
                        done = farm.run([PROBE, what, str(argument)])
                        self.assertIn(done.code, (errno.EACCES, errno.EPERM, errno.EXDEV))
                for what, argument in (("create", "x"), ("read", "/dev/null"), ("write", "/dev/null"),
                                       ("read", "/dev/urandom"), ("read", "/usr/bin/gcc")):
                    with self.subTest(what, argument=argument):
                        self.assertEqual(farm.run([PROBE, what, argument]).code, 0)
                self.assertIsNone(victim.poll())
                farm.spawner.kill(other)
                farm.finish(other)
        finally:
            victim.kill()
            victim.wait()
            listener.close()
            named.close()


class SpawnedEnvironment(SpawnCase):
    def test_what_a_compiler_finds(self):
        nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7)
        leak = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(leak, True)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            with Spawns(nice=7, job_timeout_s=33, max_file_bytes=12345678, address_space_bytes=1 << 33) as farm:
                job = farm.begin([PROBE, b"report", b"%d" % nice], env={b"A": b"b=c", b"LC_ALL": b"\xff"})
                path = farm.folders[job][0]
                done = farm.finish(job)
        finally:
            os.close(leak)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        self.assertEqual(done.code, 0, done.files)
        uid = pwd.getpwnam("nobody").pw_uid if ROOT else os.getuid()
        expected = [b"fd 0", b"fd 1", b"fd 2", b"env A=b=c", b"env LC_ALL=\xff", b"limit 0 33", b"limit 1 8589934592",
                    b"limit 2 12345678", b"limit 3 0", b"cwd " + path, b"leader 1", b"session 0",
                    b"uid %d %d" % (uid, uid)]
        lines = done.files["out"].splitlines()
        groups, niceness, nnp = lines[-3:]
        self.assertEqual(lines[:-3], expected)
        self.assertEqual((niceness, nnp), (b"nice %d" % nice, b"nnp 1"))
        if ROOT:
            self.assertEqual(groups, b"groups 0")

    def test_file_limit_kills(self):
        with Spawns(max_file_bytes=1 << 20) as farm:
            self.assertEqual(farm.run([PROBE, "big"]).code, -signal.SIGXFSZ)

    def test_cpu_limit_and_timeout(self):
        with Spawns(job_timeout_s=2) as farm:            # the CPU limit of 2 s is that of one process, and starts later
            done = farm.run([PROBE, "burn"])
            self.assertIn((done.code, done.result.reason), ((-signal.SIGKILL, "timeout"), (-signal.SIGXCPU, "")))
        with Spawns(job_timeout_s=0.3) as farm:
            done = farm.run([PROBE, "burn"])
            self.assertEqual((done.code, done.result.reason), (-signal.SIGKILL, "timeout"))
            self.assertLess(done.result.elapsed_s, 3)

    def test_failures(self):
        with Spawns() as farm:
            for argv, number in (("/nonexistent", errno.ENOENT), ("/etc/passwd", errno.EACCES)):
                done = farm.run([argv])
                self.assertEqual((done.result.kind, done.result.errno, done.started), ("failed", number, False))
            done = farm.run(["/bin/sh", "-c", "echo theirs >err; echo ours >&2"])
            self.assertEqual((done.code, done.files["err"]), (0, b"theirs\n"))      # a job's own, and no harm
            with self.assertRaises(lm.RequestTooLarge) as caught:
                farm.run(["/bin/true", "x" * farm.spawner.message_limit])
            self.assertIn(str(farm.spawner.message_limit), str(caught.exception))
            with self.assertRaises(ValueError):
                farm.run(["/bin/true", "a\0b"])
            for job in list(farm.folders):                  # those two
                farm.spawner.remove_folder(*farm.folders.pop(job))
            words = ["y" * 1000] * ((farm.spawner.message_limit - 4000) // 1001)
            self.assertEqual(farm.run(["/bin/true", *words]).code, 0)


class SpawnerPolicy(unittest.TestCase):
    """Of the spawner's parts, without a process of it."""

    def test_deadlines(self):
        """A job that was unpacked for long, and so started late, hides no other that is overdue, nor gains time."""
        server, now = self.server(), time.monotonic()
        server.jobs[1].started = now + 9
        self.assertLessEqual(server._patience_ms(), lm.SWEEP_S * 1000)
        server.jobs[1].deadline = now + 0.5
        self.assertLessEqual(server._patience_ms(), 500)
        server._end_overdue(now + 5)
        self.assertEqual([job.reason for job in server.jobs.values()], ["timeout", ""])
        self.assertGreater(server._patience_ms(), 500)      # a killed one that hangs in the kernel is no cause to wake
        server._end_overdue(now + 11)
        self.assertEqual([job.reason for job in server.jobs.values()], ["timeout", "timeout"])

    @staticmethod
    def server():
        """One with the jobs 1 and 2, that has no process and may not sweep."""
        server = lm.SpawnServer.__new__(lm.SpawnServer)
        server.lock, server.settings = threading.Lock(), lm.SpawnSettings(job_timeout_s=10)
        server.crowded = []
        server.jobs = {number: lm.RunningJob(number, 10) for number in (1, 2)}
        return server

    @unittest.skipUnless(hasattr(os, "memfd_create"), "needs memfd_create")
    def test_texts_are_bounded(self):
        """What a compiler writes is in memory: not without end, and what there is comes whole."""
        for size in (0, 5, lm.MAX_MESSAGE_BYTES, 3 * lm.MAX_MESSAGE_BYTES):
            texts, folder = {}, new_folder()
            lm.open_texts(None, texts)
            fd, data = texts[lm.TEXT_NAMES[0]], bytes(range(256)) * (size // 256 + 1)
            with contextlib.suppress(PermissionError):
                at = 0
                while at < size:
                    at += os.write(fd, data[at:size])
            self.assertLessEqual(os.fstat(fd).st_blocks * 512, lm.MAX_MESSAGE_BYTES)
            lm.keep_texts(os.fsencode(folder), texts)
            kept = {name: contents(folder + "/" + name) for name in os.listdir(folder)}
            self.assertEqual(kept, {lm.TEXT_NAMES[0].decode(): data[:min(size, lm.MAX_MESSAGE_BYTES)]} if size else {})

    @unittest.skipUnless(LANDLOCK, "needs Landlock")
    def test_rules_without_descriptors(self):
        """EMFILE, ENFILE: the rules stay as they are, until there is room; without any it is a mishap."""
        for call in ("listdir", "open"):
            landlock = lm.Landlock(LANDLOCK, ())
            landlock.refresh(100.0)
            before = landlock.fixed
            for number in (errno.EMFILE, errno.ENFILE):
                with self.subTest(call, number=number), unittest.mock.patch.object(
                        lm.os, call, side_effect=OSError(number, "none left")):
                    landlock.refresh(200.0)
                    self.assertIs(landlock.fixed, before)
                    self.assertRaises(OSError, lm.Landlock(LANDLOCK, ()).refresh, 100.0)
            landlock.refresh(200.0)
            self.assertIsNot(landlock.fixed, before)
            self.assertEqual(landlock.fixed[1].__len__(), before[1].__len__())

    def test_crowded(self):
        """A job that waits for room is tried again, and its time begins anew: its deadline is the last of all."""
        server = self.server()
        job, start = server.jobs[1], unittest.mock.Mock(side_effect=[BlockingIOError(), BlockingIOError(), 7])
        job.deadline -= 5
        self.assertEqual(server._while_crowded(start, job, "x"), 7)
        self.assertEqual(start.call_args_list, [unittest.mock.call(job, "x")] * 3)
        self.assertEqual(list(server.jobs), [2, 1])
        self.assertGreater(job.deadline, server.jobs[2].deadline)
        job.reason, before = "killed", job.deadline
        server._restart_clock(job)
        self.assertEqual(job.deadline, before)
        with unittest.mock.patch.object(lm, "START_RETRY_S", 0), self.assertRaises(BlockingIOError):
            server._while_crowded(unittest.mock.Mock(side_effect=BlockingIOError()), job)

    def test_unpacking_fails(self):
        """Who is to blame: the sender, for nonsense or for too much; or this host, which backs nobody off it."""
        rows = ((zlib.compress(b"x" * 999), None, 0, None), (b"nonsense", None, errno.EBADMSG, "protocol"),
                (zlib.compress(bytes(2000)), None, errno.EFBIG, "too-large"),
                (zlib.compress(b"x"), OSError(errno.ENOSPC, "full"), errno.ENOSPC, "disk"),
                (zlib.compress(b"x"), OSError(errno.EDQUOT, "full"), errno.EDQUOT, "disk"),
                (zlib.compress(b"x"), MemoryError(), errno.ENOMEM, "spawn"))
        for packed, failure, number, name in rows:
            with self.subTest(packed[:9], failure=failure):
                folder = new_folder()
                write(os.path.join(folder, lm.PACKED_NAME.decode()), packed)
                server = lm.SpawnServer.__new__(lm.SpawnServer)
                server.lock, server.nice = threading.Lock(), 0
                server.cpu_limit = resource.getrlimit(resource.RLIMIT_CPU)
                server.settings = lm.SpawnSettings(nice=0, max_file_bytes=1000)
                job, request = lm.RunningJob(1, 10), lm.SpawnRequest(lm.SPAWN, packed=b"zlib:x.i")
                fd = os.open(folder, os.O_RDONLY)
                self.addCleanup(os.close, fd)
                with contextlib.ExitStack() as stack:
                    if failure:
                        stack.enter_context(unittest.mock.patch.object(lm, "write_whole", side_effect=failure))
                    server._start_unpacking(job, request, fd)
                if not number:
                    server._await_unpacked(job, request)
                    continue
                with self.assertRaises((OSError, lm.BadSource)) as raised:
                    server._await_unpacked(job, request)
                self.assertEqual(raised.exception.errno, number)
                connection = unittest.mock.Mock(started_at=0.0, area_at_start=0.0)
                host = unittest.mock.Mock(area=0.0, loop=unittest.mock.Mock(now=lambda: 1.0))
                lm.JobServer.answer(host, connection, lm.SpawnResult(1, "failed", number, text="t"))
                connection.refuse.assert_called_once_with(name, "t")


class SpawnedEnding(SpawnCase):
    def test_kill(self):
        for contain in ("auto", "off"):
            with self.subTest(contain), Spawns(contain=contain) as farm:
                job = farm.begin([PROBE, b"sleep"])
                farm.noted(job)
                farm.spawner.kill(job)
                done = farm.finish(job)
                self.assertEqual((done.code, done.result.reason, done.started), (-signal.SIGKILL, "killed", True))
                farm.spawner.kill(job)                      # too late: ignored
                job = farm.begin([PROBE, b"sleep"])
                farm.spawner.kill(job)                      # before 'started'
                done = farm.finish(job)
                if done.result.kind == "failed":
                    self.assertEqual(done.result.errno, errno.ECANCELED)
                else:
                    self.assertEqual((done.code, done.result.reason), (-signal.SIGKILL, "killed"))

    def test_escaped_grandchildren(self):
        """setsid and a double fork leave the process group, but not the spawner's children."""
        for contain in ("auto", "off"):
            with self.subTest(contain), Spawns(contain=contain) as farm:
                bystander = farm.begin([PROBE, b"sleep"])
                farm.noted(bystander)
                job = farm.begin([PROBE, b"escape"])        # the leader ends by itself
                grandchild = farm.noted(job)
                farm.wait_for(job)
                self.assertFalse(alive(grandchild))
                self.assertEqual(farm.finish(job).code, 0)
                job = farm.begin([PROBE, b"escape", b"stay"])
                grandchild, leader = farm.noted(job), farm.noted(job, b"leader")
                farm.spawner.kill(job)
                farm.wait_for(job)
                self.assertFalse(alive(grandchild) or alive(leader))
                farm.finish(job)
                self.assertTrue(alive(farm.noted(bystander)))
                farm.spawner.kill(bystander)
                farm.finish(bystander)

    @unittest.skipUnless(ROOT, "needs a limit of its own")
    def test_fork_bomb(self):
        """In sessions of their own and faster than they are found: the limit holds them, the end finds all."""
        headroom, lm.NPROC_HEADROOM = lm.NPROC_HEADROOM, 60
        try:
            for contain in ("auto", "off"):
                with self.subTest(contain), Spawns(contain=contain, job_timeout_s=1) as farm:
                    self.assertEqual(farm.run([PROBE, "bomb"]).result.reason, "timeout")
                    self.assertTrue(eventually(lambda: not self.probes()))
                    ended = farm.run(["/bin/true"])
                    self.assertEqual(ended.code, 0, (ended.result.value, ended.result.text))
        finally:
            lm.NPROC_HEADROOM = headroom

    @unittest.skipUnless(ROOT, "needs a limit of its own")
    def test_full_of_others(self):
        """No room even for a thread, for longer than the time limit: a job waits, and has all its time then. It may be
        killed meanwhile."""
        headroom, lm.NPROC_HEADROOM = lm.NPROC_HEADROOM, 20
        crowd = []
        try:
            with Spawns(job_timeout_s=1) as farm:
                uid = farm.spawner.area.account.uid
                crowd += [subprocess.Popen(["sleep", "60"], user=uid) for _ in range(40)]
                job, killed = farm.begin([b"/bin/true"]), farm.begin([b"/bin/true"])
                time.sleep(1.5)
                self.assertFalse(farm.spawner.results())
                farm.spawner.kill(killed)
                self.assertEqual(farm.finish(killed).result.kind, "failed")
                end_all(crowd)
                ended = farm.finish(job)
                self.assertEqual(ended.code, 0, (ended.result.value, ended.result.text))
        finally:
            lm.NPROC_HEADROOM = headroom
            end_all(crowd)

    @staticmethod
    def probes():
        """Pids of our probe program, whoever is their parent."""
        return [pid for pid in os.listdir("/proc") if contents("/proc/%s/cmdline" % pid).startswith(PROBE)]

    def test_daemon_killed(self):
        for contain in ("auto", "off"):
            with self.subTest(contain):
                reader, writer = os.pipe()
                daemon = os.fork()
                if not daemon:
                    try:
                        farm = Spawns(contain=contain)
                        jobs = [farm.begin([PROBE, b"sleep"]), farm.begin([PROBE, b"escape", b"stay"])]
                        pids = [farm.noted(job) for job in jobs]
                        os.write(writer, b"%s %d %d %d\n" % (farm.spawner.area.path, farm.spawner.pid, *pids))
                        signal.pause()
                    finally:
                        os._exit(1)
                os.close(writer)
                base, *pids = os.read(reader, 1000).split()
                os.close(reader)
                pids = [int(pid) for pid in pids]
                self.assertTrue(all(map(alive, pids)))
                begin = time.monotonic()
                os.kill(daemon, signal.SIGKILL)
                os.waitpid(daemon, 0)
                self.assertTrue(eventually(lambda pids=pids, base=base: not any(map(alive, pids))
                                           and not os.path.exists(base)))
                self.assertLess(time.monotonic() - begin, 3)        # promised: 1 s; the machine is shared

    def test_spawner_killed(self):
        for contain in ("auto", "off"):
            with self.subTest(contain), Spawns(contain=contain) as farm:
                job = farm.begin([PROBE, b"sleep"])
                pid = farm.wait_for(job, ("started",)).pid
                other = farm.begin([PROBE, b"escape", b"stay"])
                escaped = farm.noted(other)
                self.assertEqual(farm.spawner.known, {job: pid, other: farm.wait_for(other, ("started",)).pid})
                os.kill(farm.spawner.pid, signal.SIGKILL)
                with self.assertRaises(lm.SpawnerGone):
                    while True:
                        select.select([farm.spawner], [], [], DEADLINE_S)
                        farm.spawner.results()
                self.assertTrue(alive(pid) and alive(escaped))
                farm.spawner.kill_known_groups(own_children=())
                self.assertFalse(alive(pid) or alive(escaped))
                farm.spawner.kill(job)                      # no exception, no effect
                with self.assertRaises(lm.SpawnerGone):
                    farm.spawner.results()
            self.assertFalse(os.path.exists(farm.spawner.area.path))

    def test_signals_of_the_terminal(self):
        with Spawns() as farm:
            self.assertEqual(os.getsid(farm.spawner.pid), farm.spawner.pid)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
                os.kill(farm.spawner.pid, number)
            self.assertEqual(farm.run(["/bin/true"]).code, 0)

    def test_stopped_spawner_blocks_nobody(self):
        with Spawns() as farm:
            os.kill(farm.spawner.pid, signal.SIGSTOP)
            jobs = [farm.begin([b"/bin/true", b"x" * 50000]) for _ in range(40)]
            self.assertTrue(farm.spawner.wants_write)
            os.kill(farm.spawner.pid, signal.SIGCONT)
            self.assertEqual({farm.finish(job).code for job in jobs}, {0})
            self.assertFalse(farm.spawner.wants_write)

    def test_nothing_leaks(self):
        with Spawns() as farm:
            server = "/proc/%d/" % farm.spawner.pid
            self.assertEqual(farm.run(["/bin/true"]).code, 0)
            fds_here, fds_there = len(os.listdir("/proc/self/fd")), None
            if ROOT:
                fds_there = len(os.listdir(server + "fd"))
            for _ in range(25):
                jobs = [farm.begin([b"/bin/true"]) for _ in range(8)]
                self.assertEqual({farm.finish(job).code for job in jobs}, {0})
            self.assertTrue(eventually(lambda: len(os.listdir(server + "task")) == 1))
            self.assertEqual(contents(server + "task/%d/children" % farm.spawner.pid), b"")
            self.assertEqual(len(os.listdir("/proc/self/fd")), fds_here)
            self.assertEqual(farm.spawner.known, {})
            if ROOT:
                self.assertEqual(len(os.listdir(server + "fd")), fds_there)
            self.assertEqual(os.listdir(farm.spawner.area.fd), [])
            pid, path = farm.spawner.pid, farm.spawner.area.path
        self.assertFalse(alive(pid) or os.path.exists(path))

    def test_rules_are_renewed(self):
        """The fixed rules hold inodes: what is replaced by rename must be found again, and nothing may leak."""
        if not LANDLOCK:
            self.skipTest("no Landlock")
        landlock = lm.Landlock(LANDLOCK, ())
        before = len(os.listdir("/proc/self/fd"))
        landlock.refresh(0)
        first = landlock.fixed
        landlock.refresh(lm.RULES_REFRESH_S - 1)
        self.assertIs(landlock.fixed, first)
        landlock.refresh(lm.RULES_REFRESH_S)
        self.assertIsNot(landlock.fixed, first)
        self.assertEqual(len(first[1]), len(landlock.fixed[1]))
        del first, landlock
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class SpawnerStarting(SpawnCase):
    def test_choice(self):
        rows = (("auto", 7, True, "nobody", ("landlock", True, True)),
                ("auto", 1, False, None, ("landlock", True, True)),
                ("require", 1, False, None, ("landlock", True, True)),
                ("auto", 0, True, "nobody", ("user", False, False)),
                ("auto", 0, False, None, ("none", False, False)), ("off", 7, True, "nobody", ("user", True, True)),
                ("off", 0, False, None, ("none", True, True)), ("off", 7, True, "root", ("none", True, True)))
        for *arguments, expected in rows:
            with self.subTest(arguments):
                self.assertEqual(lm.choose_containment(*arguments), expected)
        with self.assertRaises(lm.ContainmentError):
            lm.choose_containment("require", 0, True, "nobody")

    def test_refusals(self):
        rows = [dict(tmpdir="/nonexistent")]
        rows += [dict(user="no_such_user"), dict(user="root")] if ROOT else [dict(nice=-1)]
        for settings in rows:
            with self.subTest(settings), self.assertRaises(lm.ContainmentError) as caught:
                lm.Spawner.start(lm.SpawnSettings(**settings))
            self.assertNotIn("\n", str(caught.exception))
        before = set(os.listdir("/proc/self/fd"))
        original = lm.landlock_abi
        lm.landlock_abi = lambda: 0                     # the only fake here: every kernel at hand has Landlock
        try:
            with self.assertRaises(lm.ContainmentError):
                lm.Spawner.start(lm.SpawnSettings(contain="require"))
            with Spawns(contain="auto") as farm:
                self.assertEqual((farm.spawner.containment, farm.spawner.may_clang, farm.spawner.landlock_abi),
                                 ("user" if ROOT else "none", False, 0))
                self.assertEqual(farm.run(["/usr/bin/gcc", "-c", "in.i"], {"in.i": HELLO_C}).code, 0)
        finally:
            lm.landlock_abi = original
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)

    def test_compiler_dirs(self):
        if not LANDLOCK:
            self.skipTest("no Landlock")
        other = tempfile.mkdtemp()
        os.chmod(other, 0o755)
        shutil.copy(os.fsdecode(PROBE), other + "/cc")
        try:
            for folders, kind in (((), "failed"), ((other,), "ended")):
                with Spawns(compiler_dirs=folders) as farm:
                    self.assertEqual(farm.run([other + "/cc", "report"]).result.kind, kind)
        finally:
            shutil.rmtree(other)

    @unittest.skipUnless(ROOT, "drops from root")
    def test_unprivileged(self):
        """The same suite as a user of our own, in a process that gave up root."""
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setgroups([])
                os.setgid(54321)
                os.setuid(54321)
                os.chdir("/")
                global ROOT
                ROOT = False
                tests = unittest.TestSuite([
                    SpawnedCompilers("test_same_object_as_outside"),
                    SpawnedHostile("test_compilers_read_and_run_nothing"), SpawnedHostile("test_programs"),
                    SpawnedEnvironment("test_what_a_compiler_finds"), SpawnedEnding("test_kill"),
                    SpawnedEnding("test_escaped_grandchildren"), SpawnedEnding("test_nothing_leaks"),
                    SpawnedEnding("test_spawner_killed"), SpawnerStarting("test_refusals")])
                outcome = unittest.TextTestRunner(verbosity=0).run(tests)
                code = 0 if outcome.wasSuccessful() else 1
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)


class JobFolders(SpawnCase):
    def setUp(self):
        self.here = tempfile.mkdtemp()
        self.fd = os.open(self.here, os.O_RDONLY | os.O_DIRECTORY)

    def tearDown(self):
        os.close(self.fd)
        subprocess.run(["rm", "-rf", self.here], check=True)

    def test_results(self):
        uid = os.getuid()
        with open(self.here + "/plain", "w") as file:
            file.write("12345")
        with open(self.here + "/twice", "w"):
            os.link(self.here + "/twice", self.here + "/hard")
        os.symlink("/etc/passwd", self.here + "/link")
        os.symlink("plain", self.here + "/inside")
        os.mkfifo(self.here + "/fifo")
        os.mkdir(self.here + "/folder")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self.here + "/socket")
        fd, size = lm.open_result(self.fd, "plain", uid)
        self.assertEqual((os.read(fd, 10), size, os.get_inheritable(fd)), (b"12345", 5, False))
        os.close(fd)
        for name in "hard link inside fifo folder socket".split():
            with self.subTest(name), self.assertRaises(lm.UnsafeResult):
                lm.open_result(self.fd, name, uid)
        with self.assertRaises(lm.UnsafeResult):
            lm.open_result(self.fd, "plain", uid + 1)
        with self.assertRaises(FileNotFoundError):
            lm.open_result(self.fd, "absent", uid)
        for name in "plain link absent/x".split():
            with self.subTest(name), self.assertRaises(OSError):
                lm.create_source(self.fd, name)

    def test_removal_of_hostile_trees(self):
        outside = tempfile.mkdtemp()
        with open(outside + "/precious", "w"):
            pass
        tree = self.here + "/tree"
        os.makedirs(tree + "/a/b/c")
        os.symlink(outside, tree + "/a/link")
        os.symlink(outside, tree + "/link")
        os.mkfifo(tree + "/a/b/fifo")
        here = os.getcwd()
        os.chdir(tree)
        for _ in range(1500):                           # deeper than PATH_MAX, Python's stack and the open files
            os.mkdir("deep")
            os.chdir("deep")
        os.chdir(here)
        os.chmod(tree + "/a/b", 0o500)
        os.chmod(tree + "/a", 0)
        child = os.fork()
        if not child:                                   # as the user that owns it: root would not notice modes
            code = 1
            try:
                if ROOT:
                    subprocess.run(["chown", "-R", "65534", self.here], check=True)
                    os.setuid(65534)
                lm.empty_folder(self.fd)
                code = 0
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(os.listdir(self.here), [])
        self.assertEqual(os.listdir(outside), ["precious"])
        shutil.rmtree(outside)

    def test_area(self):
        account = lm.job_account("nobody", "auto")
        first = lm.JobArea(self.here, account)
        second = lm.JobArea(self.here, account)
        self.assertTrue(os.path.exists(first.path))     # locked, so not stale
        path, fd = second.make_folder()
        status = os.fstat(fd)
        self.assertEqual((status.st_uid, status.st_mode & 0o7777), (account.uid, 0o700))
        os.close(lm.create_source(fd, "in.i"))
        self.assertTrue(second.remove_folder(path, fd))
        self.assertFalse(os.path.exists(path))
        path, fd = second.make_folder()
        os.makedirs(path + b"/x/y")
        self.assertFalse(second.remove_folder(path, fd))
        os.close(first.fd)                              # as if its daemon and spawner had died
        third = lm.JobArea(self.here, account)
        self.assertFalse(os.path.exists(first.path))
        second.remove()
        third.remove()
        self.assertEqual(os.listdir(self.here), [])

    def test_spawner_removes_what_the_daemon_would_not(self):
        with Spawns() as farm:
            path, fd = farm.spawner.area.make_folder()
            os.makedirs(path + b"/x/y/z")
            if ROOT:
                subprocess.run(["chown", "-R", "65534", path], check=True)
            farm.spawner.remove_folder(path, fd)
            self.assertTrue(eventually(lambda: not os.path.exists(path)))


class SpawnerMessages(SpawnCase):
    def test_round_trip(self):
        request = lm.SpawnRequest(lm.SPAWN, 2 ** 63, b"/f", [b"cc", b"", b"\xff"], {b"A": b"=b\n"}, [b"/opt/x"], b"z:x",
                                  2 ** 40)
        back = lm.decode_request(lm.encode_request(request))
        for name in request.__slots__:
            self.assertEqual(getattr(back, name), getattr(request, name))
        for kind, value in (("started", 7), ("failed", 2), ("ended", 256)):
            result = lm.SpawnResult(9, kind, value, 1.5, 2048, 2.5, "reason")
            back = lm.decode_result(lm.encode_result(result))
            for name in result.__slots__:
                self.assertEqual(getattr(back, name), getattr(result, name))
        for message in (b"", b"S", lm.encode_request(request) + b"\0more"):
            with self.assertRaises(ValueError):
                lm.decode_request(message)


# ---- the job server, over its socket and with the real programs

class Wire:
    """A TCP connection to a server, spoken by hand."""

    def __init__(self, daemon, timeout=15, source=None):
        host, _, port = getattr(daemon, "address", daemon).rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout, source and (source, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)
        return self

    def ask_slot(self, identity=None, mode=0, size_kb=1, instance=b"instance", uid=1):
        request = lm.SlotRequest(instance, uid, size_kb, 512, identity or gcc_identity(), mode, "c")
        return self.send(request.encode())

    def decode(self, generator):
        decoder = lm.Decoder(generator)
        while not decoder.done:
            data = self.sock.recv(decoder.missing())
            if not data:
                raise EOFError
            decoder.feed(data)
        return decoder.result

    def admission(self):
        return self.decode(lm.decode_admission())

    def job(self, argv, text=HELLO_C):
        return self.send(lm.encode_job([os.fsencode(word) for word in argv], len(text)) + text)

    def reply(self):
        """(Reply, object); None where the server closes without a word."""
        try:
            reply = self.decode(lm.decode_reply())
            data = bytearray()
            while len(data) < reply.size:
                data += self.sock.recv(reply.size - len(data)) or b"short"
            return reply, bytes(data)
        except (EOFError, ConnectionError):
            return None

    def closed(self, seconds=10):
        """Whether the server closes, or has closed, with nothing more to say."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except ConnectionError:
            return True
        except socket.timeout:
            return False


ARGV = ["gcc", "-c", "-O1", "hello.c", "-o", "hello.o"]


class ServerCase(Comparing, unittest.TestCase):
    """One worker with two slots for all tests of a class."""

    @classmethod
    def options(cls):
        """(options, program) of the worker."""
        return (), None

    @classmethod
    def setUpClass(cls):
        cls.farm = LoopbackFarm()
        try:
            options, prog = cls.options()
            cls.worker = cls.farm.worker("--slots", "2", *options, prog=prog)
            cls.worker.until(lambda s: s["hosts"][0]["slots"] == 2)
        except BaseException:
            cls.farm.__exit__(Exception)
            raise

    @classmethod
    def tearDownClass(cls):
        try:
            cls.worker.idle()
        finally:
            cls.farm.__exit__(None)

    def setUp(self):
        self.sources = Sources()

    def serves(self, source=None):
        """A whole job is done as ever."""
        with Wire(self.worker, source=source) as wire:
            reply, data = wire.job(ARGV).reply()
        self.assertEqual((reply.status, data[:4]), (0, b"\x7fELF"))

    def nothing_left(self):
        self.worker.idle()
        self.assertTrue(eventually(lambda: len(self.worker.areas()) <= 1), self.worker.areas())


class SlowSenders(FarmCase):
    """Deadlines of the server, with shorter ones."""

    def test_drip(self):
        """A byte now and then does not hold a slot; a slow but honest sender keeps his."""
        worker = self.farm.worker("--slots", "1", prog=program(PROGRESS_S=1.0, SLOWEST_BYTES_S=1000))
        with Wire(worker) as drip, Wire(worker) as waiting:
            self.assertEqual(drip.ask_slot().admission()[0], "granted")
            self.assertEqual(waiting.ask_slot().admission()[0], "parked")
            text = lm.encode_job([os.fsencode(word) for word in ARGV], 1 << 20)
            begun, sent = time.monotonic(), 0
            waiting.sock.settimeout(0.2)
            while time.monotonic() < begun + 10:
                with contextlib.suppress(OSError):
                    drip.send(text[sent:sent + 1])
                    sent += 1
                with contextlib.suppress(socket.timeout):
                    self.assertEqual(waiting.admission()[0], "granted")
                    break
            self.assertLess(time.monotonic() - begun, 4)
            waiting.sock.settimeout(10)
            for at in range(0, len(text), 50):
                waiting.send(text[at:at + 50])
            body = HELLO_C + b"\n" * ((1 << 20) - len(HELLO_C))
            for at in range(0, len(body), 1 << 16):
                waiting.send(body[at:at + (1 << 16)])
                time.sleep(0.1)                         # 1.6 s in all, over PROGRESS_S
            self.assertEqual(waiting.reply()[0].status, 0)

    def test_sending_ends(self):
        """Ten kilobytes a second keep a slot no longer than a job may take."""
        now, near = [0.0], socket.socketpair()[0]
        server = unittest.mock.Mock(loop=unittest.mock.Mock(now=lambda: now[0]), sending_s=600)
        server.trust.serves_plain = True
        with contextlib.closing(near):
            connection = lm.JobConnection(server, near, "10.0.0.1", now[0])
            for now[0] in range(1, 1000):
                connection.progress_in(20_000)
                if now[0] >= connection.deadline:
                    break
            self.assertEqual((now[0], connection.deadline), (601, 601))

    def test_who_goes(self):
        """Of one address's connections that hold no slot; of all addresses' where these are too many; of those that
        wait or are answered only for want of descriptors."""
        gate = lm.Gate(unittest.mock.Mock(), unittest.mock.Mock())
        for at, (state, peer) in enumerate(itertools.product(
                ("queued", "running", "opening", "body", "replying"), ("10.0.0.1", "10.0.0.2"))):
            connection = lm.JobConnection.__new__(lm.JobConnection)
            connection.state, connection.peer, connection.slot_request = state, peer, None
            connection.deadline = math.inf if state in ("queued", "running") else 100.0 + at
            gate.connections.add(connection)
        ended, unadmitted, replies = [], lm.JobConnection.unadmitted, lm.JobConnection.replies

        def end(connection, *_):
            ended.append((connection.state, connection.peer))
            gate.connections.discard(connection)
        with unittest.mock.patch.object(lm.JobConnection, "end", end), \
                unittest.mock.patch.object(lm, "UNADMITTED_TOTAL", 3):
            gate.make_room("10.0.0.2", unadmitted, 3)       # four in all
            gate.make_room("10.0.0.2", unadmitted, 2)       # then two of this address
            gate.make_room("10.0.0.2", unadmitted, 2)
            gate.make_room("10.0.0.2", replies, 2)
            gate.make_room("10.0.0.2", replies, 1)
            self.assertEqual(ended, [("opening", "10.0.0.1"), ("opening", "10.0.0.2"), ("replying", "10.0.0.2")])
            for _ in range(6):
                gate.shed()
        self.assertEqual([state for state, _ in ended[3:]], ["body", "body", "replying", "queued", "queued"])
        self.assertEqual({c.state for c in gate.connections}, {"running"})

    def test_holders_hear_of_us(self):
        """Who has a job here gets a report each second in a large farm, too."""
        server = unittest.mock.Mock()
        server.admission.holders = {unittest.mock.Mock(peer="10.0.0.1"): None}
        lm.JobServer.sweep(server, 5.0)
        server.audience.asked.assert_called_once_with("10.0.0.1", 5.0)
        server.gate.sweep.assert_called_once_with(5.0)

    def test_without_a_slot(self):
        """Plain clients that send, or wait, hold descriptors and disk: the idle go, and so does who is one too many."""
        worker = self.farm.worker("--slots", "1", "--max-job-mb", "1",
                                  prog=program(UNADMITTED_PER_ADDRESS=3, WAITING_PER_ADDRESS=2))
        argv, slow = [os.fsencode(word) for word in ARGV], SLOW_SOURCE.encode()
        with contextlib.ExitStack() as stack:
            senders = [stack.enter_context(Wire(worker)).send(lm.encode_job(argv, 1000)) for _ in range(5)]
            self.assertEqual([wire.closed() for wire in senders[:2]], [True, True])
            self.assertEqual(senders[4].send(HELLO_C.ljust(1000)).reply()[0].status, 0)
        self.assertTrue(eventually(lambda: len(worker.areas()) <= 1))
        with Wire(worker) as first, Wire(worker) as second:
            first.send(lm.encode_job(argv, 600_000))
            self.assertTrue(eventually(lambda: len(worker.areas()) > 1))
            self.assertTrue(second.send(lm.encode_job(argv, 600_000)).closed())
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(Wire(worker)).send(lm.encode_job(argv, len(slow)) + slow)
            self.assertTrue(eventually(lambda: compilers_of(worker)))
            for count in (1, 2):
                stack.enter_context(Wire(worker)).job(ARGV)
                worker.until(lambda s, count=count: s["hosts"][0]["waiting"] == count)
            self.assertTrue(stack.enter_context(Wire(worker)).job(ARGV).closed())
            self.assertTrue(compilers_of(worker))
            running.sock.close()
        worker.idle()

    def test_parked_cap(self):
        worker = self.farm.worker("--slots", "1", prog=program(WAITING_PER_ADDRESS=3))
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(Wire(worker)) for _ in range(6)]
            said = [wire.ask_slot().admission()[0] for wire in wires]
            self.assertEqual(said, ["granted", "parked", "parked", "parked", "refused", "refused"])


class SlotConversations(ServerCase):
    """LMRQ and what follows, over a plain socket."""

    def test_granted_and_served(self):
        with Wire(self.worker) as wire:
            self.assertEqual(wire.ask_slot().admission()[0], "granted")
            self.worker.until(lambda s: s["hosts"][0]["running"] == 1)
            reply, data = wire.job(ARGV).reply()
            self.assertEqual((reply.status, data[:4]), (0, b"\x7fELF"))
            times = wire.decode(lm.decode_times())
            self.assertGreater(times.elapsed_ms, 0)
            self.assertGreater(times.peak_kb, 1000)
            self.assertTrue(wire.closed())
        self.nothing_left()

    def test_parked_until_a_slot_is_free(self):
        with Wire(self.worker) as first, Wire(self.worker) as second, Wire(self.worker) as third:
            reservations = [wire.ask_slot().admission() for wire in (first, second)]
            self.assertEqual([r[0] for r in reservations], ["granted"] * 2)
            self.assertEqual(third.ask_slot().admission()[:2], ("parked", 1))
            self.worker.until(lambda s: s["hosts"][0]["waiting"] == 1)
            first.job(ARGV)
            granted = third.admission()
            self.assertEqual(granted[0], "granted")
            self.assertGreater(granted[1], max(r[1] for r in reservations))
            self.assertEqual(third.job(ARGV).reply()[0].status, 0)
        self.nothing_left()

    def test_lease_lapses(self):
        begin = time.monotonic()
        with Wire(self.worker) as wire, Wire(self.worker) as other, Wire(self.worker) as parked:
            self.assertEqual(wire.ask_slot().admission()[0], "granted")
            self.assertEqual(other.ask_slot().admission()[0], "granted")
            self.assertEqual(parked.ask_slot().admission()[0], "parked")
            self.assertEqual(wire.admission()[:2], ("refused", "lease-over"))
            self.assertTrue(2.0 <= time.monotonic() - begin < 5, time.monotonic() - begin)
            self.assertEqual(parked.admission()[0], "granted")
            self.assertTrue(wire.closed())
        self.nothing_left()

    def test_progress_after_the_lease(self):
        """The first byte in time is enough: a slow sender is not cut off after 2 s."""
        with Wire(self.worker) as wire:
            wire.ask_slot().admission()
            wire.send(b"DIST0000")
            wire.sock.settimeout(3)
            with self.assertRaises(socket.timeout):
                wire.sock.recv(1)
            wire.sock.settimeout(15)
            request = lm.encode_job([os.fsencode(word) for word in ARGV], len(HELLO_C)) + HELLO_C
            self.assertEqual(wire.send(request[8:]).reply()[0].status, 0)
        self.nothing_left()

    def test_refusals(self):
        for expected, arguments in (("compiler-unknown", dict(identity=b"unknown!")),
                                    ("too-large", dict(size_kb=1 << 30))):
            with self.subTest(expected), Wire(self.worker) as wire:
                self.assertEqual(wire.ask_slot(**arguments).admission()[:2], ("refused", expected))
                self.assertTrue(wire.closed())
        with Wire(self.worker) as wire:
            wire.ask_slot().admission()
            answer = wire.job(ARGV + ["-fplugin=/x.so"]).decode(lm.decode_reply())
            self.assertEqual(answer.refusal[0], "argument")
            self.assertIn("-fplugin", answer.refusal[1])
        with Wire(self.worker) as wire:
            wire.ask_slot().send(b"too soon, and no token")
            self.assertTrue(wire.closed())
        self.nothing_left()
        self.serves()

    def test_zlib(self):
        """Offered with the LMRQ, agreed on with the LMOK; what is no zlib, or a bomb, is refused."""
        text = HELLO_C + b"\n" * 1000
        request = lm.SlotRequest(b"instance", 1, 1, 512, gcc_identity(), 0, "c", lm.ZLIB).encode()
        argv = lm.encode_argv([os.fsencode(word) for word in ARGV])
        for body, good in ((zlib.compress(text, 1), True), (zlib.compress(text)[:-20], False), (b"x" * 99, False),
                           (zlib.compress(bytes(600 << 20), 1), "too-large"), (b"", True)):
            with Wire(self.worker) as wire:
                self.assertEqual(wire.send(request).admission()[2], lm.ZLIB)
                wire.send(argv + lm.body_token(b"DOTI", body))
                reply = wire.decode(lm.decode_reply())
                self.assertEqual(reply.refusal and reply.refusal[0],
                                 {True: None, False: "protocol"}.get(good, good))
                self.assertEqual(reply.status, 0)
        with Wire(self.worker) as wire:
            self.assertEqual(wire.ask_slot().admission()[2], lm.NOT_COMPRESSED)
        self.nothing_left()

    def test_refused_midway_comes_before_the_end(self):
        """The sender of a large job is told why, and not just cut off."""
        with Wire(self.worker) as wire:
            wire.ask_slot().admission()
            wire.send(lm.encode_job([b"gcc", b"-c", b"x.c", b"-wrapper", b"/bin/sh"], 4 << 20))
            sent = 0
            try:
                while sent < 4 << 20:
                    sent += wire.sock.send(b" " * 65536)
            except ConnectionError:
                pass
            self.assertEqual(wire.decode(lm.decode_reply()).refusal[0], "argument")
        self.nothing_left()

    def test_close_cancels_in_every_state(self):
        head = lm.encode_job([os.fsencode(word) for word in ARGV], 1 << 20)
        slow = SLOW_SOURCE.encode()
        states = (b"", b"LM", lm.SlotRequest(b"instance", 1, 1, 1, gcc_identity(), 0, "c").encode(), b"DIST00000001",
                  head[:40], head, head + b"x" * 5000,
                  lm.encode_job([b"gcc", b"-O2", b"-c", b"x.c"], len(slow)) + slow)
        for way in ("close", "reset", "granted"):
            for state in states:
                with self.subTest(way=way, state=state[:12], size=len(state)):
                    with Wire(self.worker) as wire:
                        if way == "granted":
                            wire.ask_slot().admission()
                        elif way == "reset":
                            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        wire.send(state)
                        if state is states[-1]:
                            self.assertTrue(eventually(lambda: compilers_of(self.worker)))
                    self.nothing_left()
                    self.assertTrue(eventually(lambda: not compilers_of(self.worker), 3))
        with Wire(self.worker) as one, Wire(self.worker) as two:
            one.ask_slot().admission()
            two.ask_slot().admission()
            with Wire(self.worker) as parked:
                parked.ask_slot().admission()
            self.worker.until(lambda s: s["hosts"][0]["waiting"] == 0)
        self.nothing_left()

    def test_garbage(self):
        rng = random.Random(7)
        good = lm.encode_job([os.fsencode(word) for word in ARGV], len(HELLO_C)) + HELLO_C
        rows = [b"GET / HTTP/1.0\r\n\r\n", b"\0" * 12, b"DIST00000002", b"DIST00000003", b"DISTffffffff",
                b"DIST0000000g",
                b"DIST00000001ARGC00000000", b"DIST00000001ARGCffffffff", b"DIST00000001ARGC00000001ARGVffffffff",
                b"DIST00000001ARGC00000001ARGV00000000DOTIffffffff", b"LMRQffffffff", b"LMRQ00000000",
                b"LMRQ00000003abc", b"DOTI00000001x", b"DIST00000001ARGC00000001ARGV00000003g\0cDOTI00000001x",
                b"DIST00000001" + b"ARGC0000ffff", b"\xff" * 5000, b"DIST    0x01"]
        for _ in range(60):                             # a byte changed here and there
            row = bytearray(good)
            for _ in range(rng.randint(1, 3)):
                row[rng.randrange(len(row))] = rng.randrange(256)
            rows.append(bytes(row))

        def check(row):
            with Wire(self.worker, 3) as wire:
                with contextlib.suppress(ConnectionError):
                    wire.send(row)
                    with contextlib.suppress(ConnectionError, socket.timeout):
                        wire.sock.recv(1)
        together(rows, check)
        self.nothing_left()
        self.serves()

    def test_claims(self):
        """100,000 arguments and lengths of 4 GiB: refused, and no memory is taken for what was only announced."""
        many = b"DIST00000001" + lm.token(b"ARGC", 100_000) + lm.body_token(b"ARGV", b"x") * 100_000
        rows = [many, huge_argv(100_000), lm.encode_job([b"gcc"] + [b"y" * 99_999] * 40, 5)]
        rows += [b"DIST00000001ARGC00000002ARGV%sx" % size for size in (b"ffffffff", b"80000000", b"7fffffff")]
        rows += [lm.encode_job([os.fsencode(word) for word in ARGV], size) for size in (0xffffffff, 0x80000000)]
        before = LiveFuzz.figures(self.worker)[0]

        def check(row):
            own, row = row
            with Wire(self.worker) as wire:
                if own and wire.ask_slot().admission()[0] == "parked":
                    wire.admission()
                with contextlib.suppress(ConnectionError):
                    wire.send(row)
                return wire.closed(8)
        both = [(own, row) for own in (False, True) for row in rows]
        for row, closed in zip(both, together(both, check, workers=4)):
            with self.subTest(own=row[0], row=row[1][:40]):
                self.assertTrue(closed)
        self.nothing_left()
        self.assertLess(LiveFuzz.figures(self.worker)[0] - before, 20_000)
        self.serves()

    def test_trickle(self):
        """Seven bytes at a time."""
        data = lm.encode_job([os.fsencode(word) for word in ARGV], len(HELLO_C)) + HELLO_C
        with Wire(self.worker) as wire:
            for at in range(0, len(data), 7):
                wire.send(data[at:at + 7])
            self.assertEqual(wire.reply()[0].status, 0)

    def test_stalled_connections(self):
        """500 of each kind keep no real job out, and take no slot. An address may have 256 in line, and has its next
        refused as long as these wait: the real job then comes from another."""
        head = lm.encode_job([os.fsencode(word) for word in ARGV], 1 << 20)
        lease = lm.SlotRequest(b"stalling", 9, 1, 1, gcc_identity(), 0, "c").encode()
        for start, limit in ((b"", 3), (head[:30], 3), (head + b"x", 3), (lease, 12)):
            with self.subTest(start[:4], size=len(start)), contextlib.ExitStack() as stack:
                for _ in range(500):
                    with contextlib.suppress(ConnectionError):
                        stack.enter_context(Wire(self.worker)).send(start)
                begin = time.monotonic()
                self.serves("127.0.0.79" if start == lease else None)
                self.assertLess(time.monotonic() - begin, limit)
            self.nothing_left()

    NETWORKS = (    # --listen, --allow, address of the client, whether it is served
        ("127.0.0.1:0", "127.0.0.77/32", "127.0.0.77", True), ("127.0.0.1:0", "127.0.0.77/32", "127.0.0.78", False),
        ("127.0.0.1:0", "127.0.0.64/28", "127.0.0.77", True), ("127.0.0.1:0", "127.0.0.64/28", "127.0.0.80", False),
        ("127.0.0.1:0", "::/0", "127.0.0.77", False), ("[::1]:0", "::1", "::1", True),
        ("[::1]:0", "fd00::/8", "::1", False), ("[::1]:0", "0.0.0.0/0", "::1", False),
        ("[::]:0", "127.0.0.77", "127.0.0.77", True), ("[::]:0", "127.0.0.77", "127.0.0.78", False),    # mapped ones
        ("[::]:0", "::/0", "127.0.0.77", False), ("[::]:0", "::1", "::1", True))

    def test_networks(self):
        """--allow decides, before a byte is read. A stranger is told so."""
        def check(row):
            listen, allow, source, served = row
            worker = farm.start("--listen", listen, "--allow", allow, "--compilers", compilers())
            with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as sock:
                sock.bind((source, 0))
                sock.settimeout(10)
                sock.connect(("::1" if ":" in source else "127.0.0.1", int(worker.address.rpartition(":")[2])))
                wire = Wire.__new__(Wire)
                wire.sock = sock
                with contextlib.suppress(ConnectionError):
                    wire.job(ARGV)
                answer = wire.reply()
            found = answer is not None and answer[0].refusal is None
            told = answer is not None and answer[0].refusal is not None and answer[0].refusal[0] == "not-allowed"
            status = worker.status()["totals"]
            logged = source + " is not allowed" in worker.text()
            return found, told, logged, (status["served"], status["refused"])
        with LoopbackFarm() as farm:
            for row, found in zip(self.NETWORKS, together(self.NETWORKS, check)):
                with self.subTest(row):
                    served = row[-1]
                    self.assertEqual(found, (served, not served, not served, (int(served), int(not served))))

    def test_draining(self):
        with LoopbackFarm() as farm:
            worker = farm.worker()
            with Wire(worker) as kept:
                kept.ask_slot().admission()
                self.assertEqual(command("drain", sock=worker.socket).code, 0)
                self.assertEqual(worker.status()["hosts"][0]["state"], "draining")
                with Wire(worker) as wire:
                    self.assertEqual(wire.ask_slot().admission()[:2], ("refused", "draining"))
                with Wire(worker) as wire:
                    self.assertIsNone(wire.job(ARGV).reply())
                self.assertEqual(kept.job(ARGV).reply()[0].status, 0)
            self.assertEqual(command("drain", "off", sock=worker.socket).code, 0)
            with Wire(worker) as wire:
                self.assertEqual(wire.job(ARGV).reply()[0].status, 0)


@functools.lru_cache(None)
def secret_file():
    """Path of a file that anybody on this machine may read, and that no job should."""
    path = new_folder() + "/secret"
    write(path, b"secret %016x" % random.getrandbits(64), 0o644)
    return path


class HostileJobs(ServerCase):
    """Arguments and texts of an attacker on an allowed network: refused or harmless, nothing outside the folder."""

    def setUp(self):
        super().setUp()
        self.outside = OUTSIDE + "-server"
        self.script = write(new_folder() + "/evil", "#!/bin/sh\nid > %s\nexec \"$@\"\n" % self.outside, 0o755)

    def rows(self):
        secret = "/etc/passwd"
        base = ["gcc", "-c", "x.c"]
        arguments = (["-o", self.outside], ["-wrapper", self.script], ["-wrapper", "/bin/sh,-c,id>" + self.outside],
                     ["-B", os.path.dirname(self.script)], ["-B" + os.path.dirname(self.script)], ["@" + secret],
                     ["-include", secret], ["-imacros", secret], ["-specs=" + self.script], ["--specs", self.script],
                     ["-fplugin=" + self.script], ["-fplugin-arg-x-y=z"], ["-iplugindir=/tmp"], ["-I", "/etc"],
                     ["-Wa,-a=" + self.outside], ["-Wa,--MD," + self.outside], ["-Wa,@" + secret],
                     ["-Wp,-MD," + secret],
                     ["-Xassembler", "-a=" + self.outside], ["-Xpreprocessor", "-include"],
                     ["-MD", "-MF", self.outside],
                     ["-MF" + self.outside], ["-dumpdir", "/tmp/"], ["-dumpbase", self.outside], ["-save-temps"],
                     ["-fdump-tree-all=" + self.outside], ["-fprofile-use=" + secret], ["-fstack-usage"],
                     ["-fopt-info-all=" + self.outside], ["-aux-info", self.outside], ["-fcallgraph-info"],
                     ["-fdiagnostics-format=sarif-file"], ["-gsplit-dwarf"], ["-x", "c", "-"], ["--sysroot=/etc"],
                     ["-x", "none", secret], ["-T", secret], ["-fuse-ld=" + self.script], ["-pipe", "-E"], ["-M"],
                     ["-fself-test=" + secret], ["-frandom-seed=../../x"], ["-fmodules-ts"], ["-print-file-name=x"],
                     ["-###"], ["-v"], ["--help"], ["--param=/etc/x"], ["-o"], ["-x"], ["-Xclang", "-load"],
                     ["-fcompare-debug=-o" + self.outside], ["-foffload=" + secret], ["-flto"],
                     ["--output=" + self.outside],
                     ["-ofoo/" + self.outside], ["--output-pch=" + self.outside], ["-fdebug-prefix-map=/x=/y"])
        rows = [(base + words, HELLO_C) for words in arguments]
        names = ("../../x.c", "/etc/x.c", "..", ".", "", "/", "a/../../b.c", "-x.c", "x.c\n", "@x.c", "x" * 300 + ".c",
                 "out.c", "err.c", "object.o.c", "\udcff.c", "x.sh", "x")
        rows += [(["gcc", "-c", name], HELLO_C) for name in names]
        rows += [([name, "-c", "x.c"], HELLO_C) for name in
                 ("/bin/sh", "sh", "", "../gcc", "-c", ".", "..", "gcc\n", "ld", "as", "cc1", self.script, "gcc/")]
        secret = secret_file().encode()
        texts = (b'__asm__(".incbin \\"%s\\"");' % secret, b'#include "%s"\n' % secret, b"#include </etc/passwd>\n",
                 b'# 1 "/etc/passwd"\nint x = ;\n', b'#pragma GCC pch_preprocess "/etc/passwd"\n', b"\0" * 100, b"",
                 b'__asm__(".include \\"/etc/passwd\\"");', b'#embed "/etc/passwd"\n',
                 b'#line 1 "/etc/passwd"\nint x = ;\n',
                 b'#pragma GCC dependency "/etc/passwd"\n')
        for text in texts:
            for name, extra in (("x.c", []), ("x.c", ["-x", "c"]), ("x.i", []), ("x.S", []), ("x.cc", []), ("x.s", []),
                                ("x.c", ["-fpreprocessed", "-fdirectives-only"])):
                rows.append((["gcc", "-c", name, *extra], text))
        return rows

    def test_rows(self):
        words = contents("/etc/passwd").splitlines()[0], contents(secret_file())

        def check(row):
            argv, text = row
            found = []
            for own in (False, True):
                with Wire(self.worker) as wire:
                    if own:
                        if wire.ask_slot().admission()[0] == "parked":
                            wire.admission()
                    answer = wire.job(argv, text).reply()
                if answer is not None and answer[0].refusal is None:
                    everything = answer[0].stderr + answer[0].stdout + answer[1]
                    found += ["leaks %r" % word for word in words if word in everything]
            if os.path.exists(self.outside):
                found.append("wrote %r" % contents(self.outside))
            return found
        rows = self.rows()
        for row, found in zip(rows, together(rows, check, workers=4)):
            with self.subTest(row):
                self.assertEqual(found, [])
        self.nothing_left()
        self.serves()

    def test_only_the_basename_counts(self):
        with Wire(self.worker) as wire:
            self.assertEqual(wire.job(["/opt/none/bin/gcc", "-c", "x.c"]).reply()[0].status, 0)

    def test_no_compiler_writes_elsewhere(self):
        """What a job could write would be its folder's: gone after it."""
        self.serves()
        self.nothing_left()
        for folder in ("/etc", "/", "/usr"):
            self.assertNotIn("x", os.listdir(folder))


@unittest.skipUnless(LANDLOCK and shutil.which("clang", path=PATH), "needs Landlock and clang")
class HostileClang(ServerCase):
    """clang obeys #include in a preprocessed text and loads what -Xclang says."""

    @classmethod
    def options(cls):
        folder = new_folder()
        os.symlink(shutil.which("clang", path=PATH), folder + "/clang")
        return ("--compilers", folder), None

    def test_rows(self):
        secret, outside = secret_file(), OUTSIDE + "-clang"
        texts = ['#include "%s"\n' % secret, '__asm__(".incbin \\"%s\\"");\n' % secret, '#embed "%s"\n' % secret,
                 '# 1 "%s"\nint x = ;\n' % secret, '#pragma clang module import std\n',
                 '#pragma comment(lib, "%s")\n' % secret, '#import "%s"\n' % secret, '@import std;\n']
        words = [["-Xclang", "-load", "-Xclang", secret], ["-Xclang", "-o", "-Xclang", outside],
                 ["-Xclang", "-include", "-Xclang", secret], ["-fmodules-cache-path=" + outside],
                 ["-fpass-plugin=" + secret], ["-ftime-trace=" + outside], ["-fsave-optimization-record"],
                 ["-foptimization-record-file=" + outside], ["-mllvm", "-load=" + secret], ["-mllvm", "-stats"],
                 ["-mllvm=-debug-pass=" + outside], ["-serialize-diagnostics", outside], ["--config", secret],
                 ["--config=" + secret], ["-cc1"], ["-fcrash-diagnostics-dir=" + outside], ["-MJ", outside],
                 ["-ivfsoverlay", secret], ["-resource-dir=/tmp"], ["-fprofile-instr-use=" + secret],
                 ["-fsanitize-ignorelist=" + secret], ["-working-directory=/etc"], ["-fmodule-file=" + secret],
                 ["-fdebug-compilation-dir", "/x", "-gsplit-dwarf"], ["-ccc-install-dir", "/"], ["-B/tmp"],
                 ["--gcc-toolchain=/tmp", "-fno-integrated-as"], ["-emit-ast"], ["-fembed-bitcode=all"]]
        kinds = (("x.c", []), ("x.i", []), ("x.m", []), ("x.c", ["-x", "c"]), ("x.cc", ["-x", "c++"]))
        rows = [(["clang", "-c", name, *kind], text) for text in texts for name, kind in kinds]
        rows += [(["clang", "-c", "x.c", *more], HELLO_C.decode()) for more in words]
        inside = contents(secret)

        def check(row):
            with Wire(self.worker) as wire:
                answer = wire.job(row[0], row[1].encode()).reply()
            everything = answer[0].stderr + answer[0].stdout + answer[1] if answer else b""
            return ["leaks"] * (inside in everything) + ["wrote"] * os.path.exists(outside)
        for row, found in zip(rows, together(rows, check, workers=4)):
            with self.subTest(row):
                self.assertEqual(found, [])
        self.nothing_left()
        with Wire(self.worker) as wire:                     # else the rows would show nothing
            self.assertEqual(wire.job(["clang", "-c", "x.c"]).reply()[0].status, 0)


@unittest.skipUnless(LANDLOCK and os.access("/bin/bash", os.X_OK), "needs Landlock and bash")
class MemoryLimit(FarmCase):
    """What a job may take, by what was admitted; here little."""
    HEAVY = "__asm__(\".rept 5000000\\n.long 1\\n.endr\");\nint heavy;\n"         # 220 MB of `as`

    def test_address_space(self):
        """It ends with the compiler's own word, which the client knows: it is compiled here, and nobody is blamed."""
        worker = self.farm.worker(prog=program(ADDRESS_SPACE_LEAST_MB=150, ADDRESS_SPACE_RATIO=0))
        with Wire(worker, 60) as wire:
            reply, _ = wire.job(ARGV, self.HEAVY.encode()).reply()
        self.assertNotEqual(reply.status, 0)
        self.assertRegex(reply.stderr, b"out of memory allocating|virtual memory exhausted")
        with Wire(worker, 60) as wire:
            self.assertEqual(wire.job(ARGV).reply()[0].status, 0)
        daemon = self.farm.submitter(worker)
        name = self.sources.make(self.HEAVY)
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        name = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "p"), self.sources.expected(name), "p")
        totals = daemon.idle()["totals"]
        self.assertEqual(totals["remote"], 1, totals)

    def test_admitted(self):
        """The more was admitted the more it may take."""
        worker = self.farm.worker(prog=program(ADDRESS_SPACE_LEAST_MB=150))
        with Wire(worker, 60) as wire:                  # 512 MB
            self.assertEqual(wire.ask_slot().admission()[0], "granted")
            self.assertEqual(wire.job(ARGV, self.HEAVY.encode()).reply()[0].status, 0)

    def test_messages(self):
        """Of what a compiler writes without end as much is kept as is sent."""
        worker = self.farm.worker()
        text = "__asm__(\".rept 100000\\n.print \\\"%s\\\"\\n.endr\");\n" % ("x" * 50)
        with Wire(worker, 60) as wire:
            reply, data = wire.job(ARGV, text.encode()).reply()
        self.assertEqual((len(reply.stdout), set(reply.stdout)), (lm.MAX_MESSAGE_BYTES, set(b"x\n")))
        self.assertEqual((reply.status, data[:4]), (0, b"\x7fELF"))


class TableOff(ServerCase):
    """Containment alone: a worker whose argument table lets everything pass. -wrapper then runs any program that a
    compiler may run, here a shell; what it must not be able to do ends in nothing."""

    @classmethod
    def options(cls):
        text = contents(program()).decode()
        mark = "\n\n# ---- compiler identity\n"
        assert text.count(mark) == 1
        off = "\n\ndef serve_args(args, family, cxx=False):\n    return [*args], 'x.i', 'cpp-output'\n"
        return (), write(new_folder() + "/distcc_lm.py", text.replace(mark, off + mark), 0o755)

    def job(self, *words, text=HELLO_C):
        with Wire(self.worker) as wire:
            reply, data = wire.job(["gcc", "-c", "x.i", *words], text).reply()
        return reply.stderr + reply.stdout + data

    def script(self, text):
        """What a shell in place of cc1 says."""
        self.assertNotIn(",", text)
        return self.job("-wrapper", "/bin/bash,-c," + text)

    def test_shell(self):
        outside, secret = OUTSIDE + "-table", secret_file()
        victim = subprocess.Popen(["/bin/sleep", "600"], **({"user": 65534} if ROOT else {}))
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.addCleanup(victim.wait)
        self.addCleanup(victim.kill)
        with Wire(self.worker) as other:
            other.job(["gcc", "-O2", "-c", "x.i"], SLOW_SOURCE.encode())
            pid = eventually(lambda: compilers_of(self.worker))[0]
            folder = os.readlink("/proc/%d/cwd" % pid)
            rows = ["read x < %s" % path for path in (secret, "/etc/passwd", "/etc/hostname", "/proc/self/status",
                                                      "/proc/%d/environ" % self.worker.pid, folder + "/x.i",
                                                      self.worker.log_path, self.worker.socket, PROGRAM)]
            rows += ["echo x > %s" % path for path in (outside, "/etc/x", "/dev/shm/x", "/var/tmp/x", "/run/x", "../x",
                                                       folder + "/x", folder + "/../x", "/proc/self/oom_score_adj")]
            rows += ["cd %s && echo * | grep -q x.i" % folder, "cp /bin/true t && ./t",
                     "cp /bin/true t; chmod 755 t; ./t", "mkdir d", "mkfifo f", "ln -s /etc/passwd l",
                     "rm -rf %s && ! test -e %s/x.i" % (folder, folder), "ls /tmp", "ls /", "ls /home", "ls /root"]
            if LANDLOCK >= 4:
                rows += ["exec 3<>/dev/tcp/127.0.0.1/%d" % listener.getsockname()[1],
                         "exec 3<>/dev/tcp/127.0.0.1/%s" % self.worker.address.rpartition(":")[2]]
            if LANDLOCK >= 6:
                rows += ["kill -9 %d" % who for who in (victim.pid, self.worker.pid, pid, os.getpid())]
            self.assertIn(b"FINE", self.script("echo FINE"))
            self.assertIn(b"FINE", self.script("read x < x.i && echo y > y && test -e y && echo FINE"))
            for row in rows:
                with self.subTest(row):
                    self.assertNotIn(b"GOT" + b"THROUGH", self.script("(%s) && echo GOT''THROUGH" % row))
            self.assertTrue(alive(pid) and alive(victim.pid))
            self.assertFalse(os.path.exists(outside))
        self.nothing_left()

    def test_compiler(self):
        """By the compiler's own means."""
        outside, secret = OUTSIDE + "-table", secret_file()
        tool = write(new_folder() + "/as", "#!/bin/sh\necho ran > %s\n" % outside, 0o755)
        name, as_c = secret.encode(), ["-x", "c", "-nostdinc"]      # there is no stdc-predef.h for it to read
        rows = [(words, HELLO_C) for words in (
            ["-o", outside], as_c + ["-MD", "-MF", outside], ["-save-temps", "-dumpdir", outside + "-"],
            ["-fdump-tree-all=" + outside], ["-Wa,-a=" + outside], as_c + ["-include", secret], ["-wrapper", tool],
            ["-B", os.path.dirname(tool)], ["-specs=" + secret], ["-fplugin=" + secret], ["@" + secret],
            as_c + [secret], as_c + ["-E", "-include", secret], ["-aux-info", outside])]
        rows += [(as_c, b'#include "%s"\n' % name), (as_c + ["-E"], b"#include </etc/passwd>\n"),
                 ([], b'__asm__(".incbin \\"%s\\"");\n' % name), (["-x", "assembler"], b'.incbin "%s"\n' % name),
                 (["-fpreprocessed", "-fdirectives-only"], b'#include "%s"\n' % name)]
        self.assertIn(b"\x7fELF", self.job(*as_c))
        inside = contents(secret)
        for words, text in rows:
            with self.subTest(words, text=text):
                with Wire(self.worker) as wire:
                    answer = wire.job(["gcc", "-c", "x.i", *words], text).reply()
                if answer is not None:
                    everything = answer[0].stderr + answer[0].stdout + answer[1]
                    self.assertFalse(inside in everything or b"root:" in everything, everything[:500])
                self.assertFalse(glob.glob(outside + "*"))
        self.nothing_left()

    def test_nothing_goes_on(self):
        """What a job leaves behind in sessions of its own dies with it."""
        mark = "3%06d" % random.randrange(10 ** 6)
        self.script("setsid setsid sleep %s & setsid sleep %s & echo" % (mark, mark))
        self.assertTrue(eventually(lambda: not any(mark.encode() in contents("/proc/%s/cmdline" % pid)
                                                   for pid in os.listdir("/proc") if pid.isdigit()), 5))
        self.nothing_left()


# ~: the object is not that of the compiler alone, nor with distccd: no line markers, another folder, no macros
DISTCC_SENDS = """
gcc -oa.o -c a.c
gcc -c a.c -oout/a.o -O2
gcc -c 's p.c' '-os p.o'
gcc -c a.c -ox
gcc -S a.c -oa.s
gcc -c -S a.c -o a.s
g++ -oa.o -c a.cc
gcc -c $PWD/a.c -o$PWD/out/a.o -g
/usr/bin/gcc -c a.c
cc -c a.c
c++ -c a.cc
gcc -x c -c a.c
g++ -x c++ -c a.cc
~gcc -c p.i
~g++ -c p.ii
gcc --std=c99 --pedantic -c a.c
gcc --std c99 --ansi -c a.c
~gcc --output=a.o -c a.c
gcc --include=h.h --define-macro=X --include-directory=. -c a.c
gcc --all-warnings --extra-warnings --no-warnings --debug --pipe --optimize -c a.c
gcc --language=c -c a.c
gcc -includeh.h -imacrosh.h -include h.h -imacros h.h -c a.c
gcc -iquote. -iquote . -idirafter. -idirafter . -isystem. -isystem . -c a.c
gcc -isysroot/ -isysroot / --sysroot=/ --sysroot / -c a.c
gcc -iprefix . -iwithprefix . -iwithprefixbefore . -imultilib . -c a.c
gcc -D X -DY=1 -U Y -UX -A foo=bar -Afoo=bar -I . -I. -c a.c
gcc -undef -nostdinc -remap -c a.c
gcc -Wp,-DX,-UY -Wp,-MD,x.d -c a.c
gcc -Xpreprocessor -DX -c a.c
gcc -MMD -MF x.d -MP -MT y -MQ z -c a.c
gcc -MD -MFx.d -MTy -c a.c -oa.o
gcc --write-dependencies -c a.c
gcc -L. -L . -lm -l m -Wl,-z,now -Xlinker -z -Xlinker now -z now -u f -uf -T h.h -Th.h -e main -c a.c
gcc -n -N -t -r -s -pie -no-pie -static -static-pie -static-libgcc -rdynamic -symbolic -nolibc -nostdlib -c a.c
gcc -v -c a.c
gcc --verbose -H -Q -time -c a.c
~gcc -P -C -CC -c a.c
gcc -dA -dp -S a.c
gcc -Wa,--noexecstack,-mrelax-relocations=no -Xassembler --noexecstack -c a.c
~gcc -Wa,-g -Wa,--gdwarf-4 -Wa,--statistics -c a.c
gcc --param max-inline-insns-single=9 --param=ssp-buffer-size=4 -c a.c
gcc -m64 -march=haswell -msse4.2 -mcmodel=large -O3 -fPIC -c a.c
gcc -Wall -Wextra -Werror -w -pedantic-errors -c a.c
~gcc -g3 -gdwarf-4 -gz -fdebug-prefix-map=/a=/b -frandom-seed=x/y -c a.c
gcc -fopenmp -fsanitize=address -fverbose-asm -finput-charset=utf-8 -fuse-ld=bfd -c a.c
gcc -pipe -pthread -pg -trigraphs -no-canonical-prefixes -c a.c
"""


@needs("distcc")
class RealClient(ServerCase):
    """Debian's distcc against our daemon."""

    def distcc(self, *words, **env):
        env = environment(**dict({"DISTCC_HOSTS": self.worker.address, "DISTCC_FALLBACK": "0"}, **env))
        env["DISTCC_DIR"] = new_folder()                # no memory of hosts that failed
        return run(["distcc", *words], self.sources.folder, env, 20)

    def served(self):
        return self.worker.status()["totals"]["served"]

    def test_object_and_status(self):
        before = self.served()
        name = self.sources.make()
        self.same(self.distcc("gcc", "-O2", "-c", name, "-o", "o"), self.sources.expected(name, "-O2"), "o")
        name = self.sources.make("#include <string>\nstd::string f() { return \"x\"; }\n", "x.cc")
        self.same(self.distcc("g++", "-c", name, "-o", "o2"), self.sources.expected(name, compiler="g++"), "o2")
        self.assertEqual(self.served(), before + 2)

    def test_rows(self):
        """Whatever it sends is taken, but for what would write, read or load something (ServedArguments)."""
        env = environment(DISTCC_HOSTS=self.worker.address, DISTCC_FALLBACK="0", DISTCC_DIR=new_folder())

        def both(line):
            folder, results = new_folder(), []
            os.mkdir(folder + "/out")
            for name, text in (("a.c", "int a(void) { return 1; }\n"), ("s p.c", "int s;\n"), ("h.h", "#define H\n"),
                               ("a.cc", "int b() { return 2; }\n"), ("p.i", "int p;\n"), ("p.ii", "int p;\n")):
                write("%s/%s" % (folder, name), text)
            for client in ("distcc ", ""):
                done = run(["sh", "-c", client + line.lstrip("~")], folder, env, 20)
                made = {path: row for path, row in files_of(folder).items() if path.endswith((".o", ".s", "x"))}
                results.append((done.code, made))
                for path in made:
                    os.unlink("%s/%s" % (folder, path))
            return results
        before, rows = self.served(), [line for line in DISTCC_SENDS.splitlines() if line]
        for line, (ours, alone) in zip(rows, together(rows, both, 4)):
            with self.subTest(line):
                self.assertEqual((ours[0], list(ours[1])), (0, list(alone[1])))
                self.assertTrue(line[0] == "~" or ours == alone, "another object")
        self.assertEqual(self.served(), before + len(rows))

    def test_stranger(self):
        """Not of --allow: told so in our words, which are none of its protocol; it compiles by itself."""
        with LoopbackFarm() as farm:
            worker = farm.start("--allow", "127.0.0.99", "--compilers", compilers())
            name = self.sources.make()
            env = environment(DISTCC_HOSTS=worker.address, DISTCC_DIR=new_folder())
            done = run(["distcc", "gcc", "-c", name, "-o", "o"], self.sources.folder, env, 20)
            self.assertEqual((done.code, self.sources.object("o")), (0, self.sources.expected(name)[3]))
            self.assertIn("is not allowed", worker.text())

    def test_messages(self):
        """The remote compiler's own words and status."""
        name = self.sources.make("int x = y;\n")
        done = self.distcc("gcc", "-c", name, "-o", "o", DISTCC_SKIP_LOCAL_RETRY="1")
        self.assertEqual(done.code, 1)
        self.assertIn(b"'y' undeclared here", done.err)
        self.assertNotIn(b"^", done.err)
        name = self.sources.make("int f(void) { return 1 / 0; }\n")
        done = self.distcc("gcc", "-c", name, "-o", "o2")
        self.assertEqual((done.code, self.sources.object("o2")), (0, self.sources.expected(name)[3]))
        self.assertIn(b"division by zero", done.err)

    def test_refused(self):
        before = self.worker.status()["totals"]["refused"]
        name = self.sources.make()
        self.assertNotEqual(self.distcc("cc", "-c", name, "-o", "o", DISTCC_NO_REWRITE_CROSS="1").code, 0)
        self.assertNotEqual(self.distcc("gcc", "-wrapper", "/usr/bin/env", "-c", name, "-o", "o").code, 0)
        self.assertEqual(self.worker.status()["totals"]["refused"], before + 2)
        self.assertIn("-wrapper", self.worker.text())
        self.nothing_left()

    def test_ten_at_once(self):
        """Every other one in protocol 2."""
        names = [self.sources.make() for _ in range(10)]
        hosts = (self.worker.address, self.worker.address + ",lzo")
        rows = list(zip(names, itertools.cycle(hosts)))
        results = together(rows, lambda row: self.distcc("gcc", "-c", row[0], "-o", row[0] + ".o",
                                                         DISTCC_HOSTS=row[1]), 10)
        for name, done in zip(names, results):
            self.same(done, self.sources.expected(name), name + ".o")
        self.nothing_left()

    def test_lzo(self):
        """Protocol 2: large and empty sources, messages, an error."""
        before, host = self.served(), self.worker.address + ",lzo"
        large = "char a[1000000] = {1}, b[] = \"%s\";\n" % ("x" * 100000)
        for compiler, name, text in (("gcc", None, None), ("gcc", None, ""), ("gcc", None, large),
                                     ("g++", "v.cc", "#include <vector>\nstd::vector<int> v(7);\n")):
            name = self.sources.make(text, name)
            done = self.distcc(compiler, "-c", name, "-O1", "-o", "o", DISTCC_HOSTS=host)
            self.same(done, self.sources.expected(name, "-O1", compiler=compiler), "o")
        name = self.sources.make("int x = y;\n")
        done = self.distcc("gcc", "-c", name, "-o", "p", DISTCC_HOSTS=host, DISTCC_SKIP_LOCAL_RETRY="1")
        self.assertEqual(done.code, 1)
        self.assertIn(b"'y' undeclared here", done.err)
        self.assertEqual(self.served(), before + 5)
        self.nothing_left()

    def test_bad_lzo(self):
        """Refused without an answer, as distccd does; no folder, slot or process stays."""
        head = lm.encode_job([os.fsencode(word) for word in ARGV], 1000, 2)
        size = lm.lzo_size(1000)
        bomb = b"\x15abcd\x20" + bytes(3 << 20) + b"\1\0\0\x11\0\0"          # 800 MB
        bombed = head[:head.index(b"DOTI")] + lm.body_token(b"DOTI", bomb)
        for data in (head + b"\x11\0\0".ljust(size), head + b"\0" * size, bombed):
            with Wire(self.worker) as wire:
                self.assertIsNone(wire.send(data).reply())
        self.assertIn("what came is no lzo", self.worker.text())
        self.assertIn("what came is too large unpacked", self.worker.text())
        self.nothing_left()
        self.serves()

    def test_pump(self):
        """Refused by closing; the log says why."""
        with Wire(self.worker) as wire:
            self.assertIsNone(wire.send(b"DIST00000003CDIR00000001/").reply())
        self.assertIn("protocol 3 (pump mode", self.worker.text())
        self.serves()

    def test_lsdistcc(self):
        """It compiles a file of its own there, in each protocol; a host that fails is not listed."""
        host, port = self.worker.address.split(":")
        for protocol, listed in (("1", [host + ":" + port]), ("2", ["%s:%s,lzo" % (host, port)]), ("3", [])):
            done = run(["lsdistcc", "-r" + port, "-pgcc", "-P" + protocol, "-k8000", "-t9", host], timeout=20)
            found = done.out.decode().split()
            self.assertEqual([word for word in found if host in word], listed, done)

    def test_killed_in_the_middle(self):
        name = self.sources.make(SLOW_SOURCE)
        env = dict(environment(DISTCC_HOSTS=self.worker.address), DISTCC_DIR=new_folder())
        process = subprocess.Popen(["distcc", "gcc", "-O2", "-c", name, "-o", "o"], cwd=self.sources.folder, env=env,
                                   start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        pids = eventually(lambda: compilers_of(self.worker))
        self.assertTrue(pids)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        begin = time.monotonic()
        self.assertTrue(eventually(lambda: not any(map(alive, pids))))
        self.assertLess(time.monotonic() - begin, 1.5)
        self.nothing_left()


@needs("distccd")
class RealServer(FarmCase):
    """Our client with Debian's distccd."""

    def test_compiles(self):
        server = self.farm.add(RealDistccd())
        daemon = self.farm.start("--hosts", server.address + "/4")
        names = [self.sources.make() for _ in range(4)]
        for name, done in zip(names, together(names, lambda n: self.cc(daemon, "gcc", "-c", n, "-o", n + ".o"))):
            self.same(done, self.sources.expected(name), name + ".o")
        status = daemon.idle()
        self.assertGreaterEqual(status["totals"]["remote"], 1)
        host = status["hosts"][1]
        self.assertEqual((host["kind"], host["state"], host["timed"], host["slots"]), ("distccd", "up", False, 4))
        for key in ("running", "load", "cores", "memory_available_kb", "report_age_s"):
            self.assertIsNone(host[key])
        self.assertIn("COMPILE_OK", contents(server.folder + "/log").decode())

    def test_lzo(self):
        """`,lzo` in the list: protocol 2 both ways."""
        server = self.farm.add(RealDistccd())
        daemon = self.farm.start("--hosts", server.address + "/4,lzo", "--slots", "1")
        for text in (None, "", "char a[1000000] = {1};\n"):
            name = self.sources.make(text)
            done = self.cc(daemon, "gcc", "-c", name, "-o", "o", env={"DISTCC_LM_FALLBACK": "0"})
            self.same(done, self.sources.expected(name), "o")
        self.assertEqual(daemon.idle()["totals"]["remote"], 3)

    def test_error_and_warning(self):
        server = self.farm.add(RealDistccd())
        daemon = self.farm.start("--hosts", server.address)
        for text in ("int x = y;\n", "int f(void) { return 1 / 0; }\n"):
            name = self.sources.make(text)
            self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name))
        self.assertEqual(daemon.idle()["hosts"][1]["state"], "up")

    def test_killed_midway(self):
        server = self.farm.add(RealDistccd())
        daemon = self.farm.start("--hosts", server.address)
        name = self.sources.make(MEDIUM_SOURCE)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.cc, daemon, "gcc", "-O1", "-c", name, "-o", "o")
            daemon.until(lambda s: any(job["state"] == "remote" for job in s["jobs"]))
            server.signal(signal.SIGKILL)
            self.same(future.result(), self.sources.expected(name, "-O1"), "o")
        name = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.assertEqual(daemon.idle()["hosts"][1]["state"], "suspect")      # one file might have been the file's fault

    def test_frozen(self):
        """It takes connections and says nothing: late is what takes much longer than it should."""
        tuned = program(OVERDUE_S=1.0)
        server = self.farm.add(RealDistccd())
        daemon = self.farm.start("--hosts", server.address, prog=tuned)
        server.signal(signal.SIGSTOP)
        name = self.sources.make()
        done = self.cc(daemon, "gcc", "-c", name, "-o", "o", prog=tuned, timeout=15)
        server.signal(signal.SIGCONT)
        self.same(done, self.sources.expected(name), "o")
        self.assertEqual(daemon.idle()["hosts"][1]["state"], "suspect")


# ==== Section 8: peers ================================================================================================
# Load reports by UDP, as they travel between real daemons.

class Node:
    """The UDP side of a daemon without a socket: what it sends comes to the others of `net` at once, by `clock`[0]."""

    def __init__(self, net, address, instance, boot=b"", key=None, allow=(), use=()):
        self.net, self.address, self.loop, self.clock = net, address, unittest.mock.Mock(), net["clock"]
        config = types.SimpleNamespace(allow=[ipaddress.ip_network(a) for a in allow], secret_file=None, plain=False,
                                       use=[(ipaddress.ip_network(a), 3632) for a in use])
        trust = lm.Trust(config)
        trust.secret = key and lm.Secret(key)
        self.loop.log_seldom = functools.partial(lm.Loop.log_seldom, self.loop)
        self.loop.seldom, self.loop.now = {}, lambda: self.clock[0]
        boot = boot or instance * 2
        self.reports = lm.Reports(self.loop, a_scheduler(), trust, lm.Neighbours(boot, instance), lambda: lm.Load(
            instance=instance, boot=boot, port=3632, cores=4, slots=4, interval_ms=1000))
        self.reports.sockets = [unittest.mock.Mock(family=socket.AF_INET, sendto=self.sendto)]
        net[address] = self

    def sendto(self, packet, target):
        if target[0] in self.net:
            self.net[target[0]].take(packet, self.address)
        else:
            self.stray = packet

    def take(self, packet, address, port=3632, *zone):
        self.reports.take(packet, address, port, self.clock[0], *zone)

    def states(self):
        return {key: host.state(self.clock[0])[0] for key, host in self.reports.scheduler.hosts.items()}

    @staticmethod
    def rounds(count, *nodes):
        """So many seconds, in each of which all report to all."""
        for _ in range(count):
            nodes[0].clock[0] += 1.0
            for sender, receiver in itertools.permutations(nodes, 2):
                reports = sender.reports
                reports.send(reports.packet(reports.make_load(), sender.clock[0]), receiver.address, 3632)


class Reporters(unittest.TestCase):
    """What is believed of whom, and what that costs."""

    def nodes(self, **options):
        self.net = {"clock": [100.0]}
        return [Node(self.net, "10.0.0.%d" % n, b"%d" % n * 8, **options) for n in (1, 2, 3)]

    def test_passed_on(self):
        """A fresh report of one host, sent on from another's address, puts neither out."""
        user, provoked, victim = self.nodes(key=KEY, allow=["10.9.0.0/16"])
        Node.rounds(5, user, provoked, victim)
        self.assertEqual(user.states(), {"10.0.0.2:3632": "up", "10.0.0.3:3632": "up"})
        self.net["clock"][0] += 2
        provoked.take(lm.PACKET_MAGIC + b"junk" * 50, "10.9.0.9")
        user.take(provoked.stray, victim.address)
        Node.rounds(8, user, provoked, victim)
        self.assertEqual(user.states(), {"10.0.0.2:3632": "up", "10.0.0.3:3632": "up"})

    def test_addresses_exchanged(self):
        user, first, second = self.nodes(key=KEY)
        Node.rounds(5, user, first, second)
        del self.net[first.address], self.net[second.address]
        first.address, second.address = second.address, "10.0.0.4"
        self.net[first.address], self.net[second.address] = first, second
        self.net["clock"][0] += 20
        Node.rounds(8, user, first, second)
        self.assertEqual(user.states(), {"10.0.0.2:3632": "down", "10.0.0.3:3632": "up", "10.0.0.4:3632": "up"})

    def test_requests_outlive_a_challenge(self):
        """A host's restart makes its peers choose another challenge; a request that is under way holds."""
        server, client = lm.Secret(KEY), lm.Secret(KEY)
        load = lm.Load(instance=b"instance", sequence=1)
        load.echoes = [server.challenge]
        self.assertTrue(server.report_is_new(load))

        def refusal(challenge, counter):
            request = lm.SlotRequest(b"submitte", 1, 1, 1, b"identity", 0, "c")
            request.counter, request.challenge, request.dialled = counter, challenge, b"x:1"
            request.encode(client.seal(b"request"))
            return server.refusal(request, b"x:1")
        before = server.challenge
        server.supersede(b"instance")
        self.assertNotEqual(server.challenge, before)
        self.assertEqual([refusal(before, 1), refusal(server.challenge, 2), refusal(before, 1)],
                         [None, None, "replayed"])
        server.forget()
        self.assertEqual(refusal(before, 3), "restarted")

    def test_key_changed_and_back(self):
        """SIGHUP twice: servers remember the highest number of this instance, so counting goes on."""
        trust = lm.Trust(types.SimpleNamespace(allow=[], use=[], secret_file="f", plain=False))
        with unittest.mock.patch.object(lm, "read_secret", side_effect=[KEY, KEY[::-1], KEY]):
            trust.load_secret()
            trust.secret.counter = 6000
            trust.load_secret()
            trust.load_secret()
        self.assertEqual((trust.secret.key, trust.secret.counter), (KEY, 6000))

    def test_instance_of_another(self):
        """Who may only send jobs numbers no host's reports."""
        user, host, _ = self.nodes(use=["10.0.0.0/24"], allow=["10.9.0.0/16"])
        for number in range(10):
            Node.rounds(1, user, host)
            user.take(lm.Load(instance=b"2" * 8, sequence=number + (15 << 28)).encode(), "10.9.0.9")
        self.assertEqual(user.states(), {"10.0.0.2:3632": "up"})

    def test_neighbours(self):
        """Of this kernel: a host's word, or an own address's; and not without end."""
        user, host, _ = self.nodes(use=["10.0.0.0/24"], allow=["0.0.0.0/0"])
        boot, running = user.reports.neighbours.boot, user.reports.neighbours.running
        for number, (address, believed) in enumerate((("10.9.0.9", {}), ("127.0.0.1", {b"neighbor": 3}),
                                                      (host.address, {b"neighbor": 4}))):
            load = lm.Load(instance=b"neighbor", boot=boot, sequence=number + 1, running=number + 2)
            user.take(load.encode(), address)
            self.assertEqual(running(self.net["clock"][0]), believed, address)
        for number in range(300):
            kin = {b"%d-%06d" % (k, number): 1 for k in range(10)}
            user.take(lm.Load(instance=b"%08d" % number, boot=boot, sequence=1, kin=kin).encode(), host.address)
        self.assertEqual(len(user.reports.neighbours.rows), lm.NEIGHBOURS_MOST)
        self.assertEqual(running(self.net["clock"][0])[b"neighbor"], 4)

    def test_log_of_strangers(self):
        """Spoofed sources: a line for each of a hundred, then none."""
        user = self.nodes(key=KEY)[0]
        sealed = lm.Load(instance=b"stranger", sequence=1).encode(lm.Secret(b"?" * 20).seal(b"report"))
        for number in range(300):
            user.take(sealed, "10.1.%d.%d" % divmod(number, 250))
        self.assertEqual(sum(call[0][0] == "warning" for call in user.loop.log.call_args_list), 100)
        user.loop.log.reset_mock()
        user = self.nodes(use=["10.0.0.0/8"])[0]
        packet = lm.Load(instance=b"old", sequence=1).encode()
        for number in range(300):                       # the version's byte alternates
            user.take(packet[:4] + bytes((7 + number % 2,)) + packet[5:], "10.0.0.9")
        self.assertEqual(user.loop.log.call_count, 1)

    def test_memory_for_strangers(self):
        """Link-local strangers leave nothing, nor turn a peer's interface."""
        user = self.nodes(allow=["fe80::/10"])[0]
        reports = user.reports
        user.take(b"no packet", "fe80::1", 3632, 5)
        self.assertEqual(reports.zones, {})
        reports.trust.peers[lm.Endpoint(("fe80::2", 3632))] = "peer"
        reports.scheduler.hosts["peer"] = lm.Host("peer", "peer", "peer", lm.Endpoint(("fe80::2", 3632)))
        for zone in (5, 6):
            for address in ("fe80::2", "fe80::3"):
                user.take(lm.Load(instance=address.encode(), sequence=zone).encode(), address, 3632, zone)
        self.assertEqual(reports.zones, {"fe80::2": 5, "fe80::3": 6})
        with unittest.mock.patch.object(lm, "REPORTERS_MOST", 10):
            for number in range(50):
                user.take(lm.Load(instance=b"%08d" % number, sequence=9).encode(), "fe80::1:%x" % number, 3632, 7)
                user.take(lm.Load(instance=b"%08d" % number, sequence=10).encode(), "fe80::2")
            self.assertEqual(len(reports.zones), 10)
            self.assertLess(len(reports.homes), 22)
            for number in range(50):
                reports.audience.asked(str(number), 100.0)
            self.assertEqual(len(reports.audience.active), 10)


class NamesAndAddresses(FarmCase):

    @staticmethod
    def with_names(**names):
        """The program, for which these names have these addresses."""
        return write(new_folder() + "/named", """#!%s
import runpy, socket, sys
NAMES, asked = %r, socket.getaddrinfo
def getaddrinfo(name, *rest, **more):
    return [row for each in NAMES.get(name, [name]) for row in asked(each, *rest, **more)]
socket.getaddrinfo = getaddrinfo
runpy.run_path(%r, run_name="__main__")
""" % (sys.executable, names, program()), 0o755)

    def test_names_with_several_addresses(self):
        """As distcc does: whichever of them answers, in any order; for our daemons by UDP as well."""
        port = self.farm.worker("--listen", "127.15.83.2:0").address.rpartition(":")[2]
        distccd = self.farm.add(RealDistccd(host="127.15.83.3")) if shutil.which("distccd") else None
        v4, v6, secret = "127.15.83.2", "::1", ("--secret-file", key_file())
        both = self.farm.worker("--listen", "[::]:0").address.rpartition(":")[2]
        key = self.farm.worker("--listen", "0.0.0.0:0", *secret).address.rpartition(":")[2]
        rows = [("--peer", [v6, v4], port), ("--peer", ["127.15.83.9", v4], port), ("--hosts", [v6, v4], port),
                ("--peer", ["127.15.83.8", v6], both),
                ("--peer", [v6, "127.15.83.8"], both, "--listen", "127.15.83.4:0"),
                ("--peer", ["127.15.83.7"], key, *secret), ("--peer", [v6, "127.15.83.7"], key, *secret)]
        if distccd:
            rows += [("--hosts", [v6, "127.15.83.9", "127.15.83.3"], distccd.port)]

        def check(row):
            option, addresses, port, *options = row
            name = self.sources.make()
            daemon = self.farm.start(option, "box:%s" % port, *options, prog=self.with_names(box=addresses))
            daemon.until(lambda s: s["hosts"][1]["state"] == "up")
            done = self.cc(daemon, "gcc", "-c", name, "-o", name + ".o")
            status = daemon.idle()
            return done, self.sources.expected(name), name + ".o", status["hosts"][1], status["totals"]["remote"]
        for row, (done, expected, output, host, remote) in zip(rows, together(rows, check, 4)):
            with self.subTest(row):
                self.same(done, expected, output)
                self.assertEqual((host["state"], remote), ("up", 1), host)

    def test_second_address(self):
        """A worker that listens everywhere, listed by an address that its packets would not come from."""
        rows = [("0.0.0.0:0", "127.15.83.7"), ("[::]:0", "127.15.83.7"), ("[::]:0", "[::1]")]

        def check(row):
            listen, address = row
            worker = self.farm.worker("--listen", listen, "--allow", "::1")
            port = worker.address.rpartition(":")[2]
            options = ("--listen", "[::1]:0" if ":" in address else "127.0.0.1:0")
            return self.farm.submitter("%s:%s" % (address, port), options=options).status()
        for row, status in zip(rows, together(rows, check)):
            self.assertEqual(status["hosts"][1]["state"], "up", row)
            self.assertEqual(status["packets"]["from_strangers"], 0, row)

    def test_localhost(self):
        """Debian's /etc/hosts has ::1 before 127.0.0.1: a tunnel's end, and a daemon."""
        worker = self.farm.worker("--listen", "127.0.0.1:0")
        port = worker.address.rpartition(":")[2]
        for option, word in (("--hosts", "localhost:%s/3" % port), ("--peer", "localhost:" + port)):
            with self.subTest(option):
                daemon = self.farm.start(option, word, prog=self.with_names(localhost=["::1", "127.0.0.1"]))
                daemon.until(lambda s: s["hosts"][1]["state"] == "up")
                name = self.sources.make()
                self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
                self.assertEqual(daemon.idle()["totals"]["remote"], 1)

    def test_no_way_back(self):
        """A name that has IPv6 addresses only, where --listen takes none: said, not guessed at."""
        daemon = self.farm.start("--peer", "box:1", prog=self.with_names(box=["::1"]))
        self.assertTrue(eventually(lambda: "without --listen [::]" in daemon.text()))


class LoadExchange(FarmCase):

    @staticmethod
    def up(status, kind="peer"):
        return [h for h in status["hosts"] if h["kind"] == kind and h["state"] == "up"]

    def test_peer(self):
        worker, daemon = self.farm.pair("--slots", "3")
        host = daemon.host(worker.address)
        self.assertEqual((host["kind"], host["state"], host["slots"], host["cores"], host["timed"]),
                         ("peer", "up", 3, 4, True))
        self.assertEqual(host["contained"], "landlock" if LANDLOCK else "user" if ROOT else "none")
        self.assertIn(gcc_identity().hex(), host["compilers"])
        self.assertGreater(host["memory_available_kb"], 1000)
        daemon.until(lambda s: s["hosts"][1]["report_age_s"] < 0.8)
        with Wire(worker) as wire:                          # seen at once, not at the next second
            wire.ask_slot()
            daemon.until(lambda s: s["hosts"][1]["running"] == 1, 1.0 if os.cpu_count() > 8 else 2.0)

    def test_address_families(self):
        """IPv6, and IPv4 over a socket that takes both; with a secret, too, whose requests name the address."""
        def check(row):
            listen, allow, peer, options = row
            worker = self.farm.start("--allow", allow, "--listen", listen, *options)
            port = worker.address.rpartition(":")[2]
            daemon = self.farm.submitter(peer + ":" + port, options=("--listen", "[::]:0", *options))
            name = self.sources.make(name="f%s.c" % port)
            done = self.cc(daemon, "gcc", "-c", name, "-o", "o" + port)
            return done, self.sources.expected(name), "o" + port, daemon.idle()["totals"]["remote"]
        rows = [(*row, options) for row in (("[::1]:0", "::1", "[::1]"), ("[::]:0", "127.0.0.0/8", "127.0.0.1"))
                for options in ((), ("--secret-file", key_file()))]
        for row, (done, expected, output, remote) in zip(rows, together(rows, check)):
            with self.subTest(row):
                self.same(done, expected, output)
                self.assertEqual(remote, 1)

    def test_silences(self):
        """Three stories at once, since each takes as long as a peer may be silent."""
        together((self.silent_and_back, self.restarted, self.suspended_daemon_forgives), lambda story: story())

    def silent_and_back(self):
        worker, daemon = self.farm.pair()
        os.kill(worker.pid, signal.SIGSTOP)
        begin = time.monotonic()
        status = daemon.until(lambda s: s["hosts"][1]["state"] == "down", 9)
        self.assertTrue(3.5 < time.monotonic() - begin < 8, time.monotonic() - begin)
        self.assertIn("no load report", status["hosts"][1]["reason"])
        name = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        os.kill(worker.pid, signal.SIGCONT)
        begin = time.monotonic()
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        self.assertLess(time.monotonic() - begin, 3)

    def restarted(self):
        worker, daemon = self.farm.pair()
        worker.close()
        daemon.until(lambda s: s["hosts"][1]["state"] == "down", 9)
        worker = self.farm.start("--allow", "127.0.0.0/8", "--listen", worker.address)
        begin = time.monotonic()
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        self.assertLess(time.monotonic() - begin, 3)

    def test_told_when_draining(self):
        worker, daemon = self.farm.pair()
        command("drain", sock=worker.socket)
        daemon.until(lambda s: s["hosts"][1]["state"] == "draining", 2)
        name = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.assertEqual(daemon.status()["totals"]["local_reasons"], {"no-host": 1})

    def test_broadcast(self):
        """127.255.255.255 reaches all that are bound to loopback; --use says who is believed."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hosts = random.sample(range(2, 250), 2)
        options = ("--broadcast", "127.255.255.255")
        worker = self.farm.worker("--listen", "127.0.0.%d:%d" % (hosts[0], port), *options)
        user = self.farm.start("--listen", "127.0.0.%d:%d" % (hosts[1], port), *options, "--use",
                               "127.0.0.0/8:%d" % port)
        user.until(lambda s: [h["address"] for h in self.up(s)] == [worker.address])
        name = self.sources.make()
        self.same(self.cc(user, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.assertEqual(user.until(lambda s: s["totals"]["remote"])["totals"]["remote"], 1)
        # The worker serves, but was told to use nobody: it lists no host, not even itself
        self.assertEqual([h["kind"] for h in worker.status()["hosts"]], ["local"])
        self.assertEqual(len(user.status()["hosts"]), 2)

    def test_strangers(self):
        """Packets of those that are neither peers, nor allowed, nor used: dropped and counted; so is junk."""
        daemon = self.farm.start("--allow", "127.0.0.99/32", "--compilers", compilers())
        host, _, port = daemon.address.rpartition(":")
        packet = lm.Load(instance=b"stranger", boot=bytes(16), sequence=1, port=9, cores=4, slots=4,
                         interval_ms=1000).encode()
        for source, key in (("127.0.0.98", "from_strangers"), ("127.0.0.99", "malformed")):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 0))
                for data in (packet[:-1], b"", b"x" * 1300, packet[:20]):
                    sock.sendto(data, (host, int(port)))
                daemon.until(lambda s, key=key: s["packets"][key] == 4)
                sock.sendto(packet, (host, int(port)))
        daemon.until(lambda s: s["packets"]["from_strangers"] == 5)
        self.assertEqual(len(daemon.status()["hosts"]), 1)

    def test_allowed_is_not_used(self):
        """A box that may send jobs gets our reports, and none of our jobs."""
        worker, daemon = self.farm.pair()
        self.assertEqual(len(worker.status()["hosts"]), 1)
        self.assertEqual(len(daemon.status()["hosts"]), 2)

    def test_fuzzed_packets(self):
        peer = self.farm.add(FaultyPeer())
        daemon = self.farm.submitter(peer)
        host, _, port = daemon.address.rpartition(":")
        good = lm.Load(instance=b"12345678", boot=b"b" * 16, sequence=1, port=peer.tcp.getsockname()[1], cores=4,
                       slots=4, interval_ms=1000, identities=[b"i" * 8], counted={b"c" * 8: 3},
                       kin={b"k" * 8: 2}).encode()
        seed = random.randrange(1 << 30)
        rng = random.Random(seed)
        for number in range(400):
            row = bytearray(good)
            for _ in range(rng.randint(0, 4)):
                row[rng.randrange(4, len(row))] = rng.randrange(256)
            peer.udp.sendto(row[:rng.choice((len(row), rng.randrange(len(row))))], (host, int(port)))
            if number % 50 == 49:
                self.assertIsNotNone(daemon.status()["hosts"], "seed %d" % seed)
        self.assertEqual([line for line in daemon.text().splitlines() if " bug: " in line], [], "seed %d" % seed)

    def test_host_name(self):
        """A name is resolved, outside the loop; one that is not known harms nobody."""
        worker = self.farm.worker("--listen", "127.0.0.1:0")
        port = worker.address.rpartition(":")[2]
        daemon = self.farm.start("--peer", "localhost:" + port, "--peer", "no..host:" + port)
        status = daemon.until(lambda s: len(self.up(s)) == 1)
        hosts = {h["name"]: h for h in status["hosts"]}
        self.assertEqual(hosts["localhost:" + port]["address"], "127.0.0.1:" + port)
        self.assertEqual(hosts["no..host:" + port]["state"], "down")
        name = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.assertEqual(daemon.until(lambda s: s["totals"]["remote"])["totals"]["remote"], 1)

    def test_ipv6(self):
        """[::1] throughout: reports, admission, a job; and a distcc host of the list."""
        worker = self.farm.worker("--listen", "[::1]:0", "--allow", "::1/128")
        self.assertRegex(worker.address, r"^\[::1\]:")
        daemon = self.farm.submitter(worker, options=("--listen", "[::1]:0", "--listen", loopback() + ":0"))
        plain = self.farm.start("--listen", loopback() + ":0", "--hosts", worker.address + "/2,lzo")
        for submitter in (daemon, plain):
            name = self.sources.make()
            done = self.cc(submitter, "gcc", "-c", name, "-o", "o", env={"DISTCC_LM_FALLBACK": "0"})
            self.same(done, self.sources.expected(name), "o")
        self.assertEqual(daemon.host(worker.address)["kind"], "peer")
        self.assertEqual([worker.status()["totals"][key] for key in ("served", "refused")], [2, 0])

    def test_two_daemons_on_a_box(self):
        """One that serves and one that submits: what the first runs is no foreign load to the second, nor are they
        confused by equal names."""
        worker, daemon = self.farm.pair("--slots", "4")
        with Wire(worker) as one, Wire(worker) as two:
            for wire in (one, two):
                self.assertEqual(wire.ask_slot().admission()[0], "granted")
            daemon.until(lambda s: s["hosts"][1]["running"] == 2)
            self.assertEqual(daemon.status()["hosts"][0]["load"], 0.0)
        second = self.farm.start("--socket", worker.socket, wait=False)
        self.assertEqual(second.process.wait(DEADLINE_S), 1)
        self.assertIn("another daemon serves it", second.text())

    def test_other_versions(self):
        """Reports of a later minor version: more in the header, a list more. Of another major one: shown, not used."""
        class Later(FaultyPeer):
            def packet(self):
                return lm.Load(instance=self.instance, boot=bytes(16), sequence=self.sequence, cores=4, slots=4,
                               port=self.tcp.getsockname()[1], memory_mb=9999, interval_ms=1000,
                               identities=[gcc_identity()]).encode()

            def report(self):
                self.sequence += 1
                for where in self.submitters:
                    self.udp.sendto(self.packet(), where)

        class Minor(Later):
            def packet(self):
                packet, size = super().packet(), struct.calcsize(lm.Load.FORMAT)
                fields = bytearray(packet[:size] + b"newer field")
                fields[6:8] = struct.pack("!H", len(fields))
                return bytes(fields) + packet[size:] + b"\2\3abcdef"

        class Major(Later):
            def packet(self):
                return lm.PACKET_MAGIC + b"\2" + b"all is otherwise"
        minor, major = self.farm.add(Minor()), self.farm.add(Major())
        daemon = self.farm.submitter(minor, major, ready=False)
        status = daemon.until(lambda s: self.up(s) and s["other_versions"])
        hosts = {h["address"]: h for h in status["hosts"]}
        self.assertEqual((hosts[minor.address]["state"], hosts[minor.address]["cores"]), ("up", 4))
        self.assertEqual((hosts[major.address]["state"], hosts[major.address]["reason"]),
                         ("down", "speaks version 2 of our protocol, this daemon 1"))
        self.assertEqual(status["other_versions"], {major.address: 2})
        self.assertEqual(daemon.text().count("update the older of the two"), 1)

    def test_other_version_asks(self):
        """An LMRQ of a later version gets an LMNO that says so; a longer one of ours is understood."""
        worker = self.farm.worker()
        request = lm.SlotRequest(b"instance", 1, 1, 512, gcc_identity(), 0, "c").encode()
        with Wire(worker) as wire:
            wire.send(lm.body_token(b"LMRQ", b"\2" + request[13:] + b"more"))
            self.assertEqual(wire.admission()[:2], ("refused", "version"))
        with Wire(worker) as wire:
            wire.send(lm.body_token(b"LMRQ", request[12:] + b"\0later field"))
            self.assertEqual(wire.admission()[0], "granted")

    def test_listed_as_distccd_but_ours(self):
        worker = self.farm.worker()
        daemon = self.farm.start("--hosts", worker.address + "/7 " + worker.address, "--peer", worker.address)
        daemon.until(lambda s: len(s["hosts"]) == 2 and self.up(s))
        alone = self.farm.start("--hosts", worker.address + "/7")
        status = alone.until(lambda s: self.up(s))
        self.assertEqual([(h["kind"], h["slots"]) for h in status["hosts"][1:]], [("peer", 4)])

    def suspended_daemon_forgives(self):
        """After a pause of its own it does not call others silent."""
        worker, daemon = self.farm.pair()
        os.kill(daemon.pid, signal.SIGSTOP)
        eventually(lambda: contents("/proc/%d/stat" % daemon.pid).split()[2] == b"T")
        begin = time.monotonic()
        eventually(lambda: time.monotonic() - begin > 6.5)      # longer than peers may be silent
        os.kill(daemon.pid, signal.SIGCONT)
        self.assertEqual(daemon.status()["hosts"][1]["state"], "up")
        self.assertEqual(worker.status()["hosts"][0]["state"], "up")


KEY = b"0123456789abcdef of a farm"


@functools.lru_cache(None)
def key_file(key=KEY):
    return write(new_folder() + "/key", key + b"\n", 0o600)


class SealedPeer(FaultyPeer):
    """A worker with the farm's key, and `grant` to get the last word wrong."""

    def __init__(self, key=KEY):
        self.secret, self.owed, self.questions, self.sources = lm.Secret(key), [], [], 0
        super().__init__()

    def encoded(self, load):
        load.challenge, load.echoes = self.secret.challenge, self.owed[-1:]
        return load.encode(self.secret.seal(b"report"))

    def heard(self, packet):
        self.owed.append(lm.Load.parse(packet).challenge)

    def admit(self, sock):
        request = self.receive(sock, lm.decode_opening())
        self.questions.append(request)
        sock.sendall(self.grant(request))
        return True

    def job(self, sock):
        self.read_job(sock)
        self.sources += 1
        sock.sendall(self.reply())

    def grant(self, request):
        return lm.encode_granted(1, 0, self.secret.seal(b"granted", request.mac))


class Relay:
    """What somebody without the key may do: pass on packets and connections from an address of his own."""

    def __init__(self, worker):
        host, _, port = worker.address.rpartition(":")
        self.target, self.threads, self.socks, self.passed = (host, int(port)), [], [], 0
        self.tcp, self.udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp.bind((loopback(), 0))
        self.udp.bind(self.tcp.getsockname())
        self.tcp.listen(16)
        self.address, self.submitter = "%s:%d" % self.tcp.getsockname(), None
        for work in (self.datagrams, self.connections):
            threading.Thread(target=work, daemon=True).start()

    def datagrams(self):
        with contextlib.suppress(OSError):
            while True:
                packet, source = self.udp.recvfrom(2000)
                if source == self.target:
                    self.udp.sendto(packet, self.submitter)
                else:
                    self.submitter = source
                    self.udp.sendto(packet, self.target)

    def connections(self):
        with contextlib.suppress(OSError):
            while True:
                near, far = self.tcp.accept()[0], socket.create_connection(self.target)
                self.socks += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.copy, args=pair, daemon=True).start()

    def copy(self, source, sink):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                self.passed += len(data)
                sink.sendall(data)
                if not data:
                    return sink.shutdown(socket.SHUT_WR)

    def close(self):
        for sock in [self.tcp, self.udp, *self.socks]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Secrets(FarmCase):
    """--secret-file: who has the key is believed and served, who has not is neither."""

    def compiles(self, daemon, remote):
        """A compile is right, here or remote."""
        before = daemon.status()["totals"]["remote"]
        name = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.assertEqual(daemon.idle()["totals"]["remote"] - before, remote, daemon.text())

    def test_same_key(self):
        """By --peer; by broadcast without --use; served are those of --allow only."""
        key = ("--secret-file", key_file())
        worker = self.farm.worker(*key)
        daemon = self.farm.submitter(worker, options=key)
        self.compiles(daemon, 1)
        self.assertEqual(daemon.status()["secret"], {"used": True, "wrong_keys": []})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hosts = ["127.0.0.%d:%d" % (n, port) for n in random.sample(range(2, 250), 3)]
        key += ("--broadcast", "127.255.255.255")
        self.farm.worker("--listen", hosts[0], *key)
        closed = self.farm.start("--listen", hosts[1], "--allow", "10.0.0.0/8", "--compilers", compilers(), *key)
        user = self.farm.start("--listen", hosts[2], *key)
        user.until(lambda s: sum(h["state"] == "up" for h in s["hosts"][1:]) == 2)
        for _ in range(4):
            self.compiles(user, 1)
        state = user.host(hosts[1])
        if state["jobs"]["refused"]:
            self.assertIn("does not serve this address", state["reason"])
            self.assertIn("is not allowed", closed.text())

    def test_wrong_key(self):
        """Another key, or none on either side: named in both logs and in `status`; compiled here."""
        other = key_file(b"another key of 32 bytes or so...")
        for mine, theirs in ((key_file(), other), (key_file(), None), (None, other)):
            with self.subTest(mine=mine, theirs=theirs):
                options = [("--secret-file", key) if key else () for key in (mine, theirs)]
                worker = self.farm.worker(*options[1])
                daemon = self.farm.submitter(worker, options=options[0], ready=False)
                if mine:
                    daemon.until(lambda s: "another key" in s["hosts"][1]["reason"])
                    self.assertEqual(daemon.status()["secret"]["wrong_keys"], [worker.address.rpartition(":")[0]])
                self.compiles(daemon, 0)
                self.assertTrue(eventually(lambda daemon=daemon: "another key" in daemon.text()))
                if theirs:
                    self.assertTrue(eventually(lambda worker=worker: "another key" in worker.text()), worker.text())
                    worker.until(lambda s: s["secret"]["wrong_keys"])
                    self.assertIn("another key", command("status", sock=worker.socket).out.decode())
                self.assertLess(daemon.text().count("another key"), 4)

    def test_requests(self):
        """What an LMRQ must have to be served, once."""
        worker = self.farm.worker("--secret-file", key_file(), "--slots", "9")
        own = lm.Secret(KEY)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:      # its challenge, as a member hears it
            host, _, port = worker.address.rpartition(":")
            load = lm.Load(instance=b"observer", sequence=1)
            load.challenge = own.challenge
            udp.settimeout(10)
            udp.sendto(load.encode(own.seal(b"report")), (host, int(port)))
            challenge = lm.Load.parse(udp.recv(2000)).challenge

        def ask(counter, wrong=None, key=own, instance=b"submitte", **fields):
            """Reason of the refusal, "granted", or "unproven" where the grant's MAC is wrong; and the text."""
            with Wire(worker) as wire:
                request = lm.SlotRequest(instance, 1, 1, 1, gcc_identity(), 0, "c")
                request.counter, request.challenge, request.dialled = counter, challenge, worker.address.encode()
                for name, value in fields.items():
                    setattr(request, name, value)
                data = bytearray(request.encode(key and key.seal(b"request")))
                if wrong is not None:
                    data[wrong] ^= 1
                answer = wire.send(data).admission()
                if answer[0] == "refused":
                    return answer[1], answer[2], request
                right = len(answer) == 5 and own.right(b"granted", request.mac + answer[3], answer[4])
                return "granted" if right else "unproven", "", request
        size = 12 + struct.calcsize(lm.SlotRequest.FORMAT)
        rows = [("granted", (1,), {}), ("replayed", (1,), {}), ("granted", (5,), {}), ("granted", (3,), {}),
                ("replayed", (3,), {}), ("replayed", (5,), {}), ("granted", (9000,), {}),
                ("replayed", (9000 - lm.REPLAY_WINDOW,), {}), ("granted", (9001 - lm.REPLAY_WINDOW,), {}),
                ("replayed", (9001 - lm.REPLAY_WINDOW,), {}), ("granted", (1,), {"instance": b"another1"}),
                ("bad-mac", (9002,), {"key": lm.Secret(b"x" * 16)}), ("bad-mac", (9003,), {"key": None}),
                ("relayed", (9004,), {"dialled": b"127.0.0.1:1"}), ("relayed", (9005,), {"dialled": b""}),
                ("restarted", (9006,), {"challenge": b"01234567"}), ("granted", ((1 << 64) - 1,), {}),
                ("replayed", (9007,), {})]
        rows += [("bad-mac", (1 << 40, at), {})
                 for at in (14, 24, 28, 34, size - 9, size, size + 8, size + 20, size + 24, -1)]
        for wanted, positional, named in rows:
            with self.subTest(wanted, positional=positional, named=named):
                found, text, request = ask(*positional, **named)
                self.assertEqual(found, wanted)
                if wanted == "restarted":
                    new, mac = (bytes.fromhex(word) for word in text.split())
                    self.assertEqual(new, challenge)
                    self.assertTrue(own.right(b"restarted", request.mac + new, mac))
        worker.idle()

    def test_answers(self):
        """A host must prove that it has the key, or gets no source."""
        def forgotten(self, request):
            """As after a restart: the first time it names another challenge."""
            if len(self.questions) > 1:
                return SealedPeer.grant(self, request)
            self.secret.forget()
            mac = self.secret.mac(b"restarted", request.mac + self.secret.challenge)
            return lm.encode_refused("restarted", "%s %s" % (self.secret.challenge.hex(), mac.hex()))

        def always(self, request):
            del self.questions[1:]
            return forgotten(self, request) if len(self.questions) == 1 else b""
        rows = (("right", SealedPeer.grant, 1, "up"), ("forgotten", forgotten, 1, "up"),
                ("unsealed", lambda self, request: lm.encode_granted(1), 0, "suspect"),
                ("another", lambda self, request: lm.encode_granted(1, 0, self.secret.seal(b"granted", b"x")), 0,
                 "suspect"),
                ("other_kind", lambda self, request: lm.encode_granted(1, 0, self.secret.seal(b"request", request.mac)),
                 0, "suspect"),
                ("false_restart", lambda self, request: lm.encode_refused("restarted", "00" * 8 + " " + "00" * 16), 0,
                 "suspect"),
                ("odd_restart", lambda self, request: lm.encode_refused("restarted", "x"), 0, "suspect"),
                ("always_restarted", always, 0, "suspect"))
        for name, grant, remote, state in rows:
            with self.subTest(name):
                peer = self.farm.add(type(name, (SealedPeer,), {"grant": grant})())
                source = self.sources.make()
                peer.object = self.sources.expected(source)[3]
                daemon = self.farm.submitter(peer, options=("--secret-file", key_file()))
                self.same(self.cc(daemon, "gcc", "-c", source, "-o", "o"), self.sources.expected(source), "o")
                status = daemon.idle()
                self.assertEqual((status["totals"]["remote"], status["hosts"][1]["state"], peer.sources),
                                 (remote, state, remote), daemon.text())
                if name == "forgotten":
                    self.assertEqual([q.challenge for q in peer.questions][1], peer.secret.challenge)
                    self.assertNotIn("another key", daemon.text())

    def test_recorded_reports(self):
        """Reports are believed from who echoes the daemon's challenge, in order, and not after it was superseded."""
        daemon = self.farm.start("--secret-file", key_file())
        own = lm.Secret(KEY)
        host, _, port = daemon.address.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((loopback(), 0))
            udp.settimeout(10)

            def report(instance, sequence, echo=None, cores=4, key=own):
                load = lm.Load(instance=instance, sequence=sequence, port=udp.getsockname()[1], cores=cores, slots=4,
                               interval_ms=1000)
                load.challenge, load.echoes = own.challenge, [echo] if echo else []
                packet = load.encode(key.seal(b"report"))
                udp.sendto(packet, (host, int(port)))
                return packet
            report(b"recorded", 8)
            asked = lm.Load.parse(udp.recv(2000))
            self.assertTrue(asked.capabilities & lm.WANTS_ECHO)
            self.assertEqual(len(daemon.status()["hosts"]), 1)              # not believed yet
            proof = report(b"recorded", 9, asked.challenge, cores=9)
            self.assertEqual(daemon.until(lambda s: len(s["hosts"]) == 2)["hosts"][1]["cores"], 9)
            for packet in (proof, report(b"recorded", 7, asked.challenge)):
                udp.sendto(packet, (host, int(port)))
            daemon.until(lambda s: s["packets"]["replayed"] >= 3)
            report(b"restartd", 1, asked.challenge, cores=5)                # the worker restarts
            daemon.until(lambda s: s["hosts"][1]["cores"] == 5)

            def asked_anew():
                """For another challenge, when one that was held back by somebody comes now."""
                report(b"recorded", 1 << 20, asked.challenge, cores=6)
                again = lm.Load.parse(udp.recv(2000))
                return again.challenge != asked.challenge and again.capabilities & lm.WANTS_ECHO
            self.assertTrue(eventually(asked_anew))
            self.assertEqual(daemon.status()["hosts"][1]["cores"], 5)
            wrong = daemon.status()["packets"]["wrong_key"]
            report(b"stranger", 1, asked.challenge, key=lm.Secret(b"?" * 20))
            udp.sendto(lm.Load(instance=b"unsealed", sequence=1, port=9).encode(), (host, int(port)))
            for at in range(0, len(proof), 7):
                udp.sendto(proof[:at] + bytes((proof[at] ^ 64,)) + proof[at + 1:], (host, int(port)))
            daemon.until(lambda s: s["packets"]["wrong_key"] >= wrong + 2 + (len(proof) - 4) // 7)
            self.assertEqual(len(daemon.status()["hosts"]), 2)

    def test_relay(self):
        """Reports and connections passed on from another address: no job goes that way."""
        worker = self.farm.worker("--secret-file", key_file())
        relay = self.farm.add(Relay(worker))
        daemon = self.farm.submitter(relay, options=("--secret-file", key_file()))
        self.compiles(daemon, 0)
        self.assertGreater(relay.passed, 0)
        self.assertIn("relay", daemon.status()["hosts"][1]["reason"])
        self.assertIn("relay", worker.text())
        open_worker = self.farm.worker()                    # the relay works, else this shows nothing
        relay = self.farm.add(Relay(open_worker))
        self.compiles(self.farm.submitter(relay), 1)

    def test_plain_clients(self):
        for options, served in (((), False), (("--plain",), True)):
            worker = self.farm.worker("--secret-file", key_file(), *options)
            with Wire(worker) as wire:
                with contextlib.suppress(ConnectionError):
                    wire.job(ARGV)
                self.assertEqual(wire.reply() is not None, served)

    def test_another_key(self):
        """SIGHUP reads it again; what cannot be read leaves the old one."""
        paths = [write(new_folder() + "/key", KEY, 0o600) for _ in range(2)]
        worker = self.farm.worker("--secret-file", paths[0])
        daemon = self.farm.submitter(worker, options=("--secret-file", paths[1]))
        self.compiles(daemon, 1)
        os.chmod(paths[0], 0o644)
        worker.process.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "open to others" in worker.text()))
        self.compiles(daemon, 1)
        for path, other in zip(paths, (worker, daemon)):
            os.chmod(path, 0o600)
            write(path, KEY[::-1])
            other.process.send_signal(signal.SIGHUP)
            if other is worker:
                worker.until(lambda s: s["packets"]["wrong_key"])
        daemon.until(lambda s: s["hosts"][1]["state"] == "up" and s["hosts"][1]["report_age_s"] < 0.5)
        eventually(lambda: self.cc(daemon, "gcc", "-c", self.sources.make(), "-o", "o").code == 0
                   and daemon.status()["totals"]["remote"] >= 3)
        self.assertGreaterEqual(daemon.status()["totals"]["remote"], 3)


# ==== Section 9: local ================================================================================================
# The unix socket: whose session it is, what it may see, and what becomes of its slot.

class Interfaces(FarmCase):
    """Network namespaces with interfaces of their own."""

    def network(self, *links):
        network = Network(links)
        self.addCleanup(network.close)
        return network

    def daemon(self, network, which, *options):
        return self.farm.start("--listen", "0.0.0.0:3632", "--broadcast", "255.255.255.255", *options,
                               prefix=network.prefix(which))

    def compiles(self, daemon):
        name = self.sources.make()
        done = self.cc(daemon, "gcc", "-c", name, "-o", "o", env={"DISTCC_LM_FALLBACK": "0"})
        self.same(done, self.sources.expected(name), "o")

    def test_broadcast_on_each(self):
        """A box with two networks finds the workers of both; one that is in reach by two is one host."""
        network = self.network(1, 1, 2)
        for which in (1, 2, 3):
            self.daemon(network, which, "--allow", "10.50.0.0/16")
        user = self.daemon(network, 0, "--use", "10.50.0.0/16")
        status = user.until(lambda s: len(s["hosts"]) == 4 and all(h["state"] == "up" for h in s["hosts"]))
        found = {host["address"].rpartition(":")[0] for host in status["hosts"][1:]}
        self.assertEqual(found - {"10.50.3.2", "10.50.4.2"}, {"10.50.1.2", "10.50.2.2"})
        self.compiles(user)
        self.assertEqual(len(user.status()["hosts"]), 4)

    def test_link_local(self):
        """fe80:: with a zone, as --peer; and --hosts."""
        network = self.network(1)
        found = []

        def ready():
            text = subprocess.run(network.prefix(1) + ["ip", "-6", "-o", "addr", "show", "dev", "b1"], check=True,
                                  stdout=subprocess.PIPE).stdout.decode()
            found[:] = re.findall(r"inet6 (fe80::[0-9a-f:]+)/64", text)
            return found and "tentative" not in text
        self.assertTrue(eventually(ready))
        worker = self.farm.start("--listen", "[::]:3632", "--allow", "fe80::/10", prefix=network.prefix(1))
        for option, kind in (("--peer", "peer"), ("--hosts", "peer")):
            user = self.farm.start("--listen", "[::]:3633", option, "[%s%%a1]:3632" % found[0],
                                   prefix=network.prefix(0))
            user.until(lambda s, kind=kind: [h["kind"] for h in s["hosts"][1:] if h["state"] == "up"] == [kind])
            self.compiles(user)
            user.close()
        self.assertEqual(worker.status()["totals"]["served"], 2)

    def test_moved(self):
        """The name stays, the address changes."""
        hosts = self.sources.folder + "/etc-hosts"
        write(hosts, "127.50.7.1 moving\n")
        prog = program(RESOLVE_AGAIN_S=0.3, PEER_TIMEOUT_S=1.5)
        worker = self.farm.worker("--listen", "127.50.7.1:0")
        port = worker.address.rpartition(":")[2]
        prefix = ["unshare", "-m", "sh", "-ec", "mount --bind %s /etc/hosts; exec \"$@\"" % hosts, "sh"]
        daemon = self.farm.start("--peer", "moving:" + port, prog=prog, prefix=prefix)
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        worker.close()
        moved = self.farm.worker("--listen", "127.50.7.2:" + port)
        with open(hosts, "r+") as file:                     # the same file: it is mounted
            file.write("127.50.7.2 moving\n")
        daemon.until(lambda s: (s["hosts"][1]["state"], s["hosts"][1]["address"]) == ("up", moved.address))
        self.compiles(daemon)
        self.assertEqual(moved.status()["totals"]["served"], 1)


class Client:
    """A client's end of the unix socket, spoken by hand."""

    def __init__(self, daemon):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(daemon.socket)
        self.decoder = lm.Decoder(lm.decode_fields(1 << 28))
        self.pending = b""
        self.passed = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
        for fd in self.passed:
            os.close(fd)

    def send(self, name, *fields):
        self.sock.sendall(lm.encode_fields(name, *fields))
        return self

    def hello(self, source="x.c", key="gcc 1", remember=None):
        return self.send(b"HELO", lm.CLIENT_VERSION, b"cc", source, "x.o", "c", remember or source, "", key, 0, 0,
                         "/here")

    def local(self, reason="link"):
        return self.send(b"HELO", lm.CLIENT_VERSION, b"local", reason, "x")

    def receive(self, *skip):
        """The next message that is neither ping nor named in skip. EOFError at the end."""
        while True:
            while not self.decoder.feed(self.pending):
                self.pending, passed, _, _ = socket.recv_fds(self.sock, 65536, 4)
                self.passed += passed
                if not self.pending:
                    raise EOFError
            message, self.pending = self.decoder.result, self.decoder.rest()
            self.decoder = lm.Decoder(lm.decode_fields(1 << 28))
            if message[0] not in (b"PING", *skip):
                return message

    def closed(self):
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionError):
            return True
        except socket.timeout:
            return False


class Sessions(FarmCase):

    def test_many_questions_at_once(self):
        """One is answered in a turn of the loop, none while an answer is not taken; in the end all are."""
        near, far = socket.socketpair()
        loop, answers = lm.Loop(), []
        hub = unittest.mock.Mock(loop=loop, newcomers=[], holders={}, sessions=set())
        hub.answer = lambda kind, words, uid: answers.append(words) or (b"TEXT", b"x" * 400_000)
        with near, far, loop.selector:
            near.setblocking(False)
            session = lm.Session(hub, near)
            loop.watch(session, selectors.EVENT_READ, session.on_event)
            far.sendall(lm.encode_fields(b"HELO", lm.CLIENT_VERSION, b"status") * 100)
            heaped = 0
            for turn in range(20):
                loop.turn(loop.now())
                self.assertLessEqual(len(answers), turn + 1)
                heaped = max(heaped, len(session.outgoing))
            self.assertLess(heaped, 410_000)
            self.assertLess(len(answers), 5)
            far.settimeout(0.01)
            got, deadline = 0, time.monotonic() + DEADLINE_S
            while got < 100 * 400_000 and time.monotonic() < deadline:
                loop.turn(loop.now())
                with contextlib.suppress(OSError):
                    got += len(far.recv(1 << 20))
            self.assertEqual(len(answers), 100)
            far.sendall(lm.encode_fields(b"HELO", lm.CLIENT_VERSION, b"status"))
            for _ in range(9):
                loop.turn(loop.now())
            self.assertTrue(session.outgoing and not session.closed)
            far.close()                                 # seen with an answer on its way, too
            loop.turn(loop.now() + 1)
            self.assertTrue(session.closed)

    def test_client_version(self):
        daemon = self.farm.start()
        for version in (b"0", b"99", b"", b"x" * 500):
            with Client(daemon) as client:
                name, fields = client.send(b"HELO", version, b"cc", "x.c").receive()
                self.assertEqual(name, b"NOPE")
                self.assertIn(b"restart the daemon", fields[0])
        daemon.idle()

    def test_unknown_reasons(self):
        """A client's own words reach neither the statistics nor a terminal."""
        daemon = self.farm.start()
        for reason in ("\x1b[2J", "x" * 500, "link"):
            with Client(daemon) as client:
                self.assertEqual(client.local(reason).receive(b"WAIT")[0], b"LOCL")
        self.assertEqual(daemon.status()["totals"]["local_reasons"], {"other": 2, "link": 1})

    def test_malformed_messages(self):
        daemon = self.farm.submitter(self.farm.add(FaultyPeer()))
        version = lm.CLIENT_VERSION
        rows = [b"HELO00000000", b"HELOffffffff", b"\0" * 12, b"WHAT00000000", lm.encode_fields(b"HELO", version),
                lm.encode_fields(b"HELO", version, b"cc"), lm.encode_fields(b"HELO", version, b"cc", *"abcdef"),
                lm.encode_fields(b"HELO", version, b"local"), lm.encode_fields(b"SIZE", 1, 1),
                lm.encode_fields(b"SIZE", "x"), lm.encode_fields(b"DONE", "ok"), lm.encode_fields(b"DONE"),
                lm.encode_fields(b"FAIL"), lm.encode_fields(b"FAIL", "x", "y"), lm.encode_fields(b"HOME"),
                lm.encode_fields(b"IDNT", "zz"), lm.encode_fields(b"IDNT", "00"), lm.encode_fields(b"IDNT"),
                lm.encode_fields(b"HELO", version, b"status", *["x"] * 50), b"HELO0000000g"]
        for row in rows:
            with self.subTest(row), Client(daemon) as client:
                client.sock.sendall(row)
                client.sock.shutdown(socket.SHUT_WR)
                self.assertTrue(client.closed())
        for after in (lm.encode_fields(b"SIZE", "x", 1, 0), lm.encode_fields(b"SIZE", -1, 1, 0),
                      lm.encode_fields(b"FAIL"), lm.encode_fields(b"SIZE", 5, 1, 99), lm.encode_fields(b"SIZE", 5, 1),
                      lm.encode_fields(b"SIZE", 1 << 80, 1, 0), lm.encode_fields(b"IDNT", "abc"),
                      lm.encode_fields(b"IDNT", "é"), lm.encode_fields(b"DONE", "ok"), lm.encode_fields(b"HOME", "x"),
                      lm.encode_fields(b"DONE", "ok", *"xxxxxxxx"), lm.encode_fields(b"HELO", version, b"cc")):
            with self.subTest(after), Client(daemon) as client:
                self.assertEqual(client.hello().receive(b"WAIT")[0], b"TURN")
                client.sock.sendall(after)
                self.assertTrue(client.closed())
        daemon.idle()

    def test_whole_conversation(self):
        """TURN, IDNT, SIZE, SOCK with its socket, DONE; the identity is asked once per compiler and user."""
        peer = self.farm.add(FaultyPeer())
        daemon = self.farm.submitter(peer)
        for number, wanted in enumerate((b"1", b"0", b"0")):
            with Client(daemon) as client:
                name, fields = client.hello("f%d.c" % number).receive(b"WAIT")
                self.assertEqual((name, fields), (b"TURN", [b"0", wanted, b"-", b"0"]))
                if wanted == b"1":
                    client.send(b"IDNT", gcc_identity().hex())
                name, fields = client.send(b"SIZE", 5000, 7, 0).receive(b"WAIT")
                self.assertEqual((name, fields[0]), (b"SOCK", peer.address.encode()))
                self.assertEqual(len(client.passed), 1)
                job = daemon.status()["jobs"][0]
                self.assertEqual((job["source"], job["host"], job["state"], job["uid"]),
                                 ("/here/f%d.c" % number, peer.address, "remote", os.getuid()))
                self.assertEqual(daemon.status()["hosts"][1]["mine"], 1)
                client.send(b"FAIL", "closed", "", "the host before")       # no news of this one
                client.send(b"DONE", b"ok", 5000, 900, 30, 1, 20, 10, 5000, 100, peer.address)
                daemon.idle()
        status = daemon.status()
        self.assertEqual((status["totals"]["remote"], status["hosts"][1]["jobs"]["ok"]), (3, 3))
        with Client(daemon) as client:                     # another compiler
            self.assertEqual(client.hello(key="gcc 2").receive(b"WAIT"), (b"TURN", [b"0", b"1", b"-", b"0"]))
            self.assertEqual(client.send(b"IDNT", "").receive(b"WAIT")[0], b"LOCL")
        with Client(daemon) as client:                     # remembered as one that cannot be identified
            self.assertEqual(client.hello(key="gcc 2").receive(b"WAIT")[0], b"LOCL")

    def test_figures(self):
        """Numbers that no job has are a malformed message: they would be learnt from."""
        job = lm.Job(1, "t.c", "t.o", "c", "k", None, 0)
        good = (5000, 900, 30, 1, 20, 10, 5000, 100)
        found = lm.figures_told(job, good, 1.0)
        self.assertEqual((found.total_s, found.elapsed_s, found.concurrency), (0.03, 0.02, 1.0))
        self.assertIsNone(lm.figures_told(job, (*good[:3], -1, -1, -1, -1, -1), 1.0).cpu_s)
        for at in range(len(good)):
            for value in (-5000, 10 ** 60, 10 ** 400) if at != 4 else (10 ** 60,):
                with self.subTest(at=at, value=value), self.assertRaises(ValueError):
                    lm.figures_told(job, (*good[:at], value, *good[at + 1:]), 1.0)
        lm.figures_told(job, (5000, 900, 9000, 1, 20, 10, 5000, 100), 9.0)
        with self.assertRaises(ValueError):             # 9 s of a job that came 5 s ago
            lm.figures_told(job, (5000, 900, 9000, 1, 20, 10, 5000, 100), 5.0)

    def test_learns_of_this_box(self):
        """Whoever compiles here because that is faster says how it went; others just end."""
        class Told(lm.Session):
            def send(self, *words):
                self.said = words
        for reason, hold in (("local-is-faster", 1), ("late", 0)):
            session = Told.__new__(Told)
            session.holds, session.pidfd, session.pid = False, None, os.getpid()
            session.job = types.SimpleNamespace(reason=reason)
            session.hub = types.SimpleNamespace(loop=types.SimpleNamespace(watch=lambda *_: None), holders={})
            session.send_local()
            self.assertEqual(session.said, (b"LOCL", reason, hold if session.pidfd is not None else 1))
            if session.pidfd is not None:
                os.close(session.pidfd)

    def test_close_in_every_state(self):
        peer = self.farm.add(FaultyPeer())
        daemon = self.farm.submitter(peer, options=("--slots", "1"))
        with Client(daemon) as client:
            client.hello().receive(b"WAIT")
            client.send(b"IDNT", gcc_identity().hex())
        daemon.idle()
        for state in ("hello", "turn", "remote", "home"):
            with self.subTest(state):
                with Client(daemon) as client:
                    client.hello(state)
                    if state != "hello":
                        client.receive(b"WAIT")
                    if state in ("remote", "home"):
                        client.send(b"SIZE", 10, 1, 0).receive(b"WAIT")
                    if state == "home":
                        self.assertEqual(client.send(b"HOME", "messages", 1).receive(b"WAIT"),
                                         (b"LOCL", [b"messages", b"1"]))
                daemon.idle()
        with Client(daemon) as client:                      # this process, alive, has become the compiler: held on
            self.assertEqual(client.local().receive(b"WAIT"), (b"LOCL", [b"link", b"0"]))
        self.assertEqual(daemon.status()["hosts"][0]["mine"], 1)

    def test_a_slot_lasts_as_long_as_its_process(self):
        """Freed by the pidfd when the process that got it ends, not when a grandchild ends or the socket closes."""
        daemon = self.farm.start("--slots", "1")
        script = "sleep 600 & echo $!; read x"
        holder = subprocess.Popen([program(), "cc", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  env=environment(daemon.socket))
        grandchild = int(holder.stdout.readline())
        try:
            daemon.until(lambda s: s["hosts"][0]["mine"] == 1)
            with Client(daemon) as second:
                self.assertEqual(second.local().receive()[0], b"WAIT")
                holder.stdin.close()
                holder.wait()
                self.assertEqual(second.receive(b"WAIT")[0], b"LOCL")
                self.assertTrue(alive(grandchild))
                self.assertEqual(daemon.status()["hosts"][0]["mine"], 1)
        finally:
            os.kill(grandchild, signal.SIGKILL)
            holder.stdout.close()

    def test_nested_calls_take_no_slot(self):
        """make in a recipe that holds the only slot: its compiles must not wait for it. Nor must a script
        that held it itself and becomes a client again."""
        daemon = self.farm.start("--slots", "1")
        inner = self.sources.make()
        for script in ("%s cc gcc -c %s -o n.o && %s cc gcc n.o -shared -o n.so", "exec %s cc gcc -c %s -o n.so",
                       "exec %s cc gcc %s -shared -o n.so"):
            script = script % (program(), inner, program())[:script.count("%s")]
            done = self.cc(daemon, "sh", "-c", script, timeout=20)
            self.assertEqual((done.code, done.err), (0, b""))
            self.assertTrue(os.path.exists(self.sources.folder + "/n.so"))
            self.assertLess(done.seconds, lm.POOL_STALL_S)
            daemon.idle()

    def test_pool_that_stalls_grants_one_more(self):
        """Nothing waits for ever for a slot whose holder waits for it in ways that cannot be seen."""
        tuned = program(POOL_STALL_S=1.0)
        daemon = self.farm.start("--slots", "1", prog=tuned)
        with subprocess.Popen([tuned, "cc", "sh", "-c", "read x"], stdin=subprocess.PIPE,
                              env=environment(daemon.socket)) as holder:
            daemon.until(lambda s: s["hosts"][0]["mine"] == 1)
            with Client(daemon) as client:
                self.assertEqual(client.local().receive(b"WAIT")[0], b"LOCL")
            holder.communicate(b"\n")

    def test_pings(self):
        """A client that waits hears from the daemon each second."""
        peer = self.farm.add(SlowPeer())
        peer.admitting = False
        daemon = self.farm.submitter(peer)
        with Client(daemon) as client:
            client.hello().receive(b"WAIT")
            client.send(b"IDNT", gcc_identity().hex()).send(b"SIZE", 10, 1, 0)
            times = []
            while len(times) < 2:
                name = client.decoder.feed(client.sock.recv(12)) and client.decoder.result[0]
                client.decoder = lm.Decoder(lm.decode_fields()) if client.decoder.done else client.decoder
                if name == b"PING":
                    times.append(time.monotonic())
            self.assertTrue(all(0.5 < b - a < 3 for a, b in zip(times, times[1:])), times)

    def test_turns_are_limited(self):
        """No more preprocessors at once than CPUs, whatever make -j says."""
        daemon = self.farm.submitter(self.farm.add(FaultyPeer()))
        cores = daemon.status()["hosts"][0]["cores"]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(daemon)).hello("%d.c" % i) for i in range(cores + 3)]
            status = daemon.until(lambda s: len(s["jobs"]) == cores + 3)
            states = collections.Counter(job["state"] for job in status["jobs"])
            self.assertEqual(states, {"preprocess": cores, "queued": 3})
            clients[0].sock.close()
            daemon.until(lambda s: len(s["jobs"]) == cores + 2 and sum(
                job["state"] == "preprocess" for job in s["jobs"]) == cores)


class OddClients(FarmCase):
    """What one client is, or says, harms no other, and costs it no second try of the daemon, which takes 2 s."""

    def tried_once(self, done):
        """It said why it does without the daemon, and said it once."""
        self.assertEqual(len(re.findall(b"distcc_lm: (?:no )?daemon: ", done.err)), 1, done.err)

    def test_cap_per_uid(self):
        """Of a user with too many connections compiles are done here at once; `status` is answered all the same."""
        daemon = self.farm.start("--slots", "1", prog=program(SESSIONS_PER_UID=5, QUESTIONS_PER_UID=3))
        for held, answers in ((5, True), (8, False)):
            with self.subTest(held), contextlib.ExitStack() as stack:
                for _ in range(held):
                    stack.enter_context(Client(daemon))
                for words in (["-c"], ["-shared"]):
                    name = self.sources.make()
                    done = self.cc(daemon, "gcc", *words, name, "-o", "o", env={"DISTCC_LM_VERBOSE": "1"})
                    self.assertEqual(done.code, 0)
                    self.assertIn(lm.REASONS["sessions"].encode(), done.err)
                    self.tried_once(done)
                self.assertEqual(command("status", sock=daemon.socket).code, 0 if answers else 2)
        self.assertEqual(daemon.idle()["totals"]["local_reasons"], {"sessions": 5})     # one was `status`
        self.assertIn(lm.REASONS["sessions"].encode(), command("status", sock=daemon.socket).out)

    def test_other_version(self):
        """The client of another installation says why, compiles here at once, and is counted."""
        daemon = self.farm.start("--slots", "1")
        with open(PROGRAM) as file:
            other = write(new_folder() + "/distcc_lm.py", file.read().replace(
                "CLIENT_VERSION = b", "CLIENT_VERSION = b'9' + b"), 0o755)
        for words in (["-c"], ["-shared"]):
            name = self.sources.make()
            done = self.cc(daemon, "gcc", *words, name, "-o", "o", prog=other, env={"DISTCC_LM_VERBOSE": "1"})
            self.assertEqual(done.code, 0)
            self.assertIn(b"restart the daemon", done.err)
            self.tried_once(done)
        self.assertEqual(daemon.idle()["totals"]["local_reasons"], {"client-version": 2})
        self.assertIn(b"another version", command("status", sock=daemon.socket).out)

    def test_one_odd_environment(self):
        """Where the compiler does not say what it is to one compile, that is held against none that comes later."""
        worker, daemon = self.farm.pair()
        libraries = new_folder()
        for name in os.listdir("/usr/lib/%s" % run(["gcc", "-dumpmachine"]).out.decode().strip()):
            if name.startswith("libbfd-"):
                write(libraries + "/" + name, b"")
        rows = [("LD_LIBRARY_PATH", {"LD_LIBRARY_PATH": libraries}, (), ())]
        if ROOT and python_for_all():
            other = ("setpriv", "--reuid=%d" % OTHER_UID, "--regid=%d" % OTHER_UID, "--clear-groups")
            rows.append(("ulimit -u 1", {}, (*other, "prlimit", "--nproc=1"), other))
        os.chmod(self.sources.folder, 0o777)
        for what, odd, prefix, ordinary in rows:
            with self.subTest(what):
                name, words = self.sources.make(), [program(), "cc", "gcc", "-c"]
                env = environment(daemon.socket, DISTCC_LM_PYTHON=python_for_all() or sys.executable)
                silent = daemon.idle()["totals"]["local_reasons"].get("compiler-silent", 0)
                with subprocess.Popen([*prefix, *words, name, "-o", "odd" + what[:2]], env={**env, **odd},
                                      cwd=self.sources.folder, stderr=subprocess.DEVNULL) as process:
                    daemon.until(lambda s, n=silent: s["totals"]["local_reasons"].get("compiler-silent", 0) == n + 1)
                    process.kill()                      # gcc itself takes 15 s to give up a fork
                before = daemon.idle()["totals"]
                for _ in range(2):
                    done = run([*ordinary, *words, name], self.sources.folder, env)
                    self.assertEqual((done.code, done.err), (0, b""))
                self.assertEqual(daemon.idle()["totals"]["remote"] - before["remote"], 2)

    def test_identity_in_any_environment(self):
        """What a first compile has in its environment is no part of the compiler's identity."""
        worker, daemon = self.farm.pair()
        jobserver = "-j4 --jobserver-auth=3,4"
        for environ in ({"MAKEFLAGS": jobserver, "MFLAGS": jobserver, "MAKELEVEL": "1"},
                        {"MAKEFLAGS": jobserver + " -- CFLAGS=-O2\\ -g\n"},
                        {"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8", "GCC_COLORS": "error=01;31", "COLUMNS": "40"},
                        {"SOURCE_DATE_EPOCH": "1", "CPATH": "/nowhere", "LIBRARY_PATH": "/nowhere"}):
            for compiler in ("gcc", "g++"):
                with self.subTest(compiler, **environ):
                    # another link of the compiler is another one to the daemon's memory
                    link = os.path.join(new_folder(), compiler)
                    os.symlink(shutil.which(compiler), link)
                    before = daemon.idle()["totals"]["remote"]
                    done = self.cc(daemon, link, "-c", self.sources.make(), "-o", "o", env=environ)
                    self.assertEqual((done.code, done.err), (0, b""))
                    self.assertEqual(daemon.idle()["totals"]["remote"] - before, 1)

    def test_long_commands(self):
        """Over 64 KB of flags are no more to the daemon than others; what is too long for any message stays here."""
        worker, daemon = self.farm.pair()
        flags = ["-I%s%d" % ("x" * 240, i) for i in range(280)]
        write(self.sources.folder + "/flags", "\n".join(flags))
        rows = ((flags, None, "remote"), (["@flags"], None, "remote"), (flags, None, "remote"),
                (["-w"], "y" * 70_000 + ".c", "long-command"))
        for words, name, reason in rows:
            with self.subTest(words[0][:6], reason=reason):
                before = daemon.idle()["totals"]
                name = name or self.sources.make()
                done = self.cc(daemon, "gcc", *words, "-c", name, "-o", "o", env={"DISTCC_LM_VERBOSE": "1"})
                self.assertEqual(done.code, 0 if reason == "remote" else 1)
                self.assertNotIn(b"distcc_lm: daemon: ", done.err)
                after = daemon.idle()["totals"]
                self.assertEqual((after["remote"] - before["remote"], after["local_reasons"].get(reason, 0)),
                                 (1, 0) if reason == "remote" else (0, 1))

    def test_odd_words(self):
        """What a client says of its job, whatever it is, spoils no job and no host."""
        peer = self.farm.add(FaultyPeer())
        daemon = self.farm.submitter(peer)
        plain = [b"x.c", b"x.o", b"c", b"1 2 3", b"flags", b"gcc 1", b"0", b"0", b"/here", b""]
        odd = (b"", b"\xff\xfe", b"a\nb\n\nc", "\u20ac\U0001f600".encode(), b"x" * 5000, b"\x1b[31m", b"%s%d",
               b"\xed\xb3\xbf")
        for at, word in [(at, word) for at in (0, 1, 2, 3, 4, 5, 8, 9) for word in odd]:
            with self.subTest(at=at, word=word[:9]), Client(daemon) as client:
                client.send(b"HELO", lm.CLIENT_VERSION, b"cc", *plain[:at], word, *plain[at + 1:])
                self.assertEqual(client.receive(b"WAIT")[0], b"TURN")
                client.send(b"IDNT", gcc_identity().hex())
                self.assertEqual(client.send(b"SIZE", (1 << 32) + 7, 1, 0).receive(b"WAIT")[0], b"SOCK")
                client.send(b"DONE", b"ok", 50, 9, 3, 0, 2, 1, 50, 100, peer.address)
        daemon.idle()
        self.assertEqual(daemon.host(peer.address)["state"], "up")


@unittest.skipUnless(ROOT and shutil.which("setpriv") and python_for_all(), "needs root, setpriv and a system Python")
class OtherUsers(FarmCase):
    """SO_PEERCRED decides who sees and does what."""

    def setUp(self):
        super().setUp()
        self.daemon = self.farm.submitter(self.farm.add(FaultyPeer()))

    def as_other(self, *words, cwd=None, uid=OTHER_UID, **more):
        env = environment(self.daemon.socket, DISTCC_LM_PYTHON=python_for_all(), HOME="/", **more)
        return run(["setpriv", "--reuid=%d" % uid, "--regid=%d" % OTHER_UID, "--clear-groups", program(), *words],
                   cwd, env)

    def test_sees_only_his_own(self):
        with Client(self.daemon) as mine:
            mine.hello("secret-name.c").receive(b"WAIT")
            ours = self.daemon.status()
            self.assertEqual(([job["source"] for job in ours["jobs"]], ours["others"]), (["/here/secret-name.c"], 0))
            done = self.as_other("status", "--json")
            self.assertEqual((done.code, done.err), (0, b""))
            theirs = json.loads(done.out)
            self.assertEqual((theirs["jobs"], theirs["others"]), ([], 1))
            self.assertNotIn(b"secret-name", done.out)
            for command_ in (["status"], ["why"], ["why", "50"], ["why", "secret-name.c"]):
                self.assertNotIn(b"secret-name.c (", self.as_other(*command_).out)
            self.assertIn(b"1 of others", self.as_other("status").out)
            self.assertIn(b"secret-name", command("why", sock=self.daemon.socket).out)

    def test_his_own_jobs(self):
        folder = new_folder(0o777)
        write(folder + "/theirs.c", "int x;\n", 0o644)
        done = self.as_other("cc", "gcc", "-shared", "theirs.c", "-o", "t.so", cwd=folder)
        self.assertEqual((done.code, done.err), (0, b""))
        self.assertEqual(os.stat(folder + "/t.so").st_uid, OTHER_UID)
        self.assertIn(b"t.so", self.as_other("why").out)

    def test_any_uid(self):
        """Users of containers have large ones: their jobs are sent, and take the hosts away from nobody."""
        for uid in (OTHER_UID, (1 << 31) - 1, 1 << 31, 3_000_000_000, (1 << 32) - 2):
            with self.subTest(uid):
                folder = new_folder(0o777)
                write(folder + "/t.c", "int x;\n", 0o644)
                done = self.as_other("cc", "gcc", "-c", "t.c", cwd=folder, uid=uid, DISTCC_LM_FALLBACK="0")
                self.assertEqual(done[:3], (0, b"", b""))
                self.assertEqual(self.daemon.idle()["hosts"][1]["state"], "up")

    def test_may_not_drain(self):
        done = self.as_other("drain")
        self.assertNotEqual(done.code, 0)
        self.assertEqual(done.err.count(b"\n"), 1)
        self.assertIn(b"only root", done.err)
        self.assertNotEqual(self.daemon.status()["hosts"][0]["state"], "draining")
        self.assertEqual(command("drain", sock=self.daemon.socket).code, 0)
        self.assertEqual(self.daemon.status()["hosts"][0]["state"], "draining")

    def test_unwritable_socket(self):
        """A client that may not connect compiles here."""
        daemon = self.farm.submitter(self.farm.worker())
        os.chmod(daemon.socket, 0o600)
        folder = new_folder(0o777)
        write(folder + "/x.c", "int x;\n", 0o644)
        done = run(["setpriv", "--reuid=%d" % OTHER_UID, "--regid=%d" % OTHER_UID, "--clear-groups", program(), "cc",
                    "gcc", "-c", "x.c", "-o", "x.o"], folder,
                   environment(daemon.socket, DISTCC_LM_PYTHON=python_for_all()))
        self.assertEqual(done[:3], (0, b"", b""))
        self.assertEqual(contents(folder + "/x.o")[:4], b"\x7fELF")
        self.assertEqual(daemon.idle()["totals"]["remote"], 0)

    def test_distrusts_another_users_daemon(self):
        """A daemon of some user on a socket that root's client is led to gets to see nothing."""
        folder = new_folder(0o777)
        name = self.sources.make()
        script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen(5)\n" \
                 "print('ready', flush=True)\nc, _ = s.accept()\nprint(len(c.recv(100)), flush=True)\n"
        with subprocess.Popen(["setpriv", "--reuid=%d" % OTHER_UID, "--regid=%d" % OTHER_UID, "--clear-groups",
                               python_for_all(), "-c", script, folder + "/s"], stdout=subprocess.PIPE) as server:
            self.assertEqual(server.stdout.readline(), b"ready\n")
            done = cc(folder + "/s", "gcc", "-c", name, "-o", "o", cwd=self.sources.folder)
            self.same(done, self.sources.expected(name), "o")
            self.assertEqual(server.stdout.readline(), b"0\n")




# ==== Section 10: daemon ==============================================================================================
# Options at work, signals, start and end, and what happens when parts of it die.

class DaemonStart(FarmCase):

    def fails(self, *options, code=1, listen="127.0.0.1:0", **more):
        """The daemon does not start: one line, this exit status. The line."""
        folder = new_folder()
        argv = [program(), "daemon", "--listen", listen, "--hosts", "", "--broadcast", "none", "--state",
                folder + "/state"]
        if "--socket" not in options:
            argv += ["--socket", folder + "/s"]
        done = run([*argv, *options], folder, environment(), 20, **more)
        self.assertEqual((done.code, done.out, done.err.count(b"\n")), (code, b"", 1), done)
        self.assertFalse(os.path.exists(folder + "/s"))
        return done.err.decode()

    def test_all_options(self):
        write(self.farm.folder + "/options", "--slots\n3\n--nice\n5\n")
        daemon = self.farm.start(
            "--allow", "127.0.0.0/8", "--allow", "::1", "--use", "10.0.0.0/8", "--use", "[fd00::/8]:99", "--hosts",
            "127.0.0.251:1/2,lzo", "--user", "nobody", "--job-timeout", "60", "--min-memory", "0", "--max-job-mb", "10",
            "--contain", "auto", "--log-level", "info", "--log-file", self.farm.folder + "/log", "--pid-file",
            self.farm.folder + "/pid", "--broadcast", "none", "@" + self.farm.folder + "/options", "--compilers",
            compilers())
        status = daemon.status()
        self.assertEqual(status["hosts"][0]["slots"], 3)
        self.assertEqual(int(contents(self.farm.folder + "/pid")), daemon.pid)
        self.assertIn(b"serving on", contents(self.farm.folder + "/log"))
        self.assertEqual(daemon.text(), "")
        daemon.process.terminate()
        self.assertEqual(daemon.process.wait(DEADLINE_S), 0)
        self.assertFalse(os.path.exists(self.farm.folder + "/pid"))

    def test_reasons_not_to_start(self):
        daemon = self.farm.worker()
        port_in_use = self.fails("--allow", "127.0.0.1", listen=daemon.address)
        self.assertIn(daemon.address, port_in_use)
        self.assertIn("in use", port_in_use)
        self.assertIn("another daemon", self.fails("--socket", daemon.socket))
        self.assertIn("--listen", self.fails(listen="192.0.2.1:0"))
        write(self.farm.folder + "/file", "precious")
        self.assertIn("no socket", self.fails("--socket", self.farm.folder + "/file"))
        self.assertEqual(contents(self.farm.folder + "/file"), b"precious")
        for options in (("--socket", "/nonexistent/s"), ("--allow", "127.0.0.1", "--tmpdir", "/nonexistent"),
                        ("--log-file", "/nonexistent/log"), ("--pid-file", "/nonexistent/pid"),
                        ("--detach", "--socket", daemon.socket), ("--detach", "--log-file", "/nonexistent/log")):
            with self.subTest(options):
                self.assertIn(options[-1], self.fails(*options))
        for name, key, mode in (("absent", None, 0), ("short", b"only 15 bytes!!\n", 0o600), ("empty", b"", 0o600),
                                ("open", KEY, 0o640), ("open", KEY, 0o604), ("blank", b" \n" * 99, 0o600)):
            with self.subTest(name):
                path = self.farm.folder + "/key" + name
                if key is not None:
                    write(path, key, mode)
                self.assertRegex(self.fails("--secret-file", path), "--secret-file.*%s.*(%s)" % (
                    re.escape(path), {"absent": "No such file", "open": "chmod 600"}.get(name, "at least 16")))
        self.assertIn("--secret-file", self.fails("--secret-file", self.farm.folder))
        if ROOT:
            self.assertIn("no_such_user", self.fails("--allow", "127.0.0.1", "--user", "no_such_user"))
        self.assertEqual(daemon.status()["daemon"]["pid"], daemon.pid)

    def test_stale_socket(self):
        first = self.farm.start()
        first.close()
        self.assertTrue(os.path.exists(first.socket))
        second = self.farm.start("--socket", first.socket, wait=False)
        second.socket = first.socket
        self.assertEqual(second.started().status()["daemon"]["pid"], second.pid)

    def test_corrupt_state(self):
        """Learnt anew, with a line in the log; written again at the end."""
        rows = (b"", b"{", b"[]", b"null", b"{}", b'{"hosts": 5}', b'{"hosts": {"local": {"kb_sum": "x"}}}',
                b"\xff" * 99, b'{"format": 99, "hosts": {}, "what": "a later version"}', b'{"hosts": {"local": null}}',
                b'{"version": 1e999}', b'"' + b"[" * 3000, b"[" * 100000)

        def check(pair):
            number, row = pair
            path = write("%s/state%d" % (self.farm.folder, number), row)
            daemon = self.farm.start("--state", path)
            daemon.process.terminate()
            return row, daemon.process.wait(DEADLINE_S), contents(path), daemon.text()
        for row, code, after, text in together(list(enumerate(rows)), check):
            with self.subTest(row[:30]):
                self.assertEqual(code, 0, text)
                self.assertIsInstance(json.loads(after), dict)
                self.assertNotIn("Traceback", text)

    def test_state_is_kept(self):
        worker, daemon = self.farm.pair()
        name = self.sources.make(MEDIUM_SOURCE)
        self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)
        samples = daemon.until(lambda s: s["hosts"][1]["samples"])["hosts"][1]["samples"]
        daemon.process.terminate()
        self.assertEqual(daemon.process.wait(DEADLINE_S), 0)
        again = self.farm.submitter(worker, options=("--state", daemon.folder + "/state"))
        self.assertEqual(again.status()["hosts"][1]["samples"], samples)

    def test_detach(self):
        """Returns once all is bound; the daemon goes on in a session of its own."""
        folder = new_folder()
        argv = [program(), "daemon", "--listen", "127.0.0.1:0", "--hosts", "", "--broadcast", "none", "--state",
                folder + "/state", "--socket", folder + "/s", "--pid-file", folder + "/pid", "--log-file",
                folder + "/log", "--detach", "--allow", "127.0.0.1", "--compilers", compilers()]

        def stop():
            for pid in [int(word) for word in contents(folder + "/pid").split()]:
                os.kill(pid, signal.SIGTERM)
                self.assertTrue(eventually(lambda pid=pid: not alive(pid)))
        self.addCleanup(stop)
        done = run(argv, folder, timeout=10)
        pid = int(contents(folder + "/pid"))
        try:
            self.assertEqual(done[:3], (0, b"", b""))
            self.assertEqual(ask(folder + "/s", "status")[1]["daemon"]["pid"], pid)
            self.assertEqual(os.getsid(pid), pid)
        finally:
            os.kill(pid, signal.SIGTERM)
            self.assertTrue(eventually(lambda: not alive(pid)))
        self.assertFalse(os.path.exists(folder + "/s"))

    def test_procfs(self):
        """Foreign load, memory and cores are read there, and slots follow."""
        procfs = set_procfs(new_folder(), cores=6)
        worker = self.farm.worker("--procfs", procfs, "--slots", "99")
        row = worker.until(lambda s: s["hosts"][0]["slots"] == 8)["hosts"][0]     # 1.25 each
        self.assertEqual((row["cores"], row["memory_available_kb"], row["load"]), (6, 9000 << 10, 0))
        set_procfs(procfs, cores=6, runnable=5)
        worker.until(lambda s: 2 <= s["hosts"][0]["slots"] <= 4)
        set_procfs(procfs, cores=6, runnable=40)
        worker.until(lambda s: s["hosts"][0]["slots"] == 1)
        set_procfs(procfs, cores=6, available_mb=2000)
        worker.until(lambda s: s["hosts"][0]["slots"] == 2)
        set_procfs(procfs, cores=6, available_mb=100)
        status = worker.until(lambda s: "memory" in s["hosts"][0]["reason"])
        self.assertFalse(status["daemon"]["accepting"])
        with Wire(worker) as wire:
            self.assertEqual(wire.ask_slot().admission()[:2], ("refused", "memory"))
        set_procfs(procfs, cores=6)
        worker.until(lambda s: s["daemon"]["accepting"] and s["hosts"][0]["slots"] == 8)
        for name in ("loadavg", "meminfo", "stat"):
            write(procfs + "/" + name, b"\xff nonsense")
        self.assertTrue(worker.status())


# /proc/self/cgroup | {file below the mounts: contents, of memory in MB} | CPUs of 8, MB of 9000 that may be used
CGROUPS = (
    ("", {}, 8, 9000),
    ("0::/", {}, 8, 9000),
    ("junk\n0::", {"cpu.max": "junk", "memory.max": "", "memory.current": "x"}, 8, 9000),
    ("0::/", {"cpu.max": "150000 100000", "memory.max": 700, "memory.current": 300,
              "memory.stat": {"anon": 1, "active_file": 50, "inactive_file": 100}}, 2, 550),
    ("0::/", {"memory.max": 99999, "memory.current": 0, "memory.stat": {}}, 8, 9000),
    ("0::/a/b", {"a/memory.max": 500, "a/memory.current": 600, "a/memory.stat": {}, "a/b/memory.max": 4000,
                 "a/b/memory.current": 0, "a/b/memory.stat": {}, "a/b/cpu.max": "max 100000"}, 8, 0),
    ("0::/a/b", {"a/memory.max": "max", "a/b/memory.max": 400, "a/b/memory.current": 0, "a/b/memory.stat": {},
                 "a/cpu.max": "100 100"}, 1, 400),
    ("0::/not/seen/here", {"memory.max": 90, "memory.current": 0, "memory.stat": {}, "cpu.max": "3 1"}, 3, 90),
    ("4:memory:/a\n1:cpu,cpuacct:/a", {
        "memory/a/memory.limit_in_bytes": 800, "memory/a/memory.usage_in_bytes": 790,
        "memory/a/memory.stat": {"inactive_file": 7, "total_inactive_file": 90},
        "memory/memory.limit_in_bytes": (1 << 43) - 1, "memory/memory.usage_in_bytes": 5,
        "cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8, 100),
    ("4:memory:/docker/x\n1:cpu:/docker/x", {               # in a container, whose own is at the root of the mount
        "memory/memory.limit_in_bytes": 70, "memory/memory.usage_in_bytes": 0, "memory/memory.stat": {},
        "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1, 70),
)


class Cgroups(FarmCase):
    """What a cgroup leaves of the machine, for a daemon within."""

    def test_files(self):
        for text, files, cores, memory_mb in CGROUPS:
            folder = set_procfs(new_folder(), 8)
            os.makedirs(folder + "/self")
            write(folder + "/self/cgroup", text + "\n")
            for name, value in files.items():
                os.makedirs(os.path.dirname("%s/cgroup/%s" % (folder, name)), exist_ok=True)
                rows = value.items() if isinstance(value, dict) else [("", value)]
                write("%s/cgroup/%s" % (folder, name), "".join(
                    "%s %s\n" % (word, row << 20 if isinstance(row, int) else row) for word, row in rows))
            box = lm.Box(folder, "/tmp")
            with self.subTest(text, files=files):
                self.assertEqual((box.cores, box.memory_available_kb()), (cores, memory_mb << 10))

    def test_real(self):
        """A worker with 600 MB has no more to offer, and says how much of them is left."""
        rows = [line.split(":", 2) for line in contents("/proc/self/cgroup").decode().splitlines()]
        folder, name = next((("/sys/fs/cgroup/memory" + path, "memory.limit_in_bytes") for _, controllers, path in rows
                             if controllers == "memory"), ("/sys/fs/cgroup" + rows[-1][2], "memory.max"))
        folder = "%s/dlm-%d" % (folder, os.getpid())
        try:
            os.mkdir(folder)
            self.addCleanup(os.rmdir, folder)
            write("%s/%s" % (folder, name), str(600 << 20))
        except OSError as error:
            self.skipTest("no cgroup of our own: %s" % error)
        worker = self.farm.worker("--procfs", "/proc", prog=wrapped("echo $$ > %s/cgroup.procs\nexec" % folder))
        row = worker.status()["hosts"][0]
        worker.close()
        self.assertTrue(eventually(lambda: not contents(folder + "/cgroup.procs")))
        self.assertTrue(300 << 10 < row["memory_available_kb"] < 600 << 10, row)


class Listing(unittest.TestCase):
    """Host lists: where they are looked for, and what they say of this box."""

    def test_come_and_gone(self):
        """A listed distccd that was one of ours for a while is a distccd again; a host that was found goes, in time."""
        directory, scheduler, _ = self.directory("d/4")
        listed, found = scheduler.hosts["d:3632"], lm.Host("f", "f", "peer", lm.Endpoint(("10.9.9.9", 3632)))
        scheduler.hosts["f"] = found
        for host in (listed, found):
            host.kind = "peer"
            scheduler.report(host, host_load(8), 0)
        directory.resolve_again(1)
        self.assertEqual((listed.kind, found.retired), ("peer", False))
        directory.resolve_again(60)
        self.assertEqual((listed.kind, listed.slots(), listed.usable(60), found.retired), ("distccd", 4, True, False))
        found.retired = True                                    # unlisted, but a request waits there
        found.asking = 1
        directory.resolve_again(90)
        self.assertTrue(found.retired)
        found.retired, found.asking = False, 0
        directory.resolve_again(lm.GONE_S + 1)
        directory.resolve_again(lm.GONE_S + 31)
        self.assertEqual(list(scheduler.hosts), ["d:3632"])

    def directory(self, hosts, slots=None):
        """A Directory that has read its list, its Scheduler, and what it logged."""
        logged, loop = [], unittest.mock.Mock()
        loop.log = lambda level, text: logged.append(text)
        config = argparse.Namespace(peer=[], hosts=hosts, slots=slots, job_timeout=600)
        scheduler = lm.Scheduler(lm.Statistics(), slots or 16, 16, random.Random(0))
        directory = lm.Directory(config, loop, scheduler, unittest.mock.Mock(peers={}), {})
        for sock in (directory.resolver.ours, directory.resolver.theirs):
            self.addCleanup(sock.close)
        directory.load()
        return directory, scheduler, logged

    def test_search_order(self):
        folder, home_folder = new_folder(), new_folder()
        os.makedirs(home_folder + "/.distcc")
        write(home_folder + "/.distcc/hosts", "of-home")
        with unittest.mock.patch.dict(os.environ, HOME=home_folder):
            self.assertEqual(lm.find_host_list({"DISTCC_HOSTS": "a b"}), ("a b", "DISTCC_HOSTS"))
            self.assertEqual(lm.find_host_list({"DISTCC_HOSTS": ""}), ("", "DISTCC_HOSTS"))     # even empty
            self.assertEqual(lm.find_host_list({})[0], "of-home")
            system = contents("/etc/distcc/hosts").decode()
            self.assertEqual(lm.find_host_list({"DISTCC_DIR": folder})[0], system)      # instead of ~/.distcc
            write(folder + "/hosts", "of-dir")
            self.assertEqual(lm.find_host_list({"DISTCC_DIR": folder})[0], "of-dir")

    def test_limits(self):
        for text, slots, wanted in (("", None, (16, 16, math.inf)), ("localhost", None, (16, 16, math.inf)),
                                    ("localhost/2 --localslots=3 --localslots_cpp=5", None, (3, 5, 2)),
                                    ("--localslots=3", 8, (8, 16, math.inf))):
            scheduler = self.directory(text, slots)[1]
            self.assertEqual((scheduler.slots, scheduler.turn_limit, scheduler.home_limit), wanted)

    def test_localslots_cpp(self):
        scheduler = self.directory("--localslots_cpp=2")[1]
        scheduler.hosts["h"] = host = lm.Host("h", "h", "distccd", lm.Endpoint(("h", 1)), listed_slots=9)
        self.assertTrue(host.usable(0.0))
        jobs = [a_job(scheduler, 1.0, source="%d.c" % i, sized=False) for i in range(5)]
        scheduler.pump(1.0)
        self.assertEqual(sum(job.state == "preprocess" for job in jobs), 2)

    def test_warned_once(self):
        directory, _, logged = self.directory("127.0.0.1:9/7,lzo me@h +zeroconf 127.0.0.2,cpp 127.0.0.3,auth"
                                              " 127.0.0.4,down")
        self.assertEqual([(host.key, host.lzo, host.slots()) for host in directory.hosts.values()],
                         [("127.0.0.1:9", True, 7), ("127.0.0.2:3632", False, 4)])
        self.assertEqual([line.split(":")[0].split(" ")[0] for line in logged],
                         ["me@h", "+zeroconf", "127.0.0.2,cpp", "127.0.0.3,auth"])
        self.assertEqual(sum("ssh -fNL" in line for line in logged), 2)
        directory.load()
        self.assertEqual(len(logged), 4)

    def test_status(self):
        with LoopbackFarm() as farm:
            daemon = farm.start("--hosts", "me@h")
            self.assertIn("open an ssh tunnel", daemon.status()["warnings"][0])
            self.assertIn(b"Host list: me@h: ssh hosts are not used", command("status", sock=daemon.socket).out)


class Pauses(unittest.TestCase):
    def test_pause(self):
        """Nothing of a paused socket until its time has come; it may go meanwhile."""
        loop, heard = lm.Loop("error"), []
        begun, pairs = loop.now(), {name: socket.socketpair() for name in ("kept", "gone", "other")}
        for name, (ours, theirs) in pairs.items():
            theirs.send(b"x")
            loop.watch(ours, selectors.EVENT_READ, lambda _, ours=ours, name=name: heard.append((name, ours.recv(9))))
        loop.pause(pairs["kept"][0], 5.0)
        loop.pause(pairs["gone"][0], 5.0)
        loop.now = lambda: begun + 4.9
        loop.turn(begun)
        self.assertEqual(heard, [("other", b"x")])
        loop.unwatch(pairs["gone"][0])
        loop.now = lambda: begun + 5.1
        loop.turn(begun)                            # it is wanted again ...
        loop.turn(begun)                            # ... and heard
        self.assertEqual(heard, [("other", b"x"), ("kept", b"x")])
        for ours, theirs in pairs.values():
            ours.close()
            theirs.close()


class StandingStill(unittest.TestCase):
    def test_forgiven_first(self):
        """After SIGSTOP or a suspend ages are put right before anything judges by them: events and tasks."""
        loop, order = lm.Loop("error"), []
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"x")
            loop.watch(ours, selectors.EVENT_READ, lambda _: order.append(ours.recv(1)))
            loop.on_gap = order.append
            loop.tasks.append([0.0, 60.0, lambda now: order.append("task")])
            loop.turn(0.0)
            loop.tasks[0][0] = 0.0
            theirs.send(b"y")
            select, loop.selector = loop.selector.select, unittest.mock.Mock()
            now = loop.now()
            loop.selector.select = lambda timeout: setattr(loop, "now", lambda: now + 50.0) or select(timeout)
            loop.turn(0.0)
        self.assertEqual(order[:2], [b"x", "task"])
        self.assertEqual((round(order[2]), order[3:]), (50, [b"y", "task"]))


    def test_start(self):
        """What a daemon does before its first turn, as asking compilers who they are, is no gap."""
        loop, gaps = lm.Loop("error"), []
        loop.on_gap, begun = gaps.append, loop.now()
        loop.now = lambda: begun + 50.0
        loop.turn(0.0)
        self.assertEqual(gaps, [])

    def test_slow_callback(self):
        """A callback that hangs: forgiven before the next event, task or decision; also where many take their time."""
        for what, stalls, wanted in (("one", [50.0], ["gap 50", "event", "task", "settle"]),
                                     ("some", [0.9, 0.9, 0.9], ["gap 3", "event", "task", "settle"]),
                                     ("quick", [0.5, 0.9], ["event", "task", "settle"])):
            with self.subTest(what), contextlib.ExitStack() as stack:
                loop, order, begun = lm.Loop("error"), [], time.monotonic()
                clock = [begun]
                loop.now = lambda clock=clock: clock[0]
                loop.on_gap = lambda gap, order=order: order.append("gap %.0f" % gap)
                loop.settle = lambda order=order: order.append("settle")
                loop.tasks.append([begun - 1, 60.0, lambda now, order=order: order.append("task")])
                for stall in [*stalls, None]:
                    ours, theirs = map(stack.enter_context, socket.socketpair())
                    theirs.send(b"x")

                    def heard(_, ours=ours, stall=stall, clock=clock, order=order):
                        ours.recv(1)
                        if stall is None:
                            order.append("event")
                        else:
                            clock[0] += stall
                    loop.watch(ours, selectors.EVENT_READ, heard)
                loop.selector.select = lambda _, loop=loop: [
                    (loop.selector.get_key(what), row[1]) for what, row in loop.watched.items()]    # in this order
                loop.turn(begun)
                self.assertEqual(order, wanted)

    def test_apart(self):
        """What blocks holds up no turn; its result, or what it raises, comes in the loop; once at a time."""
        loop, gate, found = lm.Loop("error"), threading.Event(), []
        with unittest.mock.patch.object(loop, "log", lambda level, text: found.append(text)):
            self.assertTrue(loop.apart("x", lambda: gate.wait(DEADLINE_S), found.append))
            self.assertFalse(loop.apart("x", lambda: found.append("twice"), found.append))
            self.assertTrue(loop.apart("y", lambda: {}["none"], found.append))
            self.assertTrue(eventually(lambda: loop.turn(loop.now() + 0.01) or found))
            self.assertIn("bug: KeyError", found.pop())
            gate.set()
            self.assertTrue(eventually(lambda: loop.turn(loop.now() + 0.01) or found))
        self.assertEqual((found, loop.errands), ([True], {}))

    def test_names_of_users(self):
        """A slow answer is not waited for: until it comes there is the number. Each is asked for once."""
        loop, gate, uid = lm.Loop("error"), threading.Event(), OTHER_UID + 7
        hub = lm.Hub(loop, unittest.mock.Mock(), None, None)
        self.addCleanup(lm.USER_NAMES.clear)
        with unittest.mock.patch("pwd.getpwuid", side_effect=lambda uid: gate.wait(DEADLINE_S) and unittest.mock.Mock(
                pw_name="x%d" % uid)) as asked:
            for each in (uid, uid + 1, uid):
                hub.learn_names(each)
            self.assertEqual(lm.user_name(uid), str(uid))
            gate.set()
            self.assertTrue(eventually(lambda: loop.turn(loop.now() + 0.01) or not hub.nameless))
            self.assertEqual([lm.user_name(uid), lm.user_name(uid + 1)], ["x%d" % uid, "x%d" % (uid + 1)])
            hub.learn_names(uid)
        self.assertEqual(asked.call_count, 2)

    def test_disk(self):
        """One that does not answer counts as full, until it does."""
        loop, gate = lm.Loop("error"), threading.Event()
        box = unittest.mock.Mock(short=False, disk_short=lambda: not gate.wait(DEADLINE_S))
        upkeep = lm.Upkeep(None, loop, box, None)
        upkeep.look_at_disk()
        self.assertFalse(box.short)
        upkeep.look_at_disk()
        self.assertTrue(box.short)
        gate.set()
        self.assertTrue(eventually(lambda: loop.turn(loop.now() + 0.01) or not box.short))


class Stalls(FarmCase):
    """What hangs holds up neither clients nor the end."""

    def goes_on(self, daemon, worker=None):
        """It answers and compiles, and ends when it is told to."""
        begin, name = time.monotonic(), self.sources.make()
        daemon.status()
        self.same(self.cc(worker or daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.assertLess(time.monotonic() - begin, 2.5)
        daemon.process.terminate()
        self.assertEqual(daemon.process.wait(DEADLINE_S), 0)
        self.assertLess(time.monotonic() - begin, 9)

    def test_log_that_nobody_reads(self):
        """A pipe, a terminal that was stopped, a socket: lines are lost and counted; no flag of it changes."""
        def pipe():
            ours, theirs = os.pipe()
            fcntl.fcntl(theirs, 1031, 4096)             # F_SETPIPE_SZ, which Python 3.9 has not
            return ours, theirs

        def terminal():
            ours, theirs = os.openpty()
            termios.tcflow(theirs, termios.TCOOFF)
            return ours, theirs

        def pair():
            ours, theirs = socket.socketpair()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            return ours.detach(), theirs.detach()
        for make in (pipe, terminal, pair):
            ours, theirs = make()
            with self.subTest(make.__name__), open(ours, "rb", 0) as reader, open(theirs, "wb", 0) as writer:
                daemon = self.farm.start(wait=False)
                daemon.process.kill()
                daemon.process.wait()
                daemon.process = subprocess.Popen(daemon.argv, env=environment(), cwd=daemon.folder,
                                                  stdout=writer, stderr=writer)
                daemon.pid = daemon.process.pid
                daemon.started()
                for _ in range(200):                # each says what it cannot do
                    self.assertEqual(ask(daemon.socket, "drain", "on")[0], b"JSON")
                    self.assertEqual(ask(daemon.socket, "drain", "off")[0], b"JSON")
                self.assertFalse(fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK)
                if make is terminal:
                    termios.tcflow(theirs, termios.TCOON)
                text = b""
                while b"lost" not in text:
                    if not select.select((reader,), (), (), 0)[0]:
                        ask(daemon.socket, "drain", "off")
                    self.assertTrue(select.select((reader,), (), (), DEADLINE_S)[0], (make, text))
                    text += reader.read(1 << 20)
                self.assertRegex(text, rb"\d+ lines of this log are lost")
                self.goes_on(daemon)

    def test_no_streams(self):
        """Their numbers are no sockets', where the log would go."""
        worker = self.farm.worker(prefix=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
        self.goes_on(self.farm.submitter(worker))
        self.assertEqual(worker.status()["totals"]["served"], 1)

    def test_state(self):
        """Saving hangs: stands for a home by NFS that is away."""
        folder = new_folder()
        os.mkfifo(folder + "/state.new")
        daemon = self.farm.start("--state", folder + "/state", prog=program(STATE_SAVE_S=0.1))
        self.assertTrue(eventually(lambda: any(
            contents("/proc/%d/task/%s/wchan" % (daemon.pid, task)) == b"wait_for_partner"
            for task in os.listdir("/proc/%d/task" % daemon.pid))) or not os.access("/proc/1/wchan", os.R_OK))
        self.goes_on(daemon)

    def test_compiler(self):
        """A -v that does not end."""
        links = new_folder(0o755)
        source = write(new_folder() + "/c.c", "int pause(void); int main(void) { return pause(); }\n")
        os.symlink("/usr/bin/gcc", links + "/gcc")
        os.symlink("/usr/bin/g++", links + "/g++")
        worker = self.farm.worker("--compilers", links, prog=program(IDENTITY_CHECK_S=0.1))
        daemon = self.farm.submitter(worker)
        run_step(["gcc", source, "-o", links + "/new"])
        os.rename(links + "/new", links + "/g++")
        self.assertTrue(eventually(lambda: any(os.path.exists("/proc/%d/exe" % pid) and os.path.samefile(
            "/proc/%d/exe" % pid, links + "/g++") for pid in descendants(worker.pid))))
        self.goes_on(worker, daemon)
        self.assertEqual(daemon.status()["totals"]["remote"], 1)


class Contained(unittest.TestCase):
    """A mishap of one does no harm to the others."""

    def test_settle(self):
        """An action that fails takes no other with it."""
        done, logged = [], []
        daemon = lm.Daemon.__new__(lm.Daemon)
        daemon.loop, daemon.settling = lm.Loop("error"), False
        daemon.loop.log = lambda level, text: logged.append(text)
        daemon.hub = daemon.reports = daemon.admission = daemon.server = unittest.mock.Mock()
        daemon.scheduler = unittest.mock.MagicMock(actions=[("a",), ("b",), ("c",)])
        daemon.perform = lambda name: done.append(name) if name != "b" else {}[name]
        daemon.settle()
        self.assertEqual(done, ["a", "c"])
        self.assertIn("bug: KeyError", logged[0])

    def test_grant_next(self):
        """Many that waited are gone when a slot becomes free: whoever is left gets it, without recursion."""
        admission = lm.Admission(1, lm.PeakMemory())
        server = lm.JobServer.__new__(lm.JobServer)
        server.loop, server.admission, server.granting = lm.Loop("error"), admission, False
        left = []

        class Gone:
            state = "parked"

            def end(self, *_):
                admission.release(self, 0.0, 0.0)
                server.grant_next()                     # as on_change() does

        def reserve(connection, _):
            if connection.state != "left":
                raise ConnectionResetError(errno.ECONNRESET, "gone")
            left.append(connection)
        server.reserve = reserve
        admission.request(("x", "x", 1), "first", 1, 0.0)
        last = Gone()
        last.state = "left"
        for connection in [Gone() for _ in range(3000)] + [last]:
            self.assertEqual(admission.request(("x", "x", 1), connection, 1, 0.0)[0], "parked")
        admission.release("first", 1.0, 0.0)
        server.grant_next()
        self.assertEqual(left, [last])

    def test_broadcast(self):
        """Where the interfaces cannot be listed: by the system's own choice."""
        sock = unittest.mock.Mock()
        with unittest.mock.patch.object(lm.socket, "if_nameindex", side_effect=OSError(errno.EMFILE, "too many")):
            lm.broadcast_everywhere(sock, b"x", ("255.255.255.255", 3632))
        self.assertEqual(sock.sendmsg.call_count, 1)


class Offers(unittest.TestCase):
    """Which compilers a server has."""

    COMPILER_C = """
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    return argc < 2 || printf("%s\\n", strcmp(argv[1], "-v") ? "as" : "version " V) < 0;
}
"""

    def compiler(self, path, version):
        """A program that says it is a gcc of this version."""
        source = write(new_folder() + "/c.c", self.COMPILER_C)
        run_step(["gcc", "-DV=\"%s\"" % version, source, "-o", path + ".new"])
        os.rename(path + ".new", path)

    def test_exchanged(self):
        """A link is set to another version, a program replaced: each identity has the program that has it."""
        folder, other = new_folder(), new_folder()
        self.compiler(other + "/gcc-12", "12")
        self.compiler(other + "/gcc-13", "13")
        for name, target in (("cc", "gcc-12"), ("gcc-12", "gcc-12"), ("gcc-13", "gcc-13")):
            os.symlink(other + "/" + target, folder + "/" + name)
        offer = lm.Offer([folder], False, lambda *_: None)
        twelve, thirteen = (offer.by_name[name].identity for name in ("gcc-12", "gcc-13"))
        self.assertEqual(offer.find(name="cc").identity, twelve)
        self.assertFalse(offer.take(offer.look()))
        os.symlink(other + "/gcc-13", folder + "/new")
        os.rename(folder + "/new", folder + "/cc")
        self.assertFalse(offer.find(name="cc").unchanged())
        self.assertFalse(offer.take(offer.look()), "the same two identities")
        for identity, name in ((twelve, "gcc-12"), (thirteen, "gcc-13")):
            found = offer.find(identity=identity)
            self.assertEqual((os.path.realpath(found.path), found.identity), (other + "/" + name, identity))
        self.assertEqual(offer.find(name="cc").identity, thirteen)
        self.compiler(other + "/gcc-12", "12.5")
        self.assertFalse(offer.find(identity=twelve).unchanged())
        self.assertTrue(offer.take(offer.look()))
        self.assertIsNone(offer.find(identity=twelve))
        self.assertNotEqual(offer.find(name="gcc-12").identity, twelve)
        os.unlink(other + "/gcc-12")
        self.assertTrue(offer.take(offer.look()))
        self.assertIsNone(offer.find(name="gcc-12"))
        self.assertEqual(sorted(offer.by_name), ["cc", "gcc-13"])

    def test_comes_and_goes(self):
        """What happens: (the names that are offered then, words of the log of it)."""
        folder, other, lines, clock = new_folder() + "/late", new_folder(), [], [1000.0]
        gcc, away = other + "/gcc-12", other + "/away"
        self.compiler(gcc, "12")
        self.compiler(other + "/mute", "0")
        shutil.copy2("/bin/false", other + "/false")
        rows = (
            ("the folder is not mounted yet", lambda: None, "", "No such file"),
            ("it is", lambda: (os.mkdir(folder), os.symlink(gcc, folder + "/gcc")), "gcc", ""),
            ("a new link", lambda: os.symlink(gcc, folder + "/cc"), "cc gcc", "cc is offered now"),
            ("its target comes late", lambda: os.symlink(other + "/g++", folder + "/g++"), "cc gcc", ""),
            ("it has come", lambda: shutil.copy2(gcc, other + "/g++"), "cc g++ gcc", "g++ is offered now"),
            ("the program is away", lambda: os.rename(gcc, away), "g++", "no longer"),
            ("it is away still", lambda: None, "g++", ""),
            ("it is back", lambda: os.rename(away, gcc), "cc g++ gcc", "offered now"),
            ("it does not answer", lambda: shutil.copy2("/bin/false", other + "/g++"), "cc gcc", "does not answer -v"),
            ("nor now", lambda: None, "cc gcc", ""),
            ("exchanged again", lambda: shutil.copy2(gcc, other + "/g++"), "cc g++ gcc", "offered now"),
            ("a link is gone", lambda: os.unlink(folder + "/cc"), "g++ gcc", "cc is offered no longer"),
        )
        with unittest.mock.patch.object(lm.time, "monotonic", lambda: clock[0]):
            offer = lm.Offer([folder], False, lambda level, text: lines.append(text))
            for what, change, names, logged in rows:
                with self.subTest(what):
                    change()
                    offer.take(offer.look())
                    self.assertEqual(" ".join(sorted(offer.by_name)), names)
                    self.assertEqual(bool(lines), bool(logged), lines)
                    self.assertIn(logged, "".join(lines))
                    lines.clear()

    def test_asked_again(self):
        """One whose -v fails is asked again, more and more seldom; at once where it was exchanged."""
        folder, clock, asked = new_folder(), [1000.0], []
        self.compiler(folder + "/gcc", "12")
        with unittest.mock.patch.object(lm.time, "monotonic", lambda: clock[0]), unittest.mock.patch.object(
                lm, "run_for_text", lambda argv: asked.append(clock[0]) or b""):
            offer = lm.Offer([folder], False, lambda *_: None)
            for _ in range(200):
                clock[0] += 10
                offer.take(offer.look())
            times = sorted(set(asked))
            self.assertEqual([b - a for a, b in zip(times, times[1:])], [10, 20, 40, 80, 160, 320, 600, 600])
        self.assertEqual(offer.by_name, {})
        clock[0] += 700
        with unittest.mock.patch.object(lm.time, "monotonic", lambda: clock[0]):
            self.assertTrue(offer.take(offer.look()))

    def test_assembler(self):
        """It is part of the identity and of the stamp: on PATH, where a new one comes before it, and by path. Where its
        words hide the package's revision its bytes count."""
        folder, bin_folder = new_folder(), new_folder()
        self.compiler(folder + "/gcc", "12")
        log, seen = [], []
        with unittest.mock.patch.object(lm, "SERVER_PATH", os.fsencode(bin_folder) + b":" + lm.SERVER_PATH):
            offer = lm.Offer([folder], False, lambda level, text: log.append(text))
            for text in ("", "# other bytes\n", None):
                seen.append(offer.find(name="gcc").identity)
                self.assertTrue(offer.find(name="gcc").unchanged())
                if text is not None:
                    write(bin_folder + "/as", '#!/bin/sh\n%sexec /usr/bin/as "$@"\n' % text, 0o755)
                else:
                    os.unlink(bin_folder + "/as")
                self.assertFalse(offer.find(name="gcc").unchanged())
                self.assertTrue(offer.take(offer.look()))
            self.assertEqual((len(set(seen)), offer.find(name="gcc").identity), (3, seen[0]))
        self.assertEqual(log, [])

    def test_identities(self):
        """Words and bytes of the assembler: whether the identity is the same."""
        def identity(said, content):
            return lm.identity_of(b"gcc version 12\n", said, False, content)
        for said in (b"GNU assembler (GNU Binutils for Debian) 2.40\n",
                     b"GNU assembler (GNU Binutils for Ubuntu) 2.38\n"):
            self.assertNotEqual(identity(said, b"1"), identity(said, b"2"), said)
            self.assertEqual(identity(said, b"1"), identity(said + b"more\n", b"1"), said)
        for said in (b"GNU assembler version 2.39-9.fc38\n", b"GNU assembler (Gentoo 2.40 p5) 2.40.0\n", b""):
            self.assertEqual(identity(said, b"1"), identity(said, b"2"), said)
        self.assertNotEqual(identity(b"as 1\n", b""), identity(b"as 2\n", b""))

    def test_own_folders(self):
        """What a compiler outside of the usual folders must read; nothing more of /usr/local."""
        prefix = new_folder()
        for name in ("bin", "lib/gcc/riscv64-elf/9", "riscv64-elf/bin", "etc", "libexec"):
            os.makedirs(prefix + "/" + name)
        said = b"install: %s/bin/../lib/gcc/riscv64-elf/9/\nprograms: =/x\n" % prefix.encode()
        wanted = [("%s/%s" % (prefix, name)).encode() for name in ("bin", "lib", "libexec", "riscv64-elf")]
        self.assertEqual(lm.own_folders(prefix + "/bin/riscv64-elf-gcc", "/usr/bin/as", said), wanted)
        self.assertEqual(lm.own_folders("/usr/bin/gcc-12", "/usr/bin/as", b"install: /usr/lib/gcc/x/12/\n"), [])
        self.assertEqual(lm.own_folders("/usr/bin/gcc-12", prefix + "/bin/as", b"install: /usr/lib/gcc/x/12/\n"),
                         wanted[:3])
        self.assertEqual(lm.own_folders("/usr/lib/llvm-14/bin/clang", "", b"programs: =/usr/bin\n"),
                         [b"/usr/lib/llvm-14/bin", b"/usr/lib/llvm-14/lib"])


class OffersServed(FarmCase):
    def test_elsewhere(self):
        """A compiler outside of the folders that every job may read, by a link in --compilers."""
        prefix, links = new_folder(0o755) + "/opt", new_folder(0o755)
        os.makedirs(prefix + "/bin")
        os.mkdir(prefix + "/lib")
        os.symlink("/usr/lib/gcc", prefix + "/lib/gcc")
        shutil.copy(os.path.realpath("/usr/bin/gcc"), prefix + "/bin/gcc")
        os.symlink(prefix + "/bin/gcc", links + "/gcc")
        worker = self.farm.worker("--compilers", links)
        daemon = self.farm.submitter(worker)
        name = self.sources.make()
        env = {"PATH": links + ":" + PATH}
        done = cc(daemon.socket, "gcc", "-O2", "-c", name, "-o", "o", cwd=self.sources.folder, env=env)
        self.same(done, self.sources.expected(name, "-O2"), "o")
        self.assertEqual(daemon.idle()["totals"]["remote"], 1)


    def test_assembler_on_the_path(self):
        """gcc runs the `as` that comes first on PATH: with another it is another compiler, from the next job on."""
        _, daemon = self.farm.pair()
        folder, name = new_folder(), self.sources.make()
        for number in range(2):
            done = cc(daemon.socket, "gcc", "-c", name, "-o", "o", cwd=self.sources.folder,
                      env={"PATH": folder + ":" + PATH})
            self.same(done, self.sources.expected(name), "o")
            self.assertEqual(daemon.idle()["totals"]["remote"], 1, number)
            write(folder + "/as", '#!/bin/sh\n[ "$1" = --version ] && exec echo other\nexec /usr/bin/as "$@"\n', 0o755)

    def own_compiler(self, prefix):
        """A gcc that was installed with an assembler of its own, which no PATH leads to: the path of both."""
        installed = os.path.dirname(run(["gcc", "-print-file-name=plugin"]).out.decode())
        below = os.path.relpath(os.path.realpath(installed), "/usr")
        target = os.path.basename(os.path.dirname(below))
        for name in (below, "bin", target + "/bin"):
            os.makedirs("%s/%s" % (prefix, name))
        for name in os.listdir(installed):
            os.symlink("%s/%s" % (installed, name), "%s/%s/%s" % (prefix, below, name))
        shutil.copy2(os.path.realpath("/usr/bin/gcc"), prefix + "/bin/gcc")
        shutil.copy2("/usr/bin/as", "%s/%s/bin/as" % (prefix, target))
        said = run([prefix + "/bin/gcc", "-print-prog-name=as"]).out.decode().strip()
        self.assertTrue(os.path.samefile(said, "%s/%s/bin/as" % (prefix, target)), said)
        return prefix + "/bin/gcc", said

    def test_comes_while_serving(self):
        """As `check` advises: linked there, it is offered without a restart; and a loss is made up for."""
        prog = program(IDENTITY_CHECK_S=0.2)
        links, prefix = new_folder(0o755), new_folder(0o755)
        home_of = prefix + "/bin"
        os.mkdir(home_of)
        os.mkdir(prefix + "/lib")
        os.symlink("/usr/lib/gcc", prefix + "/lib/gcc")
        os.symlink("/usr/bin/gcc", links + "/gcc")
        worker = self.farm.worker("--compilers", links, prog=prog)
        daemon = self.farm.submitter(worker)
        worker.until(lambda s: s["hosts"][0]["compilers"] == ["gcc"])
        shutil.copy2(os.path.realpath("/usr/bin/g++"), home_of + "/g++")
        name = self.sources.make("int f() { return 7; }\n", "x.cc")
        self.assertEqual(self.cc(daemon, "g++", "-c", name, "-o", "o").code, 0)
        self.assertEqual(daemon.idle()["totals"]["local_reasons"], {"no-host": 1})
        os.symlink(home_of + "/g++", links + "/g++")
        for names, change in ((["g++", "gcc"], lambda: os.rename(home_of + "/g++", home_of + "/x")),
                              (["gcc"], lambda: os.rename(home_of + "/x", home_of + "/g++")),
                              (["g++", "gcc"], lambda: None)):
            worker.until(lambda s, names=names: s["hosts"][0]["compilers"] == names)
            daemon.until(lambda s, names=names: len(s["hosts"][1]["compilers"]) == len(names))
            change()
        done = self.cc(daemon, "g++", "-c", name, "-o", "o")
        self.same(done, self.sources.expected(name, compiler="g++"), "o")
        self.assertEqual(daemon.idle()["totals"]["remote"], 1)
        self.assertEqual(worker.text().count("g++ is offered no longer"), 1)

    def test_assembler_of_its_own(self):
        """Upgraded at the submitter alone: within seconds it is another compiler, and stays here."""
        prog = program(IDENTITY_CHECK_S=0.2)
        gcc, assembler = self.own_compiler(new_folder(0o755))
        worker = self.farm.worker()
        daemon = self.farm.submitter(worker, prog=prog)
        name = self.sources.make()

        def compiled():
            before = daemon.idle()["totals"]["remote"]
            done = self.cc(daemon, gcc, "-c", name, "-o", "o")
            self.same(done, self.sources.expected(name), "o")
            return daemon.idle()["totals"]["remote"] - before
        self.assertTrue(compiled())
        with open(assembler, "ab") as file:
            file.write(b"another revision")
        self.assertTrue(eventually(lambda: not compiled()))


class DaemonSignals(FarmCase):

    def test_sighup_reopens_the_log(self):
        log = self.farm.folder + "/log"
        daemon = self.farm.start("--log-file", log)
        os.rename(log, log + ".1")
        daemon.process.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: os.path.exists(log)))
        command("drain", sock=daemon.socket)
        self.assertTrue(eventually(lambda: b"draining" in contents(log)))
        self.assertNotIn(b"draining", contents(log + ".1"))

    def test_sighup_reads_hosts_again(self):
        folder = new_folder()
        os.mkdir(folder + "/.distcc")
        write(folder + "/.distcc/hosts", "127.0.0.251:1/3\n")
        daemon = self.farm.start("--socket", folder + "/s", wait=False, env={"HOME": folder, "DISTCC_DIR": None})
        daemon.process.kill()
        daemon.process.wait()
        argv = list(daemon.argv)
        at = argv.index("--hosts")
        del argv[at:at + 2]
        daemon.process = subprocess.Popen(argv, env=environment(HOME=folder, DISTCC_DIR=None), cwd=folder,
                                          stdout=daemon.log, stderr=daemon.log)
        daemon.pid, daemon.socket = daemon.process.pid, folder + "/s"
        daemon.until(lambda s: [h["name"] for h in s["hosts"]] == ["local", "127.0.0.251:1"])
        write(folder + "/.distcc/hosts", "127.0.0.252:1/3 127.0.0.253:1\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda s: [h["name"] for h in s["hosts"]] == ["local", "127.0.0.252:1", "127.0.0.253:1"])

    def test_sigterm_drains(self):
        """A remote job that runs is finished, its result delivered; a new one goes elsewhere."""
        worker, daemon = self.farm.pair()
        name, other = self.sources.make(loops(400)), self.sources.make()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.cc, daemon, "gcc", "-O1", "-c", name, "-o", "o",
                                 env={"DISTCC_LM_FALLBACK": "0"})       # however slow this machine is
            self.assertTrue(eventually(lambda: compilers_of(worker)))
            begin = time.monotonic()
            worker.process.terminate()
            daemon.until(lambda s: s["hosts"][1]["state"] == "draining", 3)
            self.same(self.cc(daemon, "gcc", "-c", other, "-o", "o2"), self.sources.expected(other), "o2")
            done = future.result()
        self.same(done, self.sources.expected(name, "-O1"), "o")
        self.assertEqual(worker.process.wait(DEADLINE_S), 0)
        self.assertLess(time.monotonic() - begin, 10.5)
        self.assertEqual(daemon.idle()["totals"]["remote"], 1)
        self.assertEqual(os.listdir(worker.tmpdir), [])

    def test_sigterm_ends_in_time(self):
        """A job that takes longer is cut off; and the second signal ends the wait."""
        worker, daemon = self.farm.pair()
        name = self.sources.make(SLOW_SOURCE)
        process = subprocess.Popen([program(), "cc", "gcc", "-O2", "-c", name, "-o", "o"], cwd=self.sources.folder,
                                   env=environment(daemon.socket), start_new_session=True)
        try:
            pids = eventually(lambda: compilers_of(worker))
            begin = time.monotonic()
            worker.process.terminate()
            self.assertTrue(eventually(lambda: not os.path.exists(worker.socket)))
            worker.process.terminate()
            self.assertEqual(worker.process.wait(DEADLINE_S), 0)
            self.assertLess(time.monotonic() - begin, 5)
            self.assertTrue(eventually(lambda: not any(map(alive, pids))))
            self.assertEqual(os.listdir(worker.tmpdir), [])
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def test_spawner_killed(self):
        """The daemon kills the compilers that it knows, and exits 1 for its supervisor."""
        worker, daemon = self.farm.pair()
        name = self.sources.make(MEDIUM_SOURCE)
        slow = self.sources.make(SLOW_SOURCE)
        process = subprocess.Popen([program(), "cc", "gcc", "-O2", "-c", slow, "-o", "slow"], cwd=self.sources.folder,
                                   env=environment(daemon.socket), start_new_session=True)
        try:
            pids = eventually(lambda: compilers_of(worker))
            children = contents("/proc/%d/task/%d/children" % (worker.pid, worker.pid)).split()
            spawner = [int(pid) for pid in children if contents(b"/proc/%s/comm" % pid) == b"lm-spawner\n"]
            os.kill(spawner[0], signal.SIGKILL)
            self.assertEqual(worker.process.wait(DEADLINE_S), 1)
            self.assertTrue(eventually(lambda: not any(map(alive, pids))))
            self.assertIn("spawner", worker.text())
            self.assertEqual(os.listdir(worker.tmpdir), [])
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")

    def test_daemon_killed(self):
        """SIGKILL: compilers and folders go with it, clients try elsewhere or here."""
        worker, daemon = self.farm.pair()
        name = self.sources.make(loops(400))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.cc, daemon, "gcc", "-O1", "-c", name, "-o", "o")
            pids = eventually(lambda: compilers_of(worker))
            os.kill(worker.pid, signal.SIGKILL)
            begin = time.monotonic()
            self.assertTrue(eventually(lambda: not any(map(alive, pids)) and not os.listdir(worker.tmpdir)))
            self.assertLess(time.monotonic() - begin, 3)
            self.same(future.result(), self.sources.expected(name, "-O1"), "o")
        daemon.idle()


    def test_killed_with_its_spawner(self):
        """Nobody is left to clean up: the next start does, of compilers and folders, and of nothing else."""
        worker = self.farm.worker()
        with Wire(worker) as wire:
            wire.job(["gcc", "-O2", "-c", "x.c"], SLOW_SOURCE.encode())
            pids = eventually(lambda: compilers_of(worker))
            areas = os.listdir(worker.tmpdir)
            children = contents("/proc/%d/task/%d/children" % (worker.pid, worker.pid)).split()
            spawner = next(int(pid) for pid in children if contents(b"/proc/%s/comm" % pid) == b"lm-spawner\n")
            os.kill(worker.pid, signal.SIGSTOP)
            os.kill(spawner, signal.SIGKILL)
            os.kill(worker.pid, signal.SIGKILL)         # as it stands: close() would let it go on for a moment
            worker.close()
        job = os.readlink("/proc/%d/cwd" % pids[0])
        with subprocess.Popen(["sleep", "600"], cwd=job) as bystander:
            try:
                self.assertTrue(all(map(alive, pids)))
                again = self.farm.worker("--tmpdir", worker.tmpdir)
                self.assertTrue(eventually(lambda: not any(map(alive, pids)), 5))
                self.assertFalse(set(areas) & set(os.listdir(worker.tmpdir)))
                self.assertIsNone(bystander.poll())
                with Wire(again) as wire:
                    self.assertEqual(wire.job(ARGV).reply()[0].status, 0)
            finally:
                bystander.kill()

    def test_sighup_under_load(self):
        """Ten a second to both daemons: no job notices."""
        worker, daemon = self.farm.pair("--slots", "3")
        names = [self.sources.make() for _ in range(12)]
        over = threading.Event()

        def signals():
            while not over.wait(0.1):
                for each in (worker, daemon):
                    each.process.send_signal(signal.SIGHUP)
        thread = threading.Thread(target=signals)
        thread.start()
        try:
            results = together(names, lambda n: self.cc(daemon, "gcc", "-c", n, "-o", n + ".o"), workers=6)
        finally:
            over.set()
            thread.join()
        for name, done in zip(names, results):
            self.same(done, self.sources.expected(name), name + ".o")
        self.assertGreater(daemon.idle()["totals"]["remote"], 3)


class DaemonLimits(FarmCase):

    def test_spare_descriptor(self):
        """It may be another process that takes the system's last one: the daemon lives on without a spare."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(5)
            spare = lm.SpareDescriptor()
            with unittest.mock.patch.object(lm.os, "open", side_effect=OSError(errno.ENFILE, "too many")):
                for _ in range(2):
                    with socket.create_connection(listener.getsockname()) as waiting:
                        spare.turn_away([None, listener])
                        self.assertEqual(waiting.recv(1), b"")
            self.assertIsNone(spare.fd)
            spare.turn_away([])
            os.close(spare.fd)

    @staticmethod
    def cpu_s(pid):
        fields = contents("/proc/%d/stat" % pid).rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_out_of_descriptors(self):
        """Neither wedged nor spinning; and well again afterwards."""
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        worker = self.farm.worker(preexec_fn=limit)
        daemon = self.farm.submitter(worker)
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    stack.enter_context(Wire(worker)).send(b"DIST")
            for _ in range(100):
                with contextlib.suppress(OSError):
                    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                    sock.connect(worker.socket)
            self.assertTrue(eventually(lambda: "out of file descriptors" in worker.text()))
            begin, cpu = time.monotonic(), self.cpu_s(worker.pid)
            eventually(lambda: time.monotonic() - begin > 1)
            self.assertLess(self.cpu_s(worker.pid) - cpu, 0.5)
            name = self.sources.make()
            done = self.cc(daemon, "gcc", "-c", name, "-o", "o")
            self.same(done, self.sources.expected(name), "o")
            self.assertLess(done.seconds, 20)
            self.assertIsNone(worker.process.poll())
        worker.idle()
        with Wire(worker) as wire:
            self.assertEqual(wire.job(ARGV).reply()[0].status, 0)

    def test_descriptor_limit(self):
        """Raised to the hard limit, and used: more connections than select() could watch."""
        daemon = self.farm.worker(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 5000)))
        found = re.search(r"Max open files\s+(\d+)\s+(\d+)", contents("/proc/%d/limits" % daemon.pid).decode())
        self.assertEqual(found.groups(), ("5000", "5000"))
        with contextlib.ExitStack() as stack:
            for _ in range(1200):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(daemon.socket)
            self.assertTrue(eventually(lambda: len(os.listdir("/proc/%d/fd" % daemon.pid)) > 1200))
            with Wire(daemon) as wire:
                self.assertEqual(wire.job(ARGV).reply()[0].status, 0)

    def test_submitter_out_of_descriptors(self):
        """The clients that it cannot take compile here."""
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        daemon = self.farm.submitter(self.farm.worker(), preexec_fn=limit)
        names = [self.sources.make() for _ in range(4)]
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                with contextlib.suppress(OSError):
                    sock.connect(daemon.socket)
            self.assertTrue(eventually(lambda: "out of file descriptors" in daemon.text()))
            for name, done in zip(names, together(names, lambda n: self.cc(daemon, "gcc", "-c", n, "-o", n + ".o"))):
                self.same(done, self.sources.expected(name), name + ".o")
                self.assertLess(done.seconds, 15)
        daemon.idle()

    @unittest.skipUnless(ROOT, "needs root, to mount a small disk")
    def test_disk_full(self):
        """Of a worker: while the source comes, or for the compiler. Compiled elsewhere or here, the slot is free."""
        folder = new_folder(0o777)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=1777", "none", folder]).returncode:
            self.skipTest("no tmpfs can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False)
        worker = self.farm.worker("--tmpdir", folder, prog=program(DISK_RESERVE_MB=0))
        daemon = self.farm.submitter(worker)
        for size, reason in ((3 << 20, "disk space"), (200_000, "")):
            name = self.sources.make("char s[] = \"%s\";\n" % ("0123456789" * (size // 10)))
            self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
            self.assertIn(reason, worker.text())
            self.assertEqual(daemon.idle()["totals"]["remote"], 0)
            worker.idle()
        self.assertTrue(eventually(lambda: len(os.listdir(folder)) <= 1 and not os.listdir(
            os.path.join(folder, os.listdir(folder)[0]))))

    @unittest.skipUnless(ROOT, "needs root, to mount a small disk")
    def test_no_folder(self):
        """Where a job's folder cannot be made the host says why, in its state on the other side, too."""
        mounts = (("nr_inodes=3", (), "No space left", "short of disk"),
                  ("size=9m", ("-o", "remount,ro"), "Read-only", "short of disk"), ("size=9m", (), "No such file", ""))
        for options, remount, words, reason in mounts:
            with self.subTest(words):
                folder = new_folder(0o777)
                if subprocess.run(["mount", "-t", "tmpfs", "-o", options + ",mode=1777", "none", folder]).returncode:
                    self.skipTest("no tmpfs can be mounted here")
                self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False)
                worker = self.farm.worker("--tmpdir", folder, prog=program(DISK_RESERVE_MB=0))
                daemon, name = self.farm.submitter(worker), self.sources.make()
                if remount:
                    subprocess.run(["mount", *remount, folder], check=True)
                elif not reason:
                    os.rmdir(os.path.join(folder, os.listdir(folder)[0]))
                self.same(self.cc(daemon, "gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
                self.assertRegex(worker.text(), "refused: .*%s.*%s" % (reason, words))
                self.assertIn("tmpdir", daemon.idle()["hosts"][1]["reason"])

    def test_idle_daemon_is_idle(self):
        worker, daemon = self.farm.pair()
        before = [self.cpu_s(d.pid) for d in (worker, daemon)]
        begin = time.monotonic()
        eventually(lambda: time.monotonic() - begin > 1.5)
        for d, cpu in zip((worker, daemon), before):
            self.assertLess(self.cpu_s(d.pid) - cpu, 0.3)

    def test_thirty_jobs_at_once(self):
        """More than slots: queued, none lost, the books balance."""
        worker, daemon = self.farm.pair("--slots", "3")
        names = [self.sources.make() for _ in range(30)]
        results = together(names, lambda n: self.cc(daemon, "gcc", "-c", n, "-o", n + ".o"), workers=12)
        for name, done in zip(names, results):
            self.same(done, self.sources.expected(name), name + ".o")
        status = daemon.idle()
        worker.idle()
        self.assertEqual(status["totals"]["remote"] + status["totals"]["local"] + status["totals"]["fallback"], 30)
        self.assertGreater(status["totals"]["remote"], 5)
        self.assertEqual(self.sources.strays(), [])


# ==== Section 11: client ==============================================================================================
# The failure table of DESIGN section 7. The expectation hardly changes: the compile ends as gcc alone would have ended,
# in bounded time, nothing is left.

class ClientCase(Comparing, unittest.TestCase):
    """One worker and one submitter for all tests of a class."""
    OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        cls.farm = LoopbackFarm()
        try:
            cls.worker, cls.daemon = cls.farm.pair(*cls.OPTIONS)
        except BaseException:
            cls.farm.__exit__(Exception)
            raise

    @classmethod
    def tearDownClass(cls):
        cls.farm.__exit__(None)

    def setUp(self):
        self.sources = Sources()
        self.sock = self.daemon.socket

    def cc(self, *words, **more):
        more.setdefault("cwd", self.sources.folder)
        return cc(self.sock, *words, **more)

    def remote_count(self):
        return self.daemon.status()["totals"]["remote"]

    def reasons(self):
        return collections.Counter(self.daemon.status()["totals"]["local_reasons"])

    def both(self, words, text=None, name=None, before=None, env=()):
        """Run `gcc WORDS` twice, in equal folders: alone and by the client. Two (code, out, err, files of the
        folder)."""
        results = []
        for client in (False, True):
            folder = new_folder()
            here = folder + "/x"                        # equal names: the object may hold them
            os.mkdir(here)
            write(here + "/" + (name or "a.c"), Sources.TEXT % (1, 1) if text is None else text)
            if before:
                before(here)
            argv = ["gcc", *words]
            done = (cc(self.sock, *argv, cwd=here, env=env) if client else
                    run(argv, here, environment(**dict(env))))
            files = {n: (oct(os.lstat(here + "/" + n).st_mode), contents(here + "/" + n))
                     for n in os.listdir(here)}
            results.append((done.code, done.out, done.err, files))
        return results


class ClientResults(ClientCase):
    def test_same_as_gcc(self):
        """Rows of arguments: status, both streams, all files and their modes."""
        rows = ("-c a.c", "-c a.c -o b.o", "-O2 -c a.c", "-S a.c", "-c a.c -o sub/b.o", "-MMD -c a.c",
                "-MD -MF d -MT target -c a.c", "-MMD -MP -c a.c -o sub/b.o", "-DX=1 -I. -c a.c", "-c a.c -o none/b.o",
                "-c absent.c", "-MMD -MF none/d -c a.c", "-c", "-E a.c", "-c a.c -Wall -Wextra -o a.o -std=c99",
                "-x c -c a.c", "a.c -c -fno-such-option", "-c a.c -o ./b.o", "-M a.c", "--version",
                "-c a.c -fdiagnostics-color=always")
        for text in (None, "int x = y;\n", "int f(void) { int unused; return 1.5 / 0; }\n"):
            def check(row, text=text):
                return row, self.both(row.split(), text, before=lambda here: os.mkdir(here + "/sub"))
            for row, (alone, ours) in together(rows if text is None else rows[:7], check):
                with self.subTest(row, text=text):
                    self.assertEqual(ours, alone)
        self.assertGreater(self.remote_count(), 10)
        self.daemon.idle()

    def test_compiled_remotely(self):
        name = self.sources.make()
        before = self.remote_count(), self.worker.status()["totals"]["served"]
        done = self.cc("gcc", "-c", name, "-o", "o", env={"DISTCC_LM_VERBOSE": "1"})
        self.assertEqual((done.code, self.sources.object("o")), (0, self.sources.expected(name)[3]))
        self.assertIn(b"distcc_lm: to " + self.worker.address.encode(), done.err)
        self.daemon.until(lambda s: s["totals"]["remote"] == before[0] + 1)
        self.assertEqual(self.worker.status()["totals"]["served"], before[1] + 1)

    def test_cplusplus_and_large(self):
        text = "#include <vector>\n#include <string>\n%s" % "".join(
            "std::string f%d(std::vector<int> v) { return std::to_string(v.size() + %d); }\n" % (i, i)
            for i in range(20))
        name = self.sources.make(text, "big.cc")
        expected = self.sources.expected(name, compiler="g++")
        before = self.remote_count()
        self.same(self.cc("g++", "-c", name, "-o", "o"), expected, "o")
        self.daemon.until(lambda s: s["totals"]["remote"] == before + 1)

    def test_modes_by_umask(self):
        for umask in (0o022, 0o077, 0o000):
            name = self.sources.make()
            done = self.cc("gcc", "-c", name, "-o", "o%o" % umask, preexec_fn=lambda umask=umask: os.umask(umask))
            self.assertEqual(done.code, 0)
            mode = os.stat("%s/o%o" % (self.sources.folder, umask)).st_mode & 0o777
            self.assertEqual(mode, 0o666 & ~umask)

    def test_object_is_renamed(self):
        """A reader of the old object never sees half of the new one, and a hard link keeps the old one."""
        name = self.sources.make()
        write(self.sources.folder + "/o", "old")
        os.link(self.sources.folder + "/o", self.sources.folder + "/kept")
        self.assertEqual(self.cc("gcc", "-c", name, "-o", "o").code, 0)
        self.assertEqual(self.sources.object("kept"), b"old")
        self.assertEqual(self.sources.object("o"), self.sources.expected(name)[3])

    def test_special_outputs(self):
        """Devices stay devices, a link is written through, a fifo gets the bytes."""
        name = self.sources.make()
        folder = self.sources.folder
        os.symlink("target.o", folder + "/link.o")
        self.assertEqual(self.cc("gcc", "-c", name, "-o", "/dev/null").code, 0)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        run(["gcc", "-c", name, "-o", "/dev/null"], folder)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        self.assertEqual(self.cc("gcc", "-c", name, "-o", "link.o").code, 0)
        plain = new_folder()
        os.symlink("target.o", plain + "/link.o")
        run(["gcc", "-c", folder + "/" + name, "-o", "link.o"], plain)
        self.assertEqual(os.path.islink(folder + "/link.o"), os.path.islink(plain + "/link.o"))
        self.assertTrue(self.sources.object("link.o"))
        self.daemon.idle()

    def test_unwritable_and_full(self):
        """Words and status of gcc itself; an old object is whole or gone."""
        self.assertEqual(*self.both(["-c", "a.c", "-o", "."]))
        if not (ROOT and shutil.which("unshare")):
            self.skipTest("mounting needs root")
        big = "char table[200000] = {1};\n"
        script = "mount -t tmpfs -o size=64k none m && cd m && cp ../a.c . && %s gcc -c a.c; c=$?; ls; exit $c"
        codes = []
        for prefix in ("", program() + " cc"):
            folder = new_folder()
            os.mkdir(folder + "/m")
            write(folder + "/a.c", big)
            done = run(["unshare", "-m", "sh", "-c", script % prefix], folder, environment(self.sock))
            codes.append((done.code != 0, done.out))
            self.assertIn(b"No space left", done.err)
        self.assertEqual(codes[1], codes[0])
        script = "mount -t tmpfs -o ro none m && cd m && exec %s gcc -c ../a.c -o b.o"
        results = []
        for prefix in ("", program() + " cc"):
            done = run(["unshare", "-m", "sh", "-c", script % prefix], folder, environment(self.sock))
            results.append((done.code, re.sub(rb"/tmp/cc\w+", b"TEMP", done.err)))
        self.assertEqual(results[1], results[0])
        self.daemon.idle()

    def test_stdin_source(self):
        text = b"int f(void) { return 7; }\n"
        done = self.cc("gcc", "-x", "c", "-c", "-", "-o", "o", stdin=text)
        plain = run(["gcc", "-x", "c", "-c", "-", "-o", "p"], self.sources.folder, stdin=text)
        self.assertEqual((done[:3], self.sources.object("o")), (plain[:3], self.sources.object("p")))

    def test_file_names_are_bytes(self):
        for name in (b"sp ace.c", b"caf\xe9.c", "\u20ac.c".encode(), b"quo'te.c", b"-dash.c"):
            with self.subTest(name):
                folder = os.fsencode(self.sources.folder)
                write(folder + b"/" + name, b"int x;\n")
                path = b"./" + name
                done = self.cc("gcc", "-c", path, "-o", "o")
                plain = run(["gcc", "-c", path, "-o", "p"], folder)
                self.assertEqual((done.code, done.err, self.sources.object("o")),
                                 (plain.code, plain.err, self.sources.object("p")))
                self.assertEqual(done.code, 0)

    def test_long_names(self):
        """As long as the system takes, in characters of one to four bytes: what a name brings is held against no
        host. The server's own name for the source is longer: such a file stays here, and is not sent again."""
        x, euro = "x" * 250, "\u20ac" * 80
        rows = (("-c %s.c -o o" % x, 1), ("-c a.c -o %s.o" % x, 1), ("-MMD -c a.c -o %s.o" % x, 1),
                ("-c %s.c" % euro, 1), ("-MMD -c a.c -o %s.o" % euro, 1), ("-c %sxx.c -o o" % x, 0),
                ("-c %sxx.c -o o" % x, 0), ("-c %sxxx.c -o o" % x, 0))
        for row, remote in rows:
            with self.subTest(row[:20] + row[-20:]):
                before = self.remote_count()
                name = row.partition("-c ")[2].split()[0]
                alone, ours = self.both(row.split(), "int x = %d;\n" % len(row), name)
                self.assertEqual(ours, alone)
                self.assertEqual(ours[:3], (0, b"", b""))
                self.assertEqual(self.daemon.idle()["totals"]["remote"] - before, remote)
                self.assertEqual(self.daemon.host(self.worker.address)["state"], "up")
        self.assertIn("File name too long", self.worker.text())

    def test_huge_text(self):
        """Too large for the protocol: here, whatever hosts take."""
        name = self.sources.folder + "/x.i"
        write(name, b"")
        for size, reason in ((0, "no-line-markers"), (1 << 32, "too-large")):
            os.truncate(name, size)
            text = lm.SourceText(None, lm.analyze(["-c", name], "gcc", False, {}, None), None)
            self.assertEqual(text.make("plain"), reason)
            text.discard()

    def test_deleted_folder(self):
        """gcc works where the current folder is gone; so must we."""
        name = self.sources.folder + "/" + self.sources.make()
        script = "mkdir gone && cd gone && rmdir ../gone && exec %s gcc -c %s -o %s/o"
        results = []
        for prefix in ("", program() + " cc"):
            done = run(["sh", "-c", script % (prefix, name, self.sources.folder)], self.sources.folder,
                       environment(self.sock))
            words = b"".join(line for line in done.err.splitlines(True) if b"getcwd() failed" not in line)   # sh's
            results.append((done.code, words, hash(self.sources.object("o"))))
        self.assertEqual(results[1], results[0])
        self.assertEqual(results[0][0], 0)

    def test_few_descriptors(self):
        name = self.sources.make()
        for limit in (11, 12, 13, 14):         # dash itself needs 11
            with self.subTest(limit):
                done = self.cc("gcc", "-c", name, "-o", "o", preexec_fn=lambda limit=limit: resource.setrlimit(
                    resource.RLIMIT_NOFILE, (limit, limit)))
                plain = run(["gcc", "-c", name, "-o", "p"], self.sources.folder,
                            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
                if plain.code == 0:
                    self.assertEqual((done.code, done.err), (0, b""))
        self.daemon.idle()


class ClientCommand(ClientCase):
    """Which compiler, which environment, which exit status."""

    def test_not_found(self):
        done = self.cc("no-such-compiler-x", "-c", "x.c")
        self.assertEqual(done.code, 127)
        self.assertEqual(done.err.count(b"\n"), 1)
        done = self.cc("/nonexistent/gcc", "-c", "x.c")
        self.assertEqual((done.code, done.err.count(b"\n")), (127, 1))
        done = self.cc("/etc/passwd", "-c", "x.c")
        self.assertEqual(done.code, 126)

    def test_exit_statuses(self):
        for words in (["false"], ["sh", "-c", "exit 41"], ["true"]):
            self.assertEqual(self.cc(*words).code, run(words).code)
        done = self.cc("sh", "-c", "kill -9 $$")
        self.assertEqual(done.code, -9)

    def test_absolute_path(self):
        name = self.sources.make()
        before = self.remote_count()
        self.same(self.cc("/usr/bin/gcc", "-c", name, "-o", "o"), self.sources.expected(name), "o")
        self.daemon.until(lambda s: s["totals"]["remote"] == before + 1)

    def test_masquerade(self):
        links = new_folder()
        for name in ("gcc", "cc", "g++", "x86_64-linux-gnu-gcc-12"):
            os.symlink(program(), links + "/" + name)
        for name in ("gcc", "cc"):
            source = self.sources.make()
            before = self.remote_count()
            done = run([name, "-c", source, "-o", "o"], self.sources.folder,
                       environment(self.sock, PATH=links + ":" + PATH))
            self.same(done, self.sources.expected(source), "o")
            self.daemon.until(lambda s, before=before: s["totals"]["remote"] == before + 1)
        done = run([links + "/gcc", "--version"], None, environment(self.sock, PATH=links + ":" + PATH))
        self.assertEqual(done[:3], run(["gcc", "--version"])[:3])
        # gcc finds cc1 by its name: a link of ours must not stand in the way of its own search, nor recurse
        done = run(["gcc", "-print-prog-name=cc1"], None, environment(self.sock, PATH=links + ":" + links + ":" + PATH))
        self.assertEqual(done.out, run(["gcc", "-print-prog-name=cc1"]).out)
        only = run([links + "/gcc", "-c", "x.c"], None, environment(self.sock, PATH=links))
        self.assertEqual(only.code, 127)

    @needs("ccache")
    def test_stand_ins(self):
        """Folders of links beside ours on PATH, in either order: no two send a compile to each other
        for ever, and it is distributed; so it is by a link's path, which ccache and CMake pass on."""
        links, copy, ccache, distcc = (new_folder() for _ in range(4))
        shutil.copy(program(), copy + "/distcc_lm.py")
        for folder, target in ((links, program()), (copy, "distcc_lm.py"), (ccache, shutil.which("ccache")),
                               (distcc, write(distcc + "/distcc", "#!/bin/sh\nexit 1\n", 0o755))):
            os.symlink(target, folder + "/gcc")
        rows = [([first, second, PATH], ["gcc"]) for first, second in itertools.permutations(
            (links, copy, ccache), 2) if links in (first, second)]
        rows += [([links, distcc, PATH], ["gcc"]), ([links, ccache, copy, PATH], ["gcc"])]
        rows += [(path, [program(), "cc", name]) for path, name in (
            ([ccache, PATH], "gcc"), ([ccache, PATH], ccache + "/gcc"), ([links, ccache, PATH], "gcc"),
            ([PATH], links + "/gcc"), ([links, PATH], links + "/gcc"), ([copy, PATH], copy + "/gcc"))]
        rows += [([links, PATH], ["ccache", "gcc"]), ([links, ccache, PATH], ["ccache", "gcc"])]
        for folders, words in rows:
            alone = ({"DISTCC_LM_DISABLE": "1"}, {"DISTCC_LM_SOCKET": "/nonexistent"})
            for more in ({}, *(alone if words == ["gcc"] and ccache in folders else ())):
                with self.subTest(folders=folders, words=words, **more):
                    name, before = self.sources.make(), (self.remote_count(), self.reasons())
                    env = environment(self.sock, PATH=":".join(folders), CCACHE_DIR=new_folder())
                    done = run([*words, "-c", name, "-o", "o"], self.sources.folder, {**env, **more}, timeout=20)
                    self.same(done, self.sources.expected(name), "o")
                    self.daemon.until(lambda s, before=before, more=more:
                                      s["totals"]["remote"] == before[0] + (not more))
                    self.assertEqual(self.reasons(), before[1])
        only = run(["gcc", "-c", "x.c"], None, environment(self.sock, PATH=links + ":" + ccache), timeout=20)
        self.assertEqual(only.code, 127)

    def test_environment_reaches_the_compiler(self):
        """The same as when it is called directly, also where Python or sh would change it."""
        folder = new_folder()
        write(folder + "/gcc", "#!/bin/sh\nexec /usr/bin/env -0\n", 0o755)
        rows = ({}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}, {"LANG": "de_DE.UTF-8"}, {"LC_CTYPE": ""},
                {"OLDPWD": "/x", "SHLVL": "7", "_": "/y"}, {"CAF": "\udce9"}, {"PYTHONHOME": "/none"},
                {"PYTHONPATH": "/none", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}, {"ENV": "/y"})
        for row in rows:
            with self.subTest(row):
                env = environment(self.sock, PWD=folder, **row)
                for show in (["/usr/bin/env", "-0"], [folder + "/gcc", "-c", "a.c"]):   # sh adds what it always adds
                    direct = run(show, folder, env)
                    done = run([program(), "cc", *show], folder, env)
                    self.assertEqual(sorted(done.out.split(b"\0")), sorted(direct.out.split(b"\0")))
                    self.assertEqual(done.err, b"")
        # Only PWD, absent or stale, becomes what it should be: no sh can tell afterwards how it was
        for row in ({}, {"PWD": "/odd"}):
            done = run([program(), "cc", "/usr/bin/env", "-0"], folder, environment(self.sock, **row))
            env = environment(self.sock, PWD=folder)
            direct = run(["/usr/bin/env", "-0"], folder, env)
            self.assertEqual(sorted(done.out.split(b"\0")), sorted(direct.out.split(b"\0")))

    def test_script_without_a_first_line(self):
        """sh runs it, as sh and make do: by path and by name, its arguments and status as they are."""
        folder = new_folder()
        write(folder + "/gcc", 'echo "$# $*"\nexit 3\n', 0o755)
        for name in (folder + "/gcc", "gcc"):
            done = cc(self.sock, name, "-c", "x y.c", cwd=folder, env={"PATH": folder + ":" + PATH})
            self.assertEqual(done[:3], (3, b"2 -c x y.c\n", b""))

    def test_signals_reach_the_compiler(self):
        """What Python ignores is not ignored in the compiler, what the caller ignores still is. 32 and 33 are libc's
        own: it ignores them in children, where it has ever used them."""
        show = ["/usr/bin/grep", "^Sig[BI]", "/proc/self/status"]

        def signals(done):
            return [(name, int(mask, 16) & ~0x180000000) for name, mask in map(bytes.split, done.out.splitlines())]

        def prepare(ignored, blocked):
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        rows = [((), ()), ((signal.SIGHUP,), ()), ((signal.SIGPIPE,), ()), ((signal.SIGXFSZ,), ()),
                ((signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT), ()), ((signal.SIGQUIT, signal.SIGUSR1), ()),
                ((), (signal.SIGUSR1, signal.SIGTERM)), ((signal.SIGPIPE,), (signal.SIGHUP, signal.SIGCHLD))]
        for row in rows:
            with self.subTest(row):
                alone = signals(run(show, preexec_fn=lambda row=row: prepare(*row)))
                self.assertEqual(signals(self.cc(*show, preexec_fn=lambda row=row: prepare(*row))), alone)
                self.assertEqual(signals(self.as_a_child(show, lambda row=row: prepare(*row))), alone)

    def as_a_child(self, words, prepare):
        """A compiler whose end the daemon wants to know: the client starts it, as it does stage 1."""
        path = new_folder() + "/s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                ran = pool.submit(cc, path, *words, preexec_fn=prepare)
                with listener.accept()[0] as daemon:
                    daemon.recv(65536)
                    daemon.sendall(lm.encode_fields(b"LOCL", "compiler-script", 1))
                    return ran.result()

    def test_descriptors_reach_the_compiler(self):
        show = ["/usr/bin/find", "/proc/self/fd", "-lname", "*", "-printf", "%f %l\\n"]
        for stdin in (subprocess.DEVNULL,):
            ours = [line for line in self.cc(*show, stdin=stdin).out.splitlines()]
            alone = run(show, self.sources.folder, stdin=stdin).out.splitlines()
            self.assertEqual([line.split()[0] for line in ours], [line.split()[0] for line in alone])

    # What a shell has the standard streams be. A pipe is none of those: that is what run() has.
    STREAMS = [" ".join(closed) for count in (1, 2, 3)
               for closed in itertools.combinations(("<&-", ">&-", "2>&-"), count)] + [
        "<.", "<. >&-", "1<.", "2<.", "<. 1<. 2<.", "0>written", ">/dev/full", "2>/dev/full"]

    def test_streams_reach_the_compiler(self):
        """Closed, folders, or good for the other direction only: the compiler finds them so, and nothing
        of ours gets their numbers."""
        show = "for n in 0 1 2; do echo $n >>seen; readlink /proc/$$/fd/$n >>seen; done"
        rows = [(streams, words) for streams in self.STREAMS for words in (
            ["sh", "-c", show], *map(str.split, ("gcc -c a.c -o a.o", "gcc -c warns.c -o a.o",
                                                 "gcc -x c -c - -o a.o", "gcc -E a.c")))]

        def check(row):
            streams, words = row
            results = []
            for ours in (False, True):
                folder = new_folder() + "/w"
                os.mkdir(folder)
                write(folder + "/a.c", "int x;\n")
                write(folder + "/warns.c", "int f(void) { return 1 / 0; }\n")
                argv = ["sh", "-c", 'exec "$@" ' + streams, "sh", *[program(), "cc"] * ours, *words]
                done = run(argv, folder, environment(self.sock))
                files = {name: re.sub(rb":\[\d+\]", b"", contents(folder + "/" + name).replace(
                    os.fsencode(folder), b"W")) for name in os.listdir(folder)}
                results.append((done.code, done.out, done.err, files))
            return results
        before = self.remote_count()
        for row, (alone, ours) in zip(rows, together(rows, check)):
            with self.subTest(row):
                self.assertEqual(ours, alone)
        self.daemon.until(lambda s: s["totals"]["remote"] == before + len(self.STREAMS))
        self.daemon.idle()

    def test_closed_stderr(self):
        """What we say, and what the compiler does, goes neither into the daemon's socket nor into the
        lock that clients without a daemon wait for."""
        name, before = self.sources.make("int f(void) { return 1 / 0; }\n"), self.reasons()
        closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", program(), "cc", "gcc", "-c", name, "-o", "o"]
        alone = run([*closed[:4], *closed[6:]], self.sources.folder)
        done = run(closed, self.sources.folder, environment(self.sock, DISTCC_LM_VERBOSE="1"))
        self.assertEqual(done[:3], alone[:3])
        self.assertEqual(self.reasons() - before, {"messages": 1})
        path = new_folder() + "/s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            client = subprocess.Popen(closed, cwd=self.sources.folder, env=environment(path))
            with listener.accept()[0]:
                os.unlink(path)
        self.assertEqual((client.wait(60), contents(path + ".fallback0")), (alone.code, b""))

    def test_disable(self):
        before = self.daemon.status()["totals"]
        name = self.sources.make()
        done = self.cc("gcc", "-c", name, "-o", "o", env={"DISTCC_LM_DISABLE": "1"})
        self.same(done, self.sources.expected(name), "o")
        after = self.daemon.status()["totals"]
        self.assertEqual((after["remote"], after["local"]), (before["remote"], before["local"]))

    def test_verbose_only_adds(self):
        name = self.sources.make("int x = y;\n")
        done = self.cc("gcc", "-c", name, "-o", "o", env={"DISTCC_LM_VERBOSE": "1"})
        lines = [line for line in done.err.splitlines(True) if not line.startswith(b"distcc_lm: ")]
        expected = self.sources.expected(name)
        self.assertEqual((done.code, b"".join(lines)), (expected[0], expected[2]))
        self.assertLess(len(lines), len(done.err.splitlines()))

    def test_environment_refusals(self):
        name = self.sources.make()
        for row in ({"GCC_EXEC_PREFIX": "/usr/lib/gcc/"}, {"COMPILER_PATH": "/usr/lib"}):
            before = self.reasons()
            done = self.cc("gcc", "-c", name, "-o", "o", env=row)
            self.assertEqual(done.code, 0)
            self.assertEqual(self.reasons() - before, {"environment": 1})
        self.daemon.idle()


class ClientMessages(ClientCase):
    """Compilers that speak: locally again, and remembered."""

    def test_warning(self):
        name = self.sources.make("int f(void) { return 1 / 0; }\n")
        expected = self.sources.expected(name)
        self.assertIn(b"division by zero", expected[2])
        before = self.reasons()
        self.same(self.cc("gcc", "-c", name, "-o", "o"), expected, "o")
        self.assertEqual(self.reasons() - before, {"messages": 1})
        self.same(self.cc("gcc", "-c", name, "-o", "o"), expected, "o")
        self.assertEqual(self.reasons() - before, {"messages": 1, "remembered": 1})
        write(self.sources.folder + "/" + name, "int f(void) { return 10 / 2; }\n")
        remote = self.remote_count()
        self.assertEqual(self.cc("gcc", "-c", name, "-o", "o")[:3], (0, b"", b""))
        self.daemon.until(lambda s: s["totals"]["remote"] == remote + 1)

    def test_header(self):
        """What is wrong with a header, in any of the ways, is remembered of its includers only as long as it is; a mend
        of the same length counts, too, and one that the user takes without source lines."""
        folder, here = self.sources.folder, {"messages", "compile-error", "preprocessor-messages"}
        good = "static inline int g(int number) { return number; }\n"
        rows = (("-Wall", good + "static int unused;\n", "messages"), ("-O1", good + "int f(void) { nosuch; }\n", ""),
                ("-O1", good.replace("return number", "return nubmer"), ""),
                ("-Wall", good.replace("return number", "return 7/(00)"), "messages"),
                ("-Wall", good + "#warning careful\n", "preprocessor-messages"))
        for flag, bad, reason in rows:
            with self.subTest(bad[-30:]):
                names = [self.sources.make('#include "h.h"\nint f(void) { return g(%d); }\n' % i) for i in (1, 2)]
                found = []
                for text, env in ((good, {}), (bad, {}), (bad, {}), (good, {}), (bad, {}), (good, {}),
                                  (bad, {}), (bad, {"DISTCC_LM_CARETS": "0"})):
                    write(folder + "/h.h", text)
                    before, remote = self.reasons(), self.remote_count()
                    for name in names:
                        done = self.cc("gcc", flag, "-c", name, "-o", "o", env=env)
                        if not env:
                            self.same(done, self.sources.expected(name, flag), "o" if done.code == 0 else None)
                    counts = self.reasons() - before
                    found.append("remote" if not counts else [*counts][0] if set(counts.values()) == {2} else counts)
                    self.assertEqual(self.daemon.idle()["totals"]["remote"] - remote,
                                     2 if not counts and (text is good or "messages" in reason) else 0)
                    self.assertLessEqual(set(counts), here | {"remembered"})
                reason = reason or "compile-error"
                again = reason if reason == "preprocessor-messages" else "remembered"
                self.assertEqual(found, ["remote", reason, again, "remote", again, "remote", again, "remote"])

    def test_error_is_not_blamed(self):
        before = self.reasons()
        for _ in range(3):
            name = self.sources.make("int x = 1;\nint y = x;\nint z = ;\n")
            self.same(self.cc("gcc", "-c", name, "-o", "o"), self.sources.expected(name))
            self.assertFalse(os.path.exists(self.sources.folder + "/o"))
        self.assertEqual(self.reasons() - before, {"compile-error": 3})
        status = self.daemon.idle()
        self.assertEqual(self.daemon.host(self.worker.address)["state"], "up")
        self.assertGreaterEqual(status["totals"]["compile_errors"], 3)
        self.same(self.cc("gcc", "-c", name, "-o", "o"), self.sources.expected(name))
        self.assertEqual(self.reasons() - before, {"compile-error": 3, "remembered": 1})

    def test_preprocessor_fails(self):
        before = self.reasons()
        for text in ("#error no\n", '#include "absent.h"\n', "#if\n#endif\nint x;\n", "#warning careful\nint x;\n"):
            name = self.sources.make(text)
            self.same(self.cc("gcc", "-c", name, "-o", "o"), self.sources.expected(name))
        self.assertEqual(self.reasons() - before, {"preprocessor": 3, "preprocessor-messages": 1})

    def test_long_command(self):
        """More arguments than a server takes (gcc itself gives up at 26,000): done here, and no host is blamed."""
        name, before = self.sources.make(), self.reasons()
        done = self.cc("gcc", *["-w"] * 21000, "-c", name, "-o", "long.o")
        self.assertEqual((done.code, done.err), (0, b""))
        self.assertEqual(self.reasons() - before, {"long-command": 1})
        self.assertEqual([h["state"] for h in self.daemon.status()["hosts"][1:]], ["up"])

    def test_carets(self):
        """DISTCC_LM_CARETS=0 takes the remote compiler's words, without source lines."""
        name = self.sources.make("int f(void) { return 1 / 0; }\n")
        before, remote = self.reasons(), self.remote_count()
        done = self.cc("gcc", "-c", name, "-o", "o", env={"DISTCC_LM_CARETS": "0"})
        self.assertEqual(done.code, 0)
        self.assertIn(b"division by zero", done.err)
        self.assertNotIn(b"^", done.err)
        self.assertEqual(self.reasons() - before, {})
        self.daemon.until(lambda s: s["totals"]["remote"] == remote + 1)
        name = self.sources.make("int x = ;\n")
        for output in ("o3", "p3"):
            write(self.sources.folder + "/" + output, "old")
        done = self.cc("gcc", "-c", name, "-o", "o3", env={"DISTCC_LM_CARETS": "0"})
        run(["gcc", "-c", name, "-o", "p3"], self.sources.folder)
        self.assertEqual((done.code, self.sources.object("o3")), (1, self.sources.object("p3")))
        self.assertIn(b"error", done.err)
        self.assertNotIn(b"^", done.err)
        self.assertEqual(self.reasons() - before, {})
        status = self.daemon.idle()
        self.assertEqual((status["hosts"][1]["state"], status["hosts"][1]["jobs"]["cancelled"]), ("up", 0))

    def test_carets_of_the_preprocessor(self):
        """Its words are shown, too, before the remote compiler's, and once."""
        for text, words in (("#warning careful\nint x;\n", [b"careful"]),
                            ("#if NOT_THERE\n#endif\nint x;\n", [b"NOT_THERE"]),
                            ("/* /* */\nint f(void) { return 1 / 0; }\n", [b"within comment", b"division by zero"])):
            with self.subTest(text):
                name, before, remote = self.sources.make(text), self.reasons(), self.remote_count()
                done = self.cc("gcc", "-Wundef", "-Wcomment", "-c", name, "-o", "o", env={"DISTCC_LM_CARETS": "0"})
                found = [line for line in done.err.splitlines() if b"warning: " in line]
                self.assertEqual((done.code, len(found)), (0, len(words)), done.err)
                self.assertTrue(all(word in line for word, line in zip(words, found)), done.err)
                self.assertEqual(self.reasons() - before, {})
                self.daemon.until(lambda s, remote=remote: s["totals"]["remote"] == remote + 1)

    def test_fallback_forbidden(self):
        env = {"DISTCC_LM_FALLBACK": "0"}
        name = self.sources.make("int x = ;\n")
        done = self.cc("gcc", "-c", name, "-o", "o", env=env)
        self.assertEqual(done.code, 1)
        self.assertIn(b"error", done.err)
        name = self.sources.make()
        self.same(self.cc("gcc", "-c", name, "-o", "o1", env=env), self.sources.expected(name), "o1")
        done = cc("/nonexistent/socket", "gcc", "-c", name, "-o", "o2", cwd=self.sources.folder, env=env)
        self.assertEqual((done.code, done.err.count(b"\n"), self.sources.object("o2")), (1, 1, b""))
        done = self.cc("gcc", name, "-shared", "-o", "o3", env=env)        # what arguments refuse still runs here
        self.assertEqual((done.code, done.err), (0, b""))


class DaemonFailures(FarmCase):
    """The daemon of this box is absent, dies or freezes."""

    def test_no_daemon(self):
        name = self.sources.make()
        expected = self.sources.expected(name)
        stale = new_folder() + "/s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(stale)
        write(self.farm.folder + "/file", "no socket")
        for path in ("/nonexistent/socket", stale, self.farm.folder + "/file", "/" + "x" * 200):
            with self.subTest(path[:30]):
                done = cc(path, "gcc", "-c", name, "-o", "o", cwd=self.sources.folder)
                self.same(done, expected, "o")
                self.assertLess(done.seconds, 5)

    def test_backlog_full(self):
        """A socket that nobody accepts from: connect() does not block."""
        name = self.sources.make()
        path = new_folder() + "/s"
        with socket.socket(socket.AF_UNIX) as deaf, contextlib.ExitStack() as stack:
            deaf.bind(path)
            deaf.listen(0)
            for _ in range(3):
                queued = stack.enter_context(socket.socket(socket.AF_UNIX))
                queued.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    queued.connect(path)
            done = cc(path, "gcc", "-c", name, "-o", "o", cwd=self.sources.folder)
            self.same(done, self.sources.expected(name), "o")
            self.assertLess(done.seconds, 8)

    def test_odd_daemons(self):
        """Something else answers on the socket."""
        name = self.sources.make()
        expected = self.sources.expected(name)
        answers = (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", lm.encode_fields(b"TURN", 0, 0)[:-1],
                   lm.encode_fields(b"WHAT"), lm.encode_fields(b"TURN"), lm.encode_fields(b"SOCK", "h", "peer", 0),
                   lm.encode_fields(b"LOCL"), lm.encode_fields(b"TURN", 7, 0), lm.encode_fields(b"TURN", "x", "y"),
                   lm.encode_fields(b"NOPE", "go away"), b"TURNffffffff", lm.encode_fields(b"SOCK"))

        def check(pair):
            number, answer = pair
            path = "%s/odd%d" % (self.farm.folder, number)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
                server.listen(16)
                server.settimeout(0.2)
                done = threading.Event()
                thread = threading.Thread(target=self.answer_all, args=(server, answer, done))
                thread.start()
                try:
                    return answer, cc(path, "gcc", "-c", name, "-o", "odd%d" % number, cwd=self.sources.folder)
                finally:
                    done.set()
                    thread.join()
        for number, (answer, done) in enumerate(together(list(enumerate(answers)), check, workers=12)):
            with self.subTest(answer):
                self.same(done, expected, "odd%d" % number)
                self.assertLess(done.seconds, 15)

    @staticmethod
    def answer_all(server, answer, done):
        kept = []
        while not done.is_set():
            with contextlib.suppress(OSError):
                sock = server.accept()[0]
                sock.settimeout(2)
                sock.recv(65536)
                sock.sendall(answer)
                kept.append(sock)
        for sock in kept:
            sock.close()

    def test_frozen(self):
        daemon = self.farm.submitter(self.farm.worker())
        os.kill(daemon.pid, signal.SIGSTOP)
        names = [self.sources.make() for _ in range(3)]
        results = together(names, lambda n: self.cc(daemon, "gcc", "-c", n, "-o", n + ".o",
                                                    env={"DISTCC_LM_VERBOSE": "1"}))
        for name, done in zip(names, results):
            self.assertEqual((done.code, self.sources.object(name + ".o")), self.sources.expected(name)[::3])
            self.assertEqual(done.err.count(b"distcc_lm: daemon: "), 1, done.err)       # no second try: 1 s, not 3
            self.assertLess(done.seconds, 10)
        os.kill(daemon.pid, signal.SIGCONT)
        daemon.idle()

    def test_killed_in_every_phase(self):
        """A slow worker lets us kill the daemon while its client waits, sends, or has a job under way."""
        peer = self.farm.add(SlowPeer())
        name = self.sources.make()
        peer.object = self.sources.expected(name)[3]
        for number, (kill, remote) in enumerate((("KILL", True), ("KILL", False), ("STOP", True))):
            with self.subTest(kill=kill, remote=remote):
                daemon = self.farm.submitter(peer)
                peer.admitting = remote
                seen = peer.asked
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    future = pool.submit(cc, daemon.socket, "gcc", "-c", name, "-o", "k%d" % number,
                                         cwd=self.sources.folder)
                    self.assertTrue(eventually(lambda seen=seen: peer.asked > seen))
                    if remote:
                        daemon.until(lambda s: any(j["state"] == "remote" for j in s["jobs"]))
                        self.assertTrue(eventually(lambda: peer.has_job.is_set()))
                    os.kill(daemon.pid, getattr(signal, "SIG" + kill))
                    peer.go.set()
                    done = future.result()
                self.same(done, self.sources.expected(name), "k%d" % number)
                self.assertLess(done.seconds, 25)
                peer.go.clear()
                peer.has_job.clear()
        self.assertEqual(self.sources.strays(), [])

    def test_killed_while_the_client_works_alone(self):
        """While it preprocesses, and while it compiles here and the daemon waits for the outcome."""
        messages = self.farm.add({name: kind for name, kind, _, _ in PEER_ROWS}["job_stderr"]())
        for state, text in (("preprocess", '#include "slow.h"\n'), ("local", loops(300))):
            with self.subTest(state):
                daemon = self.farm.submitter(messages)
                name = self.sources.make(text)
                fifo = self.sources.folder + "/slow.h"
                if state == "preprocess":
                    os.mkfifo(fifo)
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    future = pool.submit(cc, daemon.socket, "gcc", "-O1", "-c", name, "-o", state,
                                         cwd=self.sources.folder)
                    daemon.until(lambda s, state=state: any(j["state"] == state for j in s["jobs"]))
                    os.kill(daemon.pid, signal.SIGKILL)
                    while state == "preprocess" and not future.done():      # whoever opens it finds the text
                        with contextlib.suppress(OSError):
                            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                            try:
                                os.write(writer, b"int x;\n")
                            finally:                    # else, where the reader has just gone, none ever sees an end
                                os.close(writer)
                        time.sleep(0.02)
                    done = future.result()
                if state == "preprocess":
                    os.unlink(fifo)
                    write(fifo, "int x;\n")
                self.same(done, self.sources.expected(name, "-O1"), state)
        self.assertEqual(self.sources.strays(), [])

    def test_daemon_restarts(self):
        """Clients that waited find the new daemon."""
        worker, daemon = self.farm.pair()
        process = subprocess.Popen([program(), "cc", "sh", "-c", "read x"], stdin=subprocess.PIPE,
                                   env=environment(daemon.socket))
        daemon.until(lambda s: s["hosts"][0]["mine"] == 1)
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(DEADLINE_S), 0)
        process.communicate(b"\n")
        self.assertEqual(process.returncode, 0)
        self.assertFalse(os.path.exists(daemon.socket))
        name = self.sources.make()
        self.same(cc(daemon.socket, "gcc", "-c", name, "-o", "o", cwd=self.sources.folder),
                  self.sources.expected(name), "o")


PEER_ROWS = []      # (name, class, most seconds, what it counts as); the name is the output's, too


def row_of_peers(seconds, counted="failed", kind="peer", **methods):
    """A decorator: the function is a peer's admit() or job(), by its name; the compile takes at most `seconds`."""
    def add(function):
        body = dict(methods, kind=kind)
        body["admit" if function.__name__.startswith("admit") else "job"] = function
        PEER_ROWS.append((function.__name__, type(function.__name__, (FaultyPeer,), body), seconds, counted))
        return function
    return add


def refusing(name, text=""):
    """An admit() that answers LMNO."""
    def admit(self, sock):
        self.receive(sock, lm.decode_opening())
        sock.sendall(lm.encode_refused(name, text))
        return False
    admit.__name__ = "admit_refused_" + name.replace("-", "_")
    return admit


for name in ("draining", "memory", "compiler-unknown", "not-allowed", "too-large", "of-a-later-version"):
    row_of_peers(5, "refused")(refusing(name, "no \x1b[31m\n\x07 room"))


@row_of_peers(9, "refused")
def admit_hangs(self, sock):
    self.hang(sock)


@row_of_peers(5, "refused")
def admit_closes(self, sock):
    return False


@row_of_peers(5, "refused")
def admit_garbage(self, sock):
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@row_of_peers(5, "refused")
def admit_huge(self, sock):
    sock.sendall(b"LMNOffffffff" + b"x" * 5000)


@row_of_peers(5, "refused")
def admit_odd_grant(self, sock):
    sock.sendall(b"LMOK00000003abc")


@row_of_peers(5, "refused")
def admit_talks_on(self, sock):
    self.receive(sock, lm.decode_opening())
    sock.sendall(lm.encode_granted(1) + b"DONE00000001")
    return False


@row_of_peers(9, None)
def admit_parks_for_ever(self, sock):
    """And falls silent then."""
    self.receive(sock, lm.decode_opening())
    sock.sendall(lm.encode_parked(1, 100))
    self.reports = False
    self.hang(sock)


@row_of_peers(12)
def job_falls_silent(self, sock):
    self.reports = False
    self.hang(sock)


@row_of_peers(5, "failed")
def job_refused_by_host(self, sock):
    self.read_job(sock)
    sock.sendall(lm.encode_refused("memory"))


@row_of_peers(5, "refused")
def job_refused(self, sock):
    self.read_job(sock)
    sock.sendall(lm.encode_refused("argument", "-O2"))


@row_of_peers(5)
def job_refused_early(self, sock):
    """Before it has read the request."""
    sock.recv(12)
    sock.sendall(lm.encode_refused("disk"))
    sock.shutdown(socket.SHUT_WR)
    self.hang(sock)


@row_of_peers(5)
def job_closes_unread(self, sock):
    pass


@row_of_peers(5)
def job_garbage(self, sock):
    self.read_job(sock)
    sock.sendall(bytes(range(256)) * 20)


@row_of_peers(5)
def job_wrong_version(self, sock):
    self.read_job(sock)
    sock.sendall(self.reply().replace(b"DONE00000001", b"DONE00000002", 1))


@row_of_peers(5)
def job_wrong_order(self, sock):
    self.read_job(sock)
    sock.sendall(b"DONE00000001SERR00000000")


@row_of_peers(5)
def job_killed_compiler(self, sock):
    self.read_job(sock)
    sock.sendall(lm.encode_reply(9, b"", b"", 0) + lm.encode_times(lm.Times()))


@row_of_peers(5)
def job_out_of_memory(self, sock):
    self.read_job(sock)
    words = b"cc1: out of memory allocating 4 bytes after a total of 8 bytes\n"
    sock.sendall(lm.encode_reply(0x100, words, b"", 0) + lm.encode_times(lm.Times()))


@row_of_peers(5)
def job_huge_claims(self, sock):
    self.read_job(sock)
    sock.sendall(b"DONE00000001STAT00000000SERRffffffff")


@row_of_peers(5)
def job_without_times(self, sock):
    self.read_job(sock)
    sock.sendall(lm.encode_reply(0, b"", b"", len(self.object)) + self.object)


@row_of_peers(5)
def job_bad_times(self, sock):
    self.read_job(sock)
    sock.sendall(lm.encode_reply(0, b"", b"", len(self.object)) + self.object + b"TIME00000003abc")


@row_of_peers(5, None)
def job_exit_status(self, sock):
    """Exit 1 for a source that compiles here."""
    self.read_job(sock)
    sock.sendall(lm.encode_reply(0x100, b"nonsense", b"", 0) + lm.encode_times(lm.Times()))


@row_of_peers(5, None)
def job_stderr(self, sock):
    self.read_job(sock)
    sock.sendall(lm.encode_reply(0, b"a warning\n", b"", len(self.object)) + self.object)
    self.hang(sock)


@row_of_peers(5, kind="distccd")
def job_distccd_closes(self, sock):
    self.read_job(sock)


@row_of_peers(5, kind="distccd")
def job_distccd_garbage(self, sock):
    self.read_job(sock)
    sock.sendall(b"\0" * 4000)


@row_of_peers(5, kind="distccd")
def job_distccd_short(self, sock):
    self.read_job(sock)
    sock.sendall(self.reply()[:-10])


@row_of_peers(5)
def job_size_too_small(self, sock):
    """Of the object: what is over is no TIME."""
    self.read_job(sock)
    good = lm.encode_reply(0, b"", b"", len(self.object))
    sock.sendall(self.reply().replace(good, lm.encode_reply(0, b"", b"", len(self.object) - 10)))


@row_of_peers(5)
def job_size_too_large(self, sock):
    self.read_job(sock)
    good = lm.encode_reply(0, b"", b"", len(self.object))
    sock.sendall(self.reply().replace(good, lm.encode_reply(0, b"", b"", len(self.object) + 10)))


for size in (0, 5, 12, 30, 59, 60, 61, 500, -1, -20, -60):
    def job(self, sock, size=size):
        self.read_job(sock)
        sock.sendall(self.reply()[:size])
    job.__name__ = "job_closes_at_%s" % str(size).replace("-", "last_")
    row_of_peers(5)(job)


class SlowLinks(FarmCase):
    """The source is compressed where the link has been measured as slow; here everything counts as that."""
    TUNABLES = {"COMPRESS_BELOW_KB_S": 1e9}

    def test_whole(self):
        prog = program(**self.TUNABLES)
        worker = self.farm.worker()
        daemon = self.farm.submitter(worker, prog=prog)
        for text in (None, "/* %s */\nint x;\n" % ("many words " * 300_000), ""):
            name = self.sources.make(text)
            done = self.cc(daemon, "gcc", "-C" if text else "-O1", "-c", name, "-o", "o", prog=prog,
                           env={"DISTCC_LM_FALLBACK": "0"})
            self.same(done, self.sources.expected(name, "-C" if text else "-O1"), "o")
        worker.idle()

    def test_on_the_wire(self):
        seen = []

        class Peer(FaultyPeer):
            object = b"object"

            def admit(self, sock):
                request = self.receive(sock, lm.decode_opening())
                seen.append(request.compression)
                sock.sendall(lm.encode_granted(1, lm.ZLIB))
                return True

            def job(self, sock):
                request, body = self.receive(sock, lm.decode_job()), b""
                while len(body) < request.size:
                    body += sock.recv(65536)
                seen.append((len(body), zlib.decompress(body)))
                sock.sendall(self.reply())
        peer, prog = self.farm.add(Peer()), program(**self.TUNABLES)
        daemon = self.farm.submitter(peer, prog=prog)
        text = "extern int f%d(int);\n" * 5000 % tuple(range(5000))
        name = self.sources.make(text, "x.i")
        write(self.sources.folder + "/x.i", '# 1 "x.c"\n' + text)
        self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o", prog=prog).code, 0)
        self.assertEqual((self.sources.object("o"), seen[0]), (b"object", lm.ZLIB))
        self.assertEqual(seen[1][1].decode(), '# 1 "x.c"\n' + text)
        self.assertLess(seen[1][0], len(text) / 3)


class Deaths(unittest.TestCase):
    """How a compiler ended on a host, by its status and words."""
    PLACE = b"a.c:3:1: error: static assertion failed: \"%s\"\n"
    MEMORY = (b"cc1: out of memory allocating 65536 bytes after a total of 7", b"virtual memory exhausted: Cannot",
              b"cc1plus: virtual memory exhausted: Cannot allocate memory", b"LLVM ERROR: out of memory",
              b"gcc: fatal error: Killed signal terminated program cc1",
              b"clang: error: unable to execute command: Killed", b"gcc: internal compiler error: Killed (program cc1)")

    def test_out_of_memory(self):
        """Of a compiler's own words only; never what it says of a source, or quotes of one."""
        for words in self.MEMORY:
            for status, stderr, wanted in ((256, words, "out-of-memory"), (256, self.PLACE % words, None),
                                           (256, b"a.c: In f:\n\n" + words + b"\nx", "out-of-memory"), (0, words, None),
                                           (256, b"a.c: In function '" + words + b"':\n", None)):
                with self.subTest(stderr, status=status):
                    found = lm.killed_by(lm.Reply(status, stderr))
                    self.assertEqual(found and found[0], wanted)
        for stderr in (b"a.cc:2:1: error: catching polymorphic type 'class std::bad_alloc' by value [-Werror]\n",
                       self.PLACE % b"arena: out of memory", b"x: out of memory\n", b"std::bad_alloc\n"):
            self.assertIsNone(lm.killed_by(lm.Reply(256, stderr)))
        self.assertEqual([lm.killed_by(lm.Reply(number))[0] for number in (9, 11, 6)],
                         ["out-of-memory", "killed", "killed"])


class FaultyPeers(FarmCase):
    """Every row: the compile succeeds, with gcc's object, in bounded time; the refusal is counted, nothing is left."""

    def check(self, row):
        """One row. A list of complaints."""
        name, kind, seconds, counted = row
        peer = self.farm.add(kind())
        source = self.sources.make(name=name + ".c")
        expected = self.sources.expected(source)
        peer.object = expected[3]
        options = ("--hosts", peer.address) if kind.kind == "distccd" else ("--peer", peer.address)
        daemon = self.farm.start(*options, "--slots", "2")
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        try:
            done = cc(daemon.socket, "gcc", "-c", source, "-o", name, cwd=self.sources.folder, timeout=25)
        except subprocess.TimeoutExpired:
            return ["still waiting after 25 s"]
        complaints = []
        if done[:3] != expected[:3] or self.sources.object(name) != expected[3]:
            complaints.append("another result than gcc's: %r" % (done,))
        if done.seconds > seconds:
            complaints.append("%.1f s, over %d" % (done.seconds, seconds))
        status = daemon.idle()
        host = status["hosts"][1]
        if counted and not host["jobs"][counted]:
            complaints.append("not counted as %s: %s" % (counted, host["jobs"]))
        if status["totals"]["remote"] or status["totals"]["local"] + status["totals"]["fallback"] != 1:
            complaints.append("odd totals: %s" % status["totals"])
        if "\x1b" in json.dumps(status) or "\\u001b" in json.dumps(status):
            complaints.append("control characters in status")
        return complaints

    def test_all(self):
        rows = sorted(PEER_ROWS, key=lambda row: -row[2])       # those that wait first
        for row, complaints in zip(rows, together(rows, self.check, workers=12)):
            with self.subTest(row[0]):
                self.assertEqual(complaints, [])
        self.assertEqual(self.sources.strays(), [])

    def test_no_diagnosis(self):
        """DISTCC_LM_CARETS=0 takes the compiler's words about the source, not a server's troubles."""
        def job(peer, sock):
            peer.read_job(sock)
            sock.sendall(lm.encode_reply(1 << 8, b"cc1: error while writing: No space left on device\n", b"", 0))
        peer = self.farm.add(type("Troubled", (FaultyPeer,), {"job": job})())
        daemon = self.farm.start("--peer", peer.address)
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        name = self.sources.make()
        done = cc(daemon.socket, "gcc", "-c", name, "-o", "o", cwd=self.sources.folder, env={"DISTCC_LM_CARETS": "0"})
        self.assertEqual((done[:3], peer.jobs_seen), (self.sources.expected(name)[:3], 1))

    def test_name_without_address(self):
        """A host whose name is not resolved is not looked for on this box."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            listener.settimeout(0)
            daemon = self.farm.start("--hosts", "no-such-host.invalid:%d" % listener.getsockname()[1])
            name = self.sources.make()
            self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)
            self.assertIn("not resolved", daemon.status()["hosts"][1]["reason"])
            self.assertRaises(BlockingIOError, listener.accept)

    def test_reply_cut_at_every_byte(self):
        """In process, for every length of a reply: nothing but the whole is taken for one."""
        expected = self.sources.expected(self.sources.make())[3]
        whole = lm.encode_reply(0, b"", b"", len(expected)) + expected + lm.encode_times(lm.Times(1, 20, 10, 300, 1.0))
        class Text:
            """What a SourceText is to it."""
            fd, size = os.open(write(new_folder() + "/x.i", b"int x;\n"), os.O_RDONLY), 7

            @staticmethod
            def remote_argv(own):
                return [b"gcc", b"-c", b"x.c"]
        self.addCleanup(os.close, Text.fd)
        for size in range(len(whole) + 1):
            ours, theirs = socket.socketpair()
            with ours, theirs, tempfile.TemporaryFile() as file:
                theirs.sendall(whole[:size])
                theirs.shutdown(socket.SHUT_WR)
                job = lm.JobSocket(os.dup(ours.fileno()), None, b"peer")
                try:
                    reply = job.exchange(Text)
                    job.receive(file.fileno(), reply.size)
                    times = job.decode(lm.decode_times())
                except lm.HostFailed as failure:
                    self.assertLess(size, len(whole), failure)
                    continue
                finally:
                    job.close()
                file.seek(0)
                self.assertEqual((size, times.elapsed_ms, file.read()), (len(whole), 20, expected))
        print("a reply cut at each of %d bytes" % len(whole))

    def test_long_messages(self):
        """In process: a distccd's messages of any size, as they come, in buffers that do not grow with them."""
        whole, buffers = lm.encode_reply(0x100, b"x" * (8 << 20), b"", 0), []

        class Socket(lm.JobSocket):
            def read_into(self, buffer):
                buffers.append(len(buffer))
                return super().read_into(buffer)
        ours, theirs = socket.socketpair()
        with ours, theirs, concurrent.futures.ThreadPoolExecutor(1) as sender:
            sender.submit(theirs.sendall, whole)
            job = Socket(os.dup(ours.fileno()), None, b"distccd", False)
            try:
                reply = job.decode(lm.decode_reply())
            finally:
                job.close()
        self.assertEqual((reply.status, len(reply.stderr)), (0x100, 8 << 20))
        self.assertLess(max(buffers), 1 << 18)

    def test_the_right_one_works(self):
        """Else the rows above would show nothing."""
        for kind, option in (("peer", "--peer"), ("distccd", "--hosts")):
            peer = self.farm.add(type("Right", (FaultyPeer,), {"kind": kind})())
            daemon = self.farm.start(option, peer.address)
            daemon.until(lambda s: s["hosts"][1]["state"] == "up")
            name = self.sources.make()
            peer.object = b"object of a peer"
            self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)
            self.assertEqual(self.sources.object("o"), peer.object)
            self.assertEqual(daemon.until(lambda s: s["totals"]["remote"])["totals"]["remote"], 1)

    def test_next_host(self):
        """A host fails, another takes the job: it is not compiled here, where the one slot is taken."""
        for name, kind, _, _ in PEER_ROWS:
            if name in ("admit_closes", "job_closes_at_60", "job_killed_compiler", "job_refused_by_host",
                        "job_out_of_memory"):
                with self.subTest(name):
                    bad, good = self.farm.add(kind()), self.farm.add(FaultyPeer())
                    good.object = b"from the good one"
                    daemon = self.farm.submitter(bad, good, options=("--slots", "1"))
                    holder = subprocess.Popen([program(), "cc", "sh", "-c", "read x"], stdin=subprocess.PIPE,
                                              env=environment(daemon.socket))
                    daemon.until(lambda s: s["hosts"][0]["mine"] == 1)
                    for _ in range(3):
                        source = self.sources.make()
                        self.assertEqual(self.cc(daemon, "gcc", "-c", source, "-o", "o").code, 0)
                        self.assertEqual(self.sources.object("o"), good.object, daemon.status()["totals"])
                    holder.communicate(b"\n")
                    self.assertEqual(daemon.idle()["totals"]["remote"], 3)

    def test_remembered(self):
        """Exit 1 there and success here: that file stays here; the host is suspect after two files, not one."""
        kinds = {name: kind for name, kind, _, _ in PEER_ROWS}
        for name in ("job_exit_status", "job_distccd_closes"):
            with self.subTest(name):
                peer = self.farm.add(kinds[name]())
                daemon = self.farm.start("--hosts" if peer.kind == "distccd" else "--peer", peer.address)
                daemon.until(lambda s: s["hosts"][1]["state"] == "up")
                first, second = self.sources.make(), self.sources.make()
                for source, seen, state in ((first, 1, "up"), (first, 1, "up"), (second, 2, "suspect")):
                    self.same(self.cc(daemon, "gcc", "-c", source, "-o", "o"), self.sources.expected(source), "o")
                    self.assertEqual((peer.jobs_seen, daemon.idle()["hosts"][1]["state"]), (seen, state))
                self.assertEqual(daemon.status()["totals"]["local_reasons"]["remembered"], 1)

    def test_messages_remembered(self):
        peer = self.farm.add({name: kind for name, kind, _, _ in PEER_ROWS}["job_stderr"]())
        daemon = self.farm.submitter(peer)
        source = self.sources.make()
        for _ in range(3):
            self.same(self.cc(daemon, "gcc", "-c", source, "-o", "o"), self.sources.expected(source), "o")
        self.assertEqual((peer.jobs_seen, daemon.idle()["hosts"][1]["state"]), (1, "up"))
        self.assertEqual(daemon.status()["totals"]["local_reasons"], {"messages": 1, "remembered": 2})

    def test_lapsed_leases(self):
        """No fault of the host: asked again, at the third lapse local."""
        class Lapsing(FaultyPeer):
            def job(self, sock):
                self.read_job(sock)
                sock.sendall(lm.encode_refused("lease-over"))
        peer = self.farm.add(Lapsing())
        daemon = self.farm.submitter(peer)
        source = self.sources.make()
        self.same(self.cc(daemon, "gcc", "-c", source, "-o", "o"), self.sources.expected(source), "o")
        self.assertEqual((peer.jobs_seen, daemon.idle()["hosts"][1]["state"]), (3, "up"))

    def test_back_off_ends_with_a_probe(self):
        class Broken(FaultyPeer):
            broken = True

            def job(self, sock):
                self.read_job(sock)
                sock.sendall(b"junk" * 9 if self.broken else self.reply())
        peer = self.farm.add(Broken())
        daemon = self.farm.submitter(peer)
        self.assertEqual(self.cc(daemon, "gcc", "-c", self.sources.make(), "-o", "o").code, 0)
        self.assertEqual(daemon.status()["hosts"][1]["state"], "suspect")
        peer.broken = False
        peer.object = b"right"

        def remote_again():
            source = self.sources.make()
            self.assertEqual(self.cc(daemon, "gcc", "-c", source, "-o", "o").code, 0)
            return daemon.status()["totals"]["remote"]
        self.assertEqual(eventually(remote_again, 8), 1)
        self.assertEqual(daemon.status()["hosts"][1]["state"], "up")

    def test_stalls_but_reports(self):
        """A host that goes on reporting, but never answers the job, or not to its end."""
        def job_never_answers(self, sock):
            self.hang(sock)

        def job_stalls_in_the_reply(self, sock):
            self.read_job(sock)
            sock.sendall(self.reply()[:100])
            self.hang(sock)
        def job_drips(self, sock):
            """Each byte in good time, but the whole never."""
            self.read_job(sock)
            for at in range(len(self.reply())):
                sock.sendall(self.reply()[at:at + 1])
                time.sleep(0.5)
        tuned = program(PROGRESS_S=2.0, OVERDUE_S=1.0)

        def check(job):
            peer = self.farm.add(type(job.__name__, (FaultyPeer,), {"job": job})())
            source = self.sources.make(name=job.__name__ + ".c")
            expected = self.sources.expected(source)
            peer.object = expected[3]
            daemon = self.farm.submitter(peer, prog=tuned)
            try:
                return expected, cc(daemon.socket, "gcc", "-c", source, "-o", job.__name__, cwd=self.sources.folder,
                                    prog=tuned, timeout=12), daemon
            except subprocess.TimeoutExpired:
                return expected, None, daemon
        jobs = (job_never_answers, job_stalls_in_the_reply, job_drips)
        for job, (expected, done, daemon) in zip(jobs, together(jobs, check)):
            with self.subTest(job.__name__):
                self.assertIsNotNone(done, "still waiting after 12 s")
                self.same(done, expected, job.__name__)
                daemon.idle()


class Stragglers(FarmCase):
    """The last job of a build is on a host that reports and does not end it: a second place, and the first is hung up
    on."""

    def compile(self, slow, daemon, then=lambda: None):
        """Start a compile on the slow peer; its Ran, and gcc's."""
        source = self.sources.make()
        expected = self.sources.expected(source)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.cc, daemon, "gcc", "-c", source, "-o", "o")
            self.assertTrue(slow.has_job.wait(DEADLINE_S))
            then()
            return done.result(), expected

    def test_here(self):
        slow = self.farm.add(SlowPeer())
        daemon = self.farm.submitter(slow, prog=program(HEDGE_BLIND_S=1))
        done, expected = self.compile(slow, daemon)
        self.same(done, expected, "o")
        self.assertLess(done.seconds, 15)
        totals = daemon.idle()["totals"]
        self.assertEqual((totals["hedged"], totals["fallback"], totals["local_reasons"]), (1, 1, {"late": 1}))
        self.assertEqual(daemon.status()["hosts"][1]["state"], "up")            # no blame

    def test_elsewhere(self):
        slow, good = self.farm.add(SlowPeer()), self.farm.add(FaultyPeer())
        good.object, good.reports = b"from the good one", False
        daemon = self.farm.start("--peer", slow.address, "--peer", good.address, "--procfs",
                                 set_procfs(new_folder(), cores=1), prog=program(HEDGE_BLIND_S=1))
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        done, _ = self.compile(slow, daemon, lambda: setattr(good, "reports", True))
        self.assertEqual((done.code, self.sources.object("o")), (0, good.object))
        totals = daemon.idle()["totals"]
        self.assertEqual((totals["hedged"], totals["remote"], totals["local"]), (1, 1, 0))


class NeverHere(FarmCase):
    """With DISTCC_LM_FALLBACK=0 a job waits for the farm, however it is."""

    def start(self, daemon, count=1, prog=None):
        """Future runs of so many compiles, under way."""
        pool = concurrent.futures.ThreadPoolExecutor(count)
        self.addCleanup(pool.shutdown)
        return [pool.submit(self.cc, daemon, "gcc", "-c", self.sources.make(), "-o", "o%d" % i, prog=prog,
                            env={"DISTCC_LM_FALLBACK": "0"}) for i in range(count)]

    def remote(self, runs, daemon):
        self.assertEqual([run.result()[:3] for run in runs], [(0, b"", b"")] * len(runs))
        totals = daemon.idle()["totals"]
        self.assertEqual((totals["remote"], totals["local_reasons"], totals["hedged"]), (len(runs), {}, 0))

    def test_more_jobs_than_slots(self):
        """Of a plain distccd, which says nothing of its load, beside an idle box."""
        slow = self.farm.add(type("SlowDistccd", (SlowPeer,), {"kind": "distccd"})())
        daemon = self.farm.start("--hosts", slow.address + "/4")
        runs = self.start(daemon, 8)
        daemon.until(lambda s: collections.Counter(job["state"] for job in s["jobs"]) == {"remote": 4, "wait": 4})
        slow.go.set()
        self.remote(runs, daemon)

    def test_late(self):
        """It is not called home: the slow host's object is taken when it comes."""
        slow = self.farm.add(SlowPeer())
        daemon = self.farm.submitter(slow, prog=program(HEDGE_BLIND_S=1))
        runs = self.start(daemon)
        daemon.until(lambda s: [job for job in s["jobs"] if job["state"] == "remote" and job["elapsed_s"] > 2.5])
        slow.go.set()
        self.remote(runs, daemon)

    def test_back_off(self):
        class Broken(FaultyPeer):
            def job(self, sock):
                self.read_job(sock)
                sock.sendall(b"junk" * 9 if self.jobs_seen == 1 else self.reply())
        for kind, option in (("peer", "--peer"), ("distccd", "--hosts")):
            with self.subTest(kind):
                daemon = self.farm.start(option, self.farm.add(type("Broken", (Broken,), {"kind": kind})()).address)
                daemon.until(lambda s: s["hosts"][1]["state"] == "up")
                self.assertEqual(self.cc(daemon, "gcc", "-c", self.sources.make(), "-o", "o").code, 0)
                self.assertEqual(daemon.status()["hosts"][1]["state"], "suspect")
                self.assertEqual([run.result()[:3] for run in self.start(daemon, 3)], [(0, b"", b"")] * 3)
                self.assertEqual(daemon.idle()["totals"]["remote"], 3)

    def test_unknown_yet(self):
        peer = self.farm.add(FaultyPeer())
        peer.reports = False
        daemon = self.farm.submitter(peer, ready=False)
        runs = self.start(daemon, 2)
        daemon.until(lambda s: len(s["jobs"]) == 2)
        peer.reports = True
        self.remote(runs, daemon)

    def test_one_is_down(self):
        with socket.create_server((loopback(), 0)) as gone:
            down = "%s:%d" % gone.getsockname()
        good = self.farm.add(FaultyPeer())
        daemon = self.farm.start("--peer", good.address, "--peer", down, "--hosts", down + "/9")
        daemon.until(lambda s: any(h["state"] == "up" and h["name"] == good.address for h in s["hosts"]))
        self.assertEqual([run.result()[:3] for run in self.start(daemon, 8)], [(0, b"", b"")] * 8)
        self.assertEqual(daemon.idle()["totals"]["remote"], 8)

    def test_none_comes(self):
        """Status 1, and a line that says why."""
        prog = program(PEER_TIMEOUT_S=1.0)
        for hosts in ((), ("--peer", "127.0.0.251:1")):
            daemon = self.farm.start(*hosts, prog=prog)
            done = self.start(daemon, prog=prog)[0].result()
            self.assertEqual((done.code, done.out, done.err.count(b"\n")), (1, b"", 1))
            self.assertIn(lm.REASONS["no-host"].encode(), done.err)
            self.assertLess(done.seconds, 4)

    def test_messages(self):
        """The remote text stands, as often as it comes."""
        worker, daemon = self.farm.pair()
        name = self.sources.make("int f(void) { return 1 / 0; }\n")
        self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)         # remembered
        for _ in range(2):
            done = self.cc(daemon, "gcc", "-c", name, "-o", "o", env={"DISTCC_LM_FALLBACK": "0"})
            self.assertEqual((done.code, b"division by zero" in done.err), (0, True))
        self.assertEqual(daemon.idle()["totals"]["remote"], 2)


class Interrupts(FarmCase):
    """^C at each phase: dead by SIGINT, slot free, no temporary, no partial object."""

    def interrupted(self, daemon, when, number=signal.SIGINT, words=("gcc", "-c", "x.c", "-o", "x.o")):
        """Start a compile, wait for `when(status)`, signal its group; how it ended, and its stderr."""
        process = subprocess.Popen([program(), "cc", *words], cwd=self.sources.folder, env=environment(daemon.socket),
                                   start_new_session=True, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL,
                                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
        self.addCleanup(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
        daemon.until(when)
        begin = time.monotonic()
        os.killpg(process.pid, number)
        err = process.communicate(timeout=DEADLINE_S)[1]
        self.assertLess(time.monotonic() - begin, 3)
        return process.returncode, err

    def nothing_left(self, *daemons):
        self.assertEqual([name for name in os.listdir(self.sources.folder) if not name.endswith(".c")], [])
        for daemon in daemons:
            daemon.idle()
            self.assertTrue(eventually(lambda daemon=daemon: len(daemon.areas()) <= 1), daemon.areas())

    @staticmethod
    def job_in(*states):
        return lambda s: any(job["state"] in states for job in s["jobs"])

    def test_while_preprocessing(self):
        worker, daemon = self.farm.pair()
        os.mkfifo(self.sources.folder + "/slow.h.c")        # the preprocessor waits for a writer
        self.sources.make('#include "slow.h.c"\n', "x.c")
        self.assertEqual(self.interrupted(daemon, self.job_in("preprocess")), (-signal.SIGINT, b""))
        self.nothing_left(worker, daemon)

    def test_while_waiting_and_sending(self):
        self.sources.make(name="x.c")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            peer = self.farm.add(SlowPeer())
            daemon = self.farm.submitter(peer)
            peer.admitting = False
            self.assertEqual(self.interrupted(daemon, self.job_in("wait"), number), (-number, b""))
            self.nothing_left(daemon)
            peer.admitting = True
            self.assertEqual(self.interrupted(daemon, self.job_in("remote"), number), (-number, b""))
            self.nothing_left(daemon)

    def test_while_receiving(self):
        class Trickling(FaultyPeer):
            def job(self, sock):
                self.read_job(sock)
                sock.sendall(lm.encode_reply(0, b"", b"", 100000) + b"half of it")
                self.hang(sock)
        daemon = self.farm.submitter(self.farm.add(Trickling()))
        self.sources.make(name="x.c")

        def receives(_):
            return self.sources.strays()
        for name in ("INT", "TERM", "HUP", "QUIT", "ALRM", "USR1", "USR2", "XCPU", "VTALRM", "PROF", "ABRT"):
            with self.subTest(name):
                number = getattr(signal, "SIG" + name)
                self.assertEqual(self.interrupted(daemon, receives, number), (-number, b""))
                self.nothing_left(daemon)

    def test_while_compiling(self):
        """The remote compiler is gone within a second."""
        worker, daemon = self.farm.pair()
        self.sources.make(SLOW_SOURCE, "x.c")
        for number in (signal.SIGINT, signal.SIGKILL):
            words = ("gcc", "-O2", "-c", "x.c", "-o", "x.o")
            pids = []

            def compiling(_, pids=pids):
                pids[:] = compilers_of(worker)
                return pids
            self.assertEqual(self.interrupted(daemon, compiling, number, words), (-number, b""))
            self.assertTrue(eventually(lambda pids=pids: not any(map(alive, pids)), 2))
            self.nothing_left(worker, daemon)

    def test_signal_as_a_program_ends(self):
        """It was waited for already: the signal counts all the same."""
        def reaped(pid, options):
            os.waitpid(pid, options)
            raise lm.Interrupted(signal.SIGINT)
        invocation = lm.Invocation(["true"], {}, False, unittest.mock.Mock(defaults=[]))
        invocation.program = "/bin/true"
        with unittest.mock.patch.object(lm, "posix", wraps=lm.posix) as mocked:
            mocked.waitpid = reaped
            with self.assertRaises(lm.Interrupted):
                invocation.spawn(["true"], {})

    def test_signal_to_the_client_alone(self):
        """As make ends its children: the compiler that runs here, as a child of the client, ends, too; of gcc that is
        the driver, which leaves its cc1 to itself but assembles nothing any more."""
        class Failing(FaultyPeer):
            def job(self, sock):
                self.read_job(sock)
                sock.sendall(lm.encode_reply(1 << 8, b"x.c:1:1: error: no\n", b"", 0))
        daemon = self.farm.submitter(self.farm.add(Failing()))
        self.sources.make(SLOW_SOURCE, "x.c")                   # not yet assembled when the signal comes
        for number in (signal.SIGTERM, signal.SIGINT):
            process = subprocess.Popen([program(), "cc", "gcc", "-O2", "-c", "x.c"], cwd=self.sources.folder,
                                       env=dict(environment(daemon.socket), DISTCC_LM_CARETS="1"))
            daemon.until(self.job_in("local"))
            self.assertTrue(eventually(lambda process=process: len(descendants(process.pid)) > 2))
            pids = descendants(process.pid)
            os.kill(process.pid, number)
            self.assertEqual(process.wait(DEADLINE_S), -number)
            self.assertFalse(alive(pids[1]))
            for pid in filter(alive, pids):
                os.kill(pid, signal.SIGKILL)
            self.nothing_left(daemon)

    def test_while_compiling_here(self):
        daemon = self.farm.start()
        self.sources.make(SLOW_SOURCE, "x.c")
        words = ("gcc", "-O2", "-c", "x.c", "-o", "x.o")
        self.assertEqual(self.interrupted(daemon, self.job_in("local"), words=words)[0], -signal.SIGINT)
        self.nothing_left(daemon)

    def test_ignored_signals_stay_ignored(self):
        """nohup make: SIGHUP does nothing."""
        peer = self.farm.add(SlowPeer())
        daemon = self.farm.submitter(peer)
        name = self.sources.make()
        peer.object = self.sources.expected(name)[3]
        process = subprocess.Popen(["nohup", program(), "cc", "gcc", "-c", name, "-o", "o"], cwd=self.sources.folder,
                                   env=environment(daemon.socket), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        daemon.until(self.job_in("remote"))
        process.send_signal(signal.SIGHUP)
        peer.go.set()
        self.assertEqual((process.wait(DEADLINE_S), self.sources.object("o")), (0, peer.object))


# ==== Section 12: reports =============================================================================================
# What scripts depend on: words, keys, exit statuses.

SCHEMA = {
    "": "version daemon hosts jobs others queue totals advice",
    "daemon": "address socket pid uptime_s accepting client_start",
    "queue": "waiting by_user",
    "totals": "remote local fallback served refused hedged compile_errors local_reasons",
    "advice": "make_jobs",
    "host": "name address kind state reason slots running waiting mine load cores memory_available_kb report_age_s"
            " compilers speed_ms_per_kb samples by_load rtt_ms bandwidth_kb_s jobs mean_ms contained timed"
            " prediction_error",
    "host jobs": "ok failed refused cancelled",
    "host mean_ms": "queue compile transfer",
    "job": "user uid source host state elapsed_s predicted_s",
    "by_load": "load ms_per_kb jobs",
}


class StatusOutput(FarmCase):

    def keys(self, found, name):
        self.assertEqual(set(SCHEMA[name].split()) - set(found), set(), name)

    def test_schema(self):
        worker = self.farm.worker()
        daemon = self.farm.start("--peer", worker.address, "--hosts", "127.0.0.251:1/3")
        daemon.until(lambda s: any(h["state"] == "up" and h["kind"] == "peer" for h in s["hosts"]))
        name = self.sources.make(MEDIUM_SOURCE)
        for _ in range(3):
            self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)
        with Client(daemon) as client:
            client.hello().receive(b"WAIT")
            done = command("status", "--json", sock=daemon.socket)
        self.assertEqual((done.code, done.err), (0, b""))
        status = json.loads(done.out)
        self.keys(status, "")
        for part in ("daemon", "queue", "totals", "advice"):
            self.keys(status[part], part)
        for host in status["hosts"]:
            self.keys(host, "host")
            self.keys(host["jobs"], "host jobs")
            self.keys(host["mean_ms"], "host mean_ms")
            self.assertIn(host["kind"], ("local", "peer", "distccd"))
            self.assertIn(host["state"], ("up", "busy", "draining", "suspect", "down"))
            for row in host["by_load"]:
                self.keys(row, "by_load")
        self.keys(status["jobs"][0], "job")
        self.assertEqual(status["jobs"][0]["state"], "preprocess")
        self.assertEqual(status["daemon"]["pid"], daemon.pid)
        peer = next(h for h in status["hosts"] if h["kind"] == "peer")
        self.assertGreaterEqual(peer["jobs"]["ok"], 1)
        self.assertGreater(peer["mean_ms"]["compile"], 0)
        self.assertGreaterEqual(status["advice"]["make_jobs"], 4)

    def test_text(self):
        worker = self.farm.worker()
        daemon = self.farm.start("--peer", worker.address, "--peer", "127.0.0.251:1", "--hosts", "127.0.0.252:1/3",
                                 "--peer", "a-host-with-a-rather-long-name.example.invalid:12345")
        daemon.until(lambda s: any(h["state"] == "up" and h["kind"] == "peer" for h in s["hosts"]))
        name = self.sources.make("int f(void) { return 1 / 0; }\n", "x" * 200 + ".c")
        self.cc(daemon, "gcc", "-c", name, "-o", "o")
        with Client(daemon) as client:
            client.hello("y" * 300 + ".c").receive(b"WAIT")
            done = command("status", sock=daemon.socket, COLUMNS="80")
        self.assertEqual((done.code, done.err), (0, b""))
        lines = done.out.decode().splitlines()
        self.assertEqual([line for line in lines if len(line) > 80], [])
        text = done.out.decode()
        for word in (worker.address, "up", "down", "preprocess", "make -j", "127.0.0.252", "serving"):
            self.assertIn(word, text)

    def test_why(self):
        worker, daemon = self.farm.pair()
        first, second = self.sources.make(), self.sources.make("int f(void) { return 1 / 0; }\n")
        for name in (first, second):
            self.cc(daemon, "gcc", "-c", name, "-o", "o")
        daemon.until(lambda s: s["totals"]["remote"] == 1)
        text = command("why", sock=daemon.socket).out.decode()
        sentences = " ".join(text.split())
        for word in (first, second, "Sent to " + worker.address, "It ended well.", "expected to have it done in",
                     "compiling", "Compiled on this box: the compiler wrote messages"):
            self.assertIn(word, sentences)
        self.assertEqual([line for line in text.splitlines() if line[0] == " " and len(line) > 80], [])
        self.assertNotIn(first, command("why", "1", sock=daemon.socket).out.decode())
        self.assertNotIn(second, command("why", first, sock=daemon.socket).out.decode())
        self.assertIn(first, command("why", "./" + first, sock=daemon.socket).out.decode())
        self.assertIn(b"No decision is known", command("why", "no-such-file.c", sock=daemon.socket).out)

    def test_jobs(self):
        _, daemon = self.farm.pair()
        done = command("jobs", sock=daemon.socket)
        self.assertEqual((done.code, done.err), (0, b""))
        self.assertEqual(int(done.out), daemon.status()["advice"]["make_jobs"])
        done = command("jobs", sock="/nonexistent/socket")
        self.assertEqual((done.code, int(done.out), done.err.count(b"\n")), (0, len(os.sched_getaffinity(0)), 1))

    def test_no_daemon(self):
        for words in (["status"], ["status", "--json"], ["why"], ["drain"]):
            done = command(*words, sock="/nonexistent/socket")
            self.assertEqual((done.code, done.out, done.err.count(b"\n")), (2, b"", 1), words)
            self.assertIn(b"/nonexistent/socket", done.err)

    def test_another_compiler_or_version_is_named(self):
        folder, other = new_folder(), new_folder() + "/distcc_lm.py"
        os.symlink("/usr/bin/g++", folder + "/g++")
        write(other, re.sub('(?m)^VERSION = .*', 'VERSION = "9.8.7"', read_text(program())), 0o755)
        worker, lacking = self.farm.worker(prog=other), self.farm.worker("--compilers", folder)
        daemon = self.farm.submitter(worker, lacking)
        self.assertEqual(self.cc(daemon, "gcc", "-c", self.sources.make(), "-o", "o").code, 0)
        status = daemon.status()
        hosts = {host["name"]: host for host in status["hosts"]}
        self.assertEqual((hosts[worker.address]["version"], hosts[worker.address]["lacks"]), ("9.8.7", []))
        gcc = next(path for path in (folder + "/gcc" for folder in PATH.split(":")) if os.path.exists(path))
        self.assertEqual((hosts[lacking.address]["version"], hosts[lacking.address]["lacks"]), (lm.VERSION, [gcc]))
        text = " ".join(command("status", sock=daemon.socket).out.decode().split())
        self.assertIn("runs distcc_lm 9.8.7, this box " + lm.VERSION, text)
        self.assertIn("has no %s, or another version of it" % gcc, text)

    def test_past(self):
        """Spans of the last jobs, and samples of the queue: in --json and for the page, not in what is asked often."""
        worker, daemon = self.farm.pair()
        name = self.sources.make(MEDIUM_SOURCE)
        self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)
        self.cc(daemon, "gcc", "-c", self.sources.make("int f(void) { return 1 / 0; }\n"), "-o", "o")
        self.cc(daemon, "gcc", "o", "-o", "nothing")
        self.assertTrue(eventually(
            lambda: sum(row["slots"] for row in ask(daemon.socket, "status", "past")[1]["history"])))
        status = json.loads(command("status", "--json", sock=daemon.socket).out)
        self.assertNotIn("recent", daemon.status())
        remote, failed, link = status["recent"]
        self.assertEqual((remote["host"], remote["outcome"], failed["host"], link["host"]),
                         (worker.address, "ok", "local", "local"))
        spans = {span["what"]: span["s"] for span in remote["spans"] if span["what"] != "turn"}
        self.assertEqual(set(spans), {"preprocess", "transfer", "wait", "compile"})
        self.assertGreater(spans["compile"], 0)
        self.assertLess(sum(spans.values()), remote["age_s"])
        self.assertEqual([s["what"] for s in failed["spans"] if s["what"] in ("remote", "local")], ["remote", "local"])
        self.assertEqual(set(status["history"][0]), {"waiting", "preprocess", "remote", "local", "slots", "age_s"})

    def test_metrics(self):
        _, daemon = self.farm.pair()
        self.cc(daemon, "gcc", "-c", self.sources.make(MEDIUM_SOURCE), "-o", "o")
        self.cc(daemon, "gcc", "-c", self.sources.make("int f(void) { return 1 / 0; }\n"), "-o", "o")
        daemon.idle()
        done = command("status", "--metrics", sock=daemon.socket)
        self.assertEqual((done.code, done.err, done.out[-6:]), (0, b"", b"# EOF\n"))
        found, status = openmetrics(self, done.out), daemon.status()
        self.assertEqual(found["distcc_lm_jobs_total", ("outcome", "remote")], status["totals"]["remote"])
        self.assertEqual(found["distcc_lm_local_jobs_total", ("reason", "messages")], 1)
        peer = status["hosts"][1]
        self.assertEqual(found["distcc_lm_host_slots", ("host", peer["name"])], peer["slots"])
        self.assertEqual(found["distcc_lm_host_jobs_total", ("host", peer["name"]), ("outcome", "ok")], 1)
        self.assertEqual(found["distcc_lm_host_state", ("host", peer["name"]), ("state", "up")], 1)
        self.assertAlmostEqual(found["distcc_lm_host_stage_seconds", ("host", peer["name"]), ("stage", "compile")],
                               peer["mean_ms"]["compile"] / 1e3)

    def test_page(self):
        worker, daemon = self.farm.pair()
        for text in (MEDIUM_SOURCE, "int f(void) { return 1 / 0; }\n"):
            self.cc(daemon, "gcc", "-c", self.sources.make(text, "<&\x1b[2J%d.c" % len(text)), "-o", "o")
        daemon.idle()
        self.assertTrue(eventually(lambda: len(ask(daemon.socket, "status", "past")[1]["history"]) > 1))
        path = self.sources.folder + "/page.html"
        self.assertEqual(command("status", "--html", path, sock=daemon.socket)[:3], (0, b"", b""))
        done = command("status", "--html", "-", sock=daemon.socket)
        self.assertEqual((done.code, done.err), (0, b""))
        for text in (contents(path).decode(), done.out.decode()):
            self.assertEqual(re.findall("(?i)<script|https?:|url\\(|@import| src=|<link|\x1b", text), [])
            self.assertIn("prefers-color-scheme: dark", text)
            charts = [ElementTree.fromstring(chart) for chart in re.findall("(?s)<svg.*?</svg>", text)]
            self.assertEqual([chart.get("aria-label") for chart in charts],
                             ["Recent jobs by host", "Queue and slots", "Speed by load"])
            bars = {rect.get("fill") for rect in charts[0].iter("rect")}
            self.assertLessEqual({"var(--%s)" % kind for kind in ("preprocess", "transfer", "compile", "local")}, bars)
            self.assertIn(worker.address, [text.text for text in charts[0].iter("text")])
        done = command("status", "--html", "/nonexistent/page", sock=daemon.socket)
        self.assertEqual((done.code, done.out, done.err.count(b"\n")), (2, b"", 1))

    def test_no_job_yet(self):
        daemon = self.farm.start()
        for words in (["status"], ["status", "--html", "-"], ["status", "--metrics"], ["why"]):
            done = command(*words, sock=daemon.socket)
            self.assertEqual((done.code, done.err), (0, b""), words)

    def test_closed_pipe(self):
        _, daemon = self.farm.pair()
        done = run(["sh", "-c", "%s status | true; %s status >/dev/full" % (program(), program())],
                   env=environment(daemon.socket))
        self.assertNotIn(b"Traceback", done.err)


def openmetrics(case, text):
    """{(name, label, ...): value} by the official parser, which is in an interpreter that CI names."""
    script = ("import json, sys\n"
              "from prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n"
              "print(json.dumps([[s.name, sorted(s.labels.items()), s.value]"
              " for family in read(sys.stdin.read()) for s in family.samples]))")
    for python in (os.environ.get("DISTCC_LM_TOOLS_PYTHON"), sys.executable):
        done = python and run([python, "-c", script], stdin=text, env=dict(os.environ))
        if done and done.code == 0:
            return {(name, *map(tuple, labels)): value for name, labels, value in json.loads(done.out)}
        if done and b"No module named" not in done.err:
            raise AssertionError(done.err.decode())
    raise unittest.SkipTest("not installed: prometheus_client")


class Terminal:
    """`status --watch` on a pseudo terminal of a given size."""

    def __init__(self, daemon, columns, lines, *words):
        import pty
        import termios
        self.termios = termios
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen([program(), "status", "--watch", "0.1", *words], stdin=self.slave,
                                        stdout=self.slave, stderr=self.slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                                        env=environment(daemon.socket, LC_ALL="C.UTF-8", COLUMNS="200"))
        os.set_blocking(self.master, False)
        self.output = b""

    def resize(self, columns, lines):
        fcntl.ioctl(self.slave, self.termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def frames(self):
        """All complete frames so far, each a list of lines."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.output += os.read(self.master, 65536)
        frames = self.output.decode("utf-8", "replace").split("\x1b[H")[1:]
        return [frame.partition("\x1b[J")[0].replace("\x1b[K", "").split("\r\n") for frame in frames
                if "\x1b[J" in frame]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class Watch(FarmCase):
    def setUp(self):
        super().setUp()
        _, self.daemon = self.farm.pair()

    def terminal(self, *size):
        terminal = Terminal(self.daemon, *size)
        self.addCleanup(terminal.close)
        self.assertTrue(eventually(terminal.frames))
        return terminal

    def ends(self, terminal):
        """With status 0, and the terminal as it was."""
        self.assertEqual(terminal.process.wait(DEADLINE_S), 0)
        terminal.frames()
        self.assertTrue(terminal.output.endswith(b"\x1b[?25h\x1b[?1049l"), terminal.output[-60:])
        self.assertEqual(terminal.termios.tcgetattr(terminal.slave), terminal.before)

    def test_sizes(self):
        for columns, lines in ((80, 24), (200, 60), (20, 5), (3, 2), (1, 1)):
            with self.subTest((columns, lines)):
                terminal = self.terminal(columns, lines)
                for frame in terminal.frames():
                    self.assertLessEqual(len(frame), lines)
                    self.assertEqual([line for line in frame if len(line) > columns], [])
                os.write(terminal.master, b"q")
                self.ends(terminal)

    def test_redraws_at_another_size_and_ends_by_signal(self):
        terminal = self.terminal(80, 24)
        self.assertTrue(any("░░░" in line for line in terminal.frames()[0]))
        terminal.resize(41, 9)                      # the kernel sends SIGWINCH to the foreground process group
        self.assertTrue(eventually(lambda: all(len(line) <= 41 for line in terminal.frames()[-1])))
        os.write(terminal.master, b"\x03")
        self.ends(terminal)

    def test_daemon_restarts(self):
        terminal = self.terminal(100, 30)
        self.daemon.process.terminate()
        self.assertTrue(eventually(lambda: "no daemon answers" in terminal.frames()[-1][-1]))
        terminal.process.terminate()
        self.ends(terminal)

    def test_pipe(self):
        with subprocess.Popen([program(), "status", "--watch", "0.05"], env=environment(self.daemon.socket),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            heads = list(itertools.islice((line for line in process.stdout if line.startswith(b"distcc_lm ")), 3))
            process.stdout.close()                  # as `| head` does
            self.assertEqual((process.wait(DEADLINE_S), len(heads), process.stderr.read()), (1, 3, b""))


def made_status(hosts, **more):
    """A status as a daemon sends it; hosts: dicts of what is not as usual."""
    usual = {"name": "build1:3632", "address": "192.0.2.1:3632", "kind": "peer", "state": "up", "reason": "",
             "slots": 8, "running": 2, "waiting": 0, "mine": 1, "load": 0.25, "cores": 8,
             "memory_available_kb": 16_000_000, "report_age_s": 0.5, "compilers": [], "speed_ms_per_kb": 2.5,
             "samples": 10, "by_load": [],
             "rtt_ms": 0.4, "bandwidth_kb_s": 90_000, "jobs": {"ok": 10, "failed": 0, "refused": 0, "cancelled": 0},
             "mean_ms": {"queue": 1.0, "compile": 300.0, "transfer": 8.0}, "contained": "landlock", "timed": True,
             "prediction_error": 0.2, "version": lm.VERSION, "lacks": []}
    totals = dict.fromkeys(("remote", "local", "fallback", "served", "refused", "hedged", "compile_errors",
                            "cancelled"), 0)
    status = {"version": lm.VERSION,
              "daemon": {"address": "192.0.2.9:3632", "socket": "/s", "pid": 1, "uptime_s": 5000.0, "accepting": True,
                         "client_start": "cached"},
              "hosts": [{**usual, **host} for host in hosts], "jobs": [], "others": 0,
              "queue": {"waiting": 0, "by_user": {}}, "totals": {**totals, "local_reasons": {}},
              "advice": {"make_jobs": 20}, "packets": {"from_strangers": 0, "malformed": 0},
              "secret": {"wrong_keys": []}, "warnings": ["/etc/distcc/hosts: a line that is odd"], "other_versions": {}}
    status.update(more)
    return status


class StatusText(unittest.TestCase):
    HOSTS = (
        {}, {"name": "a-host-with-a-name-that-is-very-much-longer-than-any-column-could-be.example.org:12345"},
        {"name": "down", "state": "down", "reason": "no load report for 77 s", "running": None, "waiting": None,
         "load": None, "cores": None, "memory_available_kb": None, "speed_ms_per_kb": None, "rtt_ms": None,
         "mean_ms": {"queue": None, "compile": None, "transfer": None}, "prediction_error": None, "version": None},
        {"name": "evil\x1b[2J", "state": "suspect", "reason": "said \x1b]0;x\a " + "long " * 40},
        {"name": "two", "by_load": [{"load": "to 0.5", "ms_per_kb": 2.0, "jobs": 7}]},
        {"name": "plain", "kind": "distccd", "contained": None, "timed": False, "version": None},
        {"name": "bare", "contained": "none"}, {"name": "old", "version": "0.0.1"},
        {"name": "lacks", "lacks": ["/x/cc"]},
    )

    def test_fits(self):
        status = made_status(self.HOSTS)
        for width in (40, 80, 81, 100, 133, 200):
            lines = lm.status_lines(status, width)
            with self.subTest(width):
                text = " ".join(" ".join(lines).split())
                if width >= 80:
                    self.assertEqual([line for line in lines if len(line) > width], [])
                    self.assertIn("make -j20", text)
                self.assertEqual([c for line in lines for c in line if not c.isprintable()], [])
                for words in ("no load report for 77 s", "plain distccd", "uncontained", "runs distcc_lm 0.0.1",
                              "has no /x/cc", "2.00 (7)", "off by 20 %", "suspect"):
                    self.assertIn(words, text)
        self.assertGreater(len(lm.host_lines(status, 200)[0]), len(lm.host_lines(status, 80)[0]))

    def test_local_reasons(self):
        reasons = {"no-host": 3, "link": 50, "messages": 7, "a-later-one": 1, "stdin": 2, "profile": 2, "plugin": 1}
        totals = dict(made_status([])["totals"], local_reasons=reasons)
        lines = lm.local_lines(totals, most=3)
        self.assertEqual(len(lines), 6)
        self.assertRegex(lines[1], "^ +50  ")
        self.assertRegex(lines[2], "^ +7  the compiler wrote messages")
        self.assertRegex(lines[4], "^ +6  for 4 other reasons")

    def test_client_start(self):
        status = made_status([{}])
        self.assertIn("The client starts from its compiled cache.", lm.status_lines(status))
        status["daemon"]["client_start"] = "reparsed"
        self.assertIn("install DIR", " ".join(lm.status_lines(status)))

    def test_metrics_of_odd_names(self):
        odd = 'a"b\\n\nd'
        status = made_status([*self.HOSTS, {"name": odd}], queue={"waiting": 1, "by_user": {odd: 1}})
        found = openmetrics(self, "\n".join([*lm.metric_lines(status), ""]).encode())
        self.assertEqual(found["distcc_lm_host_slots", ("host", odd)], 8)
        self.assertNotIn(("distcc_lm_host_load", ("host", "down")), found)

    def test_why(self):
        row = {"age_s": 12.0, "source": "/x/a.c", "size_kb": 80, "choice": "b1", "reason": None, "predicted_s": 0.4,
               "actual_s": 0.5, "outcome": "ok", "candidates": [["b1", 0.41, ""], ["b2", 0.9, "full"]],
               "events": [[0.2, "b3: the host went silent"]], "spans": [{"what": "turn", "s": 1.5},
                                                                      {"what": "compile", "s": 0.45}]}
        rows = (
            ({}, "Sent to b1, which was expected to have it done in 0.41 s. Also weighed: b2 0.90 s after waiting. "
                 "After 0.20 s: b3: the host went silent. It waited 1.50 s for its turn to be preprocessed, compiling "
                 "0.45 s. There it took 0.50 s, predicted 0.40 s (+25 %). It ended well."),
            ({"choice": "local", "reason": "link", "actual_s": None, "events": [], "candidates": [],
              "outcome": "ran here", "spans": []},
             "Compiled on this box: %s." % lm.LOCAL_REASONS["link"]),
            ({"choice": None, "actual_s": None, "outcome": None, "events": [], "spans": []},
             "Not decided yet: it waits for the first free slot. Weighed so far: b1 0.41 s; b2 0.90 s after waiting. "
             "It has not ended yet."),
            ({"choice": "b9", "candidates": [], "events": [], "spans": [], "actual_s": None, "outcome": "cancelled"},
             "Sent to b9, the first to have a free slot. Its client went away before the end."),
        )
        for change, wanted in rows:
            with self.subTest(wanted):
                self.assertEqual(" ".join(lm.why_sentences({**row, **change})), wanted)
        lines = lm.why_lines([row], 60)
        self.assertEqual(lines[0], "/x/a.c (80 KB preprocessed), 12 s ago")
        self.assertLessEqual(max(map(len, lines)), 60)


class Check(FarmCase):
    def test_hosts(self):
        folder = new_folder()
        os.symlink("/usr/bin/g++", folder + "/g++")
        good, lacking, full = self.farm.worker(), self.farm.worker("--compilers", folder), self.farm.worker()
        draining = self.farm.worker()
        stranger = self.farm.start("--allow", "192.0.2.1", "--compilers", compilers())
        distccd = self.farm.add(RealDistccd())
        daemon = self.farm.submitter(good, lacking, draining, full, ready=False, options=(
            "--peer", stranger.address, "--peer", "127.60.0.9:1", "--peer", "no-such-host.invalid:1",
            "--hosts", distccd.address))
        self.assertEqual(command("drain", sock=draining.socket).code, 0)
        daemon.until(lambda s: sum(h["state"] == "up" for h in s["hosts"]) == 5
                     and any(h["state"] == "draining" for h in s["hosts"]))
        done = command("check", sock=daemon.socket)
        self.assertEqual(done.code, 1, done)
        lines = done.out.decode().splitlines()
        self.assertIn(daemon.socket, lines[0])
        rows = {line.split()[0]: (line, lines[i + 1]) for i, line in enumerate(lines[:-1])}
        for host, words, advice in (
                (good.address, "  ok  .*round trip .* ms, .* MB/s, compile .* s", ""),
                (full.address, "  ok  ", ""), (distccd.address, "  ok  .*compile and transfer", ""),
                (lacking.address, "FAILED  the host does not offer this compiler$", "same version of the compiler"),
                (draining.address, "FAILED  the host takes no new jobs", "drain off"),
                (stranger.address, "FAILED  the host does not serve this address", "--allow"),
                ("127.60.0.9:1", "FAILED  the host cannot be reached: Connection refused", "firewall"),
                ("no-such-host.invalid:1", "FAILED  the host cannot be reached: its name is not known", "daemon")):
            with self.subTest(words):
                self.assertRegex(rows[host][0], words)
                self.assertIn(advice, rows[host][1])
        self.assertEqual(lines[-1], "8 hosts, 5 failed")
        daemon.idle()

    def test_all_well(self):
        _, daemon = self.farm.pair()
        done = command("check", sock=daemon.socket)
        self.assertEqual((done.code, done.out.splitlines()[-1]), (0, b"1 host, 0 failed"), done)
        done = command("check", "no-such-compiler", sock=daemon.socket)
        self.assertEqual((done.code, done.err.count(b"\n")), (2, 1))
        self.assertIn(b"no-such-compiler: command not found", done.err)

    @needs("clang")
    def test_clang(self):
        folder = new_folder()
        os.symlink("/usr/bin/clang", folder + "/clang")
        _, daemon = self.farm.pair("--compilers", folder)
        done = command("check", "clang", sock=daemon.socket)
        if LANDLOCK:
            self.assertEqual((done.code, done.out.splitlines()[-1]), (0, b"1 host, 0 failed"), done)

    def test_wrong_object(self):
        wrong = self.farm.add(FaultyPeer())
        wrong.object = b"no object"
        daemon = self.farm.submitter(wrong.address, ready=False)
        daemon.until(lambda s: s["hosts"][1]["state"] == "up")
        done = command("check", sock=daemon.socket)
        self.assertEqual(done.code, 1, done)
        self.assertRegex(done.out.decode(), "FAILED  its object is not the one that this box makes\\n")

    def test_no_host(self):
        daemon = self.farm.start()
        done = command("check", sock=daemon.socket)
        self.assertEqual(done.code, 1)
        self.assertIn(b"--peer", done.out)


class JournalLines(FarmCase):
    def test_levels_and_a_line_a_job(self):
        """On a stream that JOURNAL_STREAM names lines begin with their level; elsewhere with the program's name."""
        path = new_folder() + "/journal"
        script = 'exec 2>>%s; JOURNAL_STREAM=$(stat -Lc %%d:%%i /dev/stderr) exec "$0" "$@"' % path
        words = ["--listen", loopback() + ":0", "--socket", path + ".s", "--state", path + ".state", "--broadcast",
                 "none", "--hosts", "", "--allow", "127.0.0.0/8", "--compilers", compilers(), "--procfs", idle_procfs()]
        process = subprocess.Popen(["sh", "-c", script, program(), "daemon", *words], env=environment())
        self.addCleanup(lambda: (process.kill(), process.wait()))
        self.assertTrue(eventually(lambda: b"serving on" in contents(path)), contents(path))
        daemon = self.farm.submitter(ask(path + ".s", "status")[1]["daemon"]["address"])
        name = self.sources.make(MEDIUM_SOURCE)
        self.assertEqual(self.cc(daemon, "gcc", "-c", name, "-o", "o").code, 0)
        self.cc(daemon, "gcc", "o", "-o", "nothing")
        self.assertTrue(eventually(lambda: b"<6>job " in contents(path)))
        lines = contents(path).decode().splitlines()
        self.assertEqual([line for line in lines if not re.match("<[3467]>[^ ]", line)], [])
        self.assertRegex([line for line in lines if "<6>job " in line][0],
                         r"^<6>job \S+ from 127\S+: ok, \d+ KB in, \d+ KB out, waited \d+ ms, took \d+ ms, cpu \d+ ms")
        self.assertTrue(eventually(lambda: "ran here" in daemon.text()))
        self.assertRegex(daemon.text(), r"distcc_lm: info: \S+/%s of uid %d: ok on 127\S+, \d+ KB, \d+\.\d\d s, of "
                         r"which waiting \d\.\d\d s, compiling \d\.\d\d s" % (name, os.getuid()))
        self.assertRegex(daemon.text(), "distcc_lm: info: .* ran here: neither -c nor -S")


class Drain(FarmCase):
    """Nothing is lost, whatever host goes when."""

    def build(self, daemon, count=30):
        folder = new_folder()
        demo_tree(folder, count)
        return folder, subprocess.Popen(
            ["make", "-s", "-C", folder, "-j6", "CC=%s cc gcc" % program()], env=environment(daemon.socket),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def whole(self, folder, make):
        output = make.communicate(timeout=120)[0]
        self.assertEqual((make.returncode, output), (0, b""))
        self.assertEqual(run([folder + "/prog"]).code, 0)

    def test_upgrade_of_a_host_under_load(self):
        """As the README says: drain --wait, exchange the file, start again."""
        old = new_folder() + "/distcc_lm.py"
        shutil.copy(program(), old)
        first, other = self.farm.worker(prog=old), self.farm.worker()
        daemon = self.farm.submitter(first, other)
        folder, make = self.build(daemon)
        daemon.until(lambda s: next(h for h in s["hosts"] if h["name"] == first.address)["jobs"]["ok"] > 2)
        done = command("drain", "--wait", sock=first.socket)
        self.assertEqual((done.code, done.out.splitlines()[-1]), (0, b"no job of others is left"))
        first.process.terminate()
        self.assertEqual(first.process.wait(DEADLINE_S), 0)
        write(old, re.sub('(?m)^VERSION = .*', 'VERSION = "9.8.7"', read_text(program())), 0o755)
        again = self.farm.worker("--listen", first.address, prog=old)
        daemon.until(lambda s: next(h for h in s["hosts"] if h["name"] == again.address)["version"] == "9.8.7")
        self.whole(folder, make)
        status = daemon.status()
        self.assertEqual((status["totals"]["fallback"], [h["jobs"]["failed"] for h in status["hosts"]]), (0, [0, 0, 0]))

    def test_drain_waits_for_who_holds_a_slot(self):
        worker = self.farm.worker()
        with Wire(worker) as wire:
            self.assertEqual(wire.ask_slot().admission()[0], "granted")
            wire.send(lm.encode_job([os.fsencode(word) for word in ARGV], 1000) + b"half of it")
            process = subprocess.Popen([program(), "drain", "--wait"], env=environment(worker.socket),
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(process.stderr.readline(), b"waiting for 1 job of others\n")
            self.assertIsNone(process.poll())
        output, _ = process.communicate(timeout=DEADLINE_S)
        self.assertEqual((process.returncode, output.splitlines()[-1]), (0, b"no job of others is left"))

    def test_sigterm_under_load(self):
        """Of a worker, then of the submitter's own daemon."""
        first, other = self.farm.worker(), self.farm.worker()
        daemon = self.farm.submitter(first, other)
        folder, make = self.build(daemon)
        daemon.until(lambda s: any(h["mine"] and h["name"] == first.address for h in s["hosts"]))
        first.process.terminate()
        self.assertEqual(first.process.wait(DEADLINE_S), 0)
        self.assertEqual(daemon.status()["totals"]["fallback"], 0)
        daemon.process.terminate()
        self.assertEqual(daemon.process.wait(DEADLINE_S), 0)
        self.whole(folder, make)


# ==== Section 13: install =============================================================================================

class Install(unittest.TestCase):
    def setUp(self):
        self.folder = new_folder()
        shutil.copy(program(), self.folder + "/distcc_lm.py")
        self.bin = self.folder + "/links"

    def run_it(self, *words, **more):
        return run([self.folder + "/distcc_lm.py", "install", *words], self.folder, environment(**more))

    def test_links_compile(self):
        done = self.run_it(self.bin)
        self.assertEqual((done.code, done.err), (0, b""), done)
        self.assertIn("distcc_lm.py gcc g++", done.out.decode())
        self.assertIn("%s, compiled" % sys.executable, done.out.decode())
        cache = self.folder + "/__pycache__/"
        self.assertEqual(sorted(os.listdir(cache)), sorted(
            name % sys.implementation.cache_tag for name in ("client.%s", "distcc_lm.%s.pyc")))
        self.assertTrue(all(not os.readlink(self.bin + "/" + name).startswith("/") for name in os.listdir(self.bin)))
        stamps = {name: os.stat(cache + name).st_mtime_ns for name in os.listdir(cache)}
        write(self.folder + "/a.c", "int f(void) { return 1; }\n")
        path = self.bin + ":" + PATH
        self.assertEqual(run(["gcc", "-c", "a.c", "-o", "a.o"], self.folder, environment(PATH=path))[:3], (0, b"", b""))
        self.assertGreater(os.path.getsize(self.folder + "/a.o"), 0)
        self.assertEqual(run(["distcc_lm.py", "--version"], "/", environment(PATH=path)).code, 0)
        self.assertEqual({name: os.stat(cache + name).st_mtime_ns for name in os.listdir(cache)}, stamps)
        self.assertEqual(self.run_it(self.bin).code, 0)         # again: nothing is in the way
        done = self.run_it("--remove", self.bin)
        self.assertEqual((done.code, os.path.exists(self.bin), os.path.exists(self.folder + "/distcc_lm.py")),
                         (0, False, True), done)

    def test_named_and_foreign(self):
        os.mkdir(self.bin)
        write(self.bin + "/gcc", "mine\n")
        done = self.run_it(self.bin, "cc", "gcc")
        self.assertEqual((done.code, done.out, done.err.count(b"\n")), (2, b"", 1))
        self.assertIn(b"/links/gcc: exists and is no link", done.err)
        self.assertEqual(os.listdir(self.bin), ["gcc"])
        self.assertEqual(self.run_it(self.bin, "g++").code, 0)
        self.assertEqual(self.run_it("--remove", self.bin).code, 0)
        self.assertEqual(contents(self.bin + "/gcc"), b"mine\n")
        self.assertEqual(self.run_it("--remove", self.bin).code, 1)
        self.assertEqual(self.run_it("--remove", "/nonexistent").code, 2)
        self.assertEqual(self.run_it("/proc/nothing").code, 2)

    @needs("systemd-analyze")
    def test_unit(self):
        done = self.run_it("--unit")
        self.assertEqual((done.code, done.err), (0, b""))
        unit = write(self.folder + "/distcc_lm.service", done.out)
        checked = run(["systemd-analyze", "verify", unit], timeout=120)
        self.assertEqual((checked.code, checked.out + checked.err), (0, b""))
        self.assertIn(b"Type=notify", done.out)

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    @needs("setpriv")
    def test_unit_leaves_the_daemon_what_it_needs(self):
        """With the unit's capabilities and NoNewPrivileges, its folders and READY=1; options from an @FILE."""
        unit = self.run_it("--unit").out.decode()
        powers = re.search("(?m)^CapabilityBoundingSet=(.*)", unit)[1].lower().replace("cap_", "+").split()
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(notify.close)
        notify.bind(self.folder + "/notify")
        notify.settimeout(DEADLINE_S)
        write(self.folder + "/conf", "# a farm of one\n\n--listen 127.60.0.1:0\n--allow 127.0.0.0/8\n"
              "--compilers=%s\n--socket %s/s\n--state %s/state\n--broadcast none\n--procfs %s\n" % (
                  compilers(), self.folder, self.folder, idle_procfs()))
        log = open(self.folder + "/log", "wb")
        process = subprocess.Popen(
            ["setpriv", "--bounding-set=-all," + ",".join(powers), "--no-new-privs", self.folder + "/distcc_lm.py",
             "daemon", "@" + self.folder + "/conf", "--hosts", ""],
            env=environment(NOTIFY_SOCKET=self.folder + "/notify"), stdout=log, stderr=log)
        self.addCleanup(lambda: (process.kill(), process.wait(), log.close()))
        self.assertEqual(notify.recv(100), b"READY=1")
        address = ask(self.folder + "/s", "status")[1]["daemon"]["address"]
        with LoopbackFarm() as farm:
            daemon, sources = farm.submitter(address), Sources()
            name = sources.make()
            self.assertEqual(cc(daemon.socket, "gcc", "-c", name, "-o", "o", cwd=sources.folder,
                                env={"DISTCC_LM_FALLBACK": "0"})[:3], (0, b"", b""))
        process.terminate()
        self.assertEqual(notify.recv(100), b"STOPPING=1")
        self.assertEqual(process.wait(DEADLINE_S), 0, contents(self.folder + "/log"))

    def test_daemon_says_what_is_wrong(self):
        rows = (("--pid-file /nonexistent/p", "--pid-file /nonexistent/p: No such file"),
                ("--detach --pid-file /nonexistent/p", "--pid-file /nonexistent/p: No such file"),
                ("--procfs /nonexistent", "--procfs /nonexistent: no such folder"),
                ("--log-file /nonexistent/l", "--log-file /nonexistent/l: No such file"),
                ("--socket %s" % write(self.folder + "/plain", ""), "/plain: exists and is no socket"),
                ("--socket /nonexistent/s", "--socket /nonexistent/s: No such file"),
                ("--listen 192.0.2.1:5", "--listen 192.0.2.1:5: "),
                ("--user nosuch --allow ::1", "--user nosuch: no such user"))
        for row, words in rows:
            with self.subTest(row):
                done = run([program(), "daemon", "--listen", "127.60.0.1:0", "--socket", self.folder + "/s",
                            "--hosts", "", "--state", self.folder + "/state", "--broadcast", "none", *row.split()])
                self.assertIn(done.code, (1, 2))
                self.assertEqual((done.out, done.err.count(b"\n")), (b"", 1), done)
                if not row.startswith("--user") or os.geteuid() == 0:
                    self.assertIn(words, done.err.decode())
        self.assertFalse(os.path.exists(self.folder + "/plain.lock"))

    def test_options_file(self):
        write(self.folder + "/conf", "--slots x\n")
        for argument, words in (("@conf", b"'x' is no number of slots"), ("@nothing", b"nothing")):
            done = run([self.folder + "/distcc_lm.py", "daemon", argument], self.folder)
            self.assertEqual((done.code, done.err.count(b"\n")), (2, 1), done)
            self.assertIn(words, done.err)

    def test_make_install(self):
        """Into a DESTDIR, moved to its place as a package is, removed again."""
        here, stage, prefix = os.path.dirname(os.path.abspath(PROGRAM)), self.folder + "/stage", self.folder + "/usr"
        make = ["make", "-s", "-C", here, "PREFIX=" + prefix, "PYTHON=" + sys.executable]
        done = run([*make, "install", "DESTDIR=" + stage], env=environment())
        self.assertEqual((done.code, done.err), (0, b""), done)
        os.rename(stage + prefix, prefix)
        self.assertIn('ExecStart="%s/lib/distcc_lm/distcc_lm.py"' % prefix,
                      read_text(prefix + "/lib/systemd/system/distcc_lm.service"))
        write(self.folder + "/a.c", "int f(void) { return 1; }\n")
        env = environment(PATH="%s/lib/distcc_lm/bin:%s/bin:%s" % (prefix, prefix, PATH))
        self.assertEqual(run(["gcc", "-c", "a.c"], self.folder, env)[:3], (0, b"", b""))
        self.assertEqual(run(["distcc_lm.py", "--version"], self.folder, env).code, 0)
        spec = importlib.util.spec_from_file_location("installed", prefix + "/lib/distcc_lm/distcc_lm.py")
        installed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(installed)
        self.assertEqual(installed.import_daemon_modules() or installed.client_start(), "cached")
        done = run([*make, "uninstall"], env=environment())
        self.assertEqual((done.code, done.err), (0, b""), done)
        self.assertEqual([name for _, _, names in os.walk(prefix) for name in names], [])


# ==== Section 14: CLI =================================================================================================

COMMAND_NAMES = ("daemon", "cc", "status", "why", "explain", "jobs", "drain", "check", "install")


class CommandLine(unittest.TestCase):
    maxDiff = 2000

    def one_line(self, done, code=2):
        self.assertEqual((done.code, done.out, done.err.count(b"\n")), (code, b"", 1), done)
        self.assertTrue(done.err.startswith(b"distcc_lm: "), done.err)

    def test_version_and_help(self):
        done = command("--version")
        self.assertEqual((done.code, done.out), (0, b"distcc_lm %s\n" % lm.VERSION.encode()))

        def check(words):
            return words, command(*words)
        for words, done in together([["--help"]] + [[name, "--help"] for name in COMMAND_NAMES], check):
            with self.subTest(words):
                self.assertEqual((done.code, done.err), (0, b""))
                self.assertIn(b"usage", done.out.lower())

    def test_daemon_help_names_every_option(self):
        text = command("daemon", "--help").out.decode()
        for option in ("listen socket slots allow peer use hosts broadcast secret-file user nice job-timeout min-memory"
                       " max-job-mb tmpdir compilers contain state procfs log-level log-file pid-file detach").split():
            self.assertIn("--" + option, text)

    def test_wrong_usage(self):
        rows = (["frobnicate"], ["--frobnicate"], ["status", "--frobnicate"], ["daemon", "--frobnicate"],
                ["status", "--json", "--metrics"], ["status", "--watch", "0"], ["status", "--html"], ["install"],
                ["install", "/x", "--unit"], ["install", "/x", "--remove", "/x"], ["install", "/nonexistent/x", "ls"],
                ["drain", "maybe"], ["jobs", "5"], ["daemon", "extra"], ["explain"], ["cc"], ["daemon", "--slots"])

        def check(words):
            return words, command(*words, sock="/nonexistent/socket")
        for words, done in together(rows, check):
            with self.subTest(words):
                self.one_line(done)
        self.assertEqual(command().code, 2)

    def test_bad_values(self):
        rows = ("--listen nonsense", "--listen 127.0.0.1:99999", "--listen localhost:5", "--slots 0", "--slots x",
                "--slots -1", "--allow 1.2.3.4/99", "--allow somewhere", "--peer a:b", "--peer host:0x10",
                "--use nowhere", "--use 10.0.0.0/8:0", "--hosts h/0", "--hosts h,frob", "--broadcast somewhere",
                "--broadcast ::1",
                "--nice 99", "--job-timeout 0", "--min-memory x", "--max-job-mb 0", "--contain maybe",
                "--log-level loud", "--socket /" + "x" * 120)

        def check(row):
            return row, command("daemon", "--listen", "127.0.0.1:0", "--broadcast", "none", *row.split(" ", 1))
        for row, done in together(rows, check):
            with self.subTest(row):
                self.one_line(done)
                value = row.split()[1].encode()[:20]
                self.assertTrue(value in done.err or repr(value.rpartition(b":")[2]).encode()[1:] in done.err)

    def test_explain(self):
        folder = new_folder()
        write(folder + "/a.c", "int x;\n")
        done = run([program(), "explain", "gcc", "-O2", "-c", "a.c"], folder)
        lines = done.out.decode().splitlines()
        self.assertEqual((done.code, done.err, lines[:3]), (0, b"", ["distribute", "input: a.c", "output: a.o"]))
        os.mkfifo(folder + "/fifo.c")
        os.symlink("a.c", folder + "/link.c")
        write(folder + "/script-gcc", "#!/bin/sh\nexec gcc \"$@\"\n", 0o755)
        write(folder + "/old.s", "old", 0o600)
        run(["gcc", "-x", "c", "-", "-o", "wrapper-gcc"], folder, stdin=b"int execv();\n"
            b'int main(int c, char **v) { v[0] = "/usr/bin/gcc"; return execv(v[0], v); }\n')
        for words in (["gcc", "a.c", "-o", "a"], ["gcc", "-E", "a.c"], ["gcc", "-c", "a.c", "-march=native"],
                      ["no-such-compiler"], ["ls", "-l"], ["gcc", "-c", "a.c", "-o", "-"],
                      ["gcc", "-c", "a.c", "-o", "/dev/null"], ["gcc", "-c", "a.c", "-o", "./a.c"],
                      ["gcc", "-c", "link.c", "-o", "a.c"], ["gcc", "-c", "a.c", "-o", "link.c"],
                      ["gcc", "-c", "a.c", "-o", "."], ["gcc", "-S", "a.c", "-o", "old.s"],
                      ["gcc", "-MMD", "-MF", "./a.c", "-c", "a.c"], ["gcc", "-c", "fifo.c"],
                      ["gcc", "-x", "c", "-c", "/dev/null"], ["./script-gcc", "-c", "a.c"],
                      ["./wrapper-gcc", "-c", "a.c"]):
            with self.subTest(words):
                done = run([program(), "explain", *words], folder)
                self.assertEqual((done.code, done.err), (0, b""))
                self.assertRegex(done.out.decode().splitlines()[0], "^local: .")
        write(folder + "/as", "#!/bin/sh\nexit 1\n", 0o755)
        os.mkdir(folder + "/bin")
        write(folder + "/bin/gcc", "#!/bin/sh\nexec /usr/bin/gcc\n", 0o755)
        for env in ({"GCC_EXEC_PREFIX": "/x"}, {"PATH": folder + ":" + PATH}, {"PATH": folder + "/bin:" + PATH},
                    {"DISTCC_LM_DISABLE": "1"}):
            done = run([program(), "explain", "gcc", "-c", "a.c"], folder, environment(**env))
            self.assertRegex(done.out.decode(), "^local: ")
        done = run(["sh", "-c", "mkdir gone && cd gone && rmdir ../gone && exec %s explain gcc -c %s/a.c 2>&1" % (
            program(), folder)], folder)
        self.assertRegex(done.out.decode().splitlines()[-1], "^local: .*No such file or directory$")

    def test_called_in_other_ways(self):
        """By python3, from another folder, by a link, with spaces in the path."""
        folder = new_folder() + "/a b"
        os.mkdir(folder)
        shutil.copy(program(), folder + "/distcc_lm.py")
        os.chmod(folder + "/distcc_lm.py", 0o755)
        os.symlink("distcc_lm.py", folder + "/dlm")
        version = b"distcc_lm %s\n" % lm.VERSION.encode()
        for argv in ([sys.executable, folder + "/distcc_lm.py"], [folder + "/distcc_lm.py"], [folder + "/dlm"],
                     ["./distcc_lm.py"], ["sh", "./distcc_lm.py"]):
            with self.subTest(argv):
                done = run([*argv, "--version"], folder)
                self.assertEqual((done.code, done.out, done.err), (0, version, b""))
        done = run(["distcc_lm.py", "--version"], "/", environment(PATH=folder + ":" + PATH))
        self.assertEqual(done.out, version)


class Readme(unittest.TestCase):
    """What it says is so: options and variables by the parsers, both ways; commands by running them."""

    def setUp(self):
        self.here = os.path.dirname(os.path.abspath(PROGRAM))
        self.text = read_text(self.here + "/README")
        found = re.split(r"(?m)^(.+)\n-+$", self.text)
        self.sections = dict(zip(found[1::2], found[2::2]))

    def test_options(self):
        lm.import_daemon_modules()
        parser = lm.command_line_parser()
        commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
        known = {name: {option for action in command._actions for option in action.option_strings
                        if option.startswith("--")} for name, command in commands.items()}
        known[""] = {"--version", "--help"}
        option = r"(?<![\w-])--[a-z][a-z-]*"
        listed = set(re.findall(r"(?m)^    (%s)" % option, self.sections["The daemon's options"]))
        self.assertEqual(listed, known["daemon"] - {"--help"})
        listed = set(re.findall(option, self.sections["Commands"]))
        others = set().union(*(options for name, options in known.items() if name != "daemon"))
        self.assertEqual(listed, others)
        self.assertEqual([name for name in commands if "distcc_lm.py " + name not in self.sections["Commands"]], [])
        used = set(re.findall(r"distcc_lm\.py (?:[a-z]+ )?(--[a-z-]+)", self.text))
        self.assertLessEqual(used, set().union(*known.values()))

    def test_variables(self):
        read = set(re.findall(r"DISTCC_LM_[A-Z_]+", read_text(PROGRAM)))
        listed = re.findall(r"(?m)^    (DISTCC_LM_[A-Z_]+)", self.sections["The client's environment"])
        self.assertEqual(sorted(listed), sorted(read))

    def commands_of(self, section):
        """Its lines that begin with a prompt, those that go on with a backslash as one."""
        return [re.sub(r"\\\n +", " ", command) for command in
                re.findall(r"(?m)^    \$ ((?:.*\\\n)*.*)$", self.sections[section])]

    @needs("gcc", "make", "ccache", "cmake", "meson", "ninja")
    def test_commands(self):
        sections = [name for name in self.sections if self.commands_of(name)]
        self.assertEqual(sections, ["Quick start", "A farm of three", "In builds"])

        def check(name):
            folder = new_folder()
            for file in ("distcc_lm.py", "test_distcc_lm.py", "Makefile", "README", "LICENSE"):
                shutil.copy(self.here + "/" + file, folder)
            env = environment(HOME=folder, PYTHON=sys.executable, TMPDIR="/tmp")
            script = write(folder + "/commands", "\n".join(self.commands_of(name)) + "\n")
            try:
                done = run(["bash", "-ex", script], folder, env, timeout=240)
            finally:
                for path in glob.glob(folder + "/*.pid"):
                    with contextlib.suppress(OSError, ValueError):
                        os.kill(int(read_text(path)), signal.SIGKILL)
            return name, done
        for name, done in together(sections, check):
            with self.subTest(name):
                self.assertEqual(done.code, 0, (done.err.decode("utf-8", "replace") + done.out.decode())[-3000:])
                # One core here and one slot there, which `check` has just used: on a busy machine it is this or that.
                went = "Sent to 127.60.1.2|Compiled on this box: this box has a free core"
                for words in {"Quick start": ("hello", went, "1 host, 0 failed", "parts"),
                              "A farm of three": ("2 hosts, 0 failed", "no job of others is left")}.get(name, ()):
                    self.assertRegex(done.out.decode(), words)


# ==== Both ways through a farm: each command by the bare compiler, then by the client, in the same folder =============
# The worker sees none of the sources: an empty tmpfs lies over them there (as root), and Landlock keeps the compilers
# in. A row is a command line as a shell reads it, and can be pasted from a failure into FOUND_ROWS.

# line: [NAME=VALUE...] COMPILER ARGUMENT..., $PWD being the folder; files: {path: text} beside the common ones;
# prepare(folder): what else must be there, it may return a function whose result is compared, too; where: "remote", the
# name of the reason why it must be local, or None; other: run as another user.
Case = collections.namedtuple("Case", "line files prepare where other", defaults=({}, None, None, False))
# What a run left: files {path: (mode, content)}; extra: result of what prepare() returned.
Left = collections.namedtuple("Left", "code out err files extra")
TEMPORARY_NAME = re.compile(rb"/tmp/(cc\w{6}|[^/\s:]+-[0-9a-f]{6})(?=\.\w)")
CLOCK = re.compile(rb"\d\d:\d\d:\d\d|[A-Z][a-z][a-z] [ \d]\d \d{4}")     # no \b: they stand side by side in objects


@functools.lru_cache(None)
def every_compiler():
    """A folder for --compilers with all that the rows and tools below run, so far as it is installed."""
    folder = new_folder()
    for name in ("gcc", "g++", "clang", "clang++", "aarch64-linux-gnu-gcc"):
        path = shutil.which(name, path=PATH)
        if path:
            os.symlink(path, folder + "/" + name)
    return folder


def blinded(prog, folder):
    """A program that runs `prog` with an empty tmpfs over `folder`; as another user than root `prog` itself."""
    if not (ROOT and shutil.which("unshare")):
        return prog
    mount = 'mount -t tmpfs -o mode=755 none "$1" && shift && exec "$@"'
    script = "#!/bin/sh\nexec unshare -m sh -c '" + mount + "' sh %s %s \"$@\"\n"
    return write(new_folder() + "/blinded", script % (folder, prog), 0o755)


def macros_of(path):
    """The macros in the debug information, which -g3 writes; their order is that of sections."""
    return sorted(line.split(" : ", 2)[-1] for line in binary_tool("readelf", "--debug-dump=macro", path).splitlines()
                  if "DW_MACRO_define" in line or "DW_MACRO_undef" in line)


def lines_of(path):
    """The map from addresses to lines: (file, line, first address). Macros of preprocessed text have other columns,
    so that further rows, of the same line, may follow."""
    rows = re.findall(r"(?m)^(.*\S) +(\d+|-) +(0x[0-9a-f]+|0)(?: .*)?$",
                      binary_tool("readelf", "-W", "--debug-dump=decodedline", path))
    return [next(group) for _, group in itertools.groupby(rows, lambda row: row[:2])]


def lines_without_folders(path):
    """The same of clang. Its file table holds the source once or twice, and readelf shows the folder with the one and
    not with the other; addr2line knows better."""
    first = binary_tool("addr2line", "-e", path, "-j", ".text", "0").strip()
    return [(name.rpartition("/")[2], *row) for name, *row in lines_of(path)], os.path.normpath(first)


def compiled_further(path, content):
    """Link-time code holds columns, as debug information does: what comes of it must be equal, so go on to an object
    (with gcc's, object_looks() does)."""
    if content[:4] == b"BC\xc0\xde":
        run(["clang", "-c", "-x", "ir", path, "-o", path + ".o"])
    elif b".gnu.offload_lto_" in content:
        run(["objcopy", "-w", "-R", ".gnu.offload_lto_*", path, path + ".o"])
    elif b".gnu.lto_" in content and content[:4] != b"\x7fELF":
        run(["gcc", "-c", "-x", "assembler", path, "-o", path + ".o"])
    return path + ".o" if os.path.exists(path + ".o") else path


def essence(content, line):
    """What must be equal of a file: of an object all but the encoding of its debug information."""
    path = compiled_further(write(new_folder() + "/o", content), content)
    looks = object_looks(path, "clang" in line)
    if "lines" in looks and "clang" in line:
        # Where -I gives the source's folder by another name, clang's DW_AT_name has that; a debugger finds the same.
        folder = next((word for word in looks["info"] if word[:1] == "/"), "/")
        looks["info"] = [os.path.normpath(os.path.join(folder, word)) if "." in word else word
                         for word in looks["info"]]
        looks["lines"] = lines_without_folders(path)
    elif "lines" in looks:
        looks["lines"] = lines_of(path)
    if "-g3" in line or "-ggdb3" in line:
        looks["macros"] = macros_of(path)
    return looks


def files_of(folder):
    """{path: (mode, content)} of all below the folder; content is a link's target, or the device's number."""
    found = {}
    for top, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(top, name)
            state = os.lstat(path)
            content = state.st_rdev
            if stat.S_ISLNK(state.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(state.st_mode) and not name.endswith((".gch", ".pch")):   # these hold addresses
                content = contents(path)
            found[os.path.relpath(path, folder)] = oct(state.st_mode), content
    return found


def difference_of(alone, ours, line):
    """What differs between two runs, in a line, or None."""
    for name in ("code", "out", "err", "extra"):
        wanted, found = (getattr(left, name) for left in (alone, ours))
        if wanted != found:
            return "%s: %.700r instead of %.700r" % (name, found, wanted)
    if set(alone.files) != set(ours.files):
        return "files: too many %s, missing %s" % (sorted(set(ours.files) - set(alone.files)),
                                                   sorted(set(alone.files) - set(ours.files)))
    for path, (mode, content) in alone.files.items():
        found_mode, found = ours.files[path]
        if mode != found_mode:
            return "mode of %s: %s instead of %s" % (path, found_mode, mode)
        if content == found or not isinstance(content, bytes):
            continue
        looks, found_looks = (essence(each, line) for each in (content, found))
        for name in looks:
            if looks[name] != found_looks.get(name):
                return "%s of %s: %.300r instead of %.300r" % (name, path, found_looks.get(name), looks[name])
    return None


class BlindFarm(unittest.TestCase):
    """A worker that sees no source and a submitter, for all tests of a class."""
    TUNABLES = {}                                           # of the submitter
    COMMON = {}                                             # files in the folder of each row: {path: text}
    FOLDERS = ()
    maxDiff = 3000

    @classmethod
    def setUpClass(cls):
        cls.farm, cls.top, cls.count = LoopbackFarm(), new_folder(), itertools.count(1)
        try:
            cls.worker = cls.farm.worker("--compilers", every_compiler(), prog=blinded(program(), cls.top))
            cls.daemon = cls.farm.submitter(cls.worker, prog=program(**cls.TUNABLES))
        except BaseException:
            cls.farm.__exit__(Exception)
            raise

    @classmethod
    def tearDownClass(cls):
        cls.farm.__exit__(None)

    def tree(self, folder, case):
        """The files of a case, all of one age."""
        os.mkdir(folder)
        for name in self.FOLDERS:
            os.mkdir(folder + "/" + name)
        for name, text in (*self.COMMON.items(), *case.files.items()):
            write(folder + "/" + name, text)
            os.utime(folder + "/" + name, (10 ** 9, 10 ** 9))
        if case.other:
            for top, _, names in os.walk(folder):
                for path in (top, *(os.path.join(top, name) for name in names)):
                    os.chown(path, OTHER_UID, OTHER_UID)
        return case.prepare(folder) if case.prepare else None

    def one_way(self, folder, case, ours):
        """Make the tree, run the command, take away all that is there; a Left."""
        after = self.tree(folder, case)
        words, env = shlex.split(case.line.replace("$PWD", folder)), {"PWD": folder}
        while "=" in words[0]:
            name, _, env[name] = words.pop(0).partition("=")
        if ours:
            words[:0] = [program(), "cc"]
        more = {}
        if case.other:
            more = {"user": OTHER_UID, "group": OTHER_UID, "extra_groups": []}
            env.update(HOME="/", DISTCC_LM_PYTHON=python_for_all())
        try:
            done = run(words, folder, environment(self.daemon.socket if ours else None, **env), **more)
        except subprocess.TimeoutExpired:
            done = Ran("no end", b"", b"", 0)
        extra = after() if after else None
        left = Left(done.code, done.out, TEMPORARY_NAME.sub(b"TEMP", done.err), files_of(folder), extra)
        shutil.rmtree(folder)
        return left

    def where(self, folder):
        """"remote" or the reason why not, of the last compile in that folder; "" where the daemon was not asked."""
        def ended():
            rows = [d for d in ask(self.daemon.socket, "why", "400")[1] if d["source"].startswith(folder + "/")]
            return not rows or rows[-1]["outcome"] and (rows[-1],)
        row = eventually(ended)
        if row is True:
            return ""
        assert row, "a decision without an outcome"
        return "remote" if row[0]["choice"] == self.worker.address and row[0]["outcome"] == "ok" else row[0]["reason"]

    def difference(self, case):
        """What differs, or None."""
        folder = "%s/%d" % (self.top, next(self.count))
        os.mkdir(folder)
        os.chmod(folder, 0o777)
        folder += "/w"
        alone, ours = self.one_way(folder, case, False), self.one_way(folder, case, True)
        if "TIME" in case.line:
            alone, ours = (left._replace(files={path: (mode, CLOCK.sub(b"NOW", text) if isinstance(text, bytes) else
                                                       text) for path, (mode, text) in left.files.items()})
                           for left in (alone, ours))
        difference = difference_of(alone, ours, case.line)
        if difference is None and case.where is not None:
            where, wanted = self.where(folder), case.where
            if where not in (wanted, lm.reason_text(wanted)):
                difference = "compiled: %s instead of %s" % (where, wanted)
        return difference

    def compare(self, cases):
        """A failed subtest, with a row to paste, for each case that differs."""
        for case, difference in zip(cases, together(cases, self.difference, 3)):
            with self.subTest(ascii(case.line)):
                self.assertIsNone(difference, "\n%s\n    %s,%s" % (ascii(difference), ascii(case.line), "".join(
                    "\n    %s: %s" % (ascii(name), ascii(text)) for name, text in case.files.items())))
        self.daemon.idle()

    def remote_count(self):
        return self.daemon.status()["totals"]["remote"]


# -- generated command lines

CLEAN_C = """#include <stddef.h>
#include <stdio.h>
#include <assert.h>
#include "h.h"
#ifndef WORD
#define WORD 1
#endif
#define MIN(a, b) ((a) < (b) ? (a) : (b))
static int square(int x) { return x * x; }
int f(int argc, char **argv) {
  assert(argc); printf("%s %d %s\\n", __FILE__, MIN(square(argc), WORD) + (int)sizeof(size_t), argv[0]);
  return H + square(
    argc); }
"""
CLEAN_CXX = """#include <cstddef>
#include "h.h"
namespace { struct Counter { Counter(); ~Counter(); int value; } counter; Counter::Counter() : value(H) {}
Counter::~Counter() {} }
template <class T> T larger(T a, T b) { return a < b ? b : a; }
int f(int x) { return larger(x, counter.value) + static_cast<int>(sizeof(std::size_t)); }
"""
WARNS = '#include "h.h"\nint g(int a) { int unused; if (a = H) return 1; return a / 0 + "x"; }\n'
FAILS = '#include "h.h"\nint g(void) { return undeclared + H; }\nint g(int;\n'
ASSEMBLER = '#include "h.h"\n.globl f\nf:\n#if H\nmovl $H, %eax\n#endif\nret\n'
LATIN_NAME = os.fsdecode(b"caf\xe9.c")
GENERATED_COMMON = {
    "h.h": '#include "sub/h2.h"\n#define H 3\n', "sub/h.h": "#define H 4\n", "sub/h2.h": "extern int declared;\n",
    "in c/pre.h": "#define PRE 1\nint from_pre(void);\n", "sys/sys.h": "static int noisy() { int unused; }\n",
    "t.c": CLEAN_C, "sub/t.c": CLEAN_C, "a b.c": CLEAN_C, "sub/a,b.c": CLEAN_C, "q'u\"o$.c": CLEAN_C,
    LATIN_NAME: CLEAN_C, "t.cc": CLEAN_CXX, "sub/t.cpp": CLEAN_CXX, "t.C": CLEAN_CXX, "sub/x y.cc": CLEAN_CXX,
    "warns.c": WARNS, "sub/warns.cc": WARNS.replace(' + "x"', ""), "fails.c": FAILS, "sub/fails.cpp": FAILS,
    "t.i": '# 1 "t.c"\n# 1 "/nonexistent//"\n# 1 "t.c"\nint f(int x) { return x * 3; }\n',
    "sub/t.i": '# 1 "sub/t.c"\nint f(int x) { return x * 3; }\n', "bare.i": "int f(int x) { return x * 3; }\n",
    "t.ii": '# 1 "t.cc"\n# 1 "/nonexistent//"\n# 1 "t.cc"\ntemplate <class T> T f(T x) { return x; }\n'
            "int g(int x) { return f(x); }\n",
    "t.S": ASSEMBLER, "sub/t.S": ASSEMBLER,
}
# Sources by how often they are drawn.
GENERATED_SOURCES = ("t.c sub/t.c t.cc sub/t.cpp t.C t.i t.ii t.S sub/t.S sub/t.i bare.i warns.c sub/warns.cc fails.c"
                     " sub/fails.cpp".split() + ["t.c", "sub/t.c", "t.cc", "sub/t.cpp"] * 5 +
                     ["a b.c", "sub/a,b.c", "q'u\"o$.c", LATIN_NAME, "sub/x y.cc", "$PWD/sub/t.c", "./sub/../t.c",
                      "absent.c", "../w/t.c"])
# Each line of a table: the chance that one of its words is taken, then these.
GENERATED_OPTIONS = (
    (0.6, "-O0 -O1 -O2 -O3 -Os -Og -O -Ofast"),
    (0.35, "-g -g1 -g2 -g3 -ggdb -ggdb3 -gdwarf-4 -gdwarf-5 -g0 -gz"),
    (0.5, "-Wall -Wextra -w -Werror -pedantic -Wshadow -Wno-unused -Wsystem-headers -Wunused-macros -Wundef"),
    (0.3, "-std=c99 -std=gnu11 -std=c11 -std=c++17 -std=gnu++14 -ansi -std=c17"),
    (0.4, "-fPIC -fno-exceptions -fno-common -fomit-frame-pointer -fno-strict-aliasing -fvisibility=hidden"
          " -ffunction-sections -fdata-sections -fstack-protector-strong -fwrapv -fno-builtin -fsigned-char"
          " -funsigned-char -fshort-enums -fno-asynchronous-unwind-tables -fno-plt -ffast-math -fno-ident"
          " -fdiagnostics-color=never -fdiagnostics-color=always -fmessage-length=40"),
    (0.15, "-m64 -march=x86-64 -msse4.2 -mtune=generic -mno-red-zone -mavx2"),
    (0.1, "-flto~-frandom-seed=1 -ffile-prefix-map=$PWD=. -fdebug-prefix-map=$PWD=/src -fmacro-prefix-map=sub=Q"),
    (0.4, "-DWORD=7 -D~WORD=9 -DNDEBUG -UNDEBUG -U~WORD -DTEXT=\"a\1b\" -D_FORTIFY_SOURCE=2 -Dunused=__unused__"),
    (0.4, "-I. -Isub -I~sub -iquote~sub -isystem~sys -I$PWD -Iabsent -idirafter~sys"),
    (0.15, "-include~sub/h2.h -include~in\1c/pre.h -imacros~sub/h.h -include~sys/sys.h -includeh.h"),
    (0.4, "-MD -MMD -MD~-MP -MMD~-MP -MD~-MF~out/deps -MMD~-MFx.d -MMD~-MT~target -MMD~-MQ~a$b -MP -MMD~-MF~n\1m.d"
          " -Wp,-MD,wp.d -Wp,-MMD,out/wp.d -MMD~-MT~a~-MT~b -MD~-MF~absent/d"),
    (0.1, "-pipe -pthread -ansi -trigraphs -nostdinc -v -save-temps -H -c~-c -Wl,-z,now -static -lm"),
)
GENERATED_OUTPUTS = ("", "", "", "-o~x.o", "-o~out/x.o", "-oout/y", "-o~sub/x.y.o", "-o~o\1b.o", "-o~$PWD/out/z.o",
                     "-o~absent/x.o", "-o~./x", "-o~o,q'.o")


def generated_line(rng):
    """A compiler's arguments as a shell would read them. In the tables ~ parts words and \\1 is a blank."""
    source = rng.choice(GENERATED_SOURCES)
    cxx = source.endswith((".cc", ".cpp", ".C", ".ii"))
    words = [word.replace("\1", " ") for chance, table in GENERATED_OPTIONS if rng.random() < chance
             for word in rng.choice(table.split()).split("~")
             if "-std=" not in word or ("++" in word) == cxx or rng.random() < 0.1]
    if rng.random() < 0.12:
        words += ["-x", "c++" if cxx else rng.choice(("c", "c++"))]
    output = rng.choice(GENERATED_OUTPUTS).replace("\1", " ").split("~")
    parts = [words, [rng.choice(("-c",) * 9 + ("-S",))], [source], list(filter(None, output))]
    if not rng.randrange(3) and "-x" not in words:
        parts = parts[1:] + parts[:1]
    return " ".join('"$PWD"' + shlex.quote(word[4:]) if word.startswith("$PWD") else
                    '%s"$PWD"%s' % tuple(shlex.quote(part) if part else "" for part in word.split("$PWD"))
                    if "$PWD" in word else shlex.quote(word) for part in parts for word in part)


# What once differed: a row for each.
FOUND_ROWS = (
    "gcc -MP -c t.c", "gcc -MT x -c t.cc", "gcc -MQ x -g -c sub/t.c", "gcc -MF x -c t.c", "gcc -Wp,-MP -c t.c",
    'clang -g -I"$PWD" -c t.c', "clang -g -I. -c ../w/t.c", "gcc -S -flto -frandom-seed=1 -c t.cc",
    "clang -Os -g -flto -c t.cc",
)


class BothWaysThroughFarm(BlindFarm):
    """Generated command lines, for gcc and for clang."""
    COMMON, FOLDERS = GENERATED_COMMON, ("sub", "out", "in c", "sys")

    def test_worker_sees_nothing(self):
        if not (ROOT and shutil.which("unshare")):
            self.skipTest("mounting needs root")
        write(self.top + "/seen", "")
        self.assertEqual(os.listdir("/proc/%d/root%s" % (self.worker.pid, self.top)), [])

    def test_generated(self):
        rng = random.Random("both ways %d" % SEED)
        lines = [generated_line(rng) for _ in range(150)]
        cases = [Case(name + " " + line) for line in lines for name in ("gcc", "clang") if shutil.which(name)]
        if not ALL_ROWS:
            cases = rng.sample(cases, len(cases) // 3)
        before = self.remote_count()
        self.compare(cases)
        totals = self.daemon.status()["totals"]
        self.assertGreater(totals["remote"] - before, len(cases) / 2, totals)

    def test_found(self):
        self.compare([Case(line) for line in FOUND_ROWS])

    def test_differences_are_seen(self):
        """The comparison itself: another macro in one of the ways is noticed, and so are other names and lines."""
        one = self.one_way(self.top + "/x", Case("gcc -O1 -g -c t.c"), False)
        for line, word in (("gcc -O1 -g -DWORD=2 -c t.c", "stripped"), ("gcc -O1 -g -c sub/../t.c", "stripped"),
                           ("gcc -O1 -g -fdebug-prefix-map=t.c=u.c -c t.c", "info"),
                           ("gcc -O1 -g -c t.c -MMD", "files"),
                           ("gcc -O1 -g -c t.c -v", "err"), ("gcc -O1 -g -c absent.c -o t.o", "code")):
            other = self.one_way(self.top + "/x", Case(line), False)
            self.assertTrue(difference_of(one, other, line).startswith(word), (line, difference_of(one, other, line)))


# -- sources that bear no splitting, or look as if they did not

X_IS_1 = "#define X 1\n"
ASIDE = "static inline int f(int x) {\n  if (x)\n    x++;\n    x--;\n  return x; }\nint y;\n"
IN_SIMD = """#pragma GCC push_options
#pragma GCC target("avx2")
#ifdef __AVX2__
int a = 1;
#endif
int c;
"""
# (where, command lines, files): "gcc|clang" in a line stands for two lines; "remote|messages" for gcc and for clang.
# The source is a.c unless the line names another. What is told apart by a name of Case.prepare comes further down.
CONTENT_ROWS = (
    ("remote", "gcc|clang -O1 -fopenmp -c a.c", {"a.c": "void f(int *a, int n) {\n#pragma omp parallel for\n"
     "for (int i = 0; i < n; i++) a[i] *= 2;\n_Pragma(\"omp barrier\")\n}\n"}),
    ("remote", "gcc|clang -O1 -fopenmp-simd -c a.c", {"a.c": "void f(int *a, int n) {\n#pragma omp simd\n"
     "for (int i = 0; i < n; i++) a[i] *= 2; }\n"}),
    (None, "gcc|clang -Wall -c a.c", {"a.c": "void f(int *a, int n) {\n#pragma omp parallel for\n"
     "for (int i = 0; i < n; i++) a[i] *= 2; }\n"}),
    (None, "gcc|clang -Wall -c a.c", {"a.c": '#include "h.h"\nint x;\n', "h.h": "#pragma unheard of\n"}),
    (None, "gcc -fopenacc -O1 -c a.c", {"a.c": "void f(int *a, int n) {\n#pragma acc parallel loop\n"
     "for (int i = 0; i < n; i++) a[i] *= 2; }\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": "#pragma redefine_extname before after\nint before(void);\n"
     "int f(void) { return before(); }\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": X_IS_1 + '#pragma push_macro("X")\n#undef X\n#define X 2\nint a = X;\n'
     '#pragma pop_macro("X")\nint b = X;\n'}),
    ("remote", "gcc|clang -c a.c", {"a.c": '#include "h.h"\nint a = X;\n_Pragma("pop_macro(\\"X\\")") int b = X;\n',
     "h.h": X_IS_1 + '_Pragma("push_macro(\\"X\\")")\n#undef X\n#define X 2\n'}),
    (None, "gcc|clang -c a.c", {"a.c": X_IS_1 + '#pragma /* */ push_macro("X")\n#undef X\n#define X 2\nint a = X;\n'
     '#pra\\\ngma pop_macro("X")\nint b = X;\n'}),
    (None, "gcc|clang -MMD -c a.c", {"a.c": '#include "h.h"\nint f(void) { return before(); }\n',
     "h.h": "#pragma redefine_extname before after\nint before(void);\n"}),
    (None, "gcc|clang -O1 -c a.c", {"a.c": '#pragma scalar_storage_order big-endian\nstruct s { int x; };\n'
     "int f(struct s *s) { return s->x; }\n"}),
    ("messages|preprocessor-messages", "gcc|clang -c a.c", {
        "a.c": '#pragma message "hello"\n#pragma message("you")\nint x;\n'}),
    ("remote", "gcc|clang -MMD -c a.c", {"a.c": '#include "h.h"\n#include "./h.h"\nint x;\n',
     "h.h": "#pragma once\nstruct s { int x; };\n"}),
    (None, "gcc|clang -c a.c", {"a.c": "#pragma once\nint x;\n"}),
    (None, "gcc|clang -Wall -Wextra -Werror -c a.c", {"a.c": '#include "h.h"\nint x = SYS;\n',
     "h.h": "#pragma GCC system_header\nstatic int unused(void) { int y; }\n#define SYS (1,2)\n"}),
    (None, "gcc|clang -Wall -Werror -c a.c", {"a.c": "int f(void) {\n#pragma GCC diagnostic push\n"
     '#pragma GCC diagnostic ignored "-Wunused-variable"\nint y;\n#pragma GCC diagnostic pop\nreturn 1; }\n'}),
    (None, "gcc|clang -Wall -c a.c", {"a.c": '#pragma GCC diagnostic error "-Wunused-variable"\n'
     "int f(void) { int y; return 1; }\n"}),
    ("target-pragma|remote", "gcc|clang -c a.c", {"a.c": '#pragma GCC push_options\n#pragma GCC target("avx2")\n'
     "#ifdef __AVX2__\nint a = 1;\n#endif\n#pragma GCC pop_options\n#ifdef __AVX2__\nint b = 2;\n#endif\n"}),
    (None, "gcc -c a.c", {"a.c": '_Pragma("GCC target(\\"avx2\\")")\n#ifdef __AVX2__\nint a = 1;\n#endif\n'}),
    (None, "gcc -c a.c", {"a.c": '#include "h.h"\n#ifdef __OPTIMIZE__\nint a = 1;\n#endif\n',
     "h.h": '#pragma GCC optimize("O3")\n'}),
    ("target-pragma|remote", "gcc|clang -isystem sys -c a.c",
     {"a.c": "#include <simd.h>\n", "sys/simd.h": IN_SIMD}),
    ("target-pragma|remote", "gcc|clang -O1 -isystem sys -c a.c",
     {"a.c": "#include <s.h>\n#include <i.h>\n",
      "sys/s.h": '#pragma GCC push_options\n#pragma GCC optimize("O3")\n',
      "sys/i.h": "#ifdef __OPTIMIZE__\nint a;\n#endif\n#pragma GCC pop_options\n"}),
    ("target-pragma|remote", "gcc|clang -c a.c", {"a.c": IN_SIMD.replace("GCC t", "GCC\tt")}),
    ("target-pragma|remote", "gcc|clang -isystem sys -c a.c",
     {"a.c": "#include <simd.h>\n", "sys/simd.h": IN_SIMD.replace("GCC t", "GCC  t")}),
    ("target-pragma|remote", "gcc|clang -c a.c",
     {"a.c": IN_SIMD.replace('#pragma GCC target("avx2")', '_Pragma("GCC\ttarget(\\"avx2\\")")')}),
    ("target-pragma|remote", "gcc|clang -isystem sys -c a.c",
     {"a.c": "#include <simd.h>\n", "sys/simd.h": "#define DO_PRAGMA(x) _Pragma(#x)\n" +
      IN_SIMD.replace('#pragma GCC target("avx2")', 'DO_PRAGMA(GCC target("avx2"))')}),
    ("target-pragma|remote", "gcc|clang -c a.c",
     {"a.c": IN_SIMD.replace("GCC t", "/**/GCC/* */t")}),
    ("target-pragma|remote", "gcc|clang -c a.c",
     {"a.c": IN_SIMD.replace("GCC t", "GCC \\\n t")}),
    ("remote", "gcc|clang -c a.c",
     {"a.c": "#define DO_PRAGMA(x) _Pragma(#x)\n" + X_IS_1 + 'DO_PRAGMA(push_macro("X"))\n'
      '#undef X\n#define X 2\nint a = X;\nDO_PRAGMA(pop_macro("X"))\nint b = X;\n'}),
    ("remote", "gcc|clang -c a.c", {"a.c": "#pragma/**/redefine_extname before after\n"
     "int before(void);\nint f(void) { return before(); }\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": "#pragma \\\nredefine_extname before after\n"
     "int before(void);\nint f(void) { return before(); }\n"}),
    ("remote", "gcc|clang -O2 -c a.cc", {"a.cc": "#include <immintrin.h>\n#include <x86intrin.h>\n"
     "#include <string>\n#include <random>\nstd::string f() { return std::string(3, 'x'); }\n"}),
    ("remote", "gcc|clang -O2 -mavx2 -c a.c", {"a.c": "#include <immintrin.h>\n__m256i f(__m256i a) {"
     " return _mm256_add_epi8(a, a); }\n"}),
    (None, "TIME=1 gcc|clang -c a.c", {"a.c": "const char *f = __TIME__ __DATE__;\n"}),
    (None, "gcc|clang -c a.c", {"a.c": "const char *f = __TIMESTAMP__;\n"}),
    (None, "TIME=1 gcc|clang -c a.c", {"a.c": '#include "h.h"\nconst char *f = NOW;\n',
     "h.h": "#define NOW __TIME__\n"}),
    (None, "SOURCE_DATE_EPOCH=99999999 gcc -O1 -c a.c", {"a.c": "const char *f = __TIME__ __DATE__"
     " __TIMESTAMP__;\n"}),
    (None, "TIME=1 SOURCE_DATE_EPOCH=99999999 clang -c a.c", {"a.c": "const char *f = __TIME__ __DATE__;\n"}),
    ("remote|remote", "gcc|clang -c sub/a.c", {"sub/a.c": '#include "b.h"\n', "sub/b.h": "const char *f = __BASE_FILE__"
     " __FILE__;\n"}),
    (None, "gcc|clang @words -c a.c", {"a.c": "const char *f = BASE;\n", "words": "-DBASE=__BASE_FILE__"}),
    (None, "TIME=1 gcc|clang -Wdate-time -c a.c", {"a.c": "const char *f = __TIME__;\n"}),
    (None, "gcc -c a.c", {"a.c": '#include "h.h"\nint x = L;\n', "h.h": '#include "i.h"\n',
     "i.h": "int l = __INCLUDE_LEVEL__;\n#define L __INCLUDE_LEVEL__\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": "int a = __COUNTER__, b = __COUNTER__;\n"
     "#define C __COUNTER__\nint c = C;\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": "#if __COUNTER__ == 0\nint a = __COUNTER__;\n#endif\n"
     "#if __COUNTER__ == 2\nint b = __COUNTER__;\n#endif\nint c = __COUNTER__;\n"}),
    (None, "gcc|clang -Wunused-macros -c a.c", {"a.c": "#define UNUSED 1\n#define USED 2\nint x = USED;\n"}),
    ("remote", "gcc|clang -Wunused-macros -c a.c", {"a.c": "#include <stdio.h>\n#define USED 2\nint x = USED;\n"}),
    (None, "gcc|clang -Wundef -c a.c", {"a.c": "#if NOT_THERE\n#endif\nint x;\n"}),
    (None, "gcc|clang -Wcomment -c a.c", {"a.c": "/* /* */\n// \\\nint y;\nint x;\n"}),
    (None, "gcc|clang -Wtrigraphs -c a.c", {"a.c": 'const char *x = "??=";\n'}),
    ("remote|preprocessor-messages", "gcc|clang -std=c99 -c a.c", {"a.c": '??=define X "??/n<:"\n'
     "const char *x<::> = ??< X ??>;\n"}),
    ("remote", "gcc|clang -O2 -Wall -Wextra -Wconversion -Wsign-conversion -Wold-style-definition -Werror -c a.c",
     {"a.c": "#include <ctype.h>\n#include <arpa/inet.h>\n#include <sys/select.h>\n#include <sys/wait.h>\n"
             "int f(fd_set *s, int fd) { FD_ZERO(s); FD_SET(fd, s); return WEXITSTATUS(fd) + isdigit(fd)"
             " + (int)htonl(7u); }\n"}),
    ("remote|compile-error", "gcc|clang -Wall -Wextra -Werror -Wold-style-cast -Wzero-as-null-pointer-constant -c a.cc",
     {"a.cc": "#include <cstddef>\n#include <sys/wait.h>\nint f(int x) { return WIFSIGNALED(x) + WTERMSIG(x); }\n"
              "void *g() { return nullptr; }\n"}),
    # what a system header's macro becomes is warned of in the preprocessed text only: done again here
    ("compile-error|compile-error", "gcc|clang -isystem sys -Wall -Wextra -Wtautological-compare -Werror -c a.c",
     {"a.c": "#include <s.h>\nint f(unsigned a, int b) { return SAME(a) + LESS(b) + NARROW(b); }\n",
      "sys/s.h": "#define SAME(a) ((a) == (a))\n#define LESS(b) ((b) < 3u)\n#define NARROW(b) ((char)(b) ? : 1)\n"}),
    ("remote", "gcc|clang -Wall -Wextra -Wpedantic -Werror -c a.c", {"a.c": "#include <stdio.h>\n#include <errno.h>\n"
     "#include <assert.h>\nint f(FILE *s) { assert(s); errno = 0; return putc('x', s) + (stdin == s); }\n"}),
    (None, "gcc|clang -Wextra -Wimplicit-fallthrough -c a.c", {"a.c": "int f(int x) { switch (x) {\ncase 1: x++;\n"
     "/* fall through */\ncase 2: x++; // FALLTHRU\ndefault: x--; } return x; }\n"}),
    (None, "gcc -finput-charset=latin1 -c a.c", {"a.c": b'const char *x = "caf\xe9";\n'}),
    (None, "gcc -fexec-charset=latin1 -fwide-exec-charset=UTF-16LE -c a.c", {"a.c": 'const char *x = "caf\u00e9";\n'
     '#if \'\u00e9\' == 1\n#endif\n#include <wchar.h>\nconst wchar_t *y = L"\u00e9";\n'}),
    ("remote", "gcc|clang -c a.c", {"a.c": b'\xef\xbb\xbfint x;\r\n#define Y \\\r\n 3\r\nint y = Y;\r\n\f\vint z;'}),
    (None, "gcc -traditional-cpp -c a.c", {"a.c": '#define S(x) "x"\nchar *a = S(b);\n'}),
    (None, "gcc|clang -c a.c", {"a.c": "#if 0\nDon't \"\n#endif\nint x;\n"}),
    (None, "gcc|clang -Wall -c a.c", {"a.c": "#if 0\nDon't\n#else\nint x;\n#endif\n#ifdef NO\nIt's \" '\n#endif\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": "#if __has_include(<stdio.h>) && __has_include(\"h.h\") && \\\n"
     "!__has_include(\"none.h\")\nint x = 1;\n#endif\n#if __has_attribute(noreturn)\nint y;\n#endif\n", "h.h": ""}),
    ("remote", "gcc|clang -include h.h -imacros i.h -c a.c", {"a.c": "int x = X + Y; int z = from_h;\n",
     "h.h": X_IS_1 + "enum { from_h = 1 };\n", "i.h": "#define Y 2\nint not_there;\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": '#ident "made by hand"\nint x;\n'}),
    (None, "gcc|clang -g3 -c a.c", {"a.c": "#include <stddef.h>\n#define X(a) (a + 1)\n#undef X\n#define X 3\n"
     "int f(void) { return X; }\n"}),
    ("remote|compile-error", "gcc|clang -c a.c", {"a.c": "#undef linux\nint linux = 1;\n#undef unix\nint unix;\n"}),
    ("remote|compile-error", "gcc|clang -Dint=long -Ulinux -c a.c", {"a.c": "int linux = sizeof(int);\n"}),
    ("remote", "gcc|clang -g -O1 -c a.c", {"a.c": '#line 77 "grammar.y"\nint f(int x) {\n# 5 "/elsewhere/x.y"\n'
     "return x; }\n#line 9\nint g(void) { return __LINE__; }\n"}),
    ("incbin", "gcc|clang -c a.c", {"a.c": '__asm__(".incbin \\"bin\\"");\n', "bin": "binary"}),
    ("incbin", "gcc|clang -c a.c", {"a.c": '__asm__(".include \\"inc.s\\"");\n', "inc.s": ".globl q\nq: ret\n"}),
    (None, "gcc|clang -c a.c", {"a.c": '__asm__(".inc" "bin \\"bin\\"");\n', "bin": "binary"}),
    (None, "gcc|clang -c a.c", {"a.c": '#include "h.h"\nD(".include \\"inc.s\\"");\n', "inc.s": ".globl q\nq: ret\n",
     "h.h": "#define D(x) __asm__(x)\n"}),
    (None, "gcc|clang -c a.S", {"a.S": '.incbin "bin"\n.include "inc.s"\n', "bin": "x", "inc.s": ".globl q\nq: ret\n"}),
    (None, "gcc|clang -c a.i", {"a.i": '# 1 "a.c"\n#pragma GCC pch_preprocess "h.h.gch"\nint x;\n', "h.h": "int y;\n"}),
    (None, "gcc|clang -c a.i", {"a.i": '# 1 "a.c"\n#include "h.h"\nint x = X;\n', "h.h": X_IS_1}),
    ("remote", "gcc|clang -O1 -c sub/a.c", {"sub/a.c": "#include <assert.h>\n"
     "int f(int x) { assert(x > 1); return x; }\nconst char *g = __FILE__;\n"}),
    ("remote", 'gcc|clang -ffile-prefix-map="$PWD"=/src -g -c "$PWD"/sub/a.c', {"sub/a.c": "#include <assert.h>\n"
     "int f(int x) { assert(x > 1); return x; }\nconst char *g = __FILE__;\n"}),
    ("remote", 'gcc|clang -fmacro-prefix-map="$PWD"/= -c "$PWD"/sub/a.c', {"sub/a.c": '#include "../h.h"\n',
     "h.h": "const char *g = __FILE__;\n"}),
    (None, "gcc|clang -c a.c", {"a.c": '#warning "watch out"\nint x;\n'}),
    (None, "gcc|clang -c a.c", {"a.c": '#error "no further"\nint x;\n'}),
    (None, "gcc|clang -c a.c", {"a.c": "int x = 1\n\n#define Y (\nint y = Y 2;\n"}),
    (None, "gcc|clang -I absent -Wmissing-include-dirs -c a.c", {"a.c": "int x;\n"}),
    ("remote", "gcc|clang -isystem sys -I inc -c a.c", {"a.c": "#include <n.h>\n", "inc/n.h": "#include_next <n.h>\n",
     "sys/n.h": "int from_sys;\n"}),
    ("remote", "CPATH=inc gcc|clang -MD -c a.c", {"a.c": "#include <n.h>\n", "inc/n.h": "int from_inc;\n"}),
    ("remote", "C_INCLUDE_PATH=inc gcc|clang -MMD -c a.c", {"a.c": "#include <n.h>\n", "inc/n.h": "int from_inc;\n"}),
    ("remote", "LC_ALL=C LANG=de_DE.UTF-8 gcc|clang -c a.c", {"a.c": 'const char *x = "\u00e9"; int \u00e9 = 1;\n'}),
    (None, "LC_ALL=C.UTF-8 gcc|clang -c a.c", {"a.c": 'int x = "\u00e9";\n'}),
    (None, "GCC_COLORS=error=31 gcc -fdiagnostics-color -c a.c", {"a.c": 'int x = "\u00e9";\n'}),
    ("remote", "gcc|clang -O2 -Wformat-security -Wformat=2 -Werror -c a.c", {"a.c": "#include <stdio.h>\n"
     "#include <inttypes.h>\nvoid f(long x) { printf(\"%\" PRId64 \"\\n\", (int64_t)x); }\n"}),
    ("remote", "gcc|clang -c a.c", {"a.c": "#define _GNU_SOURCE\n#include <tgmath.h>\n#include <sys/cdefs.h>\n"
     "float f(float x) { return sqrt(x) + fmax(x, 2.0f); }\n"}),
    ("remote", "DEPENDENCIES_OUTPUT=dep gcc -c a.c", {"a.c": '#include "h.h"\n#include <stddef.h>\n', "h.h": X_IS_1}),
    ("remote", "DEPENDENCIES_OUTPUT='dep goal' gcc -c a.c", {"a.c": '#include "h.h"\n', "h.h": X_IS_1,
     "dep": "old\n"}),
    ("remote", "SUNPRO_DEPENDENCIES=dep gcc -c a.c", {"a.c": "#include <stddef.h>\n"}),
    (None, "clang -O2 -Xpreprocessor -fopenmp -c a.c", {"a.c": "void f(int *a, int n) {\n#pragma omp parallel for\n"
     "for (int i = 0; i < n; i++) a[i] *= 2; }\n"}),
    (None, "clang -Wp,-fwrapv -O2 -c a.c", {"a.c": "int f(int x) { return x + 1 > x; }\n"}),
    ("remote", "clang -Wp,-DX=3 -c a.c", {"a.c": "int a = X;\n"}),
    (None, "gcc|clang -c a.c", {"a.c": "#define ID(x) x\nint a = ID(\n1) + __builtin_LINE(\n);\n"}),
    (None, "clang -c a.c", {"a.c": "#define ID(x) x\nint a = ID(1) + __builtin_COLUMN();\n"}),
    (None, "clang -fmacro-prefix-map=$PWD=/x -c $PWD/a.c", {"a.c": "const char *f = __builtin_FILE();\n"}),
    (None, "clang -fopenmp -g -c a.c", {"a.c": "void f(int *a, int n) {\n   #pragma omp parallel for\n"
     "for (int i = 0; i < n; i++) a[i] *= 2; }\n"}),
    (None, "gcc|clang -c a.c", {"a.c": '#define DO_PRAGMA(x) _Pragma(#x)\nDO_PRAGMA(GCC target("avx2"))\n'
     "#ifdef __AVX2__\nint a = 1;\n#endif\n"}),
    (None, "clang -O2 -Rpass=inline -c a.c", {"a.c": "static int f(int x) { return x; }\n"
     "int g(void) { return f(1); }\n"}),
    (None, "clang -Wdocumentation -Werror -c a.c", {"a.c": "/** @param y */\nint f(int x);\n"}),
    (None, "clang -Weverything -c a.c", {"a.c": "/** @param y */\nint f(int x);\n"}),
    (None, "clang -c a.c", {"a.c": '#include "h.h"\nint x;\n', "h.h": "#pragma pack(1)\n"}),
    (None, "clang -c a.c", {"a.c": '#include "h.h"\nint x;\n', "h.h": "void f(int *_Nonnull a, int *b);\n"}),
    ("remote", "gcc -MMD -c a.c", {"a.c": '#line 1 "/absent/parse.y"\nint x;\n'}),
    (None, "gcc|clang -c a.c", {"a.c": "int a; \\"}),
    (None, "gcc|clang -c a.c", {"a.c": "int a; \\\n"}),
    (None, "gcc|clang -c a.c", {"a.c": "int a; \\  \n\n"}),
    (None, "gcc|clang -c a.c", {"a.c": '#include "h.h"\nint x;\n', "h.h": "int a; \\"}),
    (None, "gcc|clang -c a.c", {"a.c": "#define X \\"}),
    (None, "gcc|clang -O2 -c .c -o x.o", {".c": "int a;\n"}),
    (None, "gcc|clang -c .cc", {".cc": "int a;\n"}),
    (None, "clang -mllvm=-inline-threshold=3 -c a.c", {"a.c": "int a;\n"}),
    ("layout-warning", "gcc|clang -Wall -c a.c", {"a.c": ASIDE}),
    ("layout-warning", "gcc -Wmisleading-indentation -Werror -c a.c", {"a.c": "#define IF if (x)\n"
     "int f(int x) {\n  IF\n    x++;\n    x++;\n  if (x) x--; x--;\n  return x; }\n"}),
    ("layout-warning", "gcc|clang -Wall -O2 -c a.cc", {"a.cc": '#include "h.h"\nint x;\n',
     "h.h": ASIDE.replace("  ", "\t").replace("\t\tx--", "  \t\tx--")}),
    ("remote", "gcc|clang -Wall -isystem sys -c a.c",
     {"a.c": "#include <s.h>\n", "sys/s.h": ASIDE}),
    ("remote", "gcc|clang -w -Wall -c a.c", {"a.c": ASIDE}),
    ("remote", "gcc -c a.c", {"a.c": ASIDE}),
    ("layout-warning", "gcc -Wall -c a.c",
     {"a.c": "#define TWO(a) a++; a--\nint f(int x) {\n  if (x)\n    TWO(x);\n  return x; }\n"}),
    ("layout-warning", "clang -c a.c", {"a.c": "int f(int x) {\n  if (x);\n  return x; }\n"}),
    ("remote", "clang -Wno-empty-body -c a.c",
     {"a.c": "int f(int x) {\n  if (x);\n  return x; }\n"}),
    ("messages", "gcc|clang -c a.c", {"a.c": "#include <stddef.h>\nint x = NULL;\n"}),
    ("compile-error", "gcc|clang -Werror -c a.c",
     {"a.c": "#include <stdio.h>\nint *f(void) { return EOF; }\nint g(void) { return stdin; }\n"}),
    ("messages", "gcc|clang -c a.c", {"a.c": "#include <limits.h>\nunsigned char x = INT_MAX;\n"}),
    ("messages", "gcc|clang -c a.cc",
     {"a.cc": "#include <cstddef>\nint f(int x) { return x == NULL ? NULL : 1; }\n"}),
    ("diagnostic-pragma", "gcc -c a.c",
     {"a.c": '#pragma GCC diagnostic error "-Wundef"\n#if ABSENT\n#endif\nint x;\n'}),
    ("diagnostic-pragma", "gcc -c a.c",
     {"a.c": '_Pragma("GCC diagnostic warning \\"-Wmisleading-indentation\\"")\n' + ASIDE}),
    ("remote", "gcc|clang -c a.c",
     {"a.c": '#pragma GCC diagnostic ignored "-Wundef"\n#if ABSENT\n#endif\nint x;\n'}),
    ("remote", "gcc -MMD -g -O2 -c a.c", {"a.c": 'int y;\n#line 7 "gone.y"\nint x;\n'}),
)


# Known exceptions: what nobody writes, and what the README names.
KNOWN_ROWS = (
    (None, "gcc -c a.c", {"a.c": "#define CAT(a, b) a##b\nconst char *f = CAT(__BASE_, FILE__);\n"}),
)


def with_pch(folder):
    """A valid header in compiled form, beside its text."""
    run(["gcc", "h.h", "-o", "h.h.gch"], folder)
    run(["clang", "-x", "c-header", "h.h", "-o", "h.h.pch"], folder)
    return lambda: [os.unlink(folder + "/h.h." + kind) for kind in ("gch", "pch")] and None


def with_stale_pch(folder):
    """One that has another content than the text."""
    after = with_pch(folder)
    write(folder + "/h.h", "#define X 2\n")
    os.utime(folder + "/h.h", (10 ** 9, 10 ** 9))
    return after


def with_pch_before(folder):
    """In a folder that is searched before that of the header itself, and made of another text."""
    write(folder + "/inc/h.h", "#define X 3\n")
    write(folder + "/sub/h.h", "#define X 4\n")
    run(["gcc", "h.h", "-o", "h.h.gch"], folder + "/sub")
    os.unlink(folder + "/sub/h.h")
    os.unlink(folder + "/h.h")


def with_words_fifo(folder):
    """An @file that can be read once."""
    os.mkfifo(folder + "/words")
    write(folder + "/words.c", "int x = X;\n")
    writer = subprocess.Popen(["sh", "-c", "exec echo -DX=2 -O2 >words"], cwd=folder, stderr=subprocess.DEVNULL)

    def after():                            # how the writer ended says nothing: gcc opens the fifo, and reads nothing
        writer.kill()
        writer.wait()
    return after


def with_fifo(folder):
    """Outputs that are fifos, and what came out of them."""
    fds = []
    for name in ("fifo.o", "fifo.d"):
        os.mkfifo(folder + "/" + name)
        fds.append(os.open(folder + "/" + name, os.O_RDONLY | os.O_NONBLOCK))

    def after():
        texts = [os.read(fd, 1 << 16) for fd in fds]
        for fd in fds:
            os.close(fd)
        return texts
    return after


def with_source_fifo(folder, name="fifo.c"):
    """A source that can be read once."""
    os.mkfifo(folder + "/" + name)
    writer = subprocess.Popen(["sh", "-c", "exec cat a.c >" + name], cwd=folder, stderr=subprocess.DEVNULL)

    def after():
        writer.kill()
        return writer.wait()
    return after


def with_header_fifo(folder):
    write(folder + "/includes.c", '#include "fifo.h"\n')
    return with_source_fifo(folder, "fifo.h")


def with_device(folder):
    """The null device by another name, should it not survive."""
    os.mknod(folder + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def with_links(folder):
    os.symlink("target.o", folder + "/link.o")
    os.symlink("target.d", folder + "/link.d")
    os.symlink("a.c", folder + "/other.c")
    os.symlink("absent/x", folder + "/dangling.o")
    os.symlink("sub", folder + "/way")
    os.symlink(".", folder + "/here")
    write(folder + "/target.o", "old")


def with_old_outputs(folder):
    """Outputs that exist: with modes of their own, with a second name, empty, a folder."""
    for name, mode in (("a.o", 0o600), ("a.s", 0o600), ("a.d", 0o640), ("read-only.o", 0o444), ("empty.o", 0o600),
                       ("program.o", 0o755), ("hard.d", 0o644), ("hard.o", 0o644), ("hard.s", 0o644)):
        write(folder + "/" + name, "" if name == "empty.o" else "old", mode)
    for kind in "ods":
        os.link(folder + "/hard." + kind, folder + "/hard.2" + kind)
    os.mkdir(folder + "/folder.o")


def with_one_file_by_two_names(folder):
    """The source and a header by other names, in folders that have two themselves."""
    for target, name in (("a.c", "soft.c"), ("sub", "way"), (".", "here")):
        os.symlink(target, folder + "/" + name)
    write(folder + "/sub/b.c", "int x;\n")
    os.link(folder + "/a.c", folder + "/hard.c")
    os.link(folder + "/h.h", folder + "/hard.h")


def with_group_outputs(folder):
    """Outputs that another umask made."""
    for kind in "ods":
        write(folder + "/a." + kind, "old", 0o664)


def with_default_acl(folder):
    """Whatever is made here may be written by the group, the umask notwithstanding."""
    entries = ((1, 7), (4, 7), (16, 7), (32, 5))            # the owner, the group, the mask, others
    os.setxattr(folder, "system.posix_acl_default", struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, 0xffffffff) for tag, permissions in entries))
    for kind in "ods":
        write(folder + "/a." + kind, "old")


def owned_by_other(folder):
    for name in os.listdir(folder):
        os.chown(folder + "/" + name, OTHER_UID, OTHER_UID, follow_symlinks=False)
    os.chown(folder, OTHER_UID, OTHER_UID)


def with_forbidden(folder):
    """For another user than root: files and a folder that are there and not to be written."""
    with_old_outputs(folder)
    for name in ("forbidden.o", "forbidden.d", "forbidden.s"):
        write(folder + "/" + name, "old", 0o444)
    write(folder + "/empty-forbidden.o", "", 0o444)
    os.chmod(folder + "/sub", 0o555)
    owned_by_other(folder)


A_C = {"a.c": '#include "h.h"\nint f(void) { return X; }\n', "h.h": X_IS_1}
# (prepare, other user, where, command lines)
PLACE_ROWS = (
    (with_pch, False, None, ("gcc|clang -MMD -c a.c", "gcc|clang -include h.h -c a.c")),
    (with_stale_pch, False, None, ("gcc -MMD -c a.c", "gcc -include h.h -c a.c")),
    (with_pch_before, False, None, ("gcc -Isub -Iinc -MMD -c a.c", "CPATH=sub:inc gcc -MMD -c a.c",
                                    "gcc -iquote sub -I inc -MMD -c a.c")),
    (with_words_fifo, False, None, ("gcc|clang @words -x c -c words.c",)),
    (with_fifo, False, None, ("gcc|clang -c a.c -o fifo.o", "gcc|clang -S a.c -o fifo.o",
                               "gcc -MMD -MF fifo.d -c a.c")),
    (with_source_fifo, False, None, ("gcc|clang -c fifo.c",)),
    (with_header_fifo, False, None, ("gcc|clang -c includes.c",)),
    (with_links, False, None, ("gcc|clang -c a.c -o link.o", "gcc|clang -S a.c -o link.o", "gcc|clang -c other.c -g",
                               "gcc|clang -c a.c -o dangling.o", "gcc|clang -MMD -MF link.d -c a.c",
                               "PWD=$PWD/way gcc|clang -g -c ../a.c",
                               "PWD=$PWD/here gcc|clang -g -c a.c", "gcc|clang -g -MMD -c way/../a.c")),
    (with_one_file_by_two_names, False, None, (
        "gcc|clang -c a.c -o ./a.c", "gcc|clang -c ./a.c -o a.c", "gcc|clang -c a.c -o $PWD/a.c",
        "gcc|clang -c a.c -o sub/../a.c", "gcc|clang -c here/a.c -o a.c", "gcc|clang -S a.c -o ./a.c",
        "gcc|clang -c way/b.c -o sub/b.c", "gcc|clang -c soft.c -o a.c", "gcc|clang -c a.c -o soft.c",
        "gcc|clang -c a.c -o hard.c", "gcc|clang -MMD -MF ./a.c -c a.c", "gcc|clang -MMD -MF soft.c -c a.c",
        "gcc|clang -MMD -MF hard.c -c a.c", "gcc|clang -Wp,-MMD,./a.c -c a.c",
        "DEPENDENCIES_OUTPUT=./a.c gcc -c a.c", "gcc|clang -MMD -MF way/b.c -c a.c -o sub/b.c",
        "gcc|clang -MMD -MF ./x.o -c a.c -o x.o", "gcc|clang -MMD -MF hard.h -c a.c",
        "gcc|clang -c a.c -o ./h.h", "gcc|clang -c a.c -o hard.h", "gcc|clang -gsplit-dwarf -c a.c -o x.c")),
    (with_one_file_by_two_names, False, "same-file", (
        "gcc|clang -c a.c -o $PWD/a.c", "gcc|clang -MMD -MF a.c -c $PWD/a.c",
        "gcc|clang -MMD -MF way/b.c -o sub/b.c -c $PWD/a.c")),
    (with_group_outputs, False, "remote", ("gcc|clang -MMD -c a.c", "clang -S a.c")),
    (with_default_acl, False, "remote", ("gcc|clang -MMD -c a.c", "clang -S a.c")),
    (with_group_outputs, False, None, ("gcc -S a.c",)), (with_default_acl, False, None, ("gcc -S a.c",)),
    (with_old_outputs, False, "remote", ("gcc|clang -MMD -c a.c", "gcc|clang -c a.c -o program.o",
                                         "gcc|clang -c a.c -o hard.o -MMD")),
    (with_old_outputs, False, None, ("gcc|clang -S a.c", "gcc|clang -c a.c -o read-only.o",
                                     "gcc|clang -c a.c -o empty.o", "gcc|clang -S a.c -o hard.s",
                                     "gcc|clang -c a.c -o folder.o", "gcc|clang -c absent.c -o a.o",
                                     "gcc|clang -c a.c -DX= -o a.o -MMD", "gcc|clang -c a.c -MMD -MF folder.o")),
    (None, False, None, ("gcc|clang -x c -c /dev/null -o n.o", "gcc|clang -c a.c -o /dev/null",
                         "gcc|clang -x c /dev/null -c", "gcc|clang -c a.c -o a.c", "gcc|clang -MMD -MF a.c -c a.c",
                         "gcc|clang -MMD -MF a.o -c a.c", "gcc|clang -MMD -MF /dev/null -c a.c",
                         "gcc|clang -c sub", "gcc|clang -x c -c sub", "gcc|clang -c a.c -o sub/../b.o",
                         "gcc|clang -c a.c -o ''", "gcc|clang -c ''", "gcc|clang -c a.c h.h", "gcc|clang -c h.h")),
)
ROOT_ROWS = (
    (with_device, False, None, ("gcc|clang -c a.c -o null", "gcc|clang -S a.c -o null",
                                "gcc|clang -MMD -MF null -c a.c")),
    (owned_by_other, True, None, ("gcc|clang -MMD -c a.c",)),
    (with_forbidden, True, None, ("gcc|clang -c a.c -o forbidden.o", "gcc|clang -S a.c -o forbidden.s",
                                  "gcc|clang -c a.c -o empty-forbidden.o", "gcc|clang -MMD -MF forbidden.d -c a.c",
                                  "gcc|clang -c a.c -o sub/x.o", "gcc|clang -MMD -MF sub/x.d -c a.c",
                                  "gcc|clang -c a.c -o /etc/x.o", "gcc|clang -MMD -c a.c -o hard.o")),
)


def both_compilers(where, lines, files=(), prepare=None, other=False):
    """Cases of one or two lines, for gcc and for clang."""
    for line in [lines] if isinstance(lines, str) else lines:
        names = ("gcc", "clang") if "gcc|clang" in line else ("clang" if "clang " in line else "gcc",)
        wheres = (where or "").split("|")
        for name, place in zip(names, wheres * 2):
            if shutil.which(name):
                yield Case(line.replace("gcc|clang", name), dict(files), prepare, place or None, other)


class ContentRows(BlindFarm):
    """Sources, headers and outputs of special kinds."""
    FOLDERS = ("sub", "sys", "inc")
    TUNABLES = {"BAD_FILES_BEFORE_SUSPECT": 1000000}        # some rows fail remotely, and the host is not to blame

    def sampled(self, cases):
        return cases if ALL_ROWS else random.Random(SEED).sample(cases, len(cases) // 2)

    def test_contents(self):
        self.compare(self.sampled([case for row in CONTENT_ROWS for case in both_compilers(*row)]))

    @unittest.expectedFailure
    def test_known(self):
        self.compare([case for row in KNOWN_ROWS for case in both_compilers(*row)])

    def test_places(self):
        rows = PLACE_ROWS + (ROOT_ROWS if ROOT else ())
        self.compare(self.sampled([case for prepare, other, where, lines in rows
                                   for case in both_compilers(where, lines, A_C, prepare, other)]))


@unittest.skipUnless(ALL_ROWS, "DISTCC_LM_ALL=1 runs the rows a second time, without -fdirectives-only")
class ContentRowsPlain(ContentRows):
    TUNABLES = {"BAD_FILES_BEFORE_SUSPECT": 1000000, "DIRECTIVES_BANDWIDTH_KB_S": "9e99"}


# -- real tools

PROJECT = {
    "a.c": '#include "h.h"\n#include <stdio.h>\nint main(void) { printf("%d %s\\n", b(1) + c(2), __FILE__); return 0;'
           " }\n",
    "b.c": '#include "h.h"\nint b(int x) { return x + H; }\n',
    "c.cc": 'extern "C" {\n#include "h.h"\n}\n#include <algorithm>\nint c(int x) { return std::max(x, H); }\n',
    "h.h": "#define H 41\nint b(int);\nint c(int);\n",
    "Makefile": "CFLAGS = -O2 -g -MMD\nCXXFLAGS = $(CFLAGS)\nprog: a.o b.o c.o\n\t$(CXX) -o $@ $^\n",
    "CMakeLists.txt": "cmake_minimum_required(VERSION 3.10)\nproject(x C CXX)\nset(CMAKE_BUILD_TYPE RelWithDebInfo)\n"
                      "add_executable(prog a.c b.c c.cc)\n",
    "meson.build": "project('x', 'c', 'cpp', default_options: ['buildtype=debugoptimized'])\n"
                   "executable('prog', 'a.c', 'b.c', 'c.cc')\n",
    "configure.ac": "AC_INIT([x], [1])\nAM_INIT_AUTOMAKE([foreign no-dist])\nAC_PROG_CC\nAC_PROG_CXX\nAM_PROG_AR\n"
                    "LT_INIT\nAC_CHECK_HEADERS([unistd.h not_there.h])\nAC_CHECK_FUNCS([memcpy not_there])\n"
                    "AC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n",
    "Makefile.am": "lib_LTLIBRARIES = libb.la\nlibb_la_SOURCES = b.c c.cc\nbin_PROGRAMS = prog\nprog_SOURCES = a.c\n"
                   "prog_LDADD = libb.la\n",
}


@unittest.skipUnless(ROOT, "mounts need root")
class OddPlaces(FarmCase):
    """Folders, mounts and PATHs as containers and careful admins have them."""
    # $1: a folder that becomes the root, with all of this one but /run; the rest is run there by a user
    NO_RUN = """
for name in usr lib lib64 bin sbin etc dev proc tmp; do
    if [ -e /$name ]; then mkdir $1/$name; mount --rbind /$name $1/$name; fi
done
root=$1; shift
exec /usr/sbin/chroot $root setpriv --reuid=%d --regid=%d --clear-groups -- "$@"
""" % (OTHER_UID, OTHER_UID)
    SESSION = """
set -e
[ ! -e /run ]
$0 daemon --listen 127.0.0.1:0 --hosts "" --peer $1 --broadcast none --state $2/state --detach --pid-file $2/pid
for i in $(seq 100); do
    $0 status --json | tr -d ' \\n' | grep -q '"kind":"peer","state":"up"' && break; sleep 0.1
done
cd $4
$0 cc gcc -O1 -c $3 -o $2/o
$0 status --json
kill $(cat $2/pid)
"""

    def test_no_run(self):
        """Neither /run nor XDG_RUNTIME_DIR: a private folder below /tmp, and both find it, whatever TMPDIR says."""
        python = python_for_all()
        if not python:
            self.skipTest("no interpreter that another user can run")
        worker, folder, root = self.farm.worker(), new_folder(0o777), new_folder()
        name = self.sources.make()
        env = environment(DISTCC_LM_PYTHON=python, TMPDIR=folder, DISTCC_LM_FALLBACK="0")
        done = run(["unshare", "-m", "sh", "-ec", self.NO_RUN, "sh", root, "sh", "-c", self.SESSION, program(),
                    worker.address, folder, name, self.sources.folder], env=env)
        self.assertEqual(done.code, 0, done)
        status = json.loads(done.out)
        self.assertEqual(status["daemon"]["socket"], "/tmp/distcc_lm-%d/socket" % OTHER_UID)
        shutil.rmtree("/tmp/distcc_lm-%d" % OTHER_UID)
        self.assertEqual(status["totals"]["remote"], 1)
        self.assertEqual(contents(folder + "/o"), self.sources.expected(name, "-O1")[3])

    @needs("fakeroot", "unshare", "setpriv")
    def test_own_daemon_is_found(self):
        """A user's, by builds whose environment is another, and that are root by name; not so by another user's,
        nor by one's own on a path that is none of ours."""
        python, folder, uids = python_for_all(), new_folder(0o777), (OTHER_UID, OTHER_UID + 1)
        if not python:
            self.skipTest("no interpreter that another user can run")
        as_user = ["setpriv", "--reuid=%d", "--regid=%d" % OTHER_UID, "--clear-groups", "--"]
        users = [[word % uid if "%" in word else word for word in as_user] for uid in uids]
        sockets = ["/tmp/distcc_lm-%d" % uid for uid in uids]
        self.addCleanup(shutil.rmtree, sockets[0], True)
        daemon = self.farm.submitter(self.farm.worker(), options=(
            "--socket", sockets[0] + "/socket", "--state", folder + "/state"), prefix=users[0],
            env={"DISTCC_LM_PYTHON": python}, ready=False, wait=False)
        daemon.socket = sockets[0] + "/socket"
        daemon.started().until(lambda s: s["hosts"][1]["state"] == "up")
        name = write(folder + "/t.c", "int x;\n")
        rows = [(prefix, more) for prefix in ([], ["fakeroot", "--"], ["unshare", "-r"])
                for more in ({}, {"TMPDIR": folder}, {"XDG_RUNTIME_DIR": folder})]
        if run([*users[0], "unshare", "-r", "true"]).code:
            rows = [row for row in rows if "unshare" not in row[0]]         # the kernel does not let him
        os.symlink(sockets[0], sockets[1])
        self.addCleanup(os.unlink, sockets[1])
        for count, (prefix, more) in enumerate(rows, 1):
            with self.subTest(prefix, **more):
                env = environment(DISTCC_LM_PYTHON=python, HOME="/", **more)
                for user, missing in ((users[0], b""), (users[1], b"no daemon")):
                    done = run([*user, *prefix, program(), "cc", "gcc", "-c", name], folder,
                               {**env, "DISTCC_LM_VERBOSE": "1"})
                    self.assertEqual((done.code, b"daemon" in done.err), (0, bool(missing)), done.err)
                    os.unlink(folder + "/t.o")
                self.assertEqual(run([*users[0], *prefix, program(), "status", "--json"], folder, env).code, 0)
                daemon.until(lambda s, count=count: s["totals"]["remote"] == count)

    @needs("setpriv")
    def test_folder_of_another(self):
        """Below /tmp anybody may have made a user's folder before him: nothing in there is looked at."""
        python, folder, uid = python_for_all(), new_folder(0o777), OTHER_UID + 2
        if not python:
            self.skipTest("no interpreter that another user can run")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(folder + "/root's")
            os.chmod(folder + "/root's", 0o777)
            listener.listen(5)
            listener.setblocking(False)
            squatted = "/tmp/distcc_lm-%d" % uid
            os.mkdir(squatted)
            self.addCleanup(shutil.rmtree, squatted)
            os.chown(squatted, OTHER_UID, OTHER_UID)
            os.symlink(folder + "/root's", squatted + "/socket")
            for env in {}, {"XDG_RUNTIME_DIR": folder}:
                with self.subTest(env):
                    done = run(["setpriv", "--reuid=%d" % uid, "--regid=%d" % uid, "--clear-groups",
                                "--", program(), "cc", "gcc", "-c", write(folder + "/t.c", "int x;\n")],
                               folder, environment(DISTCC_LM_PYTHON=python, HOME="/", **env))
                    self.assertEqual((done.code, done.err), (0, b""))
                    with self.assertRaises(BlockingIOError):
                        listener.accept()
                    os.unlink(folder + "/t.o")

    def test_read_only_sources(self):
        """The objects go elsewhere; where they cannot, the words are gcc's."""
        _, daemon = self.farm.pair()
        out, name = new_folder(), self.sources.make()

        def both(words, made):
            found = []
            for compiler in (["gcc"], [program(), "cc", "gcc"]):
                line = "mount --bind . . && mount -o remount,bind,ro . && cd $PWD && exec \"$@\""
                done = run(["unshare", "-m", "sh", "-ec", line, "sh", *compiler, *words], self.sources.folder,
                           environment(daemon.socket))
                found.append((done.code, done.err, [contents(out + "/" + file) for file in made]))
            self.assertEqual(*found)
            return found[0]
        before = daemon.status()["totals"]["remote"]
        self.assertEqual(both(["-c", name, "-O1", "-o", out + "/o", "-MMD", "-MF", out + "/d"], ["o", "d"])[0], 0)
        self.assertIn(b"Read-only file system", both(["-c", name, "-o", "o"], [])[1])
        daemon.until(lambda s: s["totals"]["remote"] == before + 1)
        self.assertEqual(self.sources.strays(), [])

    def test_paths_differ(self):
        """The server's compiler of the same identity is run, whatever it is called there and here; another compiler
        that has the same name is no help."""
        theirs, ours = new_folder(), new_folder()
        os.symlink("/usr/bin/gcc", theirs + "/sparc-odd-gcc-99")
        os.symlink("/usr/bin/gcc", ours + "/cc")
        worker = self.farm.worker("--compilers", theirs, env={"PATH": "/bin"})
        daemon = self.farm.submitter(worker)
        name = self.sources.make()
        path = {"PATH": ours + ":" + PATH, "DISTCC_LM_FALLBACK": "0"}
        for compiler in ("cc", ours + "/cc", "gcc"):
            done = self.cc(daemon, compiler, "-O1", "-c", name, "-o", "o", env=path)
            self.same(done, self.sources.expected(name, "-O1"), "o")
        self.assertEqual(worker.status()["totals"]["served"], 3)
        if shutil.which("clang", path=PATH):
            os.symlink(shutil.which("clang", path=PATH), ours + "/gcc")
            done = self.cc(daemon, "gcc", "-c", name, "-o", "o", env={"PATH": ours + ":" + PATH})
            self.assertEqual(done.code, 0)
            self.assertEqual(self.sources.object("o"), self.sources.expected(name, compiler=ours + "/gcc")[3])
            self.assertEqual(daemon.idle()["totals"]["local_reasons"], {"no-host": 1})


class RealTools(BlindFarm):
    """What people put in front of compilers, each with and without the farm, in the same folder."""

    def build(self, folder, script, env, ours):
        """Make the project, run the script; what it printed last and the objects it left."""
        self.tree(folder, Case("", PROJECT))
        done = run(["sh", "-ec", script], folder, environment(self.daemon.socket if ours else None, PWD=folder, **env),
                   timeout=300)
        self.assertEqual(done.code, 0, done)
        objects = {path: left for path, left in files_of(folder).items() if path.endswith((".o", ".d"))}
        shutil.rmtree(folder)
        return done.out.splitlines()[-1], objects

    def same_build(self, alone, ours, script=None, least=3):
        """The script with the environment `alone`, then with `ours` and the farm: equal objects and last lines, and
        `least` compiles at least were remote."""
        script = script or "make -j3 CC=\"$CC\" CXX=\"$CXX\" && ./prog"
        folder = "%s/%d" % (self.top, next(self.count))
        said, wanted = self.build(folder, script, alone, False)
        before = self.remote_count()
        for env in [ours] if isinstance(ours, dict) else ours:
            said_then, found = self.build(folder, script, env, True)
            self.assertEqual(said_then, said)
            runs = [Left(0, b"", b"", files, None) for files in (wanted, found)]
            if len(wanted) == len(found):                   # tools name objects differently
                self.assertIsNone(difference_of(*runs, script))
            remote = eventually(lambda wanted=before + least: self.remote_count() >= wanted)
            self.assertTrue(remote, self.daemon.status()["totals"])
            before = self.remote_count()
        self.daemon.idle()
        return said

    @staticmethod
    def compilers(name="gcc", cxx="g++"):
        return {"CC": program() + " cc " + name, "CXX": program() + " cc " + cxx}

    @needs("make", "gcc", "g++")
    def test_make(self):
        self.assertEqual(self.same_build({"CC": "gcc", "CXX": "g++"}, self.compilers()), b"83 a.c")

    @needs("make", "clang")
    def test_make_clang(self):
        self.same_build({"CC": "clang", "CXX": "clang++"}, self.compilers("clang", "clang++"))

    @needs("make", "gcc", "g++")
    def test_masquerade(self):
        links = new_folder()
        for name in ("gcc", "g++", "cc", "c++"):
            os.symlink(program(), links + "/" + name)
        path = links + ":" + PATH
        self.same_build({"CC": "gcc", "CXX": "g++"}, [{"CC": "gcc", "CXX": "g++", "PATH": path},
                                                      {"CC": "cc", "CXX": "c++", "PATH": path},
                                                      {"CC": links + "/gcc", "CXX": links + "/g++", "PATH": path}])

    @needs("ccache", "gcc", "g++")
    def test_ccache(self):
        """CCACHE_PREFIX, whose words ccache takes for one program each: the name must do, without `cc`. The second
        build is all hits, and compiles nothing."""
        script = ('export CCACHE_DIR="$PWD/cache"; make CC="ccache gcc" CXX="ccache g++"; rm -f *.o *.d prog;'
                  ' make CC="ccache gcc" CXX="ccache g++"; ./prog; ccache -s -v; ccache --print-stats |'
                  " awk '/(direct|preprocessed)_cache_hit|cache_miss/ { print }' | sort | tr '\\n\\t' '  '")
        before = self.remote_count()
        said = self.same_build({}, {"CCACHE_PREFIX": program()}, script)
        self.assertIn(b"direct_cache_hit 3", said)
        self.assertEqual(self.remote_count() - before, 3)

    @needs("cmake", "make", "ninja", "gcc", "g++")
    def test_cmake(self):
        script = ("cmake -G \"$GENERATOR\" $OPTIONS -S . -B out >&2; cmake --build out -j3 >&2; ./out/prog;"
                  " find out -name '*CompilerId*.o' -exec rm {} +")
        launcher = "-DCMAKE_C_COMPILER_LAUNCHER=%s;cc -DCMAKE_CXX_COMPILER_LAUNCHER=%s;cc" % (program(), program())
        self.same_build({"GENERATOR": "Unix Makefiles", "OPTIONS": ""},
                        [{"GENERATOR": "Unix Makefiles", "OPTIONS": launcher},
                         {"GENERATOR": "Ninja", "OPTIONS": launcher}], script)

    @needs("meson", "ninja", "gcc", "g++")
    def test_meson(self):
        self.same_build({"CC": "gcc", "CXX": "g++"}, self.compilers(),
                        "meson setup out >&2; ninja -C out >&2; ./out/prog")

    @unittest.skipUnless(ALL_ROWS, "DISTCC_LM_ALL=1 runs it: autoconf takes half a minute")
    @needs("autoconf", "automake", "libtoolize", "make", "gcc", "g++")
    def test_autoconf_and_libtool(self):
        """libtool's -o .libs/x.o and -fPIC; configure's tests stay here, and find the same: else objects would differ,
        by -D options."""
        self.same_build({"CC": "gcc", "CXX": "g++"}, self.compilers(), (
            "mkdir m4; autoreconf -fi >&2; ./configure CC=\"$CC\" CXX=\"$CXX\" >&2; make -j3 >&2;"
            " ./prog"), 5)
        self.assertGreater(self.daemon.status()["totals"]["local_reasons"].get("conftest", 0), 5)

    @needs("aarch64-linux-gnu-gcc")
    def test_cross_compiler(self):
        files = {"a.c": PROJECT["b.c"], "h.h": PROJECT["h.h"]}
        self.compare([Case("aarch64-linux-gnu-gcc %s a.c" % words, files, None, "remote")
                      for words in ("-O2 -c", "-S -O1", "-march=armv8.2-a+sve -O3 -MMD -c")] + [
            Case("aarch64-linux-gnu-gcc -mavx2 -c a.c", files, None, None)])

    def test_names_of_compilers(self):
        """By path, by links upon links, by version."""
        def link(folder):
            os.symlink("/usr/bin/gcc", folder + "/mine")
            os.symlink("mine", folder + "/cc")
            os.symlink("cc", folder + "/my-own-compiler")
        names = ["/usr/bin/gcc", "gcc", "cc", "/usr/bin/cc", "./cc", "./mine", "./my-own-compiler", '"$PWD"/cc',
                 "/usr/bin/../bin/gcc"]
        names += [name for name in ("gcc-12", "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-gcc-12", "c++", "clang-14")
                  if shutil.which(name, path=PATH)]
        files = {"a.c": PROJECT["b.c"], "h.h": PROJECT["h.h"]}
        self.compare([Case(name + " -O2 -MMD -c a.c", files, link, "remote") for name in names])

    def test_wrappers_of_compilers(self):
        """Programs by a compiler's name that run another one with further options, or ask a cache first."""
        wrapper = ('#include <unistd.h>\nint main(int argc, char **argv) {\nchar *words[99] = {NAME, "-O2"};\n'
                   "for (int i = 1; i <= argc; i++) words[i + 1] = argv[i];\nreturn execv(PROGRAM, words); }\n")
        rows = [(name, called) for name in ("gcc", "clang") for called in ("/usr/bin/" + name, name)
                if shutil.which(name, path=PATH)] + [("clang", "./clang")]

        def make(folder):
            for name, called in rows:
                place = "%s/%d" % (folder, rows.index((name, called)))
                os.mkdir(place)
                write(place + "/w.c", wrapper)
                run(["gcc", "-o", name, '-DNAME="%s"' % called, '-DPROGRAM="/usr/bin/%s"' % name, "w.c"], place)
            if shutil.which("ccache"):
                os.mkdir(folder + "/copy")
                shutil.copy(shutil.which("ccache"), folder + "/copy/gcc")
        files = {"a.c": "int f(int *a, int n) { int s = 0; while (n--) s += a[n]; return s; }\n"}
        lines = ["./%d/%s -c $PWD/a.c" % (number, name) for number, (name, _) in enumerate(rows)
                 if shutil.which(name, path=PATH)]
        lines += ["./copy/gcc -c $PWD/a.c"] if shutil.which("ccache") else []
        self.compare([Case(line, files, make, "compiler-script") for line in lines])


# ==== Trees: real builds, every object compared, counted from outside ==============================================
# Lua, zlib, Redis and ninja as Debian packages them are built by plain gcc and then, in the same folder, through a farm
# on loopback addresses.  `python3 trees.py [TREE…] [--scenario NAME]… [--farm ours|distcc]` prints a line a build.
#
# One machine hides every bug of sharing files and of "compiles locally and calls it a day", so:
#
#   stage    a mount namespace in which cc1 and cc1plus are a wrapper that reports each run, then becomes the real one.
#     │      make, the clients and the submitting daemon run here.
#     └ worker   a namespace inside it, one a host: the sources, every include folder and the homes are an empty tmpfs.
#
#   census   the socket that the wrapper reports to.  A file would not do: a worker's compiler runs as nobody, under a
#            Landlock domain that lets it write in its temp dir only.  Connecting to a named unix socket needs just the
#            socket's mode bits.  Should a later kernel change that, the count falls to 0 and the test fails.


MAKE_JOBS = 8
BUILD_TIMEOUT_S = 1200      # Redis on two shared cores takes about 150 s
STEP_TIMEOUT_S = 120        # everything else: unpack, status, objcopy
FARM_TIMEOUT_S = 20         # until the hosts are up
GONE_S = 2.0                # issue 2: after ^C nothing may be left later than this
REMOTE_SHARE = 0.90         # issue 2: more than this share of the compiles must be remote
SLOTS = 4                   # of each worker
STEADY_CORES = 8            # of each, with --steady
TREE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REAL_CC1_DIR = "/usr/lib/apt"   # where the stage shows the real cc1: a folder that a machine with apt-get has, that no
                            # build looks into, and below /usr/lib, where a contained compiler may execute

# The wrapper keeps argv[0] (the driver and the compiler's messages see no difference) and costs one exec, about 0.5 ms.
WRAPPER_C = r"""
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
static char msg[60000], parent[30000], real[4096];
static int slurp(const char *name, char *to, int room) {
    int fd = open(name, O_RDONLY | O_CLOEXEC), n = fd < 0 ? 0 : (int)read(fd, to, room - 1);
    if (fd >= 0) close(fd);
    return n < 0 ? 0 : n;
}
int main(int argc, char **argv) {
    int i, n, c_flag = 0, len, fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un to = {AF_UNIX, CENSUS};
    struct timeval patience = {2, 0};
    char name[64], *base = strrchr(argv[0], '/');
    len = (int)readlink("/proc/self/ns/mnt", msg, 64);      /* who: allowed under Landlock, which knows no readlink */
    len = (len < 0 ? 0 : len) + 1;
    snprintf(name, sizeof name, "/proc/%d/cmdline", (int)getppid());
    n = slurp(name, parent, sizeof parent);                 /* was the driver called with -c? (a worker can't read) */
    for (i = 0; i < n; i += (int)strlen(parent + i) + 1)
        c_flag |= !strcmp(parent + i, "-c");
    len += sprintf(msg + len, "%d", c_flag) + 1;
    len += sprintf(msg + len, "%d", (int)getuid()) + 1;
    for (i = 1; i + 1 < argc; i++)                          /* the driver's spec: cc1 -fpreprocessed INPUT … */
        if (!strcmp(argv[i], "-fpreprocessed") && argv[i + 1][0] != '-') {
            len += slurp(argv[i + 1], msg + len, 1024);
            break;
        }
    msg[len++] = 0;
    for (i = 0; i < argc && len + strlen(argv[i]) + 1 < sizeof msg; i++)
        len += sprintf(msg + len, "%s", argv[i]) + 1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    sendto(fd, msg, len, 0, (struct sockaddr *)&to, sizeof to);
    close(fd);
    snprintf(real, sizeof real, "%s/%s", REAL_DIR, base ? base + 1 : argv[0]);
    execv(real, argv);
    perror(real);
    return 127;
}
"""


# ---------------------------------------------------------------- small things
class Failed(AssertionError):
    """A build or a check that is not as it must be; the text says which."""


class Missing(unittest.SkipTest):
    """Something that this machine lacks.  The tests say so and are skipped (.ci/run does not take that), the command
    line counts it as a failure."""


def until(what, limit_s, test, nap_s=0.02):
    """Wait for a state: the first true value of test(), or Failed after limit_s."""
    end = time.monotonic() + limit_s
    while True:
        value = test()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed("not within %.1f s: %s" % (limit_s, what() if callable(what) else what))
        time.sleep(nap_s)


def run_step(argv, timeout=STEP_TIMEOUT_S, check=True, **options):
    """(exit status, output) of a short command, which gets its own process group so that a timeout ends all of it."""
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 start_new_session=True, **options)
    except FileNotFoundError:
        raise Missing("%s is not installed" % argv[0]) from None
    try:
        output = child.communicate(timeout=timeout)[0].decode(errors="replace")
    except BaseException as error:
        end_group(child)
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failed("%s: no end after %d s" % (shlex.join(argv), timeout)) from None
        raise
    if check and child.returncode:
        raise Failed("%s: exit %d\n%s" % (shlex.join(argv), child.returncode, output[-3000:]))
    return child.returncode, output


def end_group(child):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def free_port(address):
    """A port free for TCP and UDP at this address."""
    for _ in range(50):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((address, 0))
            with contextlib.suppress(OSError):
                udp.bind(tcp.getsockname())
                return tcp.getsockname()[1]
    raise Failed("no free port on " + address)


def files_below(folder):
    """Relative names of everything below folder that is not a folder."""
    return {os.path.relpath(os.path.join(top, name), folder)
            for top, _, names in os.walk(folder) for name in names}


def tail(name, size=1500):
    try:
        with open(name, "rb") as file:
            return "--- %s\n%s" % (name, file.read()[-size:].decode(errors="replace"))
    except OSError as error:
        return str(error)


# ---------------------------------------------------------------- census: who ran cc1, where, for which source
SOURCE_NAME = re.compile(r"^[^-].*\.(c|cc|cpp|cxx|c\+\+|C|i|ii)$|^[^-]\.(c|cc|C|i)$")


class Run:
    """One run of cc1 or cc1plus."""
    __slots__ = ("namespace", "dash_c", "uid", "argv", "preprocessed", "preprocesses", "source")

    def __init__(self, message):
        namespace, dash_c, uid, head, *argv = message.decode(errors="replace").split("\0")
        self.namespace = namespace                      # mount namespace: the stage's or one worker's
        self.dash_c = dash_c == "1"                     # the driver was called with -c; only known outside workers
        self.uid = int(uid)
        self.argv = argv[:-1]
        self.preprocesses = "-E" in argv                # cc1 -E: no compile
        self.preprocessed = "-fpreprocessed" in argv    # compiles a .i
        self.source = self._source(head)                # basename of the source that was compiled, "?" if not known

    def _source(self, head):
        marker = re.search(r'^# \d+ "((?:[^"\\]|\\.)*)"', head, re.M)
        if marker:
            return os.path.basename(marker.group(1))
        # Not -dumpbase, which follows -o: zlib's example.c is also compiled as example64.o.
        names = [name for before, name in zip(self.argv, self.argv[1:]) if SOURCE_NAME.search(name) and
                 before not in ("-dumpbase", "-dumpdir", "-include", "-imacros", "-D", "-o", "-MF", "-MT", "-MQ")]
        return os.path.basename(names[-1]) if names else "?"


class Census:
    """Reads the wrapper's datagrams in a thread; runs[] in the order of arrival."""

    def __init__(self, path):
        self.path = path
        self.runs = []
        self.syncs = 0
        self._moved = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        os.chmod(path, 0o777)                           # the worker's compiler runs as nobody
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            message = self._socket.recv(65536)
            with self._moved:
                if message == b"stop":
                    self._socket.close()
                    return
                if message == b"sync":
                    self.syncs += 1
                else:
                    self.runs.append(Run(message))
                self._moved.notify_all()

    def _tell(self, word):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(word, self.path)

    def mark(self):
        """Number of runs so far: everything sent before this call is counted, since the queue keeps its order."""
        with self._moved:
            wanted = self.syncs + 1
            self._tell(b"sync")
            if not self._moved.wait_for(lambda: self.syncs >= wanted, 10):
                raise Failed("the census does not answer")
            return len(self.runs)

    def since(self, start):
        self.mark()
        return self.runs[start:]

    def close(self):
        with contextlib.suppress(OSError):              # somebody may have emptied the temp dir
            self._tell(b"stop")


def own_compiles(runs, namespace):
    """Counter by source of the compiles that gcc -c did in this namespace."""
    return collections.Counter(run.source for run in runs
                               if run.namespace == namespace and run.dash_c and not run.preprocesses)


def worker_compiles(runs, namespaces):
    """Counter by source of the compiles in workers, which see nothing but preprocessed text."""
    return collections.Counter(run.source for run in runs if run.namespace in namespaces and not run.preprocesses)


def remote_count(expected, local, remote):
    """How many of the expected compiles were done by a worker.  One that a worker did and that was done again here, for
    whatever reason, counts as local."""
    return sum(min(remote[source], max(0, number - local[source])) for source, number in expected.items())


# ---------------------------------------------------------------- stage: the namespaces
STAGE_SH = """set -e
mount --bind "$1" "$2"
shift 2
for cc1; do mount --bind "$WRAPPER" "$cc1"; done
[ ! -d /etc/distcc ] || mount -t tmpfs none /etc/distcc       # this machine's own host list
echo ready
read -r _ || for p in /proc/[0-9]*; do
    [ $p = /proc/$$ ] || ! grep -qsF "$FOLDER" $p/environ || kill -9 ${p#/proc/}
done
"""
WORKER_SH = """set -e
while [ "$1" != -- ]; do mount -t tmpfs -o size=1m,mode=755 none "$1"; shift; done
shift
exec "$@"
"""


class Stage:
    """Folder and mount namespace of one run; everything in it ends with it."""

    def __init__(self):
        if os.geteuid():
            raise Missing("the trees need root: workers run in mount namespaces of their own")
        self.folder = tempfile.mkdtemp(prefix="lm-trees.")
        os.chmod(self.folder, 0o755)                    # nobody and distccd have to reach their temp dirs below it
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)    # a make that inherits "ignored" cannot be ^C'ed
        self.outside = os.readlink("/proc/self/ns/mnt")
        self.namespaces = set()
        self.pins = []      # fds of them: the kernel gives the number of a closed one to the next, which may be of
                            # another run, and we kill what runs in ours
        self.names = {}                                 # namespace -> "stage" or the worker's address, for messages
        for name in ("src", "log", "home", "tmp", "bin"):
            os.mkdir(self.path(name))
        os.chmod(self.path("tmp"), 0o1777)
        self.program = shutil.copy(PROGRAM, self.path("bin")) if os.path.exists(PROGRAM) else None
        self.census = Census(self.path("census"))
        self.holder = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def _open(self):
        wrapper, source = self.path("bin", "cc1-wrapper"), self.path("bin", "cc1-wrapper.c")
        with open(source, "w") as file:
            file.write(WRAPPER_C)
        run_step(["gcc", "-O2", "-w", '-DCENSUS="%s"' % self.census.path, '-DREAL_DIR="%s"' % REAL_CC1_DIR,
             "-o", wrapper, source])
        cc1 = [run_step(["gcc", "-print-prog-name=" + name])[1].strip() for name in ("cc1", "cc1plus")]
        cc1 = [name for name in cc1 if os.path.isabs(name)]             # the bare name: not installed (no g++)
        if len({os.path.dirname(name) for name in cc1}) != 1:
            raise Missing("gcc's cc1 and cc1plus are needed, in one folder: %r" % cc1)
        # The holder keeps the namespace.  When our end of its stdin closes, however we end, it ends what is left of us.
        self.holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", STAGE_SH, "stage",
             os.path.dirname(cc1[0]), REAL_CC1_DIR, *cc1],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={"PATH": TREE_PATH, "WRAPPER": wrapper, "FOLDER": self.folder})
        if self.holder.stdout.readline() != b"ready\n":
            raise Missing("no mount namespace may be made here")
        self.namespace = self.pin(self.holder.pid)
        self.adopt(self.namespace, "stage")

    def pin(self, pid):
        """The mount namespace of a process; its number is not used again before close()."""
        pin = os.open("/proc/%d/ns/mnt" % pid, os.O_RDONLY | os.O_CLOEXEC)
        name = os.readlink("/proc/self/fd/%d" % pin)
        if name in (self.outside, *self.names):
            os.close(pin)                               # has one, or is not ours
        else:
            self.pins.append(pin)
        return name

    def adopt(self, namespace, name):
        self.namespaces.add(namespace)
        self.names[namespace] = name

    def command(self, argv, cwd="/"):
        """argv to run in the stage; the process keeps its pid through it."""
        return ["nsenter", "--mount=/proc/%d/ns/mnt" % self.holder.pid, "env", "-C", cwd, *argv]

    def hidden(self):
        """What a worker must not see: the sources, all headers, the homes."""
        include = run_step(["gcc", "-print-file-name=include"])[1].strip()
        wanted = [self.path("src"), "/usr/include", "/usr/local/include", include, "/root", "/home",
                  os.path.expanduser("~")]
        return sorted({os.path.realpath(name) for name in wanted if os.path.isdir(name) and
                       not self.folder.startswith(os.path.realpath(name).rstrip("/") + "/")})

    def python(self):
        """The interpreter that runs the tests where workers can see it, else the system's."""
        mine = os.path.realpath(sys.executable)
        gone = [name + "/" for name in self.hidden()]
        if any(place.startswith(tuple(gone)) for place in (mine, os.path.realpath(sys.base_prefix) + "/")):
            return "/usr/bin/python3"
        return sys.executable

    def environment(self, **more):
        """Nothing of the caller's: MAKEFLAGS of an outer make, ccache folders, the real HOME."""
        return dict(PATH=TREE_PATH, HOME=self.path("home"), TMPDIR=self.path("tmp"), LC_ALL="C.UTF-8",
                    SOURCE_DATE_EPOCH="1700000000", **more)       # Redis puts the time of the build into an object

    def processes(self, namespaces=None):
        """{pid: command} of what runs in the stage and its workers, or in these namespaces, without the holder."""
        namespaces, found = self.namespaces if namespaces is None else namespaces, {}
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != self.holder.pid:
                with contextlib.suppress(OSError):
                    space = os.readlink("/proc/%s/ns/mnt" % name)
                    if space in namespaces:
                        with open("/proc/%s/cmdline" % name, "rb") as file:
                            command = file.read().replace(b"\0", b" ").decode(errors="replace")
                        found[int(name)] = "%s in %s" % (command[:150], self.names.get(space, space))
        return found

    def kill_all(self, namespaces):
        """SIGKILL for everything in these namespaces, until nothing is there."""
        def none_left():
            found = self.processes(namespaces)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found
        until(lambda: "processes gone: %s" % self.processes(namespaces), 10, none_left)

    def close(self, keep=False):
        if self.holder:
            self.kill_all(self.namespaces)
            self.holder.stdin.close()
            self.holder.stdout.close()
            self.holder.wait()
        for pin in self.pins:
            os.close(pin)
        self.census.close()
        if keep:
            print("kept:", self.folder)
        else:
            shutil.rmtree(self.folder)


# ---------------------------------------------------------------- farms
class Daemon:
    """A daemon in the stage (hidden=None) or in a worker's namespace inside it."""

    def __init__(self, stage, address, argv, hidden=None, **env):
        self.stage, self.address = stage, address
        self.tmpdir = stage.path("tmp-" + address)
        self.log = stage.path("log", address)
        os.makedirs(self.tmpdir, exist_ok=True)
        os.chmod(self.tmpdir, 0o1777)
        if hidden is not None:
            argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", WORKER_SH, "worker", *hidden, "--", *argv]
        argv = stage.command(argv)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                            start_new_session=True,
                                            env={**stage.environment(), "TMPDIR": self.tmpdir, **env})
        self.namespace = until("daemon's namespace", 10, lambda: self._namespace(hidden is not None))
        if hidden is not None:
            stage.adopt(self.namespace, address)
            until("mounts of " + address, 10, lambda: self._is_hidden(hidden))
        self.resting = set()            # temp dir's content when idle

    def _namespace(self, nested):
        self.must_run()
        with contextlib.suppress(OSError):
            name = self.stage.pin(self.process.pid)
            if name != self.stage.outside and nested == (name != self.stage.namespace):
                return name
        return None

    def _is_hidden(self, hidden):
        self.must_run()
        view = "/proc/%d/root" % self.process.pid       # the file system as that process sees it
        return not any(os.listdir(view + name) for name in hidden)

    def must_run(self):
        if self.process.poll() is not None:
            raise Failed("daemon %s exited %s\n%s" % (self.address, self.process.returncode, tail(self.log)))

    def leftover(self):
        """Files in the temp dir that were not there when the daemon was idle."""
        return sorted(files_below(self.tmpdir) - self.resting)

    def kill(self, group=False):
        if group:
            end_group(self.process)
        else:
            self.process.kill()
            self.process.wait()


def steady_procfs(folder, cores):
    """What --procfs reads, of an idle machine."""
    texts = {"loadavg": "0.00 0.00 0.00 1/100 1000\n", "sys/kernel/random/boot_id": "%s\n" % uuid.uuid4(),
             "stat": "".join("cpu%s 0 0 0 1000000 0 0 0 0 0 0\n" % number for number in ("", *range(cores))),
             "meminfo": "MemTotal: 33554432 kB\nMemFree: 16777216 kB\nMemAvailable: 16777216 kB\n",
             "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"}
    for name, text in texts.items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    return folder


class TreeFarm:
    """Workers and a way to compile through them.  Subclasses say which."""
    name = ""
    share = REMOTE_SHARE    # of the compiles, more than this must be remote
    least = 0.0             # of the remote compiles, each worker must have had this share
    jobs = MAKE_JOBS        # make's
    same_depends = True     # .d files must be identical
    kill_group = False      # a killed worker: the daemon alone (its own must not outlive it), or its whole group

    steady = False          # daemons of ours believe that they are alone on a machine
    stopped = False

    def __init__(self, stage):
        self.stage, self.workers, self.others, self.env = stage, [], [], {}
        try:
            self.start()
            for worker in self.workers:
                worker.resting = files_below(worker.tmpdir)
        except BaseException:
            self.stop()
            raise

    def start(self):
        raise NotImplementedError

    def compiler(self, name):
        """What CC= or CXX= is set to."""
        raise NotImplementedError

    def taken(self):
        """Text about slots that are taken, "" when none is."""
        return ""

    def worker_namespaces(self):
        return {worker.namespace for worker in self.workers}

    def stop(self):
        for daemon in self.workers + self.others:
            end_group(daemon.process)
        self.stage.kill_all(self.worker_namespaces())
        for daemon in self.workers:
            daemon.resting = files_below(daemon.tmpdir)         # nobody is there to clean up
        self.stopped = True

    def start_ours(self, address):
        """A worker of ours; (daemon, HOST:PORT)."""
        place = "%s:%d" % (address, free_port(address))
        daemon = Daemon(self.stage, address, self.program(
            "daemon", "--listen", place, "--socket", self.socket(address), "--slots", str(SLOTS),
            "--allow", "127.0.0.0/8", "--broadcast", "none", "--state", self.stage.path("log", address + ".state"),
            "--tmpdir", self.stage.path("tmp-" + address), *self.load(address), worker=True),
            hidden=self.stage.hidden())
        self.workers.append(daemon)
        return place

    def start_distccd(self, address):
        port = free_port(address)
        daemon = Daemon(self.stage, address, [
            "distccd", "--no-detach", "--daemon", "--listen", address, "--port", str(port), "--jobs", str(SLOTS),
            "--allow", "127.0.0.0/8", "--log-stderr", "--log-level", "notice"], hidden=self.stage.hidden())
        self.workers.append(daemon)

        def answers():
            daemon.must_run()
            with socket.socket() as probe:
                return not probe.connect_ex((address, port))
        until("distccd %s up" % address, FARM_TIMEOUT_S, answers)
        return "%s:%d" % (address, port)

    def program(self, *args, worker=False):
        if not self.stage.program:
            raise Failed("no program under test: " + PROGRAM)
        return [self.stage.python() if worker else sys.executable, self.stage.program, *args]

    def load(self, address):
        """Options that show this daemon an idle machine of its own, where load of other work would blur the figures."""
        return ["--procfs", steady_procfs(self.stage.path("proc-" + address), STEADY_CORES)] if self.steady else []

    def socket(self, address):
        return self.stage.path("socket-" + address)

    def status(self, address):
        """status --json of the daemon at this address, None when there is none."""
        code, output = run_step(self.stage.command(self.program("status", "--json")), check=False,
                           env=self.stage.environment(DISTCC_LM_SOCKET=self.socket(address)))
        with contextlib.suppress(ValueError):
            return json.loads(output) if code == 0 else None
        return None


class OurFarm(TreeFarm):
    """Three daemons as in issue 2: two workers, and the submitting one in the stage."""
    name = "ours"
    ours, theirs = ("127.0.0.2", "127.0.0.3"), ()       # workers of ours, real distccd servers
    submitter = "127.0.0.1"

    def start(self):
        options = []
        for address in self.ours:
            options += ["--peer", self.start_ours(address)]
        if self.theirs:
            options += ["--hosts", " ".join("%s/%d" % (self.start_distccd(address), SLOTS) for address in self.theirs)]
        place = "%s:%d" % (self.submitter, free_port(self.submitter))
        self.others.append(Daemon(self.stage, self.submitter, self.program(
            "daemon", "--listen", place, "--socket", self.socket(self.submitter), "--slots", "1", "--broadcast", "none",
            "--state", self.stage.path("log", "submitter.state"), *self.load(self.submitter), *options)))
        # DISTCC_LM_PYTHON: the client runs in the stage, which sees every interpreter, so it is the one under test.
        self.env = dict(DISTCC_LM_SOCKET=self.socket(self.submitter), DISTCC_LM_PYTHON=sys.executable)
        until(self._why, FARM_TIMEOUT_S, self._up, nap_s=0.1)

    def _why(self):
        hosts = (self.status(self.submitter) or {}).get("hosts", ())
        return "both hosts up: %s" % [(host["name"], host["kind"], host["state"], host["reason"]) for host in hosts]

    def _up(self):
        for daemon in self.workers + self.others:
            daemon.must_run()
        hosts = (self.status(self.submitter) or {}).get("hosts", ())
        up = {host["address"].rsplit(":", 1)[0] for host in hosts if host["kind"] != "local" and host["state"] == "up"}
        return up >= {*self.ours, *self.theirs}

    def compiler(self, name):
        return "%s cc %s" % (self.stage.program, name)

    def taken(self):
        found = []
        killed = {daemon.address for daemon in self.workers if daemon.process.poll() is not None}
        for daemon in () if self.stopped else self.others + self.workers:
            address = daemon.address
            if address in killed or address in self.theirs:
                continue
            status = self.status(address)
            if status is None:
                return "no status from " + address
            found += ["%s says %s running %s" % (address, host["name"], host["running"])
                      for host in status["hosts"]
                      if host["running"] and host["address"].rsplit(":", 1)[0] not in killed]    # its last report
            found += ["%s has job %s" % (address, job) for job in status["jobs"]]
        return "; ".join(found)


class MixedFarm(OurFarm):
    """One worker of ours beside a real distccd, which must get its share although it tells nothing."""
    name = "ours+distccd"
    ours, theirs = ("127.0.0.2",), ("127.0.0.9",)
    least = 0.2


class TheirServers(OurFarm):
    """Our client, a real distccd and nothing else."""
    name = "distccd by --hosts"
    ours, theirs = (), ("127.0.0.9",)
    share = 0.5             # with -j8 and 4 slots there, the local slot is one more host


class TwoDistccds(TheirServers):
    """Two of them."""
    name = "two distccds"
    theirs = ("127.0.0.9", "127.0.0.10")
    kill_group = True


class DistccFarm(TreeFarm):
    """Real distcc throughout: proves the harness, and shows what distcc itself does."""
    name = "distcc"
    same_depends = False    # distcc 3.4 puts the .d of -o objs/x.o beside x.c
    kill_group = True       # distccd's children are servers of their own

    def start(self):
        self.env_of([self.start_distccd(address) for address in ("127.0.0.2", "127.0.0.3")])

    def env_of(self, places):
        os.makedirs(self.stage.path("home", "distcc"), exist_ok=True)
        self.env = dict(DISTCC_HOSTS=" ".join("%s/%d" % (place, SLOTS) for place in places),
                        DISTCC_LOG=self.stage.path("log", "distcc"),    # zlib's configure takes any word for a failure
                        DISTCC_DIR=self.stage.path("home", "distcc"))

    def compiler(self, name):
        return "distcc " + name


class TheirClient(DistccFarm):
    """A real distcc client that must not fall back, two workers of ours, and 50 jobs at once for their few slots."""
    name, options = "distcc client", ""
    kill_group = False
    jobs = 50

    def start(self):
        workers = "127.0.0.2", "127.0.0.3"
        self.env_of([self.start_ours(address) for address in workers])
        for address in workers:
            until("worker up", FARM_TIMEOUT_S, lambda address=address: self.status(address), nap_s=0.1)
        hosts = ["%s/25%s" % (word.partition("/")[0], self.options) for word in self.env["DISTCC_HOSTS"].split()]
        self.env.update(DISTCC_HOSTS=" ".join(hosts), DISTCC_FALLBACK="0")


class TheirClientLzo(TheirClient):
    """The same in protocol 2."""
    name, options = "distcc client,lzo", ",lzo"


# ---------------------------------------------------------------- trees
LUA_MK = """
OBJ := $(patsubst %.c,%.o,$(wildcard *.c))
all: lua luac
lua: $(filter-out luac.o,$(OBJ))
\t$(CC) -Wl,-E -o $@ $^ -lm -ldl
luac: $(filter-out lua.o,$(OBJ))
\t$(CC) -o $@ $^ -lm -ldl
%.o: %.c lua5.4-deb-multiarch.h
\t$(CC) $(CFLAGS) -c -o $@ $<
lua5.4-deb-multiarch.h:         # as debian/rules makes it
\techo '#define DEB_HOST_MULTIARCH "none"' >$@
"""
# configure.py --bootstrap builds one file after the other, so: its list of sources (all but tests, benchmarks and
# win32), its flags.  browse.cc needs a generated header and is optional there too.
NINJA_MK = """
OBJ := $(patsubst %.cc,%.o,$(filter-out %_test.cc test.cc %test.cc %_bench.cc %-win32.cc browse.cc %.in.cc,\
$(wildcard *.cc)))
ninja: $(OBJ)
\t$(CXX) -o $@ $^ -lpthread
%.o: %.cc
\t$(CXX) $(CXXFLAGS) -c -o $@ $<
"""


class Tree:
    """How one package is built.  {cc}, {cxx}, {mk}, {jobs} are filled in; the last is the make."""

    def __init__(self, name, package, steps, smoke, makefile="", also=()):
        self.name, self.package, self.steps, self.smoke, self.makefile = name, package, steps, smoke, makefile
        self.also = set(also)       # files that a second make leaves, but not the first


MAKE = ("make", "-j{jobs}")
TREES = {tree.name: tree for tree in (
    Tree("lua", "lua5.4", [(*MAKE, "-C", "src", "-f", "{mk}", "CC={cc}",
                            "CFLAGS=-std=gnu99 -O2 -w -MMD -DLUA_COMPAT_5_3 -DLUA_USE_LINUX")],
         ("src/lua", "-e", "assert(2^53 == 9007199254740992)"), LUA_MK),
    Tree("zlib", "zlib", [("env", "CC={cc}", "CFLAGS=-O3 -w", "./configure"), (*MAKE, "CC={cc} -MMD")],
         ("make", "test")),
    Tree("redis", "redis", [(*MAKE, "-C", "src", "MALLOC=libc", "OPTIMIZATION=-O2", "DEBUG=-g", "WARN=-w", "CFLAGS=-w",
                             "CC={cc}")], ("src/redis-server", "--version"), also=["src/Makefile.dep"]),
    Tree("ninja", "ninja-build", [(*MAKE, "-C", "src", "-f", "{mk}", "CXX={cxx}",
                                   "CXXFLAGS=-g -O2 -w -MMD -fno-rtti -fno-exceptions -DNINJA_PYTHON='\"python3\"'")],
         ("src/ninja", "--version"), NINJA_MK))}


def sources(tree):
    """The package's .dsc in the cache folder, which apt-get fills once."""
    cache = os.environ.get("DISTCC_LM_TREES") or os.path.expanduser("~/.cache/distcc_lm-trees")
    os.makedirs(cache, exist_ok=True)
    found = sorted(glob.glob(os.path.join(glob.escape(cache), tree.package + "_*.dsc")))
    if not found:
        code, output = run_step(["apt-get", "source", "--download-only", tree.package], check=False, cwd=cache,
                                timeout=600)
        found = sorted(glob.glob(os.path.join(glob.escape(cache), tree.package + "_*.dsc")))
        if code or not found:
            raise Missing("apt-get source %s failed in %s.  The apt sources need a deb-src entry (Types: deb deb-src)"
                          " and an apt-get update; or put the package's .dsc and tar files there.\n%s"
                          % (tree.package, cache, output[-2000:]))
    return found[-1]


# ---------------------------------------------------------------- comparing
def objects_below(folder):
    """Relative names of the relocatable ELF files, whatever their suffix (zlib's shared ones are .lo)."""
    found = set()
    for name in files_below(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as file:
                head = file.read(18)
            if head[:4] == b"\x7fELF" and head[16:18] in (b"\1\0", b"\0\1"):
                found.add(name)
    return found


def stripped(folder, name):
    with tempfile.NamedTemporaryFile() as out:
        run_step(["objcopy", "--strip-debug", os.path.join(folder, name), out.name])
        return out.read()


def debug_facts(folder, name):
    """(names, lines, rows) of an object's debug information.

    names: source name and compile folder of each unit, folder and file tables of the line program.
    lines: what a debugger makes of it: (sequence, address, file, line) wherever the line changes.
    rows:  the table itself.  It is finer: several views of one address, statement marks.  Those come from macro
           locations, which plain -E does not keep (distcc has the same), so rows may differ where lines are equal."""
    names, taking = [], False
    dump = run_step(["readelf", "--debug-dump=info", "--dwarf-depth=1", "--debug-dump=rawline", name], cwd=folder)[1]
    for line in dump.splitlines():
        taking = line.startswith((" The Directory Table", " The File Name Table")) or taking and bool(line.strip())
        if taking or " DW_AT_name" in line or " DW_AT_comp_dir" in line:
            names.append(re.sub(r"offset: \w+|^\s*<\w+>", "", line))
    rows = re.findall(r"^(\S+) +(\d+|-) +(0x[0-9a-f]+|0)\b(.*)$",
                      run_step(["readelf", "--wide", "--debug-dump=decodedline", name], cwd=folder)[1], re.M)
    places, sequence = {}, 0
    for file, line, address, _ in rows:
        sequence += line == "-"
        places[sequence, int(address, 16)] = file, line     # the last row of an address counts
    lines, last = [], None
    for where in sorted(places):
        if places[where] != last:
            last = places[where]
            lines.append((where, last))
    return names, lines, rows


class Comparison:
    """What differs between a reference build and another of the same folder."""

    def __init__(self, reference, built, partial=False):
        objects, got = objects_below(reference), objects_below(built)
        depends, deps_got = ({name for name in files_below(folder) if name.endswith(".d")}
                             for folder in (reference, built))
        self.objects, self.depends = len(objects & got), len(depends & deps_got)
        self.differing = sorted(got - objects) + sorted(name for name in objects & got
                                                        if not self._same_code(reference, built, name))
        self.missing = [] if partial else sorted(objects - got)
        self.deps_missing = [] if partial else sorted(depends - deps_got)
        self.debug, self.views = [], 0
        for name in sorted((objects & got) - set(self.differing)):
            if not self._identical(reference, built, name):
                was, now = debug_facts(reference, name), debug_facts(built, name)
                if was[:2] != now[:2]:
                    self.debug.append(name)
                else:
                    self.views += was[2] != now[2]
        if partial:     # gcc writes the .d first: one without its object may be anything, as after a plain build's ^C
            deps_got = {name for name in deps_got if os.path.splitext(name)[0] + ".o" in got}
        self.deps_differing = sorted(deps_got - depends) + sorted(
            name for name in depends & deps_got if not self._identical(reference, built, name))

    @staticmethod
    def _identical(reference, built, name):
        return filecmp.cmp(os.path.join(reference, name), os.path.join(built, name), shallow=False)

    def _same_code(self, reference, built, name):
        return self._identical(reference, built, name) or stripped(reference, name) == stripped(built, name)

    def problems(self, depends=True):
        lists = [("object differs", self.differing), ("debug lines or names differ", self.debug),
                 ("object missing", self.missing)]
        if depends:
            lists += [(".d differs", self.deps_differing), (".d missing", self.deps_missing)]
        return ["%s: %s" % (what, " ".join(names)) for what, names in lists if names]

    def __str__(self):
        return "objects %d, differing %d, debug differing %d (views %d), .d %d, differing %d, missing %d" % (
            self.objects, len(self.differing), len(self.debug), self.views, self.depends,
            len(self.deps_differing), len(self.deps_missing))


# ---------------------------------------------------------------- one build, and the scenarios
class Build:
    """make of a tree in the stage, in its own process group as a terminal would have it."""

    def __init__(self, trial, farm, cc, cxx, fresh=True):
        self.trial, self.stage, self.farm = trial, trial.stage, farm
        self.words = dict(cc=cc, cxx=cxx, mk=trial.makefile, jobs=farm.jobs if farm else MAKE_JOBS)
        self.env = self.stage.environment(**(farm.env if farm else {}))
        self.log = self.stage.path("log", "make")
        if fresh:
            shutil.rmtree(trial.tree_dir, ignore_errors=True)
            shutil.copytree(trial.pristine, trial.tree_dir, symlinks=True)
            for step in trial.tree.steps[:-1]:
                run_step(self.stage.command(self._fill(step), trial.tree_dir), env=self.env, timeout=BUILD_TIMEOUT_S)
        self.before = set(self.stage.processes())
        self.start = self.stage.census.mark()
        self.began = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.stage.command(self._fill(trial.tree.steps[-1]), trial.tree_dir),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                                            start_new_session=True)

    def _fill(self, step):
        return [word.format_map(self.words) if "{" in word else word for word in step]

    def runs(self):
        return self.stage.census.since(self.start)

    def halfway(self):
        """Wait until half of the compiles have begun, here or in workers."""
        half = sum(self.trial.expected.values()) // 2
        spaces = self.farm.worker_namespaces()

        def there():
            if self.process.poll() is not None:
                raise Failed("make ended (%s) before half of the %d compiles had begun\n%s"
                             % (self.process.returncode, 2 * half, tail(self.log)))
            runs = self.runs()
            begun = own_compiles(runs, self.stage.namespace) + worker_compiles(runs, spaces)
            return sum(begun.values()) >= half
        try:
            until("half of the compiles begun", BUILD_TIMEOUT_S, there, nap_s=0.005)
        except BaseException:
            end_group(self.process)
            raise

    def left(self):
        """What is left of this build: processes, files in temp dirs; when there are none, slots that are taken."""
        self.process.poll()                             # reaps make
        found = ["process: " + text for pid, text in self.stage.processes().items()
                 if pid not in self.before and not text.startswith("distccd ")]     # distccd renews its children
        for worker in self.farm.workers:
            found += ["file: %s/%s" % (worker.tmpdir, name) for name in worker.leftover()]
        found += ["file: " + self.stage.path("tmp", name) for name in files_below(self.stage.path("tmp"))]
        taken = "" if found else self.farm.taken()
        return found + ["slot: " + taken] * bool(taken)

    def all_gone(self):
        """Seconds until nothing is left, at most GONE_S."""
        began = asked = time.monotonic()
        found = []

        def none_left():
            nonlocal asked, found
            asked = time.monotonic()                    # a look takes time of its own: status runs once a daemon
            found = self.left()
            return not found
        until(lambda: "nothing left of the build:\n  " + "\n  ".join(found), GONE_S, none_left)
        return asked - began

    def finish(self):
        """Wall seconds of a make that succeeds."""
        try:
            code = self.process.wait(BUILD_TIMEOUT_S)
        except BaseException:
            end_group(self.process)
            raise
        self.seconds = time.monotonic() - self.began
        if code:
            raise Failed("make exited %d\n%s" % (code, tail(self.log, 4000)))
        run_step(self.stage.command(self.trial.tree.smoke, self.trial.tree_dir), env=self.stage.environment())
        return self.seconds


class Trial:
    """A tree in a stage: the reference build once, then the scenarios."""

    def __init__(self, stage, tree):
        self.stage, self.tree = stage, tree
        self.tree_dir = stage.path("src", "tree")       # one path for all builds, so that debug paths agree
        self.pristine = stage.path("src", tree.name + ".pristine")
        self.reference = stage.path("src", tree.name + ".reference")
        self.makefile = stage.path("src", tree.name + ".mk")
        with open(self.makefile, "w") as file:
            file.write(tree.makefile)
        run_step(["dpkg-source", "--no-check", "-x", sources(tree), self.pristine])
        build = Build(self, None, "gcc", "g++")
        build.finish()
        self.expected = own_compiles(build.runs(), stage.namespace)     # Counter by source of what gcc -c compiles
        os.rename(self.tree_dir, self.reference)
        self.figure("reference", "gcc", "objects %d, compiles %d, %.1f s" % (
            len(objects_below(self.reference)), sum(self.expected.values()), build.seconds))

    def figure(self, scenario, farm, text):
        print("%-6s %-14s %-18s %s" % (self.tree.name, scenario, farm, text), flush=True)

    def judge(self, scenario, farm, build, share=None, depends=True):
        """Compare and count a finished build; one line; Failed with the names of what differs."""
        build.all_gone()
        result = Comparison(self.reference, self.tree_dir)
        runs = build.runs()
        workers = worker_compiles(runs, farm.worker_namespaces())
        remote = remote_count(self.expected, own_compiles(runs, self.stage.namespace), workers)
        all_of_them = sum(self.expected.values())
        each = [sum(worker_compiles(runs, {worker.namespace}).values()) for worker in farm.workers]
        self.figure(scenario, farm.name, "%s, remote %d/%d (%s), %.1f s" % (
            result, remote, all_of_them, "+".join(map(str, each)), build.seconds))
        problems = result.problems(depends)
        problems += ["a worker compiled other than preprocessed text: %s" % shlex.join(run.argv) for run in runs
                     if run.namespace in farm.worker_namespaces() and not run.preprocessed]
        if share is not None:
            problems += ["no compile at all on " + self.stage.names[space]
                         for space in farm.worker_namespaces() - {run.namespace for run in runs}]
        if share is not None and min(each) < farm.least * sum(each):
            problems.append("a worker with less than its share: %s" % each)
        if share is not None and remote <= share * all_of_them:
            local = self.expected - workers
            problems.append("remote %d of %d; local: %s" % (remote, all_of_them, " ".join(sorted(local))))
        problems += ["not left by a plain build: " + name for name in self.extra_files()]
        if problems:
            raise Failed("\n  ".join(problems))

    def extra_files(self):
        """Files in the tree that a plain build does not leave."""
        return sorted(files_below(self.tree_dir) - files_below(self.reference) - self.tree.also)


def through(trial, farm, **options):
    return Build(trial, farm, farm.compiler("gcc"), farm.compiler("g++"), **options)


def scenario_whole(trial, farm):
    """The whole build, more than the farm's share of it in workers."""
    build = through(trial, farm)
    build.finish()
    trial.judge("whole", farm, build, share=farm.share, depends=farm.same_depends)


def scenario_kill(trial, farm):
    """One worker killed in the middle."""
    build = through(trial, farm)
    build.halfway()
    victim = farm.workers[-1]
    victim.kill(group=farm.kill_group)

    def left():
        return [*trial.stage.processes({victim.namespace}).values(), *victim.leftover()]
    try:
        if not farm.kill_group:
            until(lambda: "nothing left of the killed daemon: %s" % left(), GONE_S, lambda: not left())
        else:
            victim.resting |= files_below(victim.tmpdir)        # nobody is there to clean up
    finally:
        build.finish()
    trial.judge("kill", farm, build, depends=farm.same_depends)


def scenario_alone(trial, farm):
    """No daemon at all."""
    farm.stop()
    build = through(trial, farm)
    build.finish()
    trial.judge("alone", farm, build, depends=farm.same_depends)


def scenario_interrupt(trial, farm):
    """^C in the middle: within GONE_S nothing is left but whole objects, and make then goes on to the end."""
    build = through(trial, farm)
    build.halfway()
    os.killpg(build.process.pid, signal.SIGINT)
    try:
        gone_s = build.all_gone()
    finally:
        end_group(build.process)
    if not build.process.returncode:
        raise Failed("make was not interrupted: it had ended already")
    result = Comparison(trial.reference, trial.tree_dir, partial=True)
    trial.figure("interrupt", farm.name, "%s, all gone after %.2f s" % (result, gone_s))
    problems = result.problems(farm.same_depends)
    problems += ["not left by a plain build: " + name for name in trial.extra_files()]
    if problems:
        raise Failed("\n  ".join(problems))
    build = through(trial, farm, fresh=False)
    build.finish()
    trial.judge("resumed", farm, build, depends=farm.same_depends)


SCENARIOS = {"whole": scenario_whole, "kill": scenario_kill, "alone": scenario_alone, "interrupt": scenario_interrupt}
MIXED = {                   # with other programs: farm, and what is done with it
    "mixed": (MixedFarm, scenario_whole), "distccd": (TheirServers, scenario_whole),
    "distccd-kill": (TwoDistccds, scenario_kill), "distcc-client": (TheirClient, scenario_whole),
    "distcc-client-lzo": (TheirClientLzo, scenario_whole)}


def run_scenario(trial, name, farm):
    """One scenario in a farm of its own; farm: the class, for those of SCENARIOS."""
    farm, scenario = MIXED[name] if name in MIXED else (farm, SCENARIOS[name])
    farm = farm(trial.stage)
    try:
        scenario(trial, farm)
    except Failed as error:
        logs = "\n".join(tail(daemon.log) for daemon in farm.workers + farm.others)
        raise Failed("%s, %s, farm %s: %s\n%s" % (trial.tree.name, name, farm.name, error, logs)) from None
    finally:
        farm.stop()


# ---------------------------------------------------------------- tests: the small trees, and the harness itself
LANDLOCK_PY = """
import ctypes, os, struct, sys
libc, tmp = ctypes.CDLL(None, use_errno=True), sys.argv[1]
abi = libc.syscall(444, None, 0, 1)
READ, ALL = 1 | 4 | 8, (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1   # READ: execute too
attr = struct.pack("QQQ", ALL, 3, 3)[:24 if abi >= 6 else 8]        # ABI 6: no TCP, no abstract socket, no signal
rules = libc.syscall(444, attr, len(attr), 0)
read = "/usr/bin", "/usr/lib", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null"
for name, rights in [(name, READ) for name in read] + [(tmp, ALL)]:
    if os.path.exists(name):
        fd = os.open(name, os.O_PATH)
        rights &= ALL if os.path.isdir(name) else 5
        assert libc.syscall(445, rules, 1, struct.pack("=Qi", rights, fd), 0) == 0, os.strerror(ctypes.get_errno())
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.syscall(446, rules, 0) == 0, os.strerror(ctypes.get_errno())
for name in ("/etc/hostname", "/proc/self/status"):
    try:
        open(name); sys.exit(name + " can be read: no Landlock")
    except PermissionError:
        pass
os.environ["TMPDIR"] = tmp
os.execv("/usr/bin/gcc", ["gcc", "-c", tmp + "/x.i", "-o", tmp + "/x.o"])
"""


@unittest.skipIf(BRIEF, "DISTCC_LM_ALL=1 builds whole trees with every Python")
class TreeTests(unittest.TestCase):
    """Lua and zlib through a farm; with --farm distcc, or without the program, nothing here is about ours."""
    farm = OurFarm

    @classmethod
    def setUpClass(cls):
        TreeFarm.steady = True              # else what runs beside the tests decides how much is done remotely
        cls.stage = Stage()
        cls.addClassCleanup(cls.stage.close)
        cls.trials = {}

    def scenario(self, tree, name):
        if tree not in self.trials:
            self.trials[tree] = Trial(self.stage, TREES[tree])
        run_scenario(self.trials[tree], name, self.farm)

    def test_census_hears_a_contained_worker(self):
        """As nobody, under every right that Landlock knows, in a worker's namespace."""
        tmp = self.stage.path("tmp-landlock")
        os.mkdir(tmp)
        os.chmod(tmp, 0o777)
        with open(os.path.join(tmp, "x.i"), "w") as file:
            file.write('# 0 "some/source.c"\nint x;\n')
        start = self.stage.census.mark()
        if ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:
            self.skipTest("no Landlock in this kernel")
        run_step(self.stage.command(["unshare", "-m", "sh", "-c", WORKER_SH, "worker", *self.stage.hidden(), "--",
                                "/usr/bin/python3", "-c", LANDLOCK_PY, tmp]))
        (seen,) = self.stage.census.since(start)
        self.assertEqual((seen.source, seen.uid), ("source.c", 65534))
        self.assertTrue(seen.preprocessed and not seen.preprocesses)
        self.assertNotIn(seen.namespace, (self.stage.namespace, self.stage.outside))
        self.assertTrue(os.path.getsize(os.path.join(tmp, "x.o")))

    def test_lua_whole(self):
        self.scenario("lua", "whole")

    def test_lua_worker_killed(self):
        self.scenario("lua", "kill")

    def test_lua_no_daemon(self):
        self.scenario("lua", "alone")

    def test_lua_interrupted(self):
        self.scenario("lua", "interrupt")

    @unittest.skipUnless(shutil.which("distccd"), "distcc is not installed")
    def test_lua_mixed(self):
        for name in ("mixed", "distccd", "distcc-client-lzo"):
            with self.subTest(name):
                self.scenario("lua", name)

    def test_zlib_whole(self):
        self.scenario("zlib", "whole")


def trees_main(argv=None):
    parser = argparse.ArgumentParser(description="Build real trees through a farm and compare every object.")
    parser.add_argument("trees", nargs="*", metavar="TREE", help="of %s (default: all)" % " ".join(TREES))
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS, *MIXED],
                        help="default: all, those with other programs not for zlib")
    parser.add_argument("--farm", choices=("ours", "distcc"), default="ours")
    parser.add_argument("--steady", action="store_true", help="our daemons see an idle machine (--procfs)")
    parser.add_argument("--keep", action="store_true", help="keep the folder, for looking at what differs")
    options = parser.parse_args(argv)
    unknown = set(options.trees) - set(TREES)
    if unknown:
        parser.error("unknown tree: " + " ".join(sorted(unknown)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that everything is cleaned up then too
    TreeFarm.steady = options.steady
    farm, failed, stage = {"ours": OurFarm, "distcc": DistccFarm}[options.farm], 0, None
    try:
        stage = Stage()
        for tree in options.trees or TREES:
            trial = None
            mixed = () if tree == "zlib" or options.farm != "ours" else MIXED
            for name in options.scenario or [*SCENARIOS, *mixed]:
                try:
                    trial = trial or Trial(stage, TREES[tree])
                    run_scenario(trial, name, farm)
                except (Failed, Missing) as error:
                    failed += 1
                    print("FAILED %s\n" % error, flush=True)
    except Missing as error:
        parser.exit(1, "%s\n" % error)
    finally:
        if stage:
            stage.close(options.keep)
    print("%d failed" % failed)
    return 1 if failed else 0


# ==== Fuzz: mutated input for every decoder and the argument analysis, in process and against live daemons ============
# Seeded. What breaks a rule is printed as a row that can be put into a table above.

class Mutator:
    """Good inputs, changed."""
    NUMBERS = (b"00000000", b"00000001", b"ffffffff", b"7fffffff", b"80000000", b"0000ffff", b"00010000", b"0000000g",
               b"FFFFFFFE", b"    0x01")
    TOKENS = tuple(b"DIST ARGC ARGV DOTI DONE STAT SERR SOUT DOTO TIME LMRQ LMOK LMWT LMNO HELO IDNT SEEN SIZE FAIL"
                   b" HOME TURN SOCK LOCL PING JSON NOPE WAIT FILE CDIR NFIL".split())

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def change(self, seeds):
        rng = self.rng
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
            way = rng.choice("flip flip number number name insert delete repeat cut splice".split())
            getattr(self, way)(data, seeds)
        return bytes(data)

    def span(self, data):
        """A slice of the data, short mostly."""
        at = self.rng.randrange(len(data) + 1)
        return slice(at, at + self.rng.choice((1, 1, 2, 4, 8, 12, 40)))

    def flip(self, data, _):
        if data:
            data[self.rng.randrange(len(data))] = self.rng.choice((0, 10, 32, 47, 48, 255, self.rng.randrange(256)))

    def number(self, data, _):
        """Of one of its tokens."""
        found = list(re.finditer(rb"[A-Z]{4}[0-9a-f]{8}", bytes(data)))
        if found:
            at = self.rng.choice(found).start() + 4
            data[at:at + 8] = self.rng.choice(self.NUMBERS) if self.rng.random() < 0.5 else b"%08x" % (
                max(0, int(data[at:at + 8], 16) + self.rng.randint(-3, 3)))

    def name(self, data, _):
        found = list(re.finditer(rb"[A-Z]{4}[0-9a-f]{8}", bytes(data)))
        if found:
            at = self.rng.choice(found).start()
            data[at:at + 4] = self.rng.choice(self.TOKENS)

    def insert(self, data, _):
        at = self.rng.randrange(len(data) + 1)
        data[at:at] = bytes(self.rng.randrange(256) for _ in range(self.rng.choice((1, 2, 4, 12))))

    def delete(self, data, _):
        del data[self.span(data)]

    def repeat(self, data, _):
        span = self.span(data)
        data[span.start:span.start] = data[span] * self.rng.choice((1, 2, 50))

    def cut(self, data, _):
        del data[self.rng.randrange(len(data) + 1):]

    def splice(self, data, seeds):
        other = self.rng.choice(seeds)
        data[self.rng.randrange(len(data) + 1):] = other[self.rng.randrange(len(other) + 1):]


def words_of_tables():
    """Options that some table knows, each with values that an attacker would try."""
    beginnings = [beginning for _, rows, _ in lm.FAMILIES.values() for beginning in rows]
    values = ["", "x", "/etc/passwd", "../x", "@/etc/passwd", "|id", "list=/x", "a,b,-o,/x", "\0", "\udcff", "none",
              "-o", "c++", "cpp-output", "9" * 30]
    return [*lm.OPTIONS, *beginnings, *lm.SERVED_FLAGS, *lm.SERVED_VALUES, *lm.UNUSED_FLAGS, *lm.CC1_WORDS,
            *lm.PATHS_IN_VALUE, *lm.SERVED_BEGINNINGS, *lm.SERVED_ASSEMBLER_WORDS, *lm.ASSEMBLER_WORDS, "-Wa,", "-Wp,",
            "-c", "-S", "-o", "t.c", "t.cc", "t.i", "t.S", "-x", "@f", "-", "--", "-fplugin=x", "-wrapper"], values


def fuzzed_words(rng, tables):
    """A command line without its compiler; half of them have what makes them a compile."""
    words, values = tables
    line = []
    for _ in range(rng.randint(0, 6)):
        word = rng.choice(words)
        if rng.random() < 0.4:
            word += rng.choice(values)
        line.append(word)
        if rng.random() < 0.3:
            line.append(rng.choice(values))
        if rng.random() < 0.05:
            letters = (rng.choice((rng.randrange(1, 128), 0xdc80 + rng.randrange(128))) for _ in range(9))
            line.append("".join(map(chr, letters)))
    if rng.random() < 0.8:
        line += ["-c", "t" + rng.choice((".c", ".c", ".cc", ".i", ".ii", ".m", ".S", ".s", "", ".C"))]
        rng.shuffle(line) if rng.random() < 0.2 else None
    return line


# What a server never runs a compiler with, whatever was asked (a second opinion on its allow-list).
NEVER_SERVED = re.compile("(?s)-o$|-E$|-B|-I|-L|-M|-T|-l|@|-fopt-info.|-fdiagnostics-(add|set)-output|--?(%s)" % (
    "wrapper specs include imacros fplugin iplugindir dump save-temps Wp, fdump fprofile-use fauto-profile aux-info"
    " load fcallgraph Xpre Xlink fuse-ld= sysroot isystem idirafter iquote fmodule fstack-usage ftime-trace gsplit"
    " fcompare-debug").replace(" ", "|"))


def check_served(words, family="gcc"):
    """State that serve_args() reached; AssertionError where it serves what it should not."""
    try:
        args, name, kind = lm.serve_args(words, family, False)
    except lm.RefusedArgument as refusal:
        return "refused: " + re.sub(r"[^ a-zA-Z-].*", "", refusal.why)[:30]
    assert args[-3:] == ["-x", kind, name] and args[-4] in ("-c", "-S"), args
    assert name and "/" not in name and "\0" not in name and name[0] not in "-@", name
    values = {at + 1 for at, word in enumerate(args) if word in lm.SERVED_VALUES}
    for at, word in enumerate(args[:-4]):
        assert not word.startswith("@"), word
        if at not in values:
            assert not NEVER_SERVED.match(word), word
            assert word.startswith("-"), word
        assert "/" not in word or word.startswith(lm.PATHS_IN_VALUE) or args[at - 1] == "-fdebug-compilation-dir", word
    return "served"


def check_analyzed(words, family="gcc"):
    """State that analyze() reached; what it distributes a server of ours must take, unless a value is no value."""
    words = [word for word in words if "\0" not in word]
    def read(path):
        if path == "f":
            return b"-O2 @f2 '-DX=a b'"
        raise FileNotFoundError(path)
    try:
        found = lm.analyze(words, family, False, {}, read)
    except lm.RunLocally as refusal:
        return "local: " + refusal.name
    if not found.preprocessed:
        found.preprocess_args("plain", "/dev/fd/3")
    args = found.remote_args("plain", "/folder")
    try:
        lm.serve_args(args, family, False)
    except lm.RefusedArgument as refusal:
        if refusal.why == "a path in the value" or any(
                word in lm.SERVED_WITH_VALUE and ("/" in value or value[:1] in ("@", "-"))
                for word, value in zip(args, args[1:])):
            return "no value"                           # -W/x, --param /x: no compiler takes it either
        raise AssertionError("a server of ours refuses %s of %r" % (refusal, args)) from None
    return "distributed"


LZO_BLOCKS = [                  # literals; matches of each kind, and one that overlaps itself
    lm.lzo_head(300) + bytes(range(256)) + b"a" * 44 + b"\x11\0\0", b"\x16hello\x21\x10\0\x11\0\0",
    b"\x20abcdefghijklmno\x40\x01\x60\x02\x2f\x1c\0\x11\0\0",
    b"\0\x05" + b"x" * 23 + b"\x20\0\x40\0\0\x02\x31\x04\0\x11\0\0"]


class InProcess:
    """Each decoder with what it is fed."""
    PERMITTED = (lm.WireError, lm.UsageError)

    def __init__(self, seed):
        self.mutator, self.states, self.rows = Mutator(seed), collections.Counter(), []
        self.tables = words_of_tables()
        streams = collections.defaultdict(list)
        for _, decode, data, _ in round_trips():
            streams[decode].append(data)
        sealed = some_load()
        sealed.challenge, sealed.echoes = b"01234567", [b"echoecho"]
        asked = lm.SlotRequest(b"instance", 1, 2, 3, b"identity", 1, "class")
        asked.challenge, asked.dialled = b"01234567", b"127.0.0.1:3632"
        key = lm.Secret(KEY)
        streams[lm.decode_opening].append(asked.encode(key.seal(b"request")))
        streams[lm.decode_admission].append(lm.encode_granted(5, 0, key.seal(b"granted")))
        packets = [some_load().encode(), lm.Load().encode(), sealed.encode(key.seal(b"report"))]
        hosts = [b"localhost/2 10.0.0.1:3632/8,lzo [::1]:99/2 # comment\nh2=3,cpp,lzo --randomize +zeroconf me@h"]
        state = [json.dumps(lm.Statistics().to_dict()).encode(), json.dumps(some_state().to_dict()).encode()]
        texts = [b'# 1 "t.c"\n#pragma GCC target ("avx2")\n#pragma omp parallel\nasm(".incbin \\"x\\"");\n__TIME__\n',
                 b'# 1 "/usr/include/x.h" 3\n#define X push_macro\n#if 0\n\'\n#endif\n_Pragma("once")\n']
        self.targets = [(decode.__name__, seeds, functools.partial(self.stream, decode))
                        for decode, seeds in streams.items()]
        self.targets += [("Load.parse", packets, self.packet), ("HostList", hosts, self.hosts),
                         ("Statistics.from_dict", state, self.state), ("text of a source", texts, self.text),
                         ("lzo_unpack", LZO_BLOCKS, functools.partial(self.unpack, lm.lzo_unpack)),
                         ("inflate", [zlib.compress(b"int x;\n" * 999), zlib.compress(bytes(300_000))],
                          functools.partial(self.unpack, lm.inflate)),
                         ("split_at_file", [b"-O2 'a b' \"c\\\"d\" \\ x\n"], self.at_file),
                         ("analyze", None, check_analyzed), ("serve_args", None, check_served),
                         ("analyze", None, functools.partial(check_analyzed, family="clang")),
                         ("serve_args", None, functools.partial(check_served, family="clang"))]

    def stream(self, decode, data):
        """Fed in two pieces; the tokens that were taken are states of their own."""
        seen, parse = [], lm.parse_token

        def recording(header):
            found = parse(header)
            seen.append(found[0].decode("latin-1"))
            return found
        lm.parse_token = recording
        try:
            decoder = lm.Decoder(decode())
            decoder.feed(data[:len(data) // 2])
            if not decoder.done:
                decoder.feed(data[len(data) // 2:])
            assert decoder.need <= 64 << 20, "wants %d bytes" % decoder.need
            return "whole" if decoder.done else "wants more"
        finally:
            lm.parse_token = parse
            for name in dict.fromkeys(seen):
                self.states[decode.__name__, name] += 1

    @staticmethod
    def packet(data):
        load = lm.Load.parse(data)
        assert 0 <= load.kb_sum < 1e12 and len(load.challenge) in (0, 8)
        assert all(len(item) == 8 for item in [*load.identities, *load.counted, *load.kin, *load.echoes])
        lm.Secret(KEY).right(b"report", *lm.unseal(data))
        return "sealed" if load.challenge else "whole"

    @staticmethod
    def hosts(data):
        found = lm.HostList(data.decode("utf-8", "replace"))
        entries, warnings = found.entries, found.warnings
        return "%s hosts, %s warnings" % (len(entries) and "some", len(warnings) and "some")

    @staticmethod
    def state(data):
        """As load_state() does."""
        try:
            decoded = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return "no JSON"
        try:
            found = lm.Statistics.from_dict(decoded)
        except ValueError:
            return "refused"
        assert 0 <= work(found, "local", 10, "c", "x") < math.inf
        json.dumps(found.to_dict(), allow_nan=False)
        return "whole"

    @staticmethod
    def text(data):
        found = analyzed("gcc -O2 -c t.c")
        for mode in ("plain", "directives"):
            refusal = lm.content_refusal(data, found, mode)
            if refusal:
                return "local: " + refusal[0]
        return "odd" if lm.directives_only_refusal(data) else "unremarkable" if lm.unremarkable(data) else "fine"

    @staticmethod
    def unpack(unpacker, data):
        """To 50,000 bytes and not more than a block over that."""
        written = []
        try:
            unpacker(data, written.append, 50_000)
        except zlib.error:                              # ends the process that unpacks
            return "refused"
        finally:
            assert sum(map(len, written)) <= 50_000 + 2 * lm.LZO_BLOCK_BYTES
        return "whole"

    @staticmethod
    def at_file(data):
        lm.split_at_file(data.decode("utf-8", "surrogateescape"))
        return "words"

    def one(self, name, seeds, run):
        if seeds is None:
            data = fuzzed_words(self.mutator.rng, self.tables)
        else:
            data = self.mutator.change(seeds)
        try:
            state = run(data)
        except self.PERMITTED as error:
            state = "refused"
            del error
        except Exception as error:                      # noqa: BLE001 - whatever it is, it is the finding
            state = "FAILED by %s" % type(error).__name__
            if not self.states[name, state]:            # the first of its kind will do
                self.rows.append("    (%r, %r),    # %s: %s" % (name, data, type(error).__name__, error))
        self.states[name, state] += 1

    def run(self, count):
        for number in range(count):
            self.one(*self.targets[number % len(self.targets)])


class LiveFuzz:
    """The same against daemons: TCP and UDP with and without a secret, and the unix socket."""
    BATCH = 60

    def __init__(self, farm, seed):
        self.farm, self.mutator, self.states, self.rows = farm, Mutator(seed), collections.Counter(), []
        self.workers = [farm.worker("--slots", "8", *options) for options in ((), ("--secret-file", key_file()))]
        wide = set_procfs(new_folder(), cores=64)       # turns for all at once
        peers = [farm.add(FaultyPeer()) for _ in range(8)]      # some will be blamed, and left alone for a while
        self.submitter = farm.submitter(*peers, options=("--slots", "64", "--procfs", wide))
        self.daemons = [*self.workers, self.submitter]
        for daemon in self.daemons:
            daemon.idle()
        self.warm_up()
        self.before = [self.figures(daemon) for daemon in self.daemons]
        self.seeds = self.conversations()

    @staticmethod
    def figures(daemon):
        rss = int(re.search(rb"VmRSS:\s+(\d+)", contents("/proc/%d/status" % daemon.pid))[1])
        return rss, len(os.listdir("/proc/%d/fd" % daemon.pid))

    def warm_up(self):
        for worker in self.workers:
            self.tcp(worker, [lm.encode_job([os.fsencode(word) for word in ARGV], len(HELLO_C)) + HELLO_C] * 3)

    def conversations(self):
        words = [os.fsencode(word) for word in ARGV]
        job = lm.encode_job(words, len(HELLO_C)) + HELLO_C
        asked = lm.SlotRequest(b"instance", 1, 2, 3, gcc_identity(), 0, "class").encode()
        fields, version = lm.encode_fields, lm.CLIENT_VERSION
        hello = fields(b"HELO", version, b"cc", "x.c", "x.o", "c", "1 2 3", "key\nof\nit", "gcc 1", 0, 1, "/here")
        identity, size = fields(b"IDNT", gcc_identity().hex()), fields(b"SIZE", 5000, 7, 0, "0" * 32, "1" * 16)
        unix = [hello + identity + size + fields(b"DONE", b"ok", 1, 2, 3, 4, 5, 6, 7, 100),
                hello + identity + fields(b"SEEN", "0123456789abcdef" * 3) + size + fields(b"FAIL", "lease-over", ""),
                hello + identity + size + fields(b"HOME", "messages", 1) + fields(b"DONE", b"local-failed"),
                hello + identity + size + fields(b"DONE", b"failed"), hello + fields(b"IDNT", ""),
                fields(b"HELO", version, b"local", "link", 1, "x"), fields(b"HELO", version, b"status"),
                fields(b"HELO", version, b"why", "x.c"), fields(b"HELO", version, b"jobs"),
                fields(b"HELO", version, b"drain", "perhaps")]
        sealed = some_load()
        sealed.challenge, sealed.echoes = b"01234567", [b"echoecho"]
        packets = [some_load().encode(), sealed.encode(lm.Secret(KEY).seal(b"report")), lm.Load(port=9).encode()]
        return {"tcp": [job, asked, asked + job], "udp": packets, "unix": unix}

    def tcp(self, worker, inputs):
        """Send all at once, from some addresses; a slot that is granted gets a job, changed as well."""
        host, _, port = worker.address.rpartition(":")
        socks, answers = [], []
        for number, data in enumerate(inputs):
            sock = socket.socket()
            sock.bind(("127.40.%d.1" % (number % 4), 0))
            sock.connect((host, int(port)))
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.send(data)
            socks.append(sock)
        for wait in (0.1, 0.1):
            time.sleep(wait)                            # whatever comes in this time is what we look at
            for at, sock in enumerate(socks):
                with contextlib.suppress(OSError):
                    answers += [(at, sock.recv(65536))]
                    if answers[-1][1][:4] == b"LMOK":
                        sock.send(self.mutator.change(self.seeds["tcp"][:1]))
        said = {at: data[:4].decode("latin-1") or "closed" for at, data in answers}
        for at, sock in enumerate(socks):
            self.states["tcp", said.get(at, "waits for more")] += 1
            sock.close()

    def sealed(self, data):
        """With a right MAC after all, and a sequence that is new."""
        data = data[:32] + self.mutator.rng.getrandbits(32).to_bytes(4, "big") + data[36:-16]
        return data + lm.Secret(KEY).mac(b"report", data)

    def udp(self, worker, inputs):
        host, _, port = worker.address.rpartition(":")
        if worker is self.workers[1]:
            inputs = [self.sealed(data) if number % 2 else data for number, data in enumerate(inputs)]
        keys = ("malformed", "wrong_key", "replayed", "from_strangers")
        before = worker.status()["packets"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((self.mutator.rng.choice(("127.40.0.1", "127.40.0.2")), 0))
            for data in inputs:
                sock.sendto(data[:65000], (host, int(port)))
        after = worker.status()["packets"]
        for key in keys:
            self.states["udp", key] += after[key] - before[key]
        self.states["udp", "taken, late, or not read in time"] += len(inputs) - sum(after[k] - before[k] for k in keys)

    def unix(self, _, inputs):
        """In a process of its own, since local slots last as long as that lives; many at once."""
        reader, writer = os.pipe()
        for at, data in enumerate(inputs):              # what is remembered of one is not to end the next
            number = b"%05d" % self.mutator.rng.randrange(100000)
            inputs[at] = data.replace(b"of\nit", number).replace(b"gcc 1", number)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                os.write(writer, json.dumps(self.talk(inputs)).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            said = file.read()
        os.waitpid(child, 0)
        if said:
            for words in json.loads(said):
                for word in dict.fromkeys(words):
                    self.states["unix", word] += 1
        else:
            self.rows.append("    # unix: the daemon answers no more")

    def talk(self, inputs):
        """For each what the daemon said, "closed" and all."""
        socks, said = [], []
        for _ in inputs:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(10)
            sock.connect(self.submitter.socket)
            socks.append(sock)
        begin = [12 + int(data[4:12], 16) if re.match(rb"[A-Z]{4}[0-9a-f]{8}", data) else len(data) for data in inputs]
        for part in (lambda data, at: data[:at], lambda data, at: data[at:]):       # HELO first: its turn comes later
            for sock, data, at in zip(socks, inputs, begin):
                with contextlib.suppress(ConnectionError):
                    sock.sendall(part(data, at))
            time.sleep(0.1)                             # whatever comes in this time is what we look at
        for sock in socks:
            sock.setblocking(False)
            text, end = b"", []
            with contextlib.suppress(BlockingIOError):
                try:
                    while not end:
                        more, fds, _, _ = socket.recv_fds(sock, 1 << 16, 4)
                        list(map(os.close, fds))
                        text += more
                        end = [] if more else ["closed"]
                except ConnectionError:
                    end = ["closed"]
            said.append(re.findall("(WAIT|TURN|FILE|SOCK|LOCL|JSON|NOPE)[0-9a-f]{8}", text.decode("latin-1")) + end)
        return said

    def bugs(self):
        return [line for daemon in self.daemons for line in daemon.text().splitlines()
                if re.search("(?<!de)bug: |Traceback", line)] + [
                    "%s ended" % daemon.address for daemon in self.daemons if daemon.process.poll() is not None]

    def batch(self, way, count):
        inputs = [self.mutator.change(self.seeds[way]) for _ in range(count)]
        worker = self.mutator.rng.choice(self.workers)
        known = len(self.bugs())
        getattr(self, way)(worker, inputs)
        if len(self.bugs()) > known:
            for data in inputs:                         # which was it?
                before = len(self.bugs())
                with contextlib.suppress(OSError):
                    getattr(self, way)(worker, [data])
                if len(self.bugs()) > before:
                    self.rows.append("    (%r, %r),    # %s" % (way, data, self.bugs()[-1]))
            self.rows += ["    # " + self.bugs()[-1]]

    def run(self, count):
        """A third of `count` by each way."""
        for way in ("tcp", "udp", "unix"):
            for at in range(0, count // 3, self.BATCH):
                self.batch(way, min(self.BATCH, count // 3 - at))
                if self.rows:
                    return
        self.nothing_left()

    def nothing_left(self):
        """No slot, descriptor, folder or memory; and real jobs are done as ever."""
        for daemon, (rss, fds) in zip(self.daemons, self.before):
            daemon.idle()
            eventually(lambda daemon=daemon, fds=fds: self.figures(daemon)[1] <= fds, 5)
            found = self.figures(daemon)
            print("%s: RSS %d KB before, %d KB after; descriptors %d, %d" % (daemon.address, rss, found[0], fds,
                                                                             found[1]))
            if found[1] > fds or found[0] > rss + 24000:
                self.rows.append("    # leak: %s (RSS KB, descriptors), at first %s" % (found, (rss, fds)))
        for worker in self.workers:
            if not eventually(lambda worker=worker: len(worker.areas()) <= 1):
                self.rows.append("    # folders left: %s" % worker.areas())
        with Wire(self.workers[0]) as wire:
            answer = wire.job(ARGV).reply()
        if answer is None or answer[0].status or answer[1][:4] != b"\x7fELF":
            self.rows.append("    # no real job is served any more: %r" % (answer,))
        self.rows += ["    # " + bug for bug in self.bugs()]


def fuzz(count=100_000, seed=None):
    """`count` inputs, a quarter of them to live daemons. Prints what each decoder made of them. Exit status."""
    seed = random.randrange(1 << 32) if seed is None else seed
    begun = time.monotonic()
    inside = InProcess(seed)
    inside.run(count - count // 4)
    with LoopbackFarm() as farm:
        live = LiveFuzz(farm, seed + 1)
        live.run(count // 4)
    states = inside.states + live.states
    for name in dict.fromkeys(name for name, _ in states):
        rows = sorted(((n, state) for (of, state), n in states.items() if of == name), reverse=True)
        print("%-22s %s" % (name, ", ".join("%s %d" % (state, n) for n, state in rows[:12])))
    rows = inside.rows + live.rows
    print("fuzz: %d inputs, seed %d, %d states, %d failures, %.0f s" % (count, seed, len(states), len(rows),
                                                                       time.monotonic() - begun))
    print("\n".join(rows[:20]))
    return 1 if rows else 0


class Fuzzed(unittest.TestCase):
    """A short one; `make fuzz` is the long one."""

    def test_short(self):
        self.assertEqual(fuzz(4000, SEED), 0)

    def test_faults_are_told(self):
        """The rules above are none that nothing can break."""
        inside = InProcess(1)
        inside.targets = [("x", [b"abc"], lambda data: 1 // 0), ("y", [b"abc"], InProcess.packet)]
        inside.run(10)
        found = len(inside.rows), inside.states["x", "FAILED by ZeroDivisionError"], inside.states["y", "refused"]
        self.assertEqual(found, (1, 5, 5))
        self.assertIn("ZeroDivisionError", inside.rows[0])
        for words in (["-B/x"], ["-O2", "-o"], ["@x"], ["-fplugin=x"]):
            self.assertTrue(any(map(NEVER_SERVED.match, words)))


# ==== Soak: many small jobs while clients and workers are killed ======================================================

class LightClient:
    """A client in a process that does many jobs: the real protocol, without the real client's start. It ends with the
    first job that runs on this box, since such a slot lasts as long as its process, or when it kills itself."""

    def __init__(self, soak, rng):
        self.soak, self.rng, self.wire, self.doomed = soak, rng, None, None

    def step(self, name):
        """Where it may be killed."""
        if name == self.doomed:
            self.soak.tell(self.number, "killed")
            os.kill(os.getpid(), signal.SIGKILL)

    def job(self, number):
        """The outcome, "remote" or "local"; raises AssertionError for a wrong object."""
        self.number, name = number, "s%d.c" % (number % len(self.soak.texts))
        text, expected = self.soak.texts[name]
        self.doomed = self.rng.choice(("hello", "turn", "socket", "sent", "half", "reply")) if (
            self.rng.random() < self.soak.KILLED) else None
        with Client(self.soak.submitter) as client:
            client.sock.settimeout(60)
            client.hello(name, remember="soak\n%d\n-O1" % number)
            self.step("hello")
            while True:
                message, fields = client.receive(b"WAIT")
                if message == b"TURN":
                    self.step("turn")
                    if fields[1] == b"1":
                        client.send(b"IDNT", gcc_identity().hex())
                    client.send(b"SIZE", len(text), 3, 0)
                elif message == b"SOCK":
                    outcome = self.remote(client, name, text, expected)
                    if outcome:
                        return outcome
                else:
                    assert message == b"LOCL", message
                    output = "%s/%d.o" % (self.soak.folder, number)
                    done = run(["gcc", "-O1", "-c", "-x", "cpp-output", name, "-o", output], self.soak.folder)
                    assert done.code == 0 and contents(output) == expected, done
                    os.unlink(output)
                    return "local"

    def remote(self, client, name, text, expected):
        """Do it over the socket that was passed; None where that failed and was reported."""
        self.step("socket")
        begun = time.monotonic()
        with socket.socket(fileno=os.dup(client.passed[-1])) as sock:
            sock.setblocking(True)
            sock.settimeout(60)
            wire = Wire.__new__(Wire)
            wire.sock = sock
            try:
                data = lm.encode_job([b"gcc", b"-O1", b"-c", os.fsencode(name), b"-o", b"x.o"], len(text)) + text
                wire.send(data[:len(data) // 2])
                self.step("half")
                wire.send(data[len(data) // 2:])
                self.step("sent")
                answer = wire.reply()
                self.step("reply")
                if answer is None or answer[0].refusal or answer[0].status or len(answer[1]) != answer[0].size:
                    reason = answer[0].refusal[0] if answer and answer[0].refusal else "closed"
                    client.send(b"FAIL", reason, "")
                    return None
                times = wire.decode(lm.decode_times())
            except (OSError, EOFError, lm.WireError):
                client.send(b"FAIL", "closed", "")
                return None
        assert answer[1] == expected, "another object"
        client.send(b"DONE", b"ok", len(data), len(expected), int((time.monotonic() - begun) * 1e3), *times.figures())
        return "remote"


class Soak:
    """A farm of three daemons under fire."""
    KILLED = 0.08                       # of the light clients, and of the real ones three times as many
    REAL_EVERY = 25                     # each so many-th job is one of the real client
    ROUND = 2000
    CLIENTS = 10
    WORKER_KILLS = 4                    # in a round

    def __init__(self, farm, seed):
        self.farm, self.seed, self.folder = farm, seed, new_folder()
        options = ("--log-level", "warning", "--slots", "6")
        self.options = options
        self.kept, self.victim = farm.worker(*options), farm.worker(*options)
        self.submitter = farm.submitter(self.kept, self.victim, options=options)
        self.sources, self.texts = Sources(), {}
        self.real = [self.sources.make() for _ in range(10)]
        self.objects = [self.sources.expected(name)[3] for name in self.real]
        for number in range(24):
            text = ('# 1 "s%d.c"\n%s' % (number, loops(1 + number % 6))).encode()
            name = "s%d.c" % number
            write(self.folder + "/" + name, text)
            with Wire(self.kept) as wire:
                answer = wire.job(["gcc", "-O1", "-c", name, "-o", "x.o"], text).reply()
            assert answer[0].status == 0, answer[0].stderr
            self.texts[name] = text, answer[1]
        self.counts, self.told, self.kills, self.compilers_killed = collections.Counter(), {}, 0, 0
        self.faults, self.results = [], None

    def tell(self, number, outcome):
        os.write(self.results, b"%d %s\n" % (number, outcome.encode()))

    def real_job(self, rng, number):
        """By the real client, some of them killed."""
        at = number // self.REAL_EVERY % len(self.real)
        output = "o%d.o" % number
        process = subprocess.Popen([program(), "cc", "gcc", "-c", self.real[at], "-o", output], cwd=self.sources.folder,
                                   env=environment(self.submitter.socket), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        if rng.random() < 3 * self.KILLED:
            time.sleep(rng.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
        text = process.communicate(timeout=90)[0]
        found = self.sources.object(output)
        with contextlib.suppress(OSError):
            os.unlink(self.sources.folder + "/" + output)
        if process.returncode == -signal.SIGKILL:
            assert found in (b"", self.objects[at]), "part of an object"
            return "real, killed"
        assert process.returncode == 0 and found == self.objects[at] and not text, (process.returncode, text)
        return "real"

    def work(self, tokens, seed):
        """A client process: takes numbers of jobs until there are none."""
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)          # PR_SET_PDEATHSIG: none stays when a test is ended
        rng = random.Random(seed)
        light = LightClient(self, rng)
        while True:
            token = os.read(tokens, 4)
            if len(token) < 4:
                return
            number = int.from_bytes(token, "big")
            try:
                outcome = self.real_job(rng, number) if number % self.REAL_EVERY == 0 else light.job(number)
            except Exception as error:                  # noqa: BLE001 - to be told by the parent
                outcome = "LOST: %s: %s" % (type(error).__name__, error)
            self.tell(number, outcome.replace("\n", " ")[:300])
            if outcome == "local":
                return

    def kill_worker(self):
        """SIGKILL, and another on its address; nothing of it may be left."""
        address, tmpdir = self.victim.address, self.victim.tmpdir
        self.victim.close()
        self.kills += 1
        if not eventually(lambda: not os.listdir(tmpdir), 5):
            self.faults.append("left in %s: %s" % (tmpdir, os.listdir(tmpdir)))
        self.farm.daemons.remove(self.victim)
        self.victim = self.farm.worker("--listen", address, *self.options)

    def kill_compiler(self, rng):
        pids = compilers_of(self.kept)
        if pids:
            with contextlib.suppress(OSError):
                os.kill(rng.choice(pids), signal.SIGKILL)
                self.compilers_killed += 1

    def round(self, first, count, rng):
        """`count` jobs from number `first` on."""
        tokens, writer = os.pipe()
        reader, self.results = os.pipe()
        os.set_blocking(reader, False)
        os.write(writer, b"".join(number.to_bytes(4, "big") for number in range(first, first + count)))
        os.close(writer)
        children, done, text = set(), set(), b""
        deadline = time.monotonic() + 60 + count * 0.1
        events = sorted(rng.sample(range(count // 10, count), self.WORKER_KILLS))
        shots = list(range(count // 20, count, max(1, count // 20)))
        while len(done) < count and time.monotonic() < deadline:
            while len(children) < self.CLIENTS:
                seed = rng.getrandbits(32)
                child = os.fork()
                if not child:
                    try:
                        self.work(tokens, seed)
                    finally:
                        os._exit(0)
                children.add(child)
            select.select([reader], [], [], 0.05)
            with contextlib.suppress(BlockingIOError):
                text += os.read(reader, 1 << 16)
            *lines, text = text.split(b"\n")
            for line in lines:
                number, _, outcome = line.decode().partition(" ")
                if int(number) in done:
                    self.faults.append("twice: " + line.decode())
                done.add(int(number))
                self.counts[outcome if not outcome.startswith("LOST") else "lost"] += 1
                self.faults += [line.decode()] if outcome.startswith("LOST") else []
            children -= {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}
            if events and len(done) >= events[0]:
                events.pop(0)
                self.kill_worker()
            if shots and len(done) >= shots[0]:
                shots.pop(0)
                self.kill_compiler(rng)
        if len(done) < count:
            self.faults.append("%d jobs have no end" % (count - len(done)))
        for pid in children:
            if len(done) < count:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for fd in (tokens, reader, self.results):
            os.close(fd)

    def figures(self):
        """[(RSS KB, descriptors)] of the daemons that live on, once all is quiet."""
        for daemon in (self.submitter, self.kept, self.victim):
            daemon.idle()
        if not eventually(lambda: len(self.kept.areas()) <= 1):
            self.faults.append("folders left: %s" % self.kept.areas())
        return [LiveFuzz.figures(daemon) for daemon in (self.submitter, self.kept)]

    def run(self, count):
        rng, rows, at, begun = random.Random(self.seed), [], 0, time.monotonic()
        while at < count and not self.faults:
            self.round(at, min(self.ROUND, count - at), rng)
            at = min(at + self.ROUND, count)
            rows.append(self.figures())
            print("%6d jobs, %4.0f s: submitter %d KB, %d descriptors; worker %d KB, %d descriptors" % (
                at, time.monotonic() - begun, *rows[-1][0], *rows[-1][1]), flush=True)
        for (rss, fds), (last_rss, last_fds) in zip(rows[0], rows[-1]):
            if last_rss > rss * 1.1 + 2000 or last_fds > fds:
                self.faults.append("a leak: %d KB and %d descriptors became %d KB and %d" % (
                    rss, fds, last_rss, last_fds))
        if sum(self.counts.values()) != count:
            self.faults.append("%d jobs ended, not %d" % (sum(self.counts.values()), count))


def soak(count=20_000, seed=None):
    """`count` jobs; each ends once, with the right object, or with its client killed. Exit status."""
    seed = random.randrange(1 << 32) if seed is None else seed
    begun = time.monotonic()
    with LoopbackFarm() as farm:
        run_ = Soak(farm, seed)
        run_.run(count)
        totals = run_.submitter.status()["totals"]
        print("ends: " + ", ".join("%s %d" % item for item in sorted(run_.counts.items())))
        print("the submitter counts: remote %d, local %d, fallback %d, cancelled %d" % tuple(
            totals[key] for key in ("remote", "local", "fallback", "cancelled")))
        print("soak: %d jobs, seed %d, %d lost, %d workers and %d compilers killed, %d faults, %.0f s" % (
            count, seed, run_.counts["lost"], run_.kills, run_.compilers_killed, len(run_.faults),
            time.monotonic() - begun))
        print("\n".join(run_.faults[:20]))
    return 1 if run_.faults else 0


class Soaked(unittest.TestCase):
    """A short one; `make soak` is the long one."""

    def test_short(self):
        self.assertEqual(soak(150, SEED), 0)


# ==== Bench: what the client costs, against real distcc in the same run =============================================
# Ratios of medians or sums, ours and theirs in turn, since the machine's speed drifts. Bounds: DESIGN.md, section 11.

BENCH_TREES = {             # folder of sources, compiler, flags, how many files
    "lua": ("src", "gcc", "-std=gnu99 -O2 -w -DLUA_COMPAT_5_3 -DLUA_USE_LINUX", 30, 1.35),
    "redis": ("src", "gcc", "-std=c11 -O2 -g -w -DREDIS_STATIC= -I../deps/hiredis -I../deps/linenoise -I../deps/lua/src"
              " -I../deps/hdr_histogram", 40, 0.95),
    "ninja": ("src", "g++", "-O2 -w -fno-rtti -fno-exceptions", 20, 0.85)}


def cpu_of(argv, env, cwd):
    """CPU seconds of a command and all that it waited for; AssertionError where it fails."""
    with open(os.devnull, "r+b") as null:
        child = subprocess.Popen(argv, env=env, cwd=cwd, stdin=null, stdout=null, stderr=null)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    assert status == 0, "%s: status %#x" % (shlex.join(argv), status)
    return usage.ru_utime + usage.ru_stime


def wall_of(argv, env, cwd):
    begun = time.monotonic()
    cpu_of(argv, env, cwd)
    return time.monotonic() - begun


def bench_cpu(name):
    """CPU of the submitting side for each remote compile (client and preprocessor), over distcc's."""
    with LoopbackFarm() as farm:
        compare_cpu(name, farm)


def compare_cpu(name, farm):
    below, compiler, flags, most, bound = BENCH_TREES[name]
    folder = new_folder()
    run_step(["dpkg-source", "-x", sources(TREES[name]), folder + "/tree"])
    cwd = os.path.join(folder, "tree", below)
    write(cwd + "/release.h", b"")                      # what the trees' own makefiles would make
    write(cwd + "/lua5.4-deb-multiarch.h", b'#define DEB_HOST_MULTIARCH "none"\n')
    worker = farm.worker()
    submitter = farm.submitter(worker)
    ours = [program(), "cc", compiler, *shlex.split(flags)]
    theirs = ["distcc", compiler, *shlex.split(flags)]
    env = environment(submitter.socket, DISTCC_LM_FALLBACK="0", DISTCC_HOSTS=worker.address, DISTCC_FALLBACK="0",
                      DISTCC_BACKOFF_PERIOD="0")
    os.makedirs(env["DISTCC_DIR"], exist_ok=True)
    sums, count = [0.0, 0.0], 0
    for path in sorted(glob.glob(cwd + "/*.c") + glob.glob(cwd + "/*.cc")):
        words = ["-c", os.path.basename(path), "-o", folder + "/x.o"]
        bare = subprocess.run([compiler, *shlex.split(flags), *words], cwd=cwd, capture_output=True)
        if bare.returncode or bare.stderr or count == most:
            continue                                    # for another system, a test without its framework
        for _ in range(2):                              # the second time the daemon knows the headers
            for i, argv in enumerate((ours, theirs)):
                sums[i] += cpu_of(argv + words, env, cwd)
        count += 1
    assert count, "no source of %s compiles" % name
    print("%-6s CPU a remote compile: ours %.1f ms, distcc %.1f ms, ratio %.2f (bound %.2f), %d files" % (
        name, sums[0] / count / 2 * 1e3, sums[1] / count / 2 * 1e3, sums[0] / sums[1], bound, count), flush=True)


def bench_start():
    """From exec to the daemon's answer, over a Python that does nothing."""
    folder = new_folder()
    path, heard = folder + "/s", []
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(8)

    def answer():
        while True:
            try:
                sock = server.accept()[0]
            except OSError:
                return
            sock.recv(65536)
            heard.append(time.monotonic())
            sock.sendall(lm.encode_fields(b"LOCL", "no-host", 0))
            sock.close()
    threading.Thread(target=answer, daemon=True).start()
    write(folder + "/x.c", b"int x;\n")
    lm_path, env = program(), environment(path)
    subprocess.run([sys.executable, "-I", "-c", "import sys; sys.path.append(%r); import distcc_lm as l; "
                    "l.import_daemon_modules(); l.compile_this_file()" % os.path.dirname(lm_path)], check=True)
    bare, ours = [], []
    for _ in range(60):
        bare.append(wall_of([sys.executable, "-IS", "-c", "pass"], env, folder))
        begun = time.monotonic()
        cpu_of([lm_path, "cc", "gcc", "-c", "x.c"], env, folder)
        ours.append(heard[-1] - begun)
    server.close()
    bare, ours = (sorted(values)[len(values) // 2] for values in (bare, ours))
    print("start to the daemon's answer: %.1f ms, bare Python %.1f ms, ratio %.2f (bound 1.30)" % (
        ours * 1e3, bare * 1e3, ours / bare), flush=True)


def bench_local():
    """What a command that is not distributed costs over the bare compiler, without a daemon: a link."""
    folder = new_folder()
    write(folder + "/x.c", b"int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-c", "x.c"], cwd=folder, check=True)
    env, costs = environment(folder + "/none"), []
    for _ in range(30):
        bare = wall_of(["/usr/bin/gcc", "x.o", "-o", "x"], env, folder)
        costs.append(wall_of([program(), "cc", "/usr/bin/gcc", "x.o", "-o", "x"], env, folder) - bare)
    print("a link without a daemon costs %.1f ms more than by gcc itself (bound 25)" % (
        sorted(costs)[len(costs) // 2] * 1e3), flush=True)


class LeaseClients:
    """Many clients in one process: each asks for a lease as `cc` does, closes the job socket, and says it went well."""

    def __init__(self, path, together):
        self.path, self.poll, self.clients, self.got = path, select.epoll(), {}, 0
        for _ in range(together):
            self.come()

    def come(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        self.clients[sock.fileno()] = sock
        self.poll.register(sock, select.EPOLLIN)
        sock.send(lm.encode_fields(b"HELO", lm.CLIENT_VERSION, b"cc", "t%d.c" % (self.got % 5000),
                                   "t.o", "c-O2", "stamp", "flags", "compiler", 0, 0, "/"))

    def heard(self, sock):
        data, passed, _, _ = socket.recv_fds(sock, 65536, 1)
        assert data, "the daemon closed a session"
        while data:
            name, size = data[:4], int(data[4:12], 16)
            fields, data = data[12:12 + size].split(b"\0"), data[12 + size:]
            if name == b"TURN":
                identity = lm.encode_fields(b"IDNT", gcc_identity().hex()) if fields[1] == b"1" else b""
                sock.send(identity + lm.encode_fields(b"SIZE", 200 << 10, 20, 0, "", ""))
            elif name == b"SOCK":
                os.close(passed.pop())
                sock.send(lm.encode_fields(b"DONE", b"ok", 50000, 10000, 150, 0, 100, 100, 60000, 100))
                self.poll.unregister(sock)
                self.clients.pop(sock.fileno()).close()
                self.got += 1
                self.come()
            else:
                assert name in (b"WAIT", b"PING"), "%r %r instead of a lease" % (name, fields)

    def run(self, seconds):
        """Leases a second."""
        until, before = time.monotonic() + seconds, self.got
        while time.monotonic() < until:
            for fd, _ in self.poll.poll(1):
                self.heard(self.clients[fd])
        return (self.got - before) / seconds


def report_for(addresses, target, load):
    """Load reports to `target` from many addresses of loopback, from one socket: IP_PKTINFO names the source."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for address in addresses:
            load.instance = os.urandom(8)
            source = struct.pack("@i4s4s", 0, socket.inet_aton(address), bytes(4))
            sock.sendmsg([load.encode()], [(socket.IPPROTO_IP, lm.IP_PKTINFO, source)], 0, target)


def bench_leases(known=1000, together=64):
    """Leases a second: hello, turn, size, a TCP connection with LMRQ and LMOK to a daemon that serves, passed to the
    client. Every address of 127.30/16 leads to one of two daemons that listen on all of them."""
    folder = new_folder()
    large = set_procfs(folder, cores=1000, available_mb=1 << 30)
    with LoopbackFarm() as farm:
        options, addresses = [], []
        for i in range(2):
            worker = farm.worker("--listen", "0.0.0.0:0", "--slots", "1000", "--procfs", large, "--log-level", "error")
            port = int(worker.address.rpartition(":")[2])
            options += ["--use", "127.30.%d.0/17:%d" % (128 * i, port)]
            addresses.append((["127.30.%d.%d" % (128 * i + n // 200, 1 + n % 200) for n in range(known // 2)], port))
        submitter = farm.submitter(options=("--log-level", "warning", "--procfs", set_procfs(new_folder(), cores=16),
                                            *options), ready=False)
        host, _, port = submitter.address.rpartition(":")
        for at, (names, serving) in enumerate(addresses):
            for i in range(0, len(names), 100):
                report_for(names[i:i + 100], (host, int(port)),
                           lm.Load(port=serving, cores=100, slots=125, interval_ms=60000, identities=[gcc_identity()],
                                   sequence=1, memory_mb=64000))
                wanted = at * known // 2 + i + 100
                submitter.until(lambda s, wanted=wanted: len(s["hosts"]) == 1 + wanted)
        clients = LeaseClients(submitter.socket, together)
        clients.run(2)
        groups = [submitter.pid], [daemon.pid for daemon in farm.daemons[:2]], ["self"]
        before = [sum(map(cpu_seconds, group)) for group in groups]
        leases = 6 * clients.run(6)
        used = [(sum(map(cpu_seconds, group)) - old) / leases * 1e6 for group, old in zip(groups, before)]
        busy = sum(host["jobs"]["ok"] > 0 for host in submitter.status()["hosts"] if host["kind"] == "peer")
        print("leases: %.0f a second (bound 2500), %d clients, %d hosts known, %d used; CPU each: daemon %.0f us, "
              "servers %.0f, clients %.0f" % (leases / 6, together, known, busy, *used), flush=True)


def cpu_seconds(pid):
    with open("/proc/%s/stat" % pid) as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench_decisions(known=1000):
    """One pump() that places one job among many hosts, with and without other submitters."""
    scheduler = a_scheduler(*(("h%d" % i, 4 + i % 60) for i in range(known)), cores=16)
    for shared in (False, True):
        scheduler.hosts["h1"].shared = shared
        times = []
        for i in range(2000):
            job = a_job(scheduler, 1.0, source="%d.c" % i, sized=False)
            scheduler.pump(1.0)
            scheduler.sized(job, 200, 0.1, 0, 1.0)
            begun = time.perf_counter()
            scheduler.pump(1.0)
            times.append(time.perf_counter() - begun)
            request = next(action[1] for action in scheduler.actions if action[0] == "ask")
            scheduler.granted(request, i, 1.0)
            scheduler.finished(job, figures(), 1.0)
            scheduler.actions = []
        print("a decision among %d hosts%s: %.3f ms (bound 0.1)" % (
            known, ", shared" if shared else "", sorted(times)[len(times) // 2] * 1e3), flush=True)


def declarations(size):
    """Preprocessed C that compiles fast and packs as headers do (to a quarter)."""
    rng, lines, total = random.Random(1), ['# 1 "x.c"\n'], 0
    words = ["size", "list", "node", "buffer", "index", "hash", "flags", "count", "entry", "table", "range", "state"]
    while total < size:
        name = "_".join(rng.sample(words, 3)) + "_%x" % rng.getrandbits(24)
        lines.append("extern %s %s(const char *%s, unsigned %s);\n" % (
            rng.choice(("int", "void *", "unsigned long")), name, *rng.sample(words, 2)))
        total += len(lines[-1])
    return "".join(lines)


def many_compiles(argv, env, folder, count, together_):
    """Seconds, and CPU seconds of the client, for each of `count` compiles, so many at once."""
    numbers = itertools.count()

    def one(_):
        return cpu_of(argv + ["-c", "x.i", "-o", "%d.o" % next(numbers)], env, folder)
    begun = time.monotonic()
    used = sum(together(range(count), one, together_))
    return (time.monotonic() - begun) / count, used / count


def bench_wire(rates=("100mbit", "1gbit"), count=24, at_once=4):
    """2.5 MB of source a job through a link that carries so much: as it is, by zlib, as the program chooses, and by
    distcc to the same daemon."""
    folder = new_folder()
    text, busy = declarations(2_500_000), set_procfs(new_folder(), cores=1, runnable=50)
    write(folder + "/x.i", text)
    for rate in rates:
        network = Network(rate=rate)
        try:
            with LoopbackFarm() as farm:
                worker = farm.worker("--listen", "10.50.1.2:0", "--allow", "10.50.0.0/16", prefix=network.prefix(1))
                for name, tunables in (("as it is", {"COMPRESS_BELOW_KB_S": 0.0}),
                                       ("zlib", {"COMPRESS_BELOW_KB_S": 1e9}), ("chosen", {})):
                    prog = program(**tunables)
                    submitter = farm.submitter(worker, options=("--listen", "10.50.1.1:0", "--procfs", busy),
                                               prog=prog, prefix=network.prefix(0))
                    env = environment(submitter.socket, DISTCC_LM_FALLBACK="0")
                    argv = [prog, "cc", "gcc"]
                    many_compiles(argv, env, folder, 8, at_once)            # the link is measured
                    wall, cpu = many_compiles(argv, env, folder, count, at_once)
                    bandwidth = submitter.status()["hosts"][1]["bandwidth_kb_s"]
                    print("wire %-7s %-8s %6.1f ms a job of %d KB, client's CPU %.1f ms, measured %.1f MB/s" % (
                        rate, name, wall * 1e3, len(text) >> 10, cpu * 1e3, (bandwidth or 0) / 1e3), flush=True)
                for name, options in (("distcc", ""), ("distcc,lzo", ",lzo")):
                    env = environment(DISTCC_HOSTS=worker.address + "/8" + options, DISTCC_FALLBACK="0")
                    os.makedirs(env["DISTCC_DIR"], exist_ok=True)
                    wall, cpu = many_compiles(network.prefix(0) + ["distcc", "gcc"], env, folder, count, at_once)
                    print("wire %-7s %-10s %4.1f ms a job, client's CPU %.1f ms" % (rate, name, wall * 1e3, cpu * 1e3),
                          flush=True)
        finally:
            network.close()


def peak_mb(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", contents("/proc/%d/status" % pid).decode()).group(1)) >> 10


def bench_memory(size_mb=200):
    """A source and an object of so many MB: what client and daemons hold of it at most."""
    folder = new_folder()
    with open(folder + "/x.i", "w") as file:
        file.write('# 1 "x.c"\nchar a[%d] = {1};\n' % (size_mb << 20))
        for _ in range(size_mb):
            file.write(("/* %s */\n" % ("x" * 121)) * (1 << 13))
    with LoopbackFarm() as farm:
        worker = farm.worker("--slots", "1")
        submitter = farm.submitter(worker)
        for name, env, argv in (
                ("ours", environment(submitter.socket, DISTCC_LM_FALLBACK="0"), [program(), "cc", "gcc"]),
                ("distcc,lzo", environment(DISTCC_HOSTS=worker.address + ",lzo", DISTCC_FALLBACK="0"),
                 ["distcc", "gcc"])):
            os.makedirs(environment()["DISTCC_DIR"], exist_ok=True)
            begun, client_mb = time.monotonic(), 0
            child = subprocess.Popen([*argv, "-c", "x.i", "-o", "x.o"], env=env, cwd=folder)
            while child.poll() is None:             # not wait4: exec keeps the mark of this process
                with contextlib.suppress(AttributeError):
                    client_mb = peak_mb(child.pid)
            assert child.returncode == 0, (name, child.returncode, worker.text()[-500:])
            assert os.path.getsize(folder + "/x.o") > size_mb << 20
            print("memory, source and object of %d MB: %s client %d MB, its daemon %d MB, the server %d MB; %.1f s" % (
                size_mb, name, client_mb, peak_mb(submitter.pid), peak_mb(worker.pid),
                time.monotonic() - begun), flush=True)


class ManyPeers:
    """One process that reports as so many peers of a daemon, each from an address of its own."""

    def __init__(self, count, target, key=None):
        self.secret, self.rows = lm.Secret(key) if key else None, []
        for i in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.50.%d.%d" % (i // 200, 1 + i % 200), target[1]))
            sock.connect(target)
            self.rows.append((sock, lm.Load(instance=os.urandom(8), boot=os.urandom(16), port=target[1], cores=16,
                                            slots=20, running=3, interval_ms=1000, memory_mb=9999,
                                            identities=[os.urandom(8) for _ in range(4)])))

    def report(self, sock, load):
        load.sequence += 1
        if self.secret:
            load.challenge = self.secret.challenge
        with contextlib.suppress(OSError):
            sock.send(load.encode(self.secret.seal(b"report") if self.secret else None))

    def prove(self):
        """Echo the daemon's challenge, which it sends to who has the key."""
        sock, load = self.rows[0]
        sock.settimeout(10)
        self.report(sock, load)
        challenge = lm.Load.parse(sock.recv(2000)).challenge
        for _, each in self.rows:
            each.echoes = [challenge]

    def run(self, seconds):
        """Each once a second, evenly."""
        begun, sent = time.monotonic(), 0
        while sent < len(self.rows) * seconds:
            self.report(*self.rows[sent % len(self.rows)])
            sent += 1
            time.sleep(max(0.0, begun + sent / len(self.rows) - time.monotonic()))

    def close(self):
        for sock, _ in self.rows:
            sock.close()


def bench_peers(count=1000):
    """A daemon's CPU and memory for so many peers that report each second, without and with a secret."""
    key = new_folder() + "/key"
    write(key, b"0123456789abcdef0123456789abcdef", 0o600)
    for secret in (False, True):
        with LoopbackFarm() as farm:
            options = ("--secret-file", key) if secret else ("--use", "127.50.0.0/17:3632")
            daemon = farm.start("--listen", "127.50.255.1:3632", "--log-level", "warning", *options)
            peers = ManyPeers(count, ("127.50.255.1", 3632), contents(key) if secret else None)
            if secret:
                peers.prove()
            peers.run(4)
            before, begun = cpu_seconds(daemon.pid), time.monotonic()
            peers.run(12)
            used = (cpu_seconds(daemon.pid) - before) / (time.monotonic() - begun)
            rss = int(re.search(r"VmRSS:\s+(\d+)", contents("/proc/%d/status" % daemon.pid).decode()).group(1))
            up = sum(host["state"] == "up" for host in daemon.status()["hosts"]) - 1
            peers.close()
            print("%d peers a second, %s: %d up, %.1f %% of a core (bound 5), %.0f MB (bound 30)" % (
                count, "authenticated" if secret else "no secret", up, used * 100, rss / 1024), flush=True)


def bench_waiting(count=300):
    """So many clients that wait at once for a host that is full, on one daemon."""
    with LoopbackFarm() as farm, contextlib.ExitStack() as stack:
        worker, daemon = farm.pair("--slots", "1")
        stack.enter_context(Wire(worker)).ask_slot()
        daemon.until(lambda s: s["hosts"][1]["running"] == 1)
        clients = [stack.enter_context(Client(daemon)) for _ in range(count)]
        for i, client in enumerate(clients):
            client.hello("%d.c" % i)
        for client in clients:
            while client.receive(b"PING", b"WAIT")[0] != b"TURN":
                pass
            client.send(b"IDNT", gcc_identity().hex())
            client.send(b"SIZE", 100000, 20, 0, "", "")
        daemon.until(lambda s: s["queue"]["waiting"] >= count - 4)
        before, begun = cpu_seconds(daemon.pid), time.monotonic()
        eventually(lambda: time.monotonic() - begun > 5, 6)
        used = (cpu_seconds(daemon.pid) - before) / (time.monotonic() - begun)
        asked = time.monotonic()
        waiting = daemon.status()["queue"]["waiting"]
        print("%d clients wait: %.1f %% of a core, %d MB, status in %.0f ms" % (
            waiting, used * 100, peak_mb(daemon.pid), (time.monotonic() - asked) * 1e3), flush=True)


NOOP_C = r"""
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
int main(int n, char **word) {
    for (int i = 1; i < n; i++)
        if (!strcmp(word[i], "-v"))
            write(2, "gcc version 0 (none)\n", 21);
        else if (!strcmp(word[i], "-o"))
            write(open(word[i + 1], O_WRONLY | O_CREAT, 0600), "object", 6);
    return 0;
}
"""


def serve_noops(address, seconds, at_once=4):
    """Jobs a second that this server does for so many connections at once."""
    host, _, port = address.rpartition(":")
    request = lm.encode_job([b"gcc", b"-c", b"x.c", b"-o", b"x.o"], 2000) + b"\n" * 2000
    selector, done = selectors.DefaultSelector(), 0

    def begin():
        sock = socket.create_connection((host, int(port)))
        sock.sendall(request)
        selector.register(sock, selectors.EVENT_READ, bytearray())
    for _ in range(at_once):
        begin()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        for key, _ in selector.select(1):
            data = key.fileobj.recv(65536)
            key.data.extend(data)
            if key.data.endswith(b"DOTO00000006object"):
                done += 1
            elif data:
                continue
            selector.unregister(key.fileobj)
            key.fileobj.close()
            begin()
    rate = done / (time.monotonic() - begun)
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
    return rate


def bench_served(windows=20, seconds=0.5):
    """Jobs that do nothing, ours contained, against distccd at the same niceness; windows in turn, medians. In the
    usual temp folder and in memory: where files are dear (ext4 with many just deleted), our folder for each job shows.
    """
    usual = tempfile.gettempdir()
    try:
        for tempfile.tempdir in dict.fromkeys((usual, "/dev/shm")):
            if os.path.isdir(tempfile.tempdir):
                os.environ["TMPDIR"] = tempfile.tempdir
                compare_noops(windows, seconds)
    finally:
        tempfile.tempdir = os.environ["TMPDIR"] = usual


def compare_noops(windows, seconds):
    folder = new_folder()
    write(folder + "/noop.c", NOOP_C)
    subprocess.run(["gcc", "-O2", "-w", "-static", "noop.c", "-o", "gcc"], cwd=folder, check=True)
    with LoopbackFarm() as farm:
        worker = farm.worker("--compilers", folder, "--nice", "0", "--slots", "4", "--log-level", "warning")
        theirs = farm.add(RealDistccd("--enable-tcp-insecure", "--nice", "0", "--log-level", "critical",
                                      path=folder))
        rates = [[], []]
        for _ in range(windows):
            for i, address in enumerate((worker.address, theirs.address)):
                rates[i].append(serve_noops(address, seconds))
        ours, distccd = (sorted(values)[len(values) // 2] for values in rates)
        ratios = sorted(a / b for a, b in zip(*rates))
        print("no-op jobs a second in %s: ours %.0f (%s), distccd %.0f, ratio %.2f, of windows %.2f (bound 0.8)"
              % (tempfile.tempdir, ours, worker.status()["hosts"][0]["contained"], distccd, ours / distccd,
                 ratios[len(ratios) // 2]), flush=True)


BENCHES = {"wire": bench_wire, "memory": bench_memory, "peers": bench_peers, "waiting": bench_waiting,
           "served": bench_served, "start": bench_start, "local": bench_local, "leases": bench_leases,
           "decisions": bench_decisions,
           **{name: functools.partial(bench_cpu, name) for name in BENCH_TREES}}


def bench(names):
    for name in names or BENCHES:
        try:
            BENCHES[name]()
        except unittest.SkipTest as reason:
            print("%s: skipped: %s" % (name, reason), flush=True)
    return 0


# ==== Farm: makespans on a simulated farm, beside real distcc =======================================================
# Real daemons, clients, make and distccds on this machine's loopback addresses; only the compiler is a stand-in, that
# uses time but no CPU: n jobs on a host's cores each advance at speed * min(1, cores / (n + foreign load)).
#
#   make -j ─▶ client ─▶ daemon or distccd ─▶ FOLDER/gcc ──▶ FOLDER/shared    a table for each host: who runs, how far
#                          │ preloads                  ├───▶ FOLDER/log       begin, end and work of each job
#                          ╰ shim.so: wait4() tells    ╰───▶ FOLDER/proc/loadavg     kept true to the table (--procfs)
#                            the CPU time that the job would have used
#
# The daemons run with --contain off, since the stand-in writes to FOLDER. Bounds: DESIGN.md, section 11.

STAND_IN = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FREE, RUNS, ENDED };
struct job { int pid, state; double cpu; };
struct host {                           /* work: seconds on one core of speed 1 that each job has got so far */
    double cores, speed, foreign, work, at;
    int jobs, changes;
    struct job table[512];
};
static struct host *host;
static int lock_fd, proc_fd, log_fd;

static void open_host(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/shared", folder);
    lock_fd = open(path, O_RDWR | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/proc/loadavg", folder);
    proc_fd = open(path, O_WRONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/log", folder);
    log_fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    host = mmap(0, sizeof *host, PROT_READ | PROT_WRITE, MAP_SHARED, lock_fd, 0);
    if (host == MAP_FAILED) { perror(path); _exit(99); }
}
#ifdef SHIM
pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
    static pid_t (*real)(pid_t, int *, int, struct rusage *);
    if (!real) real = dlsym(RTLD_NEXT, "wait4");
    pid_t found = real(pid, status, options, usage);
    if (found <= 0 || !usage || !getenv("FARM_HOST")) return found;
    if (!host) open_host(getenv("FARM_HOST"));
    for (struct job *j = host->table; j < host->table + 512; j++)
        if (j->pid == found && j->state == ENDED) {
            usage->ru_utime.tv_sec = j->cpu;
            usage->ru_utime.tv_usec = (j->cpu - floor(j->cpu)) * 1e6;
            j->state = FREE;
        }
    return found;
}
#else
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static double rate(void) { return host->speed * fmin(1, host->cores / fmax(host->jobs + host->foreign, 1e-9)); }

static void lock(void)                  /* and bring the table up to date */
{
    flock(lock_fd, LOCK_EX);
    double t = now();
    host->work += (t - host->at) * rate();
    host->at = t;
}
static void unlock(int changed)
{
    char text[64];
    int jobs = 0;
    for (struct job *j = host->table; j < host->table + 512; j++) {
        if (j->state == RUNS && kill(j->pid, 0) && errno == ESRCH) j->state = FREE;         /* was killed */
        jobs += j->state == RUNS;
    }
    if (jobs != host->jobs || changed) {
        host->jobs = jobs;
        int n = snprintf(text, sizeof text, "0.00 0.00 0.00 %4d/9999 1\n", (int)(1.5 + jobs + host->foreign));
        if (pwrite(proc_fd, text, n, 0) < 0) perror("loadavg");
        host->changes++;
        syscall(SYS_futex, &host->changes, FUTEX_WAKE, 9999, 0, 0, 0);
    }
    flock(lock_fd, LOCK_UN);
}
static void compile(double work)
{
    struct job *mine = 0;
    lock();
    for (int state = FREE; !mine && state <= ENDED; state += ENDED)
        for (struct job *j = host->table; j < host->table + 512 && !mine; j++)
            if (j->state == state) mine = j;
    mine->pid = getpid();
    mine->state = RUNS;
    double goal = host->work + work, begun = host->at;
    unlock(1);
    for (;;) {
        lock();
        if (goal - host->work < 1e-4) break;
        int seen = host->changes;
        double left = fmin((goal - host->work) / rate(), 0.5);
        unlock(0);
        struct timespec t = { left, (left - floor(left)) * 1e9 };
        syscall(SYS_futex, &host->changes, FUTEX_WAIT, seen, &t, 0, 0);
    }
    mine->cpu = work / host->speed;
    mine->state = ENDED;
    dprintf(log_fd, "%.3f %.3f %.3f\n", begun, host->at, work);
    unlock(1);
}
static int copy(const char *source)
{
    static char buffer[1 << 16];
    int in = open(source, O_RDONLY), n;
    if (in < 0) { perror(source); return 1; }
    n = snprintf(buffer, sizeof buffer, "# 0 \"%s\"\n# 0 \"<built-in>\"\n# 1 \"%s\"\n", source, source);
    do if (write(1, buffer, n) != n) return 1; while ((n = read(in, buffer, sizeof buffer)) > 0);
    return 0;
}
int main(int argc, char **argv)
{
    char folder[4096], head[8192] = "", *source = 0, *output = 0, *list = 0, *found, c = 0, E = 0;
    int n = readlink("/proc/self/exe", folder, sizeof folder - 1);
    folder[n] = 0;
    *strrchr(folder, '/') = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v")) return fprintf(stderr, "Target: stand-in\ngcc version 12.2.0 (stand-in)\n") < 0;
        if (!strncmp(argv[i], "-print-prog-name=", 17)) return printf("/usr/bin/%s\n", argv[i] + 17) < 0;
        if (!strcmp(argv[i], "--foreign") && argv[i + 1]) {
            open_host(folder);
            lock();
            host->foreign = atof(argv[i + 1]);
            unlock(1);
            return 0;
        }
        if (!strcmp(argv[i], "-E")) E = 1;
        else if (!strcmp(argv[i], "-c")) c = 1;
        else if (!strcmp(argv[i], "-o") && argv[i + 1]) output = argv[++i];
        else if (!strcmp(argv[i], "-MF") && argv[i + 1]) list = argv[++i];
        else if ((!strcmp(argv[i], "-x") || !strcmp(argv[i], "-MT")) && argv[i + 1]) i++;
        else if (argv[i][0] != '-') source = argv[i];
    }
    if (!source) return 0;
    if (E && output && !freopen(output, "w", stdout)) return 1;
    FILE *dependencies = list ? fopen(list, "w") : 0;
    if (dependencies) fprintf(dependencies, "x: %s\n", source);
    if (dependencies) fclose(dependencies);
    if (E) return copy(source);
    int in = open(source, O_RDONLY);
    if (!c || !output || in < 0 || read(in, head, sizeof head - 1) < 0) return 1;
    found = strstr(head, "work_ms=");
    if (!found) return fprintf(stderr, "%s: no work_ms=\n", source), 1;
    open_host(folder);
    compile(atof(found + 8) / 1e3);
    FILE *object = fopen(output, "w");
    for (int i = 0; object && i < 2000; i++) fprintf(object, "%08x%s", i, found > head ? "object" : "");
    return !object || fclose(object);
}
#endif
'''


@functools.lru_cache(None)
def stand_in():
    """A folder with the stand-in compiler and the shim."""
    folder = new_folder()
    source = write(folder + "/gcc.c", STAND_IN)
    for words in (["-o", folder + "/gcc"], ["-DSHIM", "-shared", "-fPIC", "-o", folder + "/shim.so"]):
        subprocess.run(["gcc", "-O2", *words, source, "-lm", "-ldl"], check=True)
    return folder


class SimHost:
    """One host of the farm: a folder with its compiler, its table, its /proc and a log of jobs (begin, end, work)."""

    def __init__(self, cores, speed=1.0, foreign=0):
        self.cores, self.speed, self.folder, self.server = cores, speed, new_folder(), None
        self.proc = set_procfs(self.folder + "/proc", cores, 1 + foreign, 64 << 10)
        write(self.proc + "/loadavg", "0.00 0.00 0.00 %4d/9999 1\n" % (1 + foreign), 0o666)
        write(self.proc + "/sys/kernel/random/boot_id", str(uuid.uuid4()))
        table = struct.pack("5d", cores, speed, foreign, 0, time.monotonic())
        write(self.folder + "/shared", table.ljust(1 << 14, b"\0"), 0o666)
        write(self.folder + "/log", b"", 0o666)
        for name in ("gcc", "x86_64-linux-gnu-gcc"):        # distcc asks for the latter
            shutil.copy(stand_in() + "/gcc", self.folder + "/" + name)

    def busy(self, tasks):
        subprocess.run([self.folder + "/gcc", "--foreign", str(tasks)], check=True)

    def signal(self, number):
        """To the server and all that it runs, as if to the whole machine."""
        for pid in descendants(self.server.process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def jobs(self):
        return [tuple(map(float, line.split())) for line in contents(self.folder + "/log").splitlines()]


def descendants(pid):
    """pid and all processes that it started, directly or not."""
    found = [pid]
    for parent in found:
        for path in glob.glob("/proc/%d/task/*/children" % parent):
            found += map(int, contents(path).split())
    return found


class Link:
    """A network namespace for the submitting box, behind a link of so many Mbit/s. Missing where that cannot be had."""

    def __init__(self, mbit):
        self.name = "dlm-%d" % os.getpid()
        self.near, self.net = self.name[:12] + "-a", "10.213.%d." % random.randint(1, 250)
        far = self.name[:12] + "-b"
        shape = "tbf rate %dmbit burst 64kb latency 100ms" % mbit
        try:
            for line in ("ip netns add %s" % self.name, "ip link add %s type veth peer name %s" % (self.near, far),
                         "ip link set %s netns %s" % (far, self.name), "ip link set %s up" % self.near,
                         "tc qdisc add dev %s root %s" % (self.near, shape),
                         "ip netns exec %s tc qdisc add dev %s root %s" % (self.name, far, shape),
                         "ip -n %s link set lo up" % self.name, "ip -n %s link set %s up" % (self.name, far),
                         "ip -n %s addr add %s100/24 dev %s" % (self.name, self.net, far),
                         *("ip addr add %s%d/24 dev %s" % (self.net, i, self.near) for i in range(1, 10))):
                subprocess.run(line.split(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise Missing("no link of %d Mbit/s: %s %s" % (mbit, error, getattr(error, "stderr", b""))) from None
        self.words = ["nsenter", "--net=/run/netns/" + self.name]

    def close(self):
        subprocess.run(["ip", "link", "del", self.near], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


def wrapped(words):
    """A copy of the program that is started through other programs, or a line of sh."""
    return write(new_folder() + "/distcc_lm", "#!/bin/sh\n%s %s \"$@\"\n" % (words, program()), 0o755)


# ---- scenarios

EQUAL = tuple((cores, 1.0) for cores in (9, 9, 8, 8, 8))
UNEQUAL = ((16, 1.0), (10, 2.0), (8, 1.0), (4, 4.0), (4, 1.0))
EVENT_S = 4.0                           # after the start of the build something happens to a host
CAP = 6                                 # times the list bound: a build that takes longer is ended
FLUID_S = 24.0                          # the fluid bound of 300 jobs
JOBS = 300


class Scenario:
    """What happens on which hosts, and the bound of makespan over list bound (None: none is set)."""

    def __init__(self, bar, hosts=EQUAL, builds=((JOBS, 48),), **more):
        self.bar, self.hosts, self.builds = bar, hosts, builds      # builds: (files, N of make -jN) of each submitter
        self.event = more.get("event")                              # busy, kill, freeze
        self.listed = more.get("listed", True)                      # distcc is told the numbers of slots
        self.cold = more.get("cold", False)                         # ours has never heard of these hosts
        self.huge = more.get("huge", 0)                             # files at the end that take five times the mean
        self.late = more.get("late", False)                         # all but the first build begin later and count
        self.mbit = more.get("mbit")                                # the submitting box's link
        self.mean_kb = more.get("mean_kb", 300.0)                   # of a preprocessed source
        self.mean_s = more.get("mean_s")                            # of a job on a core of speed 1; else by FLUID_S
        self.box = more.get("box", (2, 2))                          # cores of each submitter, and foreign tasks there:
                                                                    # busy, so that both sides have the same cores


FARM_SCENARIOS = {
    "equal": Scenario(1.03),
    "speeds": Scenario(1.05, UNEQUAL),
    "busied": Scenario(1.08, event="busy"),
    "killed": Scenario(1.08, event="kill"),
    "frozen": Scenario(1.15, event="freeze"),
    "no-slots": Scenario(1.05, listed=False),
    "two": Scenario(1.03, builds=((JOBS // 2, 24), (JOBS // 2, 24))),
    "twice": Scenario(1.00, builds=((JOBS, 84),)),
    "greedy": Scenario(1.30, builds=((400, 200), (40, 10), (40, 10), (40, 10)), late=True),
    "tail": Scenario(None, UNEQUAL, huge=4),
    "cold": Scenario(None, UNEQUAL, ((40, 48),), cold=True),
    "link": Scenario(None, mbit=100, mean_kb=900.0),
    "poor": Scenario(None, ((4, 0.25),) * 3, ((120, 16),), mbit=10, mean_kb=900.0, mean_s=2.0, box=(8, 0)),
}


def draw_works(rng, count, mean, ms_per_kb):
    """[(seconds on a core of speed 1, KB preprocessed)]: log-normal, at most four times the median, and in step with
    the size but for 20 %. The list bound of 300 on 42 equal cores is 1.25 times the fluid one."""
    works = [min(rng.lognormvariate(0, 0.6), 4.0) for _ in range(count)]
    scale = mean * count / sum(works)
    return [(work * scale, 1e3 / ms_per_kb * work * scale * rng.lognormvariate(0, 0.2)) for work in works]


class Core:
    """One core as the list bound sees it: changes [(second, factor of its speed from then on)]."""

    def __init__(self, speed, changes=()):
        self.speed, self.changes, self.free = speed, list(changes), 0.0

    def end(self, work):
        """When a job that begins as soon as it is free would end; inf where the core dies before."""
        at, rate = self.free, self.speed
        for second, factor in [*self.changes, (math.inf, 1)]:
            if second > at:
                if rate and at + work / rate <= second:
                    return at + work / rate
                work -= rate * (second - at)
                at = second
            rate = self.speed * factor
        return math.inf


def list_bound(works, cores):
    """Makespan of the omniscient list scheduler: jobs in make's order, each to the core that ends it first."""
    last = 0.0
    for work in works:
        core = min(cores, key=lambda core: core.end(work))
        core.free = core.end(work)
        last = max(last, core.free)
    return last


def fluid_bound(works, cores):
    left, at = sum(works), 0.0
    for second in sorted({second for core in cores for second, _ in core.changes}) + [math.inf]:
        rate = sum(core.speed * ([1.0] + [f for s, f in core.changes if s <= at])[-1] for core in cores)
        if left <= rate * (second - at):
            return at + left / rate
        left, at = left - rate * (second - at), second
    return at


# ---- the same farm in one process: real Schedulers and Admissions, a clock of its own, a job's time by arithmetic

class EventHost:
    """A host of an EventFarm: its Admission, and cores that its jobs share."""

    def __init__(self, farm, name, cores, speed):
        self.farm, self.name, self.cores, self.speed, self.foreign = farm, name, cores, speed, 0.0
        self.instance = name.encode().ljust(8, b"_")
        self.admission, self.statistics = lm.Admission(cores, lm.PeakMemory()), lm.Statistics()
        self.works, self.done = [], 0.0     # heap of (done by then, number, link); seconds each job has had
        self.at, self.area = 0.0, 0.0
        self.version, self.reported, self.report_at, self.seen = 0, 0, -9.0, 0.0
        self.links, self.state = set(), "up"                            # up, frozen, dead
        self.measure()

    def measure(self):
        """As each quarter of a second: foreign load, smoothed, and thereby slots."""
        self.seen += (self.foreign - self.seen) * lm.CAPACITY_INTERVAL_S / lm.FOREIGN_SMOOTHING_S
        self.admission.measure(self.cores, self.seen, 1 << 20, 0, None, self.farm.now)
        self.grant()

    def advance(self):
        """Bring the jobs up to the present."""
        passed, self.at = self.farm.now - self.at, self.farm.now
        self.done += passed * self.rate()
        self.area += passed * (len(self.works) + self.foreign)

    def rate(self):
        return self.speed * min(1.0, self.cores / max(len(self.works) + self.foreign, 1e-9)) * (self.state == "up")

    def changed(self):
        """Jobs or load have changed: when the next job ends now, and a report where that is far from the last."""
        self.version += 1
        if self.works and self.rate():
            self.farm.at(max(self.works[0][0] - self.done, 0.0) / self.rate(), self.compiled, self.version)
        if abs(len(self.admission.holders) - self.reported) >= max(1, self.cores // 8):
            self.reported = len(self.admission.holders)
            self.farm.at(max(0.0, self.report_at + lm.REPORT_MIN_GAP_S - self.farm.now), self.report)

    def ask(self, link):
        if self.state != "up":
            if self.state == "dead":
                link.submitter.later(link.submitter.lost, link, "connect")
            return
        self.links.add(link)
        answer = self.admission.request(link.key, link, link.request.memory_mb, self.farm.now)
        if answer[0] == "refused":
            link.submitter.later(link.submitter.lost, link, answer[1])
        elif answer[0] == "parked":
            link.submitter.later(link.submitter.parked, link)
        else:
            link.submitter.later(link.submitter.granted, link, answer[1])
        self.changed()

    def begin(self, link):
        if self.state == "up" and link in self.admission.holders:
            self.advance()
            link.area, link.begun = self.area, self.farm.now
            heapq.heappush(self.works, (self.done + link.work, id(link), link))
            self.changed()

    def compiled(self, version):
        if version != self.version or self.state != "up":
            return
        self.advance()
        _, _, link = heapq.heappop(self.works)
        took, cpu_s = self.farm.now - link.begun, link.work / self.speed
        jobs = (self.area - link.area) / max(took, 1e-9)
        self.statistics.observe_served(link.job.size_kb, link.job.job_class, cpu_s, 60)
        self.end(link, cpu_s)
        link.submitter.later(link.submitter.replied, link, cpu_s, took, jobs)

    def end(self, link, cpu_s):
        self.advance()
        self.works = [row for row in self.works if row[2] is not link]
        heapq.heapify(self.works)
        self.links.discard(link)
        self.admission.release(link, cpu_s, self.farm.now)
        self.grant()
        self.changed()

    def grant(self):
        while self.state == "up":
            found = self.admission.next_granted(self.farm.now)
            if not found:
                return
            found[0].submitter.later(found[0].submitter.granted, found[0], found[1])

    def report(self):
        if self.state != "up" or self.farm.now < self.report_at + lm.REPORT_MIN_GAP_S / 2:
            return
        self.report_at, own = self.farm.now, self.statistics.host("local")
        for submitter in self.farm.submitters:
            load = lm.Load(instance=self.instance, port=1, cores=self.cores, slots=self.admission.slots,
                           running=len(self.admission.holders), waiting=len(self.admission.parked), foreign=self.seen,
                           memory_mb=1 << 20, interval_ms=1000, identities=[IDENTITY], kb_sum=own.kb_sum,
                           cpu_ms_sum=own.cpu_sum * 1e3, counted=dict(self.admission.counted))
            submitter.later(submitter.heard, self, load)

    def happen(self, state="up", foreign=0.0):
        self.advance()
        self.state, self.foreign = state, foreign
        if state == "dead":
            for link in self.links:
                link.submitter.later(link.submitter.lost, link, "closed")
        self.changed()


class EventLink:
    """A connection of an EventSubmitter: first for a request, then for a job."""

    def __init__(self, submitter, request, host):
        self.submitter, self.request, self.host, self.job, self.work = submitter, request, host, None, 0.0
        self.key = submitter.instance, submitter.instance, request.group[0]     # of Admission


class EventSubmitter:
    """A box whose make starts compiles: a Scheduler, and what its daemon and clients do."""
    WAY_S = 0.001                       # of a message

    def __init__(self, farm, number, seed, box):
        self.farm, self.number, self.instance = farm, number, b"submit%02d" % number
        cores, foreign = box
        self.scheduler = lm.Scheduler(lm.Statistics(), cores, cores, random.Random(seed))
        self.scheduler.foreign, self.cores = foreign, cores
        for host in farm.hosts:
            self.scheduler.hosts[host.name] = lm.Host(host.name, host.name, "peer", lm.Endpoint((host.name, 1)))
        self.left, self.at_once, self.links, self.asked, self.ended, self.works = [], 0, {}, {}, 0.0, {}
        self.waiting_most, self.cpu, self.longest, self.settled_at = None, 0.0, 0.0, 0.0

    def later(self, do, *words):
        self.farm.at(self.WAY_S, do, *words)

    def build(self, works, at_once, name):
        """`works`: [(seconds on a core of speed 1, KB)]; at_once: make's -j."""
        self.at_once = at_once
        self.left = [(work, kb, "%s%d.c" % (name, i)) for i, (work, kb) in enumerate(works)][::-1]
        self.feed()

    def feed(self):
        while self.left and len(self.scheduler.jobs) < self.at_once and (
                self.waiting_most is None or self.scheduler.texts_held() < self.waiting_most):
            work, kb, name = self.left.pop()
            job = lm.Job(1000, name, name + ".o", "c-O2", name, None, self.farm.now)
            job.identity, job.source_key, self.works[job] = IDENTITY, name, (work, kb)
            self.scheduler.hello(job, self.farm.now)
            if self.waiting_most is not None:
                self.preprocessed(job)

    def settle_after(self, event):
        """As in the daemon, where many hosts' reports are read together."""
        bunched = event == self.heard and len(self.scheduler.hosts) > lm.REPORTS_BUNCHED_HOSTS
        if not bunched or self.farm.now - self.settled_at >= lm.REPORT_BUNCH_S:
            self.settle()

    def settle(self):
        begun = time.process_time()
        now = self.settled_at = self.farm.now
        while True:
            self.scheduler.pump(now)
            if not self.scheduler.actions:
                break
            actions, self.scheduler.actions = self.scheduler.actions, []
            for what, subject, *more in actions:
                getattr(self, "do_" + what)(subject, *more)
        passed = time.process_time() - begun
        self.cpu, self.longest = self.cpu + passed, max(self.longest, passed)
        for job in [job for job in self.links if job.lease is None]:
            self.hang_up(self.links.pop(job))

    def hang_up(self, link):
        self.later(link.host.end, link, 0.0)

    def do_turn(self, job):
        self.farm.at(0.02, self.preprocessed, job)

    def preprocessed(self, job):
        if job.state in ("preprocess", "queued"):
            self.scheduler.sized(job, int(self.works[job][1]), 0.02, job.mode, self.farm.now)

    def do_ask(self, request):
        if request.state != "ended":
            link = self.asked[request] = EventLink(self, request, self.farm.by_name[request.host.name])
            self.later(link.host.ask, link)

    def do_withdraw(self, request):
        if request in self.asked:
            self.hang_up(self.asked.pop(request))

    def do_socket(self, job, request):
        if job in self.links:
            self.hang_up(self.links.pop(job))
        link = self.links[job] = self.asked.pop(request)
        link.job, link.work = job, self.works[job][0]
        self.farm.at(self.WAY_S + job.size_kb * 1.3 / 50e3, link.host.begin, link)

    def do_local(self, job):
        if job in self.links:
            self.hang_up(self.links.pop(job))
        tasks = len(self.scheduler.locals.holders) + self.scheduler.foreign
        self.farm.at(self.works[job][0] * max(1.0, tasks / self.cores), self.ran_here, job)

    def ran_here(self, job):
        if job.state == "local":
            self.scheduler.local_ended(job, True, self.farm.now)
            self.over()

    def parked(self, link):
        if link.request.state == "asking":
            self.scheduler.parked(link.request, self.farm.now)

    def granted(self, link, reservation):
        if link.request.state != "ended" and self.scheduler.granted(link.request, reservation, self.farm.now) is None:
            self.hang_up(self.asked.pop(link.request))

    def lost(self, link, name):
        if link.request.state != "ended":
            del self.asked[link.request]
            self.scheduler.refused(link.request, name, "", self.farm.now)
        elif link.job and self.links.get(link.job) is link:
            del self.links[link.job]
            self.scheduler.failed(link.job, name, "", self.farm.now)

    def replied(self, link, cpu_s, took, jobs):
        job = link.job
        if self.links.get(job) is not link:
            return
        total = self.farm.now - job.lease.since
        del self.links[job]
        self.scheduler.finished(job, figures(
            job.size_kb, cpu_s, job.job_class, job.source_key, total, predicted_s=job.predicted_s,
            wire_kb=job.size_kb * 1.3, elapsed_ms=took * 1e3, concurrency=jobs, peak_kb=60 << 10), self.farm.now)
        self.over()

    def tick(self):
        self.scheduler.tick(self.farm.now)

    def over(self):
        self.ended = self.farm.now
        self.feed()

    def heard(self, host, load):
        place, now = self.scheduler.hosts[host.name], self.farm.now
        self.scheduler.report(place, load, now)
        self.scheduler.counted_to(place, load.counted.get(self.instance, 0))
        self.scheduler.statistics.told(place.key, load.kb_sum, load.cpu_ms_sum / 1e3)
        place.shared = bool(set(load.counted) - {self.instance})


class EventFarm:
    """Builds of a Scenario in simulated time, a pump after each event."""
    LIMIT_S = 1000.0

    def __init__(self, scenario, seed):
        self.scenario, self.seed, self.rng = scenario, seed, random.Random(seed)
        self.now, self.events, self.count = 0.0, [], 0
        self.hosts = [EventHost(self, "h%d" % i, *row) for i, row in enumerate(scenario.hosts)]
        self.by_name = {host.name: host for host in self.hosts}
        self.submitters = [EventSubmitter(self, i, seed + i, scenario.box) for i in range(len(scenario.builds))]
        for host in self.hosts:
            self.at(self.rng.random(), host.report, again=lm.REPORT_INTERVAL_S)
            self.at(self.rng.random(), host.measure, again=lm.CAPACITY_INTERVAL_S)
        for submitter in self.submitters:
            self.at(self.rng.random(), submitter.tick, again=lm.CAPACITY_INTERVAL_S)

    def at(self, delay, do, *words, again=0.0):
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, do, words, again))

    def run_until(self, condition):
        while not condition():
            assert self.now < self.LIMIT_S, "jobs do not end"
            self.now, _, do, words, again = heapq.heappop(self.events)
            do(*words)
            if again:
                self.at(again * self.rng.uniform(0.8, 1.2), do, *words, again=again)
            if isinstance(do.__self__, EventSubmitter):
                do.__self__.settle_after(do)

    def idle(self):
        return not any(s.left or s.scheduler.jobs or s.asked for s in self.submitters)

    def warm_up(self, mean, ms_per_kb):
        for number, submitter in enumerate(self.submitters):
            submitter.build(draw_works(self.rng, 100, mean / 10, ms_per_kb), 48, "warm%d." % number)
            self.run_until(self.idle)

    def happen(self):
        event = self.scenario.event
        if event == "busy":
            for host in self.hosts[1:3]:
                host.happen(foreign=2.0 * host.cores)
        elif event:
            self.hosts[0].happen({"kill": "dead", "freeze": "frozen"}[event])

    def cores(self):
        """As the bounds see them."""
        scenario, found = self.scenario, []
        for i, host in enumerate(self.hosts):
            lowered = {"busy": 1 / 3 if i in (1, 2) else 1, "kill": i > 0, "freeze": i > 0}.get(scenario.event, 1)
            found += [Core(host.speed, [(EVENT_S, lowered)]) for _ in range(host.cores)]
        return found

    def run(self):
        """Makespan over the list bound."""
        scenario = self.scenario
        mean = scenario.mean_s or FLUID_S * sum(cores * speed for cores, speed in scenario.hosts) / JOBS
        ms_per_kb = mean * 1e3 / scenario.mean_kb
        works = []
        for count, _ in scenario.builds:
            rows = draw_works(self.rng, count, mean, ms_per_kb)
            huge = [(5 * mean, 5 * scenario.mean_kb)] * scenario.huge
            works.append(rows[:count - len(huge)] + huge)
        self.run_until(lambda: self.now > 1.5)
        if not scenario.cold:
            self.warm_up(mean, ms_per_kb)
            until = self.now + 1.5
            self.run_until(lambda: self.now > until)
        begun, late = self.now, EVENT_S if scenario.late else 0.0
        self.at(EVENT_S, self.happen)
        for i, submitter in enumerate(self.submitters):
            self.at(late if i else 0.0, submitter.build, works[i], scenario.builds[i][1], "b%d." % i)
        self.run_until(lambda: self.now > begun + late)
        self.run_until(self.idle)
        counted = self.submitters[1:] if scenario.late else self.submitters
        makespan = max(submitter.ended for submitter in counted) - begun - late
        if scenario.late:
            share = len(self.cores()) // len(works)
            bound = max(list_bound([work for work, _ in rows], [Core(1.0) for _ in range(share)]) for rows in works[1:])
        else:
            together = [work for row in itertools.zip_longest(*works) for work, _ in filter(None, row)]
            bound = list_bound(together, self.cores())
        return makespan / bound


def many_hosts(hosts, factor, waiting, jobs=1500):
    """A submitter that has built `jobs` files on so many hosts of 8 slots, half of them slower by this
    factor, with up to so many waiting: an EventSubmitter with its CPU time."""
    speeds = [1.0 if i % 2 else 1 / factor for i in range(hosts)]
    farm = EventFarm(Scenario(None, tuple((8, speed) for speed in speeds), ((jobs, jobs),), box=(1, 1)), 1)
    submitter, = farm.submitters
    submitter.waiting_most = waiting
    farm.run_until(lambda: farm.now > 1.5)
    submitter.cpu = submitter.longest = 0.0
    submitter.build(draw_works(farm.rng, jobs, 2.0, 2e3 / 300), jobs, "f")
    submitter.settle()
    farm.run_until(farm.idle)
    return submitter


def bench_choices(numbers=(2, 5, 16, 32, 33, 200, 1000), factors=(1, 4, 10, 20), waiting=(200, 400)):
    """CPU of choosing a host, for each job, among unequal hosts."""
    worst = []
    for hosts, factor, most in itertools.product(numbers, factors, waiting):
        gc.collect()                        # of the farm before: no daemon has that
        submitter = many_hosts(hosts, factor, most)
        worst.append((submitter.cpu / 1500 * 1e3, hosts, factor, most, submitter.longest * 1e3))
    for row in sorted(worst)[-3:]:
        print("choosing: %.2f ms of CPU a job among %d hosts, half of them slower by %d, %d waiting; longest "
              "%.0f ms" % row, flush=True)
    print("choosing: %.2f ms of CPU a job at most (bound 0.3)" % max(worst)[0], flush=True)


BENCHES["choices"] = bench_choices

# ---- one run

class FarmRun:
    """One scenario with one seed, under our program or under distcc."""

    def __init__(self, name, seed, theirs):
        self.name, self.scenario, self.theirs, self.seed = name, FARM_SCENARIOS[name], theirs, seed
        self.rng = random.Random("%s %d" % (name, seed))
        speed = sum(cores * speed for cores, speed in self.scenario.hosts)
        self.mean = self.scenario.mean_s or FLUID_S * speed / JOBS  # seconds of the mean job
        self.ms_per_kb = self.mean * 1e3 / self.scenario.mean_kb
        self.works = []
        for count, _ in self.scenario.builds:
            works = draw_works(self.rng, count, self.mean, self.ms_per_kb)
            huge = self.scenario.huge
            self.works.append(works[:count - huge] + [(5 * self.mean, 5 * self.scenario.mean_kb)] * huge)
        self.hosts = [SimHost(*row) for row in self.scenario.hosts]
        self.link = Link(self.scenario.mbit) if self.scenario.mbit else None
        self.address = self.link.net if self.link else "127.%d.%d." % (self.rng.randint(20, 250), seed % 250)
        self.prefix = self.link.words if self.link else []
        self.submitters, self.stopped = [], []

    # -- the files

    def tree(self, works, warm=False):
        """A folder with a source for each work and a makefile."""
        folder = new_folder()
        for i, (work, size) in enumerate(works):
            head = "/* work_ms=%d */\n" % (work * 1000)
            lines = ["int pad_%d_%d_%d;\n" % (i, j, self.rng.getrandbits(60)) for j in range(int(size * 1024 / 35))]
            write("%s/f%d.c" % (folder, i), head + "".join(lines))
        names = " ".join("f%d.o" % i for i in range(len(works)))
        write(folder + "/Makefile", "all: %s\n%%.o: %%.c\n\t$(CC) -O2 -c $< -o $@\n" % names)
        return folder

    # -- the farm

    def start(self, farm):
        for i, host in enumerate(self.hosts):
            start = self.start_distccd if self.theirs else self.start_worker
            host.server = start(farm, host, self.address + str(i + 1))
        for i in range(len(self.scenario.builds)):
            cores, foreign = self.scenario.box
            box = SimHost(cores, 1.0, foreign)
            env = environment(PATH=box.folder + ":" + PATH, HOME=new_folder())
            if self.theirs:
                slots = "%s/%d" if self.scenario.listed else "%s%.0s"
                env.update(DISTCC_HOSTS=" ".join(slots % (host.server.address, host.cores) for host in self.hosts),
                           DISTCC_DIR=new_folder())
            else:
                daemon = farm.submitter(*[host.server for host in self.hosts], options=(
                    "--listen", self.address + str(100 + i) + ":0", "--procfs", box.proc, "--slots", str(cores),
                    "--log-level", "info"), prog=wrapped("exec " + shlex.join(self.prefix)) if self.prefix else None)
                env.update(DISTCC_LM_SOCKET=daemon.socket)
                box.server = daemon
            self.submitters.append((box, env))
        if not self.theirs and not self.scenario.cold:
            self.warm_up()

    def start_worker(self, farm, host, address):
        return farm.worker("--listen", address + ":0", "--compilers", host.folder, "--procfs", host.proc, "--slots",
                           str(host.cores), "--contain", "off", "--log-level", "info", "--allow", self.address + "0/24",
                           env={"LD_PRELOAD": stand_in() + "/shim.so", "FARM_HOST": host.folder})

    def start_distccd(self, farm, host, address):
        return farm.add(RealDistccd("--jobs", str(host.cores), "--allow", self.address + "0/24",
                                    host=address, path=host.folder))

    def warm_up(self):
        """A short build, so that our daemons know these hosts as those of a farm in use do."""
        folder = self.tree(draw_works(self.rng, 100, self.mean / 10, self.ms_per_kb))
        for box, env in self.submitters:
            subprocess.run(["touch"] + glob.glob(folder + "/*.c"), check=True)
            self.make(folder, env, 48).wait()
            for path in glob.glob(folder + "/*.o"):
                os.unlink(path)
            box.server.idle()
        for host in self.hosts:
            write(host.folder + "/log", b"")

    # -- the builds

    def make(self, folder, env, jobs):
        compiler = "distcc gcc" if self.theirs else program() + " cc gcc"
        with open(folder + "/log", "wb") as log:            # distcc tells there of each host that is gone
            words = [*self.prefix, "make", "-s", "-C", folder, "-j%d" % jobs, "CC=" + compiler]
            return subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    start_new_session=True)

    def happen(self):
        event, hosts = self.scenario.event, self.hosts
        if event == "busy":
            for host in hosts[1:3]:
                host.busy(2 * host.cores)
        elif event == "kill":
            hosts[0].signal(signal.SIGKILL)
        elif event == "freeze":
            hosts[0].signal(signal.SIGSTOP)
            self.stopped = descendants(hosts[0].server.process.pid)

    def build(self, cap):
        """Seconds of each build; None for one that was ended after `cap` seconds."""
        trees = [self.tree(works) for works in self.works]
        ends, late = [None] * len(trees), EVENT_S if self.scenario.late else 0.0
        begun = time.monotonic()
        self.began = begun

        def one(i):
            delay = late if i else 0.0
            time.sleep(delay)
            child = self.make(trees[i], self.submitters[i][1], self.scenario.builds[i][1])
            try:
                status = child.wait(cap)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return
            if status:
                raise Failed("make failed in %s:\n%s" % (trees[i], tail(trees[i] + "/log")))
            ends[i] = time.monotonic() - begun - delay
        timer = threading.Timer(EVENT_S, self.happen)
        timer.start()
        together(range(len(trees)), one, len(trees))
        timer.cancel()
        for pid in self.stopped:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return ends

    # -- what is known of it

    def cores(self):
        """As the bounds see them."""
        found = []
        for i, host in enumerate(self.hosts):
            changes = []
            if self.scenario.event == "busy" and i in (1, 2):
                changes = [(EVENT_S, 1 / 3)]
            elif self.scenario.event in ("kill", "freeze") and i == 0:
                changes = [(EVENT_S, 0)]
            found += [Core(host.speed, changes) for _ in range(host.cores)]
        return found

    def bounds(self):
        """(list bound, fluid bound) of what counts."""
        if self.scenario.late:                          # the small builds, each on its share of equal cores
            share = len(self.cores()) // len(self.works)
            small = [[work for work, _ in works] for works in self.works[1:]]
            return tuple(max(bound(works, [Core(1.0) for _ in range(share)]) for works in small)
                         for bound in (list_bound, fluid_bound))
        works = [work for row in itertools.zip_longest(*self.works) for work, _ in filter(None, row)]
        link_s = sum(kb for row in self.works for _, kb in row) * 1024 * 8e-6 / self.scenario.mbit if self.link else 0.0
        return max(list_bound(works, self.cores()), link_s), fluid_bound(works, self.cores())

    def local_bound(self):
        """Seconds that the builds would take at least if each submitter had but its own cores, those all to itself."""
        counted = self.works[1:] if self.scenario.late else self.works
        return max(list_bound([work for work, _ in works], [Core(1.0) for _ in range(self.scenario.box[0])])
                   for works in counted)

    def idle_share(self):
        """Of the cores' time until the last job began, how much nobody used."""
        jobs = [job for host in self.hosts for job in host.jobs()]
        last = max((begin for begin, _, _ in jobs), default=self.began)
        cores = sum(host.cores for host in self.hosts)
        used = sum(max(0.0, min(end, last) - begin) for begin, end, _ in jobs)
        return 1 - used / max((last - self.began) * cores, 1e-9)

    def prediction_error(self):
        """Mean of |predicted - actual| / actual over the last decisions of our daemons, those of the warm-up left
        out."""
        errors = []
        for box, _ in self.submitters:
            rows = ask(box.server.socket, "why", "300")[1]
            since = time.monotonic() - self.began
            errors += [abs(row["predicted_s"] - row["actual_s"]) / row["actual_s"] for row in rows[-200:]
                       if row["actual_s"] and row["predicted_s"] and row["age_s"] < since]
        return sum(errors) / len(errors) if errors else float("nan")

    def close(self):
        if self.link:
            self.link.close()

    def run(self):
        """A line of figures, and the makespan over the list bound."""
        list_s, fluid_s = self.bounds()
        cap = CAP * list_s
        with LoopbackFarm() as farm:
            self.start(farm)
            before = machine_cpu()
            ends = self.build(cap)
            busy, total = (now - then for now, then in zip(machine_cpu(), before))
            counted = ends[1:] if self.scenario.late else ends
            more, makespan = ">" if None in counted else "", max(end or cap for end in counted)
            text = "%-8s seed %d %-6s %s%.1f s, list bound %.1f, fluid %.1f: ratios %s%.3f, %.2f; " % (
                self.name, self.seed, "distcc" if self.theirs else "ours", more, makespan, list_s, fluid_s, more,
                makespan / list_s, makespan / fluid_s)
            text += "over local alone %.2f; idle %.0f %%, machine's CPU %.0f %%" % (
                makespan / self.local_bound(), self.idle_share() * 100, busy / total * 100)
            if not self.theirs:
                text += ", prediction off by %.0f %%" % (self.prediction_error() * 100)
        return text, makespan / list_s


class RedisRun:
    """Real gcc compiles Redis on two real workers, one of which has a quarter of the other's CPU: a quota that only
    the time of its jobs shows. `side`: ours, distcc, or local (make -j2 without any of them)."""
    SHARES = (1.0, 0.25)                # CPUs of the workers
    SUBMITTER = 0.75                    # of the submitting box
    FILES = 45

    def __init__(self, side):
        self.side, self.groups = side, []

    def group(self, cpus):
        """The tasks file of a new cgroup with this quota. Missing where that cannot be had."""
        path = "/sys/fs/cgroup/cpu/dlm-%d-%d" % (os.getpid(), len(self.groups))
        try:
            os.mkdir(path)
            self.groups.append(path)
            write(path + "/cpu.cfs_period_us", "20000")
            write(path + "/cpu.cfs_quota_us", "%d" % (20000 * cpus))
        except OSError as error:
            raise Missing("no CPU quota: %s" % error) from None
        return path + "/cgroup.procs"

    def close(self):
        for path in self.groups:
            for pid in contents(path + "/cgroup.procs").split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            eventually(lambda path=path: not contents(path + "/cgroup.procs"))
            os.rmdir(path)

    def tree(self):
        """Redis with a makefile of ours: which sources, no configuration."""
        below, _, flags, _, _ = BENCH_TREES["redis"]
        folder = new_folder()
        run_step(["dpkg-source", "-x", sources(TREES["redis"]), folder + "/tree"])
        where = os.path.join(folder, "tree", below)
        write(where + "/release.h", "".join('#define REDIS_%s "0"\n' % word for word in (
            "GIT_SHA1", "GIT_DIRTY", "BUILD_ID", "BUILD_ID_RAW")))
        names = [os.path.basename(path)[:-2] for path in sorted(glob.glob(where + "/*.c"))]
        left_out = ("ae_epoll", "ae_evport", "ae_kqueue", "ae_select", "lzf_c")
        names = " ".join(name + ".o" for name in names if name not in left_out and "test" not in name)
        write(where + "/farm.mk", "all: %s\n%%.o: %%.c\n\t$(CC) %s -c $< -o $@\n" % (
            " ".join(names.split()[:self.FILES]), flags))
        return where

    def start(self, farm):
        """The environment of the build, and the words for CC."""
        if self.side == "local":
            return environment(), "gcc"
        servers = []
        for share in self.SHARES:
            tasks = self.group(share)
            if self.side == "ours":
                prog = wrapped("echo $$ > %s\nexec" % tasks)
                servers.append(farm.worker("--procfs", "/proc", "--slots", "1", prog=prog))
            else:
                servers.append(farm.add(RealDistccd("--jobs", "1")))
                for pid in descendants(servers[-1].process.pid):
                    write(tasks, str(pid))
        if self.side == "distcc":
            return environment(DISTCC_HOSTS=" ".join(server.address + "/1" for server in servers),
                               DISTCC_DIR=new_folder()), "distcc gcc"
        daemon = farm.submitter(*servers, options=("--procfs", "/proc", "--slots", "1"),
                                prog=wrapped("echo $$ > %s\nexec" % self.tasks))
        return environment(daemon.socket), program() + " cc gcc"

    def run(self):
        """Seconds of the build."""
        where = self.tree()
        self.tasks = self.group(self.SUBMITTER)
        with LoopbackFarm() as farm:
            env, compiler = self.start(farm)
            jobs = 2 if self.side == "local" else 6
            line = 'echo $$ > %s; exec make -s -f farm.mk -j%d CC="%s"' % (self.tasks, jobs, compiler)
            begun = time.monotonic()
            run_step(["sh", "-c", line], cwd=where, env=env, timeout=600)
            return time.monotonic() - begun


def farm_redis(sides):
    seconds = {}
    for side in (*sides, "local"):
        run = RedisRun(side)
        try:
            seconds[side] = run.run()
        finally:
            run.close()
        print("redis    %-6s %.1f s" % (side, seconds[side]), flush=True)
    print("redis    real gcc, workers with %.2f and %.2f CPUs, submitter with %.2f: over local alone %s" % (
        *RedisRun.SHARES, RedisRun.SUBMITTER, ", ".join(
            "%s %.2f" % (side, seconds[side] / seconds["local"]) for side in sides)), flush=True)


class FarmModel(unittest.TestCase):
    """The bounds, and the stand-in that runs against them."""

    def test_list_bound(self):
        cores = [Core(1.0), Core(2.0)]
        self.assertEqual(list_bound([4, 4, 2], cores), 4.0)         # ends at 2, 4 (a tie), 3
        self.assertEqual([core.free for core in cores], [4.0, 3.0])
        self.assertEqual(list_bound([4.0], [Core(1.0, [(2.0, 0.5)])]), 6.0)
        self.assertEqual(list_bound([4.0, 1.0], [Core(1.0, [(2.0, 0)]), Core(0.5)]), 8.0)  # dies under it

    def test_fluid_bound(self):
        self.assertEqual(fluid_bound([4, 4, 4], [Core(1.0), Core(2.0)]), 4.0)
        self.assertEqual(fluid_bound([4.0, 1.0], [Core(1.0, [(2.0, 0)]), Core(0.5)]), 6.0)

    def test_stand_in(self):
        """Two jobs on one core of speed 2, one of which comes alone and ends alone, with a foreign task at the end."""
        host, folder = SimHost(1, 2.0), new_folder()
        for name, work in (("a", 1000), ("b", 400)):
            write("%s/%s.c" % (folder, name), "/* work_ms=%d */\n" % work)
        jobs = [subprocess.Popen([host.folder + "/gcc", "-c", name + ".c", "-o", name + ".o"], cwd=folder)
                for name in "ab"]
        self.assertTrue(eventually(lambda: b" 3/9999" in contents(host.proc + "/loadavg")))
        self.assertEqual([job.wait() for job in jobs], [0, 0])
        (begin, _, _), (_, end, _) = min(host.jobs()), max(host.jobs(), key=lambda job: job[1])
        self.assertLess(abs(end - begin - 0.7), 0.2)                # 1.4 s of work at speed 2
        self.assertIn(b" 1/9999", contents(host.proc + "/loadavg"))
        self.assertTrue(os.path.getsize(folder + "/a.o"))


def machine_cpu():
    """(seconds busy, seconds in all) of this machine's processors."""
    figures = [int(word) for word in contents("/proc/stat").split(b"\n")[0].split()[1:9]]
    return (sum(figures) - figures[3] - figures[4]) / 100, sum(figures) / 100


def farm_main(words):
    parser = argparse.ArgumentParser(prog="test_distcc_lm.py farm", description="Makespans on a simulated farm.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO",
                        help="of %s redis (default: all)" % " ".join(FARM_SCENARIOS))
    parser.add_argument("--seeds", default="1", metavar="N", help="how many, or a list as 1,3 or 2, (default 1)")
    parser.add_argument("--only", choices=("ours", "distcc"))
    options = parser.parse_args(words)
    unknown = set(options.scenarios) - {*FARM_SCENARIOS, "redis"}
    if unknown:
        parser.error("unknown scenario: " + " ".join(sorted(unknown)))
    seeds = [int(word) for word in options.seeds.split(",") if word]
    seeds = seeds if "," in options.seeds else range(1, seeds[0] + 1)
    for name in options.scenarios or [*FARM_SCENARIOS, "redis"]:
        sides = [side for side in ("ours", "distcc") if options.only in (None, side)]
        try:
            if name == "redis":
                farm_redis(sides)
            else:
                farm_rows(name, seeds, sides)
        except Missing as error:
            print("%-8s skipped: %s" % (name, error), flush=True)
    return 0


def farm_rows(name, seeds, sides):
    """All runs of a scenario, ours and theirs in turn, and a line of medians."""
    ratios = {side: [] for side in sides}
    for seed, side in itertools.product(seeds, sides):
        run = FarmRun(name, seed, side == "distcc")
        try:
            text, ratio = run.run()
        finally:
            run.close()
        ratios[side].append(ratio)
        print(text, flush=True)
    bar = FARM_SCENARIOS[name].bar
    medians = ", ".join("%s %.3f" % (side, sorted(rows)[len(rows) // 2]) for side, rows in ratios.items())
    print("%-8s median %s%s" % (name, medians, " (bound %.2f)" % bar if bar else ""), flush=True)


# ==== The demo and the command line =================================================================================

def demo_tree(folder, count=40):
    """A C program of `count` sources and a makefile."""
    for i in range(count):
        line = "int part%d_%d(int x) { char s[64]; snprintf(s, sizeof s, \"%%d\", x * %d); return atoi(s); }\n"
        body = "".join(line % (i, j, j + 1) for j in range(40))
        write(os.path.join(folder, "part%d.c" % i), ("#include <stdio.h>\n#include <stdlib.h>\n" + body).encode())
    calls = " + ".join("part%d_1(1)" % i for i in range(count))
    head = "".join("int part%d_1(int);\n" % i for i in range(count))
    write(os.path.join(folder, "main.c"), ("#include <stdio.h>\n%sint main(void) { printf(\"%%d parts\\n\", (%s) / 2); "
                                           "return 0; }\n" % (head, calls)).encode())
    write(os.path.join(folder, "Makefile"), b"OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJECTS)\n\t"
          b"$(CC) -o $@ $(OBJECTS)\n%.o: %.c\n\t@$(CC) -O2 -c -o $@ $<\n")


def demo():
    """Two workers and a submitter on loopback addresses build a C tree. Exit status."""
    with LoopbackFarm() as farm, tempfile.TemporaryDirectory(prefix="distcc_lm-demo-") as folder:
        workers = [farm.worker(), farm.worker()]
        submitter = farm.submitter(*workers, options=("--slots", "1"))
        demo_tree(folder)
        compiler = "%s %s cc gcc" % (sys.executable, PROGRAM)
        print("make -j8 CC=\"distcc_lm.py cc gcc\" in a tree of 41 C files, two workers on loopback")
        done = subprocess.run(["make", "-s", "-C", folder, "-j8", "CC=" + compiler], env=environment(submitter.socket))
        if done.returncode == 0:
            subprocess.run([os.path.join(folder, "prog")])
        print("\ndistcc_lm.py status:\n", flush=True)
        subprocess.run([sys.executable, PROGRAM, "status"], env=environment(submitter.socket))
        return done.returncode


class CountingResult(unittest.TextTestResult):
    """Counts what passed, for the closing line."""
    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def run_tests(names):
    """Run the named tests. With DISTCC_LM_STRICT=1, as in CI, a skipped one has failed. Exit status."""
    suite = unittest.TestLoader().loadTestsFromNames(names, sys.modules[__name__])
    result = unittest.TextTestRunner(verbosity=1, resultclass=CountingResult, buffer=True).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    for test, reason in result.skipped:
        print("skipped: %s: %s" % (test, reason))
    if os.environ.get("DISTCC_LM_STRICT") == "1":       # but for what is left out to save time
        failed += sum(not reason.startswith("DISTCC_LM_ALL=1") for _, reason in result.skipped)
    print("%d passed, %d failed, %d skipped" % (result.passed, failed, len(result.skipped)))
    return 1 if failed else 0


def run_all():
    """All tests, in a few processes at once since most of them wait most of the time. Exit status."""
    module = sys.modules[__name__]
    classes = [name for name, thing in vars(module).items()
               if isinstance(thing, type) and issubclass(thing, unittest.TestCase)
               and unittest.TestLoader().getTestCaseNames(thing)]
    workers = int(os.environ.get("DISTCC_LM_WORKERS") or (os.cpu_count() or 1) + 1)
    chunks = [classes[i::4 * workers] for i in range(4 * workers)]
    counts = collections.Counter()

    def one(chunk):
        done = subprocess.run([sys.executable, os.path.abspath(__file__), *chunk], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
        found = re.findall(r"(?m)^(\d+) passed, (\d+) failed, (\d+) skipped$", done.stdout) or [("0", "1", "0")]
        counts.update(dict(zip(("passed", "failed", "skipped"), map(int, found[-1]))))
        if done.returncode or int(found[-1][2]):
            print(done.stdout, flush=True)
        else:
            print("ok: " + " ".join(chunk), flush=True)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, filter(None, chunks)))
    print("%d passed, %d failed, %d skipped" % (counts["passed"], counts["failed"], counts["skipped"]))
    return 1 if counts["failed"] else 0


def main(words):
    if words[:1] == ["demo"]:
        return demo()
    if words[:1] == ["bench"]:
        return bench(words[1:])
    if words[:1] == ["farm"]:
        return farm_main(words[1:])
    if words[:1] in (["fuzz"], ["soak"]):
        return {"fuzz": fuzz, "soak": soak}[words[0]](*map(int, words[1:]))
    if words[:1] == ["trees"]:
        return trees_main(words[1:])
    return run_tests(words) if words else run_all()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
