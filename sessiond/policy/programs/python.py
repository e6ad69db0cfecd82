"""The safe subset of Python for `python -c` and code on standard input.

Judged by its syntax tree: no attribute with an underscore in front, no built-in function that runs code or reaches
into objects, and of the standard library only listed functions. What the code imports from elsewhere is the
workspace's own, or installed: it may be called, as a script could be run, unless it is known to install, to run
programs or to talk to a network.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, field

from sessiond.policy.names import names

MAX_CHARACTERS = 16 * 1024

_BUILTINS = names(
    "print len range sum min max sorted reversed enumerate zip map filter list dict set tuple frozenset str int float "
    "bool bytes bytearray complex repr ascii ord chr hex oct bin abs round divmod pow any all iter next isinstance "
    "issubclass type hash id callable slice format open exit quit object property staticmethod classmethod super "
    "memoryview dir Exception ValueError TypeError KeyError IndexError RuntimeError AssertionError StopIteration "
    "ZeroDivisionError "
    "ImportError ModuleNotFoundError OSError FileNotFoundError AttributeError NotImplementedError ArithmeticError "
    "SystemExit KeyboardInterrupt BaseException True False None NotImplemented Ellipsis __name__ __file__ __doc__"
)

_ALL = frozenset(["*"])
_STDLIB: dict[str, frozenset[str]] = {
    "math": _ALL,
    "cmath": _ALL,
    "time": names("time sleep perf_counter monotonic strftime gmtime localtime time_ns ctime process_time"),
    "json": names("loads dumps load dump JSONDecodeError"),
    "sys": names(
        "version version_info argv path executable platform maxsize byteorder prefix base_prefix exit stdin stdout "
        "stderr implementation getrecursionlimit getsizeof flags hexversion getdefaultencoding"
    ),
    "re": names("match search fullmatch findall finditer sub subn split compile escape I M S X"),
    "random": names("random randint choice choices shuffle seed sample uniform"),
    "datetime": names("datetime date time timedelta timezone UTC"),
    "collections": names("Counter defaultdict OrderedDict deque namedtuple ChainMap"),
    "itertools": _ALL,
    "operator": names("add mul sub itemgetter"),
    "functools": names("reduce lru_cache cache"),
    "string": names("ascii_letters digits punctuation ascii_lowercase ascii_uppercase whitespace printable"),
    "textwrap": names("dedent indent fill wrap shorten"),
    "statistics": names("mean median mode stdev variance pstdev"),
    "decimal": names("Decimal getcontext"),
    "fractions": frozenset(["Fraction"]),
    "hashlib": names("md5 sha1 sha256 sha512 blake2b"),
    "base64": names("b64encode b64decode urlsafe_b64encode urlsafe_b64decode b32encode b16encode"),
    "uuid": names("uuid4 uuid5 UUID NAMESPACE_DNS NAMESPACE_URL"),
    "platform": names("python_version platform system machine python_implementation release"),
    "ast": names("parse dump literal_eval unparse"),
    "tomllib": frozenset(["loads"]),
    "struct": names("pack unpack calcsize"),
    "pprint": names("pprint pformat"),
    "typing": names("Any Optional Union List Dict Set Tuple Callable Iterable Iterator Sequence Mapping"),
    "dataclasses": names("dataclass field asdict astuple"),
    "enum": names("Enum IntEnum auto"),
    "calendar": names("month monthrange isleap"),
    "sysconfig": names("get_paths get_path get_python_version"),
    "site": names("getsitepackages"),
    "os": names("getcwd cpu_count sep linesep name"),
    "__future__": _ALL,
}
"""Module: what of it may be used. No name here is a module, or a function that runs code or opens a file."""

REFUSED_MODULES = names(
    "pip setuptools pkg_resources easy_install wheel ensurepip requests httpx httpcore urllib3 aiohttp websockets "
    "websocket paramiko fabric invoke sh plumbum pexpect ptyprocess scapy twisted tornado gevent trio anyio boto3 "
    "botocore google azure openai anthropic pycurl curl_cffi wget gdown dill cloudpickle joblib psutil cffi pywin32 "
    "execnet xdist IPython ipykernel jupyter notebook playwright selenium docker kubernetes ansible distutils "
    "conda mamba uv poetry pipx twine socks dns redis pymongo psycopg psycopg2 sqlalchemy numba nltk spacy "
    "uvicorn gunicorn hypercorn flask celery pyftpdlib mitmproxy streamlit gradio ray dask "
    "huggingface_hub transformers datasets torch tensorflow _pytest pytest virtualenv cython Cython pyximport"
)
_HARMLESS_NAMES = names("copy time string token numbers bisect statistics code")
_MODULE_NAMES = sys.stdlib_module_names - _HARMLESS_NAMES
"""As an attribute of anything but a listed module, the way from one module into another."""
_METHODS_REFUSED = names(
    "system popen spawn exec eval run call check_call check_output Popen fork execv execve kill remove unlink rmdir "
    "rmtree urlopen urlretrieve connect bind listen sendto load_module import_module exec_module modules f_globals "
    "f_locals f_builtins f_back f_code tb_next ag_frame gi_code gi_frame cr_frame tb_frame func_globals mro "
    "format_map ctypeslib f2py distutils"
)


@dataclass(slots=True)
class Judged:
    """What was found: the first thing that is not in the safe subset, and the files that the code opens."""

    problem: str | None = None
    read: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


def runs_own_module(name: str) -> bool:
    """Whether `python -m NAME` surely means a module within a package that is neither Python's nor known for harm."""
    top, dot, _ = name.partition(".")
    return bool(dot) and top not in sys.stdlib_module_names and top not in REFUSED_MODULES and not top.startswith("_")


def check_python(code: str) -> Judged:
    """Judge `code`. Nothing of it is run."""
    if len(code) > MAX_CHARACTERS:
        return Judged("the code is too long to be judged; put it into a file")
    try:
        tree = ast.parse(code)
        walker = _Walker()
        walker.look(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Judged("the code is no Python that can be judged; put it into a file")
    return walker.judged


class _Walker:
    def __init__(self) -> None:
        self.judged = Judged()
        self.modules: dict[str, str] = {}
        self.names: set[str] = set()
        self.called: set[int] = set()
        """Nodes that are only called, or only shown."""

    def look(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        for node in nodes:
            self._collect(node)
        for node in nodes:
            if self.judged.problem is None:
                self._check(node)

    def _collect(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    self.modules[alias.asname or alias.name.partition(".")[0]] = alias.name
            case ast.ImportFrom(names=names):
                self.names.update(alias.asname or alias.name for alias in names)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
                self.names.add(name)
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                self.names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                self.names.add(name)
            case ast.Call(func=ast.Name(id="open")):
                self.called.add(id(node.func))
            case ast.Call(func=ast.Name(id="print" | "len") | ast.Attribute(attr="join"), args=arguments):
                self.called.update(id(argument) for argument in arguments)
            case ast.For(iter=iterated) | ast.comprehension(iter=iterated):
                self.called.add(id(iterated))

    def _refuse(self, problem: str) -> None:
        self.judged.problem = self.judged.problem or f"{problem}; put the code into a file of the workspace"

    def _check(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    self._module(alias.name)
            case ast.ImportFrom(module=module, names=names, level=level):
                self._import_from(module or "", [alias.name for alias in names], level)
            case ast.Name(id=name):
                self._name(name)
                if name == "open" and id(node) not in self.called:
                    self._refuse("what the code opens is not known")
            case ast.Attribute():
                self._attribute(node)
            case ast.Call(func=ast.Name(id="open")):
                self._open(node)
            case ast.FunctionDef(decorator_list=decorators) | ast.ClassDef(decorator_list=decorators):
                if (node.name.startswith("__") and node.name not in ("__init__", "__repr__", "__str__")) or decorators:
                    self._refuse("a special method or a decorator is not looked into")
            case ast.AsyncFunctionDef() | ast.Await() | ast.Match():
                self._refuse("this kind of statement is not looked into")

    def _module(self, name: str) -> None:
        top = name.partition(".")[0]
        if top in _STDLIB and name == top:
            return
        inner = name.split(".")[1:]
        if (
            top in sys.stdlib_module_names
            or top in REFUSED_MODULES
            or any(part in _MODULE_NAMES or part.startswith("_") for part in [top, *inner])
        ):
            self._refuse(f"the module {name} can do more than can be judged")

    def _import_from(self, module: str, names: list[str], level: int) -> None:
        self._module(module)
        allowed = _STDLIB.get(module)
        for name in names:
            hidden = name.startswith("_") and name != "__version__" and module != "__future__"
            listed = allowed is None or allowed is _ALL or name in allowed
            inner = (allowed is None or allowed is _ALL) and (name in _MODULE_NAMES or name in _METHODS_REFUSED)
            path = (module, name) == ("sys", "path")
            if level or hidden or name == "*" or not listed or inner or path:
                self._refuse(f"{name} of {module or 'a package'} is not looked into")

    def _name(self, name: str) -> None:
        if name not in _BUILTINS and name not in self.names and name not in self.modules:
            self._refuse(f"the name {name} can run code, or is not known")

    def _attribute(self, node: ast.Attribute) -> None:
        name = node.attr
        if name.startswith("_") and name not in ("__version__", "__file__", "__name__", "__doc__"):
            self._refuse(f"the attribute {name} reaches into an object")
            return
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            module = self.modules[node.value.id]
            allowed = _STDLIB.get(module)
            if allowed is not None:
                shown_only = (module, name) != ("sys", "path") or id(node) in self.called
                listed = name in allowed or (allowed is _ALL and name not in sys.stdlib_module_names)
                if not (listed or name.startswith("__")) or not shown_only or isinstance(node.ctx, ast.Store):
                    self._refuse(f"{module}.{name} is not looked into")
                return
        if name in _METHODS_REFUSED or name in _MODULE_NAMES or name.startswith(("exec", "spawn", "popen", "posix_")):
            self._refuse(f"the attribute {name} may run a program")

    def _open(self, node: ast.Call) -> None:
        arguments = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
        arguments += [
            keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            for keyword in node.keywords
            if keyword.arg in ("mode", "file", None)
        ]
        if not arguments or not isinstance(arguments[0], str) or len(arguments) > 2:
            self._refuse("what the code opens is not known")
            return
        mode = arguments[1] if len(arguments) > 1 else "r"
        if not isinstance(mode, str) or any(keyword.arg == "opener" for keyword in node.keywords):
            self._refuse("how the code opens a file is not known")
            return
        (self.judged.written if set(mode) & set("wax+") else self.judged.read).append(arguments[0])
