"""Information about the machine and the packages for a bug report, without personal data.

It contains no paths, host names or user names. A package is imported only if its metadata is not enough.
"""
from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from detkit import __version__
from detkit.threads import cpu_quota, usable_cpus

PACKAGES = ('torch', 'torchvision', 'mmengine', 'numpy', 'pycocotools', 'faster-coco-eval', 'albumentations', 'lmdb',
            'optuna', 'pillow', 'matplotlib', 'scipy', 'onnx', 'onnxruntime', 'tensorboard')
OPENCVS = ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless')
CPU_FLAGS = ('avx2', 'avx512f', 'avx512_vnni', 'avx_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8', 'bf16', 'asimddp')
VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'CUDA_VISIBLE_DEVICES', 'CUDA_LAUNCH_BLOCKING',
             'NCCL_DEBUG', 'PYTORCH_CUDA_ALLOC_CONF', 'CUBLAS_WORKSPACE_CONFIG')


def collect_env() -> dict[str, str]:
    """Return a dict of topic -> value, in the order of the report; for a missing or broken package, the value says so."""
    facts = {
        'detkit': f'{__version__}{commit()}',
        'python': f'{platform.python_version()} ({platform.python_implementation()}, '
                  f'{sys.maxsize.bit_length() + 1} bit)',
        'system': f'{platform.system()} {platform.release()}, {platform.machine()}{libc()}',
        'cpu': cpu(),
        'memory': memory(),
    }
    facts.update({name: installed(name) for name in PACKAGES})
    facts.update({'pytorch build': torch_build(), 'gpu': gpus(), 'opencv': opencv()})
    facts.update({f'${name}': os.environ[name] for name in VARIABLES if name in os.environ})
    return facts


def report() -> str:
    """Return ``collect_env`` as aligned lines."""
    facts = collect_env()
    width = max(map(len, facts))
    return '\n'.join(f'{topic:<{width}}  {fact}' for topic, fact in facts.items())


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return 'not installed'


def commit() -> str:
    """Return `` at COMMIT``, with ``+ changes`` for a modified checkout; '' for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / '.git').exists():
        return ''
    head = git(root, 'rev-parse', '--short=12', 'HEAD')
    if not head:
        return ' (checkout without commits)'
    return f" at {head}{' + changes' if git(root, 'status', '--porcelain', '--untracked-files=no') else ''}"


def git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(['git', '-C', str(root), *arguments], capture_output=True, text=True, timeout=10,
                              check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''


def libc() -> str:
    name, number = platform.libc_ver()
    return f', {name} {number}' if name else ''


def cpu() -> str:
    """Return the CPU's model, the number of usable cores, and the instruction sets that determine the speed of bf16 and INT8."""
    model, flags = '', set()
    if os.path.exists('/proc/cpuinfo'):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            key, _, value = line.partition(':')
            if key.strip() == 'model name' and not model:
                model = value.strip()
            if key.strip() in ('flags', 'Features') and not flags:
                flags = set(value.split())
    quota = cpu_quota()
    limit = f'limited to {quota:g} by a cgroup' if quota < usable_cpus() else ''
    features = ' '.join(flag for flag in CPU_FLAGS if flag in flags)
    bf16 = 'native bf16' if flags & {'avx512_bf16', 'amx_bf16', 'bf16'} else 'no native bf16' if flags else ''
    return ', '.join(part for part in (model or platform.processor() or platform.machine(), f'{usable_cpus()} cores usable',
                                       limit, features, bf16) if part)


def memory() -> str:
    try:
        pages, size = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return 'unknown'
    return f'{pages * size / 2**30:.0f} GiB'


def torch_build() -> str:
    try:
        import torch
    except Exception as error:   # a broken installation raises OSError, ImportError or RuntimeError; the report must continue
        return f'cannot be imported: {first_line(error)}'
    return (f"CUDA {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version() or 'none'}, "
            f'CPU kernels {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads')


def gpus() -> str:
    try:
        import torch
        if not torch.cuda.is_available():
            return 'none usable'
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception as error:   # drivers raise many types of errors, and the report should show them
        return f'cannot be asked: {first_line(error)}'
    return '; '.join(f'{g.name}, {g.total_memory / 2**30:.0f} GiB, sm_{g.major}{g.minor}' for g in found)


def opencv() -> str:
    """Return which distributions provide ``cv2``, and the version that is imported."""
    claims = [f'{name} {installed(name)}' for name in OPENCVS if installed(name) != 'not installed']
    try:
        import cv2
        window = next((line.split(':')[1].strip() for line in cv2.getBuildInformation().splitlines()
                       if line.strip().startswith('GUI:')), '')
        build = f"cv2 {cv2.__version__} ({'headless' if window in ('', 'NONE') else f'windows by {window}'})"
    except Exception as error:   # a missing libGL raises ImportError; mixed files of several distributions raise other errors
        build = f'cv2 cannot be imported: {first_line(error)}'
    clash = ''
    if len(claims) > 1:
        numbers = {claim.split()[1] for claim in claims}
        clash = '; both write one folder' + ('' if len(numbers) == 1 else ' and their versions differ: reinstall one')
    return f"{build}, from {' and '.join(claims) or 'no known distribution'}{clash}"


def first_line(error: BaseException) -> str:
    """Return type and first line of an error, without paths, which may contain user names."""
    text = (str(error).splitlines() or [''])[0]
    words = ['<path>' if '/' in word or '\\' in word else word for word in text.split()]
    return f"{type(error).__name__}: {' '.join(words)}"
