"""Read untrusted pickles as data: tensors, arrays and containers are restored, and no code in the file is called.

A checkpoint of MMDetection holds, in addition to tensors, mmengine's HistoryBuffer with bound functions and numpy scalars, which
``torch.load(weights_only=True)`` refuses. A pickle is a program of two steps: "look up this name" and "call it with these arguments".
Here names are looked up in a short list of data constructors. Any other name becomes a stand-in that ignores all calls; names that
only an attack needs raise an error.
"""
from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class UnsafeFile(ValueError):
    """The file would run code if the standard unpickler read it."""


# Modules whose functions affect the system. A normal checkpoint names none of them, except ``getattr`` of builtins.
HOSTILE_MODULES = frozenset("""
    os posix nt posixpath ntpath subprocess sys shutil socket pty ctypes importlib imp runpy code codeop commands webbrowser signal
    multiprocessing threading asyncio pathlib tempfile urllib http ftplib smtplib pickle marshal shelve timeit pdb bdb cProfile
    profile trace inspect gc io _io nturl2path operator functools types platform site builtins __builtin__
    """.split())
INERT_BUILTINS = frozenset({'getattr', 'object'})   # HistoryBuffer refers to its functions by getattr; stand-ins are enough for both

INERT_CLASSES = frozenset(f'{module}.{name}' for module in ('pathlib', 'pathlib._local')        # common in the settings of a training
                          for name in ('Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath'))


class StandIn:
    """Replaces an object of an unknown class: accepts every operation of the pickle and keeps only the state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> 'StandIn':
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> 'StandIn':
        return StandIn()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Pickles fill dict-like objects with this method."""

    def append(self, item: Any) -> None:
        """Pickles fill list-like objects with this method."""

    extend = add = append

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f'<left out: {type(self).__name__}>'


class StoredHistory(StandIn):
    """mmengine's HistoryBuffer: values and counts, without the pickled functions."""

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}

    def history(self) -> HistoryBuffer:
        values, counts = (self.state.get(k, ()) for k in ('_log_history', '_count_history'))
        return HistoryBuffer(np.asarray(values).tolist(), np.asarray(counts).tolist(), int(self.state.get('max_length', 1_000_000)))


def reconstructor(cls: Any, base: Any = None, state: Any = None) -> Any:
    """Replacement of ``copyreg._reconstructor``: return an instance of a stand-in class, for other classes a new stand-in."""
    return cls() if isinstance(cls, type) and issubclass(cls, StandIn) else StandIn()


def encode(text: str, encoding: str = 'latin1') -> bytes:
    """Replacement of ``_codecs.encode``, with which Python 2 and pickle protocol 2 write bytes; only latin1 is allowed."""
    if encoding not in ('latin1', 'latin-1'):
        raise UnsafeFile(f"asks for the codec '{encoding}'")
    return text.encode('latin1')


def numpy_array(cls: type, shape: tuple, kind: bytes) -> np.ndarray:
    """Replacement of ``numpy.core.multiarray._reconstruct``: return an empty array, whose state follows in the pickle."""
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def numpy_scalar(dtype: np.dtype, data: bytes = b'') -> Any:
    """Replacement of ``numpy.core.multiarray.scalar``: return a Python number."""
    return np.frombuffer(data, dtype)[0].item() if data and not dtype.hasobject else None


PLAIN = {f'builtins.{t.__name__}': t for t in (set, frozenset, dict, list, tuple, int, float, bool, str, bytes, bytearray, complex,
                                               slice, range)}
ALLOWED: dict[str, Any] = {
    **PLAIN, **{name.replace('builtins', '__builtin__'): t for name, t in PLAIN.items()},
    '__builtin__.unicode': str, '__builtin__.long': int,
    'collections.OrderedDict': collections.OrderedDict, 'collections.Counter': collections.Counter,
    'collections.defaultdict': lambda *args: collections.defaultdict(None, *args[1:]),
    '_codecs.encode': encode, 'copyreg._reconstructor': reconstructor, 'copy_reg._reconstructor': reconstructor,
    'torch._utils._rebuild_tensor': torch._utils._rebuild_tensor,
    'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
    'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
    'torch.Size': torch.Size, 'torch.device': torch.device, 'torch.nn.parameter.Parameter': torch.nn.Parameter,
    'torch.storage.UntypedStorage': torch.UntypedStorage, 'torch.storage.TypedStorage': torch.storage.TypedStorage,
    'mmengine.logging.history_buffer.HistoryBuffer': StoredHistory,
    'numpy.ndarray': np.ndarray, 'numpy.dtype': np.dtype,
    **{f'{core}.multiarray.{name}': function for core in ('numpy.core', 'numpy._core')
       for name, function in (('_reconstruct', numpy_array), ('scalar', numpy_scalar))},
}


class DataUnpickler(pickle._Unpickler):
    """An unpickler that only knows the names in ALLOWED.

    It extends the implementation in Python, because there the step that sets attributes can be checked: on a class or a function of detkit
    or torch, it would change the program. It is slow, but a checkpoint has few objects other than tensors.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        target = self.stack[-2]
        if not isinstance(target, (StandIn, dict, np.ndarray, np.dtype)):
            raise UnsafeFile(f'sets attributes of {target!r}, which has no place in a checkpoint. Do not trust this file')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        path = f'{module}.{name}'
        if path in ALLOWED:
            return ALLOWED[path]
        if module == 'torch' and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout, torch.memory_format)):
            return getattr(torch, name)
        if module == 'numpy.dtypes' and isinstance(getattr(np.dtypes, name, None), type):
            return getattr(np.dtypes, name)
        is_inert = path in INERT_CLASSES or module in ('builtins', '__builtin__') and name in INERT_BUILTINS
        if module.split('.')[0] in HOSTILE_MODULES and not is_inert:
            raise UnsafeFile(f"names '{path}', which has no place in a checkpoint: it would run code. Do not trust this file; if you "
                             'made it, --trust-checkpoint loads it')
        return type(name.rpartition('.')[2], (StandIn,), {})


class PickleModule:
    """The interface that ``torch.load`` needs of its ``pickle_module``."""

    __name__ = 'detkit.engine.unpickle'
    Unpickler = DataUnpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: BinaryIO, **kwargs: Any) -> Any:
        return DataUnpickler(file, **kwargs).load()


def refuse_programs(path: str | Path) -> None:
    """Raise UnsafeFile for a TorchScript archive, which ``torch.load`` would pass to ``torch.jit``."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(n.endswith('/constants.pkl') for n in archive.namelist()):
                raise UnsafeFile('is a TorchScript program, not a checkpoint')


def load_as_data(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Return what ``torch.save`` wrote to ``path``, without running code in it.

    Raises:
        UnsafeFile: the file names functions that affect the system, or is a TorchScript program.
    """
    refuse_programs(path)
    return torch.load(path, map_location=map_location, pickle_module=PickleModule, weights_only=False)
